"""The contract on PostgreSQL, and what is its own: transactions, privileges, the audit chain."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dr_platform.catalog import Engine
from dr_platform.clock import SystemClock
from dr_platform.data_filling import FillingStopped, apply_steps
from dr_platform.databases.port import DatabaseMissing, Endpoint
from dr_platform.databases.schema import MalformedMigrations, MigrationFailed, migrate, read_steps
from dr_platform.runtime.memory import MemoryRuntime
from dr_platform.runtime.port import Job, JobResult
from dr_platform.verdict import silent
from tests.contracts.database import CATALOG, DatabaseContract, write_step
from tests.contracts.embedded_servers import Running
from tests.contracts.runtime import until

pytestmark = pytest.mark.contract

_EVENT = "INSERT INTO audit.events (actor, action, resource, outcome) VALUES (%s, 'read', 'conversation/7', 'allowed')"


class TestPostgres(DatabaseContract):
    engine = Engine.POSTGRESQL
    name = "postgres"
    extension = ".sql"
    server_name = "PostgreSQL"
    halves = False

    def adding(self, thing: str) -> str:
        # Not repeatable on purpose: applied a second time it would fail.
        return f"CREATE TABLE public.{thing} (id int);\nINSERT INTO public.{thing} VALUES (1);\n"

    def removing(self, thing: str) -> str:
        return f"DROP TABLE public.{thing};\n"

    def by_hand(self, db: Any, thing: str) -> None:
        db.connection.execute(f"GRANT SELECT ON public.{thing} TO PUBLIC")

    def forget_shapes(self, db: Any) -> None:
        for column in ("fingerprint", "shape", "undoing"):
            db.connection.execute(f"ALTER TABLE public.drp_schema_history DROP COLUMN {column}")
        db.connection.execute("DROP TABLE public.drp_schema_revision")

    def has(self, db: Any, thing: str) -> bool:
        return db.connection.execute("SELECT to_regclass(%s)", (f"public.{thing}",)).fetchone()[0] is not None

    def refused(self) -> str:
        return f"{self.adding('before')}SELECT * FROM public.no_such_table;\n"

    def long(self) -> str:
        return f"{self.adding('first')}SELECT pg_sleep(30);\n{self.adding('last')}".replace(
            "pg_sleep(30)",
            "pg_sleep(CASE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = 'hurry') THEN 0 ELSE 60 END)",
        )

    def begun(self, db: Any) -> bool:
        """Nothing of it can be seen yet, but the server says what it is doing."""
        found = db.connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%%pg_sleep(CASE%%' AND pid <> pg_backend_pid()"
            " AND wait_event = 'PgSleep'"
        ).fetchone()
        if found[0]:
            db.connection.execute("CREATE ROLE hurry")  # the repetition need not sleep
        return bool(found[0])

    def fresh(self, server: Running, number: int) -> Endpoint:
        name = f"test_{number}"
        db = self.connect(server, server.endpoint)
        with contextlib.closing(db):
            db.connection.execute("DROP ROLE IF EXISTS hurry")
            db.connection.execute(f"CREATE DATABASE {name}")
        return Endpoint(server.endpoint.host, server.endpoint.port, name)

    @classmethod
    def tune(cls, server: Running) -> None:
        with contextlib.closing(cls.connect(server, server.endpoint)) as db:
            db.connection.execute("ALTER SYSTEM SET fsync = off")
            db.connection.execute("SELECT pg_reload_conf()")

    def discard(self, server: Running, endpoint: Endpoint) -> None:
        db = self.connect(server, server.endpoint)
        with contextlib.closing(db):
            db.connection.execute(f"DROP DATABASE {endpoint.database} WITH (FORCE)")

    @pytest.fixture
    def schema(self, db: Any) -> Any:
        """The catalog's schema."""
        migrate(db, read_steps(CATALOG / "postgres" / "migrations"))
        return db

    @pytest.fixture
    def application(self, server: Running, endpoint: Endpoint, schema: Any) -> Iterator[Any]:
        del schema
        db = self.connect(server, endpoint, "application")
        with contextlib.closing(db):
            yield db.connection

    def test_data_is_filled_in_by_a_job_in_its_turn(self, server: Running, db: Any, tmp_path: Path) -> None:
        """The step before it is there, the one behind it is not begun until the job has ended."""
        write_step(
            tmp_path / "steps",
            "V1__table.sql",
            "CREATE TABLE t AS SELECT n AS id, 0 AS a FROM generate_series(1, 500) n",
        )
        write_step(
            tmp_path / "steps", "V2__fill.sql", "-- batched: t by id, 100 rows\nUPDATE t SET a = 1 WHERE in_batch(id)"
        )
        write_step(tmp_path / "steps", "V3__check.sql", "ALTER TABLE t ADD CHECK (a = 1)")
        steps = read_steps(tmp_path / "steps")

        def job(asked: Job) -> JobResult:
            assert asked.arguments == ("fill", "postgres", "2")
            with contextlib.closing(self.connect(server, db.endpoint)) as other:
                assert [step.version for step in other.applied()] == ["1"]
                migrate(other, steps, only={"2"})
            return JobResult(0, "", 0.1)

        done = apply_steps(lambda: MemoryRuntime(SystemClock(), job), db, steps, silent, None)
        assert [step.version for step in done] == ["1", "2", "3"]
        assert db.connection.execute("SELECT count(*) FROM t WHERE a = 1").fetchone() == (500,)

    def test_a_job_that_ends_early_leaves_what_follows_undone(self, db: Any, tmp_path: Path) -> None:
        write_step(tmp_path / "steps", "V1__table.sql", self.adding("t"))
        write_step(tmp_path / "steps", "V2__fill.sql", "-- batched: t by id\nUPDATE t SET id = 2 WHERE in_batch(id)")
        write_step(tmp_path / "steps", "V3__more.sql", self.adding("more"))
        killed = MemoryRuntime(SystemClock(), lambda _job: JobResult(None, "", 0.0))
        with pytest.raises(FillingStopped, match="killed"):
            apply_steps(lambda: killed, db, read_steps(tmp_path / "steps"), silent, None)
        assert [step.version for step in db.applied()] == ["1"]

    def test_a_missing_database_is_named(self, server: Running) -> None:
        with pytest.raises(DatabaseMissing, match="nowhere"):
            self.connect(server, Endpoint(server.endpoint.host, server.endpoint.port, "nowhere"))

    def test_a_step_that_fails_leaves_nothing_and_names_the_line(self, db: Any, tmp_path: Path) -> None:
        write_step(tmp_path / "steps", "V1__refused.sql", self.refused())
        with pytest.raises(MigrationFailed, match=r"V1__refused\.sql line 3"):
            migrate(db, read_steps(tmp_path / "steps"))
        assert not self.has(db, "before")

    def test_a_failure_over_stored_data_does_not_quote_it(self, db: Any, tmp_path: Path) -> None:
        text = "CREATE TABLE public.t AS SELECT 'Ada Example' AS v;\nSELECT v::int FROM public.t;"
        write_step(tmp_path / "steps", "V1__cast.sql", text)
        with pytest.raises(MigrationFailed) as failure:
            migrate(db, read_steps(tmp_path / "steps"))
        assert "22P02" in str(failure.value)
        assert "Ada" not in str(failure.value)

    @pytest.mark.parametrize("line", ["COMMIT;", "BEGIN;", "rollback ;", "START TRANSACTION;"])
    def test_a_step_that_ends_the_transaction_is_refused(self, db: Any, tmp_path: Path, line: str) -> None:
        write_step(tmp_path / "steps", "V1__commits.sql", f"{self.adding('first')}{line}\n")
        with pytest.raises(MalformedMigrations, match="transaction"):
            migrate(db, read_steps(tmp_path / "steps"))
        assert not self.has(db, "first")

    def test_a_step_gives_way_to_readers_and_applies_when_the_table_is_free(
        self, server: Running, endpoint: Endpoint, db: Any, tmp_path: Path
    ) -> None:
        write_step(tmp_path / "steps", "V1__table.sql", self.adding("busy"))
        migrate(db, read_steps(tmp_path / "steps"))
        write_step(tmp_path / "steps", "V2__column.sql", "ALTER TABLE public.busy ADD COLUMN more int;")
        reader = self.connect(server, endpoint)
        runner = self.connect(server, endpoint)
        with contextlib.closing(reader), contextlib.closing(runner):
            reader.connection.execute("BEGIN")
            reader.connection.execute("SELECT * FROM public.busy")
            thread = threading.Thread(target=migrate, args=(runner, read_steps(tmp_path / "steps")))
            thread.start()
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'public.busy'::regclass"
            for wanted in (1, 0):  # it waits, and then it lets go
                until(lambda wanted=wanted: db.connection.execute(waiting).fetchone()[0] == wanted)
            db.connection.execute("SELECT * FROM public.busy")
            reader.connection.execute("COMMIT")
            thread.join(30)
        assert [step.version for step in db.applied()] == ["1", "2"]

    def test_a_connection_that_the_server_ended_is_replaced(self, server: Running, endpoint: Endpoint, db: Any) -> None:
        other = self.connect(server, endpoint)
        with contextlib.closing(other):
            other.connection.execute("SELECT pg_terminate_backend(%s)", (db.connection.info.backend_pid,))
        until(lambda: self.answers(db))
        assert db.ping() > 0

    # The catalog's schema

    @pytest.mark.parametrize(
        "statement",
        ["UPDATE audit.events SET actor = 'nobody'", "DELETE FROM audit.events", "TRUNCATE audit.events"],
    )
    def test_audit_events_can_be_changed_by_nobody(self, schema: Any, application: Any, statement: str) -> None:
        application.execute(_EVENT, ("account/1",))
        for connection in (application, schema.connection):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
        schema.connection.execute("SET session_replication_role = replica")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            schema.connection.execute(statement)
        assert schema.connection.execute("SELECT count(*) FROM audit.events").fetchone()[0] == 1

    def test_the_server_numbers_and_chains_audit_events(self, schema: Any, application: Any) -> None:
        for number in range(5):
            application.execute(_EVENT, (f"account/{number}",))
        rows = schema.connection.execute(
            "SELECT sequence, hash, previous_hash FROM audit.events ORDER BY sequence"
        ).fetchall()
        assert [row[0] for row in rows] == [1, 2, 3, 4, 5]
        assert [row[2] for row in rows[1:]] == [row[1] for row in rows[:-1]]
        assert application.execute("SELECT * FROM audit.broken_links()").fetchall() == []

    def test_audit_events_of_writers_at_once_form_one_chain(
        self, server: Running, endpoint: Endpoint, schema: Any
    ) -> None:
        def write() -> None:
            db = self.connect(server, endpoint, "application")
            with contextlib.closing(db):
                for _ in range(25):
                    db.connection.execute(_EVENT, ("account/1",))

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert schema.connection.execute("SELECT max(sequence) FROM audit.events").fetchone()[0] == 100
        assert schema.connection.execute("SELECT * FROM audit.broken_links()").fetchall() == []

    @pytest.mark.parametrize(
        ("tampering", "sequence"),
        [
            pytest.param("UPDATE audit.events SET actor = 'account/9' WHERE sequence = 3", 3, id="a changed row"),
            pytest.param("DELETE FROM audit.events WHERE sequence = 3", 4, id="a missing row"),
            pytest.param("DELETE FROM audit.events WHERE sequence = 5", 5, id="the newest row is missing"),
        ],
    )
    def test_tampering_by_the_owner_is_found(
        self, schema: Any, application: Any, tampering: str, sequence: int
    ) -> None:
        for number in range(5):
            application.execute(_EVENT, (f"account/{number}",))
        schema.connection.execute("ALTER TABLE audit.events DISABLE TRIGGER ALL")
        schema.connection.execute(tampering)
        found = schema.connection.execute("SELECT sequence FROM audit.broken_links()").fetchall()
        assert sequence in {row[0] for row in found}
        findings = {finding.name: finding.passed for finding in schema.findings()}
        assert findings["audit_chain_is_whole"] is False
        assert findings["audit_is_append_only"] is False

    @pytest.mark.parametrize(
        ("grant", "finding"),
        [
            ("ALTER ROLE {} CREATEDB", "application_role_is_limited"),
            ("GRANT CREATE ON SCHEMA public TO {}", "application_cannot_change_schema"),
            ("ALTER TABLE audit.events OWNER TO {}", "application_cannot_change_schema"),
        ],
    )
    def test_too_much_privilege_of_the_application_is_found(
        self, server: Running, schema: Any, grant: str, finding: str
    ) -> None:
        login = server.secrets.read("databases/postgres/application")
        assert login is not None
        schema.connection.execute(grant.format(login["username"]))
        try:
            found = {each.name: each.passed for each in schema.findings()}
        finally:
            schema.connection.execute(f"ALTER ROLE {login['username']} NOCREATEDB")
        assert found[finding] is False
        assert self.has(schema, "drp_schema_history")

    def test_knowledge_is_found_by_words_and_by_meaning(self, schema: Any, application: Any) -> None:
        vector = [0.0] * 256
        vector[0] = 1.0
        document = schema.connection.execute(
            "INSERT INTO knowledge.documents (set_name, slug, title, content_hash) VALUES ('s', 'a', 'Sleep', 'x')"
            " RETURNING id"
        ).fetchone()[0]
        schema.connection.execute(
            "INSERT INTO knowledge.chunks (document_id, ordinal, text, content_hash, model, embedding, tsv) VALUES"
            " (%s, 0, 'a steady wake-up time', 'x', 'm', %s, to_tsvector('english', 'a steady wake-up time'))",
            (document, str(vector)),
        )
        words = "SELECT document_id FROM knowledge.chunks WHERE tsv @@ plainto_tsquery('english', 'steady times')"
        meaning = "SELECT document_id FROM knowledge.chunks ORDER BY embedding <=> %s LIMIT 1"
        assert application.execute("SELECT count(*) FROM knowledge.documents").fetchone()[0] == 1
        assert application.execute(words).fetchall() == [(document,)]
        assert application.execute(meaning, (str(vector),)).fetchall() == [(document,)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            application.execute("DELETE FROM knowledge.chunks")

    def test_two_workers_take_different_tasks(self, server: Running, endpoint: Endpoint, application: Any) -> None:
        take = "SELECT id FROM work.tasks WHERE state = 'waiting' ORDER BY priority, id LIMIT 1 FOR UPDATE SKIP LOCKED"
        application.execute("INSERT INTO work.tasks (kind) VALUES ('reminder'), ('reminder')")
        other = self.connect(server, endpoint, "application")
        with contextlib.closing(other), application.transaction(), other.connection.transaction():
            first = application.execute(take).fetchone()
            second = other.connection.execute(take).fetchone()
        assert {first, second} == {(1,), (2,)}

    def test_nobody_reviews_their_own_emergency_access(self, application: Any) -> None:
        account = (
            "INSERT INTO identity.accounts (kind, email_ciphertext, email_blind_index) VALUES ('clinician', 'x', %s)"
        )
        ids = [application.execute(f"{account} RETURNING id", (bytes([n]) * 32,)).fetchone()[0] for n in (1, 2)]
        grant = (
            "INSERT INTO identity.emergency_access"
            " (requester_id, patient_id, reason_ciphertext, expires_at, reviewed_by)"
            " VALUES (%s, %s, 'x', now() + interval '1 hour', %s)"
        )
        application.execute(grant, (ids[0], ids[1], None))
        application.execute(grant, (ids[0], ids[1], ids[1]))
        with pytest.raises(psycopg.errors.CheckViolation):
            application.execute(grant, (ids[0], ids[1], ids[0]))
