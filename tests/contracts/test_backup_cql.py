"""Backups over CQL on real servers: the promises of the port, and what is CQL's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dr_platform.backups.cql import CqlBackups, _connected, _has_keyspace, _measured, count
from dr_platform.backups.cql_rows import Selection
from dr_platform.backups.cql_schema import read_schema
from dr_platform.backups.port import Facts, Kind, StoredBackup
from dr_platform.backups.proof import compared
from dr_platform.backups.source import RestoreFailed, Source, TargetRefused
from dr_platform.backups.spool import SpooledPiece, spool
from dr_platform.catalog import Engine
from dr_platform.clock import SystemClock
from dr_platform.databases.access import read_login
from dr_platform.databases.cql import CqlDatabase
from tests.contracts.backup_engine import BackupEngineContract
from tests.contracts.embedded_servers import Running, running

pytestmark = pytest.mark.contract

LONG_S = 5000
MAKE = (
    "CREATE TYPE address (street text, zip int)",
    "CREATE TYPE person (name text, home frozen<address>)",
    """CREATE TABLE everything (
        a int, "B" text, st text static, sm map<text, int> static,
        ascii ascii, big bigint, x blob, yes boolean, da date, de decimal, dou double, du duration, fl float,
        ip inet, sm_int smallint, ti time, at timestamp, tu timeuuid, tiny tinyint, u uuid, vi varint,
        li list<int>, se set<text>, ma map<text, frozen<list<int>>>, fro frozen<map<int, text>>,
        tup tuple<int, text>, ud address, fud frozen<person>, vec vector<float, 3>,
        PRIMARY KEY (a, "B")
    ) WITH CLUSTERING ORDER BY ("B" DESC) AND comment = 'it''s therapy.everything'""",
    "CREATE TABLE counted (id text, day date, seen counter, lost counter, PRIMARY KEY (id, day))",
    "CREATE TABLE mortal (id int PRIMARY KEY, kept text, gone text) WITH default_time_to_live = 100000",
    "CREATE TABLE pairs (a int, b text, c int, v text, PRIMARY KEY ((a, b), c))",
    "CREATE TABLE nothing (id int PRIMARY KEY)",
    "CREATE INDEX everything_x ON everything (x)",
    "CREATE INDEX mortal_kept ON mortal (kept) USING 'sai'",
    """CREATE MATERIALIZED VIEW by_value AS SELECT * FROM pairs
        WHERE v IS NOT NULL AND a IS NOT NULL AND b IS NOT NULL AND c IS NOT NULL PRIMARY KEY (v, a, b, c)""",
)
FULL = """INSERT INTO everything (a, "B", st, sm, ascii, big, x, yes, da, de, dou, du, fl, ip, sm_int, ti, at, tu,
        tiny, u, vi, li, se, ma, fro, tup, ud, fud, vec) VALUES (1, 'ä', 'static', {'s': 1}, 'plain', 9000000000,
        0x00ff, true, '2026-01-02', -1.50, 1.5, 1mo2d3h, 2.5, '::1', -3, '10:11:12.123456789',
        '2026-01-02 03:04:05.678', now(), -1, uuid(), 123456789012345678901234567890,
        [3, 1, 2], {'b', 'a'}, {'k': [1, 2], 'l': []}, {5: 'five'},
        (1, null), {street: 's', zip: null}, {name: 'n', home: {street: 'h', zip: 1}}, [0.5, -1, 2])"""
FILL = (
    FULL,
    """INSERT INTO everything (a, "B") VALUES (1, 'only its key')""",
    """INSERT INTO everything (a, "B", x, ascii) VALUES (1, '', 0x, '')""",
    "INSERT INTO everything (a, st) VALUES (2, 'a partition without rows')",
    """UPDATE everything USING TIMESTAMP 1234567 SET big = 1 WHERE a = 3 AND "B" = 'old'""",
    """UPDATE everything SET se = se + {'later'}, li = li + [9] WHERE a = 1 AND "B" = 'ä'""",
    """DELETE big FROM everything WHERE a = 1 AND "B" = 'ä'""",
    "UPDATE counted SET seen = seen + 5, lost = lost - 2 WHERE id = 'c' AND day = '2026-01-01'",
    "UPDATE counted SET seen = seen + 1 WHERE id = 'd' AND day = '2026-01-01'",
    f"INSERT INTO mortal (id, kept, gone) VALUES (1, 'k', 'g') USING TTL {LONG_S}",
    "UPDATE mortal USING TTL 0 SET kept = 'for ever' WHERE id = 1",
    "INSERT INTO mortal (id, kept) VALUES (2, 'by default')",
)


class LaterClock(SystemClock):
    """The machine's clock, and whatever time is said to have passed besides."""

    ahead_s = 0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.ahead_s)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(Engine.SCYLLADB, "scylladb", 120.0) as started:
        with _connected(source_of(started)) as live:
            for statement in MAKE:
                live.session.execute(statement, timeout=60)
            for statement in FILL:
                live.session.execute(statement)
            row = live.session.prepare("INSERT INTO pairs (a, b, c, v) VALUES (?, ?, ?, ?)")
            for number in range(1200):
                live.session.execute(row, (number % 60, "p", number, f"v{number}"))
        yield started


def source_of(server: Running) -> Source:
    return Source(server.database, server.endpoint, read_login("scylladb", "admin", server.secrets))


@pytest.fixture
def live(server: Running) -> Iterator[CqlDatabase]:
    with _connected(source_of(server)) as database:
        yield database


@pytest.fixture
def engine(server: Running, tmp_path: Path) -> CqlBackups:
    return CqlBackups(source_of(server), tmp_path / "work")


def stored(engine: CqlBackups, folder: Path) -> StoredBackup:
    """A backup whose pieces are plain files."""
    folder.mkdir()
    with engine.snapshot(Kind.CQL) as snapshot:
        pieces = tuple(
            spool(piece.name, piece.facts, piece.read(), folder / str(number))
            for number, piece in enumerate(snapshot.pieces())
        )
        return StoredBackup("b", Kind.CQL, snapshot.facts(), pieces)


def drop(engine: CqlBackups, name: str) -> None:
    with _connected(engine.source) as live:
        live.session.execute(f"DROP KEYSPACE IF EXISTS {name}", timeout=60)


class TestCqlBackups(BackupEngineContract):
    @pytest.fixture
    def engine(self, server: Running, tmp_path: Path) -> CqlBackups:
        return CqlBackups(source_of(server), tmp_path / "work", LaterClock())

    def add_row(self, engine: Any) -> None:
        with _connected(engine.source) as live:
            live.session.execute(
                "INSERT INTO pairs (a, b, c, v) VALUES (-1, uuid_text, 1, 'x')".replace(
                    "uuid_text", f"'{engine.make_id('p')}'"
                )
            )

    def taken(self, here: Any, engine: Any, kind: Kind) -> Any:
        """Values have expired by the time they are restored: a proof compares them all the same."""
        done = super().taken(here, engine, kind)
        engine.clock.ahead_s += 2 * LONG_S
        return done

    def live_name(self, engine: Any) -> str:
        return engine.source.endpoint.database

    def remove_database(self, engine: Any, name: str) -> None:
        drop(engine, name)


@dataclass(frozen=True)
class Copy:
    """The live keyspace's backup, and the keyspace that it was restored into."""

    backup: StoredBackup
    beside: CqlDatabase
    facts: Facts
    probes: Mapping[str, bool | None]


@pytest.fixture(scope="module")
def copy(server: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    folder = tmp_path_factory.mktemp("copy")
    clock = LaterClock()
    engine = CqlBackups(source_of(server), folder / "work", clock, least_ranges=5)
    backup = stored(engine, folder / "kept")
    clock.ahead_s = LONG_S + 1000
    source = replace(engine.source, endpoint=replace(engine.source.endpoint, database="beside"))
    with engine.new_database("beside") as restoration:
        restoration.restore((backup,))
        with _connected(source) as beside:
            probes = {probe.name: probe.passed for probe in restoration.probes()}
            yield Copy(backup, beside, restoration.facts(), probes)
    drop(engine, "beside")


def test_a_new_keyspace_holds_the_same_rows_and_schema(copy: Copy) -> None:
    assert copy.facts.schema_fingerprint == copy.backup.facts.schema_fingerprint
    assert copy.facts.heartbeat == copy.backup.facts.heartbeat != ""
    assert copy.probes == {"indexes_and_views": True, "found_by_key": True}
    differ = {table.name for table in set(copy.backup.facts.tables) - set(copy.facts.tables)}
    assert differ == {"mortal"}  # one of its values has expired since
    assert copy.facts.exact is False
    assert [check.name for check in compared(copy.backup.facts, copy.facts) if check.passed is False] == []


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM everything",
        "SELECT * FROM counted",
        'SELECT a, "B", WRITETIME(big), WRITETIME(st), MAXWRITETIME(se) FROM everything',
        "SELECT count(*) FROM by_value",
        "SELECT a FROM everything WHERE x = 0x00ff",
        "SELECT id FROM mortal WHERE kept = 'for ever'",
    ],
)
def test_a_new_keyspace_answers_as_the_live_one(copy: Copy, live: CqlDatabase, query: str) -> None:
    there, here = ([tuple(row) for row in db.session.execute(query)] for db in (copy.beside, live))
    assert there == here != []


def test_values_keep_the_moment_at_which_they_expire(copy: Copy) -> None:
    left = copy.beside.session.execute("SELECT TTL(kept) FROM mortal WHERE id = 2").one()[0]
    assert 90_000 - LONG_S < left <= 100_000 - LONG_S - 1000


def test_what_has_expired_is_not_brought_back_and_what_stays_does(copy: Copy) -> None:
    row = copy.beside.session.execute("SELECT kept, TTL(kept) AS left, gone FROM mortal WHERE id = 1").one()
    assert (row.kept, row.left, row.gone) == ("for ever", None, None)


def test_a_table_is_cut_into_ranges_that_hold_every_row_once(copy: Copy, live: CqlDatabase) -> None:
    assert sum(piece.facts.get("table") == "pairs" for piece in copy.backup.pieces) == 5
    table = next(found for found in read_schema(live.session, "therapy").tables if found.name == "pairs")
    whole = count(live, Selection(table, True), SystemClock())
    cut = next(found for found in copy.backup.facts.tables if found.name == "pairs")
    assert (cut.rows, cut.fingerprint) == (whole.rows, whole.fingerprint)
    assert cut.rows == live.session.execute("SELECT count(*) FROM pairs").one()[0]


def test_fingerprints_see_a_value_a_write_time_and_an_expiry(live: CqlDatabase) -> None:
    def now() -> str:
        schema = read_schema(live.session, "therapy")
        table = next(found for found in schema.tables if found.name == "pairs")
        return count(live, Selection(table, True), SystemClock()).fingerprint

    seen = [now()]
    for change in ("USING TIMESTAMP 5", "USING TIMESTAMP 6", "USING TIMESTAMP 6 AND TTL 5000"):
        live.session.execute(f"INSERT INTO pairs (a, b, c, v) VALUES (-9, 'q', 1, 'x') {change}")
        seen.append(now())
    live.session.execute("UPDATE pairs USING TIMESTAMP 7 SET v = 'y' WHERE a = -9 AND b = 'q' AND c = 1")
    seen.append(now())
    live.session.execute("DELETE FROM pairs WHERE a = -9 AND b = 'q'")
    assert len(set(seen)) == len(seen)
    assert now() == seen[0]


def test_an_altered_value_is_found_before_the_new_keyspace_is_kept(engine: CqlBackups, tmp_path: Path) -> None:
    backup = stored(engine, tmp_path / "kept")
    piece = next(p for p in backup.pieces if p.facts.get("table") == "pairs")
    assert isinstance(piece, SpooledPiece)
    piece.path.write_bytes(piece.path.read_bytes().replace(b"v77", b"v78", 1))
    with pytest.raises(RestoreFailed, match="not whole"), engine.new_database("harmed") as restoration:
        restoration.restore((backup,))
    with _connected(engine.source) as live:
        assert not _has_keyspace(live, "harmed")


def test_a_missing_range_is_said_before_anything_is_started(engine: CqlBackups, copy: Copy) -> None:
    without = [piece for piece in copy.backup.pieces if piece.facts.get("range") != "3 of 5"]
    backup = replace(copy.backup, pieces=tuple(without))
    with pytest.raises(RestoreFailed, match="4 of 5 ranges"), engine.scratch() as restoration:
        restoration.restore((backup,))
    assert not engine.base.exists()


@pytest.mark.parametrize("name", ["therapy", "system", "Upper", "a-b", "", "x" * 49])
def test_only_a_new_name_is_taken_as_a_new_keyspace(engine: CqlBackups, name: str) -> None:
    with pytest.raises(TargetRefused), engine.new_database(name):
        pytest.fail("it was taken")


def test_what_the_server_could_do_by_itself_is_said(live: CqlDatabase, engine: CqlBackups, tmp_path: Path) -> None:
    facts = stored(engine, tmp_path / "kept").facts
    assert facts.position["server_snapshots"].startswith("Apache Cassandra can: nodetool snapshot")
    assert facts.server == _measured(live, read_schema(live.session, "therapy"), {}, {}).server
