"""Logical snapshots: one exported instant, read by many connections at once.

Here: cutting a database into pieces, and reading one. Not here: loading them (``load``), or facts about rows
(``facts``).

    surroundings.json    roles, grants and settings of the database, its locale
    pre-data.sql         extensions, schemas, types, functions, tables
    tables/<table>/0000  rows of a range of blocks, in binary
    large-objects.sql    where there are any
    sequences.json       their values
    post-data.sql        indexes, constraints, triggers
"""

from __future__ import annotations

import contextlib
import json
import math
import secrets
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from dr_platform.backups.port import Facts, Json, Piece
from dr_platform.backups.postgresql import catalog
from dr_platform.backups.postgresql.access import READING_BY_TOOL, Access, output_of, tool_environment
from dr_platform.backups.postgresql.catalog import Connection, Table, verbatim
from dr_platform.backups.postgresql.errors import SourceRefused, ToolFailed
from dr_platform.backups.postgresql.facts import beat, dump_schema, measure

RANGE_BYTES = 48 << 20
"""Of a table's own size that one piece covers: small enough to share the work evenly, large enough that
logging in does not count."""
MAX_RANGES = 4000
FORMATS: Mapping[str, str] = {
    "binary": "FORMAT binary",
    # For types that only have a text. With a header a range without rows is not a piece without a byte.
    "text": "FORMAT text, HEADER",
}
_LOCK_TIMEOUT_S = 20
_SCHEMA_BYTES = 1 << 16

SURROUNDINGS = "surroundings.json"
PRE_DATA = "pre-data.sql"
POST_DATA = "post-data.sql"
LARGE_OBJECTS = "large-objects.sql"
SEQUENCES = "sequences.json"


@dataclass(frozen=True)
class Source:
    """Where pieces are read, and in which snapshot; goes with them to other processes."""

    access: Access
    programs: Path
    snapshot: str

    @property
    def adoption(self) -> str:
        """Makes a transaction that has just begun see exactly the snapshot."""
        return sql.SQL("SET TRANSACTION SNAPSHOT {}").format(self.snapshot).as_string()


@dataclass(frozen=True)
class RowsPiece:
    """Rows of one table from one block up to another, or to its end."""

    source: Source
    name: str
    statement: str
    size_hint: int
    facts: Mapping[str, Json]

    def read(self) -> Iterator[bytes]:
        """By ``psql``, which hands rows on in a quarter of the time that a loop over them takes here."""
        steps = ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", self.source.adoption, self.statement)
        command = [self.source.programs / "psql", "-X", "-q", "-w", "-v", "ON_ERROR_STOP=1"]
        command += [word for step in steps for word in ("-c", step)]
        try:
            with tool_environment(self.source.access, READING_BY_TOOL) as environment:
                yield from output_of(command, environment)
        except ToolFailed as exc:
            raise ToolFailed(f"COPY of {self.facts['table']}", exc.reason) from None


@dataclass(frozen=True)
class SchemaPiece:
    source: Source
    name: str
    section: str
    size_hint: int = _SCHEMA_BYTES
    facts: Mapping[str, Json] = field(default_factory=dict)

    def read(self) -> Iterator[bytes]:
        return dump_schema(
            self.source.access, self.source.programs, snapshot=self.source.snapshot, section=self.section
        )


@dataclass(frozen=True)
class LargeObjectsPiece:
    source: Source
    name: str = LARGE_OBJECTS
    size_hint: int = _SCHEMA_BYTES
    facts: Mapping[str, Json] = field(default_factory=dict)

    def read(self) -> Iterator[bytes]:
        command = [self.source.programs / "pg_dump", "--section=data", "--large-objects", "--exclude-table-data=*.*"]
        command += ["--no-password", f"--snapshot={self.source.snapshot}", "--restrict-key=drp"]
        with tool_environment(self.source.access) as environment:
            yield from output_of(command, environment)


@dataclass(frozen=True)
class FixedPiece:
    """A small text that was read when the snapshot was taken."""

    name: str
    content: bytes = field(repr=False)
    facts: Mapping[str, Json] = field(default_factory=dict)

    @property
    def size_hint(self) -> int:
        return len(self.content)

    def read(self) -> Iterator[bytes]:
        yield self.content


@dataclass(frozen=True)
class LogicalSnapshot:
    source: Source
    connection: Connection
    found: Sequence[Table]
    measured: Future[Facts]

    def pieces(self) -> Sequence[Piece]:
        return tuple(self._pieces())

    def _pieces(self) -> Iterator[Piece]:
        yield FixedPiece(SURROUNDINGS, _json(catalog.surroundings(self.connection)))
        yield SchemaPiece(self.source, PRE_DATA, "pre-data")
        yield SchemaPiece(self.source, POST_DATA, "post-data")
        yield FixedPiece(SEQUENCES, _json(sequence_values(self.connection)))
        if catalog.has_large_objects(self.connection):
            yield LargeObjectsPiece(self.source)
        for table in self.found:
            yield from _ranges(self.source, table)

    def facts(self) -> Facts:
        """Raises where the session that holds the snapshot and its locks is gone."""
        self.connection.execute("SELECT")
        return self.measured.result()


@contextlib.contextmanager
def logical_snapshot(
    access: Access, programs: Path, nonce: Callable[[], str] | None = lambda: secrets.token_hex(16)
) -> Generator[LogicalSnapshot]:
    """An instant that stays readable while the context is open. Tables are locked against changes of their
    definition, as ``pg_dump`` does; reading and writing them goes on. Without a ``nonce`` the heartbeat stays as it
    is: a copy that is carried on must still be known by its own."""
    with access.connect() as connection:
        if nonce is not None:
            beat(connection, nonce())
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        exported = str(catalog.one(connection, "SELECT pg_export_snapshot()"))
        found = catalog.tables(connection)
        _lock(access, connection, found)
        source = Source(access, programs, exported)
        with _measuring(source, connection) as measured:
            # Sizes are read again: until the lock a table might have been replaced.
            yield LogicalSnapshot(source, connection, catalog.tables(connection), measured)


@contextlib.contextmanager
def _measuring(source: Source, connection: Connection) -> Generator[Future[Facts]]:
    """Facts of the snapshot, measured while its pieces are read: by a session of its own, which ends with the
    context, finished or not."""
    with (
        contextlib.closing(source.access.connect()) as session,
        ThreadPoolExecutor(1, thread_name_prefix="facts") as pool,
    ):
        measured = pool.submit(_measured, source, session)
        try:
            yield measured
        finally:
            if not measured.done():
                with contextlib.suppress(psycopg.Error):
                    connection.rollback()  # it may have failed
                    connection.execute("SELECT pg_terminate_backend(%s)", (session.info.backend_pid,))


def _measured(source: Source, session: Connection) -> Facts:
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    session.execute(source.adoption.encode())
    position = {"snapshot": source.snapshot}
    return measure(source.access, session, source.programs, snapshot=source.snapshot, position=position)


def _lock(access: Access, connection: Connection, found: Sequence[Table]) -> None:
    if not found:
        return
    names = sql.SQL(", ").join(table.identifier for table in found)
    connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_S}s'".encode())
    try:
        connection.execute(sql.SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE").format(names))
    except (psycopg.errors.LockNotAvailable, psycopg.errors.UndefinedTable):
        why = f"a table is being altered, and was not free within {_LOCK_TIMEOUT_S} s"
        raise SourceRefused(access.name, why, "wait until the migration is over, then take the backup again") from None
    connection.execute("SET LOCAL lock_timeout = 0")


def _ranges(source: Source, table: Table) -> Iterator[RowsPiece]:
    count = max(1, min(MAX_RANGES, math.ceil(table.size_bytes / RANGE_BYTES), table.blocks or 1))
    edges = [table.blocks * number // count for number in range(count)]
    for number, (first, after) in enumerate(zip(edges, [*edges[1:], None], strict=True)):
        facts: dict[str, Json] = {
            "table": table.name,
            "schema": table.schema,
            "relation": table.relation,
            "columns": [column.name for column in table.stored],
            "format": table.format,
            "first_block": first,
        }
        yield RowsPiece(
            source,
            f"tables/{_segment(table)}/{number:04d}",
            _copy(table, first, after),
            table.size_bytes // count,
            facts,
        )


def _segment(table: Table) -> str:
    """A name that every object store takes and that no other table has."""
    plain = all(c.isascii() and (c.isalnum() or c in "._-") for c in table.name)
    return table.name if plain and len(table.name) <= 120 else f"table-{table.oid}"


def _copy(table: Table, first: int, after: int | None) -> str:
    """The last range has no end: rows may lie beyond what was the end when sizes were read."""
    columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.stored)
    conditions = [f"ctid >= '({first},0)'::tid"] if first else []
    conditions += [f"ctid < '({after},0)'::tid"] if after is not None else []
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    query = sql.SQL("COPY (SELECT {} FROM ONLY {}{}) TO STDOUT ({})").format(
        columns,
        table.identifier,
        verbatim(where),
        verbatim(FORMATS[table.format]),
    )
    return query.as_string()


def sequence_values(connection: Connection) -> list[Json]:
    """Sequences are outside of transactions: their values are those of now, never lower than in the snapshot."""
    values: list[Json] = []
    for schema, name in catalog.sequences(connection):
        query = sql.SQL("SELECT last_value, is_called FROM {}").format(sql.Identifier(schema, name))
        last, called = connection.execute(query).fetchone() or (1, False)
        values.append([schema, name, last, called])
    return values


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True).encode()
