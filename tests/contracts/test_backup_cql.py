"""Backups over CQL on real servers: the promises of the port, and what is CQL's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dr_platform.backups.cql import CqlBackups, _connected, _measured, count
from dr_platform.backups.cql_rows import Selection
from dr_platform.backups.cql_schema import read_schema
from dr_platform.backups.port import Kind, StoredBackup
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
FULL = """INSERT INTO everything (a, "B", st, sm, ascii, big, x, yes, da, de, dou, du, fl, ip, sm_int, ti, at, tu, tiny,
        u, vi, li, se, ma, fro, tup, ud, fud, vec) VALUES (1, 'ä', 'static', {'s': 1}, 'plain', 9000000000, 0x00ff, true,
        '2026-01-02', -1.50, 1.5, 1mo2d3h, 2.5, '::1', -3, '10:11:12.123456789', '2026-01-02 03:04:05.678', now(), -1,
        uuid(), 123456789012345678901234567890, [3, 1, 2], {'b', 'a'}, {'k': [1, 2], 'l': []}, {5: 'five'},
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


@contextlib.contextmanager
def restored(engine: CqlBackups, backup: StoredBackup, name: str = "beside") -> Iterator[tuple[Any, CqlDatabase]]:
    source = replace(engine.source, endpoint=replace(engine.source.endpoint, database=name))
    try:
        with engine.new_database(name) as restoration:
            restoration.restore((backup,))
            with _connected(source) as beside:
                yield restoration, beside
    finally:
        drop(engine, name)


def drop(engine: CqlBackups, name: str) -> None:
    with _connected(engine.source) as live:
        live.session.execute(f"DROP KEYSPACE IF EXISTS {name}", timeout=60)


class TestCqlBackups(BackupEngineContract):
    @pytest.fixture
    def engine(self, server: Running, tmp_path: Path) -> CqlBackups:
        return CqlBackups(source_of(server), tmp_path / "work")

    def add_row(self, engine: Any) -> None:
        with _connected(engine.source) as live:
            live.session.execute(
                "INSERT INTO pairs (a, b, c, v) VALUES (-1, uuid_text, 1, 'x')".replace(
                    "uuid_text", f"'{engine.make_id('p')}'"
                )
            )

    def live_name(self, engine: Any) -> str:
        return engine.source.endpoint.database

    def remove_database(self, engine: Any, name: str) -> None:
        drop(engine, name)


def test_a_new_keyspace_holds_the_same_values_write_times_and_schema(
    engine: CqlBackups, live: CqlDatabase, tmp_path: Path
) -> None:
    backup = stored(engine, tmp_path / "kept")
    with restored(engine, backup) as (restoration, beside):
        facts = restoration.facts()
        assert facts.schema_fingerprint == backup.facts.schema_fingerprint
        assert facts.tables == backup.facts.tables
        assert facts.heartbeat == backup.facts.heartbeat != ""
        assert {probe.name: probe.passed for probe in restoration.probes()} == {
            "indexes_and_views": True,
            "found_by_key": True,
        }
        for query in (
            "SELECT * FROM everything",
            "SELECT * FROM counted",
            'SELECT a, "B", WRITETIME(big), WRITETIME(st), MAXWRITETIME(se) FROM everything',
            "SELECT count(*) FROM by_value",
            "SELECT a FROM everything WHERE x = 0x00ff",
        ):
            there, here = ([tuple(row) for row in db.session.execute(query)] for db in (beside, live))
            assert there == here != [], query


def test_values_keep_the_moment_at_which_they_expire(engine: CqlBackups, tmp_path: Path) -> None:
    backup = stored(engine, tmp_path / "kept")
    query = "SELECT TTL(kept) AS kept, TTL(gone) AS gone FROM mortal WHERE id = "
    with restored(engine, backup) as (restoration, beside):
        first = beside.session.execute(f"{query}1").one()
        assert first.kept is None
        assert LONG_S - 600 < first.gone <= LONG_S
        assert 90_000 < beside.session.execute(f"{query}2").one().kept <= 100_000
        assert restoration.facts().exact is False


def test_a_value_that_expired_since_is_compared_in_a_proof_and_left_out_of_a_restore(
    engine: CqlBackups, live: CqlDatabase, tmp_path: Path
) -> None:
    live.session.execute("INSERT INTO mortal (id, gone) VALUES (9, 'soon') USING TTL 2")
    backup = stored(engine, tmp_path / "kept")
    while live.session.execute("SELECT gone FROM mortal WHERE id = 9").one():
        SystemClock().sleep(0.1)
    with engine.scratch() as restoration:
        restoration.restore((backup,))
        assert restoration.facts().tables == backup.facts.tables
        assert restoration.facts().exact
    with restored(engine, backup) as (_, beside):
        assert beside.session.execute("SELECT gone FROM mortal WHERE id = 9").one() is None


def test_a_table_is_cut_into_ranges_that_hold_every_row_once(
    engine: CqlBackups, live: CqlDatabase, tmp_path: Path
) -> None:
    backup = stored(replace(engine, least_ranges=5), tmp_path / "kept")
    assert sum(piece.facts.get("table") == "pairs" for piece in backup.pieces) == 5
    whole = stored(engine, tmp_path / "whole")
    by_name = {table.name: table for table in whole.facts.tables}
    assert [t for t in backup.facts.tables if t.name != "drp_heartbeat"] == [
        by_name[t.name] for t in backup.facts.tables if t.name != "drp_heartbeat"
    ]
    assert by_name["pairs"].rows == live.session.execute("SELECT count(*) FROM pairs").one()[0]
    with restored(engine, backup) as (restoration, _):
        assert restoration.facts().tables == backup.facts.tables


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


@pytest.mark.parametrize("harm", ["cut", "altered"])
def test_a_harmed_stream_of_rows_is_refused(engine: CqlBackups, tmp_path: Path, harm: str) -> None:
    backup = stored(engine, tmp_path / "kept")
    piece = next(p for p in backup.pieces if p.facts.get("table") == "pairs")
    assert isinstance(piece, SpooledPiece)
    content = piece.path.read_bytes()
    piece.path.write_bytes(content[:-1] if harm == "cut" else content.replace(b"v77", b"v78", 1))
    with pytest.raises(RestoreFailed, match="not whole"), engine.new_database("harmed") as restoration:
        restoration.restore((backup,))
    with engine.new_database("harmed"):
        pass  # the name is free again
    drop(engine, "harmed")


@pytest.mark.parametrize("name", ["therapy", "system", "Upper", "a-b", "", "x" * 49])
def test_only_a_new_name_is_taken_as_a_new_keyspace(engine: CqlBackups, name: str) -> None:
    with pytest.raises(TargetRefused), engine.new_database(name):
        pytest.fail("it was taken")


def test_what_the_server_could_do_by_itself_is_said(live: CqlDatabase, engine: CqlBackups, tmp_path: Path) -> None:
    facts = stored(engine, tmp_path / "kept").facts
    assert facts.position["server_snapshots"].startswith("Apache Cassandra can: nodetool snapshot")
    assert facts.server == _measured(live, read_schema(live.session, "therapy"), {}, {}).server
