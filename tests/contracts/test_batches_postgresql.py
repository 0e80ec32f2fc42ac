"""What filling in data promises on a real server: it ends, it goes on after a stop, and it changes each row once."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dr_platform.clock import SystemClock
from dr_platform.databases.batches import Batches, Filled
from dr_platform.databases.port import Phase, SchemaStep
from dr_platform.databases.postgresql_batches import BatchRunner
from tests.postgres_server import PostgresServer, running_postgres

pytestmark = pytest.mark.contract

ROWS = 5000
STATEMENT = "UPDATE t SET changes = changes + 1 WHERE wanted AND in_batch(t.id)"
STEP = SchemaStep("1.3.0", "fill", Path("V1_3_0__fill.sql"), "a" * 64, Phase.DATA, transactional=False)
BATCHES = Batches("t", "id", 100, 50)


class Stopped(Exception):
    """As if the process were killed between two batches."""


class Stopping:
    """A clock whose rests end the runner after so many batches."""

    def __init__(self, after: int | None) -> None:
        self._clock = SystemClock()
        self._left = after

    def now(self) -> datetime:
        return self._clock.now()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def sleep(self, _seconds: float) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                raise Stopped


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as found:
        yield found


@pytest.fixture
def connection(server: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server.new_database(), autocommit=True) as found:
        found.execute("CREATE TABLE t (id uuid PRIMARY KEY, wanted boolean, changes int NOT NULL DEFAULT 0)")
        found.execute("INSERT INTO t SELECT gen_random_uuid(), n %% 4 = 0 FROM generate_series(1, %s) n", (ROWS,))
        found.execute("ANALYZE t")
        yield found


def fill(connection: Any, stop_after: int | None = None, step: SchemaStep = STEP) -> Filled:
    return BatchRunner(connection, step, BATCHES, Stopping(stop_after)).run(STATEMENT, lambda _filled: None)


def changes(connection: Any) -> list[tuple[bool, int, int]]:
    return connection.execute("SELECT wanted, changes, count(*) FROM t GROUP BY 1, 2 ORDER BY 1, 2").fetchall()


WHOLE = [(False, 0, ROWS * 3 // 4), (True, 1, ROWS // 4)]


def test_every_row_is_visited_and_those_that_are_meant_are_changed_once(connection: Any) -> None:
    filled = fill(connection)
    assert changes(connection) == WHOLE
    assert (filled.visited, filled.changed) == (ROWS, ROWS // 4)
    assert filled.batches > 1


@pytest.mark.parametrize("stop_after", [1, 2, 7])
def test_a_runner_that_was_stopped_is_gone_on_with_where_it_was(connection: Any, stop_after: int) -> None:
    with pytest.raises(Stopped):
        fill(connection, stop_after)
    before = connection.execute("SELECT sum(changes) FROM t").fetchone()[0]
    assert before == connection.execute("SELECT changed FROM public.drp_data_progress").fetchone()[0]
    filled = fill(connection)
    assert changes(connection) == WHOLE
    assert filled.visited == ROWS


def test_a_second_run_changes_nothing(connection: Any) -> None:
    fill(connection)
    fill(connection)
    assert changes(connection) == WHOLE


def test_the_row_at_which_it_stopped_may_be_gone(connection: Any) -> None:
    with pytest.raises(Stopped):
        fill(connection, 3)
    connection.execute("DELETE FROM t WHERE id = (SELECT upto::uuid FROM public.drp_data_progress)")
    fill(connection)
    assert connection.execute("SELECT count(*) FROM t WHERE changes <> wanted::int").fetchone() == (0,)


def test_another_text_of_the_step_begins_anew(connection: Any) -> None:
    with pytest.raises(Stopped):
        fill(connection, 3)
    filled = fill(connection, step=replace(STEP, checksum="b" * 64))
    assert filled.visited == ROWS


def test_a_batch_that_is_tried_leaves_nothing(connection: Any) -> None:
    runner = BatchRunner(connection, STEP, BATCHES, Stopping(None))
    tried = runner.try_one(STATEMENT)
    assert tried.visited == BATCHES.rows
    assert tried.of == ROWS
    assert changes(connection)[-1] == (True, 0, ROWS // 4)
    assert connection.execute("SELECT to_regclass('public.drp_data_progress')").fetchone() == (None,)


def test_an_empty_table_is_filled_at_once(connection: Any) -> None:
    connection.execute("TRUNCATE t")
    assert fill(connection).visited == 0


def test_a_statement_that_fails_leaves_the_batches_before_it(connection: Any) -> None:
    last = connection.execute("SELECT max(id::text) FROM t").fetchone()[0]
    connection.execute("UPDATE t SET wanted = true WHERE id = %s", (uuid.UUID(last),))
    connection.execute(f"ALTER TABLE t ADD CHECK (id <> '{last}' OR changes = 0)")
    with pytest.raises(psycopg.errors.CheckViolation):
        fill(connection)
    done = connection.execute("SELECT changed FROM public.drp_data_progress").fetchone()[0]
    assert done == connection.execute("SELECT sum(changes) FROM t").fetchone()[0] > 0
