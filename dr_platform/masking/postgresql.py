"""Masking PostgreSQL: from one database into a new one, most of it by the server itself.

The source's server selects masked rows and this program only carries them over. Rows with sealed fields,
texts or documents pass through Python in workers. Every table is cut into ranges of pages, which two
processes read in one exported snapshot. Here: schema, plan, execution. Not here: what a value becomes
(``sql``, ``rows``), gates, canaries.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import multiprocessing
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus

from dr_platform.databases.access import CONNECT_TIMEOUT_S, certificate_authorities, is_loopback
from dr_platform.masking.classification import Classification, Holds, Table
from dr_platform.masking.people import Roster, RosterFile
from dr_platform.masking.port import Access, Masked, NotMaskable, SameDatabase, TargetExists
from dr_platform.masking.postgresql_indexes import TakenOff
from dr_platform.masking.recipe import Recipe
from dr_platform.masking.roster_rows import identified
from dr_platform.masking.rows import RowMasker
from dr_platform.masking.seals import KeyRing
from dr_platform.masking.sql import DATE_TYPES, INTEGERS, Expressions, banded, needs_python, qualified, quoted
from dr_platform.masking.values import PRESERVING, REMOVED
from dr_platform.verdict import Progress, silent

Connection = psycopg.Connection[Any]

WORKERS = 2
_CHUNK_PAGES = 512
"""4 MiB of a table: some tenths of a second of work, so that two workers end together."""
_BATCH_ROWS = 500
_TOLD_ROWS = 5_000
_WRITE_BYTES = 1 << 18
_DATES = frozenset({Holds.DATE, Holds.BIRTH_DATE})
_NULL = b"\\N"
_LOW, _HIGH = "«low»", "«high»"
_PAGES = f"t.ctid >= '({_LOW},0)'::tid AND t.ctid < '({_HIGH},0)'::tid"

_COLUMNS = """
SELECT n.nspname || '.' || c.relname, a.attname, format_type(a.atttypid, NULL), NOT a.attnotnull, a.attgenerated <> ''
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY 1, a.attnum
"""
_UNIQUE = """
SELECT n.nspname || '.' || c.relname, (SELECT relname::text FROM pg_class WHERE oid = i.indexrelid),
       (SELECT array_agg(a.attname::text) FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) k
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k),
       i.indpred IS NOT NULL OR i.indexprs IS NOT NULL
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE i.indisunique AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""
_FOREIGN = """
SELECT cn.nspname || '.' || c.relname, pn.nspname || '.' || p.relname,
       (SELECT array_agg(a.attname::text ORDER BY o) FROM unnest(f.conkey) WITH ORDINALITY k(n, o)
        JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = n),
       (SELECT array_agg(a.attname::text ORDER BY o) FROM unnest(f.confkey) WITH ORDINALITY k(n, o)
        JOIN pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = n)
FROM pg_constraint f JOIN pg_class c ON c.oid = f.conrelid JOIN pg_namespace cn ON cn.oid = c.relnamespace
JOIN pg_class p ON p.oid = f.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace
WHERE f.contype = 'f' AND f.conparentid = 0
"""


@dataclass(frozen=True)
class ColumnFacts:
    name: str
    type: str
    nullable: bool
    generated: bool


@dataclass(frozen=True)
class ForeignKey:
    table: str
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]


@dataclass(frozen=True)
class SchemaFacts:
    """What a live server says of its tables."""

    tables: Mapping[str, tuple[ColumnFacts, ...]]
    unique: Mapping[str, tuple[tuple[str, frozenset[str]], ...]]
    """Table to its unique indexes: name and columns."""
    foreign: tuple[ForeignKey, ...] = ()
    partial: frozenset[str] = frozenset()
    """Unique indexes of which a column may repeat: they are of some rows, or of expressions as well."""

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        return {table: tuple(c.name for c in columns) for table, columns in self.tables.items()}


def connect(access: Access, database: str | None = None) -> Connection:
    """In autocommit and in UTC, so that years begin when they begin for everybody."""
    endpoint = access.endpoint
    encryption: dict[str, Any] = (
        {"sslmode": "prefer"}
        if is_loopback(endpoint.host)
        else {"sslmode": "verify-full", "sslrootcert": certificate_authorities() or "system"}
    )
    return psycopg.connect(
        host=endpoint.host,
        port=endpoint.port,
        dbname=database or endpoint.database,
        user=access.login.username,
        password=access.login.password,
        connect_timeout=int(CONNECT_TIMEOUT_S),
        passfile="/dev/null/none",  # a password file of the invoking user must not decide who gets in
        application_name="drp-mask",
        options="-c timezone=UTC -c statement_timeout=0 -c idle_in_transaction_session_timeout=0",
        autocommit=True,
        **encryption,
    )


def identity_of(connection: Connection) -> str:
    """Equal for two connections to one database, whatever address they used."""
    row = connection.execute(
        "SELECT system_identifier::text || '/' || oid::text FROM pg_control_system(), pg_database"
        " WHERE datname = current_database()"
    ).fetchone()
    return str(row[0]) if row else ""


def read_schema(connection: Connection) -> SchemaFacts:
    tables: dict[str, list[ColumnFacts]] = {}
    for table, *facts in connection.execute(_COLUMNS):
        tables.setdefault(table, []).append(ColumnFacts(*facts))
    unique: dict[str, list[tuple[str, frozenset[str]]]] = {}
    partial: set[str] = set()
    for table, index, columns, repeats in connection.execute(_UNIQUE):
        unique.setdefault(table, []).append((index, frozenset(columns or ())))
        partial |= {index} if repeats else set()
    foreign = tuple(ForeignKey(t, tuple(c), p, tuple(pc)) for t, p, c, pc in connection.execute(_FOREIGN))
    return SchemaFacts(
        {t: tuple(c) for t, c in tables.items()},
        {t: tuple(u) for t, u in unique.items()},
        foreign,
        frozenset(partial),
    )


# The plan


@dataclass(frozen=True)
class TablePlan:
    """How one table is carried over."""

    name: str
    columns: tuple[str, ...]
    query: str
    """Selects a range of pages, whose ends are still to be filled in."""
    settings: Mapping[str, str] = field(repr=False)
    by_python: tuple[str, ...] = ()
    """Columns whose raw values are selected and masked in a worker."""
    extra: tuple[str, ...] = ()
    """Raw columns behind the others, which the worker needs and does not write."""
    types: Mapping[str, str] = field(default_factory=dict)
    texts_alone: bool = False
    """Whether the columns for a worker are plain texts of a person and nothing else."""


def problems_of(schema: SchemaFacts, known: Classification) -> tuple[str, ...]:
    """Everything for which the schema cannot take what the classes make of it."""
    found: list[str] = []
    for name, columns in schema.tables.items():
        table = known.tables.get(name)
        if table is None or not table.is_masked:
            continue
        found += _column_problems(name, columns, table)
        found += lossy_unique(name, schema.unique.get(name, ()), table, {c.name for c in columns}, schema.partial)
    dropped = {name for name, table in known.tables.items() if not table.is_masked}
    for key in schema.foreign:
        if key.parent in dropped and key.table not in dropped and key.table in known.tables:
            found.append(f"{key.table}.{', '.join(key.columns)}: refers to {key.parent}, whose rows are dropped")
    return tuple(found)


def _column_problems(name: str, columns: Iterable[ColumnFacts], table: Table) -> Iterator[str]:
    for facts in columns:
        column = table.columns.get(facts.name)
        if column is None:
            continue
        where = f"{name}.{facts.name}"
        if column.holds in REMOVED and not facts.nullable:
            yield f"{where}: {column.holds} is removed, but the column is NOT NULL"
        if column.holds in _DATES and facts.type not in DATE_TYPES:
            yield f"{where}: {column.holds} needs a column of dates, it is {facts.type}"
        if column.holds is Holds.KEY and facts.type in INTEGERS - {"bigint"}:
            yield f"{where}: a masked key needs bigint, it is {facts.type}"
        if column.holds is Holds.VECTOR:
            yield f"{where}: a vector is never carried over: drop the rows of the table and embed the masked text"


def lossy_unique(
    name: str,
    indexes: Iterable[tuple[str, frozenset[str]]],
    table: Table,
    present: Collection[str],
    partial: Collection[str] = (),
) -> Iterator[str]:
    """Unique indexes that masked values may break: a column in them is lossy, and what remains is no key
    of its own. Columns that become NULL break none. ``partial`` ones make no key."""
    keys = [columns for index, columns in indexes if index not in partial]
    for index, columns in indexes:
        classes = {c: table.columns[c].holds for c in columns if c in table.columns and c in present}
        kept = {c for c, holds in classes.items() if holds in PRESERVING}
        if any(holds in REMOVED for holds in classes.values()) or any(key and key <= kept for key in keys):
            continue
        lossy = sorted(set(classes) - kept)
        if lossy:
            yield f"{name}: {', '.join(lossy)} would not stay unique in {index} ({classes[lossy[0]]} is lossy)"


def plan_table(name: str, schema: SchemaFacts, table: Table, recipe: Recipe) -> TablePlan:
    facts = [c for c in schema.tables[name] if not c.generated]
    types = {c.name: c.type for c in facts}
    written = tuple(types)
    by_python = tuple(c for c in written if needs_python(table.columns[c]))
    expressions = Expressions(table, types, recipe)
    masked = {c: expressions.of(c) for c in written if c not in by_python}
    if table.people:  # what anonymity asks for anyway, and for less than an update of all rows afterwards
        masked = {c: banded(table.columns[c].holds, value, types[c]) for c, value in masked.items()}
    selected = [masked.get(c, f"t.{quoted(c)}") for c in written]
    extra = _needed_raw(table, by_python, written)
    selected += [f"t.{quoted(c)}" for c in extra]
    columns, lateral = ", ".join(selected), expressions.lateral()
    query = (
        f"WITH {expressions.keys()} SELECT {columns} FROM k, {qualified(name)} t{lateral}"  # noqa: S608 - quoted names
        f" WHERE {_PAGES}"
    )
    texts_alone = extra == (table.person,) and all(
        table.columns[c].holds is Holds.TEXT and table.columns[c].sealed is None and types[c] != "bytea"
        for c in by_python
    )
    return TablePlan(name, written, query, expressions.settings(), by_python, extra, types, texts_alone)


def _needed_raw(table: Table, by_python: Collection[str], written: Collection[str]) -> tuple[str, ...]:
    """Columns of which a worker needs the source's value: the person, and where sealed values stand."""
    if not by_python:
        return ()
    named = {table.person} | named_in_seals(table)
    if any(table.columns[c].sealed for c in by_python) and "key_version" in written:
        named.add("key_version")
    return tuple(c for c in written if c in named - set(by_python))


def named_in_seals(table: Table) -> set[str]:
    """Columns whose values are part of the place of a sealed one."""
    seals = [column.sealed for column in table.columns.values() if column.sealed is not None]
    texts = [text for seal in seals for text in (seal.table, seal.row)]
    return {c for c in table.columns for text in texts if f"{{{c}}}" in text or f"{{{c}_tail}}" in text}


# Execution


@dataclass(frozen=True)
class Job:
    """What every worker knows. Handed over once, by pipe."""

    source: Access
    target: Access
    snapshot: str
    roster: RosterFile
    opened: KeyRing = field(repr=False)
    sealing: KeyRing = field(repr=False)
    tables: Mapping[str, Table] = field(default_factory=dict)


class _Worker:
    """Two connections and a roster, kept for all ranges of a process."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.source = connect(job.source)
        self.source.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        self.source.execute(f"SET TRANSACTION SNAPSHOT '{job.snapshot}'".encode())
        self.roster = Roster(job.roster)

    @functools.cached_property
    def target(self) -> Connection:
        """It is not there yet while people are read."""
        target = connect(self.job.target)
        # Loading is in any order; foreign keys are checked when all rows are there.
        target.execute("SET session_replication_role = replica; SET synchronous_commit = off")
        return target

    def tell(self, name: str, low: int, high: int) -> None:
        """The roster of people and of what is linked to them."""
        table = self.job.tables[name]
        if table.people:
            columns = identified(table)
            listed = [f"{quoted(c)}::text" if c == columns.key else quoted(c) for c in columns.read]
            for rows in self._rows(name, listed, low, high):
                told = [dict(zip(columns.read, row, strict=True)) for row in rows]
                self.roster.add(columns.people(told, self.job.opened))
        for kind, column in table.links.items():
            for rows in self._rows(name, [f"{quoted(column)}::text", f"{quoted(table.person)}::text"], low, high):
                self.roster.link(kind, rows)

    def _rows(self, name: str, listed: Sequence[str], low: int, high: int) -> Iterator[list[Any]]:
        with self.source.cursor("told") as cursor:
            cursor.itersize = _TOLD_ROWS
            query = f"SELECT {', '.join(listed)} FROM {qualified(name)} t WHERE {_PAGES}"  # noqa: S608 - quoted names
            cursor.execute(between(query, low, high).encode())
            while rows := cursor.fetchmany(_TOLD_ROWS):
                yield rows

    def carry(self, plan: TablePlan, recipe: Recipe, low: int, high: int) -> Masked:
        for name, value in plan.settings.items():
            self.source.execute("SELECT set_config(%s, %s, true)", (name, value))
        query = between(plan.query, low, high)
        form = "" if plan.by_python else " (FORMAT binary)"
        listed = ", ".join(quoted(c) for c in plan.columns)
        into = f"COPY {qualified(plan.name)} ({listed}) FROM STDIN{form}"
        out = copied_out(self.source, f"COPY ({query}) TO STDOUT{form}")
        with self.target.cursor() as cursor:
            missed = (0, 0)
            with cursor.copy(into.encode()) as back:
                if plan.by_python:
                    missed = self._through_python(plan, recipe, out, back)
                else:
                    _pass_on(out, back)
            return Masked(plan.name, cursor.rowcount, cursor.rowcount, *missed)

    def _through_python(self, plan: TablePlan, recipe: Recipe, out: Iterable[bytes], back: Any) -> tuple[int, int]:
        """How many values did not open, and how many texts were nobody's."""
        job = self.job
        masker = RowMasker(job.tables[plan.name], recipe, self.roster, job.opened, job.sealing)
        batch: list[list[bytes]] = []
        for chunk in out:
            batch.append(chunk[:-1].split(b"\t"))
            if len(batch) >= _BATCH_ROWS:
                back.write(masked_lines(plan, masker, batch))
                batch = []
        if batch:
            back.write(masked_lines(plan, masker, batch))
        return masker.unopened.total(), masker.unowned.total()


def copied_out(connection: Connection, statement: str) -> Iterator[bytes]:
    """Rows of a COPY TO STDOUT, by libpq's own calls: what the driver does around each costs as much as
    half of masking it. Whoever does not read to the end must close the connection."""
    server = connection.pgconn
    begun = server.exec_(statement.encode())
    if begun.status != ExecStatus.COPY_OUT:
        raise error_from_result(begun)
    while (got := server.get_copy_data(0))[0] > 0:
        yield bytes(got[1])
    while (ended := server.get_result()) is not None:
        if ended.status != ExecStatus.COMMAND_OK:
            raise error_from_result(ended)


def _pass_on(out: Iterable[bytes], back: Any) -> None:
    waiting, size = [], 0
    for chunk in out:
        waiting.append(chunk)
        size += len(chunk)
        if size >= _WRITE_BYTES:
            back.write(b"".join(waiting))
            waiting, size = [], 0
    back.write(b"".join(waiting))


def masked_lines(plan: TablePlan, masker: RowMasker, lines: Sequence[list[bytes]]) -> bytes:
    """Rows of COPY's text format as the target gets them."""
    masked = _texts_masked(plan, masker, lines) if plan.texts_alone else _rows_masked(plan, masker, lines)
    return b"\n".join([b"\t".join(line) for line in masked]) + b"\n"


def _texts_masked(plan: TablePlan, masker: RowMasker, lines: Sequence[list[bytes]]) -> Sequence[list[bytes]]:
    """The same as ``_rows_masked``, without making values of rows that have texts alone."""
    texts = [(c, plan.columns.index(c)) for c in plan.by_python]
    kind = plan.types[plan.extra[0]]
    owners = masker.owners(_read_all([line.pop() for line in lines], kind))
    for column, at in texts:
        read = _read_all([line[at] for line in lines], "text")
        for line, text, masked in zip(lines, read, masker.texts_of(read, owners, column), strict=True):
            if masked is not text:
                line[at] = _write(masked)
    return lines


def _rows_masked(plan: TablePlan, masker: RowMasker, lines: Sequence[list[bytes]]) -> Sequence[list[bytes]]:
    width = len(plan.columns)
    put_at = [(c, plan.columns.index(c)) for c in (*plan.by_python, *(c for c in plan.extra if c == "key_version"))]
    raw_at = [(c, plan.columns.index(c)) for c in plan.by_python] + [(c, width + i) for i, c in enumerate(plan.extra)]
    done_at = [(c, i) for i, c in enumerate(plan.columns) if c not in plan.by_python]
    rows = [{c: _read(line[i], plan.types[c]) for c, i in raw_at} for line in lines]
    # Of what the server masked, only what names a place is read back.
    wanted = [(c, i) for c, i in done_at if c in plan.extra]
    done = [{c: _read(line[i], plan.types[c]) for c, i in wanted} for line in lines]
    written = []
    for line, masked in zip(lines, masker.complete(rows, done), strict=True):
        for column, at in put_at:
            line[at] = _write(masked[column])
        written.append(line[:width])
    return written


_ESCAPES = {b"\\\\": b"\\", b"\\t": b"\t", b"\\n": b"\n", b"\\r": b"\r", b"\\b": b"\b", b"\\f": b"\f", b"\\v": b"\v"}


def _read(field_: bytes, kind: str) -> Any:
    """A field of COPY's text format: text, bytes or ``None``; numbers stay text."""
    if field_ == _NULL:
        return None
    if kind == "bytea":
        return bytes.fromhex(field_[3:].decode())  # \\x…
    if b"\\" in field_:
        parts = field_.split(b"\\\\")
        for escape, meant in list(_ESCAPES.items())[1:]:
            parts = [part.replace(escape, meant) for part in parts]
        field_ = b"\\".join(parts)
    return field_.decode()


def _read_all(fields: Sequence[bytes], kind: str) -> list[Any]:
    """The same of a column's fields; those without escapes, which are nearly all, at once."""
    joined = b"\n".join(fields)
    if not fields or kind == "bytea" or b"\\" in joined:
        return [_read(one, kind) for one in fields]
    return joined.decode().split("\n")


def _write(value: Any) -> bytes:
    if value is None:
        return _NULL
    if isinstance(value, bytes):
        return b"\\\\x" + value.hex().encode()
    text = str(value).encode()
    if len(text.translate(None, b"\\\t\n\r")) == len(text):
        return text
    return text.replace(b"\\", b"\\\\").replace(b"\t", b"\\t").replace(b"\n", b"\\n").replace(b"\r", b"\\r")


_worker: _Worker | None = None


def _begin(job: Job) -> None:
    global _worker  # noqa: PLW0603 - one per process of the pool
    # Rows and people refer to nothing that refers back to them, and to look for such circles after every 700
    # new ones costs a quarter of the time.
    gc.freeze()
    gc.set_threshold(1_000_000, 20, 100)
    _worker = _Worker(job)


def _working() -> _Worker:
    if _worker is None:
        raise RuntimeError("a worker without its job")
    return _worker


def _tell(name: str, low: int, high: int) -> None:
    _working().tell(name, low, high)


def _carry(plan: TablePlan, recipe: Recipe, low: int, high: int) -> Masked:
    return _working().carry(plan, recipe, low, high)


def _execute(statement: str) -> None:
    _working().target.execute(statement.encode())


def _keeps_to(check: str) -> bool:
    try:
        _execute(check)
    except psycopg.errors.ForeignKeyViolation:
        return False
    return True


def ranges(pages: int, size: int = _CHUNK_PAGES) -> list[tuple[int, int]]:
    """All pages of a table, and those that come while it is read."""
    found = [(low, min(low + size, pages)) for low in range(0, pages, size)] or [(0, 0)]
    found[-1] = (found[-1][0], 2**32 - 1)
    return found


def between(query: str, low: int, high: int) -> str:
    """A query of a range of pages, which ends before ``high``."""
    return query.replace(_LOW, str(low)).replace(_HIGH, str(high))


class Snapshot:
    """The source as it was at one moment, whoever writes to it meanwhile. To be closed."""

    def __init__(self, source: Access) -> None:
        self.connection = connect(source)
        self.connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        exported = self.connection.execute("SELECT pg_export_snapshot()").fetchone()
        self.name = str(exported[0]) if exported else ""

    def close(self) -> None:
        self.connection.close()


class Workers:
    """Two processes that read one snapshot of the source, from the first person to the last row. To be closed
    before it."""

    def __init__(self, snapshot: Snapshot, job: Job) -> None:
        self._source = snapshot.connection
        # Spawned, not forked: drivers of other engines have threads in this process.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(WORKERS, mp_context=context, initializer=_begin, initargs=(job,))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def fill_roster(self, known: Classification) -> None:
        """Read the tables of people, and those that link something to people."""
        told = [name for name, table in known.tables.items() if table.is_masked and (table.people or table.links)]
        tasks = [(name, *span) for name in told for span in ranges(_pages(self._source, name))]
        for done in as_completed([self._pool.submit(_tell, *task) for task in tasks]):
            done.result()

    def carry_over(self, plans: Sequence[TablePlan], recipe: Recipe, progress: Progress = silent) -> tuple[Masked, ...]:
        """Run all plans."""
        totals: dict[str, Masked] = {}
        tasks = [(plan, recipe, *span) for plan in plans for span in ranges(_pages(self._source, plan.name))]
        # Long ranges first, those that pass through Python before the others.
        ordered = sorted(tasks, key=lambda task: (not task[0].by_python, task[2]))
        for done in as_completed([self._pool.submit(_carry, *task) for task in ordered]):
            one = done.result()
            totals[one.name] = totals.get(one.name, Masked(one.name, 0, 0)).plus(one)
        for one in totals.values():
            progress(f"{one.name}: {one.rows} rows")
        return tuple(totals[name] for name in sorted(totals))

    def put_back(self, connection: Connection, taken: TakenOff) -> None:
        """All but the checks of foreign keys. ``connection`` is the target's."""
        for done in [self._pool.submit(_execute, statement) for statement in taken.indexes]:
            done.result()
        for statement in (*taken.keys, *taken.foreign):
            connection.execute(statement.encode())

    @contextlib.contextmanager
    def finishing(self, taken: TakenOff, names: Iterable[str]) -> Generator[list[str]]:
        """Foreign keys are checked, and statistics of the tables taken, for as long as the context is open. Then the
        list has the foreign keys that rows do not keep to."""
        broken: list[str] = []
        checks = {name: self._pool.submit(_keeps_to, check) for name, check in taken.checks.items()}
        statistics = [self._pool.submit(_execute, f"ANALYZE {qualified(name)}") for name in names]
        yield broken
        for one in statistics:
            one.result()
        broken += [name for name, check in checks.items() if not check.result()]


def _pages(connection: Connection, table: str) -> int:
    row = connection.execute(
        "SELECT pg_relation_size(%s::regclass) / current_setting('block_size')::bigint", (qualified(table),)
    ).fetchone()
    return int(row[0]) if row else 0


# The target


def make_target(access: Access, source: Access) -> Access:
    """Create the target's database, which must not be there. The server may be the source's own."""
    with connect(access, "postgres") as server:
        name = access.endpoint.database
        if server.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
            with connect(access) as target, connect(source) as origin:
                if identity_of(target) == identity_of(origin):
                    raise SameDatabase(access.name)
            raise TargetExists(access.name, name)
        server.execute(f"CREATE DATABASE {quoted(name)} TEMPLATE template0".encode())
        server.execute(f"REVOKE ALL ON DATABASE {quoted(name)} FROM PUBLIC".encode())
    return access


def drop_target(access: Access) -> None:
    with connect(access, "postgres") as server:
        server.execute(f"DROP DATABASE IF EXISTS {quoted(access.endpoint.database)} WITH (FORCE)".encode())


@contextlib.contextmanager
def open_for_loading(connection: Connection, tables: Sequence[str]) -> Generator[None]:
    """Tables emptied of what the schema put in, and without triggers that would change what is loaded,
    for as long as the context is open."""
    before = connection.execute(
        "SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'D'"
    ).fetchall()
    for table, trigger, _ in before:
        connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER {quoted(trigger)}".encode())
    if tables:
        connection.execute(f"TRUNCATE {', '.join(qualified(t) for t in tables)} CASCADE".encode())
    yield
    for table, trigger, state in before:
        word = "ENABLE ALWAYS" if state == "A" else "ENABLE REPLICA" if state == "R" else "ENABLE"
        connection.execute(f"ALTER TABLE {table} {word} TRIGGER {quoted(trigger)}".encode())


_RECHAIN = """
DO $$
DECLARE
    event audit.events;
    before bigint;
    n bigint := 0;
    link bytea := sha256('drp audit chain'::bytea);
BEGIN
    FOR event IN SELECT * FROM audit.events ORDER BY sequence LOOP
        before := event.sequence;
        n := n + 1;
        event.sequence := n;
        event.previous_hash := link;
        event.hash := audit.hash_of(event);
        UPDATE audit.events e SET sequence = n, previous_hash = event.previous_hash, hash = event.hash
        WHERE e.sequence = before;
        link := event.hash;
    END LOOP;
    DELETE FROM audit.head;
    INSERT INTO audit.head (sequence, hash) VALUES (n, link);
END;
$$
"""


def rechain(connection: Connection, known: Classification) -> None:
    """Number and chain the masked audit events anew, as their own triggers would have."""
    events = known.tables.get("audit.events")
    if events is not None and events.is_masked and any(c.holds is Holds.CHAIN for c in events.columns.values()):
        connection.execute(_RECHAIN)


def advance_sequences(connection: Connection, plans: Sequence[TablePlan]) -> None:
    """The next number of every column that counts itself lies above the loaded ones."""
    for plan in plans:
        for column in plan.columns:
            row = connection.execute("SELECT pg_get_serial_sequence(%s, %s)", (qualified(plan.name), column)).fetchone()
            if row and row[0]:
                connection.execute(
                    f"SELECT setval(%s, coalesce((SELECT max({quoted(column)}) FROM {qualified(plan.name)}), 0) + 1, false)".encode(),  # noqa: S608, E501
                    (row[0],),
                )


def check_plan(schema: SchemaFacts, known: Classification) -> None:
    """Raises ``NotMaskable`` with everything."""
    if problems := problems_of(schema, known):
        raise NotMaskable(problems)
