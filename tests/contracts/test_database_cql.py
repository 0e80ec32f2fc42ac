"""The contract on Cassandra, which speaks ScyllaDB's language, and what is its own."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest
from cassandra import InvalidRequest
from cassandra.cluster import NoHostAvailable

from dr_platform.catalog import Engine
from dr_platform.databases.cql import HISTORY, _CqlLease
from dr_platform.databases.port import DatabaseMissing, Endpoint
from dr_platform.databases.schema import migrate, read_steps
from tests.contracts.database import DatabaseContract, write_step
from tests.contracts.embedded_servers import Running
from tests.contracts.runtime import until

pytestmark = pytest.mark.contract


class TestCassandra(DatabaseContract):
    engine = Engine.SCYLLADB
    name = "scylladb"
    extension = ".cql"
    server_name = "Apache Cassandra"

    def adding(self, thing: str) -> str:
        return f"CREATE TABLE IF NOT EXISTS {thing} (id int PRIMARY KEY); -- a thing\n"

    def removing(self, thing: str) -> str:
        return f"DROP TABLE IF EXISTS {thing};\n"

    def by_hand(self, db: Any, thing: str) -> None:
        db.session.execute(f"ALTER TABLE {thing} ADD by_hand map<text, int>")

    def forget_shapes(self, db: Any) -> None:
        for column in ("fingerprint", "shape", "undoing"):
            db.session.execute(f"ALTER TABLE {HISTORY} DROP {column}", timeout=60)

    def has(self, db: Any, thing: str) -> bool:
        try:
            db.session.execute(f"SELECT * FROM {thing} LIMIT 1")
        except (InvalidRequest, NoHostAvailable):  # the latter while the table is being made
            return False
        return True

    def refused(self) -> str:
        return f"{self.adding('before')}ALTER TABLE no_such_table ADD more int;\n"

    def long(self) -> str:
        middle = "".join(f"INSERT INTO first (id) VALUES ({number});\n" for number in range(3_000))
        return f"{self.adding('first')}{middle}{self.adding('last')}"

    def begun(self, db: Any) -> bool:
        return self.has(db, "first") and db.session.execute("SELECT id FROM first LIMIT 1").one() is not None

    def fresh(self, server: Running, number: int) -> Endpoint:
        endpoint = Endpoint(server.endpoint.host, server.endpoint.port, f"test_{number}")
        replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}"
        with contextlib.closing(self.connect(server, server.endpoint)) as db:
            db.session.execute(f"CREATE KEYSPACE IF NOT EXISTS {endpoint.database} WITH replication = {replication}")
        return endpoint

    def discard(self, server: Running, endpoint: Endpoint) -> None:
        with contextlib.closing(self.connect(server, server.endpoint)) as db:
            db.session.execute(f"DROP KEYSPACE {endpoint.database}", timeout=60)

    @classmethod
    def tune(cls, server: Running) -> None:
        """Wait until the account every Cassandra is born with is forgotten by its caches too."""
        with contextlib.closing(cls.connect(server, server.endpoint)) as db:
            until(lambda: {f.name: f.passed for f in db.findings()}["default_credentials_refused"] is True)

    def test_a_missing_keyspace_is_named(self, server: Running) -> None:
        with pytest.raises(DatabaseMissing, match="nowhere"):
            self.connect(server, Endpoint(server.endpoint.host, server.endpoint.port, "nowhere"))

    def test_closing_ends_the_threads_of_the_driver(self, server: Running) -> None:
        before = set(threading.enumerate())
        self.connect(server, server.endpoint).close()

        def ended() -> bool:
            started = set(threading.enumerate()) - before
            # One loop serves all clusters of the process and stays.
            return all(not thread.is_alive() or "event" in thread.name.lower() for thread in started)

        until(ended)

    def test_a_column_that_a_killed_runner_added_is_no_error(self, db: Any, tmp_path: Path) -> None:
        folder = tmp_path / "steps"
        write_step(folder, "V1__table.cql", self.adding("t"))
        migrate(db, read_steps(folder))
        db.session.execute("ALTER TABLE t ADD more text")
        write_step(folder, "V2__columns.cql", "ALTER TABLE t ADD more text;\nALTER TABLE t ADD another map<text, int>;")
        migrate(db, read_steps(folder))
        assert [step.version for step in db.applied()] == ["1", "2"]
        db.session.execute("SELECT more, another FROM t")

    def test_an_expired_lease_is_taken_over_and_its_old_holder_can_neither_renew_nor_end_it(self, db: Any) -> None:
        db._make_books()
        lease = _CqlLease(db._ask)
        assert lease.take("first", 1)
        assert not lease.take("second", 30)
        until(lambda: lease.take("second", 30))
        assert not lease.renew("first", 30)
        lease.give_up("first")
        assert lease.renew("second", 30)
        assert not lease.take("third", 30)

    def test_too_much_privilege_of_the_application_is_found(self, server: Running, db: Any, tmp_path: Path) -> None:
        login = server.secrets.read("databases/scylladb/application")
        assert login is not None
        write_step(tmp_path / "steps", "V1__table.cql", self.adding("t"))
        migrate(db, read_steps(tmp_path / "steps"))
        db.session.execute(f"GRANT ALTER ON KEYSPACE {db.endpoint.database} TO {login['username']}")

        def finding() -> bool | None:
            return {each.name: each.passed for each in db.findings()}["application_cannot_change_schema"]

        until(lambda: finding() is False)
