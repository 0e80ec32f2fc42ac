"""The write-ahead logs of this platform's PostgreSQL databases, on their way into the backups' store.

Here: which spools there are, emptying them again and again, how far behind they are. Not here: how a segment is
sealed, or what the server is told (``backups.postgresql``).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dr_platform.backup_desk import BackupDesk
from dr_platform.backups.postgresql import wal
from dr_platform.backups.postgresql.archive import WalArchive
from dr_platform.catalog import Engine
from dr_platform.errors import PlatformError
from dr_platform.platform import Platform
from dr_platform.runtime.local.programs import Program
from dr_platform.verdict import Progress

PROGRAM = "log-archive"
PAUSE_S = 5.0
"""Between two looks into the spools. With the server's own 60 s it bounds what a lost machine takes with it."""
_REPEAT_S = 300.0
"""A reason that stays the same is told again after this."""


@dataclass(frozen=True)
class Behind:
    """How much of one database's log waits on this machine."""

    database: str
    segments: int
    oldest_s: float
    archived: str
    """The newest segment in the store, empty where there is none."""


def spools(platform: Platform) -> Iterator[tuple[str, Path]]:
    for name, entry in platform.catalog.databases.items():
        if entry.engine is Engine.POSTGRESQL:
            yield name, platform.state.wal / name


def archive_of(platform: Platform, database: str, system_identifier: str) -> WalArchive:
    """The archived log of one server; also of one that is gone, by the identifier in its backups' facts."""
    desk = BackupDesk(platform)
    return WalArchive(desk.bucket, desk.keys, database, system_identifier)


def drain(platform: Platform, database: str, spool: Path) -> wal.Drained:
    """Store what waits. Raises what the store raises, and ``NoEscrow`` and its like; nothing is lost then."""
    identifier = wal.writer_of(spool)
    if identifier is None:
        return wal.Drained(0, 0)
    BackupDesk(platform).ensure_escrow()
    return wal.drain(spool, archive_of(platform, database, identifier))


def keep_drained(platform: Platform, stop: threading.Event, progress: Progress) -> None:
    """Until stopped. A failure is told and tried again: the segments stay where they are."""
    told: dict[str, tuple[str, float]] = {}
    while not stop.is_set():
        for database, spool in spools(platform):
            try:
                if (done := drain(platform, database, spool)).segments:
                    progress(f"{database}: {done.segments} segments archived")
            except PlatformError as exc:
                now = platform.clock.monotonic()
                reason, at = told.get(database, ("", 0.0))
                if exc.what != reason or now - at > _REPEAT_S:
                    told[database] = (exc.what, now)
                    progress(f"{database}: {exc.what}")
        stop.wait(PAUSE_S)


def behind(platform: Platform) -> tuple[Behind, ...]:
    return tuple(_behind(platform, database, spool) for database, spool in spools(platform))


def _behind(platform: Platform, database: str, spool: Path) -> Behind:
    found = wal.waiting(spool)
    oldest = min((path.stat().st_mtime for path in found), default=None)
    age = 0.0 if oldest is None else max(0.0, platform.clock.now().timestamp() - oldest)
    stored = BackupDesk(platform).bucket.objects.list(f"wal/{database}")
    newest = max(stored, key=lambda info: info.modified_at, default=None)
    return Behind(database, len(found), age, newest.key.rpartition("/")[2] if newest else "")


def program(platform: Platform) -> Program:
    """``drp archive-log`` under the supervisor."""
    argv = (sys.executable, "-m", "dr_platform.cli", "archive-log")
    return Program(PROGRAM, argv, platform.process_environment(), start_s=2.0, stop_s=10.0, priority=340)
