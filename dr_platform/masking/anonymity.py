"""k-anonymity: nobody stands out by a combination of what identifies nobody alone.

Quasi-identifiers are generalised first (birth dates and ages to five-year bands), then those of small
groups further (ZIP prefixes away), then suppressed until every group has k people. Here: the decision over
counts, and carrying it out in PostgreSQL. Not here: which columns these are (``classification``).

Source of the measure: L. Sweeney, "k-anonymity: a model for protecting privacy", 2002. Groups of fewer
than 11 are the cell size that CMS does not publish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dr_platform.masking.classification import QUASI_IDENTIFIERS, Holds, Table
from dr_platform.masking.sql import banded, qualified, quoted

if TYPE_CHECKING:
    from dr_platform.masking.postgresql import Connection, SchemaFacts

Group = tuple[Any, ...]


@dataclass(frozen=True)
class Anonymity:
    """What was found and done in one table. Counts of people, but for ``groups``."""

    table: str
    columns: tuple[str, ...]
    k: int
    smallest: int
    groups: int
    small_before: int = 0
    """People in groups below k before anything but bands."""
    generalised: int = 0
    suppressed: int = 0


def small_groups(counts: Mapping[Group, int], k: int) -> tuple[Group, ...]:
    """Groups below k, in a steady order."""
    return tuple(sorted((g for g, n in counts.items() if n < k), key=repr))


def to_suppress(counts: Mapping[Group, int], k: int, nothing: Group) -> tuple[Group, ...]:
    """Groups whose quasi-identifiers go, so that every remaining group and the one of the suppressed has
    k people. Where the small ones together are fewer than k, the smallest others go with them."""
    chosen = [g for g in small_groups(counts, k) if g != nothing]
    hidden = counts.get(nothing, 0) + sum(counts[g] for g in chosen)
    others = sorted((g for g in counts if g not in set(chosen) and g != nothing), key=lambda g: (counts[g], repr(g)))
    while 0 < hidden < k and others:
        group = others.pop(0)
        chosen.append(group)
        hidden += counts[group]
    return tuple(chosen)


def anonymise(connection: Connection, name: str, table: Table, schema: SchemaFacts, k: int) -> Anonymity:
    """Generalise and suppress in the masked table until it holds; a table without quasi-identifiers is left."""
    nullable = {c.name: c.nullable for c in schema.tables[name]}
    columns = tuple(c for c, d in table.columns.items() if d.holds in QUASI_IDENTIFIERS and d.sealed is None)
    if not columns:
        return Anonymity(name, (), k, 0, 0)
    _band(connection, name, table, columns, {c.name: c.type for c in schema.tables[name]})
    counts = _counts(connection, name, columns)
    small = sum(counts[g] for g in small_groups(counts, k))
    generalised = _drop_zip(connection, name, table, columns, small_groups(counts, k))
    counts = _counts(connection, name, columns)
    hideable = tuple(c for c in columns if nullable[c])
    nothing = tuple(None for _ in columns)
    suppressed = 0
    if len(hideable) == len(columns):
        for group in to_suppress(counts, k, nothing):
            suppressed += counts[group]
            _set_null(connection, name, columns, group)
        counts = _counts(connection, name, columns)
    return Anonymity(name, columns, k, min(counts.values(), default=0), len(counts), small, generalised, suppressed)


def _band(connection: Connection, name: str, table: Table, columns: Sequence[str], types: Mapping[str, str]) -> None:
    """Most values are loaded in bands already."""
    for column in columns:
        value, holds = quoted(column), table.columns[column].holds
        if (band := banded(holds, value, types[column])) != value:
            connection.execute(
                f"UPDATE {qualified(name)} SET {value} = {band} WHERE {value} IS DISTINCT FROM {band}".encode()  # noqa: S608
            )


def _counts(connection: Connection, name: str, columns: Sequence[str]) -> dict[Group, int]:
    listed = ", ".join(quoted(c) for c in columns)
    rows = connection.execute(f"SELECT {listed}, count(*) FROM {qualified(name)} GROUP BY {listed}".encode())  # noqa: S608
    return {tuple(row[:-1]): row[-1] for row in rows}


def _drop_zip(connection: Connection, name: str, table: Table, columns: Sequence[str], groups: Sequence[Group]) -> int:
    zips = [c for c in columns if table.columns[c].holds is Holds.ZIP]
    changed = 0
    for group in groups:
        for column in zips:
            where, values = _where(columns, group)
            statement = f"UPDATE {qualified(name)} SET {quoted(column)} = '00000' WHERE {where}"  # noqa: S608
            changed += connection.execute(statement.encode(), values).rowcount
    return changed


def _set_null(connection: Connection, name: str, columns: Sequence[str], group: Group) -> None:
    where, values = _where(columns, group)
    listed = ", ".join(f"{quoted(c)} = NULL" for c in columns)
    connection.execute(f"UPDATE {qualified(name)} SET {listed} WHERE {where}".encode(), values)  # noqa: S608


def _where(columns: Sequence[str], group: Group) -> tuple[str, list[Any]]:
    where = " AND ".join(f"{quoted(c)} IS NOT DISTINCT FROM %s" for c in columns)
    return where, list(group)
