"""The client against a real webserver and code location of a small catalog, with nothing of the platform running."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dr_platform.dagster_client import DagsterClient, DagsterRefused, DagsterUnreachable, RunEvent, UnknownSelection
from dr_platform.runtime.local.ports import listening
from tests.catalogs import generated
from tests.contracts.runtime import until

pytestmark = [pytest.mark.contract, pytest.mark.timeout(90)]

ROOT = Path(__file__).parents[2]
PORT = 30_911
INSTANCE = """
telemetry: {enabled: false}
run_coordinator: {module: dagster.core.run_coordinator, class: DefaultRunCoordinator}
"""
URL = f"http://127.0.0.1:{PORT}"


@dataclass
class Webserver:
    """Dagster without a daemon: runs start at once."""

    home: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = [sys.executable, "-m", "dagster_webserver", "--host", "127.0.0.1", "--port", str(PORT)]
        argv += ["--workspace", str(ROOT / "workspace.yaml")]
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                argv, env=self.environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)


@pytest.fixture(scope="module")
def webserver() -> Iterator[Webserver]:
    home = Path(tempfile.mkdtemp(prefix="drp-c-"))
    catalog = generated(home, 3)
    (home / "dagster.yaml").write_text(INSTANCE, encoding="utf-8")
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("DRP_", "DAGSTER_"))}
    variables |= {"DAGSTER_HOME": str(home), "PYTHONPATH": str(ROOT)}
    variables |= {"DRP_ENVIRONMENT": "staging", "DRP_RUNTIME": "local"}
    variables |= {"DRP_CATALOG": str(catalog), "DRP_STATE": str(home / "state")}
    webserver = Webserver(home, variables)
    webserver.start()
    try:
        DagsterClient(URL).wait_until_ready(90)
        yield webserver
    finally:
        webserver.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def client(webserver: Webserver) -> DagsterClient:
    assert webserver.process is not None
    return DagsterClient(URL)


def test_a_run_is_followed_to_its_end_with_the_names_of_the_catalog(client: DagsterClient) -> None:
    run = client.launch_job("bring_up", "services/service-0000", tags={"dr-platform/actor": "somebody"})
    events = list(client.follow(run))
    assert RunEvent("started", "services/service-0000") in events
    (failure,) = [event for event in events if event.kind == "failure"]
    assert failure.asset == "services/service-0000"
    assert failure.text
    assert events[-1] == RunEvent("ended", passed=False, text="FAILURE")
    assert client.summary().failed == 1


def test_checks_that_the_code_location_does_not_know_are_refused_and_not_left_out(client: DagsterClient) -> None:
    with pytest.raises(DagsterRefused):
        client.launch_checks([("services/service-0001", "healthy"), ("services/nobody", "healthy")])


def test_a_run_of_checks_alone_tells_each_verdict_and_fails_nothing_else(client: DagsterClient) -> None:
    wanted = {("services/service-0001", check) for check in ("healthy", "hipaa", "smoke")}
    events = list(client.follow(client.launch_checks(wanted)))
    found = {(event.asset, event.check): event for event in events if event.kind == "check"}
    assert set(found) == wanted
    assert all(event.passed is False and event.text.startswith("could not look") for event in found.values())
    assert all(event.measurements["answer"] == "unknown" for event in found.values())
    assert not [event for event in events if event.kind in ("materialized", "failure")]
    assert events[-1] == RunEvent("ended", passed=True, text="SUCCESS")
    assert {f"services/service-0001 {check}" for check in ("healthy", "hipaa")} <= set(client.summary().failing)
    assert client.summary().materialized == 0


def test_an_unknown_asset_is_refused_with_the_layers_there_are(client: DagsterClient) -> None:
    with pytest.raises(UnknownSelection, match="services/nobody: no such asset or layer") as refused:
        client.launch_job("bring_up", "services/nobody")
    assert "databases, infrastructure, knowledge, schema, services" in str(refused.value)


def test_part_of_a_name_is_not_that_name(client: DagsterClient) -> None:
    with pytest.raises(UnknownSelection):
        client.launch_job("bring_up", "services/service-00")


def test_an_unknown_job_is_refused(client: DagsterClient) -> None:
    with pytest.raises(DagsterRefused):
        client.launch_job("nothing_of_the_kind")


def test_sensors_and_schedules_are_on_from_the_start(client: DagsterClient) -> None:
    assert client.stopped_automation() == ()


def test_a_proxy_of_the_shell_is_not_asked_about_loopback(
    webserver: Webserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nobody listens on the discard port
    assert webserver.process is not None
    assert DagsterClient(URL).stopped_automation() == ()


def test_a_webserver_that_is_away_for_a_moment_only_delays(webserver: Webserver) -> None:
    client = DagsterClient(URL)
    following = client.follow(
        client.launch_checks([("services/service-0002", check) for check in ("healthy", "hipaa")])
    )
    first = next(following)
    webserver.stop()
    until(lambda: not listening([PORT]))
    with pytest.raises(DagsterUnreachable, match="does not answer"):
        client.stopped_automation()
    webserver.start()
    events = [first, *following]
    assert events[-1] == RunEvent("ended", passed=True, text="SUCCESS")
    assert len([event for event in events if event.kind == "check"]) == 2
    client.wait_until_ready(90)  # whoever is ended while starting may not hear it, where a shell ignores interrupts


def test_nobody_there_is_said_with_what_to_do() -> None:
    with pytest.raises(DagsterUnreachable) as unreachable:
        DagsterClient("http://127.0.0.1:9").wait_until_ready(0.0)
    assert "drp up" in unreachable.value.next_step
