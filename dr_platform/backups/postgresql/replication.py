"""The server's streaming protocol for base backups ("Streaming Replication Protocol", BASE_BACKUP, in its manual).

Here: asking for one, full or incremental, and taking the stream apart. Not here: storing it. ``pg_basebackup`` speaks
the same, but writes archive and manifest into one stream, and an incremental needs the manifest of its parent alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg import generators, pq

from dr_platform.backups.postgresql.access import Access, PatientConnection, safe_reason
from dr_platform.backups.postgresql.copying import messages, result_of
from dr_platform.backups.postgresql.errors import ToolFailed

_UPLOAD_BYTES = 64 << 10
Part = tuple[Literal["archive", "manifest"], bytes]


@dataclass(frozen=True)
class Reach:
    """Where in the log a base backup begins, or ends."""

    lsn: str
    timeline: int


class BaseBackup:
    """One base backup over one connection: ``parts`` is read once, to its end; then ``end`` is known."""

    def __init__(self, access: Access, label: str, manifest_of_parent: Iterable[bytes] | None = None) -> None:
        self._access = access
        self._label = label
        self._parent = manifest_of_parent
        self.start: Reach | None = None
        self.end: Reach | None = None

    def parts(self) -> Iterator[Part]:
        """What the server sends, in its order. Raises ``ToolFailed`` unless everything came."""
        try:
            # Not as a transaction: a connection for replication has none to commit.
            with contextlib.closing(self._access.connect({}, replication="true")) as connection:
                if self._parent is not None:
                    _upload(connection, self._parent)
                yield from self._stream(connection)
        except psycopg.Error as exc:
            raise ToolFailed("BASE_BACKUP", safe_reason(exc)) from None

    def _stream(self, connection: PatientConnection) -> Iterator[Part]:
        incremental = "INCREMENTAL, " if self._parent is not None else ""
        options = f"LABEL '{self._label}', {incremental}CHECKPOINT 'fast', WAL true, WAIT true, TARGET 'client'"
        command = f"BASE_BACKUP ({options}, MANIFEST 'yes', MANIFEST_CHECKSUMS 'SHA256')"
        connection.pgconn.send_query(command.encode())
        self.start = _reach(result_of(connection, pq.ExecStatus.TUPLES_OK))
        spaces = result_of(connection, pq.ExecStatus.TUPLES_OK)
        if spaces.ntuples != 1:
            raise ToolFailed("BASE_BACKUP", "the server has tablespaces outside of its data folder")
        result_of(connection, pq.ExecStatus.COPY_OUT)
        yield from _parts(connection)
        self.end = _reach(result_of(connection, pq.ExecStatus.TUPLES_OK))
        result_of(connection, pq.ExecStatus.COMMAND_OK)


def _parts(connection: PatientConnection) -> Iterator[Part]:
    """Messages begin with their kind: ``n`` a new archive, ``m`` the manifest follows, ``d`` bytes of what
    was begun last, ``p`` progress."""
    into: Literal["archive", "manifest"] | None = None
    for message in messages(connection):
        kind = message[:1].tobytes()
        if kind == b"d" and into is not None:
            yield into, message[1:].tobytes()
        elif kind == b"n":
            into = "archive"
        elif kind == b"m":
            into = "manifest"
        elif kind != b"p":
            raise ToolFailed("BASE_BACKUP", "the server sends what this version does not know")


def _upload(connection: PatientConnection, manifest: Iterable[bytes]) -> None:
    connection.pgconn.send_query(b"UPLOAD_MANIFEST")
    result_of(connection, pq.ExecStatus.COPY_IN)
    for chunk in manifest:
        for at in range(0, len(chunk), _UPLOAD_BYTES):
            connection.wait(generators.copy_to(connection.pgconn, chunk[at : at + _UPLOAD_BYTES]))
    connection.wait(generators.copy_end(connection.pgconn, None))


def _reach(result: Any) -> Reach:
    return Reach(result.get_value(0, 0).decode(), int(result.get_value(0, 1)))
