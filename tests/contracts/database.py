"""What every adapter of ``ManagedDatabase`` promises, tried on a real server.

A test module per engine inherits ``DatabaseContract``, starts its server once, and says how a few
steps are written for that engine. Every test has a database of its own on the server.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dr_platform.catalog import Engine
from dr_platform.clock import SystemClock
from dr_platform.databases import console
from dr_platform.databases.clones import PREFIX, NoClone, clone
from dr_platform.databases.connect import connect_database
from dr_platform.databases.port import (
    AccessDenied,
    AppliedStep,
    DatabaseMissing,
    DatabaseUnreachable,
    EditedMigration,
    Endpoint,
    MissingUndo,
    NotNewest,
    OutOfOrderMigration,
    UnfinishedUndo,
    fingerprint_of,
)
from dr_platform.databases.schema import (
    MalformedMigrations,
    MigrationFailed,
    migrate,
    plan,
    read_steps,
    revert,
    undoing,
)
from dr_platform.migrations.rehearsal import rehearse
from dr_platform.secrets.embedded import EmbeddedSecretStore
from tests.contracts.embedded_servers import Running, running
from tests.contracts.runtime import until
from tests.embedded_programs import free_port

CATALOG = Path(__file__).parents[2] / "catalog" / "databases"
LEASE_S = 2.0
"""Short, so that a killed runner is forgotten while a test waits."""

_RUNNER = """
import json, sys
from pathlib import Path
from dr_platform.catalog import Database
from dr_platform.databases.connect import connect_database
from dr_platform.databases.port import Endpoint
from dr_platform.databases.schema import migrate, read_steps, revert, undoing
from dr_platform.secrets.embedded import EmbeddedSecretStore
told = json.loads(sys.argv[1])
database = Database.model_validate_json(told["database"])
secrets = EmbeddedSecretStore(Path(told["secrets"]))
db = connect_database(database, Endpoint(*told["endpoint"]), secrets, "admin", lease_s=told["lease_s"])
steps = read_steps(Path(told["folder"]))
if told["back"]:
    revert(db, undoing(database.name, steps, db.applied(), 1))
else:
    migrate(db, steps)
db.close()
"""
"""A schema runner in a process of its own, which a test can kill."""


def write_step(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def stored(applied: Any) -> list[tuple[str, str]]:
    return [(step.version, step.checksum) for step in applied]


QUESTIONS = {
    Engine.POSTGRESQL: "SELECT 1 AS one",
    Engine.SCYLLADB: "SELECT release_version FROM system.local",
    Engine.REDIS: "PING",
    Engine.MONGODB: '{"ping": 1}',
}
"""One statement of each engine that is answered with one row."""


class DatabaseContract:
    engine: ClassVar[Engine]
    name: ClassVar[str]
    """Folder of the engine's database in the catalog."""
    extension: ClassVar[str]
    server_name: ClassVar[str]
    shaped: ClassVar[str] = "shaped"
    """A thing that belongs to the schema, and not to the data alone."""
    halves: ClassVar[bool] = True
    """Whether a step that was killed leaves a part of it behind."""
    known_failures: ClassVar[frozenset[str]] = frozenset()
    """Findings that the embedded server cannot pass, which its ``reduced`` explains."""

    # What an engine's test module says

    def adding(self, thing: str) -> str:
        """A step that makes ``thing``."""
        raise NotImplementedError

    def removing(self, thing: str) -> str:
        """A step that takes ``thing`` away."""
        raise NotImplementedError

    def has(self, db: Any, thing: str) -> bool:
        raise NotImplementedError

    def forget_shapes(self, db: Any) -> None:
        """Make the history what a platform left that kept no shapes."""
        raise NotImplementedError

    def refused(self) -> str:
        """A step that the server refuses, after a first statement that makes ``before``."""
        raise NotImplementedError

    def long(self) -> str:
        """A step of many statements: the first makes ``first``, the last makes ``last``."""
        raise NotImplementedError

    def begun(self, db: Any) -> bool:
        """Whether a runner is in the middle of the long step."""
        return self.has(db, "first")

    def fresh(self, server: Running, number: int) -> Endpoint:
        """A database on the server that no test has used."""
        raise NotImplementedError

    @classmethod
    def tune(cls, server: Running) -> None:
        """What makes a server faster whose data nobody needs."""

    def discard(self, server: Running, endpoint: Endpoint) -> None:
        """Remove a database that ``fresh`` made, where that is worth its time."""

    # Fixtures

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls) -> Iterator[Running]:
        with running(cls.engine, cls.name, ready_s=120) as server:
            cls.tune(server)
            yield server

    @pytest.fixture
    def endpoint(self, server: Running, request: pytest.FixtureRequest) -> Iterator[Endpoint]:
        endpoint = self.fresh(server, zlib.crc32(request.node.nodeid.encode()))
        yield endpoint
        self.discard(server, endpoint)

    @pytest.fixture
    def db(self, server: Running, endpoint: Endpoint) -> Iterator[Any]:
        db = self.connect(server, endpoint)
        try:
            yield db
        finally:
            db.close()

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Two steps."""
        folder = tmp_path / "steps"
        write_step(folder, f"V1_0_0__first{self.extension}", self.adding("first"))
        write_step(folder, f"V1_0_10__second{self.extension}", self.adding("second"))
        return folder

    @classmethod
    def connect(cls, server: Running, endpoint: Endpoint, role: Any = "admin") -> Any:
        return connect_database(server.database, endpoint, server.secrets, role, lease_s=LEASE_S)

    # Connections

    def test_a_ping_takes_milliseconds(self, db: Any) -> None:
        assert 0 < db.ping() < 1000

    def test_it_says_which_server_answers(self, db: Any) -> None:
        info = db.server()
        assert info.server == self.server_name
        assert info.version[0].isdigit()
        assert info.capabilities

    def test_the_application_is_let_in(self, server: Running) -> None:
        db = self.connect(server, server.endpoint, "application")
        with contextlib.closing(db):
            assert db.ping() > 0
            assert db.server().server == self.server_name

    @pytest.mark.parametrize("field", ["username", "password"])
    def test_wrong_credentials_are_refused_as_such(self, server: Running, tmp_path: Path, field: str) -> None:
        right = server.secrets.read(f"databases/{self.name}/admin")
        assert right is not None
        wrong = EmbeddedSecretStore(tmp_path / "secrets")
        changed = {**right, field: "drp_nobody"}
        wrong.write(f"databases/{self.name}/admin", changed, category="database-credentials", expected=None)
        with pytest.raises(AccessDenied) as refusal:
            connect_database(server.database, server.endpoint, wrong, "admin")
        assert right["password"] not in str(refusal.value)

    def test_a_port_where_nothing_listens_is_unreachable(self, server: Running) -> None:
        nobody = Endpoint("127.0.0.1", free_port(), server.endpoint.database)
        started = time.monotonic()
        with pytest.raises(DatabaseUnreachable):
            self.connect(server, nobody)
        assert time.monotonic() - started < 10

    def test_a_server_that_accepts_and_says_nothing_is_unreachable_in_bounded_time(self, server: Running) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            started = time.monotonic()
            with pytest.raises(DatabaseUnreachable):
                self.connect(server, Endpoint("127.0.0.1", silent.getsockname()[1], server.endpoint.database))
            assert time.monotonic() - started < 15

    def test_a_server_that_stands_still_is_unreachable_and_is_back_when_it_goes_on(
        self, server: Running, db: Any
    ) -> None:
        db.ping()
        with server.stopped():
            started = time.monotonic()
            with pytest.raises(DatabaseUnreachable):
                db.ping(timeout_s=0.5)
            assert time.monotonic() - started < 6
        until(lambda: self.answers(db))

    def answers(self, db: Any) -> bool:
        try:
            return db.ping() > 0
        except DatabaseUnreachable:
            return False

    # Schema

    def test_nothing_is_applied_to_a_new_database(self, db: Any) -> None:
        assert list(db.applied()) == []

    def test_steps_apply_in_order_of_their_numbers_and_are_recorded(self, db: Any, folder: Path) -> None:
        write_step(folder, f"V1_0_9__between{self.extension}", self.adding("between"))
        steps = read_steps(folder)
        told: list[str] = []
        done = migrate(db, steps, told.append)
        assert [step.version for step in done] == ["1.0.0", "1.0.9", "1.0.10"]
        assert all(self.has(db, thing) for thing in ("first", "between", "second"))
        assert stored(db.applied()) == [(step.version, step.checksum) for step in steps]
        assert [step.description for step in db.applied()] == ["first", "between", "second"]
        assert all(step.duration_ms >= 0 and step.applied_at.startswith("20") for step in db.applied())
        assert len(told) == 3

    def test_a_second_migration_changes_nothing(self, db: Any, folder: Path) -> None:
        migrate(db, read_steps(folder))
        before = list(db.applied())
        assert migrate(db, read_steps(folder)) == ()
        assert list(db.applied()) == before

    def test_applying_a_recorded_step_returns_its_record(self, db: Any, folder: Path) -> None:
        first = read_steps(folder)[0]
        done = db.apply(first)
        again = db.apply(first)
        assert isinstance(again, AppliedStep)
        assert again.applied_at == done.applied_at

    def test_an_edited_step_is_refused_and_nothing_is_applied(self, db: Any, folder: Path) -> None:
        migrate(db, read_steps(folder)[:1])
        write_step(folder, f"V1_0_0__first{self.extension}", self.adding("edited"))
        with pytest.raises(EditedMigration):
            migrate(db, read_steps(folder))
        assert not self.has(db, "edited")
        assert not self.has(db, "second")

    def test_a_file_that_changes_after_it_was_read_is_refused(self, db: Any, folder: Path) -> None:
        steps = read_steps(folder)
        write_step(folder, f"V1_0_0__first{self.extension}", self.adding("edited"))
        with pytest.raises(EditedMigration):
            db.apply(steps[0])
        assert not self.has(db, "edited")
        assert list(db.applied()) == []

    def test_a_step_older_than_an_applied_one_is_refused(self, db: Any, folder: Path) -> None:
        migrate(db, read_steps(folder))
        write_step(folder, f"V1_0_5__late{self.extension}", self.adding("late"))
        with pytest.raises(OutOfOrderMigration):
            migrate(db, read_steps(folder))
        with pytest.raises(OutOfOrderMigration):
            db.apply(read_steps(folder)[1])
        assert not self.has(db, "late")

    def test_a_file_of_another_engine_is_refused(self, db: Any, tmp_path: Path) -> None:
        other = ".cql" if self.extension == ".sql" else ".sql"
        write_step(tmp_path / "steps", f"V1__other{other}", "SELECT 1;")
        with pytest.raises(MalformedMigrations, match="another engine"):
            migrate(db, read_steps(tmp_path / "steps"))

    def test_a_refused_statement_names_the_file_and_is_not_recorded_and_applies_when_corrected(
        self, db: Any, folder: Path
    ) -> None:
        file = f"V1_0_5__refused{self.extension}"
        write_step(folder, file, self.refused())
        with pytest.raises(MigrationFailed, match=file):
            migrate(db, read_steps(folder))
        assert [step.version for step in db.applied()] == ["1.0.0"]
        assert not self.has(db, "second")
        write_step(folder, file, self.adding("before"))
        migrate(db, read_steps(folder))
        assert [step.version for step in db.applied()] == ["1.0.0", "1.0.5", "1.0.10"]
        assert self.has(db, "before")

    def test_of_two_runners_at_once_each_step_is_applied_by_one(
        self, server: Running, endpoint: Endpoint, db: Any, folder: Path
    ) -> None:
        for number in range(20, 26):
            write_step(folder, f"V1_0_{number}__step{self.extension}", self.adding(f"thing{number}"))
        steps = read_steps(folder)
        runners = [self.connect(server, endpoint) for _ in range(2)]
        together = threading.Barrier(len(runners))
        results: list[tuple[AppliedStep, ...]] = []

        def run(runner: Any) -> None:
            together.wait(30)
            results.append(migrate(runner, steps))

        threads = [threading.Thread(target=run, args=(runner,)) for runner in runners]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for runner in runners:
            runner.close()
        recorded = {step.version: step.applied_at for step in db.applied()}
        assert len(results) == 2
        assert len(recorded) == len(steps)
        # Both were told of the same application: nobody applied a step that the other had applied.
        for result in results:
            assert {step.version: step.applied_at for step in result}.items() <= recorded.items()

    def test_a_step_whose_runner_was_killed_is_finished_by_a_repetition(
        self, server: Running, endpoint: Endpoint, db: Any, tmp_path: Path
    ) -> None:
        folder = tmp_path / "steps"
        write_step(folder, f"V1__long{self.extension}", self.long())
        self.kill_a_runner(server, endpoint, db, folder, back=False)
        assert list(db.applied()) == []
        started = time.monotonic()
        migrate(db, read_steps(folder))
        assert time.monotonic() - started < 30
        assert self.has(db, "first")
        assert self.has(db, "last")
        assert [step.version for step in db.applied()] == ["1"]

    def kill_a_runner(self, server: Running, endpoint: Endpoint, db: Any, folder: Path, *, back: bool) -> None:
        """Kill it in the middle of the long file: going forward, or taking one step back."""
        told = {
            "database": server.database.model_dump_json(),
            "endpoint": [endpoint.host, endpoint.port, endpoint.database],
            "secrets": str(server.state.secrets),
            "folder": str(folder),
            "lease_s": LEASE_S,
            "back": back,
        }
        runner = subprocess.Popen([sys.executable, "-c", _RUNNER, json.dumps(told)], cwd=Path(__file__).parents[2])
        try:
            until(lambda: self.begun(db) or runner.poll() is not None)
        finally:
            runner.kill()
            runner.wait()
        assert not self.has(db, "last"), "the runner was too fast to be killed half-way"

    # Back

    @pytest.fixture
    def undoable(self, folder: Path) -> Path:
        """Two steps that can be taken back."""
        for file, thing in (("U1_0_0__first", "first"), ("U1_0_10__second", "second")):
            write_step(folder, f"{file}{self.extension}", self.removing(thing))
        return folder

    def test_the_newest_step_is_taken_back_with_its_record_and_can_be_applied_again(
        self, db: Any, undoable: Path
    ) -> None:
        steps = read_steps(undoable)
        migrate(db, steps)
        gone = revert(db, undoing(self.name, steps, db.applied(), 1))
        assert [record.version for record in gone] == ["1.0.10"]
        assert (self.has(db, "first"), self.has(db, "second")) == (True, False)
        assert [step.version for step in db.applied()] == ["1.0.0"]
        assert [step.version for step in migrate(db, steps)] == ["1.0.10"]
        assert self.has(db, "second")

    def test_all_steps_are_taken_back_newest_first(self, db: Any, undoable: Path) -> None:
        steps = read_steps(undoable)
        migrate(db, steps)
        gone = revert(db, undoing(self.name, steps, db.applied(), 2))
        assert [record.version for record in gone] == ["1.0.10", "1.0.0"]
        assert list(db.applied()) == []
        assert not self.has(db, "first")

    def test_a_step_that_is_not_applied_is_not_taken_back(self, db: Any, undoable: Path) -> None:
        steps = read_steps(undoable)
        migrate(db, steps[:1])
        assert db.undo(steps[1]) is None
        assert [step.version for step in db.applied()] == ["1.0.0"]

    def test_a_step_without_an_undo_file_is_refused_in_words(self, db: Any, folder: Path) -> None:
        steps = read_steps(folder)
        migrate(db, steps)
        for attempt in (lambda: undoing(self.name, steps, db.applied(), 1), lambda: db.undo(steps[1])):
            with pytest.raises(MissingUndo, match="U1_0_10__second"):
                attempt()
        assert self.has(db, "second")

    def test_a_step_below_the_newest_is_not_taken_back(self, db: Any, undoable: Path) -> None:
        steps = read_steps(undoable)
        migrate(db, steps)
        with pytest.raises(NotNewest, match=r"1\.0\.10"):
            db.undo(steps[0])
        assert self.has(db, "first")

    def test_an_edited_step_is_not_taken_back(self, db: Any, undoable: Path) -> None:
        migrate(db, read_steps(undoable))
        write_step(undoable, f"V1_0_10__second{self.extension}", self.adding("edited"))
        with pytest.raises(EditedMigration):
            db.undo(read_steps(undoable)[1])
        assert self.has(db, "second")

    def test_of_two_runners_that_take_back_at_once_one_does(
        self, server: Running, endpoint: Endpoint, db: Any, undoable: Path
    ) -> None:
        steps = read_steps(undoable)
        migrate(db, steps)
        runners = [self.connect(server, endpoint) for _ in range(2)]
        together = threading.Barrier(len(runners))
        results: list[AppliedStep | None] = []

        def run(runner: Any) -> None:
            together.wait(30)
            results.append(runner.undo(steps[1]))

        threads = [threading.Thread(target=run, args=(runner,)) for runner in runners]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for runner in runners:
            runner.close()
        assert len(results) == 2
        assert sum(record is not None for record in results) == 1
        assert [step.version for step in db.applied()] == ["1.0.0"]

    def test_an_undo_whose_runner_was_killed_is_finished_by_a_repetition_and_passes_for_nothing_else(
        self, server: Running, endpoint: Endpoint, db: Any, tmp_path: Path
    ) -> None:
        folder = tmp_path / "steps"
        write_step(folder, f"V1__a{self.extension}", self.adding("thing"))
        write_step(folder, f"U1__a{self.extension}", self.long())
        steps = read_steps(folder)
        migrate(db, steps)
        self.kill_a_runner(server, endpoint, db, folder, back=True)
        assert [step.version for step in db.applied()] == ["1"]
        if self.halves:
            with pytest.raises(UnfinishedUndo):
                migrate(db, steps)
        else:
            assert migrate(db, steps) == ()
        revert(db, undoing(self.name, steps, db.applied(), 1))
        assert list(db.applied()) == []
        assert self.has(db, "last")

    # Rehearsal

    copied: ClassVar[bool] = True
    """Whether the engine can have a copy beside the live database."""

    def test_a_change_is_rehearsed_on_a_copy_that_is_gone_afterwards(
        self, server: Running, db: Any, undoable: Path
    ) -> None:
        steps = read_steps(undoable)
        migrate(db, steps[:1])
        there: list[Endpoint] = []

        def connect(endpoint: Endpoint) -> Any:
            there.append(endpoint)
            return self.connect(server, endpoint)

        def source() -> Any:
            return clone(db, connect, steps)

        if not self.copied:
            with pytest.raises(NoClone):
                rehearse(source, steps[1:], SystemClock())
            return
        found = rehearse(source, steps[1:], SystemClock())
        assert (found.passed, found.same_after_undo, [s.version for s in found.steps]) == (True, True, ["1.0.10"])
        assert not self.has(db, "second")
        assert not any(self.is_there(server, db, endpoint) for endpoint in there if PREFIX in endpoint.database)

    def is_there(self, server: Running, db: Any, endpoint: Endpoint) -> bool:
        """Whether the server has a database of this name."""
        del db
        try:
            self.connect(server, endpoint).close()
        except DatabaseMissing:
            return False
        return True

    # Shape

    def test_each_step_is_recorded_with_the_shape_it_left(self, db: Any, tmp_path: Path) -> None:
        folder = tmp_path / "steps"
        before = db.shape()
        write_step(folder, f"V1__a{self.extension}", self.adding(self.shaped))
        write_step(folder, f"U1__a{self.extension}", self.removing(self.shaped))
        steps = read_steps(folder)
        migrate(db, steps)
        assert set(db.shape()) > set(before)
        assert db.recorded_shape() == db.shape()
        assert db.applied()[-1].fingerprint == fingerprint_of(db.shape())
        revert(db, steps)
        assert db.shape() == before

    def test_a_change_by_hand_shows_in_the_shape(self, db: Any, tmp_path: Path) -> None:
        folder = tmp_path / "steps"
        write_step(folder, f"V1__a{self.extension}", self.adding(self.shaped))
        write_step(folder, f"U1__a{self.extension}", self.removing(self.shaped))
        migrate(db, read_steps(folder))
        self.by_hand(db, self.shaped)
        assert db.recorded_shape() != db.shape()

    def by_hand(self, db: Any, thing: str) -> None:
        """Take ``thing`` away as an administrator would."""
        raise NotImplementedError

    def test_a_history_of_a_platform_that_kept_no_shapes_is_adopted_once(self, db: Any, folder: Path) -> None:
        steps = read_steps(folder)
        migrate(db, steps)
        self.forget_shapes(db)
        assert db.recorded_shape() is None
        assert [(done.version, done.fingerprint) for done in db.applied()] == [("1.0.0", ""), ("1.0.10", "")]
        assert migrate(db, steps) == ()
        assert db.recorded_shape() == db.shape()
        adopted = db.applied()
        db.adopt()
        assert db.applied() == adopted
        write_step(folder, f"V2__more{self.extension}", self.adding("more"))
        assert [step.version for step in migrate(db, read_steps(folder))] == ["2"]

    # The catalog's own schema

    def test_the_catalogs_schema_applies_and_a_repetition_changes_nothing(self, db: Any) -> None:
        steps = read_steps(CATALOG / self.name / "migrations")
        assert len(migrate(db, steps)) == len(steps) > 0
        assert plan(self.name, steps, db.applied()) == ()
        assert migrate(db, steps) == ()

    def test_the_application_reads_the_history(self, server: Running, endpoint: Endpoint, db: Any) -> None:
        migrate(db, read_steps(CATALOG / self.name / "migrations"))
        application = self.connect(server, endpoint, "application")
        with contextlib.closing(application):
            assert stored(application.applied()) == stored(db.applied())

    # Findings

    def test_every_finding_passes_on_the_embedded_server_but_those_it_cannot(self, db: Any) -> None:
        migrate(db, read_steps(CATALOG / self.name / "migrations"))
        findings = {finding.name: finding for finding in db.findings()}
        not_passed = {name: finding.detail for name, finding in findings.items() if not finding.passed}
        assert set(not_passed) == self.known_failures, not_passed
        assert all(finding.clause.startswith("45 CFR 164.312") for finding in findings.values())

    def test_findings_show_no_secret(self, server: Running, db: Any) -> None:
        passwords = [
            fields["password"]
            for role in ("admin", "application")
            if (fields := server.secrets.read(f"databases/{self.name}/{role}"))
        ]
        assert len(passwords) == 2
        shown = " ".join(finding.detail for finding in db.findings())
        assert not any(password in shown for password in passwords)

    def test_findings_of_a_server_that_stands_still_are_unknown_and_never_raise(self, server: Running, db: Any) -> None:
        with server.stopped():
            started = time.monotonic()
            findings = db.findings()
            assert time.monotonic() - started < 15
        assert all(finding.passed is None for finding in findings)
        until(lambda: self.answers(db))

    def test_a_statement_that_a_person_types_is_answered_with_a_table(self, db: Any) -> None:
        table = console.execute(db, QUESTIONS[self.engine])
        assert table.columns
        assert len(table.rows) == 1

    def test_a_wrong_statement_is_refused_in_words_and_the_connection_goes_on(self, db: Any) -> None:
        with pytest.raises(console.StatementFailed):
            console.execute(db, '{"nonsense": 1}')
        assert console.execute(db, QUESTIONS[self.engine]).rows

    def test_closing_twice_is_no_error(self, server: Running, endpoint: Endpoint) -> None:
        db = self.connect(server, endpoint)
        db.close()
        db.close()
