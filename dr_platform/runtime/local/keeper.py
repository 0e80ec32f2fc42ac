"""Watches supervisord, which watches everything else: ``python -m dr_platform.runtime.local.keeper``.

Here: healing what supervisord cannot (its own death, programs it gave up, replicas that hang) and
the record of what happened. Not here: what should run. It runs as a program of supervisord, which
restarts it; it restarts supervisord. Imports stay small, because it always runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from dr_platform.errors import PlatformError
from dr_platform.runtime.local import leftovers
from dr_platform.runtime.local.configuration import split_group
from dr_platform.runtime.local.journal import Journal, ProcessEvent
from dr_platform.runtime.local.liveness import SilenceCounter, Watched, answers, read_watched
from dr_platform.runtime.local.programs import Program
from dr_platform.runtime.local.supervisor import Supervisor
from dr_platform.state import StateDirectory

KEEPER_PROGRAM = "keeper"

_LOOK_S = 0.5
_EVENT_BYTES = 5_000_000
_FIRST_RETRY_S = 3.0
_LAST_RETRY_S = 60.0
_TERM_S = 5.0
_EVENT_WORDS = {"ended": "ended", "stopped": "stopped", "gave-up": "failed", "started": "started"}


def keeper_program(state: StateDirectory) -> Program:
    argv = (
        sys.executable,
        "-m",
        "dr_platform.runtime.local.keeper",
        "--root",
        str(state.root),
        "--run",
        str(state.run),
    )
    return Program(KEEPER_PROGRAM, argv, start_s=1.0, stop_s=3.0, priority=10)


class Retries:
    """When a program that was given up is tried again: after 3 s, then twice as long each time."""

    def __init__(self) -> None:
        self._waits: dict[str, float] = {}
        self._due: dict[str, float] = {}

    def gave_up(self, group: str, now: float) -> float:
        """Seconds until the next try."""
        wait = min(_LAST_RETRY_S, self._waits.get(group, _FIRST_RETRY_S / 2) * 2)
        self._waits[group], self._due[group] = wait, now + wait
        return wait

    def recovered(self, group: str) -> None:
        self._waits.pop(group, None)
        self._due.pop(group, None)

    def due(self, now: float) -> list[str]:
        groups = [group for group, at in self._due.items() if at <= now]
        for group in groups:
            del self._due[group]
        return groups


class Keeper:
    def __init__(self, state: StateDirectory, monotonic: Callable[[], float], now: Callable[[], datetime]) -> None:
        self._state = state
        self._monotonic = monotonic
        self._now = now
        self._supervisor = Supervisor(state)
        self._journal = Journal(state.logs / "supervisord.log", **self._place())
        self._known = leftovers.read_record(state)
        self._ended: set[str] = set()
        self._retries = Retries()
        self._silence = SilenceCounter()
        self._probes = ThreadPoolExecutor(max_workers=8, thread_name_prefix="liveness")

    def begin(self) -> None:
        """Take up what supervisord runs now: this process may have missed something."""
        for info in self._supervisor.processes():
            if info.pid and (found := leftovers.identify(info.pid)):
                self._known[info.name] = found
            if info.state == "FATAL":
                self._retries.gave_up(info.name, self._monotonic())
        self._save()

    def look(self) -> None:
        """One look: what happened, what is due."""
        events = list(self._journal.new_events())
        for event in events:
            self._take(event)
        if events:
            self._save()
        for group in self._retries.due(self._monotonic()):
            with contextlib.suppress(PlatformError):  # supervisord may be gone; the next look heals that
                self._supervisor.start_program(group)
        self._ask_replicas()

    def heal(self) -> bool:
        """supervisord is dead: start it again with everything it ran, unless a stop was asked for."""
        self._note("supervisord", "ended", None, "supervisord is gone; ending what it left and starting it again")
        if not self._supervisor.heal():
            return False
        self._note("supervisord", "restarted", self._supervisor.pid(), "with every program it ran before")
        return True

    def _take(self, event: ProcessEvent) -> None:
        detail = event.detail
        if event.kind == "running":
            self._retries.recovered(event.name)
            return
        word = _EVENT_WORDS[event.kind]
        if event.kind == "started":
            if event.pid and (found := leftovers.identify(event.pid)):
                self._known[event.name] = found
            word = "restarted" if event.name in self._ended else "started"
            self._ended.discard(event.name)
        else:
            pid = self._known.pop(event.name, None)
            event = ProcessEvent(event.at, event.kind, event.name, pid.pid if pid else None, detail)
        if event.kind == "ended":
            self._ended.add(event.name)
        if event.kind == "gave-up":
            detail = f"{detail}; next try in {self._retries.gave_up(event.name, self._monotonic()):g} s"
        self._note(event.name, word, event.pid, detail, event.at)

    def _ask_replicas(self) -> None:
        watched = {group: one for group, one in read_watched(self._state).items() if group in self._known}
        wall = time.time()
        ages = {group: wall - self._known[group].started for group in watched}
        due = self._silence.due(watched, ages, self._monotonic())
        for one, alive in zip(due, self._probes.map(answers, due), strict=True):
            known = self._known[one.group]
            if self._silence.note(one, known.pid, alive=alive):
                self._end_silent(one, known)

    def _end_silent(self, watched: Watched, known: leftovers.KnownProcess) -> None:
        """End a replica that hangs; supervisord starts it again. One that was stopped takes no TERM."""
        self._note(watched.group, "unresponsive", known.pid, f"{watched.path} failed {watched.failures} times")
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not leftovers.still_runs(known):
                return
            with contextlib.suppress(OSError):
                os.kill(known.pid, number)
            deadline = self._monotonic() + _TERM_S
            while leftovers.still_runs(known) and self._monotonic() < deadline:
                time.sleep(0.05)

    def _note(self, group: str, event: str, pid: int | None, detail: str, at: datetime | None = None) -> None:
        line = {
            "at": (at or self._now()).isoformat(timespec="milliseconds"),
            "program": split_group(group)[0],
            "process": group,
            "event": event,
            "pid": pid,
            "detail": detail,
        }
        path = self._state.events
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > _EVENT_BYTES:
                path.replace(path.with_suffix(".jsonl.1"))
        with path.open("a", encoding="utf-8") as events:
            events.write(json.dumps(line) + "\n")

    def _save(self) -> None:
        leftovers.write_record(self._state, self._known)
        body = json.dumps({"inode": self._journal.inode, "offset": self._journal.offset})
        temporary = self._place_file.with_suffix(".new")
        temporary.write_text(body, encoding="utf-8")
        temporary.replace(self._place_file)

    def _place(self) -> dict[str, int]:
        try:
            found = json.loads(self._place_file.read_text(encoding="utf-8"))
            return {"inode": int(found["inode"]), "offset": int(found["offset"])}
        except (OSError, ValueError, TypeError, KeyError):
            return {}

    @property
    def _place_file(self) -> Path:
        return self._state.supervisor / "keeper.json"


def watch(keeper: Keeper, supervisord: int | None) -> None:
    """Look until supervisord, our parent, is gone; then heal and end: the new one starts a new keeper."""
    while os.getppid() == supervisord:
        try:
            keeper.look()
        except (OSError, PlatformError) as exc:  # a full disk must not end the watch
            print(f"{type(exc).__name__}: {exc}", flush=True)
        time.sleep(_LOOK_S)
    while not _healed(keeper):
        time.sleep(1.0)


def _healed(keeper: Keeper) -> bool:
    """Whether there is nothing left to do; nobody else would try again."""
    try:
        print("supervisord is gone:", "started again" if keeper.heal() else "left alone", flush=True)
    except (OSError, PlatformError) as exc:
        print(f"{type(exc).__name__}: {exc}", flush=True)
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description="Watch supervisord and start it again when it dies.")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    arguments = parser.parse_args()
    state = StateDirectory(arguments.root, arguments.run)
    keeper = Keeper(state, time.monotonic, lambda: datetime.now(UTC))
    with contextlib.suppress(PlatformError):  # it died meanwhile: `watch` sees that
        keeper.begin()
    watch(keeper, Supervisor(state).own_pid())


if __name__ == "__main__":
    main()
