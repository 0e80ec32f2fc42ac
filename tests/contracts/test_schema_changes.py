"""Changing schemas of an environment: the command, what holds it up, approval and window, with real databases."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from dr_platform import bring_up
from dr_platform.catalog import Engine
from dr_platform.cli import migration_verbs, promotion_verbs
from dr_platform.clock import ManualClock
from dr_platform.databases.connect import connect_database
from dr_platform.databases.port import Endpoint
from dr_platform.databases.postgresql import PostgresDatabase
from dr_platform.errors import PlatformError
from dr_platform.health import looks
from dr_platform.identity import new_id
from dr_platform.migrations.gates import NoFreshBackup, NotApproved, OutsideWindow
from dr_platform.migrations.lint import LintRefused
from dr_platform.operations import operations_engine, upgrade
from dr_platform.platform import Platform
from dr_platform.resources import migration_requests
from dr_platform.schema_approvals import MIGRATED, due, run_approved
from dr_platform.schema_changes import (
    NEWEST,
    PlanChanged,
    Safeguards,
    Target,
    bring_forward,
    carry_out,
    drift_verdict,
    lint_verdict,
    plan_change,
)
from dr_platform.suites import suites_of
from dr_platform.verdict import Verdict
from jobs.migrations import migration_job
from tests.catalogs import shipped_copy
from tests.contracts.embedded_servers import Running, running
from tests.opened import Opened
from tests.postgres_server import PostgresServer, running_postgres

pytestmark = pytest.mark.contract

SUNDAY = datetime(2026, 6, 7, 3, tzinfo=UTC)
"""In production's maintenance window, and in no freeze."""
SAYS = ("--reason", "for the next release")


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(Engine.POSTGRESQL, "postgres", ready_s=120) as server:
        yield server


@pytest.fixture(scope="module")
def operations() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


class PlatformOfOne(Platform):
    """Its PostgreSQL is a real server that is running already; there is no other managed database."""

    def on(self, server: Running, endpoint: Endpoint) -> None:
        self.server, self.there = server, endpoint
        self.binding = replace(self.binding, databases="endpoints")  # so that nobody starts one for it

    def connect(self, name: str, role: Any = "application") -> PostgresDatabase:
        return self.connect_elsewhere(name, self.there)

    def connect_elsewhere(self, name: str, endpoint: Endpoint) -> PostgresDatabase:
        db = connect_database(self.catalog.databases[name], endpoint, self.server.secrets, "admin")
        assert isinstance(db, PostgresDatabase)
        return db


@dataclass(frozen=True)
class Place:
    platform: PlatformOfOne
    clock: ManualClock
    folder: Path

    def drp(self, *words: str) -> Result:
        app = typer.Typer()
        migration_verbs.register(app)
        promotion_verbs.register(app)
        return CliRunner().invoke(app, list(words), obj=Opened(self.platform))

    def done(self, *words: str) -> Any:
        result = self.drp(*words, "--json")
        assert result.exit_code == 0, (result.output, result.exception)
        return json.loads(result.stdout)

    def refused(self, *words: str) -> PlatformError:
        result = self.drp(*words)
        assert isinstance(result.exception, PlatformError), (result.output, result.exception)
        assert result.exception.exit_code == 2
        return result.exception

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.folder / f"{name}.sql").write_text(text)

    def execute(self, statement: str) -> None:
        with contextlib.closing(self.platform.connect("postgres")) as db:
            db.connection.execute(statement.encode())

    def versions(self) -> list[str]:
        with contextlib.closing(self.platform.connect("postgres")) as db:
            return [done.version for done in db.applied()]

    def approved(self) -> str:
        request = self.done("migrate", "postgres", "--request", *SAYS, "--as", "rita")["request"]
        for name in ("ada", "bob"):
            self.done("approve", request, "--reason", "read it", "--as", name)
        return request

    def real_data(self) -> None:
        """As where data is not synthetic; the servers stay those of the test."""
        self.platform.binding = replace(self.platform.binding, runtime="kubernetes")


def make(environment: str, server: Running, operations: PostgresServer, folder: Path) -> Place:
    catalog, clock = shipped_copy(folder), ManualClock(SUNDAY)
    for name in ("mongodb", "redis", "scylladb"):
        (catalog / "databases" / name / "migrations").mkdir(exist_ok=True)
    steps = catalog / "databases" / "postgres" / "migrations"
    steps.mkdir()
    platform = PlatformOfOne.open(
        environment, catalog=catalog, state=folder / "state", runtime="local", clock=clock
    )  # fmt: skip
    assert isinstance(platform, PlatformOfOne)
    name = new_id("s").replace("-", "_")
    with contextlib.closing(connect_database(server.database, server.endpoint, server.secrets, "admin")) as db:
        assert isinstance(db, PostgresDatabase)
        db.connection.execute(f"CREATE DATABASE {name}".encode())
    platform.on(server, Endpoint(server.endpoint.host, server.endpoint.port, name))
    url = operations.new_database()
    upgrade(url)
    platform.operations = operations_engine(url)
    place = Place(platform, clock, steps)
    place.write(
        V1__visits="CREATE TABLE public.visits (id bigint PRIMARY KEY);",
        U1__visits="DROP TABLE public.visits;",
        V2__note="ALTER TABLE public.visits ADD COLUMN note text;",
        U2__note="ALTER TABLE public.visits DROP COLUMN note;",
    )
    return place


@pytest.fixture
def place(server: Running, operations: PostgresServer, tmp_path: Path) -> Iterator[Place]:
    place = make("local", server, operations, tmp_path)
    yield place
    place.platform.operations.dispose()


@pytest.fixture
def production(server: Running, operations: PostgresServer, tmp_path: Path) -> Iterator[Place]:
    """Two others must agree, and work is done on Sundays from 2 to 6."""
    place = make("production", server, operations, tmp_path)
    yield place
    place.platform.operations.dispose()


# The command


def test_a_plan_says_what_would_be_done_and_does_nothing(place: Place) -> None:
    plan = place.done("migrate", "postgres", "--plan")
    assert set(plan) == {"current", "target", "steps"}
    assert (plan["current"], plan["target"]) == (None, "2")
    assert [set(step) for step in plan["steps"]] == [{"version", "description", "phase", "locks", "destructive"}] * 2
    assert plan["steps"][1]["locks"] == ["ACCESS EXCLUSIVE on public.visits"]
    assert place.versions() == []
    assert "ACCESS EXCLUSIVE" in place.drp("migrate", "postgres", "--plan").stdout


def test_a_schema_is_brought_forward_and_back_and_each_change_is_evidence(place: Place) -> None:
    assert place.done("migrate", "postgres", "--to", "1")["applied"] == ["1"]
    assert place.done("migrate", "postgres")["applied"] == ["2"]
    assert place.done("migrate", "postgres")["applied"] == []
    refusal = place.refused("migrate", "postgres", "--down", "1")
    assert "column public.visits.note" in refusal.what
    assert place.versions() == ["1", "2"]
    assert place.done("migrate", "postgres", "--down", "1", "--yes")["taken_back"] == ["2"]
    assert place.done("migrate", "postgres")["applied"] == ["2"]
    assert place.done("migrate", "postgres", "--to", "1", "--yes")["current"] == "1"
    told = list(place.platform.evidence.entries(kind=MIGRATED, subject="schema/postgres"))
    assert [entry.body["direction"] for entry in told] == ["forward", "forward", "back", "forward", "back"]


@pytest.mark.parametrize(
    "words",
    [
        ("nowhere",),
        ("postgres", "--to", "7"),
        ("postgres", "--to", "1", "--down", "1"),
        ("postgres", "--request"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_done(place: Place, words: tuple[str, ...]) -> None:
    place.refused("migrate", *words)
    assert place.versions() == []


def test_a_rehearsal_tells_times_locks_and_the_way_back_and_changes_nothing(place: Place) -> None:
    found = place.done("migrate", "postgres", "--rehearse")
    assert (found["passed"], found["same_after_undo"]) == (True, True)
    assert [step["version"] for step in found["steps"]] == ["1", "2"]
    assert found["steps"][1]["locks"] == ["ACCESS EXCLUSIVE on public.visits"]
    assert place.versions() == []
    place.write(U2__note="SELECT 1;")
    failed = place.drp("migrate", "postgres", "--rehearse")
    assert failed.exit_code == 1
    assert "column public.visits.note" in failed.stdout


# What holds a change up


def test_a_step_that_would_harm_others_stops_before_the_first_write(place: Place) -> None:
    place.write(V3__index="CREATE INDEX by_note ON public.visits (note);")
    for attempt in (
        lambda: bring_forward(place.platform, "postgres"),
        lambda: bring_up.apply_schema(place.platform, "postgres"),
        lambda: carry_out(place.platform, plan_change(place.platform, "postgres", NEWEST)),
    ):
        with pytest.raises(LintRefused, match="require-concurrent-index-creation"):
            attempt()
    assert place.versions() == []


def test_only_what_is_to_be_applied_is_judged(place: Place) -> None:
    place.write(V3__index="CREATE INDEX by_note ON public.visits (note);")
    assert [r.version for r in bring_forward(place.platform, "postgres", only={"1", "2"}).records] == ["1", "2"]


def test_where_data_is_real_a_fresh_verified_backup_comes_first(place: Place) -> None:
    place.real_data()
    bring_forward(place.platform, "postgres", only={"1"})  # nothing was there to lose
    with pytest.raises(NoFreshBackup, match="there is none"):
        bring_forward(place.platform, "postgres")
    taken = {"postgres": SUNDAY - timedelta(hours=25)}
    held = Safeguards(newest_backup=lambda _platform, name: taken.get(name))
    with pytest.raises(NoFreshBackup, match=r"25\.0 h old"):
        bring_forward(place.platform, "postgres", safeguards=held)
    with pytest.raises(NoFreshBackup):
        carry_out(place.platform, plan_change(place.platform, "postgres", Target(back=1)), safeguards=held)
    assert place.versions() == ["1"]
    taken["postgres"] = SUNDAY - timedelta(hours=23)
    bring_forward(place.platform, "postgres", safeguards=held)
    assert place.versions() == ["1", "2"]


def test_what_is_not_as_it_was_planned_is_not_carried_out(place: Place) -> None:
    plan = plan_change(place.platform, "postgres")
    place.write(V2__note="ALTER TABLE public.visits ADD COLUMN note varchar;")
    with pytest.raises(PlanChanged):
        carry_out(place.platform, plan)
    plan = plan_change(place.platform, "postgres")
    bring_forward(place.platform, "postgres", only={"1"})
    with pytest.raises(PlanChanged):
        carry_out(place.platform, plan)
    assert place.versions() == ["1"]


# Looks


def test_the_looks_at_files_and_drift_belong_to_the_suite_data(place: Place) -> None:
    found = {look.check: look for look in looks(place.platform) if look.asset == ("schema", "postgres")}
    assert all("data" in suites_of(found[check]) for check in ("lint", "drift"))


def test_files_are_judged_whether_or_not_they_are_applied(place: Place) -> None:
    assert lint_verdict(place.platform, "postgres").passed is True
    place.write(V3__index="CREATE INDEX by_note ON public.visits (note);")
    found = lint_verdict(place.platform, "postgres")
    assert found.passed is False
    assert "V3__index.sql:1" in found.why
    waiver = "-- waive require-concurrent-index-creation: forty rows at most\n"
    place.write(V3__index=f"{waiver}CREATE INDEX by_note ON public.visits (note);")
    found = lint_verdict(place.platform, "postgres")
    assert (found.passed, found.measurements["waived"]) == (True, 1)
    assert "forty rows" in found.why


def test_a_schema_that_was_changed_by_hand_has_drifted_until_it_is_changed_back(place: Place) -> None:
    def drifted() -> Verdict:
        return drift_verdict(place.platform, "postgres")

    assert drifted().passed is None
    bring_forward(place.platform, "postgres")
    assert drifted().passed is True
    place.execute("ALTER TABLE public.visits ADD COLUMN by_hand int; ALTER TABLE public.visits DROP COLUMN note")
    found = drifted()
    assert found.passed is False
    assert "+ column public.visits.by_hand" in found.why
    assert "- column public.visits.note" in found.why
    place.execute("ALTER TABLE public.visits DROP COLUMN by_hand; ALTER TABLE public.visits ADD COLUMN note text")
    assert drifted().passed is True


# Approved, and in the window


def test_what_was_approved_begins_by_itself_once_the_window_is_open(production: Place) -> None:
    platform = production.platform
    assert due(platform) == ()
    request = production.done("migrate", "postgres", "--request", *SAYS, "--as", "rita")["request"]
    assert due(platform) == ()
    for name in ("ada", "bob"):
        production.done("approve", request, "--reason", "read it", "--as", name)
    assert [found.database for found in due(platform)] == ["postgres"]
    (wanted,) = migration_requests(platform, pytest.fail)  # type: ignore[misc]
    assert isinstance(wanted, dg.RunRequest)
    result = migration_job(platform).execute_in_process(run_config=wanted.run_config, tags=wanted.tags)
    assert result.success
    assert production.versions() == ["1", "2"]
    assert due(platform) == ()
    (told,) = platform.evidence.entries(kind=MIGRATED, subject="schema/postgres")
    assert told.actor == "schedule:migrations"


def test_outside_of_the_window_nothing_begins_by_itself_and_no_launchpad_passes_it_by(production: Place) -> None:
    platform = production.platform
    production.approved()
    production.clock.sleep(4 * 3600)
    assert due(platform) == ()
    with pytest.raises(OutsideWindow, match="production") as refused:
        run_approved(platform, "postgres", "ada")
    assert "2026-06-14 02:00" in refused.value.next_step
    config = {"ops": {"migrate_schema": {"config": {"database": "postgres"}}}}
    assert not migration_job(platform).execute_in_process(run_config=config, raise_on_error=False).success
    assert production.versions() == []


def test_a_freeze_that_a_person_declared_keeps_the_window_shut(production: Place) -> None:
    production.approved()
    assert production.drp("freeze", "on", *SAYS, "--as", "ada", "--to", "production").exit_code == 0
    assert due(production.platform) == ()
    with pytest.raises(OutsideWindow, match="production"):
        run_approved(production.platform, "postgres", "ada")


@pytest.mark.parametrize("change", ["file", "schema", "void", "expired"])
def test_an_approval_is_for_one_plan_for_a_while(production: Place, change: str) -> None:
    platform, request = production.platform, production.approved()
    match change:
        case "file":
            production.write(V2__note="ALTER TABLE public.visits ADD COLUMN note varchar;")
        case "schema":
            bring_forward(platform, "postgres", only={"1"})
        case "void":
            assert production.drp("void", request, *SAYS, "--as", "ada").exit_code == 0
        case "expired":
            production.clock.sleep(25 * 3600)
    assert due(platform) == ()
    before = production.versions()
    with pytest.raises(NotApproved):
        run_approved(platform, "postgres", "ada")
    assert isinstance(production.refused("migrate", "postgres"), NotApproved)
    assert production.versions() == before


def test_one_approval_of_two_is_not_enough_for_the_command_either(production: Place) -> None:
    request = production.done("migrate", "postgres", "--request", *SAYS, "--as", "rita")["request"]
    production.done("approve", request, "--reason", "read it", "--as", "ada")
    assert "1 more must agree" in production.refused("migrate", "postgres").what
    assert "1 more must agree" in production.drp("approvals").stdout
    production.done("approve", request, "--reason", "read it", "--as", "bob")
    assert production.done("migrate", "postgres")["applied"] == ["1", "2"]


def test_a_database_that_does_not_answer_is_noted_and_nothing_is_due(production: Place) -> None:
    production.approved()
    production.platform.there = Endpoint("127.0.0.1", 1, "nowhere")
    noted: list[str] = []
    assert due(production.platform, noted.append) == ()
    assert "postgres" in noted[0]
