"""Physical backups: the server's files, with the log that makes them whole.

Here: the snapshot and its pieces. Not here: the protocol (``replication``), or bringing it back (``recovery``).

    base/0, base/1     one tar archive, dealt to two lanes (``lanes``)
    backup_manifest    the server's list of files with SHA-256; an incremental begins from its parent's

Nothing holds the database still meanwhile. Facts are exact where no transaction wrote anything between the begin of
the backup and the measure, which the server's own transaction numbers tell; else rows are counted that were there
before and after.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dr_platform.backups.port import Facts, Json, Piece, StoredBackup, StoredPiece
from dr_platform.backups.postgresql.access import Access
from dr_platform.backups.postgresql.catalog import Connection, one
from dr_platform.backups.postgresql.errors import SourceRefused
from dr_platform.backups.postgresql.facts import Scope, beat, measure
from dr_platform.backups.postgresql.lanes import Dealer, in_blocks, read_lane, read_last
from dr_platform.backups.postgresql.manifest import BadManifest, read_manifest
from dr_platform.backups.postgresql.replication import BaseBackup

LANES = 2
"""As many processes as the pipeline has; more lanes than processes would leave one waiting for its turn."""
MANIFEST = "backup_manifest"
BASE = "base"
_QUIET = re.compile(r"(\d+):\1:")
"""A snapshot in which no transaction is under way: the oldest one is the next one."""


@dataclass(frozen=True)
class LanePiece:
    socket: Path
    number: int
    size_hint: int
    facts: Mapping[str, Json] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{BASE}/{self.number}"

    def read(self) -> Iterator[bytes]:
        """Once: the server does not send the same base backup again. A second reader gets a failure."""
        return read_lane(self.socket, self.number)


@dataclass(frozen=True)
class ManifestPiece:
    """Known when all lanes have been read; whoever asks earlier waits for that."""

    socket: Path
    name: str = MANIFEST
    size_hint: int = 0
    facts: Mapping[str, Json] = field(default_factory=dict)

    def read(self) -> Iterator[bytes]:
        return read_last(self.socket)


class PhysicalSnapshot:
    def __init__(
        self, access: Access, connection: Connection, programs: Path, socket: Path, parent: StoredBackup | None
    ) -> None:
        self._access = access
        self._connection = connection
        self._programs = programs
        self._socket = socket
        self._manifest: list[bytes] = []
        self._before = str(one(connection, "SELECT pg_current_snapshot()"))
        manifest = _manifest_of(access.name, parent) if parent is not None else None
        self._backup = BaseBackup(access, "dr-backup", manifest)
        self._dealer = Dealer(socket, self._blocks, lambda: b"".join(self._manifest))

    def close(self) -> None:
        self._dealer.close()

    def _blocks(self) -> Iterator[bytes]:
        return in_blocks(self._archive())

    def _archive(self) -> Iterator[bytes]:
        for part, content in self._backup.parts():
            if part == "archive":
                yield content
            else:
                self._manifest.append(content)

    def pieces(self) -> Sequence[Piece]:
        size = int(one(self._connection, "SELECT sum(pg_database_size(oid)) FROM pg_database WHERE datallowconn") or 1)
        lanes = [LanePiece(self._socket, number, size // LANES) for number in range(LANES)]
        return (*lanes, ManifestPiece(self._socket))

    def facts(self) -> Facts:
        if self._dealer.failure is not None:
            raise self._dealer.failure
        start, end = self._backup.start, self._backup.end
        if start is None or end is None:
            why = "facts were asked for before every piece was read"
            raise SourceRefused(self._access.name, why, "read the pieces first")
        self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        after = str(one(self._connection, "SELECT pg_current_snapshot()"))
        quiet = after == self._before and _QUIET.fullmatch(after) is not None
        return measure(
            self._access,
            self._connection,
            self._programs,
            snapshot=str(one(self._connection, "SELECT pg_export_snapshot()")),
            scope=Scope.LOGGED,
            newer_than=None if quiet else int(self._before.split(":")[0]),
            position={
                "start_lsn": start.lsn,
                "end_lsn": end.lsn,
                "start_timeline": str(start.timeline),
                "timeline": str(end.timeline),
            },
        )


def _manifest_of(name: str, parent: StoredBackup) -> tuple[bytes, ...]:
    return (b"".join(find(name, parent, MANIFEST).read()),)


def find(name: str, backup: StoredBackup, piece: str) -> StoredPiece:
    for found in backup.pieces:
        if found.name == piece:
            return found
    raise SourceRefused(name, f"backup {backup.id} has no piece {piece}", "take a full physical backup")


@contextlib.contextmanager
def physical_snapshot(
    access: Access,
    programs: Path,
    parent: StoredBackup | None = None,
    nonce: Callable[[], str] = lambda: secrets.token_hex(16),
) -> Generator[PhysicalSnapshot]:
    """The pieces are to be read by as many readers at once as there are lanes, or one after the other."""
    with access.connect() as connection, tempfile.TemporaryDirectory(prefix="drp-base-") as folder:
        refuse_unless_possible(access, connection, parent)
        beat(connection, nonce())
        snapshot = PhysicalSnapshot(access, connection, programs, Path(folder) / "s", parent)
        try:
            yield snapshot
        finally:
            snapshot.close()


def refuse_unless_possible(access: Access, connection: Connection, parent: StoredBackup | None) -> None:
    if parent is None:
        return
    if one(connection, "SELECT current_setting('summarize_wal', true)") != "on":
        why = "the server keeps no summary of what changed, which an incremental backup is made of"
        raise SourceRefused(access.name, why, "set summarize_wal = on, then take a full physical backup")
    here = str(one(connection, "SELECT system_identifier FROM pg_control_system()"))
    if parent.facts.position.get("system_identifier", here) != here:
        why = f"backup {parent.id} is of another server"
        raise SourceRefused(access.name, why, "take a full physical backup of this one first")
    try:
        read_manifest(b"".join(find(access.name, parent, MANIFEST).read()))
    except BadManifest as exc:
        raise SourceRefused(access.name, f"the manifest of {parent.id}: {exc}", "take a full physical backup") from None


def possible_kinds(connection: Connection) -> tuple[bool, bool]:
    """Whether this login may take physical backups here, and incremental ones."""
    query = """
        SELECT current_setting('wal_level') <> 'minimal' AND current_setting('max_wal_senders')::int > 0
               AND (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user)
               AND NOT EXISTS (SELECT FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')),
               coalesce(current_setting('summarize_wal', true), 'off') = 'on'
    """
    row = connection.execute(query).fetchone()
    return (bool(row[0]), bool(row[0] and row[1])) if row else (False, False)
