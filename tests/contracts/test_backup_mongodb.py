"""Backups over MongoDB's protocol on real servers: the promises of the port, and what is MongoDB's own."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import Binary, Int64, ObjectId, Regex, Timestamp
from pymongo.errors import DuplicateKeyError

from dr_platform.backups.mongodb import DESCRIPTION, MongoBackups, count, parted
from dr_platform.backups.mongodb_reading import Description, Range, boundaries, describe, documents, ranges
from dr_platform.backups.port import Facts, Kind, StoredBackup
from dr_platform.backups.source import RestoreFailed, Source, TargetRefused
from dr_platform.backups.spool import SpooledPiece, spool
from dr_platform.catalog import Engine
from dr_platform.databases.access import read_login
from dr_platform.databases.mongodb import MongoDatabase
from tests.contracts.backup_engine import BackupEngineContract
from tests.contracts.embedded_servers import Running, running

pytestmark = pytest.mark.contract

EVERY_TYPE: dict[str, Any] = {
    "z": 1,
    "long": Int64(2**60),
    "nested": {"deep": {"er": [1, "two", {"three": None}]}},
    "binary": Binary(b"\x00\xff" * 100),
    "uuid": Binary.from_uuid(uuid.UUID(int=5)),
    "oid": ObjectId("0123456789abcdef01234567"),
    "at": dt.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=dt.UTC),
    "pattern": Regex("^a", "i"),
    "stamp": Timestamp(5, 6),
    "double": 1.5,
    "null": None,
    "true": True,
    "text": "ü\x00x",
    "empty": {},
    "none": [],
    "a": "fields are not in the order of their names",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(Engine.MONGODB, "mongodb") as started:
        yield started


@pytest.fixture
def live(server: Running) -> Iterator[MongoDatabase]:
    """The live database, made anew with documents of every type that the server keeps."""
    database = MongoDatabase(server.database, server.endpoint, read_login("mongodb", "admin", server.secrets))
    database.client.drop_database(server.endpoint.database)
    plans = database.schema["plans"]
    plans.insert_many(
        [{"_id": "all", **EVERY_TYPE}, {"_id": 7}, {"_id": ObjectId()}, {"_id": "large", "x": "y" * 2**20}]
    )
    database.schema["notes"].insert_many([{"_id": f"n{n:04d}", "n": n, "by": n % 7} for n in range(1200)])
    database.schema["notes"].create_index([("by", 1), ("n", -1)], name="by_n")
    database.schema["notes"].create_index("n", name="once", unique=True)
    database.schema.create_collection("empty collection/ü")
    database.schema.create_collection("ring", capped=True, size=2**16, max=10)
    database.schema["ring"].insert_one({"_id": 1})
    database.schema["drp_schema_lock"].insert_one({"_id": "schema", "owner": "somebody"})
    yield database
    database.close()


@pytest.fixture
def engine(server: Running, live: MongoDatabase, tmp_path: Path) -> MongoBackups:
    source = Source(server.database, server.endpoint, read_login("mongodb", "admin", server.secrets))
    return MongoBackups(source, tmp_path / "work")


def stored(engine: MongoBackups, folder: Path) -> StoredBackup:
    """A backup whose pieces are plain files."""
    folder.mkdir()
    with engine.snapshot(Kind.BSON) as snapshot:
        pieces = tuple(
            spool(piece.name, piece.facts, piece.read(), folder / str(number))
            for number, piece in enumerate(snapshot.pieces())
        )
        return StoredBackup("b", Kind.BSON, snapshot.facts(), pieces)


class TestMongoBackups(BackupEngineContract):
    @pytest.fixture
    def engine(self, server: Running, live: MongoDatabase, tmp_path: Path) -> MongoBackups:
        source = Source(server.database, server.endpoint, read_login("mongodb", "admin", server.secrets))
        return MongoBackups(source, tmp_path / "work")

    def _live(self, engine: MongoBackups) -> MongoDatabase:
        return MongoDatabase(engine.source.database, engine.source.endpoint, engine.source.login)

    def add_row(self, engine: Any) -> None:
        database = self._live(engine)
        database.schema["plans"].insert_one({})
        database.close()

    def live_name(self, engine: Any) -> str:
        return engine.source.endpoint.database

    def remove_database(self, engine: Any, name: str) -> None:
        database = self._live(engine)
        database.client.drop_database(name)
        database.close()


def test_restored_documents_are_the_same_byte_for_byte(
    engine: MongoBackups, live: MongoDatabase, tmp_path: Path
) -> None:
    backup = stored(engine, tmp_path / "kept")
    with engine.new_database("beside") as restoration:
        restoration.restore((backup,))
        beside = MongoDatabase(
            engine.source.database, replace(engine.source.endpoint, database="beside"), engine.source.login
        )
        for name in describe(live).stores:
            found = set(documents(beside, name, Range()))
            assert found == set(documents(live, name, Range())), name
        beside.close()
    live.client.drop_database("beside")


def test_indexes_options_and_accounts_are_in_the_backup(
    engine: MongoBackups, live: MongoDatabase, tmp_path: Path
) -> None:
    backup = stored(engine, tmp_path / "kept")
    kept = Description.read(b"".join(next(p for p in backup.pieces if p.name == DESCRIPTION).read()))
    assert [index["name"] for index in kept.indexes["notes"]] == ["by_n", "once"]
    assert next(c["options"] for c in kept.collections if c["name"] == "ring")["capped"] is True
    assert {user["user"] for user in kept.users} == {"drp_admin", "drp_application"}
    assert backup.facts.position["accounts"] == "2 users, 2 with hashed credentials; 0 roles"
    with engine.scratch() as restoration:
        restoration.restore((backup,))
        assert restoration.facts().schema_fingerprint == describe(live).fingerprint == backup.facts.schema_fingerprint
        assert {probe.name: probe.passed for probe in restoration.probes()} == {
            "unique_indexes": True,
            "expiring_indexes": True,
            "validators": True,
        }
        assert restoration.facts().tables == backup.facts.tables  # probes leave nothing behind


def test_a_held_lock_is_not_restored(engine: MongoBackups, tmp_path: Path) -> None:
    backup = stored(engine, tmp_path / "kept")
    assert "drp_schema_lock" not in {table.name for table in backup.facts.tables}


def test_a_large_collection_is_cut_and_every_document_is_in_one_part(
    engine: MongoBackups, live: MongoDatabase, tmp_path: Path
) -> None:
    live.schema["notes"].insert_many(
        [{"_id": ObjectId(), "n": n} for n in range(2000, 2400)] + [{"_id": None, "n": -1}]
    )
    small = replace(engine, range_bytes=20_000)
    backup = stored(small, tmp_path / "kept")
    parts = [piece for piece in backup.pieces if piece.facts.get("collection") == "notes"]
    assert len(parts) > 3
    found = [document for piece in parts for document in parted(piece.read())]
    assert sorted(found) == sorted(documents(live, "notes", Range()))
    assert next(t for t in backup.facts.tables if t.name == "notes").rows == len(found) == 1601
    with engine.scratch() as restoration:
        restoration.restore((backup,))
        assert restoration.facts().tables == backup.facts.tables


def test_boundaries_rise_and_end(live: MongoDatabase) -> None:
    assert list(boundaries(live, "notes", 500)) == ["n0500", "n1000"]
    assert list(boundaries(live, "empty collection/ü", 500)) == []
    found = [sum(1 for _ in documents(live, "notes", part)) for part in ranges(("n0500", "n1000"))]
    assert found == [500, 500, 200]


def test_fingerprints_do_not_depend_on_order_and_see_every_change(live: MongoDatabase) -> None:
    there = list(live.schema["notes"].find({}).sort("n", -1))
    live.schema["copy"].insert_many(there)
    assert count(live, "copy") == count(live, "notes")
    live.schema["copy"].update_one({"_id": "n0001"}, {"$set": {"by": 99}})
    assert count(live, "copy").rows == count(live, "notes").rows
    assert count(live, "copy").fingerprint != count(live, "notes").fingerprint


def test_a_stream_that_ends_inside_a_document_is_refused(engine: MongoBackups, tmp_path: Path) -> None:
    backup = stored(engine, tmp_path / "kept")
    cut = next(p for p in backup.pieces if p.facts.get("collection") == "notes")
    assert isinstance(cut, SpooledPiece)
    cut.path.write_bytes(cut.path.read_bytes()[:-1])
    with pytest.raises(RestoreFailed, match="middle of a document"), engine.scratch() as restoration:
        restoration.restore((backup,))


def test_an_altered_bit_in_a_value_is_seen_by_the_fingerprint(engine: MongoBackups, tmp_path: Path) -> None:
    backup = stored(engine, tmp_path / "kept")
    piece = next(p for p in backup.pieces if p.facts.get("collection") == "plans")
    assert isinstance(piece, SpooledPiece)
    content = piece.path.read_bytes()
    piece.path.write_bytes(content.replace(b"yyyy", b"yyxy", 1))
    with engine.scratch() as restoration:
        restoration.restore((backup,))
        found = {table.name for table in set(restoration.facts().tables) - set(backup.facts.tables)}
    assert found == {"plans"}


def test_the_restored_unique_index_refuses_a_second_document(
    engine: MongoBackups, live: MongoDatabase, tmp_path: Path
) -> None:
    backup = stored(engine, tmp_path / "kept")
    with engine.new_database("beside") as restoration:
        restoration.restore((backup,))
        with pytest.raises(DuplicateKeyError):
            live.client["beside"]["notes"].insert_one({"n": 5})
    live.client.drop_database("beside")


def test_a_missing_unique_index_fails_its_probe(engine: MongoBackups, live: MongoDatabase, tmp_path: Path) -> None:
    backup = stored(engine, tmp_path / "kept")
    with engine.new_database("beside") as restoration:
        restoration.restore((backup,))
        live.client["beside"].command({"dropIndexes": "notes", "index": "once"})
        probes = {probe.name: probe.passed for probe in restoration.probes()}
        assert probes["unique_indexes"] is False
        assert restoration.facts().schema_fingerprint != backup.facts.schema_fingerprint
    live.client.drop_database("beside")


def test_what_a_server_without_validators_cannot_try_is_said(engine: MongoBackups, tmp_path: Path) -> None:
    """A backup of a real MongoDB that has a validator and an expiring index, proved on FerretDB."""
    options = {"validator": {"$jsonSchema": {"required": ["a"]}}, "validationLevel": "strict"}
    index = {"name": "gone", "key": {"at": 1}, "expireAfterSeconds": 60}
    partial = {"name": "some", "key": {"at": 1}, "partialFilterExpression": {"a": 1}, "unique": True}
    description = Description(
        ({"name": "c", "type": "collection", "options": options},), {"c": (index, partial)}, (), ()
    )
    document = bson.encode({"_id": 1, "a": 1})
    pieces = (
        spool(DESCRIPTION, {}, (description.written(),), tmp_path / "d"),
        spool("collections/c/0000", {"collection": "c"}, (document,), tmp_path / "c"),
    )
    facts = Facts("MongoDB", "7.0", "x", "", description.fingerprint, (), "")
    with engine.scratch() as restoration:
        restoration.restore((StoredBackup("b", Kind.BSON, facts, pieces),))
        probes = {probe.name: probe.passed for probe in restoration.probes()}
    assert probes == {"unique_indexes": True, "expiring_indexes": None, "validators": None}


@pytest.mark.parametrize("name", ["therapy", "admin", "Upper", "a-b", "", "x" * 49])
def test_only_a_new_name_is_taken_as_a_new_database(engine: MongoBackups, name: str) -> None:
    with pytest.raises(TargetRefused), engine.new_database(name):
        pytest.fail("it was taken")


def test_working_folders_are_gone_afterwards(engine: MongoBackups, tmp_path: Path) -> None:
    backup = stored(engine, tmp_path / "kept")
    with engine.scratch() as restoration:
        restoration.restore((backup,))
    assert list(engine.base.iterdir()) == []
