"""Processes of this platform that nobody supervises any more, and ending them.

Here: recognising our own processes by record and by mark, and ending them within bounds. Not here:
when that is right (``supervisor`` at start and stop, ``keeper`` after a crash).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dr_platform.state import StateDirectory

if TYPE_CHECKING:
    import psutil

STATE_MARK = "DRP_STATE_ROOT"
JOB_MARK = "DRP_JOB"

_KILL_S = 5.0
_POLL_S = 0.02


@dataclass(frozen=True)
class KnownProcess:
    """A process beyond confusion: pid numbers are used again, start times with them are not."""

    pid: int
    started: float


def record_path(state: StateDirectory) -> Path:
    return state.supervisor / "processes.json"


def read_record(state: StateDirectory) -> dict[str, KnownProcess]:
    """Group name to process, as last recorded; empty where the record is missing or malformed."""
    try:
        found = json.loads(record_path(state).read_text(encoding="utf-8"))
        return {str(name): KnownProcess(int(at["pid"]), float(at["started"])) for name, at in found.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def write_record(state: StateDirectory, known: Mapping[str, KnownProcess]) -> None:
    path = record_path(state)
    temporary = path.with_suffix(".new")
    body = {name: {"pid": at.pid, "started": at.started} for name, at in known.items()}
    temporary.write_text(json.dumps(body), encoding="utf-8")
    temporary.replace(path)


def identify(pid: int) -> KnownProcess | None:
    """The process with this pid now, if there is one."""
    import psutil

    try:
        return KnownProcess(pid, psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def still_runs(known: KnownProcess) -> bool:
    return _same(known) is not None


def has_argument(pid: int, argument: str) -> bool:
    """Whether the process with this pid was started with this argument."""
    import psutil

    try:
        return argument in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False


def kill(known: KnownProcess) -> None:
    """End it at once, and wait until it is gone."""
    if (process := _same(known)) is not None:
        _signal(process, signal.SIGKILL)
        _await_ends([process], _KILL_S)


def find_leftovers(state: StateDirectory, known: Iterable[KnownProcess], socket: Path) -> list[psutil.Process]:
    """Every process of this state root: the recorded ones with all they started, and all that
    carry its marks. The caller, its parents and supervisord itself are never among them.

    The record is needed because some servers overwrite their environment; the marks, because a
    process may have been started after the last record.
    """
    import psutil

    found: dict[int, psutil.Process] = {}
    for process in (p for k in known if (p := _same(k)) is not None):
        for member in [process, *_children(process)]:
            found[member.pid] = member
    for process in psutil.process_iter():
        if process.pid not in found and _is_marked(process, str(state.root), f"unix://{socket}"):
            found[process.pid] = process
    spared = {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    return [process for pid, process in found.items() if pid not in spared]


def end(processes: list[psutil.Process], signals: Mapping[int, str], grace_s: float = 8.0) -> list[psutil.Process]:
    """Ask with each pid's own signal (TERM where none is named), wait at most ``grace_s``, KILL;
    returns those that even that did not end."""
    for process in processes:
        _signal(process, signal.Signals[f"SIG{signals.get(process.pid, 'TERM')}"])
        # A stopped process takes no TERM until it goes on.
        _signal(process, signal.SIGCONT)
    for process in _await_ends(processes, grace_s):
        _signal(process, signal.SIGKILL)
    return _await_ends(processes, _KILL_S)


def _await_ends(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Those that still run after that time. One that has ended may stay in the table until its
    parent collects it, which in some containers nobody does."""
    deadline = time.monotonic() + timeout_s
    alive = processes
    while (alive := [process for process in alive if _alive(process)]) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return alive


def _alive(process: psutil.Process) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    import psutil

    with contextlib.suppress(psutil.Error):
        process.send_signal(number)


def _same(known: KnownProcess) -> psutil.Process | None:
    import psutil

    try:
        process = psutil.Process(known.pid)
        # The kernel's start time has 10 ms steps, seen through a boot time that may be corrected.
        same = abs(process.create_time() - known.started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    return process if same else None


def _children(process: psutil.Process) -> list[psutil.Process]:
    import psutil

    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _is_marked(process: psutil.Process, root: str, server: str) -> bool:
    """Ours are started by our supervisord or as a job; a person's shell may carry the root alone."""
    import psutil

    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        environment = process.environ()
    except (psutil.Error, OSError):
        return False
    if environment.get(STATE_MARK) != root:
        return False
    return environment.get("SUPERVISOR_SERVER_URL") == server or JOB_MARK in environment
