"""Masking ScyllaDB or Cassandra: table by table into a new keyspace, a page of rows at a time.

Here: the engine's part of ``EngineMasking``. Not here: what a value becomes (``rows``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cassandra.concurrent import execute_concurrent_with_args
from cassandra.query import SimpleStatement

from dr_platform.databases.cql import CqlDatabase
from dr_platform.databases.port import Endpoint, SchemaStep
from dr_platform.databases.schema import migrate
from dr_platform.masking.canaries import Canaries
from dr_platform.masking.classification import Classification, Holds, Table
from dr_platform.masking.imitation import imitated
from dr_platform.masking.mongodb import texts_inside
from dr_platform.masking.people import Roster
from dr_platform.masking.port import Access, Gate, Masked, NotMaskable, Run, SameDatabase, TargetExists
from dr_platform.masking.rows import RowMasker
from dr_platform.masking.seals import KeyRing, place_of
from dr_platform.reference_service.cipher import Undecryptable

_PAGE = 500
_AT_ONCE = 64
_KEYSPACE_S = 60.0
_SYSTEM = "system"
"""A keyspace that is always there, from which others are made and removed."""


class CqlMasking:
    def __init__(
        self,
        source: Access,
        target: Access,
        known: Classification,
        steps: Sequence[SchemaStep],
        opened: KeyRing,
        sealing: KeyRing,
    ) -> None:
        self.name = source.name
        self._target_access = target
        self._known, self._steps = known, steps
        self._opened, self._sealing = opened, sealing
        self._same = source.endpoint == target.endpoint
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

    def _masked_tables(self) -> dict[str, Table]:
        there = {row.table_name for row in self._facts()}
        return {name: table for name, table in self._known.tables.items() if table.is_masked and name in there}

    def refuse_problems(self) -> None:
        """A primary key without a key that stays itself would let rows overwrite each other."""
        if self._same:
            raise SameDatabase(self.name)
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

    def plant(self, canaries: Canaries) -> int:
        planted, cipher = 0, self._opened.cipher()
        for name, table in self._masked_tables().items():
            template = next(iter(self._rows(self._source, name, limit=1)), None)
            if template is None:
                continue
            rows = [imitated(table, template, canary, n, cipher) for n, canary in enumerate(canaries.people)]
            planted += self._write(self._source, name, rows)
        return planted

    def fill(self, roster: Roster) -> None:
        for name, table in self._masked_tables().items():
            for kind, column in table.links.items():
                for page in _pages(self._rows(self._source, name)):
                    roster.link(kind, ((str(row[column]), str(row[table.person])) for row in page if row[table.person]))

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

    def mask(self, run: Run) -> tuple[Masked, ...]:
        with contextlib.closing(Roster(run.roster)) as roster:
            return tuple(self._mask_one(name, table, run, roster) for name, table in self._masked_tables().items())

    def _mask_one(self, name: str, table: Table, run: Run, roster: Roster) -> Masked:
        masker = RowMasker(table, run.recipe, roster, self._opened, self._sealing)
        rows = written = 0
        for page in _pages(self._rows(self._source, name)):
            rows += len(page)
            written += self._write(self._made_target, name, masker.mask(page))
        run.progress(f"{self.name}: {name}: {rows} rows")
        return Masked(name, rows, written, masker.unopened.total(), masker.unowned.total())

    @property
    def _made_target(self) -> CqlDatabase:
        if self._target is None:
            raise RuntimeError("the target is not made yet")
        return self._target

    def _rows(self, database: CqlDatabase, name: str, limit: int = 0) -> Iterator[dict[str, Any]]:
        """All rows, a page in memory at a time, in types that Python can reckon with."""
        tail = f" LIMIT {limit}" if limit else ""
        statement = SimpleStatement(f"SELECT * FROM {_checked(name)}{tail}", fetch_size=_PAGE)  # noqa: S608
        for row in database.session.execute(statement):
            yield {column: _plain(value) for column, value in row._asdict().items()}

    def _write(self, database: CqlDatabase, name: str, rows: Sequence[Mapping[str, Any]]) -> int:
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

    def stored_texts(self) -> Iterator[tuple[str, bytes]]:
        cipher = self._sealing.cipher()
        session = self._made_target.session
        query = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s"
        for (name,) in session.execute(query, (self._target_access.endpoint.database,)):
            table = self._known.tables.get(name)
            for row in self._rows(self._made_target, name):
                yield from ((f"{name}.{path}", text) for path, text in texts_inside(row) if path != "(name)")
                for column, described in (table.columns if table else {}).items():
                    if described.sealed is not None and row.get(column) is not None:
                        with contextlib.suppress(Undecryptable):  # staging cannot read it either
                            opened = cipher.decrypt(bytes(row[column]), place_of(described.sealed, row))
                            yield f"{name}.{column}", opened.encode()

    def gates(self, masked: tuple[Masked, ...]) -> tuple[Gate, ...]:
        differing, met, hits = [], [], 0
        for one in masked:
            there = sum(1 for _ in self._rows(self._made_target, one.name))
            differing += [one.name] if there != one.rows else []
            found = self._still_there(one.name)
            hits += found
            met += [one.name] if found else []
        total = sum(one.rows for one in masked)
        return (
            Gate(f"{self.name}: row counts", not differing, ", ".join(differing) or "as before", {"rows": total}),
            Gate(f"{self.name}: no partition stays", not met, ", ".join(met) or "none", {"hits": hits}),
        )

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
        for page in _pages(self._rows(self._made_target, name)):
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


def _pages(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    page: list[dict[str, Any]] = []
    for row in rows:
        page.append(row)
        if len(page) >= _PAGE:
            yield page
            page = []
    if page:
        yield page
