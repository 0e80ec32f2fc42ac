"""Which replicas are asked whether they are alive, and when silence means that they are not.

Here: the list that the runtime writes for the keeper, and counting. Not here: ending anything.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from dr_platform.state import StateDirectory


@dataclass(frozen=True)
class Watched:
    """One replica's liveness probe; times in seconds."""

    group: str
    port: int
    path: str
    initial_delay: float
    period: float
    timeout: float
    failures: int


def write_watched(state: StateDirectory, program: str, watched: Collection[Watched]) -> None:
    """Replace what is watched of one program."""
    folder = _folder(state)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{program}.new"
    temporary.write_text(json.dumps([asdict(one) for one in watched]), encoding="utf-8")
    temporary.replace(folder / f"{program}.json")


def forget_watched(state: StateDirectory, program: str) -> None:
    (_folder(state) / f"{program}.json").unlink(missing_ok=True)


def read_watched(state: StateDirectory) -> dict[str, Watched]:
    """All watched replicas by group name; malformed files are left out."""
    found: dict[str, Watched] = {}
    for file in sorted(_folder(state).glob("*.json")):
        try:
            for fields in json.loads(file.read_text(encoding="utf-8")):
                one = Watched(**fields)
                found[one.group] = one
        except (OSError, ValueError, TypeError):
            continue
    return found


def answers(watched: Watched) -> bool:
    """Whether the liveness probe gets a good answer in time."""
    connection = http.client.HTTPConnection("127.0.0.1", watched.port, timeout=watched.timeout)
    try:
        with closing(connection):
            connection.request("GET", watched.path, headers={"Connection": "close"})
            return 200 <= connection.getresponse().status < 400
    except (OSError, http.client.HTTPException, ValueError):
        return False


class SilenceCounter:
    """Counts failed probes in a row for each life of a replica."""

    def __init__(self) -> None:
        self._asked_at: dict[str, float] = {}
        self._failures: dict[str, tuple[int, int]] = {}

    def due(self, watched: Mapping[str, Watched], ages: Mapping[str, float], now: float) -> list[Watched]:
        """Those to be asked now: old enough, and not asked for one period. ``ages`` in seconds."""
        due = [
            one
            for group, one in watched.items()
            if ages.get(group, 0.0) >= one.initial_delay and now - self._asked_at.get(group, -one.period) >= one.period
        ]
        self._asked_at.update((one.group, now) for one in due)
        return due

    def note(self, watched: Watched, pid: int, *, alive: bool) -> bool:
        """Whether this answer was the failure that is one too many; then counting starts over."""
        counted_for, failures = self._failures.get(watched.group, (pid, 0))
        failures = 0 if alive else (failures if counted_for == pid else 0) + 1
        too_many = failures >= watched.failures
        self._failures[watched.group] = (pid, 0 if too_many else failures)
        return too_many


def _folder(state: StateDirectory) -> Path:
    return state.supervisor / "liveness"
