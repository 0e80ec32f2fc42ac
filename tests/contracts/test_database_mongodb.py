"""The contract on the embedded server that speaks MongoDB's protocol, and what is its own."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from pymongo.errors import DuplicateKeyError

from dr_platform.catalog import Engine
from dr_platform.databases.mongodb import HISTORY, LOCK, _MongoLease
from dr_platform.databases.port import Endpoint
from dr_platform.databases.schema import migrate, read_steps
from tests.contracts.database import CATALOG, DatabaseContract, write_step
from tests.contracts.embedded_servers import Running
from tests.contracts.runtime import until

pytestmark = pytest.mark.contract


class TestFerretDB(DatabaseContract):
    engine = Engine.MONGODB
    name = "mongodb"
    extension = ".json"
    server_name = "FerretDB"
    # It has no rights per user, and keeps passwords for SCRAM-SHA-1 too.
    known_failures = frozenset({"application_cannot_administer", "password_hashing"})

    def adding(self, thing: str) -> str:
        return json.dumps([{"create": thing}])

    def removing(self, thing: str) -> str:
        return json.dumps([{"drop": thing}])

    def is_there(self, server: Running, db: Any, endpoint: Endpoint) -> bool:
        del server  # it makes a database of whatever name is asked for
        return endpoint.database in db.client.list_database_names()

    def by_hand(self, db: Any, thing: str) -> None:
        db.schema[thing].create_index([("a", 1), ("b", -1)], name="by_hand")

    def forget_shapes(self, db: Any) -> None:
        db.schema[HISTORY].update_many({}, {"$unset": {"shape": "", "fingerprint": ""}})

    def has(self, db: Any, thing: str) -> bool:
        return thing in db.schema.list_collection_names()

    def refused(self) -> str:
        return json.dumps([{"create": "before"}, {"create": "$refused"}])

    def long(self) -> str:
        middle = [{"create": f"middle{number}"} for number in range(400)]
        return json.dumps([{"create": "first"}, *middle, {"create": "last"}])

    def fresh(self, server: Running, number: int) -> Endpoint:
        return Endpoint(server.endpoint.host, server.endpoint.port, f"test_{number}")

    def discard(self, server: Running, endpoint: Endpoint) -> None:
        with contextlib.closing(self.connect(server, endpoint)) as db:
            db.client.drop_database(endpoint.database)

    def test_it_says_what_it_cannot_do(self, db: Any) -> None:
        info = db.server()
        assert "transactions" not in info.capabilities
        assert "vector_search" not in info.capabilities
        assert any("no validators" in reduced for reduced in info.reduced)
        assert any("no rights per user" in reduced for reduced in info.reduced)

    def test_unique_indexes_of_the_catalogs_schema_hold(self, db: Any) -> None:
        migrate(db, read_steps(CATALOG / self.name / "migrations"))
        plan = {"patient_id": "p1", "revision": 1, "body": b"\x00"}
        db.schema.care_plans.insert_one({"_id": "a", **plan})
        with pytest.raises(DuplicateKeyError):
            db.schema.care_plans.insert_one({"_id": "b", **plan})

    def test_what_it_cannot_do_is_left_out_of_a_step_and_the_rest_applies(self, db: Any, tmp_path: Any) -> None:
        commands = [
            {"create": "notes", "validator": {"$jsonSchema": {"required": ["a"]}}, "validationLevel": "strict"},
            {
                "createIndexes": "notes",
                "indexes": [
                    {"key": {"at": 1}, "name": "expires", "expireAfterSeconds": 60},
                    {"key": {"b": 1}, "name": "some", "unique": True, "partialFilterExpression": {"c": 1}},
                    {"key": {"text": "text"}, "name": "words"},
                ],
            },
            {"collMod": "notes", "validationLevel": "off"},
        ]
        write_step(tmp_path / "steps", "V1__notes.json", json.dumps(commands))
        migrate(db, read_steps(tmp_path / "steps"))
        assert set(db.schema.notes.index_information()) == {"_id_", "expires"}

    def test_an_expired_lease_is_taken_over_and_its_old_holder_can_neither_renew_nor_end_it(self, db: Any) -> None:
        lease = _MongoLease(db._answering)
        assert lease.take("first", 0.3)
        assert not lease.take("second", 30)
        until(lambda: lease.take("second", 30))
        assert not lease.renew("first", 30)
        lease.give_up("first")
        assert lease.renew("second", 30)
        assert db.schema[LOCK].find_one({"_id": "schema"})["owner"] == "second"
