"""Counting in a MongoDB database: filters that the server counts, and the fields of a sample of documents."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, timedelta
from itertools import islice
from typing import Any

from dr_platform.clock import Clock
from dr_platform.databases.mongodb import MongoDatabase
from dr_platform.quality.model import Bounds, Fresh, HasColumns, Holds, NotNull, OneOf, Rule, Unique, Within
from dr_platform.quality.port import MOST_REFERENCES, MOST_ROWS, Counted, Key, NotApplicable

SAMPLE = 1000
"""Documents whose fields are looked at: there is no list of a collection's fields."""


class MongoInspector:
    """See ``Inspector``; a table is a collection, a column a field of its documents, by its path."""

    def __init__(self, database: MongoDatabase, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def count(self, rules: Sequence[Rule]) -> Sequence[Counted]:
        rows = {table: self._all(table) for table in dict.fromkeys(rule.table for rule in rules)}
        return [self._counted(rule, rows[rule.table]) for rule in rules]

    def _all(self, table: str) -> int:
        return int(self._database.schema[table].count_documents({}))

    def _counted(self, rule: Rule, rows: int) -> Counted:
        match rule:
            case HasColumns(columns=columns):
                seen: set[str] = set()
                for document in self._database.schema[rule.table].find().limit(SAMPLE):
                    seen.update(document)
                return Counted(rule, len(seen - set(columns)), len(seen), whole=rows <= SAMPLE)
            case NotNull(column=column):
                return self._matching(rule, {column: None}, rows)
            case OneOf(column=column, allowed=allowed):
                return self._matching(rule, {column: {"$nin": [*allowed, None]}}, rows)
            case Within(column=column, bounds=Bounds(at_least=least, at_most=most)):
                below = [{column: {"$lt": least}}] if least is not None else []
                above = [{column: {"$gt": most}}] if most is not None else []
                return self._matching(rule, {"$or": below + above}, rows)
            case Unique(columns=columns):
                return self._repeated(rule, columns, rows)
            case Fresh(column=column, within_s=within_s):
                oldest = self._clock.now().astimezone(UTC) - timedelta(seconds=within_s)
                fresh = self._database.schema[rule.table].count_documents({column: {"$gte": oldest}}, limit=1)
                return Counted(rule, int(rows > 0 and not fresh), rows)
            case Holds(bounds=bounds):
                return Counted(rule, int(not bounds.admit(rows)), rows)
        raise NotApplicable(rule.table, rule.dimension)

    def _matching(self, rule: Rule, query: dict[str, Any], rows: int) -> Counted:
        return Counted(rule, int(self._database.schema[rule.table].count_documents(query)), rows)

    def _repeated(self, rule: Rule, columns: Sequence[str], rows: int) -> Counted:
        """Read and compared here: not every server of this protocol groups by several fields."""
        fields = dict.fromkeys(columns, 1)
        seen: set[tuple[object, ...]] = set()
        repeated = 0
        documents = self._database.schema[rule.table].find({}, fields).limit(MOST_ROWS)
        for document in documents:
            key = tuple(document.get(column) for column in columns)
            repeated += key in seen
            seen.add(key)
        return Counted(rule, repeated, min(rows, MOST_ROWS), whole=rows <= MOST_ROWS)

    def keys(self, table: str, column: str) -> Iterator[Key]:
        seen: set[Key] = set()
        for document in self._database.schema[table].find({column: {"$ne": None}}, {column: 1}):
            if (key := document[column]) not in seen:
                seen.add(key)
                yield key
            if len(seen) >= MOST_REFERENCES:
                return

    def present(self, table: str, column: str, keys: Collection[Key]) -> int:
        found = self._database.schema[table].find({column: {"$in": list(keys)}}, {column: 1})
        return len({document[column] for document in islice(found, MOST_ROWS)})

    def close(self) -> None:
        self._database.close()
