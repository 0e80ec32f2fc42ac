"""Filling in data of a large table in batches: what a file asks for, how fast to go, how far it came.

A step with the line ``-- batched: billing.usage by id, 2000 rows, 50 ms`` above its first statement is one
statement that is repeated for one range of keys after the other, each range in a transaction of its own.
The statement says by ``in_batch(id)`` where the range goes; ``in_batch`` is no function, so that a file that is
run by hand by mistake fails instead of changing every row at once. Rows that come while the step runs are not
visited: the version of the services before it (phase expand) already writes them as they should be.

Here: values and decisions. Not here: SQL (``postgresql_batches``), or when a step runs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

FEWEST_ROWS, MOST_ROWS = 10, 100_000
_HEADER = re.compile(
    r"batched\s*:\s*(?P<table>[a-z_][a-z0-9_]*(?:\.[a-z_][a-z0-9_]*)?) by (?P<key>[a-z_][a-z0-9_]*)"
    r"(?:, (?P<rows>[1-9][0-9]{0,5}) rows)?(?:, (?P<ms>[1-9][0-9]{0,4}) ms)?"
)
IN_BATCH = re.compile(r"\bin_batch\(\s*(?P<key>[a-z_][a-z0-9_]*(?:\.[a-z_][a-z0-9_]*)*)\s*\)", re.IGNORECASE)
EXAMPLE = "batched: billing.usage by id, 2000 rows, 50 ms"


@dataclass(frozen=True)
class Batches:
    """``table`` is walked by ``key``, a column with a unique index: at first ``rows`` at a time, then as
    many as take about ``target_ms``, which is how long others may have to wait for a row."""

    table: str
    key: str
    rows: int = 1000
    target_ms: int = 50


def batches_of(stated: str) -> Batches | str:
    """What a header asks for, or what is wrong with it."""
    match = _HEADER.fullmatch(stated)
    if match is None:
        return f"states its batches in another way than `-- {EXAMPLE}` (rows and time may be left out)"
    rows = int(match["rows"] or Batches.rows)
    if not FEWEST_ROWS <= rows <= MOST_ROWS:
        return f"asks for batches that are not between {FEWEST_ROWS} and {MOST_ROWS:,} rows"
    return Batches(match["table"], match["key"], rows, int(match["ms"] or Batches.target_ms))


def fault_of(batches: Batches, statements: int, text: str) -> str | None:
    """What is wrong with the statement of a batched step."""
    if statements != 1:
        return f"has {statements} statements: a batched step is one, repeated"
    keys = {match["key"].rpartition(".")[2].lower() for match in IN_BATCH.finditer(text)}
    if keys != {batches.key}:
        return f"must say where a batch begins and ends: write `in_batch({batches.key})` among its conditions"
    return None


@dataclass(frozen=True)
class Pace:
    """How large the next batch is, and how long to rest before it."""

    rows: int
    rest_s: float


def next_pace(pace: Pace, took_ms: float, target_ms: float) -> Pace:
    """Half as many rows after a batch that took too long, a quarter more after one that was quick; rest as
    long as the batch took, so that others have the table for at least half of the time."""
    if took_ms > target_ms:
        rows = max(FEWEST_ROWS, pace.rows // 2)
    elif took_ms < target_ms / 2:
        rows = min(MOST_ROWS, max(pace.rows + 1, pace.rows * 5 // 4))
    else:
        rows = pace.rows
    return Pace(rows, took_ms / 1000)


@dataclass(frozen=True)
class Filled:
    """How far a step came. ``visited`` rows of about ``of`` were looked at, ``changed`` of them written."""

    visited: int
    changed: int
    of: int
    batches: int
    seconds: float

    @property
    def rows_per_s(self) -> float:
        return self.visited / self.seconds if self.seconds > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds to the end at this pace; ``None`` before there is one."""
        return max(0, self.of - self.visited) / self.rows_per_s if self.rows_per_s else None

    def describe(self) -> str:
        left = "" if self.left_s is None else f", about {self.left_s:.0f} s left"
        rows = f"{self.visited:,} of about {self.of:,} rows, {self.changed:,} changed"
        return f"{rows}, {self.rows_per_s:,.0f} rows/s{left}"
