"""Whatever ends, the platform is whole again without anybody's help, and says what happened."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dr_platform.runtime.local.keeper import keeper_program
from dr_platform.runtime.local.liveness import Watched, write_watched
from dr_platform.runtime.local.ports import listening
from dr_platform.runtime.local.programs import Program
from dr_platform.runtime.local.supervisor import Supervisor
from dr_platform.runtime.port import RuntimeUnreachable
from dr_platform.state import StateDirectory
from tests.contracts.runtime import until

pytestmark = pytest.mark.contract

REPLICA = Path(__file__).parent / "replica.py"
PORT = 30_580


class Kept:
    """supervisord with a keeper and a service of two replicas."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = StateDirectory(folder / "state", folder / "run").make()
        self.supervisor = Supervisor(self.state)
        environment = {"VERSION": "1", "SWITCHES": str(folder)}
        argv = (sys.executable, "-S", str(REPLICA), "%(process_num)d")
        self.service = Program("service-blue", argv, environment, replicas=2, first_number=PORT, start_s=1.0)

    def bring_up(self) -> None:
        self.supervisor.start({"MADE_BY": "a test"})
        self.supervisor.put([keeper_program(self.state), self.service])
        self.until_whole()

    def pids(self) -> dict[str, int | None]:
        return {info.name: info.pid for info in self.supervisor.processes()}

    def whole(self) -> bool:
        try:
            states = {info.name: info.state for info in self.supervisor.processes()}
        except RuntimeUnreachable:
            return False
        running = ["keeper", f"service-blue.{PORT}", f"service-blue.{PORT + 1}"]
        return all(states.get(name) == "RUNNING" for name in running) and len(listening([PORT, PORT + 1])) == 2

    def until_whole(self) -> None:
        until(self.whole, 60)

    def events(self) -> list[dict[str, object]]:
        if not self.state.events.exists():
            return []
        return [json.loads(line) for line in self.state.events.read_text(encoding="utf-8").splitlines()]

    def happened(self, program: str, event: str) -> bool:
        return any((found["program"], found["event"]) == (program, event) for found in self.events())

    def processes(self) -> list[psutil.Process]:
        """Everything that was started for this state root, by the mark in its environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if alive(process.pid) and process.environ().get("DRP_STATE_ROOT") == str(self.state.root):
                    found.append(process)
            except psutil.Error:
                continue
        return found


def alive(pid: int | None) -> bool:
    """A process that has ended may stay in the table until somebody collects it."""
    try:
        return pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@pytest.fixture
def kept() -> Iterator[Kept]:
    with tempfile.TemporaryDirectory(prefix="drp-k-") as folder:
        platform = Kept(Path(folder))
        try:
            platform.bring_up()
            yield platform
        finally:
            platform.supervisor.stop()
        assert platform.processes() == []


def test_a_killed_supervisord_is_started_again_with_everything_and_no_orphan_is_left(kept: Kept) -> None:
    before = kept.pids()
    supervisord = kept.supervisor.own_pid()
    assert supervisord
    os.kill(supervisord, signal.SIGKILL)
    until(lambda: kept.happened("supervisord", "restarted"))
    kept.until_whole()
    after = kept.pids()
    until(lambda: not any(alive(pid) for pid in before.values()))  # the old keeper ends last
    assert set(after) == set(before)
    assert len(kept.processes()) == 4
    child = psutil.Process(after[f"service-blue.{PORT}"])
    assert child.environ()["MADE_BY"] == "a test"


def test_a_killed_keeper_comes_back_and_still_heals(kept: Kept) -> None:
    keeper = kept.pids()["keeper"]
    assert keeper
    os.kill(keeper, signal.SIGKILL)
    until(lambda: kept.pids()["keeper"] not in (None, keeper) and kept.whole())
    supervisord = kept.supervisor.own_pid()
    assert supervisord
    os.kill(supervisord, signal.SIGKILL)
    until(lambda: kept.happened("supervisord", "restarted"))
    kept.until_whole()


def test_the_end_and_the_restart_of_a_replica_are_written_down(kept: Kept) -> None:
    pid = kept.pids()[f"service-blue.{PORT}"]
    assert pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: kept.happened("service-blue", "restarted"))
    ended = next(event for event in kept.events() if event["event"] == "ended")
    assert (ended["process"], ended["pid"]) == (f"service-blue.{PORT}", pid)
    assert "SIGKILL" in str(ended["detail"])


def test_a_stop_is_not_undone(kept: Kept) -> None:
    kept.supervisor.stop()
    assert kept.processes() == []
    assert not kept.supervisor.running()
    assert not kept.happened("supervisord", "restarted")


def test_when_both_watchers_were_killed_the_next_start_ends_what_they_left(kept: Kept) -> None:
    before = kept.pids()
    supervisord, keeper = kept.supervisor.own_pid(), before["keeper"]
    assert supervisord
    assert keeper
    os.kill(keeper, signal.SIGSTOP)
    os.kill(supervisord, signal.SIGKILL)
    os.kill(keeper, signal.SIGKILL)
    assert alive(before[f"service-blue.{PORT}"])
    kept.supervisor.start({"MADE_BY": "a test"})
    kept.until_whole()
    assert not any(map(alive, before.values()))


def test_a_stop_with_a_dead_supervisord_ends_what_it_left(kept: Kept) -> None:
    supervisord, keeper = kept.supervisor.own_pid(), kept.pids()["keeper"]
    assert supervisord
    assert keeper
    os.kill(keeper, signal.SIGSTOP)
    os.kill(supervisord, signal.SIGKILL)
    os.kill(keeper, signal.SIGKILL)
    kept.supervisor.stop()
    assert kept.processes() == []


def test_a_program_that_was_given_up_is_tried_again_until_it_works(kept: Kept) -> None:
    environment = {"VERSION": "2", "SWITCHES": str(kept.folder)}
    switch = kept.folder / "crash-2"
    switch.touch()
    argv = (sys.executable, "-S", str(REPLICA), "%(process_num)d")
    kept.supervisor.put([Program("late", argv, environment, first_number=PORT + 5, start_s=10.0)])
    until(lambda: kept.happened("late", "failed"), 60)
    switch.unlink()
    until(lambda: listening([PORT + 5]), 40)


def test_a_replica_that_hangs_is_ended_and_started_again(kept: Kept) -> None:
    group = f"service-blue.{PORT}"
    pid = kept.pids()[group]
    assert pid
    write_watched(kept.state, "service-blue", [Watched(group, PORT, "/health/live", 0.0, 0.5, 0.5, 3)])
    os.kill(pid, signal.SIGSTOP)
    until(lambda: kept.happened("service-blue", "unresponsive"), 30)
    until(lambda: kept.pids()[group] not in (None, pid) and kept.whole(), 40)
