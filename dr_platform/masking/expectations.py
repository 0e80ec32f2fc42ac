"""Great Expectations over the masked PostgreSQL database: what must hold of every column, as counts.

Here: suites and one gate that runs them. The library is imported when they run, because that takes
seconds. Results carry counts alone, never a value. Not here: proofs over source and target together.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dr_platform.masking.classification import Holds, Table
from dr_platform.masking.port import Access, Gate

if TYPE_CHECKING:
    from dr_platform.masking.postgresql import SchemaFacts

COUNTS_ONLY = {"result_format": "BASIC", "partial_unexpected_count": 0, "include_unexpected_rows": False}
SWEEP: Mapping[str, str] = {
    "social security number": r"(^|[^0-9A-Za-z-])(?!000)[0-9]{3}-[0-9]{2}-[0-9]{4}($|[^0-9A-Za-z-])",
    "telephone number": r"(^|[^0-9A-Za-z.-])(\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[-. ])(?!555-01)"
    r"[0-9]{3}[-. ][0-9]{4}($|[^0-9A-Za-z-])",
    "electronic mail address": r"[A-Za-z0-9._%+-]+@(?!example\.invalid)[A-Za-z0-9-]+\.[A-Za-z]{2,}",
    "web address": r"https?://(?!example\.invalid)",
    "medical record number": r"(^|[^A-Za-z])(MRN|mrn)(?!-[0-9a-f]{16}($|[^0-9a-f]))[-: #]{0,3}[0-9]{5,}($|[^0-9a-f])",
}
"""Shapes that no column of text may hold. PostgreSQL runs them."""
_TEXTS = frozenset({"text", "character varying", "character", "jsonb", "json"})
_REMOVED_TEXT = frozenset({Holds.KEY, Holds.CHAIN})


def expectations_gate(
    target: Access, tables: Mapping[str, Table], schema: SchemaFacts, rows: Mapping[str, int]
) -> Gate:
    """All suites. A suite that cannot run makes the answer unknown, which does not pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would rather know the server's kind, and then refuses sockets
        return _judged(target, tables, schema, rows)


def _judged(target: Access, tables: Mapping[str, Table], schema: SchemaFacts, rows: Mapping[str, int]) -> Gate:
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    source = context.data_sources.add_sql("staging", connection_string=_url(target))
    failed, unexpected, asked = [], 0, 0
    for name, table in tables.items():
        schema_name, _, table_name = name.partition(".")
        asset = source.add_table_asset(name, table_name=table_name, schema_name=schema_name)
        batch = asset.add_batch_definition_whole_table("all").get_batch()
        suite = gx.ExpectationSuite(name=name, expectations=list(_expected(name, table, schema, rows.get(name, 0))))
        for result in batch.validate(suite, result_format=COUNTS_ONLY).results:
            asked += 1
            unexpected += int(result.result.get("unexpected_count") or 0)
            if not result.success:
                column = result.expectation_config.kwargs.get("column", "") if result.expectation_config else ""
                kind = result.expectation_config.type if result.expectation_config else "expectation"
                failed.append(f"{name}{'.' + column if column else ''}: {kind}")
    detail = "; ".join(sorted(set(failed))) or "every expectation holds"
    return Gate(f"{target.name}: expectations", not failed, detail, {"expectations": asked, "unexpected": unexpected})


def _expected(name: str, table: Table, schema: SchemaFacts, rows: int) -> Iterator[Any]:
    import great_expectations.expectations as gxe

    yield gxe.ExpectTableRowCountToEqual(value=rows)
    for index, columns in schema.unique.get(name, ()):
        if index not in schema.partial and len(columns) == 1 and next(iter(columns)) in table.columns:
            yield gxe.ExpectColumnValuesToBeUnique(column=next(iter(columns)))
    for facts in schema.tables[name]:
        column = table.columns[facts.name]
        if facts.type in _TEXTS - {"json", "jsonb"} and column.holds not in _REMOVED_TEXT:
            for pattern in SWEEP.values():
                yield gxe.ExpectColumnValuesToNotMatchRegex(column=facts.name, regex=pattern)
        if column.holds is Holds.EMAIL and column.sealed is None:
            yield gxe.ExpectColumnValuesToMatchRegex(column=facts.name, regex=r"^u[0-9a-f]{16}@example\.invalid$")
        if column.holds is Holds.SSN and facts.nullable:
            yield gxe.ExpectColumnValuesToBeNull(column=facts.name)
        if column.holds is Holds.AGE:
            yield gxe.ExpectColumnValuesToBeBetween(column=facts.name, max_value=90)


def _url(target: Access) -> str:
    """For SQLAlchemy, in memory only; a host that is a path is a socket's folder."""
    login, endpoint = target.login, target.endpoint
    user = quote(login.username, safe="") + (f":{quote(login.password, safe='')}" if login.password else "")
    if endpoint.host.startswith("/"):
        return f"postgresql+psycopg2://{user}@/{endpoint.database}?host={quote(endpoint.host)}&port={endpoint.port}"
    return f"postgresql+psycopg2://{user}@{endpoint.host}:{endpoint.port}/{endpoint.database}"
