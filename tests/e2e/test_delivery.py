"""Guards delivery as a person meets it: a good version arrives, a bad one leaves by itself and is accounted for."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request

import pytest

from tests.e2e.platform_process import Command, await_true

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

SERVICE = "relationship-mgmt"


def shown(platform: Command) -> dict:
    return platform.json("rollout", "show", SERVICE)


def test_a_good_version_is_promoted_and_a_rollback_returns_to_the_one_before(platform: Command) -> None:
    before = shown(platform)["stable"]
    promoted = platform.json("deploy", SERVICE, "--version", "7.0.0", "--strategy", "blue-green")
    assert (promoted["outcome"], promoted["from"], promoted["to"]) == ("promoted", before["version"], "7.0.0")
    now = shown(platform)
    assert (now["phase"], now["stable"]["version"], now["candidate"]) == ("stable", "7.0.0", None)
    assert now["weights"][now["stable"]["slot"]] == 100
    platform.ok("materialize", f"services/{SERVICE}")  # a deployed version stays when it is brought up again
    assert shown(platform)["stable"]["version"] == "7.0.0"
    back = platform.json("rollback", SERVICE, "--reason", "a test")
    assert (back["outcome"], back["to"]) == ("rolled_back", before["version"])
    assert shown(platform)["stable"]["version"] == before["version"]


def test_a_bad_version_is_reverted_by_itself_and_leaves_an_incident(platform: Command) -> None:
    before = shown(platform)["stable"]
    platform.ok("fault", "inject", SERVICE, "--version", "7.1.0", "--error-ratio", "1", "--after", "12s")
    done = platform.run("deploy", SERVICE, "--version", "7.1.0", "--strategy", "blue-green", "--json")
    assert done.returncode == 1, done.stderr
    assert '"outcome": "rolled_back"' in done.stdout
    assert shown(platform)["stable"] == before
    platform.ok("fault", "clear")

    def incidents() -> list[dict]:
        return [i for i in platform.json("incident", "list") if i["service"] == SERVICE and i["status"] == "mitigated"]

    await_true("the incident is told to its end", incidents, 30)
    (incident,) = incidents()
    assert incident["trigger"] in ("errors", "health")
    assert incident["failed_requests"] > 0
    assert incident["restored_s"] >= incident["detected_s"] >= 0
    assert "Requests failed" in platform.ok("incident", "show", incident["id"], "--markdown")


class Caller:
    """Somebody who asks an address all the time: every status, with what it said about coming back."""

    def __init__(self, url: str) -> None:
        self.answers: list[tuple[int, str | None]] = []
        self._url, self._stop = url, threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Caller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._stop.wait(0.1):
            try:
                with urllib.request.urlopen(self._url, timeout=5) as answer:
                    self.answers.append((answer.status, None))
            except urllib.error.HTTPError as refused:
                self.answers.append((refused.code, refused.headers["Retry-After"]))


def test_an_emergency_closes_the_service_goes_back_opens_it_and_ends_with_the_signed_assessment(
    platform: Command,
) -> None:
    before = shown(platform)["stable"]
    assert platform.json("deploy", SERVICE, "--version", "7.2.0", "--strategy", "blue-green")["outcome"] == "promoted"
    address = next(s["address"] for s in platform.json("status")["services"] if s["name"] == SERVICE)
    call = ("emergency", SERVICE, "--security", "--reason", "a test of the procedure")
    with Caller(f"{address}/no-such-page") as caller:
        handled = platform.json(*call)
        await_true("it answers again", lambda: caller.answers[-1] == (404, None), 20)
    assert set(caller.answers) == {(404, None), (503, "1800")}
    steps = {step["step"]: step["result"] for step in handled["steps"]}
    assert "went back" in steps["mitigate"]
    assert "open again" in steps["maintenance-off"]
    assert shown(platform)["stable"] == before
    assert (handled["status"], "164.402" in handled["waits"]) == ("mitigated", True), (
        "a breach is for a person to judge"
    )
    factors = ("--nature", "none", "--person", "nobody", "--acquired", "nothing", "--mitigation", "it went back")
    platform.ok("incident", "assess", handled["incident"], "--conclusion", "low_probability", *factors)
    ended = platform.json(*call)
    assert (ended["incident"], ended["status"], ended["waits"]) == (handled["incident"], "resolved", None)
    # A sensor may have seen the service without traffic for the moment in which versions changed places.
    await_true("nothing is red", lambda: platform.json("status")["assets"]["failing"] == [], 60)
