"""Copies of a database in the same server, for trying a change of its schema.

A copy is the server's own (``CREATE DATABASE … TEMPLATE``) where PostgreSQL's source is small and nobody is
connected. Else the applied steps are run anew in an empty database, which must come to the same shape, and a sample
of rows is copied, those without their parents left out. Copies are removed when the context ends; what a killed
rehearsal left behind is removed by the next one.

Here: making, filling and removing copies, and looking at a runner's locks. Not here: what is tried (``migrations``).
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from dr_platform.databases.cql import CqlDatabase
from dr_platform.databases.mongodb import MongoDatabase
from dr_platform.databases.port import Endpoint, ManagedDatabase, SchemaStep
from dr_platform.databases.postgresql import RUNNER, PostgresDatabase
from dr_platform.databases.schema import migrate, version_key
from dr_platform.errors import ExitCode, PlatformError, TemporaryFailure
from dr_platform.identity import new_id

PREFIX = "drp_rehearsal_"
SAMPLE_ROWS = 1000
"""Of each table: enough for constraints and types to meet real values."""
TEMPLATE_BYTES = 1 << 30
"""A larger database is not copied whole: nobody could connect to it meanwhile."""
_LOCK = 0x6472705F7265  # "drp_re": one rehearsal at a time per server
_LOOK_S = 0.005
_MODE = re.compile(r"(?<!^)(?=[A-Z])")

Connect = Callable[[Endpoint], ManagedDatabase]
"""Connects as ``admin`` to another database of the same server."""


class NoClone(PlatformError):
    """A copy cannot be made, so nothing can be tried on one."""

    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, why: str, remedy: str) -> None:
        super().__init__(name, why, remedy)
        self.what = f"{name}: no copy to rehearse on: {why}"
        self.untouched = f"the schema and the data of {name}"
        self.next_step = remedy


class RehearsalUnderWay(TemporaryFailure):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.what = f"{name}: another rehearsal is under way on its server"
        self.untouched = f"the schema and the data of {name}"
        self.next_step = "repeat it when that has ended"


@dataclass(frozen=True)
class PlainClone:
    """A copy on a server without table locks that could be looked at."""

    db: ManagedDatabase
    how: str

    def locks_during(self, act: Callable[[], object]) -> tuple[str, ...]:
        act()
        return ()


@dataclass(frozen=True)
class PostgresClone:
    db: PostgresDatabase
    how: str
    observer: PostgresDatabase
    """A second connection to the copy."""

    def locks_during(self, act: Callable[[], object]) -> tuple[str, ...]:
        """Looked at when the step begins, while it goes on, and right before it ends, when it holds all."""
        sampler = _LockSampler(self.observer)
        self.db.watch = sampler.look
        try:
            with sampler:
                act()
        finally:
            self.db.watch = None
        return sampler.seen()


@contextlib.contextmanager
def clone(
    db: ManagedDatabase, connect: Connect, steps: Sequence[SchemaStep], sample_rows: int = SAMPLE_ROWS
) -> Generator[PlainClone | PostgresClone]:
    """A copy of ``db``, made by its own server. ``steps`` are the files of the catalog. Raises ``NoClone``."""
    match db:
        case PostgresDatabase():
            with _postgresql(db, connect, steps, sample_rows) as copy:
                yield copy
        case MongoDatabase():
            with _mongodb(db, connect, steps) as copy:
                yield copy
        case CqlDatabase():
            with _cql(db, connect, steps) as copy:
                yield copy
        case _:
            why = "its server has one key space, and everything in it is live"
            raise NoClone(db.database.name, why, "try the step on another environment first")


def _replay(db: ManagedDatabase, copy: ManagedDatabase, steps: Sequence[SchemaStep]) -> None:
    """Run the applied steps in an empty copy. Raises ``NoClone`` where that is not what is live."""
    name, applied = db.database.name, db.applied()
    known = {version_key(step.version): step for step in steps}
    missing = [record.version for record in applied if version_key(record.version) not in known]
    if missing:
        remedy = "use the catalog of the release that applied them"
        raise NoClone(name, f"there are no files for {', '.join(missing)}", remedy)
    migrate(copy, [known[version_key(record.version)] for record in applied])
    live, made = set(db.shape()), set(copy.shape())
    if live != made:
        differing = len(live ^ made)
        why = f"the live schema is not what its files make, {differing} properties differ"
        raise NoClone(name, why, f"see `drp check schema/{name}` (drift) and mend that first")


# PostgreSQL


@contextlib.contextmanager
def _postgresql(
    db: PostgresDatabase, connect: Connect, steps: Sequence[SchemaStep], sample_rows: int
) -> Generator[PostgresClone]:
    server = db.endpoint
    with contextlib.closing(_as_postgres(connect(Endpoint(server.host, server.port, "postgres")))) as keeper:
        if not _is_true(keeper.connection, sql.SQL("SELECT pg_try_advisory_lock({})").format(_LOCK)):
            raise RehearsalUnderWay(db.database.name)
        _remove_leftovers(keeper)
        name = f"{PREFIX}{new_id('c').rpartition('-')[2].lower()}"
        endpoint = Endpoint(server.host, server.port, name)
        try:
            whole = _copy_whole(keeper, db, name)
            with (
                contextlib.closing(_as_postgres(connect(endpoint))) as copy,
                contextlib.closing(_as_postgres(connect(endpoint))) as observer,
            ):
                how = "the whole database" if whole else _copy_sample(db, copy, steps, sample_rows)
                yield PostgresClone(copy, how, observer)
        finally:
            drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            keeper.connection.execute(drop)


def _is_true(connection: psycopg.Connection[Any], question: sql.Composed) -> bool:
    row = connection.execute(question).fetchone()
    return row is not None and row[0] is True


def _as_postgres(db: ManagedDatabase) -> PostgresDatabase:
    if not isinstance(db, PostgresDatabase):
        raise TypeError("a copy of PostgreSQL lies in PostgreSQL")
    return db


def _remove_leftovers(keeper: PostgresDatabase) -> None:
    """We hold the lock, so every copy that there is belonged to somebody who was killed."""
    found = keeper.connection.execute(
        "SELECT datname FROM pg_database WHERE starts_with(datname, %s)", (PREFIX,)
    ).fetchall()
    for (name,) in found:
        keeper.connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _copy_whole(keeper: PostgresDatabase, db: PostgresDatabase, name: str) -> bool:
    """Make the copy: whole where nobody would have to wait for it, else empty."""
    source = db.endpoint.database
    ours = db.connection.info.backend_pid
    db.close()  # a template has no sessions; the next call opens ours again
    # Sessions that we have just ended may be there a moment longer. The server itself waits for those.
    row = keeper.connection.execute(
        "SELECT pg_database_size(%s), (SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND pid <> %s"
        " AND backend_type = 'client backend' AND application_name <> %s)",
        (source, source, ours, RUNNER),
    ).fetchone()
    size, sessions = row or (0, 1)
    made = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
    if sessions == 0 and size <= TEMPLATE_BYTES:
        try:
            keeper.connection.execute(made.format(sql.Identifier(name), sql.Identifier(source)))
        except psycopg.errors.ObjectInUse:  # somebody came meanwhile
            pass
        else:
            return True
    keeper.connection.execute(made.format(sql.Identifier(name), sql.Identifier("template0")))
    return False


def _copy_sample(db: PostgresDatabase, copy: PostgresDatabase, steps: Sequence[SchemaStep], rows: int) -> str:
    _replay(db, copy, steps)
    source, target = db.connection, copy.connection
    target.execute("SET session_replication_role = replica")  # rows come in any order; orphans are removed below
    copied, failed = 0, 0
    for table, columns in _tables(target):
        try:
            copied += _copy_rows(source, target, table, columns, rows)
        except psycopg.Error:
            failed += 1
    _remove_orphans(target)
    target.execute("RESET session_replication_role")
    target.execute("ANALYZE")
    rest = f", {failed} tables could not be sampled" if failed else ""
    return f"its schema made anew with a sample of {copied} rows{rest}"


def _tables(connection: psycopg.Connection[Any]) -> list[tuple[sql.Identifier, list[str]]]:
    """Empty tables of the copy, with the columns that can be written. What the steps filled is left as it is."""
    found = connection.execute(
        "SELECT n.nspname, c.relname, array_agg(a.attname ORDER BY a.attnum) FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid"
        " WHERE c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''"
        " AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' AND c.relname NOT LIKE 'drp\\_%'"
        " GROUP BY 1, 2 ORDER BY 1, 2"
    ).fetchall()
    tables = [(sql.Identifier(schema, table), columns) for schema, table, columns in found]
    empty = sql.SQL("SELECT NOT EXISTS (SELECT FROM {})")
    return [(table, columns) for table, columns in tables if _is_true(connection, empty.format(table))]


def _copy_rows(
    source: psycopg.Connection[Any],
    target: psycopg.Connection[Any],
    table: sql.Identifier,
    columns: Sequence[str],
    rows: int,
) -> int:
    named = sql.SQL(", ").join(map(sql.Identifier, columns))
    read = sql.SQL("COPY (SELECT {} FROM {} LIMIT {}) TO STDOUT (FORMAT binary)").format(
        named, table, sql.Literal(rows)
    )
    write = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(table, named)
    with source.cursor() as reading, target.cursor() as writing:
        with reading.copy(read) as out, writing.copy(write) as into:
            for block in out:
                into.write(block)
        return max(writing.rowcount, 0)


_FOREIGN_KEYS = """
SELECT c.conrelid::regclass::text, c.confrelid::regclass::text,
    (SELECT array_agg(a.attname ORDER BY k.n) FROM unnest(c.conkey) WITH ORDINALITY k(num, n)
     JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.num),
    (SELECT array_agg(a.attname ORDER BY k.n) FROM unnest(c.confkey) WITH ORDINALITY k(num, n)
     JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.num)
FROM pg_constraint c WHERE c.contype = 'f'
"""


def _remove_orphans(connection: psycopg.Connection[Any]) -> None:
    """Until every row has its parents: removing one may make others orphans."""
    statements = list(_orphan_statements(connection))
    while sum(max(connection.execute(statement).rowcount, 0) for statement in statements):
        continue


def _orphan_statements(connection: psycopg.Connection[Any]) -> Iterator[sql.Composed]:
    for child, parent, columns, keys in connection.execute(_FOREIGN_KEYS).fetchall():
        pairs = [
            (sql.Identifier("c", column), sql.Identifier("p", key)) for column, key in zip(columns, keys, strict=True)
        ]
        whole = sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(column) for column, _ in pairs)
        same = sql.SQL(" AND ").join(sql.SQL("{} = {}").format(column, key) for column, key in pairs)
        # The server wrote these names itself, quoted where they must be.
        yield sql.SQL("DELETE FROM {} c WHERE {} AND NOT EXISTS (SELECT FROM {} p WHERE {})").format(
            sql.SQL(child), whole, sql.SQL(parent), same
        )


class _LockSampler:
    """Collects the table locks of the processes it is told of, from a thread and when asked."""

    _QUERY: LiteralString = (
        "SELECT DISTINCT l.mode, n.nspname || '.' || c.relname FROM pg_locks l JOIN pg_class c ON c.oid = l.relation"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE l.pid = ANY(%s) AND l.granted AND l.locktype = 'relation' AND c.relkind IN ('r', 'p', 'm', 'v')"
        " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND n.nspname NOT LIKE 'pg\\_%%' AND c.relname NOT LIKE 'drp\\_%%'"
        " AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')"
    )
    _ORDER = (
        "RowExclusiveLock",
        "ShareUpdateExclusiveLock",
        "ShareLock",
        "ShareRowExclusiveLock",
        "ExclusiveLock",
        "AccessExclusiveLock",
    )

    def __init__(self, observer: PostgresDatabase) -> None:
        self._observer = observer
        self._one = threading.Lock()
        self._pids: set[int] = set()
        self._strongest: dict[str, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="locks", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def look(self, pid: int) -> None:
        with self._one:
            self._pids.add(pid)
            for mode, table in self._observer.connection.execute(self._QUERY, (list(self._pids),)).fetchall():
                self._strongest[table] = max(self._ORDER.index(mode), self._strongest.get(table, 0))

    def _go_on(self) -> None:
        while not self._ended.wait(_LOOK_S):
            for pid in tuple(self._pids):
                with contextlib.suppress(psycopg.Error):  # what the runner asks itself is not left out
                    self.look(pid)

    def seen(self) -> tuple[str, ...]:
        ordered = sorted(self._strongest.items(), key=lambda item: (-item[1], item[0]))
        return tuple(f"{_title(self._ORDER[mode])} on {table}" for table, mode in ordered)


def _title(mode: str) -> str:
    return " ".join(_MODE.split(mode.removesuffix("Lock"))).upper()


# The others


@contextlib.contextmanager
def _mongodb(db: MongoDatabase, connect: Connect, steps: Sequence[SchemaStep]) -> Generator[PlainClone]:
    for name in db.client.list_database_names():
        if name.startswith(PREFIX):
            db.client.drop_database(name)
    endpoint = Endpoint(db.endpoint.host, db.endpoint.port, f"{PREFIX}{new_id('c').rpartition('-')[2].lower()}")
    with contextlib.closing(connect(endpoint)) as copy:
        try:
            _replay(db, copy, steps)
            yield PlainClone(copy, "its schema made anew, without documents")
        finally:
            db.client.drop_database(endpoint.database)


@contextlib.contextmanager
def _cql(db: CqlDatabase, connect: Connect, steps: Sequence[SchemaStep]) -> Generator[PlainClone]:
    name = f"{PREFIX}{new_id('c').rpartition('-')[2].lower()}"
    keyspaces = {
        row.keyspace_name: row.replication for row in db.session.execute("SELECT * FROM system_schema.keyspaces")
    }
    for left in keyspaces:
        if left.startswith(PREFIX):
            db.session.execute(f"DROP KEYSPACE IF EXISTS {left}", timeout=60)
    replication = dict(keyspaces[db.endpoint.database])
    db.session.execute(f"CREATE KEYSPACE {name} WITH replication = {replication}", timeout=60)
    try:
        with contextlib.closing(connect(Endpoint(db.endpoint.host, db.endpoint.port, name))) as copy:
            _replay(db, copy, steps)
            yield PlainClone(copy, "its schema made anew, without rows")
    finally:
        db.session.execute(f"DROP KEYSPACE IF EXISTS {name}", timeout=60)
