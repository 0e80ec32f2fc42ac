"""Counting keys of a Redis server; a table is a pattern of keys, and keys have no columns."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import islice

from dr_platform.databases.redis_ import RedisDatabase
from dr_platform.quality.model import Expires, Holds, Rule
from dr_platform.quality.port import MOST_ROWS, Counted, Key, NotApplicable

_BATCH = 1000
NO_EXPIRY = -1


class RedisInspector:
    """See ``Inspector``. Keys are walked by SCAN, which does not stop the server."""

    def __init__(self, database: RedisDatabase) -> None:
        self._database = database

    def count(self, rules: Sequence[Rule]) -> Sequence[Counted]:
        found: dict[Rule, Counted] = {}
        for table in dict.fromkeys(rule.table for rule in rules):
            keys, kept = self._walk(table)
            for rule in (rule for rule in rules if rule.table == table):
                found[rule] = Counted(rule, _broken(rule, keys, kept), keys, whole=keys < MOST_ROWS)
        return [found[rule] for rule in rules]

    def _walk(self, pattern: str) -> tuple[int, int]:
        """How many keys match, and how many of them never expire."""
        walked = islice(self._database.client.scan_iter(match=pattern, count=_BATCH), MOST_ROWS)
        keys = kept = 0
        while batch := list(islice(walked, _BATCH)):
            pipeline = self._database.client.pipeline(transaction=False)
            for key in batch:
                pipeline.ttl(key)
            keys += len(batch)
            kept += sum(left == NO_EXPIRY for left in pipeline.execute())
        return keys, kept

    def keys(self, table: str, _column: str, /) -> Iterator[Key]:
        raise NotApplicable(table, "references")

    def present(self, table: str, _column: str, _keys: Collection[Key], /) -> int:
        raise NotApplicable(table, "references")

    def close(self) -> None:
        self._database.close()


def _broken(rule: Rule, keys: int, kept: int) -> int:
    match rule:
        case Expires():
            return kept
        case Holds(bounds=bounds):
            return int(not bounds.admit(keys))
    raise NotApplicable(rule.table, rule.dimension)
