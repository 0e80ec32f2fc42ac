"""A restored database of a real server goes live in place of the one that is, under clients, and comes back."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import typer
from click.testing import Result
from psycopg import sql
from typer.testing import CliRunner

from dr_platform.backup_desk import BackupDesk
from dr_platform.backups.port import Kind, Standing
from dr_platform.backups.postgresql.switch import ATTEMPTS, PostgresSwitching
from dr_platform.backups.switch import (
    SWITCHED,
    AlreadyDone,
    NotConfirmed,
    NotSwitched,
    ReasonNeeded,
    SwitchPlan,
    SwitchRefused,
    subject_of,
)
from dr_platform.catalog import Database, Engine
from dr_platform.cli import backup_verbs, switch_verbs
from dr_platform.clock import SystemClock
from dr_platform.database_switch import ASKED, SwitchDesk, Switched
from dr_platform.databases.access import read_login
from dr_platform.databases.port import Endpoint
from dr_platform.errors import ExitCode
from dr_platform.evidence import Body, Entry, MemoryEvidenceLog
from dr_platform.health import database_verdict
from dr_platform.operations import OperationsUnavailable
from dr_platform.platform import Platform, load_catalog
from dr_platform.schema_changes import bring_forward
from dr_platform.verdict import Verdict, silent
from tests.catalogs import shipped_copy
from tests.contracts.embedded_servers import Running, running

pytestmark = pytest.mark.contract

NAME = "postgres"
AT = datetime(2026, 11, 26, 14, 5, tzinfo=UTC)
WITHIN_S = 30.0


class Beside(Platform):
    """A platform whose PostgreSQL is the server of the test."""

    server: Running

    def endpoint(self, database: Database) -> Endpoint:
        assert database.name == NAME
        return self.server.endpoint


class OneSecondLater(SystemClock):
    """Each time it is asked: names of kept databases have the second in them."""

    def __init__(self) -> None:
        self._asked = itertools.count()

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=next(self._asked))


class Killed(BaseException):
    """The process ends here."""


@dataclass(frozen=True)
class Opened:
    opened: Platform

    def platform(self) -> Platform:
        return self.opened


def as_application(platform: Platform, database: str) -> Mapping[str, Verdict]:
    return {database: database_verdict(platform, database)}


@dataclass
class Place:
    platform: Platform
    backup: str = ""

    @property
    def backups(self) -> BackupDesk:
        return BackupDesk(self.platform, workers=0)

    @property
    def desk(self) -> SwitchDesk:
        return SwitchDesk(self.backups, as_application, settle_s=0.0)

    @property
    def live(self) -> str:
        return self.platform.endpoint(self.platform.catalog.databases[NAME]).database

    @property
    def switching(self) -> PostgresSwitching:
        found = self.backups.engine_of(self.platform, NAME).switching()
        assert isinstance(found, PostgresSwitching)
        return found

    def connected(self, database: str | None = None, role: Any = "admin") -> psycopg.Connection[Any]:
        endpoint, login = (
            self.platform.endpoint(self.platform.catalog.databases[NAME]),
            read_login(NAME, role, self.platform.secrets),
        )
        return psycopg.connect(
            host=endpoint.host, port=endpoint.port, dbname=database or self.live, user=login.username,
            password=login.password, autocommit=True, connect_timeout=10,
        )  # fmt: skip

    def ask(self, query: str, database: str | None = None) -> Any:
        with self.connected(database) as connection:
            found = connection.execute(query.encode())
            return found.fetchall() if found.description else []

    def marks(self, database: str | None = None) -> set[str]:
        return {mark for (mark,) in self.ask("SELECT mark FROM public.marks", database)}

    def restored(self, name: str) -> str:
        """The backup, which has the mark ``kept`` alone, in a new database."""
        plan = self.backups.plan_restore(NAME, self.backup, name)
        self.backups.restore(plan, self.backup, "somebody", "a test")
        return name

    def drp(self, *words: str) -> Result:
        app = typer.Typer()
        backup_verbs.register(app)
        switch_verbs.register(app)
        return CliRunner().invoke(app, list(words), obj=Opened(self.platform))

    def entries(self, kind: str) -> list[Entry]:
        return list(self.platform.evidence.entries(kind=kind, subject=subject_of(NAME)))


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    catalog = shipped_copy(tmp_path_factory.mktemp("catalog"))
    migrations = catalog / "databases" / NAME / "migrations"
    migrations.mkdir(exist_ok=True)
    (migrations / "V1__marks.sql").write_text("CREATE TABLE public.marks (mark text PRIMARY KEY);")
    with running(Engine.POSTGRESQL, NAME, ready_s=120) as server:
        loaded = load_catalog(catalog)
        platform = Beside(loaded, loaded.environments["local"], server.state, clock=OneSecondLater())
        platform.server = server
        vars(platform)["secrets"] = server.secrets
        vars(platform)["evidence"] = MemoryEvidenceLog(platform.clock)
        place = Place(platform)
        bring_forward(platform, NAME)
        place.ask("INSERT INTO public.marks VALUES ('kept')")
        place.backup = place.backups.take(NAME, Kind.LOGICAL, "a test", "somebody").id
        place.ask("INSERT INTO public.marks VALUES ('since')")
        yield place


@pytest.fixture
def place(started: Place) -> Iterator[Place]:
    """With the database that has the mark ``since`` live, and no other one beside it."""
    yield started
    others = started.ask("SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'")
    for (name,) in others:
        if "since" in _marks_or_none(started, name) and name != started.live:
            switching = started.switching
            switching.switch(switching.standing(name), started.platform.clock.now(), silent)
            break
    for (name,) in started.ask("SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'"):
        if name != started.live:
            started.ask(f"DROP DATABASE {name} WITH (FORCE)", "postgres")
    assert started.marks() >= {"kept", "since"}


def _marks_or_none(place: Place, name: str) -> set[str]:
    try:
        return place.marks(name)
    except psycopg.errors.UndefinedTable:
        return set()


class Writer:
    """A client that goes on writing whatever happens, and remembers what the server acknowledged."""

    def __init__(self, place: Place) -> None:
        self.acknowledged: list[str] = []
        self.lost = 0
        self._place = place
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._wrote = threading.Condition()

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def has_written_more(self) -> None:
        """Return when it has written another five."""
        wanted = len(self.acknowledged) + 5
        with self._wrote:
            assert self._wrote.wait_for(lambda: len(self.acknowledged) >= wanted, WITHIN_S)

    def _write(self) -> None:
        number, connection = 0, self._place.connected(role="application")
        while not self._stop.wait(0.002):
            number += 1
            try:
                if connection.closed:
                    connection = self._place.connected(role="application")
                connection.execute("INSERT INTO public.marks VALUES (%s)", (f"w{number}",))
            except psycopg.OperationalError:
                self.lost += 1
                connection.close()
                continue
            with self._wrote:
                self.acknowledged.append(f"w{number}")
                self._wrote.notify_all()
        connection.close()


def test_a_client_that_goes_on_writing_loses_its_connection_and_nothing_it_was_told_is_written(place: Place) -> None:
    to = place.restored("app_restored")
    with Writer(place) as writer:
        writer.has_written_more()
        done = place.desk.switch(NAME, to, to, "somebody", "a test")
        writer.has_written_more()
        live, before = place.marks(), place.marks(done.before)
        assert {"kept"} <= live
        assert "since" not in live
        assert {"kept", "since"} <= before
        back = place.desk.switch(NAME, done.before, done.before, "somebody", None)
        writer.has_written_more()
    assert writer.lost >= 2
    assert (done.exit_code, back.exit_code) == (ExitCode.OK, ExitCode.OK)
    assert done.seconds is not None
    assert done.seconds < 16
    now, aside = place.marks(), place.marks(back.before)
    assert "since" in now
    assert "since" not in aside
    written = set(writer.acknowledged)
    assert written <= now | aside, "an acknowledged row is in one of the two databases"
    assert not written & now & aside
    assert written & aside, "it wrote into the restored one while that was live"


def test_plan_and_evidence_name_what_goes_live_and_the_restore_offers_it(place: Place) -> None:
    offered = place.drp(
        "restore", NAME, "--backup", place.backup, "--into", "app_restored", "--confirm", place.backup, "--json"
    )
    assert offered.exit_code == 0, offered.output
    assert json.loads(offered.stdout)["switch"] == f"drp switch {NAME} --to app_restored"
    shown = place.drp("switch", NAME, "--to", "app_restored", "--json")
    plan = json.loads(shown.stdout)
    assert shown.exit_code == 2
    assert plan["objections"] == []
    assert "billing" in plan["services"]
    text = place.drp("switch", NAME, "--to", "app_restored")
    assert text.exit_code == 2
    assert "repeat with --confirm app_restored\n" in text.stdout
    assert "since" in place.marks(), "a plan changes nothing"
    with pytest.raises(NotConfirmed):
        place.desk.switch(NAME, "app_restored", "yes", "somebody", "a test")
    done = place.desk.switch(NAME, "app_restored", "app_restored", "somebody", "asked for by the on-call")
    entry = place.entries(SWITCHED)[-1]
    assert (entry.actor, entry.body["reason"]) == ("somebody", "asked for by the on-call")
    assert (entry.body["from"], entry.body["to"], entry.body["before"]) == (place.live, "app_restored", done.before)
    assert entry.body["plan"] == plan["digest"] == place.entries(ASKED)[-1].body["plan"]
    again = place.drp("switch", NAME, "--to", "app_restored", "--json")
    assert (again.exit_code, json.loads(again.stdout)["before"]) == (2, done.before)


def test_a_database_made_by_hand_under_the_name_of_a_restored_one_needs_a_reason(place: Place) -> None:
    to = place.restored("app_restored")
    known = place.desk.plan(NAME, to)
    assert isinstance(known, SwitchPlan)
    assert known.objections == ()
    with place.connected("postgres") as connection:
        connection.execute("DROP DATABASE app_restored")
        connection.execute(sql.SQL("CREATE DATABASE app_restored TEMPLATE {}").format(sql.Identifier("template0")))
    found = place.desk.plan(NAME, to)
    assert isinstance(found, SwitchPlan)
    assert any("made later under its name" in objection for objection in found.objections)


_STATE_OF = """
    SELECT pg_get_userbyid(datdba), datconnlimit, (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(datacl) a),
           (SELECT array_agg(coalesce(r.rolname, '') || s.setconfig::text ORDER BY 1) FROM pg_db_role_setting s
            LEFT JOIN pg_roles r ON r.oid = s.setrole WHERE s.setdatabase = d.oid)
      FROM pg_database d WHERE datname = %s
"""


def test_owner_grants_limit_and_settings_are_those_of_the_live_one(place: Place) -> None:
    to, live = place.restored("app_restored"), sql.Identifier(place.live)
    with place.connected("postgres") as connection:
        for text in (
            """ALTER DATABASE {live} SET search_path TO "$user", public""",
            "ALTER DATABASE {live} SET work_mem TO '5MB'",
            "ALTER ROLE drp_application IN DATABASE {live} SET statement_timeout TO '7s'",
            "GRANT TEMPORARY ON DATABASE {live} TO drp_application",
            "ALTER DATABASE {live} CONNECTION LIMIT 150",
            "GRANT ALL ON DATABASE app_restored TO PUBLIC",
            "GRANT CREATE ON DATABASE app_restored TO drp_application",
            "ALTER DATABASE app_restored SET default_transaction_read_only TO on",
            "ALTER ROLE drp_application IN DATABASE app_restored SET work_mem TO '9MB'",
        ):
            connection.execute(sql.SQL(text).format(live=live))
        wanted = connection.execute(_STATE_OF, (place.live,)).fetchone()
        done = place.desk.switch(NAME, to, to, "somebody", "a test")
        assert connection.execute(_STATE_OF, (place.live,)).fetchone() == wanted
        assert connection.execute(_STATE_OF, (done.before,)).fetchone() == wanted
    with place.connected(role="application") as application:
        assert application.execute("SHOW statement_timeout").fetchone() == ("7s",)
        application.execute("INSERT INTO public.marks VALUES ('by the application')")


def test_killed_at_any_line_a_repetition_reaches_the_same_end(place: Place) -> None:
    to, line, killed = place.restored("app_restored"), 0, 1
    while killed:
        line, killed = line + 1, 0
        steps = iter(range(line - 1, -1, -1))

        def until(_line: str, steps: Iterator[int] = steps) -> None:
            if next(steps, None) == 0:
                raise Killed

        target = "since" in place.marks()
        desk = replace(place.desk, backups=replace(place.backups, progress=until))
        try:
            desk.switch(NAME, to, to, "somebody", "a test")
        except Killed:
            killed = 1
        assert "kept" in place.marks(), "whatever is killed, somebody is live"
        done = place.desk.switch(NAME, to, to, "somebody", "a test")
        assert ("since" in place.marks()) is not target
        assert ("since" in place.marks(done.before)) is target
        assert [e.body["before"] for e in place.entries(SWITCHED)].count(done.before) == 1, f"killed at line {line}"
        assert isinstance(place.desk.plan(NAME, to), AlreadyDone)
        to = done.before
    assert line > 5


def _switch_and(
    switching: PostgresSwitching, standing: Standing, last: str, signal_number: int
) -> None:  # pragma: no cover - in a process of its own
    def at_the_end(line: str) -> None:
        if last in line:
            os.kill(os.getpid(), signal_number)

    switching.switch(standing, AT, at_the_end)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_ends_or_stands_still_before_the_commit_lets_clients_in_again(
    place: Place, ending: signal.Signals
) -> None:
    to, switching = place.restored("app_restored"), place.switching
    arguments = (switching, switching.standing(to), "the commit follows", ending)
    process = multiprocessing.get_context("spawn").Process(target=_switch_and, args=arguments)
    process.start()
    try:
        assert process.pid is not None
        os.waitpid(process.pid, os.WUNTRACED if ending is signal.SIGSTOP else 0)
        assert "since" in place.marks()
    finally:
        os.kill(process.pid or 0, signal.SIGKILL) if ending is signal.SIGSTOP else None
        process.join()
    assert switching.standing(to).target is not None
    assert place.desk.switch(NAME, to, to, "somebody", "a test").exit_code is ExitCode.OK
    assert "since" not in place.marks()


def test_what_others_hold_on_to_is_given_up_after_a_bounded_time_with_everything_as_it_was(place: Place) -> None:
    to, told = place.restored("app_restored"), []
    standing = place.switching.standing(to)
    with place.connected("postgres") as other, other.transaction(force_rollback=True):
        other.execute("ALTER DATABASE app_restored RENAME TO held_by_another")
        with pytest.raises(NotSwitched, match="hold on"):
            place.switching.switch(standing, AT, told.append)
        assert "since" in place.marks()
    assert sum("did not let go" in line for line in told) == ATTEMPTS
    assert place.switching.standing(to).target is not None


def test_a_plan_that_somebody_else_was_faster_with_exchanges_nothing(place: Place) -> None:
    to, switching = place.restored("app_restored"), place.switching
    read = switching.standing(to)
    switching.switch(read, AT, silent)
    place.restored(to)  # the same name, and another database
    with pytest.raises(NotSwitched, match="not what the plan was made for"):
        switching.switch(read, AT.replace(hour=15), silent)
    assert "since" in place.marks(f"{place.live}_before_20261126t140500z")
    assert switching.standing(to).target is not None


def test_what_was_not_restored_here_or_has_another_schema_needs_a_reason(place: Place) -> None:
    place.ask(f"CREATE DATABASE stranger TEMPLATE {place.restored('app_restored')}", "postgres")
    place.ask("INSERT INTO public.drp_schema_history SELECT * FROM public.drp_schema_history LIMIT 0", "stranger")
    place.ask("UPDATE public.drp_schema_history SET version = '7'", "stranger")
    with pytest.raises(ReasonNeeded) as refused:
        place.desk.switch(NAME, "stranger", "stranger", "somebody", None)
    assert len(refused.value.args[1]) == 2
    assert "since" in place.marks()
    done = place.desk.switch(NAME, "stranger", "stranger", "somebody", "made by hand from the vendor's dump")
    assert place.entries(ASKED)[-1].body["objections"] == list(refused.value.args[1])
    assert "since" in place.marks(done.before)


@pytest.mark.parametrize("name", ["therapy", "never_made", "postgres'; --"])
def test_the_live_one_and_what_is_not_there_are_refused_whatever_the_reason(place: Place, name: str) -> None:
    with pytest.raises(SwitchRefused):
        place.desk.switch(NAME, name, name, "somebody", "a good reason")
    assert "since" in place.marks()


class Silent(MemoryEvidenceLog):
    """Does not answer."""

    def append(self, kind: str, subject: str, actor: str, body: Body, *, read_to: int | None = None) -> Entry:
        raise OperationsUnavailable("refused")

    def entries(self, *, kind: str | None = None, subject: str | None = None, after: int = 0) -> Iterator[Entry]:
        raise OperationsUnavailable("refused")


def test_an_evidence_log_that_does_not_answer_wants_a_reason_and_stops_nothing(place: Place) -> None:
    to, told, own = place.restored("app_restored"), [], place.platform.evidence
    desk = replace(place.desk, backups=replace(place.backups, progress=told.append))
    vars(place.platform)["evidence"] = Silent()
    try:
        with pytest.raises(ReasonNeeded):
            desk.switch(NAME, to, to, "somebody", None)
        done = desk.switch(NAME, to, to, "somebody", "the operations database is down as well")
        again = desk.switch(NAME, to, to, "somebody", None)
    finally:
        vars(place.platform)["evidence"] = own
    assert isinstance(done, Switched)
    assert (again.before, again.seconds) == (done.before, None)
    assert sum("not written down" in line for line in told) >= 2


def test_an_older_physical_backup_with_the_log_leads_to_what_is_live_since_the_switch(place: Place) -> None:
    full = place.backups.take(NAME, Kind.PHYSICAL_FULL, "a test", "somebody")
    to = place.restored("app_restored")
    place.desk.switch(NAME, to, to, "somebody", "a test")
    place.ask("INSERT INTO public.marks VALUES ('after the switch')")
    ((moment,),) = place.ask("SELECT pg_create_restore_point('after-the-switch')::text")
    assert moment
    plan = place.backups.plan_restore(NAME, full.id, "by_the_log", "after-the-switch")
    place.backups.restore(plan, full.id, "somebody", "a test")
    assert place.marks("by_the_log") == place.marks()
    assert "nothing to compare" in "".join(place.desk.plan(NAME, "by_the_log").lines())  # type: ignore[union-attr]
