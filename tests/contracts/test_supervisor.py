"""supervisord keeps what it is told alive, changes what changed, and leaves nothing behind."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from dr_platform.runtime.local.configuration import UnusableProgram
from dr_platform.runtime.local.programs import Program
from dr_platform.runtime.local.supervisor import Supervisor
from dr_platform.runtime.port import RuntimeUnreachable
from dr_platform.state import StateDirectory
from tests.contracts.runtime import until

pytestmark = pytest.mark.contract


def sleeper(name: str, **changes: object) -> Program:
    program = Program(name, ("sleep", "1000"), {"COLOUR": "teal"}, start_s=1.0)
    return replace(program, **changes)  # type: ignore[arg-type]


@pytest.fixture
def state() -> Iterator[StateDirectory]:
    with tempfile.TemporaryDirectory(prefix="drp-s-") as folder:
        state = StateDirectory(Path(folder) / "state with blanks", Path(folder) / "run").make()
        yield state
        Supervisor(state).stop()


@pytest.fixture
def supervisor(state: StateDirectory) -> Supervisor:
    supervisor = Supervisor(state)
    supervisor.start({"MADE_BY": "a test"})
    return supervisor


def pids(supervisor: Supervisor) -> dict[str, int | None]:
    return {info.name: info.pid for info in supervisor.processes()}


def states(supervisor: Supervisor) -> dict[str, str]:
    return {info.name: info.state for info in supervisor.processes()}


def settled(supervisor: Supervisor) -> None:
    """Wait until every process has replaced the fork of supervisord and runs."""
    until(lambda: set(states(supervisor).values()) <= {"RUNNING"})


def alive(pid: int | None) -> bool:
    try:
        return pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def test_what_did_not_change_is_not_restarted(supervisor: Supervisor) -> None:
    supervisor.put([sleeper("one"), sleeper("two", replicas=2, first_number=7)])
    before = pids(supervisor)
    assert sorted(before) == ["one", "two.7", "two.8"]
    supervisor.put([sleeper("one"), sleeper("two", replicas=2, first_number=7)])
    assert pids(supervisor) == before


def test_only_what_changed_is_restarted(supervisor: Supervisor) -> None:
    supervisor.put([sleeper("one"), sleeper("two")])
    settled(supervisor)
    before = pids(supervisor)
    supervisor.put([sleeper("one", environment={"COLOUR": "red"})])
    until(lambda: pids(supervisor)["one"])
    after = pids(supervisor)
    assert after["two"] == before["two"]
    assert after["one"] != before["one"]
    until(lambda: psutil.Process(pids(supervisor)["one"]).environ().get("COLOUR") == "red")


def test_more_or_fewer_replicas_leave_the_others_alone(supervisor: Supervisor) -> None:
    supervisor.put([sleeper("svc", first_number=7)])
    settled(supervisor)
    first = pids(supervisor)["svc.7"]
    supervisor.put([sleeper("svc", first_number=7, replicas=3)])
    until(lambda: len([pid for pid in pids(supervisor).values() if pid]) == 3)
    supervisor.put([sleeper("svc", first_number=7), sleeper("svc", first_number=9)])
    assert sorted(pids(supervisor)) == ["svc.7", "svc.9"]
    assert pids(supervisor)["svc.7"] == first


def test_a_program_that_was_stopped_or_ended_is_started_by_the_next_put(supervisor: Supervisor) -> None:
    supervisor.put([sleeper("one")])
    settled(supervisor)
    supervisor.stop_program("one")
    assert states(supervisor) == {"one": "STOPPED"}
    supervisor.put([sleeper("one")])
    until(lambda: states(supervisor) == {"one": "RUNNING"})


def test_a_removed_program_is_stopped_and_forgotten(supervisor: Supervisor) -> None:
    supervisor.put([sleeper("one"), sleeper("two")])
    settled(supervisor)
    pid = pids(supervisor)["one"]
    supervisor.remove(["one", "never-heard-of"])
    assert list(pids(supervisor)) == ["two"]
    assert not alive(pid)
    assert supervisor.programs() == ("two",)


def test_a_refused_program_changes_nothing_for_the_others(supervisor: Supervisor, state: StateDirectory) -> None:
    supervisor.put([sleeper("one")])
    before = pids(supervisor)
    with pytest.raises(UnusableProgram):
        supervisor.put([sleeper("two"), sleeper("three", stop_signal="NONSENSE")])
    assert pids(supervisor) == before
    assert supervisor.programs() == ("one",)


def test_a_file_that_supervisord_cannot_read_is_set_aside_at_the_start(state: StateDirectory) -> None:
    supervisor = Supervisor(state)
    programs = state.supervisor / "programs"
    programs.mkdir()
    (programs / "half.conf").write_text("[program:half]\nautosta")
    (programs / "binary.conf").write_bytes(b"\xff\xfe\x00")
    supervisor.start({})
    supervisor.put([sleeper("one")])
    assert list(pids(supervisor)) == ["one"]
    assert (programs / "half.malformed").exists()


def test_many_callers_at_once_all_get_their_programs(supervisor: Supervisor, state: StateDirectory) -> None:
    def put(number: int) -> None:
        Supervisor(state).put([sleeper(f"svc-{number}")])

    with ThreadPoolExecutor(max_workers=12) as pool:
        list(pool.map(put, range(12)))
    assert sorted(pids(supervisor)) == sorted(f"svc-{n}" for n in range(12))
    assert all(pids(supervisor).values())


def test_a_process_that_was_only_just_started_is_stopped_quickly(supervisor: Supervisor) -> None:
    supervisor.put([sleeper("one", stop_s=30.0)])
    began = time.monotonic()
    supervisor.remove(["one"])
    assert time.monotonic() - began < 5


def test_a_stop_ends_children_of_children_and_what_ignores_signals_within_its_time(state: StateDirectory) -> None:
    supervisor = Supervisor(state)
    supervisor.start({})
    script = """if True:
        import signal, subprocess, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
        print("up", flush=True)
        time.sleep(1000)
        """
    file = state.root / "stubborn.py"
    file.write_text(script)
    supervisor.put([sleeper("stubborn", argv=(sys.executable, str(file)), stop_s=1.0)])
    log = state.logs / "stubborn.log"
    until(lambda: log.exists() and "up" in log.read_text())
    parent = psutil.Process(pids(supervisor)["stubborn"])
    family = [parent, *parent.children(recursive=True)]
    assert len(family) == 2
    supervisor.stop()
    assert not any(alive(process.pid) for process in family)
    assert not supervisor.running()


def test_programs_stop_in_the_opposite_order_of_their_priorities(state: StateDirectory) -> None:
    supervisor = Supervisor(state)
    supervisor.start({})
    supervisor.put(
        [sleeper("database", priority=10), sleeper("svc-a"), sleeper("svc-b"), sleeper("router", priority=900)]
    )
    settled(supervisor)
    lines: list[str] = []
    supervisor.stop(lines.append)
    assert lines == ["stopping router", "stopping svc-a, svc-b", "stopping database"]


def test_after_a_stop_a_start_begins_with_no_program(supervisor: Supervisor) -> None:
    supervisor.put([sleeper("one")])
    supervisor.stop()
    supervisor.stop()
    with pytest.raises(RuntimeUnreachable):
        supervisor.processes()
    supervisor.start({})
    assert supervisor.processes() == ()


def test_programs_get_the_given_environment_and_no_stranger_of_the_callers(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_CLOUD_TOKEN", "do not hand on")
    supervisor = Supervisor(state)
    supervisor.start({"MADE_BY": "a test"})
    supervisor.put([sleeper("one")])
    settled(supervisor)
    environment = psutil.Process(pids(supervisor)["one"]).environ()
    assert environment["MADE_BY"] == "a test"
    assert environment["DRP_STATE_ROOT"] == str(state.root)
    assert "SOME_CLOUD_TOKEN" not in environment


def test_a_hung_supervisord_is_replaced_by_the_next_start(state: StateDirectory) -> None:
    supervisor = Supervisor(state)
    supervisor.start({})
    supervisor.put([sleeper("one")])
    settled(supervisor)
    hung = supervisor.own_pid()
    assert hung
    psutil.Process(hung).suspend()
    supervisor.start({})
    assert not alive(hung)
    until(lambda: states(supervisor) == {"one": "RUNNING"})
