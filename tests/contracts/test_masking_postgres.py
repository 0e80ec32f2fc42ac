"""Masking on a real PostgreSQL server: the same values as in Python, whole references, nothing left."""

# ruff: noqa: E501 - statements are read as a whole

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from dr_platform.catalog import Engine
from dr_platform.databases.access import Login
from dr_platform.databases.port import Endpoint
from dr_platform.databases.schema import read_steps
from dr_platform.masking import postgresql as pg
from dr_platform.masking.canaries import Canaries, search
from dr_platform.masking.classification import Classification, Column, Holds, Table, unclassified
from dr_platform.masking.people import Roster, RosterFile
from dr_platform.masking.port import Access, Masked, NotMaskable, Run, SameDatabase, TargetExists
from dr_platform.masking.postgresql_indexes import take_off
from dr_platform.masking.postgresql_run import PostgresMasking
from dr_platform.masking.recipe import Profile, Recipe
from dr_platform.masking.seals import KeyRing
from dr_platform.masking.sql import Expressions
from dr_platform.masking.values import Moment, masked_value, shift_of
from dr_platform.reference_service.cipher import make_key
from tests import masking_data
from tests.embedded_programs import a_database
from tests.postgres_server import PostgresServer, running_postgres

pytestmark = pytest.mark.contract

TODAY = date(2026, 11, 26)
KEY, OTHER_KEY = b"k" * 32, b"o" * 32
CANARIES = Canaries.made_from(b"entropy of a test")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


def access(server: PostgresServer, database: str) -> Access:
    endpoint = Endpoint(str(server.folder), 5432, database)
    return Access(a_database(Engine.POSTGRESQL, "postgres"), endpoint, Login("tester", ""))


def name_of(url: str) -> str:
    return url.split("@/")[1].split("?", maxsplit=1)[0]


@pytest.fixture(scope="module")
def source(server: PostgresServer) -> Access:
    url = server.new_database()
    with psycopg.connect(url) as connection:
        connection.execute(masking_data.SCHEMA)
    masking_data.fill(url, patients=400, messages=1_500)
    return access(server, name_of(url))


@pytest.fixture(scope="module")
def rings() -> tuple[KeyRing, KeyRing]:
    return KeyRing({1: make_key()}), KeyRing({1: make_key()})


def masking(
    source: Access, target: Access, folder: Path, rings, known: Classification | None = None
) -> PostgresMasking:
    steps = read_steps(masking_data.steps_folder(folder / "migrations"))
    return PostgresMasking(source, target, known or masking_data.classification(), steps, *rings)


def run(engine: PostgresMasking, folder: Path, rings, key: bytes, profile: Profile) -> tuple[Masked, ...]:
    folder.mkdir(exist_ok=True)
    file = RosterFile.new(folder)
    with contextlib.closing(Roster(file)) as roster:
        engine.fill(roster)
    engine.make_target()
    return engine.mask(Run(Recipe(profile, key, TODAY), file, *rings))


def ended(engine: PostgresMasking) -> None:
    engine.close()
    engine.discard()


def rows(access: Access, query: str) -> list[tuple]:
    with pg.connect(access) as connection:
        return connection.execute(query.encode()).fetchall()


@pytest.fixture(scope="module")
def done(
    server: PostgresServer, source: Access, rings, tmp_path_factory
) -> Iterator[tuple[PostgresMasking, tuple[Masked, ...], Access]]:
    folder = tmp_path_factory.mktemp("expert")
    target = access(server, "masked_expert")
    engine = masking(source, target, folder, rings)
    assert engine.plant(CANARIES) >= 2 * len(CANARIES.people)
    with contextlib.closing(engine):
        masked = run(engine, folder, rings, KEY, Profile.EXPERT_DETERMINATION)
    yield engine, masked, target
    ended(engine)


def test_every_gate_passes(done) -> None:
    engine, masked, _ = done
    with contextlib.closing(engine):
        gates = engine.gates(masked)
    assert {gate.name: gate.detail for gate in gates if gate.passed is not True} == {}
    assert len(gates) >= 8


def test_no_canary_is_found_in_the_target_and_all_are_found_in_the_source(
    done, source: Access, rings, tmp_path: Path
) -> None:
    engine, _, target = done
    looked_at, sightings = search(engine.stored_texts(), CANARIES)
    assert looked_at > 5_000
    assert sightings == ()
    # The search itself is proved by what it finds before masking.
    backwards = masking(target, source, tmp_path, rings)
    _, before = search(backwards.stored_texts(), CANARIES)
    places = {sighting.place for sighting in before}
    assert {"clinic.messages.body", "clinic.patients.contact", "clinic.patients.name", "clinic.patients.ssn"} <= places


def test_intervals_of_one_person_are_kept_and_every_date_moves(done, source: Access) -> None:
    _, _, target = done
    gaps = (
        "SELECT array_agg(m.sent_at - p.joined_at ORDER BY m.sent_at) FROM clinic.messages m"
        " JOIN clinic.patients p ON p.id = m.patient_id GROUP BY p.id"
    )
    assert sorted(map(str, rows(source, gaps))) == sorted(map(str, rows(target, gaps)))
    moments = "SELECT joined_at FROM clinic.patients"
    assert set(rows(source, moments)) & set(rows(target, moments)) == set()


def test_the_same_key_gives_the_same_rows_and_another_key_shares_no_identifier(
    done, server: PostgresServer, source: Access, rings, tmp_path: Path
) -> None:
    _, _, first = done
    everything = (
        "SELECT id, name, email, phone, mrn, address, joined_at, contact::text FROM clinic.patients ORDER BY id"
    )
    bodies = "SELECT id, patient_id, sent_at, body FROM clinic.messages ORDER BY id"
    for key, same in ((KEY, True), (OTHER_KEY, False)):
        target = access(server, f"masked_again_{same}".lower())
        engine = masking(source, target, tmp_path, rings)
        run(engine, tmp_path / str(same), rings, key, Profile.EXPERT_DETERMINATION)
        assert (rows(first, everything) == rows(target, everything)) is same
        assert (rows(first, bodies) == rows(target, bodies)) is same
        if not same:
            for column in ("id", "email", "mrn"):
                query = f"SELECT {column} FROM clinic.patients"
                assert set(rows(first, query)) & set(rows(target, query)) == set()
        ended(engine)


def test_safe_harbor_leaves_years_and_zip_prefixes_alone(
    server: PostgresServer, source: Access, rings, tmp_path: Path
) -> None:
    target = access(server, "masked_safe")
    engine = masking(source, target, tmp_path, rings)
    masked = run(engine, tmp_path, rings, KEY, Profile.SAFE_HARBOR)
    days = "SELECT DISTINCT to_char(d, 'MM-DD HH24:MI:SS') FROM (SELECT joined_at FROM clinic.patients UNION SELECT sent_at FROM clinic.messages) x(d)"
    assert rows(target, days) == [("01-01 00:00:00",)]
    ((oldest,),) = rows(target, "SELECT min(born) FROM clinic.patients")
    assert oldest is None or oldest.year >= TODAY.year - 91
    assert {z for (z,) in rows(target, "SELECT DISTINCT zip FROM clinic.patients")} <= {
        "02100",
        "60600",
        "94100",
        "00000",
        None,
    }
    assert all(gate.passed for gate in engine.gates(masked))
    ended(engine)
    assert ("masked_safe",) not in rows(source, "SELECT datname FROM pg_database")


SAMPLES = {
    Holds.NAME: ["Zoë Ibarra", " zoë ibarra "],
    Holds.EMAIL: ["A@B.example", "a@b.example"],
    Holds.PHONE: ["617-555-2368", "+16175552368", "6175552368", "(617) 555 2368"],
    Holds.FAX: ["617-555-2368"],
    Holds.MRN: ["MRN 123"],
    Holds.HEALTH_PLAN: ["1EG4-TE5-MK73"],
    Holds.ACCOUNT: ["4000123"],
    Holds.LICENSE: ["S123-456"],
    Holds.VEHICLE: ["1HGCM82633A004352"],
    Holds.DEVICE: ["SN 44"],
    Holds.OTHER_ID: ["case 7"],
    Holds.URL: ["https://x.example/a"],
    Holds.IP: ["203.0.113.7"],
    Holds.ADDRESS: ["1 Elm Street"],
    Holds.PLACE: ["Rockford"],
    Holds.ZIP: ["02139", "03601", "0x1", "60614-1234"],
    Holds.SSN: ["123-45-6789"],
    Holds.KEY: [
        "0B0E7A7E-9D5F-4B0C-8C34-2C54E4C3D2A1",
        "conversation:0b0e7a7e-9d5f-4b0c-8c34-2c54e4c3d2a1",
        "anything else",
    ],
}


@pytest.mark.parametrize("profile", list(Profile))
def test_the_server_gives_the_same_values_as_python(server: PostgresServer, profile: Profile) -> None:
    recipe = Recipe(profile, KEY, TODAY)
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("SET timezone = 'UTC'")
        connection.execute("CREATE TEMP TABLE sample (person text, v text, d date, ts timestamptz, u uuid, n bigint)")
        connection.execute("CREATE TEMP TABLE keyed (person uuid, d date, ts timestamptz)")
        for holds, values in SAMPLES.items():
            for value in values:
                column = Column(holds=holds, domain="account" if holds is Holds.KEY else "")
                assert _by_server(connection, recipe, column, "v", value) == masked_value(
                    recipe, column, value, Moment()
                )
        person = "0b0e7a7e-9d5f-4b0c-8c34-2c54e4c3d2a1"
        for day in (date(1931, 5, 6), date(1936, 12, 31), date(1999, 2, 28), date(2024, 2, 29)):
            for holds in (Holds.DATE, Holds.BIRTH_DATE):
                for table, whose in (("sample", person), ("keyed", person), ("sample", ""), ("keyed", None)):
                    column, moment = Column(holds=holds), Moment(shift_of(recipe, whose or ""))
                    at = datetime(day.year, day.month, day.day, 23, 59, 58, 7, tzinfo=UTC)
                    for name, value in (("d", day), ("ts", at)):
                        if holds is Holds.DATE or name == "d":
                            assert _by_server(connection, recipe, column, name, value, whose, table) == masked_value(
                                recipe, column, value, moment
                            )
        for name, value in (("u", UUID(person)), ("n", 42)):
            column = Column(holds=Holds.KEY, domain="account")
            assert _by_server(connection, recipe, column, name, value) == masked_value(recipe, column, value, Moment())


def _by_server(
    connection: psycopg.Connection,
    recipe: Recipe,
    column: Column,
    name: str,
    value,
    person: str | None = "",
    table: str = "sample",
):
    types = {"person": "text", "v": "text", "d": "date", "ts": "timestamp with time zone", "u": "uuid", "n": "bigint"}
    types |= {"person": "uuid"} if table == "keyed" else {}
    plain = Column(holds=Holds.SAFE)
    expressions = Expressions(Table(person="person", columns={"person": plain, name: column}), types, recipe)
    masked = expressions.of(name)
    connection.execute(f"TRUNCATE {table}")
    connection.execute(f"INSERT INTO {table} (person, {name}) VALUES (%s, %s)", (person, value))
    for setting, pad in expressions.settings().items():
        connection.execute("SELECT set_config(%s, %s, false)", (setting, pad))
    query = f"WITH {expressions.keys()} SELECT {masked} FROM k, {table} t{expressions.lateral()}"
    return connection.execute(query.encode()).fetchone()[0]


# Indexes and keys while rows are loaded


KEYED = """
CREATE SCHEMA "Odd one";
CREATE TABLE "Odd one".parent (
    id bigint PRIMARY KEY,
    code text COLLATE "C" CONSTRAINT "its code" UNIQUE NULLS NOT DISTINCT,
    later int UNIQUE DEFERRABLE INITIALLY DEFERRED,
    span int4range, EXCLUDE USING gist (span WITH &&)
);
CREATE TABLE "Odd one".child (
    n int, parent bigint REFERENCES "Odd one".parent ON DELETE CASCADE,
    of text, note text,
    PRIMARY KEY (n, parent) INCLUDE (of),
    CONSTRAINT late FOREIGN KEY (of) REFERENCES "Odd one".parent (code) DEFERRABLE INITIALLY DEFERRED NOT VALID
);
CREATE INDEX lower_note ON "Odd one".child (lower(note) text_pattern_ops) WITH (fillfactor = 70) WHERE n > 0;
CREATE UNIQUE INDEX told ON "Odd one".child (note);
COMMENT ON INDEX "Odd one".told IS 'something about it';
CREATE TABLE "Odd one".grouped (id int PRIMARY KEY, name text);
CREATE VIEW "Odd one".rests_on_a_key AS SELECT id, name FROM "Odd one".grouped GROUP BY id;
CREATE TABLE "Odd one".outside (parent bigint REFERENCES "Odd one".parent);
CREATE TABLE "Odd one".parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE "Odd one".part PARTITION OF "Odd one".parts FOR VALUES FROM (0) TO (9);
"""
STANDING = """
SELECT format('%s %s', conrelid::regclass, conname), pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = '"Odd one"'::regnamespace
UNION ALL SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) || indisvalid::text || indisprimary::text
FROM pg_index JOIN pg_class c ON c.oid = indrelid WHERE relnamespace = '"Odd one"'::regnamespace
"""


@pytest.fixture
def keyed(server: PostgresServer) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server.new_database(), autocommit=True) as connection:
        connection.execute(KEYED)
        yield connection


def test_what_is_taken_off_for_loading_comes_back_as_it_was(keyed: psycopg.Connection) -> None:
    before = set(keyed.execute(STANDING).fetchall())
    taken = take_off(keyed, [f"Odd one.{name}" for name in ("parent", "child", "grouped", "parts", "part")])
    gone = {name for name, _ in before} - {name for name, _ in keyed.execute(STANDING).fetchall()}
    assert {name.split(".")[1].split()[-1].strip('"') for name in gone} == {
        *("parent_pkey", "code", "parent_later_key", "child_pkey", "lower_note"),
        *("child_parent_fkey", "late", "outside_parent_fkey"),
    }
    for statement in (*taken.indexes, *taken.keys, *taken.foreign, *taken.checks.values()):
        keyed.execute(statement.encode())
    assert set(keyed.execute(STANDING).fetchall()) == before


def test_a_source_that_is_written_to_meanwhile_is_compared_as_it_was(
    server: PostgresServer, rings, tmp_path: Path
) -> None:
    url = server.new_database()
    with psycopg.connect(url) as connection:
        connection.execute(masking_data.SCHEMA)
    masking_data.fill(url, patients=300, messages=60)
    engine = masking(access(server, name_of(url)), access(server, "of_a_moment"), tmp_path, rings)
    try:
        masked = run(engine, tmp_path / "run", rings, KEY, Profile.EXPERT_DETERMINATION)
        with psycopg.connect(url) as connection:
            connection.execute("DELETE FROM clinic.messages")
            connection.execute("UPDATE clinic.patients SET sex = NULL")
        assert {gate.name: gate.detail for gate in engine.gates(masked) if gate.passed is not True} == {}
    finally:
        ended(engine)


def test_rows_without_their_parent_are_told_by_the_gate_of_foreign_keys(
    server: PostgresServer, rings, tmp_path: Path
) -> None:
    url = server.new_database()
    with psycopg.connect(url) as connection:
        connection.execute(masking_data.SCHEMA)
    masking_data.fill(url, patients=20, messages=60)
    with psycopg.connect(url) as connection:
        connection.execute("SET session_replication_role = replica")  # as a damaged database has them
        connection.execute("DELETE FROM clinic.patients WHERE id = (SELECT patient_id FROM clinic.messages LIMIT 1)")
    engine = masking(access(server, name_of(url)), access(server, "orphaned"), tmp_path, rings)
    try:
        gates = engine.gates(run(engine, tmp_path / "run", rings, KEY, Profile.SAFE_HARBOR))
        (gate,) = (gate for gate in gates if gate.name.endswith("foreign keys"))
        assert gate.passed is False
        assert "messages_patient_id_fkey" in gate.detail
    finally:
        ended(engine)


# Refusals: before anything is written


def test_a_column_without_a_class_is_named_and_so_is_a_path_of_a_document(
    server: PostgresServer, source: Access, rings, tmp_path: Path
) -> None:
    with pg.connect(source) as connection:
        connection.execute("ALTER TABLE clinic.patients ADD nickname text")
        connection.execute(
            "UPDATE clinic.patients SET contact = contact || '{\"new\": {\"field\": [1]}}' WHERE sex = 'male'"
        )
    try:
        engine = masking(source, access(server, "never"), tmp_path, rings)
        missing = unclassified("postgres", engine.schema(), masking_data.classification())
        assert missing == (
            "postgres: clinic.patients.contact: new.field[]",
            "postgres: clinic.patients.nickname",
        )
    finally:
        with pg.connect(source) as connection:
            connection.execute("ALTER TABLE clinic.patients DROP nickname")
            connection.execute("UPDATE clinic.patients SET contact = contact - 'new'")


def test_classes_that_break_a_unique_index_or_a_not_null_are_refused_together(
    source: Access, server, rings, tmp_path: Path
) -> None:
    tables = {**masking_data.CLASSES["tables"]}
    patients = {
        **tables["clinic.patients"],
        "columns": {**tables["clinic.patients"]["columns"], "email": "phone", "mrn": "ssn"},
    }
    known = masking_data.classification(tables={**tables, "clinic.patients": patients})
    engine = masking(source, access(server, "never"), tmp_path, rings, known)
    with pytest.raises(NotMaskable) as refused:
        engine.refuse_problems()
    assert "email would not stay unique" in refused.value.what
    assert "mrn: ssn is removed, but the column is NOT NULL" in refused.value.what


def test_the_source_is_never_the_target_and_an_existing_database_stays(
    source: Access, server, rings, tmp_path: Path
) -> None:
    engine = masking(source, source, tmp_path, rings)
    with pytest.raises(SameDatabase):
        engine.refuse_problems()
    with pytest.raises(SameDatabase):
        engine.make_target()
    ended(engine)
    other = access(server, name_of(server.new_database()))
    engine = masking(source, other, tmp_path, rings)
    with pytest.raises(TargetExists):
        engine.make_target()
    ended(engine)
    assert rows(other, "SELECT 1") == [(1,)]


def test_gates_fail_on_a_copy_that_nobody_masked(server: PostgresServer, source: Access, rings, tmp_path: Path) -> None:
    with pg.connect(access(server, "postgres")) as connection:
        connection.execute(f"CREATE DATABASE unmasked TEMPLATE {source.endpoint.database}".encode())
    engine = masking(source, access(server, "unmasked"), tmp_path, rings)
    with pg.connect(access(server, "unmasked")) as copy:
        copy.execute("SET session_replication_role = replica")
        copy.execute("DELETE FROM clinic.patients WHERE sex = 'male'")
        copy.execute("UPDATE clinic.messages SET author = 'patient', body = left(body, 10)")
    masked = tuple(Masked(name, n, n) for name, n in (("clinic.patients", 400), ("clinic.messages", 1)))
    failed = {gate.name.removeprefix("postgres: ") for gate in engine.gates(masked) if gate.passed is False}
    assert failed >= {
        "row counts",
        "foreign keys",
        "no value of an identifier stays",
        "null ratios",
        "category frequencies",
        "text lengths",
        "expectations",
    } - {"null ratios"}
