"""The platform's own PostgreSQL server, run for real."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy

from dr_platform.clock import SystemClock
from dr_platform.databases.embedded import postgresql_files
from dr_platform.databases.embedded.port import EngineUnavailable
from dr_platform.databases.embedded.postgresql_files import server_user
from dr_platform.databases.embedded.system import DATABASES, SystemDatabase, SystemPostgres
from dr_platform.state import StateDirectory, locate_state
from tests.embedded_programs import listening_addresses, open_to_others, running, temporary_state

pytestmark = pytest.mark.contract


@pytest.fixture
def state() -> Iterator[StateDirectory]:
    with temporary_state() as state:
        server = SystemPostgres(state)
        server.acquire(print)
        server.prepare()
        yield state


@pytest.mark.parametrize("database", DATABASES)
def test_the_user_of_the_platform_needs_no_password_for_its_two_databases(
    state: StateDirectory, database: SystemDatabase
) -> None:
    server = SystemPostgres(state)
    with running(server.program(), state):
        server.initialise(10.0)
        engine = sqlalchemy.create_engine(server.url(database))
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("CREATE TABLE kept (a int)"))
            found = connection.execute(sqlalchemy.text("SELECT current_user, current_database()")).one()
        engine.dispose()
    assert tuple(found) == (database, database)


def test_it_can_be_reached_through_its_socket_only(state: StateDirectory) -> None:
    server = SystemPostgres(state)
    with running(server.program(), state) as process:
        server.initialise(10.0)
        assert listening_addresses(process.pid) == set()
        assert {p.name for p in server.sockets.iterdir()} == {".s.PGSQL.5432", ".s.PGSQL.5432.lock"}
        assert open_to_others(server.sockets) == []
        assert open_to_others(server.data) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_the_user_it_runs_as_is_not_let_in(state: StateDirectory) -> None:
    server, user = SystemPostgres(state), server_user()
    with running(server.program(), state):
        server.initialise(10.0)
        child = os.fork()
        if child == 0:
            os.setgid(user.gid)
            os.setuid(user.uid)
            try:
                psycopg.connect(server.conninfo("operations")).close()
            except psycopg.OperationalError as error:
                os._exit(7 if "authentication failed" in str(error) else 8)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as another user")
def test_programs_that_its_user_cannot_reach_are_copied_to_where_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = postgresql_files._wheel()
    hidden = tmp_path / "venv" / original.parent.name  # pytest's folders are closed to other users
    shutil.copytree(original, hidden / original.name)
    libraries = original.parent.parent / f"{original.parent.name}.libs"
    shutil.copytree(libraries, hidden.parent / libraries.name)
    monkeypatch.setattr(postgresql_files, "_wheel", lambda: hidden / original.name)
    with temporary_state() as state:
        server = SystemPostgres(state)
        server.acquire(print)
        server.prepare()
        assert str(state.root) in server.program().argv[-3]
        with running(server.program(), state):
            server.initialise(10.0)
            assert server.answers()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as another user")
def test_a_state_folder_that_its_user_cannot_enter_is_refused_with_the_setting_to_change(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="DRP_STATE"):
        SystemPostgres(locate_state("local", tmp_path)).acquire(print)


def test_a_folder_with_other_content_is_left_alone(state: StateDirectory) -> None:
    note = state.data / "other" / "note"
    note.parent.mkdir()
    note.write_text("mine")
    user = server_user()
    programs = postgresql_files.binaries(state, user)
    with pytest.raises(EngineUnavailable, match="not a PostgreSQL data folder"):
        postgresql_files.make_cluster(note.parent, programs, user, superuser="a", password=None, statements=())
    assert note.read_text() == "mine"


def test_one_database_is_closed_to_the_role_of_the_other(state: StateDirectory) -> None:
    server = SystemPostgres(state)
    with running(server.program(), state):
        server.initialise(10.0)
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(f"host={server.sockets} user=dagster dbname=operations")


def test_it_answers_within_two_seconds_and_keeps_committed_rows_over_a_sudden_end(state: StateDirectory) -> None:
    server, clock = SystemPostgres(state), SystemClock()
    with running(server.program(), state) as process:
        server.initialise(10.0)
        with psycopg.connect(server.conninfo("operations")) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS a")
        process.kill()
    started = clock.monotonic()
    with running(server.program(), state):
        server.initialise(10.0)
        assert clock.monotonic() - started < 2.0
        with psycopg.connect(server.conninfo("operations")) as connection:
            assert connection.execute("SELECT a FROM kept").fetchall() == [(1,)]


def test_it_starts_where_the_socket_folder_was_cleared_and_its_process_number_is_in_use(state: StateDirectory) -> None:
    server = SystemPostgres(state)
    for leftover in server.sockets.iterdir():
        leftover.unlink()
    server.sockets.rmdir()
    pid_file = server.data / "postmaster.pid"
    pid_file.write_text(f"{os.getppid()}\n{server.data}\n0\n5432\n{server.sockets}\n\n0 0\n")
    os.chown(pid_file, server_user().uid, server_user().gid)
    with running(server.program(), state):
        server.initialise(10.0)
        assert server.answers()
    assert not server.answers()


def test_a_second_preparation_changes_nothing_while_it_runs(state: StateDirectory) -> None:
    server = SystemPostgres(state)
    with running(server.program(), state) as process:
        server.initialise(10.0)
        before = _ages(server.data)
        server.prepare()
        assert _ages(server.data) == before
        assert process.process.poll() is None
        assert server.answers()


def _ages(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("*.conf")}
