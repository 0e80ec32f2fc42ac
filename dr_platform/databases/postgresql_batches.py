"""Batches on PostgreSQL: one transaction for each, with the row that says how far it came.

Here: ranges by keyset, the progress row, going on after a stop. Not here: pace (``batches``), locks and history
(``postgresql_steps``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
from psycopg import sql

from dr_platform.clock import Clock
from dr_platform.databases.batches import IN_BATCH, Batches, Filled, Pace, next_pace
from dr_platform.databases.port import SchemaStep

PROGRESS = "drp_data_progress"
TELL_EVERY_S = 2.0

Connection = psycopg.Connection[Any]
Tell = Callable[[Filled], None]


class BatchRunner:
    """Fills one step's data on a connection in autocommit. ``tell`` hears how far it came every two seconds."""

    def __init__(self, connection: Connection, step: SchemaStep, batches: Batches, clock: Clock) -> None:
        self._connection = connection
        self._step = step
        self._batches = batches
        self._clock = clock

    def run(self, statement: str, tell: Tell) -> Filled:
        """Go on behind the last range that was committed, to the end. Raises what the server does."""
        self._make_progress_table()
        after, filled = self._progress()
        pace = Pace(self._batches.rows, 0.0)
        told = self._clock.monotonic()
        while (upto := self._end_of_range(after, pace.rows)) is not None:
            began = self._clock.monotonic()
            filled = self._fill(statement, after, upto, filled, began)
            pace = next_pace(pace, (self._clock.monotonic() - began) * 1000, self._batches.target_ms)
            after = upto
            if self._clock.monotonic() - told >= TELL_EVERY_S:
                told = self._clock.monotonic()
                tell(filled)
            self._clock.sleep(pace.rest_s)
            filled = replace(filled, seconds=filled.seconds + pace.rest_s)
        tell(filled)
        return filled

    def try_one(self, statement: str) -> Filled:
        """The next batch, rolled back: how many rows it would visit and change, and how long that takes."""
        after, filled = self._progress() if self._has_progress() else (None, self._nothing())
        upto = self._end_of_range(after, self._batches.rows)
        if upto is None:
            return filled
        began = self._clock.monotonic()
        with self._connection.transaction(force_rollback=True):
            visited, changed = self._execute(statement, after, upto)
        return Filled(visited, changed, filled.of - filled.visited, 1, self._clock.monotonic() - began)

    def _fill(self, statement: str, after: Any, upto: Any, filled: Filled, began: float) -> Filled:
        with self._connection.transaction():
            visited, changed = self._execute(statement, after, upto)
            now = replace(
                filled,
                visited=filled.visited + visited,
                changed=filled.changed + changed,
                batches=filled.batches + 1,
                seconds=filled.seconds + self._clock.monotonic() - began,
            )
            self._connection.execute(
                "INSERT INTO public.drp_data_progress (version, checksum, upto, visited, changed, batches, seconds)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (version) DO UPDATE SET (checksum, upto, visited,"
                " changed, batches, seconds, updated_at) = (excluded.checksum, excluded.upto, excluded.visited,"
                " excluded.changed, excluded.batches, excluded.seconds, now())",
                (
                    *(self._step.version, self._step.checksum, str(upto)),
                    *(now.visited, now.changed, now.batches, now.seconds),
                ),
            )
        return now

    def _execute(self, statement: str, after: Any, upto: Any) -> tuple[int, int]:
        """Rows in the range, and rows that the statement changed."""
        within = self._within(after, upto)
        counted = self._connection.execute(
            sql.SQL("SELECT count(*) FROM {} WHERE {}").format(self._table, within(sql.Identifier(self._batches.key)))
        ).fetchone()
        # Put together by the server's own quoting; without parameters the file's text goes as it is.
        text = IN_BATCH.sub(
            lambda match: within(sql.Identifier(*match["key"].lower().split("."))).as_string(self._connection),
            statement,
        )
        changed = self._connection.execute(text.encode()).rowcount
        return int(counted[0]) if counted else 0, max(0, changed)

    def _within(self, after: Any, upto: Any) -> Callable[[sql.Composable], sql.Composable]:
        def range_of(key: sql.Composable) -> sql.Composable:
            most = sql.SQL("{} <= {}").format(key, sql.Literal(upto))
            if after is None:
                return sql.SQL("({})").format(most)
            return sql.SQL("({} > {} AND {})").format(key, sql.Literal(after), most)

        return range_of

    @property
    def _table(self) -> sql.Identifier:
        return sql.Identifier(*self._batches.table.split("."))

    def _end_of_range(self, after: Any, rows: int) -> Any:
        """The last key of the next range; ``None`` behind the last row."""
        key = sql.Identifier(self._batches.key)
        behind = sql.SQL("") if after is None else sql.SQL("WHERE {} > {}").format(key, sql.Literal(after))
        query = sql.SQL("SELECT {k} FROM (SELECT {k} FROM {t} {w} ORDER BY {k} LIMIT {n}) r ORDER BY {k} DESC LIMIT 1")
        row = self._connection.execute(query.format(k=key, t=self._table, w=behind, n=sql.Literal(rows))).fetchone()
        return row[0] if row else None

    # Progress

    def _has_progress(self) -> bool:
        row = self._connection.execute("SELECT to_regclass(%s)", (f"public.{PROGRESS}",)).fetchone()
        return row is not None and row[0] is not None

    def _make_progress_table(self) -> None:
        if not self._has_progress():
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS public.drp_data_progress (version text PRIMARY KEY, checksum text NOT NULL,"
                " upto text NOT NULL, visited bigint NOT NULL, changed bigint NOT NULL, batches bigint NOT NULL,"
                " seconds double precision NOT NULL, updated_at timestamptz NOT NULL DEFAULT now())"
            )

    def _nothing(self) -> Filled:
        """An estimate of the server's: counting a large table takes longer than filling a part of it."""
        row = self._connection.execute(
            "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = to_regclass(%s)", (self._batches.table,)
        ).fetchone()
        return Filled(0, 0, int(row[0]) if row else 0, 0, 0.0)

    def _progress(self) -> tuple[Any, Filled]:
        """The last key that was committed, as text, and the counts. What an edited file left is begun anew: its
        statement is another one."""
        row = self._connection.execute(
            "SELECT upto, visited, changed, batches, seconds FROM public.drp_data_progress"
            " WHERE version = %s AND checksum = %s",
            (self._step.version, self._step.checksum),
        ).fetchone()
        nothing = self._nothing()
        if row is None:
            return None, nothing
        upto, visited, changed, batches, seconds = row
        # Text: written as a literal it takes the type of the key's column by itself.
        return upto, Filled(visited, changed, nothing.of, batches, seconds)
