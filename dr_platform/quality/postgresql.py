"""Counting in PostgreSQL by Great Expectations, whose questions become one query for each table.

Great Expectations takes seconds to import, so that happens in the look itself. Its results are asked for
without samples of values, and no text of its errors is passed on: both would quote rows.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from psycopg import sql

from dr_platform.clock import Clock
from dr_platform.databases.postgresql import PostgresDatabase
from dr_platform.quality.model import Bounds, Fresh, HasColumns, Holds, NotNull, OneOf, Rule, Unique, Within
from dr_platform.quality.port import MOST_REFERENCES, Counted, Key, NotApplicable, NotExamined

if TYPE_CHECKING:
    from great_expectations.datasource.fluent import SQLDatasource

COUNTS_ONLY = {"result_format": "BASIC", "partial_unexpected_count": 0}


class PostgresInspector:
    """See ``Inspector``. Reads as the login of ``database``, which it closes."""

    def __init__(self, database: PostgresDatabase, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._source: SQLDatasource | None = None

    def count(self, rules: Sequence[Rule]) -> Sequence[Counted]:
        found: dict[Rule, Counted] = {}
        for table in dict.fromkeys(rule.table for rule in rules):
            own = [rule for rule in rules if rule.table == table]
            found |= {answer.rule: answer for answer in self._table(table, own)}
        return [found[rule] for rule in rules]

    def _table(self, table: str, rules: Sequence[Rule]) -> Iterator[Counted]:
        from great_expectations import ExpectationSuite

        rows = self._rows(table)
        if rows == 0:  # a maximum of nothing is no date, and a share of nothing no number
            yield from (Counted(rule, 0, 0) for rule in rules if not _concerns_the_table(rule))
            rules = [rule for rule in rules if _concerns_the_table(rule)]
        if not rules:
            return
        now = self._clock.now()
        suite = ExpectationSuite(
            name=table, expectations=[_expectation(rule, number, now) for number, rule in enumerate(rules)]
        )
        schema, _, name = table.rpartition(".")
        source = self._opened()
        asset = source.add_table_asset(f"t{len(source.assets)}", table_name=name, schema_name=schema or "public")
        batch = asset.add_batch_definition_whole_table("whole").get_batch()
        results = batch.validate(suite, result_format=COUNTS_ONLY).results
        # Results come grouped by kind; each carries the number that its expectation was given.
        by_number = {result.expectation_config.meta["rule"]: result for result in results if result.expectation_config}
        for number, rule in enumerate(rules):
            result = by_number[number]
            if _raised(result.exception_info):
                raise NotExamined(self._database.database.name, table)
            broken = 0 if result.success else int(result.result.get("unexpected_count", 1))
            yield Counted(rule, broken, int(result.result.get("element_count", 1)))

    def _rows(self, table: str) -> int:
        counted = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(*table.split(".")))
        row = self._database.connection.execute(counted).fetchone()
        return int(row[0]) if row else 0

    def _opened(self) -> SQLDatasource:
        if self._source is None:
            os.environ["GX_ANALYTICS_ENABLED"] = "false"
            import great_expectations as gx
            import pgvector.sqlalchemy  # noqa: F401 - a table with a type that SQLAlchemy does not know is not examined
            from great_expectations.data_context.types.base import ProgressBarsConfig

            context = gx.get_context(mode="ephemeral")
            context.variables.progress_bars = ProgressBarsConfig(globally=False)
            # The address is empty and the connection made here: no credential is ever part of a text.
            self._source = context.data_sources.add_sql(
                "inspected",
                connection_string="postgresql+psycopg://",
                create_temp_table=False,
                kwargs={"creator": self._database.another},  # ty: ignore[unknown-argument] - missing in its stub only
            )
        return self._source

    def keys(self, table: str, column: str) -> Iterator[Key]:
        chosen = sql.SQL("SELECT DISTINCT {c}::text FROM {t} WHERE {c} IS NOT NULL LIMIT {n}").format(
            c=sql.Identifier(column), t=sql.Identifier(*table.split(".")), n=sql.Literal(MOST_REFERENCES)
        )
        for (key,) in self._database.connection.execute(chosen):
            yield key

    def present(self, table: str, column: str, keys: Collection[Key]) -> int:
        chosen = sql.SQL("SELECT count(DISTINCT {c}) FROM {t} WHERE {c}::text = ANY(%s)").format(
            c=sql.Identifier(column), t=sql.Identifier(*table.split("."))
        )
        row = self._database.connection.execute(chosen, (list(keys),)).fetchone()
        return int(row[0]) if row else 0

    def close(self) -> None:
        self._database.close()


def _concerns_the_table(rule: Rule) -> bool:
    return isinstance(rule, HasColumns | Holds)


def _raised(info: Any) -> bool:
    """An empty mapping or ``raised_exception: False`` where all went well, else one entry for each failed metric."""
    found = info or {}
    return any(v.get("raised_exception") for v in found.values() if isinstance(v, dict)) or bool(
        found.get("raised_exception")
    )


def _expectation(rule: Rule, number: int, now: datetime) -> Any:
    from great_expectations import expectations as gxe

    meta = {"rule": number}
    match rule:
        case HasColumns(columns=columns):
            return gxe.ExpectTableColumnsToMatchSet(column_set=list(columns), exact_match=True, meta=meta)
        case NotNull(column=column):
            return gxe.ExpectColumnValuesToNotBeNull(column=column, meta=meta)
        case OneOf(column=column, allowed=allowed):
            return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=list(allowed), meta=meta)
        case Within(column=column, bounds=Bounds(at_least=least, at_most=most)):
            return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=least, max_value=most, meta=meta)
        case Unique(columns=(column,)):
            return gxe.ExpectColumnValuesToBeUnique(column=column, meta=meta)
        case Unique(columns=columns):
            return gxe.ExpectCompoundColumnsToBeUnique(column_list=list(columns), meta=meta)
        case Fresh(column=column, within_s=within_s):
            oldest = now - timedelta(seconds=within_s)
            return gxe.ExpectColumnMaxToBeBetween(column=column, min_value=oldest, meta=meta)
        case Holds(bounds=Bounds(at_least=least, at_most=most)):
            return gxe.ExpectTableRowCountToBeBetween(min_value=_whole(least), max_value=_whole(most), meta=meta)
    raise NotApplicable(rule.table, rule.dimension)


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)
