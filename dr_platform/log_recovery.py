"""Moments of a database that its archived log can bring back, and the log that no backup needs any more.

Here: making the newest moment reachable, naming one for a recovery, and letting go. Not here: who keeps the spools
empty (``log_archive``), how a segment is sealed or how a server recovers (``backups.postgresql``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from dr_platform.backups.bucket import Bucket
from dr_platform.backups.catalogue import Record, State
from dr_platform.backups.keys import KeyRing
from dr_platform.backups.port import Kind
from dr_platform.catalog import Engine
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.platform import Platform

if TYPE_CHECKING:
    from dr_platform.backups.postgresql.archive import WalArchive
    from dr_platform.backups.postgresql.engine import PostgresBackups
    from dr_platform.backups.postgresql.recovery import Recovery
    from dr_platform.backups.postgresql.wal import Drained

FLUSH_S = 20.0
"""How long the newest part of the log is waited for. What does not come in this time is not in the archive."""
_POLL_S = 0.2
_SEGMENT_BYTES = 16 << 20


class NoLog(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, database: str) -> None:
        super().__init__(database)
        self.what = f"{database} has no log that is archived, so that it comes back only as of a backup"
        self.untouched = "every database; nothing was written"
        self.next_step = "leave --until and --point out"


@dataclass(frozen=True)
class DatabaseLog:
    """Of one PostgreSQL database whose server hands its log to a spool of this machine."""

    platform: Platform
    bucket: Bucket
    keys: KeyRing
    database: str
    engine: PostgresBackups

    def drain(self) -> Drained:
        """Store every segment that waits. Raises where server or store do not answer; what waits goes on waiting."""
        from dr_platform.backups.postgresql import wal

        spool = self.platform.state.wal / self.database
        system = wal.writer_of(spool)
        return wal.Drained(0, 0) if system is None else wal.drain(spool, self._archive(system))

    def flush(self) -> None:
        """Let the server hand over what it is writing, and store it. Best effort: a server that is gone has no newest
        part, which is what recovery is for."""
        from dr_platform.backups.postgresql import wal

        deadline = self.platform.clock.monotonic() + FLUSH_S
        try:
            with self.engine.access.connect({}) as connection:
                wal.switch(connection)
                while wal.status(connection).waiting and self.platform.clock.monotonic() < deadline:
                    self.platform.clock.sleep(_POLL_S)
            self.drain()
        except PlatformError:
            return

    def recovery(self, position: Mapping[str, str], until: datetime | None, point: str) -> Recovery:
        """How a physical backup of this position is brought to a moment, or to a named restore point."""
        from dr_platform.backups.postgresql.recovery import AtPoint, AtTime, Recovery

        moment = AtTime(until) if until is not None else AtPoint(point)
        return Recovery(moment, self._archive(position["system_identifier"]))

    def expire(self, positions: Iterable[Mapping[str, str]]) -> int:
        """Remove segments from before all of these backups; returns how many. Without one nothing is known to be
        needless."""
        oldest: dict[str, str] = {}
        for position in positions:
            if first := first_segment(position):
                system = position["system_identifier"]
                oldest[system] = min(first, oldest.get(system, first), key=_place)
        return sum(self._expire(self._archive(system), first) for system, first in oldest.items())

    def _expire(self, archive: WalArchive, first: str) -> int:
        needless = [stored.segment for stored in archive.segments() if is_before(stored.segment, first)]
        for segment in needless:
            self.bucket.objects.delete(f"{archive.folder}/{segment}")
        return len(needless)

    def _archive(self, system: str) -> WalArchive:
        from dr_platform.backups.postgresql.archive import WalArchive

        return WalArchive(self.bucket, self.keys, self.database, system)


def has_log(platform: Platform, database: str) -> bool:
    """Where databases are endpoints, their own operators archive the log."""
    engine = platform.catalog.databases[database].engine
    return engine is Engine.POSTGRESQL and platform.binding.databases == "embedded"


def first_segment(position: Mapping[str, str]) -> str:
    """The oldest segment that a physical backup needs, by the server's name for it; empty where it is not known."""
    timeline, lsn = position.get("start_timeline", ""), position.get("start_lsn", "")
    if not timeline.isdecimal() or "/" not in lsn:
        return ""
    high, _, low = lsn.partition("/")
    return f"{int(timeline):08X}{int(high, 16):08X}{int(low, 16) // _SEGMENT_BYTES:08X}"


def is_before(segment: str, first: str) -> bool:
    """History files stay: they are small, and tell which timeline went where."""
    return not segment.endswith(".history") and _place(segment) < _place(first)


def _place(segment: str) -> str:
    """Where it lies in the log; a timeline continues the positions of the one before."""
    return segment[8:24]


def needed_for(records: Sequence[Record], window: timedelta, now: datetime) -> tuple[Record, ...]:
    """The physical backups from which every moment of the window is reached: those in it, and the newest verified one
    from before it."""
    physical = (Kind.PHYSICAL_FULL, Kind.PHYSICAL_INCREMENTAL)
    verified = sorted(
        (r for r in records if r.state is State.VERIFIED and r.kind in physical), key=lambda r: r.created_at
    )
    before = [record for record in verified if now - record.created_at > window]
    return (*before[-1:], *(record for record in verified if record not in before))
