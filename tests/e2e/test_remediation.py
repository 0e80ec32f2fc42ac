"""Guards self-healing and its bounds: what a new start heals is healed once, what it does not is handed to a person."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.platform_process import ATTEMPTS, Command, await_true

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

RUNS = """query($tag: String!) { runsOrError(filter: { tags: [{ key: "dr-platform/remediation", value: $tag }] }) {
  ... on Runs { results { runId status } } } }"""
ESCALATIONS = """query($path: [String!]!) { assetOrError(assetKey: { path: $path }) { ... on Asset {
  assetObservations(limit: 50) { metadataEntries { label } } } } }"""


def ask(platform: Command, query: str, variables: dict[str, Any]) -> dict[str, Any]:
    url = platform.json("status")["urls"]["dagster"]
    body = json.dumps({"query": query, "variables": variables}).encode()
    with urllib.request.urlopen(
        urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"}), timeout=30
    ) as answer:
        return json.load(answer)["data"]


def remediations(platform: Command, target: str) -> list[str]:
    """States of the runs that tried to mend the target."""
    return [run["status"] for run in ask(platform, RUNS, {"tag": target})["runsOrError"]["results"]]


def escalations(platform: Command, target: str) -> int:
    observed = ask(platform, ESCALATIONS, {"path": target.split("/")})["assetOrError"].get("assetObservations", [])
    return sum(any(e["label"] == "escalated" for e in o["metadataEntries"]) for o in observed)


def version_of(platform: Command, service: str) -> str:
    return next(s["version"] for s in platform.json("status")["services"] if s["name"] == service)


def is_ready(platform: Command, service: str) -> bool:
    return next(s["healthy"] for s in platform.json("status")["services"] if s["name"] == service)


@pytest.fixture(scope="module")
def injured(platform: Command) -> Iterator[None]:
    """Two services that fall ill at one time: the first is well after a new start, the second never."""
    for service, until in (("consent", ["--until-restart"]), ("emergency-access", [])):
        version = version_of(platform, service)
        platform.ok("fault", "inject", service, "--version", version, "--unready", *until)
    await_true("consent is seen to be unready", lambda: not is_ready(platform, "consent"), 15)
    yield
    platform.ok("fault", "clear")
    await_true(
        "services are well again", lambda: all(s["healthy"] for s in platform.json("status")["services"]), 120, every=2
    )


@pytest.mark.usefixtures("injured")
def test_what_a_new_start_heals_is_healed_by_exactly_one_materialisation(platform: Command) -> None:
    await_true("consent is ready again", lambda: is_ready(platform, "consent"), 90, every=2)
    await_true("its run has ended", lambda: remediations(platform, "services/consent") == ["SUCCESS"], 60, every=2)
    assert escalations(platform, "services/consent") == 0


@pytest.mark.usefixtures("injured")
def test_what_no_start_heals_uses_up_the_budget_and_calls_a_person_once(platform: Command) -> None:
    target = "services/emergency-access"
    await_true("a person is called", lambda: escalations(platform, target) == 1, 330, every=3)
    budget = remediations(platform, target)
    assert len(budget) == ATTEMPTS
    silence_ends = time.monotonic() + 12  # two ticks of both sensors
    await_true("the silence has lasted", lambda: time.monotonic() > silence_ends, 15)
    assert remediations(platform, target) == budget
    assert escalations(platform, target) == 1
    assert remediations(platform, "services/consent") == ["SUCCESS"]
