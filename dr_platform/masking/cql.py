"""Masking ScyllaDB or Cassandra: table by table into a new keyspace, a page of rows at a time.

Here: the engine's part of ``EngineMasking``. Not here: what a value becomes (``rows``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from cassandra.concurrent import execute_concurrent_with_args
from cassandra.query import SimpleStatement

from dr_platform.databases.cql import CqlDatabase
from dr_platform.databases.port import Endpoint
from dr_platform.databases.schema import migrate
from dr_platform.masking.by_table import PAGE, Row, TableMasking, pages, texts_inside
from dr_platform.masking.classification import Holds
from dr_platform.masking.port import NotMaskable, TargetExists

_AT_ONCE = 64
_KEYSPACE_S = 60.0
_SYSTEM = "system"
"""A keyspace that is always there, from which others are made and removed."""


class CqlMasking(TableMasking[CqlDatabase]):
    unit = "row"
    what_stays = "no partition stays"

    def _open(self) -> None:
        source = self._source_access
        self._keyspace = source.endpoint.database
        self._source = CqlDatabase(source.database, source.endpoint, source.login)
        self._target: CqlDatabase | None = None

    def schema(self) -> Mapping[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for row in self._facts():
            found[row.table_name] = (*found.get(row.table_name, ()), row.column_name)
        return found

    def _facts(self) -> list[Any]:
        query = "SELECT table_name, column_name, kind FROM system_schema.columns WHERE keyspace_name = %s"
        return list(self._source.session.execute(query, (self._keyspace,)))

    def _names(self, database: CqlDatabase) -> Collection[str]:
        query = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s"
        return [row.table_name for row in database.session.execute(query, (database.endpoint.database,))]

    def refuse_problems(self) -> None:
        """A primary key without a key that stays itself would let rows overwrite each other."""
        self._refuse_same()
        keys: dict[str, set[str]] = {}
        for row in self._facts():
            if row.kind in ("partition_key", "clustering"):
                keys.setdefault(row.table_name, set()).add(row.column_name)
        problems = [
            f"{name}: nothing of its primary key ({', '.join(sorted(keys[name]))}) stays unique"
            for name, table in self._masked_tables().items()
            if not any(table.columns[c].holds in (Holds.KEY, Holds.SAFE) for c in keys[name])
        ]
        if problems:
            raise NotMaskable(tuple(problems))

    def make_target(self) -> None:
        endpoint = self._target_access.endpoint
        with contextlib.closing(self._system()) as system:
            query = "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = %s"
            if system.session.execute(query, (endpoint.database,)).one():
                raise TargetExists(self.name, endpoint.database)
            replication = dict(self._source.session.execute(query, (self._keyspace,)).one().replication)
            system.session.execute(
                f"CREATE KEYSPACE {_checked(endpoint.database)} WITH replication = {replication!r}", timeout=_KEYSPACE_S
            )
        self._target = CqlDatabase(self._target_access.database, endpoint, self._target_access.login)
        migrate(self._target, self._steps)

    def _system(self) -> CqlDatabase:
        there = self._target_access.endpoint
        endpoint = Endpoint(there.host, there.port, _SYSTEM)
        return CqlDatabase(self._target_access.database, endpoint, self._target_access.login)

    @property
    def _made_target(self) -> CqlDatabase:
        if self._target is None:
            raise RuntimeError("the target is not made yet")
        return self._target

    def _rows(self, database: CqlDatabase, name: str, columns: Sequence[str] = ()) -> Iterator[Row]:
        """In types that Python can reckon with."""
        wanted = ", ".join(map(_checked, columns)) or "*"
        statement = SimpleStatement(f"SELECT {wanted} FROM {_checked(name)}", fetch_size=PAGE)  # noqa: S608 - quoted names
        for row in database.session.execute(statement):
            yield {column: _plain(value) for column, value in row._asdict().items()}

    def _first(self, name: str) -> Row | None:
        return next(iter(self._rows(self._source, name)), None)

    def _write(self, database: CqlDatabase, name: str, rows: Sequence[Row]) -> int:
        """Missing values are left out, not written as nulls, which would be tombstones."""
        by_columns: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
        for row in rows:
            columns = tuple(column for column, value in row.items() if value is not None)
            by_columns.setdefault(columns, []).append(tuple(row[column] for column in columns))
        for columns, values in by_columns.items():
            marks = ", ".join("?" * len(columns))
            prepared = database.session.prepare(
                f"INSERT INTO {_checked(name)} ({', '.join(map(_checked, columns))}) VALUES ({marks})"  # noqa: S608
            )
            execute_concurrent_with_args(database.session, prepared, values, concurrency=_AT_ONCE)
        return len(rows)

    def _texts(self, row: Row) -> Iterable[tuple[str, bytes]]:
        return ((path, text) for path, text in texts_inside(row) if path != "(name)")

    def _arrived(self, name: str) -> int:
        return sum(1 for _ in self._rows(self._made_target, name))

    def _staying(self, name: str) -> Iterator[tuple[str, int]]:
        yield name, self._still_there(name)

    def _still_there(self, name: str) -> int:
        """Rows of the target whose partition the source has as well. Partitions are led by an identifier,
        or else by a day, which may coincide."""
        first = next((r for r in self._facts() if r.table_name == name and r.kind == "partition_key"), None)
        keys = [r.column_name for r in self._facts() if r.table_name == name and r.kind == "partition_key"]
        if first is None or not any(self._known.tables[name].columns[key].holds is Holds.KEY for key in keys):
            return 0
        where = " AND ".join(f"{_checked(key)} = ?" for key in keys)
        prepared = self._source.session.prepare(
            f"SELECT {_checked(keys[0])} FROM {_checked(name)} WHERE {where} LIMIT 1"  # noqa: S608 - quoted names
        )
        found = 0
        for page in pages(self._rows(self._made_target, name)):
            asked = list({tuple(row[key] for key in keys) for row in page})
            for answer in execute_concurrent_with_args(self._source.session, prepared, asked, concurrency=_AT_ONCE):
                found += answer.result_or_exc.one() is not None
        return found

    def discard(self) -> None:
        if self._target is not None:
            self._target.close()
            self._target = None
            with contextlib.closing(self._system()) as system:
                keyspace = _checked(self._target_access.endpoint.database)
                system.session.execute(f"DROP KEYSPACE IF EXISTS {keyspace}", timeout=_KEYSPACE_S)

    def close(self) -> None:
        self._source.close()
        if self._target is not None:
            self._target.close()


def _checked(name: str) -> str:
    """A name as CQL writes it; whatever else a name holds is inside its quotes."""
    return '"' + name.replace('"', '""') + '"'


def _plain(value: Any) -> Any:
    """The driver's own dates and sets as Python's."""
    from cassandra.util import Date, SortedSet

    if isinstance(value, Date):
        return value.date()
    if isinstance(value, SortedSet):
        return {_plain(one) for one in value}
    return value
