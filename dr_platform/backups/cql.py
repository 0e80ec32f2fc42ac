"""Backups of a CQL keyspace (ScyllaDB, Cassandra): its schema, and its rows by ranges of tokens.

These servers have no snapshot that could be read by queries, so each table is read once, one after the
other, into a private folder, and measured as it is read. Each row is whole; between two tables, and between
two rows of one, there may lie a moment, and the facts say so. Values keep their write times, so that what
is brought back loses against what is newer.

What a server can do by itself (files of its tables, taken and uploaded by ``nodetool`` or Scylla Manager)
is named in the facts and not done here: it needs access to every node. For large clusters it is the faster
way.

Here: the adapter of ``BackupEngine``. Not here: the schema (``cql_schema``), the format of rows (``cql_rows``).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cassandra import DriverException, OperationTimedOut, WriteTimeout
from cassandra.cluster import EXEC_PROFILE_DEFAULT, NoHostAvailable
from cassandra.concurrent import execute_concurrent
from cassandra.protocol import ProtocolHandler, ResultMessage, read_int
from cassandra.query import BoundStatement, SimpleStatement

from dr_platform.backups.bucket import segment_of
from dr_platform.backups.chunks import Cut
from dr_platform.backups.cql_rows import Expiry, Raw, Row, Selection, Write, read, writes, written
from dr_platform.backups.cql_schema import (
    MAKING,
    SHAPING,
    Schema,
    Statement,
    Table,
    describe,
    moved,
    portable,
    quoted,
    read_schema,
)
from dr_platform.backups.piecewise import PiecewiseRestoration, measured
from dr_platform.backups.port import (
    Facts,
    Kind,
    Probe,
    Restoration,
    Snapshot,
    StoredBackup,
    StoredPiece,
    Switching,
)
from dr_platform.backups.scratch_server import scratch_server, workplace
from dr_platform.backups.source import (
    HEARTBEAT,
    RestoreFailed,
    SnapshotFailed,
    Source,
    TargetRefused,
    new_name,
)
from dr_platform.backups.spool import SpooledSnapshot, spool
from dr_platform.backups.switch import NoSwitch, by_hand
from dr_platform.backups.tally import Tally, together
from dr_platform.clock import Clock, SystemClock
from dr_platform.databases.cql import CqlDatabase
from dr_platform.databases.embedded.cql import UNKEPT
from dr_platform.databases.port import Endpoint
from dr_platform.identity import new_id

SCHEMA = "schema"
ALGORITHM = "sum of SHA-256 over rows with write times"
WITHOUT_COLLECTIONS = f"{ALGORITHM}, those of collections unknown"
_SCOPE = "backup"
_PAGE_ROWS = 500
_QUERY_S, _STATEMENT_S = 60.0, 60.0
_RANGE_BYTES = 64 << 20
_MOST_RANGES = 256
_IN_FLIGHT = 64
_STATEMENTS_AT_ONCE = 512
_ATTEMPTS = 3
_BUILT_WITHIN_S = 120.0
_COMPARED_FOR_S = 86_400
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1
_FAILURES = (DriverException, NoHostAvailable, OSError)


@dataclass(frozen=True)
class CqlBackups:
    """A ``BackupEngine``. ``base`` is where working folders are made; tables larger than ``range_bytes``
    are cut, and each into at least ``least_ranges``."""

    source: Source
    base: Path
    clock: Clock = field(default_factory=SystemClock)
    make_id: Callable[[str], str] = new_id
    range_bytes: int = _RANGE_BYTES
    least_ranges: int = 1

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return (Kind.CQL,)

    def snapshot(self, kind: Kind, parent: StoredBackup | None = None) -> AbstractContextManager[Snapshot]:
        if kind is not Kind.CQL or parent is not None:
            raise SnapshotFailed(self.source.name, f"CQL has no {kind} backups, and none with a parent")
        return self._snapshot()

    @contextlib.contextmanager
    def _snapshot(self) -> Generator[Snapshot]:
        with workplace(self.base) as folder:
            with _connected(self.source) as live, self._failures():
                _beat(live, self.make_id("hb"))
                snapshot = self._read(live, folder)
            yield snapshot

    @contextlib.contextmanager
    def _failures(self) -> Generator[None]:
        try:
            yield
        except _FAILURES as exc:
            raise SnapshotFailed(self.source.name, type(exc).__name__) from exc

    def _read(self, live: CqlDatabase, folder: Path) -> SpooledSnapshot:
        keyspace = live.endpoint.database
        schema, statements = read_schema(live.session, keyspace), describe(live.session, keyspace)
        content = {"keyspace": keyspace, "statements": [asdict(statement) for statement in statements]}
        pieces = [spool(SCHEMA, {}, (json.dumps(content).encode(),), folder / "0")]
        tallies: dict[str, Tally] = {}
        for table in schema.tables:
            selection = Selection(table, _knows_collection_times(live))
            parts = [(tokens, Tally()) for tokens in token_ranges(self._pieces(live, table))]
            for number, (tokens, tally) in enumerate(parts):
                stream = written(selection, select(live, selection, tokens, self.clock), tally)
                facts = {"table": table.name, "range": f"{number + 1} of {len(parts)}"}
                name = f"tables/{segment_of(table.name)}/{number:04d}"
                pieces.append(spool(name, facts, stream, folder / str(len(pieces))))
            tallies[table.name] = together(tally for _, tally in parts)
        consistency = {"consistency": "each row at a moment of its own: the server has no snapshots to query"}
        return SpooledSnapshot(tuple(pieces), _measured(live, schema, tallies, {**consistency, **_by_itself(live)}))

    def _pieces(self, live: CqlDatabase, table: Table) -> int:
        """By the server's estimate, which is minutes old and only has to be about right."""
        query = "SELECT mean_partition_size, partitions_count FROM system.size_estimates"
        where = " WHERE keyspace_name = %s AND table_name = %s"
        found = live.session.execute(query + where, (live.endpoint.database, table.name))
        size = sum(row.mean_partition_size * row.partitions_count for row in found)
        return min(max(-(-size // self.range_bytes), self.least_ranges), _MOST_RANGES)

    @contextlib.contextmanager
    def scratch(self) -> Generator[Restoration]:
        with contextlib.ExitStack() as held:
            # Nothing expires while the copy is compared, however old the backup is.
            target = functools.partial(self._scratch, held)
            yield CqlRestoration("a scratch server", target, engine=self, least_s=_COMPARED_FOR_S)

    def _scratch(self, held: contextlib.ExitStack) -> CqlDatabase:
        server = held.enter_context(scratch_server(self.source.database, self.base, self.clock, environment=UNKEPT))
        target = held.enter_context(_connected(Source(self.source.database, server.endpoint, server.login)))
        # It is thrown away after the proof, so no write has to reach its log first.
        _change(target, f"ALTER KEYSPACE {quoted(target.endpoint.database)} WITH durable_writes = false")
        return target

    @contextlib.contextmanager
    def new_database(self, name: str) -> Generator[Restoration]:
        source = self.source
        target = Endpoint(source.endpoint.host, source.endpoint.port, new_name(source, name))
        with _connected(source) as live, contextlib.ExitStack() as held:
            replication = _replication(live)
            if _has_keyspace(live, name):
                raise TargetRefused(source.name, name, "there is such a keyspace", "name one that does not exist")
            _change(live, f"CREATE KEYSPACE {quoted(name)} WITH replication = {replication}")
            beside = Source(source.database, target, source.login)
            try:
                place = f"{target.address}/{name}"
                yield CqlRestoration(place, lambda: held.enter_context(_connected(beside)), engine=self)
            except BaseException:
                _change(live, f"DROP KEYSPACE {quoted(name)}")
                raise

    def switching(self) -> Switching:
        why = "because CQL cannot rename a keyspace"
        raise NoSwitch(self.source.name, why, by_hand(self.source.name))


@contextlib.contextmanager
def _connected(source: Source) -> Generator[CqlDatabase]:
    with contextlib.closing(CqlDatabase(source.database, source.endpoint, source.login)) as database:
        yield database


def _cluster(database: CqlDatabase) -> Any:
    return database.session.cluster


def _change(database: CqlDatabase, text: str) -> None:
    """Run a schema change and wait until all nodes agree. Raises ``OperationTimedOut`` where they do not."""
    asked = database.session.execute_async(text, timeout=_STATEMENT_S)
    asked.result()
    if not asked.is_schema_agreed:
        _cluster(database).control_connection.wait_for_schema_agreement(wait_time=_STATEMENT_S)


def _has_keyspace(live: CqlDatabase, name: str) -> bool:
    query = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = %s"
    return live.session.execute(query, (name,)).one() is not None


def _replication(live: CqlDatabase) -> str:
    query = "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = %s"
    found = live.session.execute(query, (live.endpoint.database,)).one().replication
    return "{" + ", ".join(f"'{key}': '{value}'" for key, value in found.items()) + "}"


def _beat(live: CqlDatabase, nonce: str) -> None:
    place = f"{quoted(live.endpoint.database)}.{HEARTBEAT}"
    _change(live, f"CREATE TABLE IF NOT EXISTS {place} (scope text PRIMARY KEY, nonce text)")
    live.session.execute(f"INSERT INTO {place} (scope, nonce) VALUES (%s, %s)", (_SCOPE, nonce))  # noqa: S608 - our names


def _by_itself(live: CqlDatabase) -> Mapping[str, str]:
    info = live.server()
    able = "nodetool snapshot on every node"
    if info.server == "ScyllaDB":
        able += ", Scylla Manager; from 2025.2 on nodetool backup, which uploads"
    return {"server_snapshots": f"{info.server} can: {able}"}


def _knows_collection_times(live: CqlDatabase) -> bool:
    info = live.server()
    return info.server == "Apache Cassandra" and int(info.version.split(".")[0]) >= 5


# Reading rows


class _RawResult(ResultMessage):
    """Rows as the protocol's bytes."""

    def recv_results_rows(
        self,
        f: Any,
        protocol_version: int,
        user_type_map: Any,
        result_metadata: Any,
        column_encryption_policy: Any,
    ) -> None:
        del protocol_version, column_encryption_policy
        self.recv_results_metadata(f, user_type_map)
        columns = self.column_metadata or result_metadata
        self.column_names = [column[2] for column in columns]
        self.column_types = [column[3] for column in columns]
        self.parsed_rows = [self.recv_row(f, len(columns)) for _ in range(read_int(f))]


class _RawProtocol(ProtocolHandler):
    message_types_by_opcode = {**ProtocolHandler.message_types_by_opcode, _RawResult.opcode: _RawResult}  # noqa: RUF012


def _as_it_is(_: Sequence[str], rows: list[Any]) -> list[Any]:
    return rows


Tokens = tuple[int, int]
"""The lower one is not part of it, unless it is the lowest of all."""


def token_ranges(number: int) -> tuple[Tokens, ...]:
    """The whole ring in about equal parts."""
    ends = [_LOWEST + (2**64 - 1) * at // number for at in range(number)] + [_HIGHEST]
    return tuple(itertools.pairwise(ends))


def select(live: CqlDatabase, selection: Selection, tokens: Tokens, clock: Clock) -> Iterator[Row]:
    """Every row whose token is in the range, page by page."""
    session = _cluster(live).connect()
    session.client_protocol_handler = _RawProtocol
    try:
        profile = session.execution_profile_clone_update(EXEC_PROFILE_DEFAULT, row_factory=_as_it_is)
        query = SimpleStatement(_query(live.endpoint.database, selection, tokens), fetch_size=_PAGE_ROWS)
        answer = session.execute(query, execution_profile=profile, timeout=_QUERY_S)
        while True:
            now_s = int(clock.now().timestamp())
            yield from (selection.row(found, now_s) for found in answer.current_rows)
            if not answer.has_more_pages:
                return
            answer.fetch_next_page()
    finally:
        session.shutdown()


def _query(keyspace: str, selection: Selection, tokens: Tokens) -> str:
    table = selection.table
    token = f"token({', '.join(quoted(column.name) for column in table.of('partition_key'))})"
    lower, upper = tokens
    above = ">=" if lower == _LOWEST else ">"
    place = f"{quoted(keyspace)}.{quoted(table.name)}"
    return f"SELECT {selection.columns} FROM {place} WHERE {token} {above} {lower} AND {token} <= {upper}"  # noqa: S608 - quoted names


def count(live: CqlDatabase, selection: Selection, clock: Clock) -> Tally:
    tally = Tally()
    for row in select(live, selection, (_LOWEST, _HIGHEST), clock):
        tally.add(row.digest_input())
    return tally


def _measured(live: CqlDatabase, schema: Schema, tallies: Mapping[str, Tally], position: Mapping[str, str]) -> Facts:
    beat = live.session.execute(
        f"SELECT nonce FROM {quoted(live.endpoint.database)}.{HEARTBEAT} WHERE scope = %s",  # noqa: S608 - our names
        (_SCOPE,),
    ).one()
    algorithm = ALGORITHM if _knows_collection_times(live) else WITHOUT_COLLECTIONS
    return measured(live, algorithm, beat.nonce if beat else "", schema.fingerprint, tallies, position)


# Restoring


@dataclass
class CqlRestoration(PiecewiseRestoration[CqlDatabase]):
    kind = Kind.CQL
    described_by = SCHEMA
    failures = _FAILURES

    engine: CqlBackups = field(kw_only=True)
    least_s: int = 0
    _expiring: set[str] = field(default_factory=set)
    _unbuilt: tuple[str, ...] = ()

    def _require_all(self, backup: StoredBackup) -> None:
        """Every range of every table is there."""
        ranges = [(str(piece.facts.get("table")), str(piece.facts.get("range"))) for piece in backup.pieces]
        for table in backup.facts.tables:
            found = [part for name, part in ranges if name == table.name]
            wanted = int(found[0].rpartition(" of ")[2]) if found else 1
            if len(set(found)) != wanted:
                raise RestoreFailed(self.place, f"{table.name} has {len(set(found))} of {wanted} ranges")

    def _bring_back(self, backup: StoredBackup, description: bytes, pieces: Collection[StoredPiece]) -> None:
        statements = self._statements(json.loads(description))
        self._make(statements, MAKING)
        tables = {table.name: table for table in self._schema().tables}
        for piece in pieces:
            self._load(piece, _table_of(piece, tables))
        self._make(statements, SHAPING)
        self._unbuilt = _await_builds(self.target, self._schema(), self.engine.clock)
        if self._expiring and not self.least_s and backup.facts.exact:
            self._compare_what_stays(backup)

    def _schema(self) -> Schema:
        return read_schema(self.target.session, self.target.endpoint.database)

    def _statements(self, content: Mapping[str, Any]) -> tuple[Statement, ...]:
        own = self._is_like_its_source()
        found = (Statement(**kept) for kept in content["statements"])
        target = self.target.endpoint.database
        return tuple(
            replace(kept, text=moved(kept.text if own else portable(kept.text), content["keyspace"], target))
            for kept in found
        )

    def _make(self, statements: Sequence[Statement], kinds: Sequence[str]) -> None:
        for kind in kinds:
            for statement in statements:
                if statement.kind == kind:
                    _change(self.target, statement.text)

    def _load(self, piece: StoredPiece, table: Table) -> None:
        expiry = Expiry(int(self.engine.clock.now().timestamp()), self.least_s)
        loader = Loader(self.target, table.counts)
        rows = _with_partitions(read(piece.read(), table), len(table.of("partition_key")))
        keyspace = self.target.endpoint.database
        planned = (
            write
            for row, first in rows
            for write in writes(keyspace, table, self._seen(table, row), expiry, begins_partition=first)
        )
        while batch := list(itertools.islice(planned, _STATEMENTS_AT_ONCE)):
            loader.run(batch)

    def _seen(self, table: Table, row: Row) -> Row:
        if any(cell.expires_at_s is not None for cell in row.cells):
            self._expiring.add(table.name)
        return row

    def _compare_what_stays(self, backup: StoredBackup) -> None:
        """Where values of one table expire, the copy as a whole cannot be compared; the other tables can."""
        wanted = {table.name: table for table in backup.facts.tables if table.name not in self._expiring}
        found = {table.name: table for table in self.facts().tables}
        if differ := sorted(name for name, table in wanted.items() if found.get(name) != table):
            raise RestoreFailed(self.address, f"{len(differ)} tables differ from the backup, {differ[0]} among them")

    def facts(self) -> Facts:
        """Not exact where values went on towards their expiry."""
        times = self._backup is None or self._backup.facts.algorithm == ALGORITHM
        schema = self._schema()
        clock = self.engine.clock
        tallies = {table.name: count(self.target, Selection(table, times), clock) for table in schema.tables}
        found = _measured(self.target, schema, tallies, {})
        return replace(found, exact=bool(self.least_s) or not self._expiring)

    def probes(self) -> Sequence[Probe]:
        schema = self._schema()
        derived = len(schema.names("index")) + len(schema.names("view"))
        built = f"{derived - len(self._unbuilt)} of {derived} indexes and views are built"
        return (Probe("indexes_and_views", not self._unbuilt, built), _found_by_key(self.target, schema))


def _table_of(piece: StoredPiece, tables: Mapping[str, Table]) -> Table:
    name = str(piece.facts["table"])
    if name not in tables:
        raise Cut(f"the schema has no table {name}")
    return tables[name]


def _with_partitions(rows: Iterator[Row], partition: int) -> Iterator[tuple[Row, bool]]:
    """Each row, and whether it is the first of its partition. A partition is never cut by a range."""
    before: tuple[Raw, ...] | None = None
    for row in rows:
        here = row.keys[:partition]
        yield row, here != before
        before = here


class Loader:
    """Runs statements with bounded concurrency, prepared once each."""

    def __init__(self, target: CqlDatabase, counts: bool) -> None:
        self._session = target.session
        # An increment that was carried out without an answer must not be repeated.
        self._attempts = 1 if counts else _ATTEMPTS
        self._prepare = functools.cache(self._session.prepare)

    def run(self, batch: Sequence[Write]) -> None:
        for left in reversed(range(self._attempts)):
            bound = [(self._bind(write), None) for write in batch]
            try:
                execute_concurrent(self._session, bound, concurrency=_IN_FLIGHT, raise_on_first_error=True)
            except (OperationTimedOut, WriteTimeout):
                if not left:
                    raise
            else:
                return

    def _bind(self, write: Write) -> BoundStatement:
        bound = BoundStatement(self._prepare(write.text))
        bound.values = list(write.values)  # bytes already: binding would encode them
        return bound


def _await_builds(target: CqlDatabase, schema: Schema, clock: Clock) -> tuple[str, ...]:
    """Names of indexes and views that were not built in time."""
    give_up = clock.monotonic() + _BUILT_WITHIN_S
    wanted = {*schema.names("index"), *schema.names("view")}
    while (missing := wanted - _built(target)) and clock.monotonic() < give_up:
        clock.sleep(0.2)
    return tuple(sorted(missing))


def _built(target: CqlDatabase) -> set[str]:
    keyspace = target.endpoint.database
    views = target.session.execute("SELECT view_name FROM system.built_views WHERE keyspace_name = %s", (keyspace,))
    found = {row.view_name for row in views}
    if target.server().server == "ScyllaDB":  # an index is a view there
        return found | {name.removesuffix("_index") for name in found}
    indexes = target.session.execute('SELECT index_name FROM system."IndexInfo" WHERE table_name = %s', (keyspace,))
    return found | {row.index_name for row in indexes}


def _found_by_key(target: CqlDatabase, schema: Schema) -> Probe:
    """One row of each table is asked for by its whole key."""
    tried = found = 0
    keyspace = quoted(target.endpoint.database)
    for table in schema.tables:
        place = f"{keyspace}.{quoted(table.name)}"
        names = [quoted(column.name) for column in table.keys]
        row = target.session.execute(f"SELECT {', '.join(names)} FROM {place} LIMIT 1").one()  # noqa: S608 - quoted names
        if row is None or None in tuple(row):
            continue
        where = " AND ".join(f"{name} = ?" for name in names)
        ask = target.session.prepare(f"SELECT {names[0]} FROM {place} WHERE {where}")  # noqa: S608 - quoted names
        tried += 1
        found += target.session.execute(ask, tuple(row)).one() is not None
    return Probe("found_by_key", tried == found, f"{found} of {tried} tables give a row by its key")
