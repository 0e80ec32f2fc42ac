"""The evidence log and the operations schema on a real PostgreSQL server."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from dr_platform.clock import ManualClock
from dr_platform.databases.embedded.system import SystemPostgres
from dr_platform.evidence import Entry, PostgresEvidenceLog
from dr_platform.operations import OperationsUnavailable, operations_engine, upgrade
from dr_platform.operations.schema import _UPGRADE_LOCK
from dr_platform.operations.tables import metadata
from tests.contracts.evidence import ACTOR, KIND, SUBJECT, EvidenceLogContract
from tests.embedded_programs import running, temporary_state
from tests.postgres_server import PostgresServer, running_postgres

pytestmark = pytest.mark.contract


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def url(server: PostgresServer) -> str:
    url = server.new_database()
    upgrade(url)
    return url


@pytest.fixture(scope="module")
def shared_engine(url: str) -> Iterator[Engine]:
    engine = operations_engine(url)
    yield engine
    engine.dispose()


def without_triggers(engine: Engine, *statements: str) -> None:
    """What somebody who may alter the table could do."""
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE evidence_log DISABLE TRIGGER ALL")
        for statement in statements:
            connection.exec_driver_sql(statement)
        connection.exec_driver_sql("ALTER TABLE evidence_log ENABLE TRIGGER ALL")


@pytest.fixture
def engine(shared_engine: Engine) -> Engine:
    without_triggers(shared_engine, "TRUNCATE evidence_log")
    return shared_engine


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def log(engine: Engine, clock: ManualClock) -> PostgresEvidenceLog:
    return PostgresEvidenceLog(engine, clock)


class TestPostgresEvidenceLog(EvidenceLogContract):
    pass


@pytest.fixture
def filled(log: PostgresEvidenceLog) -> list[Entry]:
    return [log.append(KIND, SUBJECT, ACTOR, {"step": step}) for step in range(6)]


COLUMNS = "at, kind, subject, actor, body, repeat('1', 64), hash"
INSERT_AT = f"INSERT INTO evidence_log SELECT {{}}, {COLUMNS} FROM evidence_log LIMIT 1"


@pytest.mark.parametrize("statement", [
    "UPDATE evidence_log SET actor = 'somebody else' WHERE sequence = 3",
    "UPDATE evidence_log SET body = body",
    "DELETE FROM evidence_log WHERE sequence = 6",
    "DELETE FROM evidence_log",
    "TRUNCATE evidence_log",
    INSERT_AT.format(9),
    INSERT_AT.format(7),
    INSERT_AT.format(0),
])  # fmt: skip
def test_the_server_refuses_every_change_even_to_the_owner(
    engine: Engine, log: PostgresEvidenceLog, filled: list[Entry], statement: str
) -> None:
    with pytest.raises(IntegrityError, match=r"append-only|only at its end"), engine.begin() as connection:
        connection.exec_driver_sql(statement)
    assert list(log.entries()) == filled


@pytest.mark.parametrize(("tampering", "sequence", "why"), [
    ("UPDATE evidence_log SET actor = 'x' WHERE sequence = 3", 3, "content"),
    ("UPDATE evidence_log SET at = at + interval '1 microsecond' WHERE sequence = 6", 6, "content"),
    ("""UPDATE evidence_log SET body = '{"step":9}' WHERE sequence = 1""", 1, "content"),
    ("""UPDATE evidence_log SET body = '{"step": 2}' WHERE sequence = 3""", 3, "content"),
    ("UPDATE evidence_log SET kind = 'other', hash = repeat('a', 64) WHERE sequence = 2", 2, "content"),
    ("DELETE FROM evidence_log WHERE sequence = 4", 4, "missing"),
    ("DELETE FROM evidence_log WHERE sequence = 1", 1, "missing"),
    ("UPDATE evidence_log SET previous = repeat('b', 64) WHERE sequence = 5", 5, "continue"),
])  # fmt: skip
def test_the_first_entry_that_was_tampered_with_is_named(
    engine: Engine, log: PostgresEvidenceLog, filled: list[Entry], tampering: str, sequence: int, why: str
) -> None:
    without_triggers(engine, tampering)
    broken = log.verify()
    assert broken is not None
    assert (broken.sequence, why in broken.why) == (sequence, True)


def test_two_swapped_entries_are_noticed(engine: Engine, log: PostgresEvidenceLog, filled: list[Entry]) -> None:
    move = "UPDATE evidence_log SET sequence = {} WHERE sequence = {}"
    without_triggers(engine, move.format(30, 2), move.format(2, 3), move.format(3, 30))
    broken = log.verify()
    assert broken is not None
    assert broken.sequence == 2


def test_a_cut_end_is_noticed_by_a_checkpoint_alone(
    engine: Engine, log: PostgresEvidenceLog, filled: list[Entry]
) -> None:
    checkpoint = log.head()
    without_triggers(engine, "DELETE FROM evidence_log WHERE sequence > 4")
    assert log.verify() is None
    broken = log.verify(checkpoint)
    assert broken is not None
    assert broken.sequence == 6


APPENDER = """
import sys
from dr_platform.evidence import PostgresEvidenceLog
from dr_platform.operations import operations_engine
log = PostgresEvidenceLog(operations_engine(sys.argv[1]))
sys.stdin.readline()
count = 0
while count != int(sys.argv[2]):
    print(log.append("loop", "test", "tester", {"number": count}).sequence, flush=True)
    count += 1
"""


def start_appender(url: str, count: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", APPENDER, url, str(count)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    process.stdin.write(b"go\n")
    process.stdin.flush()
    return process


def test_processes_that_append_at_once_leave_no_gap(url: str, log: PostgresEvidenceLog) -> None:
    processes = [start_appender(url, 30) for _ in range(3)]
    told = [int(line) for p in processes for line in p.communicate(timeout=60)[0].split()]
    assert sorted(told) == list(range(1, 91))
    assert log.verify() is None


def test_a_killed_appender_loses_nothing_it_was_told_and_breaks_nothing(url: str, log: PostgresEvidenceLog) -> None:
    process = start_appender(url, -1)
    assert process.stdout
    told = 0
    while told < 20:
        told = int(process.stdout.readline())
    process.kill()
    rest = process.communicate()[0].split(b"\n")[:-1]
    told = max([told, *map(int, rest)])
    assert log.append(KIND, SUBJECT, ACTOR, {}).sequence in {told + 1, told + 2}
    assert log.verify() is None


def test_a_restarted_server_costs_no_failed_append_and_a_stopped_one_is_an_outage() -> None:
    with running_postgres() as server:
        url = server.new_database()
        upgrade(url)
        engine = operations_engine(url)
        log = PostgresEvidenceLog(engine)
        log.append(KIND, SUBJECT, ACTOR, {})
        server.stop()
        for call in (
            lambda: log.append(KIND, SUBJECT, ACTOR, {}),
            log.count,
            log.verify,
            log.head,
            lambda: upgrade(url),
        ):
            with pytest.raises(OperationsUnavailable):
                call()
        server.start()
        assert log.append(KIND, SUBJECT, ACTOR, {}).sequence == 2
        assert log.verify() is None
        engine.dispose()


def test_what_was_appended_to_the_platform_s_own_server_survives_its_sudden_end() -> None:
    with temporary_state() as state:
        system = SystemPostgres(state)
        system.acquire(print)
        system.prepare()
        engine = operations_engine(system.url("operations"))
        log = PostgresEvidenceLog(engine)
        with running(system.program(), state) as process:
            system.initialise(10.0)
            upgrade(system.url("operations"))
            kept = [log.append(KIND, SUBJECT, ACTOR, {"step": step}) for step in range(5)]
            process.kill()
        with running(system.program(), state):
            system.initialise(20.0)
            assert list(log.entries()) == kept
            assert log.append(KIND, SUBJECT, ACTOR, {}).sequence == 6
            assert log.verify() is None
        engine.dispose()


def test_a_database_without_tables_is_an_outage_that_names_the_remedy(server: PostgresServer) -> None:
    engine = operations_engine(server.new_database())
    with pytest.raises(OperationsUnavailable, match=r"UndefinedTable(?s:.)*drp up"):
        PostgresEvidenceLog(engine).append(KIND, SUBJECT, ACTOR, {})
    engine.dispose()


def test_more_entries_than_one_page_are_read_and_verified(url: str, log: PostgresEvidenceLog) -> None:
    start_appender(url, 1205).communicate(timeout=60)
    assert [e.sequence for e in log.entries()] == list(range(1, 1206))
    assert log.verify() is None


def schema_of(url: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        columns = "SELECT table_name, column_name, data_type FROM information_schema.columns"
        return connection.execute(f"{columns} WHERE table_schema = 'public' ORDER BY 1, 2".encode()).fetchall()


def test_upgrading_again_changes_nothing(url: str) -> None:
    before = schema_of(url)
    upgrade(url)
    assert schema_of(url) == before
    assert {"evidence_log", "observation", "remediation_budget"} <= {str(row[0]) for row in before}


def test_many_upgrades_at_once_apply_the_schema_once(server: PostgresServer, url: str) -> None:
    fresh = server.new_database()
    script = "import sys, alembic.command, psycopg; from dr_platform.operations import upgrade; "
    script += "print('ready', flush=True); sys.stdin.readline(); upgrade(sys.argv[1])"
    command = [sys.executable, "-c", script, fresh]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(4)]
    for process in processes:
        assert process.stdout
        process.stdout.readline()
    for process in processes:
        assert process.stdin
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0, 0, 0, 0]
    assert schema_of(fresh) == schema_of(url)


def test_an_upgrade_waits_for_the_one_that_is_under_way(server: PostgresServer) -> None:
    fresh = server.new_database()
    waiting = b"SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database WHERE datname = current_database()"
    with psycopg.connect(fresh) as first, ThreadPoolExecutor(1) as pool:
        first.execute("SELECT pg_advisory_xact_lock(%s)", [_UPGRADE_LOCK])
        second = pool.submit(upgrade, fresh)
        with psycopg.connect(fresh, autocommit=True) as watcher:
            deadline = time.monotonic() + 30
            while watcher.execute(waiting + b" AND locktype = 'advisory' AND NOT granted").fetchone() != (1,):
                assert not second.done()
                assert time.monotonic() < deadline
        first.rollback()
        second.result(timeout=30)
    assert schema_of(fresh) != []


def test_an_upgrade_that_fails_half_way_leaves_nothing(server: PostgresServer) -> None:
    fresh = server.new_database()
    with psycopg.connect(fresh, autocommit=True) as connection:
        connection.execute("CREATE TABLE observation (mine text)")
    with pytest.raises(OperationsUnavailable, match="DuplicateTable"):
        upgrade(fresh)
    assert schema_of(fresh) == [("observation", "mine", "text")]


def test_the_tables_that_the_code_knows_are_those_that_the_migrations_make(shared_engine: Engine) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with shared_engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_every_line_of_an_export_can_be_checked_with_a_plain_digest(log: PostgresEvidenceLog) -> None:
    import hashlib

    log.append(KIND, SUBJECT, ACTOR, {"b": 1, "a": "ü"})
    line = json.loads(next(iter(log.entries())).as_line())
    claimed = line.pop("hash")
    canonical = json.dumps(line, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(canonical.encode()).hexdigest() == claimed
