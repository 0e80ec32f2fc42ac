"""Dagster's processes as `drp up` describes them: loopback or socket only, no secrets, restarted just when needed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from dr_platform.infrastructure.orchestrator import (
    CODE_LOCATION,
    DAEMON,
    WEBSERVER,
    code_socket,
    programs,
    write_configuration,
)
from dr_platform.platform import Platform
from dr_platform.runtime.local.programs import Program
from dr_platform.state import StateDirectory
from tests.catalogs import generated
from tests.contracts.runtime import until
from tests.embedded_programs import running, temporary_state

pytestmark = pytest.mark.contract

URL = "postgresql+psycopg2://dagster@/dagster?host=/nowhere"


@pytest.fixture
def state() -> Iterator[StateDirectory]:
    with temporary_state() as state:
        write_configuration(state, URL)
        yield state


def described(state: StateDirectory, definitions: str = "d1", **environment: str) -> dict[str, Program]:
    return {program.name: program for program in programs(state, environment, 1000, definitions)}


def test_the_three_processes_start_in_order_and_listen_on_loopback_or_a_socket(state: StateDirectory) -> None:
    found = described(state)
    assert sorted(found, key=lambda name: found[name].priority) == [CODE_LOCATION, WEBSERVER, DAEMON]
    webserver = found[WEBSERVER].argv
    assert webserver[webserver.index("--host") + 1] == "127.0.0.1"
    assert webserver[webserver.index("--port") + 1] == "4000"
    code = found[CODE_LOCATION].argv
    assert code[code.index("--socket") + 1] == str(code_socket(state))
    assert len(str(code_socket(state))) < 108  # where unix sockets end
    assert "--port" not in code


def test_nothing_that_is_written_or_shown_by_ps_holds_a_secret(state: StateDirectory) -> None:
    texts = [file.read_text(encoding="utf-8") for file in state.dagster_home.glob("*.yaml")]
    for program in described(state, DRP_ENVIRONMENT="local").values():
        texts += [*program.argv, *program.environment.values()]
    assert not [text for text in texts if re.search(r"password|secret|token|://[^/]*:[^/]*@", text, re.IGNORECASE)]


def test_changed_definitions_start_the_code_location_alone_anew(state: StateDirectory) -> None:
    before, after = described(state, "d1"), described(state, "d2")
    assert {name for name in before if before[name] != after[name]} == {CODE_LOCATION}


def test_the_same_description_twice_starts_nothing_anew_and_another_configuration_starts_all(
    state: StateDirectory,
) -> None:
    before = described(state)
    write_configuration(state, URL)
    assert described(state) == before
    write_configuration(state, URL.replace("nowhere", "elsewhere"))
    assert all(described(state)[name] != before[name] for name in before)


def test_the_instance_waits_for_code_frees_slots_and_lets_no_sensor_stop_the_others(state: StateDirectory) -> None:
    written = yaml.safe_load((state.dagster_home / "dagster.yaml").read_text(encoding="utf-8"))
    queue = written["run_coordinator"]["config"]
    assert queue["max_user_code_failure_retries"] * queue["user_code_failure_retry_delay"] >= 60
    assert written["run_monitoring"]["enabled"] is True
    assert written["run_monitoring"]["free_slots_after_run_end_seconds"] > 0
    assert written["concurrency"]["pools"]["default_limit"] == 1
    assert written["sensors"]["use_threads"] is True
    assert written["schedules"]["use_threads"] is True
    assert written["telemetry"] == {"enabled": False}
    assert str(state.dagster_home) in written["compute_logs"]["config"]["base_dir"]


def test_the_code_location_loads_from_its_description_alone(state: StateDirectory, tmp_path: Path) -> None:
    """Whatever folder it is started in, and with no more environment than it is given."""
    catalog = generated(tmp_path, 2)
    platform = Platform.open("staging", catalog=catalog, state=state.root.parent, runtime="local")
    code = described(state, **platform.process_environment())[CODE_LOCATION]
    # Its store is the daemon's and the webserver's affair.
    (state.dagster_home / "dagster.yaml").write_text("telemetry: {enabled: false}\n", encoding="utf-8")
    ask = [sys.executable, "-m", "dagster", "api", "grpc-health-check", "--socket", str(code_socket(state))]
    with running(code, state) as process:
        until(lambda: code_socket(state).exists(), 60)
        until(lambda: subprocess.run(ask, capture_output=True, check=False, timeout=60).returncode == 0, 60)
        assert "Traceback" not in process.output
