"""Backups of PostgreSQL on a real embedded server: the promises of the port, and what is PostgreSQL's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from dr_platform.backups.errors import BackupFailed
from dr_platform.backups.manifest import Manifest
from dr_platform.backups.port import BackupEngine, Kind, StoredBackup
from dr_platform.backups.postgresql import wal
from dr_platform.backups.postgresql.archive import WalArchive
from dr_platform.backups.postgresql.engine import PostgresBackups, postgres_backups
from dr_platform.backups.postgresql.errors import (
    ArchiveConflict,
    ExtensionMissing,
    NotThisBackup,
    SourceRefused,
    TargetNotReached,
    ToolFailed,
)
from dr_platform.backups.postgresql.recovery import AtPoint, AtTime, BeforeTime, Latest, Moment, Recovery
from dr_platform.backups.postgresql.scratch import Site, sweep
from dr_platform.catalog import Engine
from dr_platform.databases.access import read_login
from dr_platform.databases.connect import connect_database
from dr_platform.databases.schema import migrate, read_steps
from tests.backups import Room, order, room
from tests.contracts.backup_engine import BackupEngineContract, comparable
from tests.contracts.embedded_servers import Running, running

pytestmark = pytest.mark.contract

MIGRATIONS = Path(__file__).parents[2] / "catalog" / "databases" / "postgres" / "migrations"
MEMORY = 256 << 20
WITHIN_S = 60.0

# One of everything whose copy could go wrong.
SHAPES = """
    CREATE TYPE public.mood AS ENUM ('low', 'even', 'high');
    CREATE DOMAIN public.share AS numeric CHECK (value BETWEEN 0 AND 1);
    CREATE SCHEMA "Odd ""Schema";
    CREATE TABLE "Odd ""Schema"."Tab.le/ä" ("Co,l" text, "select" integer GENERATED ALWAYS AS IDENTITY);
    INSERT INTO "Odd ""Schema"."Tab.le/ä" ("Co,l") SELECT E'\\\\N\\t' || i FROM generate_series(1, 50) i;
    CREATE TABLE public.shapes (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, m public.mood, s public.share, j jsonb, old json,
        a integer[], v vector(8), vs vector(3)[], b bytea, at timestamptz, r int4range, p point, net inet, f float8,
        twice integer GENERATED ALWAYS AS (length(t) * 2) STORED, t text COLLATE "C"
    );
    INSERT INTO public.shapes (m, s, j, old, a, v, vs, b, at, r, p, net, f, t)
    SELECT 'even', 0.5, '{"a": 1}', '{"b":2}', ARRAY[i, NULL], array_fill(i % 7 + random(), ARRAY[8])::vector,
           ARRAY['[1,2,3]'::vector], decode(repeat('00ff', i % 90), 'hex'), now(), int4range(i, NULL), point(i, 1),
           '::1', 'NaN', repeat('ü', i % 50) FROM generate_series(1, 3000) i;
    INSERT INTO public.shapes (t) VALUES (NULL);
    CREATE INDEX shapes_near ON public.shapes USING hnsw (v vector_cosine_ops);
    CREATE INDEX shapes_expression ON public.shapes (lower(t)) WHERE m = 'even';
    CREATE TABLE public.parts (id integer, at date NOT NULL) PARTITION BY RANGE (at);
    CREATE TABLE public.parts_old PARTITION OF public.parts FOR VALUES FROM (MINVALUE) TO ('2026-01-01');
    CREATE TABLE public.parts_new PARTITION OF public.parts FOR VALUES FROM ('2026-01-01') TO (MAXVALUE);
    CREATE INDEX ON public.parts (id);
    INSERT INTO public.parts SELECT i, date '2025-06-01' + i FROM generate_series(1, 400) i;
    CREATE TABLE public.guarded (id integer PRIMARY KEY, owner text);
    ALTER TABLE public.guarded ENABLE ROW LEVEL SECURITY;
    CREATE POLICY mine ON public.guarded USING (owner = current_user);
    INSERT INTO public.guarded VALUES (1, 'somebody');
    CREATE MATERIALIZED VIEW public.counted AS SELECT count(*) AS n FROM public.shapes;
    CREATE UNLOGGED TABLE public.fleeting AS SELECT 1 AS one;
    CREATE TABLE public.wide (id integer PRIMARY KEY, body text);
    INSERT INTO public.wide SELECT i, repeat(md5(i::text), 40) FROM generate_series(1, 6000) i;
    CREATE TABLE public.grants (who aclitem);
    INSERT INTO public.grants VALUES (makeaclitem(10, 10, 'SELECT', false));
    CREATE TABLE public.empty (nothing aclitem);
    SELECT lo_from_bytea(0, 'a large object');
    SELECT setval('public.shapes_id_seq', 777000);
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(Engine.POSTGRESQL, "store") as started:
        database = connect_database(started.database, started.endpoint, started.secrets, "admin")
        migrate(database, read_steps(MIGRATIONS))
        database.close()
        with connected(engine_of(started)) as connection:
            connection.execute(SHAPES.encode())
            connection.execute("VACUUM ANALYZE")
        yield started


def engine_of(server: Running) -> PostgresBackups:
    admin = read_login("store", "admin", server.secrets)
    return postgres_backups("store", server.endpoint, admin, Site(server.state, MEMORY))


@contextmanager
def connected(engine: PostgresBackups, database: str = "") -> Iterator[psycopg.Connection[Any]]:
    access = engine.access.to(database) if database else engine.access
    with access.connect({}) as connection:
        yield connection


@pytest.fixture
def postgres(server: Running) -> PostgresBackups:
    return engine_of(server)


@pytest.fixture
def here(tmp_path: Path) -> Room:
    return room(tmp_path).with_writer(part_bytes=1 << 20)


def taken(here: Room, engine: PostgresBackups, kind: Kind, parent: StoredBackup | None = None) -> Manifest:
    return here.writer.take(order(kind=kind), engine, parent)


def chain_of(here: Room, manifest: Manifest) -> tuple[StoredBackup, ...]:
    return here.reader.chain("live", manifest.backup_id)


def one(connection: psycopg.Connection[Any], query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None


class TestPostgresBackups(BackupEngineContract):
    @pytest.fixture
    def engine(self, postgres: PostgresBackups) -> BackupEngine:
        return postgres

    def add_row(self, engine: BackupEngine) -> None:
        assert isinstance(engine, PostgresBackups)
        with connected(engine) as connection:
            connection.execute("INSERT INTO public.shapes (t) VALUES ('one more')")

    def kinds_for_new(self, engine: BackupEngine) -> tuple[Kind, ...]:
        del engine
        return Kind.LOGICAL, Kind.PHYSICAL_FULL

    def live_name(self, engine: BackupEngine) -> str:
        assert isinstance(engine, PostgresBackups)
        return engine.access.database

    def remove_database(self, engine: BackupEngine, name: str) -> None:
        assert isinstance(engine, PostgresBackups)
        with connected(engine, "postgres") as connection:
            connection.execute(f"DROP DATABASE {name}".encode())


# Logical


def test_a_logical_restore_brings_back_everything_that_a_schema_can_hold(postgres: PostgresBackups, here: Room) -> None:
    with connected(postgres) as live:  # other tests add rows, and a restore computes the view anew
        live.execute("REFRESH MATERIALIZED VIEW public.counted")
    manifest = taken(here, postgres, Kind.LOGICAL)
    with postgres.scratch() as restoration:
        restoration.restore(chain_of(here, manifest))
        with restoration.access.connect({}) as copy, connected(postgres) as live:
            for question in (
                "SELECT last_value FROM public.shapes_id_seq",
                "SELECT n FROM public.counted",
                "SELECT convert_from(lo_get(oid), 'UTF8') FROM pg_largeobject_metadata",
                (
                    "SELECT string_agg(pg_get_indexdef(indexrelid), ';' ORDER BY pg_get_indexdef(indexrelid))"
                    " FROM pg_index"
                    " WHERE indrelid >= 16384 AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = indrelid"
                    " AND relnamespace = 'pg_toast'::regnamespace)"
                ),
                "SELECT string_agg(polname, ',') FROM pg_policy",
                "SELECT sum(twice) FROM public.shapes",
                (
                    "SELECT datlocale || datcollate || pg_get_userbyid(datdba) FROM pg_database"
                    " WHERE datname = current_database()"
                ),
                "SELECT has_database_privilege('drp_application', current_database(), 'CONNECT')",
                "SELECT pg_has_role('drp_application', 'drp_services', 'MEMBER')",
                "SELECT has_table_privilege('drp_services', 'work.tasks', 'INSERT')",
            ):
                assert one(copy, question) == one(live, question), question
            assert one(copy, "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'drp_application'") is False


def test_a_connection_that_ends_half_way_fails_the_backup_and_leaves_no_part(
    postgres: PostgresBackups, here: Room
) -> None:
    with postgres.snapshot(Kind.LOGICAL) as snapshot, connected(postgres) as other:
        piece = max(snapshot.pieces(), key=lambda found: found.size_hint)
        chunks = piece.read()
        next(chunks)
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'dr-backup' AND pid <> pg_backend_pid()"
        )
        with pytest.raises(ToolFailed, match="COPY of"):
            for _ in chunks:
                pass
        with pytest.raises(psycopg.Error):
            snapshot.facts()


def test_a_dump_program_that_fails_is_told_with_its_status(postgres: PostgresBackups, tmp_path: Path) -> None:
    program = tmp_path / "pg_dump"
    program.write_text("#!/bin/sh\necho 'CREATE TABLE half'\nkill -9 $$\n")
    program.chmod(0o755)
    with postgres.snapshot(Kind.LOGICAL) as snapshot:
        piece = next(found for found in snapshot.pieces() if found.name == "pre-data.sql")
        broken = replace(piece, source=replace(piece.source, programs=tmp_path))  # type: ignore[type-var, attr-defined]
        with pytest.raises(ToolFailed, match="pg_dump failed: ended by signal 9"):
            list(broken.read())


@pytest.mark.parametrize("kind", [Kind.LOGICAL, Kind.PHYSICAL_FULL, Kind.PHYSICAL_INCREMENTAL])
def test_processes_beside_each_other_read_what_one_reads(postgres: PostgresBackups, here: Room, kind: Kind) -> None:
    parent = (
        chain_of(here, taken(here, postgres, Kind.PHYSICAL_FULL))[-1] if kind is Kind.PHYSICAL_INCREMENTAL else None
    )
    manifest = taken(here.with_writer(workers=2), postgres, kind, parent)
    with postgres.scratch() as restoration:
        restoration.restore(chain_of(here, manifest))
        assert comparable(replace(restoration.facts(), exact=manifest.facts.exact)) == comparable(manifest.facts)


def test_an_extension_that_the_target_lacks_is_named_before_anything_is_written(
    postgres: PostgresBackups, here: Room
) -> None:
    (backup,) = chain_of(here, taken(here, postgres, Kind.LOGICAL))
    foreign = replace(backup, facts=replace(backup.facts, extensions={**backup.facts.extensions, "postgis": "3.5"}))
    with pytest.raises(ExtensionMissing, match=r"postgis 3\.5"), postgres.scratch() as restoration:
        restoration.restore([foreign])
    newer = replace(backup, facts=replace(backup.facts, extensions={"vector": "99.0"}))
    with postgres.new_database("lacking") as target:
        with pytest.raises(ExtensionMissing, match=r"vector 99\.0"):
            target.restore([newer])
        with connected(postgres, "lacking") as connection:
            assert one(connection, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0
    with connected(postgres, "postgres") as connection:
        connection.execute("DROP DATABASE lacking")


def test_rows_of_another_major_version_are_refused(postgres: PostgresBackups, here: Room) -> None:
    (backup,) = chain_of(here, taken(here, postgres, Kind.LOGICAL))
    older = replace(backup, facts=replace(backup.facts, server_version="15.4"))
    with pytest.raises(NotThisBackup, match="PostgreSQL 15"), postgres.scratch() as restoration:
        restoration.restore([older])


# Physical


def test_an_incremental_backup_is_small_and_brings_back_the_newest_rows(postgres: PostgresBackups, here: Room) -> None:
    full = taken(here, postgres, Kind.PHYSICAL_FULL)
    with connected(postgres) as connection:
        connection.execute("INSERT INTO public.wide SELECT i, 'later' FROM generate_series(6001, 6200) i")
    first = taken(here, postgres, Kind.PHYSICAL_INCREMENTAL, chain_of(here, full)[-1])
    with connected(postgres) as connection:
        connection.execute("DELETE FROM public.wide WHERE id > 6100")
    second = taken(here, postgres, Kind.PHYSICAL_INCREMENTAL, chain_of(here, first)[-1])
    assert second.size_bytes < full.size_bytes / 2
    chain = chain_of(here, second)
    assert len(chain) == 3
    with postgres.scratch() as restoration:
        restoration.restore(chain)
        found = restoration.facts()
        assert next(table.rows for table in found.tables if table.name == "public.wide") == 6100
        assert comparable(replace(found, exact=second.facts.exact)) == comparable(second.facts)
    with pytest.raises(NotThisBackup, match="begin with a full"), postgres.scratch() as restoration:
        restoration.restore(chain[1:])


def test_what_is_written_meanwhile_makes_facts_lower_bounds_that_hold(postgres: PostgresBackups, here: Room) -> None:
    """Rows are added, changed and deleted between the begin of the backup and its end."""
    with connected(postgres) as connection:
        connection.execute("CREATE TABLE public.busy AS SELECT i AS id, 'old' AS body FROM generate_series(1, 1000) i")
    with postgres.snapshot(Kind.PHYSICAL_FULL) as snapshot:
        with connected(postgres) as connection:
            connection.execute("DELETE FROM public.busy WHERE id <= 100")
            connection.execute("INSERT INTO public.busy SELECT i, 'new' FROM generate_series(2001, 2400) i")
        contents = {piece.name: b"".join(piece.read()) for piece in snapshot.pieces()}
        with connected(postgres) as connection:
            connection.execute("INSERT INTO public.busy SELECT i, 'newer' FROM generate_series(3001, 3400) i")
        facts = snapshot.facts()
    with connected(postgres) as connection:
        connection.execute("DROP TABLE public.busy")
    assert not facts.exact
    assert next(table.rows for table in facts.tables if table.name == "public.busy") == 900
    assert contents["backup_manifest"]


def test_a_base_backup_is_not_read_twice(postgres: PostgresBackups) -> None:
    with postgres.snapshot(Kind.PHYSICAL_FULL) as snapshot:
        for piece in snapshot.pieces():
            assert sum(map(len, piece.read()))
        with pytest.raises(ToolFailed, match="broke off"):
            list(snapshot.pieces()[0].read())


def test_an_incremental_of_another_server_is_refused(postgres: PostgresBackups, here: Room) -> None:
    (full,) = chain_of(here, taken(here, postgres, Kind.PHYSICAL_FULL))
    position = {**full.facts.position, "system_identifier": "1"}
    other = replace(full, facts=replace(full.facts, position=position))
    with pytest.raises(BackupFailed, match="another server"):
        taken(here, postgres, Kind.PHYSICAL_INCREMENTAL, other)
    with pytest.raises(SourceRefused, match="needs its parent"):
        postgres.snapshot(Kind.PHYSICAL_INCREMENTAL)


# Scratch servers


def test_a_killed_restore_leaves_a_server_that_the_next_one_removes(server: Running, postgres: PostgresBackups) -> None:
    program = f"""
        import os, signal, sys
        from pathlib import Path
        from dr_platform.backups.postgresql.scratch import Site, scratch_server
        from dr_platform.state import StateDirectory
        site = Site(StateDirectory(Path({str(server.state.root)!r}), Path({str(server.state.run)!r})), {MEMORY})
        with scratch_server(site) as scratch:
            scratch.make(["--locale=C"])
            scratch.configure({MEMORY})
            scratch.start()
            print((scratch.data / "postmaster.pid").read_text().split()[0], scratch.folder, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=WITHIN_S, check=False
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    pid, folder = ended.stdout.split()
    orphan = psutil.Process(int(pid))
    with postgres.scratch() as used:  # one in use is not a leftover, and making one removes what is
        assert not Path(folder).exists()
        orphan.wait(WITHIN_S)
        assert sweep(postgres.site) == ()
        assert used.server.folder.exists()
    assert not used.server.folder.exists()
    assert not used.server.sockets.exists()


def test_nobody_else_reaches_a_scratch_server(postgres: PostgresBackups, here: Room) -> None:
    manifest = taken(here, postgres, Kind.PHYSICAL_FULL)
    with postgres.scratch() as restoration:
        restoration.restore(chain_of(here, manifest))
        assert restoration.server.sockets.stat().st_mode & 0o077 == 0
        with restoration.access.connect({}) as connection:
            assert one(connection, "SHOW listen_addresses") == ""
            assert one(connection, "SHOW archive_mode") == "off"
            assert one(connection, "SHOW archive_command") == "(disabled)"


# To a moment


class Archived:
    """The live server's log, drained into a bucket."""

    def __init__(self, server: Running, engine: PostgresBackups, here: Room) -> None:
        self.spool = server.state.wal / "store"
        self.engine = engine
        with connected(engine) as connection:
            identifier = str(one(connection, "SELECT system_identifier FROM pg_control_system()"))
        self.archive = WalArchive(here.bucket, here.keys, "store", identifier)

    def up_to_now(self) -> None:
        """Hand over everything that is committed, and store it."""
        with connected(self.engine) as connection:
            segment = one(connection, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
            connection.execute("CREATE TABLE IF NOT EXISTS public.ticks (at timestamptz)")
            connection.execute("INSERT INTO public.ticks VALUES (now())")
            wal.switch(connection)
            with connected(self.engine) as waiting:
                while not self._handed_over(segment):
                    one(waiting, "SELECT pg_sleep(0.05)")
        assert wal.writer_of(self.spool) == self.archive.system_identifier
        wal.drain(self.spool, self.archive)

    def _handed_over(self, segment: str) -> bool:
        with connected(self.engine) as connection:
            return bool(one(connection, f"SELECT coalesce(last_archived_wal, '') >= '{segment}' FROM pg_stat_archiver"))

    def to(self, moment: Moment) -> Recovery:
        return Recovery(moment, self.archive)


@pytest.fixture
def archived(server: Running, postgres: PostgresBackups, here: Room) -> Archived:
    return Archived(server, postgres, here)


def test_a_dropped_table_comes_back_as_it_was_at_the_chosen_second(
    postgres: PostgresBackups, here: Room, archived: Archived
) -> None:
    with connected(postgres) as live:
        live.execute("CREATE TABLE public.treasure AS SELECT i AS id FROM generate_series(1, 2000) i")
        full = taken(here, postgres, Kind.PHYSICAL_FULL)
        live.execute("INSERT INTO public.treasure SELECT i FROM generate_series(2001, 2500) i")
        before: datetime = one(live, "SELECT clock_timestamp()")
        mark = wal.mark(live, "before-9.9.9")
        live.execute("DROP TABLE public.treasure")
    archived.up_to_now()
    for moment in (AtTime(before), AtPoint(mark.name)):
        with postgres.scratch(archived.to(moment)) as restoration:
            restoration.restore(chain_of(here, full))
            with restoration.access.connect({}) as copy:
                assert one(copy, "SELECT count(*) FROM public.treasure") == 2500
    with postgres.scratch(archived.to(Latest())) as restoration:
        restoration.restore(chain_of(here, full))
        with restoration.access.connect({}) as copy:
            assert one(copy, "SELECT to_regclass('public.treasure')") is None
            assert one(copy, "SELECT count(*) FROM public.ticks") == 1
    with postgres.new_database("then", archived.to(BeforeTime(before))) as target:
        target.restore(chain_of(here, full))
        with connected(postgres, "then") as copy:
            assert one(copy, "SELECT count(*) FROM public.treasure") == 2500
    with connected(postgres, "postgres") as connection:
        connection.execute('DROP DATABASE "then"')


def test_a_moment_that_the_archive_does_not_reach_is_refused(
    postgres: PostgresBackups, here: Room, archived: Archived
) -> None:
    full = taken(here, postgres, Kind.PHYSICAL_FULL)
    archived.up_to_now()
    moment = AtTime(datetime(2100, 1, 1, tzinfo=UTC))
    with pytest.raises(TargetNotReached, match="ends before it"), postgres.scratch(archived.to(moment)) as restoration:
        restoration.restore(chain_of(here, full))


def test_a_drain_that_was_killed_is_repeated_and_a_foreign_segment_is_refused(
    archived: Archived, tmp_path: Path
) -> None:
    archived.up_to_now()
    spool = tmp_path / "spool"
    spool.mkdir()
    segment = archived.archive.segments()[-1].segment
    content = b"".join(archived.archive.read(segment) or ())
    (spool / f"{segment}.new").write_bytes(b"half")
    (spool / segment).write_bytes(content)  # stored already, not removed yet
    assert wal.drain(spool, archived.archive) == wal.Drained(1, len(content))
    assert wal.waiting(spool) == ()
    (spool / segment).write_bytes(content[:-1] + b"x")
    with pytest.raises(ArchiveConflict, match=segment):
        wal.drain(spool, archived.archive)
    assert [path.name for path in wal.waiting(spool)] == [segment]
    assert b"".join(archived.archive.read(segment) or ()) == content


def test_the_server_keeps_its_log_while_the_spool_takes_nothing(
    server: Running, postgres: PostgresBackups, archived: Archived
) -> None:
    os.rename(archived.spool, aside := archived.spool.with_suffix(".aside"))  # noqa: PTH104
    try:
        with connected(postgres) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS public.kept (a int); INSERT INTO public.kept VALUES (1)")
            wal.switch(connection)
            while not (found := wal.status(connection)).failing:
                one(connection, "SELECT pg_sleep(0.05)")
            assert found.waiting > 0
    finally:
        os.rename(aside, archived.spool)  # noqa: PTH104
    archived.up_to_now()
    with connected(postgres) as connection:
        assert wal.status(connection).failing == ""
    assert wal.waiting(archived.spool) == ()


def test_many_read_one_stream_only_once(postgres: PostgresBackups) -> None:
    """As many readers as there are lanes, all of them in one process."""
    with postgres.snapshot(Kind.PHYSICAL_FULL) as snapshot:
        pieces = snapshot.pieces()
        with ThreadPoolExecutor(len(pieces)) as pool:
            sizes = list(pool.map(lambda piece: sum(map(len, piece.read())), pieces))
        assert all(sizes)
        assert snapshot.facts().position["end_lsn"]
