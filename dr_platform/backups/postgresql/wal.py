"""The write-ahead log between the server and the archive: out through a spool folder, back on demand.

Here: emptying the spool, giving segments back. Not here: what the server is told to run
(``databases.embedded.postgresql_archive``), how a segment is sealed and where it is stored (``archive``).

The server hands each segment to a command that copies it into the spool and waits for the disk; a drain then stores
what it finds there and removes it afterwards. Killed at any moment, the copy or the drain is repeated: a file appears
in the spool whole or not at all, and storing what is stored already changes nothing. When the disk or the store is
full, the server keeps its segments and tries again; nothing is lost, and the lag shows in ``status``.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from dr_platform.backups.postgresql.catalog import Connection, one
from dr_platform.clock import Clock
from dr_platform.databases.embedded.files import ServerUser, private_directory, private_file

SEGMENT = re.compile(r"[0-9A-F]{24}(\.partial|\.[0-9A-F]{8}\.backup)?|[0-9A-F]{8}\.history")
FETCH_COMMAND = 'sh ../fetch %f "%p"'
"""Run in the data folder; ``serve`` puts the script and the segments beside it."""
_FETCH = """\
# Asks for one segment and waits for the answer; no key and no address of the archive is needed here.
cd ../wal || exit 1
: > "$1.want"
while [ ! -e "$1.have" ] && [ ! -e "$1.none" ]; do sleep 0.02; done
[ -e "$1.have" ] || exit 1
exec mv "$1.have" "../data/$2"
"""
_POLL_S = 0.02


class WalReader(Protocol):
    def read(self, segment: str) -> Iterator[bytes] | None:
        """A segment's bytes, or ``None`` where the archive has none of that name. Raises what the store raises."""


class WalWriter(Protocol):
    def store(self, segment: str, content: bytes, at: datetime) -> None:
        """Durable when it returns. What is stored already with the same content is left as it is; with another it
        raises ``ArchiveConflict``."""


@dataclass(frozen=True)
class Drained:
    segments: int
    raw_bytes: int


@dataclass(frozen=True)
class ArchiveStatus:
    """How far the archive is behind. ``waiting`` counts segments that the server has not handed over; ``failing`` names
    the newest one whose command failed after the last success."""

    enabled: bool
    last_archived: str
    last_archived_at: datetime | None
    waiting: int
    failing: str


def waiting(spool: Path) -> tuple[Path, ...]:
    """Whole segments in the spool, in the order of the log."""
    found = spool.iterdir() if spool.is_dir() else ()
    return tuple(sorted(path for path in found if SEGMENT.fullmatch(path.name)))


def drain(spool: Path, archive: WalWriter) -> Drained:
    """Store what waits, oldest first, and remove what is stored. What fails stays, and whatever is newer with it: the
    archive has no gaps. Raises what the archive raises."""
    segments, size = 0, 0
    for path in waiting(spool):
        try:
            at = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
            content = path.read_bytes()
        except FileNotFoundError:  # another drain has just stored it
            continue
        archive.store(path.name, content, at)
        path.unlink(missing_ok=True)
        segments, size = segments + 1, size + len(content)
    return Drained(segments, size)


def status(connection: Connection) -> ArchiveStatus:
    query = """
        SELECT current_setting('archive_mode') <> 'off', coalesce(last_archived_wal, ''), last_archived_time,
               CASE WHEN last_failed_time > coalesce(last_archived_time, '-infinity') THEN last_failed_wal ELSE '' END
          FROM pg_stat_archiver
    """
    enabled, last, at, failing = connection.execute(query).fetchone() or (False, "", None, "")
    waits = one(connection, "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'")
    return ArchiveStatus(bool(enabled), last, at, int(waits or 0), failing)


@dataclass(frozen=True)
class RestorePoint:
    """A moment with a name, to which a database can be brought back."""

    name: str
    lsn: str


def mark(connection: Connection, name: str) -> RestorePoint:
    """Write a named restore point into the log, such as ``before-1.3.0-<run>`` right before a migration. Names may
    repeat in the log; recovery stops at the first one, so they should not."""
    return RestorePoint(name, str(one(connection, "SELECT pg_create_restore_point(%s)", name)))


def switch(connection: Connection) -> str:
    """Let the server hand over the segment it is writing. Returns the position up to which it is complete."""
    return str(one(connection, "SELECT pg_switch_wal()"))


# Back


@contextlib.contextmanager
def serve(archive: WalReader, folder: Path, user: ServerUser, clock: Clock) -> Generator[None]:
    """Answer the server's wishes for segments while the context is open. The archive's failure is raised at its end."""
    wal = private_directory(folder / "wal", user)
    private_file(folder / "fetch", _FETCH, user)
    failures: list[BaseException] = []
    stop = threading.Event()

    def answer() -> None:
        while not stop.is_set():
            for wish in sorted(wal.glob("*.want")):
                try:
                    _answer(archive, wish, user)
                except BaseException as exc:  # noqa: BLE001 - raised where the recovery is waited for
                    failures.append(exc)
                    _give(wish, "none", None, user)
            clock.sleep(_POLL_S)

    thread = threading.Thread(target=answer, name="wal", daemon=True)
    thread.start()
    try:
        yield
    except Exception:
        if failures:
            raise failures[0] from None
        raise
    finally:
        stop.set()
        thread.join()
    if failures:
        raise failures[0]


def _answer(archive: WalReader, wish: Path, user: ServerUser) -> None:
    segment = wish.name.removesuffix(".want")
    content = archive.read(segment) if SEGMENT.fullmatch(segment) else None
    _give(wish, "none" if content is None else "have", content, user)


def _give(wish: Path, kind: str, content: Iterator[bytes] | None, user: ServerUser) -> None:
    draft = wish.with_suffix(".draft")
    with draft.open("wb") as file:
        for chunk in content or ():
            file.write(chunk)
    if not user.is_me:
        _own(draft, user)
    wish.unlink(missing_ok=True)
    draft.rename(wish.with_suffix(f".{kind}"))


def _own(path: Path, user: ServerUser) -> None:
    os.chown(path, user.uid, user.gid)


# Whose log it is

_IDENTIFIER_AT = 24
"""Offset of the system identifier in the long header of a segment's first page (``XLogLongPageHeaderData``)."""


def identifier_of(segment: Path) -> str | None:
    """The system identifier of the server that wrote a segment, or ``None`` for a file that is no segment."""
    if "." in segment.name:
        return None
    with segment.open("rb") as file:
        header = file.read(_IDENTIFIER_AT + 8)
    return str(int.from_bytes(header[_IDENTIFIER_AT:], sys.byteorder)) if len(header) == _IDENTIFIER_AT + 8 else None


def writer_of(spool: Path) -> str | None:
    """Who wrote what waits in a spool; ``None`` as long as no segment tells."""
    return next((found for path in waiting(spool) if (found := identifier_of(path)) is not None), None)
