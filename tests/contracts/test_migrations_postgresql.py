"""Changes of a schema on a real PostgreSQL: what runs outside of a transaction, what must hold afterwards, the books of
Alembic, what is locked, and rehearsals on copies."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dr_platform.catalog import Engine
from dr_platform.clock import SystemClock
from dr_platform.databases.clones import PREFIX, NoClone, RehearsalUnderWay, clone
from dr_platform.databases.connect import connect_database
from dr_platform.databases.port import Endpoint
from dr_platform.databases.postgresql import PostgresDatabase
from dr_platform.databases.postgresql_steps import BooksDisagree
from dr_platform.databases.schema import (
    MalformedMigrations,
    MigrationFailed,
    migrate,
    read_steps,
    revert,
    undoing,
)
from dr_platform.databases.sql_text import statements_of
from dr_platform.identity import new_id
from dr_platform.migrations.effects import postgresql_effects
from dr_platform.migrations.rehearsal import Rehearsal, rehearse
from tests.contracts.database import _RUNNER, CATALOG, write_step
from tests.contracts.embedded_servers import Running, running
from tests.contracts.runtime import until

pytestmark = pytest.mark.contract


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(Engine.POSTGRESQL, "postgres", ready_s=120) as server:
        with contextlib.closing(connected(server, server.endpoint)) as db:
            db.connection.execute("ALTER SYSTEM SET fsync = off")
            db.connection.execute("SELECT pg_reload_conf()")
        yield server


def connected(server: Running, endpoint: Endpoint) -> PostgresDatabase:
    db = connect_database(server.database, endpoint, server.secrets, "admin")
    assert isinstance(db, PostgresDatabase)
    return db


@pytest.fixture
def endpoint(server: Running) -> Iterator[Endpoint]:
    name = new_id("t").replace("-", "_")
    with contextlib.closing(connected(server, server.endpoint)) as db:
        db.connection.execute(f"CREATE DATABASE {name}".encode())
        yield Endpoint(server.endpoint.host, server.endpoint.port, name)
        db.connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def db(server: Running, endpoint: Endpoint) -> Iterator[PostgresDatabase]:
    with contextlib.closing(connected(server, endpoint)) as db:
        yield db


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "steps"
    write_step(folder, "V1__patients.sql", "CREATE TABLE public.patients (id int PRIMARY KEY, born date);")
    write_step(folder, "U1__patients.sql", "DROP TABLE public.patients;")
    return folder


def value(db: PostgresDatabase, query: str) -> Any:
    row = db.connection.execute(query.encode()).fetchone()
    return row[0] if row else None


def versions(db: PostgresDatabase) -> list[str]:
    return [done.version for done in db.applied()]


def revision(db: PostgresDatabase) -> Any:
    return value(db, "SELECT string_agg(version_num, ',') FROM public.drp_schema_revision")


INDEX = "-- transactional: false\nCREATE INDEX CONCURRENTLY IF NOT EXISTS born ON public.patients (born);\n"
NO_INDEX = "-- transactional: false\nDROP INDEX CONCURRENTLY IF EXISTS public.born;\n"


class TestOutsideOfATransaction:
    def test_an_index_is_built_concurrently_and_taken_back(self, db: PostgresDatabase, folder: Path) -> None:
        write_step(folder, "V2__index.sql", INDEX)
        write_step(folder, "U2__index.sql", NO_INDEX)
        steps = read_steps(folder)
        migrate(db, steps)
        assert value(db, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'public.born'::regclass") is True
        assert (versions(db), revision(db)) == (["1", "2"], "2")
        revert(db, undoing("postgres", steps, db.applied(), 1))
        assert value(db, "SELECT to_regclass('public.born')") is None
        assert (versions(db), revision(db)) == (["1"], "1")

    def test_without_the_line_it_is_refused_and_nothing_is_left(self, db: PostgresDatabase, folder: Path) -> None:
        write_step(folder, "V2__index.sql", INDEX.removeprefix("-- transactional: false\n"))
        with pytest.raises(MalformedMigrations, match="transactional: false"):
            migrate(db, read_steps(folder))
        assert (versions(db), revision(db)) == (["1"], "1")

    @pytest.mark.parametrize(
        "statement",
        [
            "CREATE INDEX CONCURRENTLY born ON public.patients (born);",
            "CREATE INDEX IF NOT EXISTS born ON public.patients (born);",
            "ALTER TABLE public.patients ADD COLUMN more int;",
            "INSERT INTO public.patients VALUES (1);",
            "DROP INDEX CONCURRENTLY born;",
            "VACUUM FULL public.patients;",
            "SET LOCAL lock_timeout = 0;",
        ],
    )
    def test_what_could_not_be_repeated_there_is_refused(
        self, db: PostgresDatabase, folder: Path, statement: str
    ) -> None:
        write_step(folder, "V2__a.sql", f"-- transactional: false\n{INDEX}\n{statement}".replace(INDEX, ""))
        with pytest.raises(MalformedMigrations, match="cannot be repeated"):
            migrate(db, read_steps(folder))
        assert versions(db) == ["1"]

    def test_what_a_killed_build_left_is_replaced_and_not_taken_for_the_index(
        self, db: PostgresDatabase, folder: Path
    ) -> None:
        migrate(db, read_steps(folder))
        db.connection.execute("INSERT INTO public.patients VALUES (1, '1970-01-01'), (2, '1970-01-01')")
        with pytest.raises(psycopg.errors.UniqueViolation):  # leaves an invalid index of this name
            db.connection.execute("CREATE UNIQUE INDEX CONCURRENTLY born ON public.patients (born)")
        assert value(db, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'public.born'::regclass") is False
        write_step(folder, "V2__index.sql", INDEX)
        migrate(db, read_steps(folder))
        assert value(db, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'public.born'::regclass") is True

    def test_a_runner_that_is_killed_while_it_builds_is_replaced_by_the_next(
        self, server: Running, endpoint: Endpoint, db: PostgresDatabase, folder: Path
    ) -> None:
        migrate(db, read_steps(folder))
        write_step(folder, "V2__index.sql", INDEX)
        told = {
            "database": server.database.model_dump_json(),
            "endpoint": [endpoint.host, endpoint.port, endpoint.database],
            "secrets": str(server.state.secrets),
            "folder": str(folder),
            "lease_s": 2.0,
            "back": False,
        }
        with contextlib.closing(connected(server, endpoint)) as reader:
            reader.connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            reader.connection.execute("SELECT * FROM public.patients")
            reader.connection.execute("LOCK TABLE public.patients IN ROW EXCLUSIVE MODE")  # the build waits for us
            runner = subprocess.Popen([sys.executable, "-c", _RUNNER, json.dumps(told)], cwd=Path(__file__).parents[2])
            try:
                until(lambda: value(db, "SELECT to_regclass('public.born')") is not None)
            finally:
                runner.kill()
                runner.wait()
            reader.connection.execute("ROLLBACK")
        assert versions(db) == ["1"]
        migrate(db, read_steps(folder))
        assert versions(db) == ["1", "2"]
        assert value(db, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'public.born'::regclass") is True


class TestWhatMustHold:
    def test_a_step_whose_assertion_does_not_hold_is_rolled_back_and_not_recorded(
        self, db: PostgresDatabase, folder: Path
    ) -> None:
        write_step(folder, "V2__more.sql", "ALTER TABLE public.patients ADD COLUMN more int;")
        write_step(folder, "T2__more.sql", "SELECT true; SELECT count(*) = 1 FROM public.patients;")
        with pytest.raises(MigrationFailed, match=r"T2__more\.sql query 2"):
            migrate(db, read_steps(folder))
        assert (versions(db), revision(db)) == (["1"], "1")
        assert not any("patients.more" in line for line in db.shape())

    def test_one_that_holds_changes_nothing_and_can_be_tried_again(self, db: PostgresDatabase, folder: Path) -> None:
        write_step(folder, "T1__patients.sql", "SELECT count(*) = 0 FROM public.patients;")
        (step,) = read_steps(folder)
        migrate(db, [step])
        db.verify(step)
        db.connection.execute("INSERT INTO public.patients VALUES (1)")
        with pytest.raises(MigrationFailed, match="query 1"):
            db.verify(step)

    @pytest.mark.parametrize(
        "text",
        ["INSERT INTO public.patients VALUES (7) RETURNING true;", "SELECT NULL::boolean;", "SELECT true WHERE false;"],
    )
    def test_it_can_neither_write_nor_hold_by_saying_nothing(
        self, db: PostgresDatabase, folder: Path, text: str
    ) -> None:
        write_step(folder, "T1__patients.sql", text)
        with pytest.raises(MigrationFailed):
            migrate(db, read_steps(folder))
        assert versions(db) == []


class TestBooks:
    def test_a_runner_that_was_killed_before_it_kept_the_shape_leaves_it_to_the_next(
        self, db: PostgresDatabase, folder: Path
    ) -> None:
        migrate(db, read_steps(folder))
        db.connection.execute("UPDATE public.drp_schema_history SET fingerprint = NULL, shape = NULL")
        assert migrate(db, read_steps(folder)) == ()
        assert db.recorded_shape() == db.shape()

    def test_a_file_that_fails_leaves_both_books_as_they_were(self, db: PostgresDatabase, folder: Path) -> None:
        migrate(db, read_steps(folder))
        write_step(folder, "V2__bad.sql", "ALTER TABLE public.patients ADD COLUMN more int; SELECT 1/0;")
        with pytest.raises(MigrationFailed):
            migrate(db, read_steps(folder))
        assert (versions(db), revision(db)) == (["1"], "1")

    def test_books_that_disagree_are_refused_before_anything_is_done(self, db: PostgresDatabase, folder: Path) -> None:
        migrate(db, read_steps(folder))
        db.connection.execute("UPDATE public.drp_schema_revision SET version_num = '9'")
        write_step(folder, "V2__more.sql", "ALTER TABLE public.patients ADD COLUMN more int;")
        with pytest.raises(BooksDisagree, match="9"):
            migrate(db, read_steps(folder))
        with pytest.raises(BooksDisagree):
            db.undo(read_steps(folder)[0])
        assert versions(db) == ["1"]

    def test_the_sessions_limits_do_not_follow_from_one_step_to_the_next(
        self, db: PostgresDatabase, folder: Path
    ) -> None:
        write_step(folder, "V2__sets.sql", "SET statement_timeout = '20ms'; SET search_path = pg_catalog;")
        write_step(folder, "V3__slow.sql", "SELECT pg_sleep(0.1); CREATE TABLE public.slow ();")
        migrate(db, read_steps(folder))
        assert versions(db) == ["1", "2", "3"]


# What is locked

TABLES = """
CREATE TABLE public.a (id int PRIMARY KEY, v text, w int, x int NOT NULL DEFAULT 0);
CREATE TABLE public.b (id int PRIMARY KEY, a_id int);
CREATE TABLE public.p (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE public.p1 (id int, at date);
CREATE TABLE public.p2 PARTITION OF public.p FOR VALUES FROM ('2030-01-01') TO ('2031-01-01');
CREATE INDEX a_v ON public.a (v);
CREATE VIEW public.view_a AS SELECT id FROM public.a;
CREATE MATERIALIZED VIEW public.m AS SELECT id FROM public.a;
CREATE UNIQUE INDEX ON public.m (id);
ALTER TABLE public.b ADD CONSTRAINT later CHECK (id > 0) NOT VALID;
CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER existing BEFORE INSERT ON public.a FOR EACH ROW EXECUTE FUNCTION public.f();
"""
STATEMENTS = [
    "ALTER TABLE public.a ADD COLUMN more int",
    "ALTER TABLE public.a ADD COLUMN one int, ADD COLUMN two numeric(10, 2) DEFAULT 0",
    "ALTER TABLE public.a DROP COLUMN w",
    "ALTER TABLE public.a ALTER COLUMN w TYPE bigint",
    "ALTER TABLE public.a ALTER COLUMN w SET DEFAULT 1",
    "ALTER TABLE public.a ALTER COLUMN w SET NOT NULL",
    "ALTER TABLE public.a ALTER COLUMN x DROP NOT NULL",
    "ALTER TABLE public.a ALTER COLUMN v SET STATISTICS 500",
    "ALTER TABLE public.a ALTER COLUMN v SET (n_distinct = 5)",
    "ALTER TABLE public.a ALTER COLUMN v SET STORAGE external",
    "ALTER TABLE public.a SET (fillfactor = 70)",
    "ALTER TABLE public.a RESET (fillfactor)",
    "ALTER TABLE public.a SET UNLOGGED",
    "ALTER TABLE public.a RENAME TO c",
    "ALTER TABLE public.a RENAME COLUMN v TO u",
    "ALTER TABLE public.a ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE public.a DISABLE TRIGGER existing",
    "ALTER TABLE public.a ADD CONSTRAINT positive CHECK (id > 0)",
    "ALTER TABLE public.a ADD CONSTRAINT positive CHECK (id > 0) NOT VALID",
    "ALTER TABLE public.b VALIDATE CONSTRAINT later",
    "ALTER TABLE public.b DROP CONSTRAINT later",
    "ALTER TABLE public.a ADD UNIQUE (v)",
    "ALTER TABLE public.b ADD FOREIGN KEY (a_id) REFERENCES public.a",
    "ALTER TABLE public.b ADD CONSTRAINT fk FOREIGN KEY (a_id) REFERENCES public.a NOT VALID",
    "ALTER TABLE public.b ADD COLUMN other int REFERENCES public.a",
    "ALTER TABLE public.a CLUSTER ON a_v",
    "ALTER TABLE public.p ATTACH PARTITION public.p1 FOR VALUES FROM ('2031-01-01') TO ('2032-01-01')",
    "ALTER TABLE public.p DETACH PARTITION public.p2",
    "CREATE TABLE public.n (id int REFERENCES public.a)",
    "CREATE TABLE public.p3 PARTITION OF public.p FOR VALUES FROM ('2032-01-01') TO ('2033-01-01')",
    "CREATE TABLE public.i () INHERITS (public.a)",
    "CREATE INDEX ON public.a (w)",
    "CREATE UNIQUE INDEX one ON public.a (id, w)",
    "CREATE TRIGGER t BEFORE UPDATE ON public.a FOR EACH ROW EXECUTE FUNCTION public.f()",
    "DROP TRIGGER existing ON public.a",
    "CREATE POLICY mine ON public.a USING (true)",
    "CREATE STATISTICS s ON v, w FROM public.a",
    "DROP TABLE public.b",
    "DROP VIEW public.view_a",
    "DROP MATERIALIZED VIEW public.m",
    "TRUNCATE public.b",
    "TRUNCATE TABLE public.b, public.p1",
    "INSERT INTO public.a VALUES (1)",
    "INSERT INTO public.a VALUES (1) ON CONFLICT (id) DO UPDATE SET v = 'x'",
    "UPDATE public.a SET v = 'x'",
    "DELETE FROM public.a WHERE id = 1",
    "WITH gone AS (DELETE FROM public.b RETURNING id) UPDATE public.a SET w = 1 WHERE id IN (SELECT id FROM gone)",
    "LOCK TABLE public.a IN SHARE MODE",
    "LOCK TABLE public.a",
    "COMMENT ON TABLE public.a IS 'a; b'",
    "COMMENT ON COLUMN public.a.v IS 'v'",
    "COMMENT ON SCHEMA public IS 'p'",
    "ANALYZE public.a",
    "CLUSTER public.a USING a_v",
    "REINDEX TABLE public.a",
    "REFRESH MATERIALIZED VIEW public.m",
    "REFRESH MATERIALIZED VIEW CONCURRENTLY public.m",
    "GRANT SELECT ON public.a TO PUBLIC",
    "CREATE VIEW public.v AS SELECT * FROM public.a",
    "SELECT * FROM public.a",
]
_HELD = """
SELECT string_agg(DISTINCT l.mode, ','), n.nspname || '.' || c.relname FROM pg_locks l
JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE l.pid = %s AND l.granted AND c.relkind IN ('r', 'p', 'v', 'm') AND n.nspname = 'public'
  AND l.mode NOT IN ('AccessShareLock', 'RowShareLock') GROUP BY 2
"""
_STRENGTH = ("RowExclusive", "ShareUpdateExclusive", "Share", "ShareRowExclusive", "Exclusive", "AccessExclusive")


@pytest.fixture(scope="module")
def observed(server: Running) -> Iterator[tuple[Any, Any]]:
    """Two connections to a database with the tables above."""
    with contextlib.closing(connected(server, server.endpoint)) as db:
        db.connection.execute("CREATE DATABASE locks")
        there = Endpoint(server.endpoint.host, server.endpoint.port, "locks")
        with (
            contextlib.closing(connected(server, there)) as runner,
            contextlib.closing(connected(server, there)) as observer,
        ):
            runner.connection.execute(TABLES.encode())
            yield runner.connection, observer.connection
        db.connection.execute("DROP DATABASE locks WITH (FORCE)")


@pytest.mark.parametrize("statement", STATEMENTS)
def test_the_locks_that_a_plan_names_are_those_that_the_server_takes(observed: tuple[Any, Any], statement: str) -> None:
    runner, observer = observed
    with runner.transaction(force_rollback=True):
        runner.execute(statement.encode())
        rows = observer.execute(_HELD, (runner.info.backend_pid,)).fetchall()
    held = {}
    for modes, table in rows:
        strongest = max((mode.removesuffix("Lock") for mode in modes.split(",")), key=_STRENGTH.index)
        held[table] = strongest
    named = {
        lock.partition(" on ")[2]: lock.partition(" on ")[0].title().replace(" ", "")
        for lock in postgresql_effects(statements_of(statement)).locks
    }
    assert named == held


# Rehearsals


class TestRehearsal:
    def rehearsed(self, server: Running, db: PostgresDatabase, folder: Path) -> Rehearsal:
        steps = read_steps(folder)
        missing = [step for step in steps if step.version not in versions(db)]
        return rehearse(lambda: clone(db, lambda at: connected(server, at), steps), missing, SystemClock())

    def copies(self, db: PostgresDatabase) -> int:
        return value(db, f"SELECT count(*) FROM pg_database WHERE starts_with(datname, '{PREFIX}')")

    def test_a_change_is_tried_on_a_whole_copy_and_the_copy_is_gone(
        self, server: Running, db: PostgresDatabase, folder: Path
    ) -> None:
        migrate(db, read_steps(folder))
        db.connection.execute("INSERT INTO public.patients SELECT g, '1970-01-01' FROM generate_series(1, 100000) g")
        write_step(folder, "V2__more.sql", "ALTER TABLE public.patients ADD COLUMN more int;")
        write_step(folder, "U2__more.sql", "ALTER TABLE public.patients DROP COLUMN more;")
        write_step(folder, "T2__more.sql", "SELECT count(*) = 100000 FROM public.patients;")
        write_step(folder, "V3__index.sql", INDEX)
        write_step(folder, "U3__index.sql", NO_INDEX)
        found = self.rehearsed(server, db, folder)
        assert (found.how, found.passed, found.same_after_undo) == ("the whole database", True, True)
        assert [step.version for step in found.steps] == ["2", "3"]
        assert found.steps[0].locks == ("ACCESS EXCLUSIVE on public.patients",)
        assert found.steps[1].locks == ("SHARE UPDATE EXCLUSIVE on public.patients",)
        assert all(step.undone and step.duration_ms > 0 for step in found.steps)
        assert self.copies(db) == 0
        assert versions(db) == ["1"]

    def test_while_others_are_connected_a_sample_takes_the_place_of_the_whole(
        self, server: Running, endpoint: Endpoint, db: PostgresDatabase, folder: Path
    ) -> None:
        write_step(
            folder,
            "V1_1__visits.sql",
            "CREATE TABLE public.visits (id int PRIMARY KEY, patient int NOT NULL REFERENCES public.patients,"
            " twice int GENERATED ALWAYS AS (id * 2) STORED);",
        )
        migrate(db, read_steps(folder))
        db.connection.execute("INSERT INTO public.patients SELECT g, '1970-01-01' FROM generate_series(1, 3000) g")
        db.connection.execute("INSERT INTO public.visits SELECT 3001 - g, g FROM generate_series(1, 3000) g")
        write_step(
            folder,
            "V2__again.sql",
            "ALTER TABLE public.visits ADD CONSTRAINT again FOREIGN KEY (patient) REFERENCES public.patients;",
        )
        write_step(folder, "U2__again.sql", "ALTER TABLE public.visits DROP CONSTRAINT again;")
        write_step(folder, "T2__again.sql", "SELECT count(*) > 900 FROM public.patients;")
        with contextlib.closing(connected(server, endpoint)):
            found = self.rehearsed(server, db, folder)
        assert "sample" in found.how
        assert "could not" not in found.how
        assert found.passed, found.describe()

    def test_a_step_that_fails_on_the_copy_is_told_and_the_live_schema_is_untouched(
        self, server: Running, db: PostgresDatabase, folder: Path
    ) -> None:
        migrate(db, read_steps(folder))
        db.connection.execute("INSERT INTO public.patients VALUES (1, NULL)")
        write_step(folder, "V2__strict.sql", "ALTER TABLE public.patients ALTER COLUMN born SET NOT NULL;")
        found = self.rehearsed(server, db, folder)
        assert not found.passed
        assert "23502" in found.steps[0].failure
        assert versions(db) == ["1"]
        assert self.copies(db) == 0

    def test_an_undo_that_does_not_restore_the_schema_does_not_pass(
        self, server: Running, db: PostgresDatabase, folder: Path
    ) -> None:
        migrate(db, read_steps(folder))
        write_step(folder, "V2__two.sql", "ALTER TABLE public.patients ADD COLUMN one int, ADD COLUMN two int;")
        write_step(folder, "U2__two.sql", "ALTER TABLE public.patients DROP COLUMN one;")
        found = self.rehearsed(server, db, folder)
        assert (found.passed, found.same_after_undo) == (False, False)
        assert "column public.patients.two" in found.describe()

    def test_a_step_without_an_undo_file_passes_and_the_report_says_that_there_is_no_way_back(
        self, server: Running, db: PostgresDatabase, folder: Path
    ) -> None:
        migrate(db, read_steps(folder))
        write_step(folder, "V2__more.sql", "ALTER TABLE public.patients ADD COLUMN more int;")
        found = self.rehearsed(server, db, folder)
        assert (found.passed, found.same_after_undo, found.steps[0].undone) == (True, None, None)

    def test_a_schema_that_its_files_do_not_make_is_not_rehearsed_on_something_else(
        self, server: Running, endpoint: Endpoint, db: PostgresDatabase, folder: Path
    ) -> None:
        migrate(db, read_steps(folder))
        db.connection.execute("ALTER TABLE public.patients ADD COLUMN by_hand int")
        write_step(folder, "V2__more.sql", "ALTER TABLE public.patients ADD COLUMN more int;")
        with contextlib.closing(connected(server, endpoint)), pytest.raises(NoClone, match="1 properties"):
            self.rehearsed(server, db, folder)
        assert self.copies(db) == 0

    def test_what_a_killed_rehearsal_left_is_removed_and_a_living_one_is_left_alone(
        self, server: Running, db: PostgresDatabase, folder: Path
    ) -> None:
        migrate(db, read_steps(folder))
        db.connection.execute(f"CREATE DATABASE {PREFIX}left".encode())
        connect = lambda at: connected(server, at)  # noqa: E731
        with clone(db, connect, read_steps(folder)):
            assert self.copies(db) == 1
            with pytest.raises(RehearsalUnderWay), clone(db, connect, read_steps(folder)):
                pass
            assert self.copies(db) == 1
        assert self.copies(db) == 0

    def test_the_catalogs_schema_can_be_copied_and_what_can_be_taken_back_is(
        self, server: Running, endpoint: Endpoint, db: PostgresDatabase
    ) -> None:
        steps = read_steps(CATALOG / "postgres" / "migrations")
        undoable = [step for step in steps if step.undo]
        assert undoable
        first = steps.index(undoable[0])
        assert list(steps[first:]) == undoable, "a step that can be taken back lies below one that cannot"
        migrate(db, steps[:first])
        with contextlib.closing(connected(server, endpoint)):
            found = rehearse(lambda: clone(db, lambda at: connected(server, at), steps), steps[first:], SystemClock())
        assert (found.passed, found.same_after_undo) == (True, True), found.describe()
        assert "could not" not in found.how


def test_a_reader_waits_no_longer_than_a_runner_waits_for_its_lock(
    server: Running, endpoint: Endpoint, db: PostgresDatabase, folder: Path
) -> None:
    migrate(db, read_steps(folder))
    write_step(folder, "V2__more.sql", "ALTER TABLE public.patients ADD COLUMN more int;")
    with (
        contextlib.closing(connected(server, endpoint)) as reader,
        contextlib.closing(connected(server, endpoint)) as runner,
    ):
        reader.connection.execute("BEGIN")
        reader.connection.execute("SELECT * FROM public.patients")
        thread = threading.Thread(target=migrate, args=(runner, read_steps(folder)))
        thread.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'public.patients'::regclass"
        until(lambda: value(db, waiting) == 1)
        longest = 0.0
        clock = SystemClock()
        for _ in range(200):
            started = clock.monotonic()
            db.connection.execute("SELECT * FROM public.patients")
            longest = max(longest, clock.monotonic() - started)
        reader.connection.execute("COMMIT")
        thread.join(30)
    assert versions(db) == ["1", "2"]
    assert longest < 0.5
