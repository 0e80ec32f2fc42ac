"""Counting in a CQL keyspace: there are no aggregates over a whole table that end, so rows are read page by page."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from dr_platform.clock import Clock
from dr_platform.databases.cql import CqlDatabase
from dr_platform.quality.model import Fresh, HasColumns, Holds, NotNull, OneOf, Rule, Within
from dr_platform.quality.port import MOST_REFERENCES, MOST_ROWS, Counted, Key, NotApplicable, NotExamined

PAGE = 2000
QUERY_S = 30.0


class CqlInspector:
    """See ``Inspector``. One pass over a table answers every rule about its rows. Uniqueness is what a
    primary key is; other uniqueness does not exist here and is not asked."""

    def __init__(self, database: CqlDatabase, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def count(self, rules: Sequence[Rule]) -> Sequence[Counted]:
        found: dict[Rule, Counted] = {}
        for table in dict.fromkeys(rule.table for rule in rules):
            found |= self._table(table, [rule for rule in rules if rule.table == table])
        return [found[rule] for rule in rules]

    def _table(self, table: str, rules: Sequence[Rule]) -> dict[Rule, Counted]:
        known = self._columns(table)
        broken = dict.fromkeys(rules, 0)
        newest: dict[Rule, datetime] = {}
        of_rows = [rule for rule in rules if not isinstance(rule, HasColumns | Holds)]
        columns = sorted({_column(rule) for rule in of_rows} or {self._first_key(table)})
        if not set(columns) <= known:
            raise NotExamined(self._database.database.name, table)
        rows = 0
        for rows, row in enumerate(self._rows(table, columns), start=1):
            for rule in of_rows:
                value = getattr(row, _column(rule))
                if isinstance(rule, Fresh):
                    newest[rule] = max(newest.get(rule, _AGES_AGO), value or _AGES_AGO)
                else:
                    broken[rule] += _breaks(rule, value)
            if rows >= MOST_ROWS:
                break
        answers = {rule: self._answer(rule, broken[rule], newest.get(rule), rows, known) for rule in rules}
        return {rule: Counted(rule, *answer, whole=rows < MOST_ROWS) for rule, answer in answers.items()}

    def _answer(
        self, rule: Rule, broken: int, newest: datetime | None, rows: int, known: frozenset[str]
    ) -> tuple[int, int]:
        match rule:
            case HasColumns(columns=columns):
                return len(known ^ set(columns)), len(known | set(columns))
            case Holds(bounds=bounds):
                return int(not bounds.admit(rows)), rows
            case Fresh(within_s=within_s) if newest is not None:
                age = (self._clock.now().astimezone(UTC) - newest.replace(tzinfo=UTC)).total_seconds()
                return int(age > within_s), rows
        return broken, rows

    def _columns(self, table: str) -> frozenset[str]:
        keyspace = self._database.endpoint.database
        asked = "SELECT column_name FROM system_schema.columns WHERE keyspace_name = %s AND table_name = %s"
        found = frozenset(row.column_name for row in self._ask(asked, (keyspace, table)))
        if not found:
            raise NotExamined(self._database.database.name, table)
        return found

    def _first_key(self, table: str) -> str:
        keyspace = self._database.endpoint.database
        asked = "SELECT column_name, kind FROM system_schema.columns WHERE keyspace_name = %s AND table_name = %s"
        return next(row.column_name for row in self._ask(asked, (keyspace, table)) if row.kind == "partition_key")

    def _rows(self, table: str, columns: Sequence[str]) -> Iterator[Any]:
        from cassandra.query import SimpleStatement

        keyspace = self._database.endpoint.database
        chosen = ", ".join(f'"{column}"' for column in columns)
        statement = SimpleStatement(f'SELECT {chosen} FROM "{keyspace}"."{table}"', fetch_size=PAGE)  # noqa: S608 - names checked against the server's own
        yield from self._database.session.execute(statement, timeout=QUERY_S)

    def _ask(self, statement: str, parameters: tuple[object, ...]) -> Any:
        return self._database.session.execute(statement, parameters, timeout=QUERY_S)

    def keys(self, table: str, column: str) -> Iterator[Key]:
        self._require(table, column)
        seen: set[Key] = set()
        for row in self._rows(table, [column]):
            value = getattr(row, column)
            key = str(value)
            if value is not None and key not in seen:
                seen.add(key)
                yield key
            if len(seen) >= MOST_REFERENCES:
                return

    def present(self, table: str, column: str, keys: Collection[Key]) -> int:
        """By the partition key alone: another column cannot be looked up."""
        import uuid

        self._require(table, column)
        keyspace = self._database.endpoint.database
        prepared = self._database.session.prepare(
            f'SELECT "{column}" FROM "{keyspace}"."{table}" WHERE "{column}" = ? LIMIT 1'  # noqa: S608 - as above
        )
        futures = [self._database.session.execute_async(prepared, (uuid.UUID(str(key)),)) for key in keys]
        return sum(future.result().one() is not None for future in futures)

    def _require(self, table: str, column: str) -> None:
        if column not in self._columns(table):
            raise NotExamined(self._database.database.name, table)

    def close(self) -> None:
        self._database.close()


_AGES_AGO = datetime(1, 1, 1)  # noqa: DTZ001 - as the driver gives times: in UTC, without saying so


def _column(rule: Rule) -> str:
    if isinstance(rule, NotNull | OneOf | Within | Fresh):
        return rule.column
    raise NotApplicable(rule.table, rule.dimension)


def _breaks(rule: Rule, value: Any) -> bool:
    match rule:
        case NotNull():
            return value is None
        case OneOf(allowed=allowed):
            return value is not None and value not in allowed
        case Within(bounds=bounds):
            return value is not None and not bounds.admit(value)
    raise NotApplicable(rule.table, rule.dimension)
