"""The contract on Redis, and what is its own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dr_platform.catalog import Engine
from dr_platform.databases.lease import SchemaLocked
from dr_platform.databases.port import Endpoint
from dr_platform.databases.redis_ import HISTORY_KEY, LOCK_KEY, SHAPE_KEY, RedisDatabase
from dr_platform.databases.schema import read_steps
from tests.contracts.database import DatabaseContract, write_step
from tests.contracts.embedded_servers import Running

pytestmark = pytest.mark.contract


class TestRedis(DatabaseContract):
    engine = Engine.REDIS
    name = "redis"
    extension = ".redis"
    server_name = "Redis"
    copied = False
    shaped = "drp:config:shaped"

    def adding(self, thing: str) -> str:
        return f"# a thing\nSET {thing} 'is there'\n"

    def removing(self, thing: str) -> str:
        return f"DEL {thing}\n"

    def by_hand(self, db: Any, thing: str) -> None:
        db.client.set(thing, "something else")

    def forget_shapes(self, db: Any) -> None:
        db.client.delete(SHAPE_KEY)
        for version, record in db.client.hgetall(HISTORY_KEY).items():
            kept = {name: value for name, value in json.loads(record).items() if name != "fingerprint"}
            db.client.hset(HISTORY_KEY, version, json.dumps(kept))

    def has(self, db: Any, thing: str) -> bool:
        return bool(db.client.exists(thing))

    def refused(self) -> str:
        return "SET before 1\nSADD before a\n"

    def long(self) -> str:
        middle = "\n".join(f"SET middle:{number} {number}" for number in range(30_000))
        return f"SET first 1\n{middle}\nSET last 1\n"

    def fresh(self, server: Running, number: int) -> Endpoint:
        del number
        db = self.connect(server, server.endpoint)
        db.client.flushall()
        db.close()
        return server.endpoint

    def test_the_lock_of_a_living_runner_is_waited_for_and_not_taken(
        self, server: Running, endpoint: Endpoint, db: Any, tmp_path: Any
    ) -> None:
        db.client.set(LOCK_KEY, "somebody")
        write_step(tmp_path / "steps", "V1__step.redis", self.adding("step"))
        login, impatient = db._login, 0.5
        other = RedisDatabase(server.database, endpoint, login, wait_s=impatient)
        with pytest.raises(SchemaLocked):
            other.apply(read_steps(tmp_path / "steps")[0])
        other.close()
        assert not self.has(db, "step")
        assert db.client.get(LOCK_KEY) == "somebody"

    def test_an_open_default_user_is_found(self, db: Any) -> None:
        db.client.acl_setuser("default", enabled=True, nopass=True, categories=["+@all"], keys=["*"])
        try:
            found = {finding.name: finding.passed for finding in db.findings()}
        finally:
            db.client.acl_setuser("default", enabled=False, reset=True)
        assert found["anonymous_access_refused"] is False
        assert found["default_credentials_refused"] is False
        assert found["every_user_has_a_password"] is False

    def test_an_application_that_may_empty_the_server_is_found_and_nothing_is_emptied(
        self, server: Running, db: Any
    ) -> None:
        login = server.secrets.read("databases/redis/application")
        assert login is not None
        db.client.set("kept", 1)
        db.client.execute_command("ACL", "SETUSER", login["username"], "+flushall")
        try:
            found = {finding.name: finding.passed for finding in db.findings()}
        finally:
            db.client.execute_command("ACL", "SETUSER", login["username"], "-flushall")
        assert found["application_cannot_administer"] is False
        assert db.client.get("kept") == "1"
