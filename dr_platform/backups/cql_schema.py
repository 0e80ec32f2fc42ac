"""What a CQL keyspace consists of: read from the server's own tables, and as the statements that make it.

Here: the description, its fingerprint, statements for another keyspace or another make of server. Not here:
rows (``cql_rows``), or running statements (``cql``).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dr_platform.databases.cql import LOCK

MAKING = ("type", "function", "aggregate", "table")
"""Kinds of statements that come before the rows, in this order."""
SHAPING = ("index", "materialized_view", "trigger")
"""Those that come after: what is derived from rows is made faster from all of them at once."""

_MULTI_CELL = ("list<", "set<", "map<")


@dataclass(frozen=True)
class Column:
    name: str
    type: str
    kind: str
    """``partition_key``, ``clustering``, ``static`` or ``regular``."""
    position: int
    order: str
    multi_cell: bool
    """Elements have write times of their own."""


@dataclass(frozen=True)
class Table:
    name: str
    columns: tuple[Column, ...]
    """Partition key, clustering, static, regular; the last two by name."""
    default_ttl: int

    def of(self, *kinds: str) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.kind in kinds)

    @property
    def keys(self) -> tuple[Column, ...]:
        return self.of("partition_key", "clustering")

    @property
    def values(self) -> tuple[Column, ...]:
        return self.of("static", "regular")

    @property
    def counts(self) -> bool:
        return any(column.type == "counter" for column in self.columns)


@dataclass(frozen=True)
class Schema:
    tables: tuple[Table, ...]
    others: tuple[tuple[str, str, str], ...]
    """Types, indexes, views, functions: kind, name, and what it is made of."""

    @property
    def fingerprint(self) -> str:
        """Equal on every make of server: storage options are each server's own."""
        kept = {"tables": [asdict(table) for table in self.tables], "others": sorted(self.others)}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

    def names(self, kind: str) -> tuple[str, ...]:
        return tuple(name for found, name, _ in self.others if found == kind)


def read_schema(session: Any, keyspace: str) -> Schema:
    def rows(table: str) -> list[Any]:
        # The name is one of ours; the driver binds the keyspace.
        return list(session.execute(f"SELECT * FROM system_schema.{table} WHERE keyspace_name = %s", (keyspace,)))  # noqa: S608

    types = {row.type_name: list(zip(row.field_names, row.field_types, strict=True)) for row in rows("types")}
    columns = rows("columns")
    tables = tuple(
        _table(row, [c for c in columns if c.table_name == row.table_name], types)
        for row in sorted(rows("tables"), key=lambda row: row.table_name)
        if row.table_name != LOCK
    )
    others = [("type", name, json.dumps(fields)) for name, fields in types.items()]
    others += [
        ("index", i.index_name, f"{i.table_name} {i.kind} {json.dumps(_plain(i.options))}") for i in rows("indexes")
    ]
    others += [("view", v.view_name, f"{v.base_table_name} WHERE {v.where_clause}") for v in rows("views")]
    others += [("function", f.function_name, f"{f.argument_types} {f.return_type} {f.body}") for f in rows("functions")]
    return Schema(tables, tuple(sorted(others)))


def _plain(options: Any) -> str:
    return json.dumps({str(key): str(value) for key, value in options.items()}, sort_keys=True)


_RANK = {"partition_key": 0, "clustering": 1, "static": 2, "regular": 3}


def _table(row: Any, columns: Sequence[Any], types: Iterable[str]) -> Table:
    found = [
        Column(c.column_name, c.type, c.kind, c.position, c.clustering_order, _is_multi_cell(c.type, types))
        for c in columns
    ]
    ordered = sorted(found, key=lambda column: (_RANK[column.kind], column.position, column.name))
    return Table(row.table_name, tuple(ordered), row.default_time_to_live or 0)


def _is_multi_cell(kind: str, types: Iterable[str]) -> bool:
    return kind.startswith(_MULTI_CELL) or kind in types


@dataclass(frozen=True)
class Statement:
    kind: str
    name: str
    text: str


def describe(session: Any, keyspace: str) -> tuple[Statement, ...]:
    """The statements that make a keyspace, as the server writes them (Cassandra 4, ScyllaDB 5.2 and later)."""
    rows = session.execute(f"DESCRIBE KEYSPACE {quoted(keyspace)}")
    return tuple(Statement(row.type, row.name, row.create_statement) for row in rows if row.name != LOCK)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


_WORDS = re.compile(
    r"(?P<kept>\$\$.*?\$\$|'(?:[^']|'')*')|(?P<name>\"(?:[^\"]|\"\")+\"|[A-Za-z_]\w*)(?P<dot>\s*\.)?", re.DOTALL
)


def moved(text: str, keyspace: str, target: str) -> str:
    """The statement for another keyspace. Texts and function bodies stay as they are."""

    def replaced(match: re.Match[str]) -> str:
        if match["kept"] or not match["dot"] or match["name"] not in {keyspace, quoted(keyspace)}:
            return match[0]
        return quoted(target) + match["dot"]

    return _WORDS.sub(replaced, text)


_OPTIONS = re.compile(r"\)\s+WITH\s+", re.IGNORECASE)
_ORDER = re.compile(r"CLUSTERING\s+ORDER\s+BY\s*\([^)]*\)", re.IGNORECASE)
_TTL = re.compile(r"\bdefault_time_to_live\s*=\s*\d+", re.IGNORECASE)


def portable(text: str) -> str:
    """A table or view without the storage options of one make of server; order and expiry stay."""
    found = _OPTIONS.search(text)
    if found is None:
        return text
    options = text[found.end() :]
    kept = [match[0] for pattern in (_ORDER, _TTL) if (match := pattern.search(options))]
    return text[: found.start()] + ")" + (f" WITH {' AND '.join(kept)}" if kept else "")
