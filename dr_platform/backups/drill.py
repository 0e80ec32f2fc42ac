"""A rehearsal of the worst day: a database is brought back from its bucket alone, and the time is taken.

Here: bringing one back, comparing it, and what several of them amount to. Not here: where bucket, keys and engines
come from, or who is told (``dr_platform.drill``).

Rules: 45 CFR 164.308(a)(7)(ii)(D) testing and revision of contingency plans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from dr_platform.backups.errors import DamagedBackup
from dr_platform.backups.port import BackupEngine, Facts, Probe, StoredBackup
from dr_platform.backups.proof import compared, within
from dr_platform.backups.reading import BackupReader
from dr_platform.clock import Clock
from dr_platform.errors import ExitCode, PlatformError, TemporaryFailure
from dr_platform.verdict import Measure


class State(StrEnum):
    EQUAL = "equal"
    """It is back, and says the same as its source did."""
    FAILED = "failed"
    """It did not come back, or as something else."""
    UNKNOWN = "unknown"
    """It could not be tried: no server of its kind on this machine, no answer of the store."""


@dataclass(frozen=True)
class Attempt:
    """``restore_s`` is the time from nothing to a server with all its data; ``compare_s`` what comparing took."""

    state: State
    reason: str
    restore_s: float = 0.0
    compare_s: float = 0.0
    rows: int = 0


@dataclass(frozen=True)
class Returned:
    """One database in a drill. ``rto_s`` and ``rpo_s`` are promised, the rest is measured; ages are those at the moment
    of the disaster, and ``None`` where there is nothing of that kind."""

    database: str
    tier: int
    attempt: Attempt
    at: datetime
    rto_s: float
    rpo_s: float
    backup: str = ""
    kind: str = ""
    size_bytes: int = 0
    raw_bytes: int = 0
    backup_age_s: float | None = None
    log_age_s: float | None = None

    @property
    def lost_s(self) -> float | None:
        """What a disaster at that moment would have cost (RPO)."""
        return min((age for age in (self.backup_age_s, self.log_age_s) if age is not None), default=None)

    @property
    def broken(self) -> tuple[str, ...]:
        """Promises that were not kept."""
        late = self.attempt.restore_s > self.rto_s
        lost = self.lost_s is not None and self.lost_s > self.rpo_s
        return (*(("rto",) if late else ()), *(("rpo",) if lost else ()))

    @property
    def passed(self) -> bool | None:
        if self.attempt.state is State.UNKNOWN:
            return None
        return self.attempt.state is State.EQUAL and not self.broken

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "at": self.at.isoformat(), "lost_s": self.lost_s, "passed": self.passed}


@dataclass(frozen=True)
class Drill:
    """All databases of one rehearsal, in the order in which they came back."""

    environment: str
    started_at: datetime
    seconds: float
    returned: tuple[Returned, ...]

    @property
    def passed(self) -> bool | None:
        answers = [each.passed for each in self.returned]
        if False in answers or not answers:
            return False
        return None if None in answers else True

    @property
    def rto_s(self) -> float:
        """Until the last one was there: one after the other, without the time for comparing."""
        return sum(each.attempt.restore_s for each in self.returned)

    @property
    def rpo_s(self) -> float | None:
        """The most that any of them would have lost."""
        return max((each.lost_s for each in self.returned if each.lost_s is not None), default=None)

    def as_json(self) -> dict[str, Any]:
        return {
            "environment": self.environment,
            "passed": self.passed,
            "started_at": self.started_at.isoformat(),
            "seconds": round(self.seconds, 3),
            "rto_s": round(self.rto_s, 3),
            "rpo_s": self.rpo_s,
            "databases": [each.as_json() for each in self.returned],
        }

    def measurements(self) -> dict[str, Measure]:
        found: dict[str, Measure] = {
            "databases": len(self.returned),
            "equal": sum(each.attempt.state is State.EQUAL for each in self.returned),
            "rto_s": round(self.rto_s, 3),
            "drill_s": round(self.seconds, 3),
        }
        if self.rpo_s is not None:
            found["rpo_s"] = round(self.rpo_s, 1)
        return found | {f"{each.database}_rto_s": round(each.attempt.restore_s, 3) for each in self.returned}

    def describe(self) -> str:
        equal = sum(each.attempt.state is State.EQUAL for each in self.returned)
        return (
            f"{equal} of {len(self.returned)} databases are back and equal to their sources, after {self.rto_s:.1f} s"
        )

    def markdown(self) -> str:
        head = "| tier | database | backup | rows | back after | promised | would have lost | promised | answer |"
        rule = "| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |"
        return "\n".join([self.describe() + ".", "", head, rule, *map(_line, self.returned)])


def _line(each: Returned) -> str:
    lost = "-" if each.lost_s is None else _span(each.lost_s)
    reason = "".join(f", {name.upper()} broken" for name in each.broken)
    answer = f"{each.attempt.state}{reason}: {each.attempt.reason}".replace("|", "/").replace("\n", " ")
    times = f"{each.attempt.restore_s:.1f} s | {_span(each.rto_s)} | {lost} | {_span(each.rpo_s)}"
    return f"| {each.tier} | {each.database} | {each.backup or '-'} | {each.attempt.rows} | {times} | {answer} |"


def _span(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds:.0f} s"


def bring_back(
    reader: BackupReader, database: str, backup_id: str, engine: BackupEngine, limit_s: float, clock: Clock
) -> Attempt:
    """Restore one backup into a server of its own, compare, and remove it again. What goes wrong is the answer."""
    began = clock.monotonic()
    try:
        chain = reader.chain(database, backup_id)
        with engine.scratch() as place:
            within(limit_s, lambda: place.restore(chain))
            restored = clock.monotonic()
            found, probes = place.facts(), tuple(place.probes())
            ended = clock.monotonic()
    except DamagedBackup as exc:
        return Attempt(State.FAILED, f"{exc.damage}: {exc.detail}", clock.monotonic() - began)
    except PlatformError as exc:
        blind = isinstance(exc, TemporaryFailure) or exc.exit_code is ExitCode.UNAVAILABLE
        return Attempt(State.UNKNOWN if blind else State.FAILED, exc.what, clock.monotonic() - began)
    except Exception as exc:  # noqa: BLE001 - one database must not end the drill of the others; its text may quote rows
        return Attempt(State.FAILED, f"unexpected {type(exc).__name__}", clock.monotonic() - began)
    state, reason = judged(chain[-1], found, probes)
    rows = sum(table.rows for table in found.tables)
    return Attempt(state, reason, restored - began, ended - restored, rows)


def judged(backup: StoredBackup, found: Facts, probes: Sequence[Probe]) -> tuple[State, str]:
    """The first difference decides. What could not be compared is named."""
    answers = [(check.name, check.passed, check.detail) for check in compared(backup.facts, found)]
    answers += [(probe.name, probe.passed, probe.detail) for probe in probes]
    if bad := next(((name, detail) for name, passed, detail in answers if passed is False), None):
        return State.FAILED, f"{bad[0]}: {bad[1]}"
    blind = [name for name, passed, _ in answers if passed is None]
    told = f"; not compared: {', '.join(blind)}" if blind else ""
    return State.EQUAL, f"{len(answers) - len(blind)} checks{told}"
