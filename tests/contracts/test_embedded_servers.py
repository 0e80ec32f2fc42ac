"""What every embedded database server promises, asked of the real servers."""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dr_platform.catalog import Engine
from dr_platform.clock import SystemClock
from dr_platform.databases.embedded import embedded_server
from dr_platform.databases.embedded.accounts import Account
from dr_platform.databases.embedded.port import EmbeddedServer, ServerNotReady
from dr_platform.databases.port import Endpoint
from dr_platform.secrets.embedded import EmbeddedSecretStore
from dr_platform.state import StateDirectory
from tests.embedded_programs import (
    Running,
    a_database,
    free_port,
    listening_addresses,
    open_to_others,
    running,
    temporary_state,
)

pytestmark = pytest.mark.contract

READY_S = 90.0
SETTLES_S = 10.0
NOBODY = Account("", "")


class Refused(Exception):
    """The server did not let this account do this."""


@dataclass
class Site:
    """One server that runs, with its state."""

    server: EmbeddedServer
    state: StateDirectory
    secrets: EmbeddedSecretStore
    running: Running

    def account(self, role: str) -> Account:
        fields = self.secrets.read(f"databases/{self.server.name}/{role}")
        assert fields is not None
        return Account(**fields)

    def start_again(self) -> None:
        self.running = Running(self.server.program(), self.state)
        self.server.initialise(READY_S)


class EmbeddedServerContract:
    engine: ClassVar[Engine]
    defaults: ClassVar[tuple[Account, ...]]
    """Accounts that such a server is known to have where nobody took care."""

    def put(self, endpoint: Endpoint, account: Account, key: str, value: str) -> None:
        """Store a value as this account; ``Refused`` where the server does not let it."""
        raise NotImplementedError

    def get(self, endpoint: Endpoint, account: Account, key: str) -> str | None:
        raise NotImplementedError

    def make_table(self, endpoint: Endpoint, admin: Account) -> None:
        """What a migration would have made, where the engine needs it."""

    def settled(self, endpoint: Endpoint, admin: Account) -> bool:
        """Whether what was answered is out of the server's hands, where an answer alone does not promise it."""
        del endpoint, admin
        return True

    @pytest.fixture(scope="class")
    @classmethod
    def site(cls) -> Iterator[Site]:
        with temporary_state() as state:
            secrets = EmbeddedSecretStore(state.secrets)
            database = a_database(cls.engine)
            server = embedded_server(database, state, secrets, free_port() - database.port)
            server.acquire(print)
            server.prepare()
            with running(server.program(), state) as process:
                server.initialise(READY_S)
                site = Site(server, state, secrets, process)
                cls().make_table(server.endpoint(), site.account("admin"))
                try:
                    yield site
                finally:
                    site.running.stop()

    @pytest.mark.parametrize("role", ["admin", "application"])
    def test_the_stored_accounts_write_and_read(self, site: Site, role: str) -> None:
        self.put(site.server.endpoint(), site.account(role), role, "written")
        assert self.get(site.server.endpoint(), site.account(role), role) == "written"

    def test_nobody_gets_in_without_a_password(self, site: Site) -> None:
        with pytest.raises(Refused):
            self.put(site.server.endpoint(), NOBODY, "anonymous", "written")

    @pytest.mark.parametrize("role", ["admin", "application"])
    def test_a_wrong_password_is_refused(self, site: Site, role: str) -> None:
        with pytest.raises(Refused):
            self.put(site.server.endpoint(), replace(site.account(role), password="wrong"), "wrong", "written")

    def test_default_accounts_are_refused(self, site: Site) -> None:
        for account in self.defaults:
            with pytest.raises(Refused):
                self.put(site.server.endpoint(), account, "default", "written")

    def test_it_listens_on_loopback_only(self, site: Site) -> None:
        assert listening_addresses(site.running.pid) == {"127.0.0.1"}

    def test_its_files_are_for_its_user_alone(self, site: Site) -> None:
        assert open_to_others(site.state.data / site.server.name) == []

    def test_no_password_is_in_its_command_or_its_files(self, site: Site) -> None:
        program = site.server.program()
        files = [p for p in (site.state.data / site.server.name).rglob("*") if _is_configuration(p)]
        texts = [*program.argv, *program.environment.values(), *(p.read_text(errors="replace") for p in files)]
        texts += [Path(f"/proc/{site.running.pid}/cmdline").read_text(), site.running.output]
        for role in ("admin", "application"):
            assert not [text for text in texts if site.account(role).password in text]

    def test_a_second_preparation_changes_nothing(self, site: Site) -> None:
        accounts = site.account("admin"), site.account("application")
        before, program = _configuration(site), site.server.program()
        site.server.acquire(print)
        site.server.prepare()
        site.server.initialise(READY_S)
        assert (site.account("admin"), site.account("application")) == accounts
        assert (_configuration(site), site.server.program()) == (before, program)
        assert site.running.process.poll() is None

    def test_what_was_written_survives_its_sudden_end(self, site: Site) -> None:
        endpoint, application = site.server.endpoint(), site.account("application")
        self.put(endpoint, application, "before", "kept")
        give_up = SystemClock().monotonic() + SETTLES_S
        while not self.settled(endpoint, site.account("admin")):
            assert SystemClock().monotonic() < give_up
        site.running.kill()
        site.start_again()
        assert self.get(endpoint, application, "before") == "kept"

    def test_what_was_written_survives_a_stop_which_comes_in_time(self, site: Site) -> None:
        endpoint, application = site.server.endpoint(), site.account("application")
        self.put(endpoint, application, "before-stop", "kept")
        started = SystemClock().monotonic()
        site.running.stop()
        assert SystemClock().monotonic() - started < site.server.program().stop_s
        site.start_again()
        assert self.get(endpoint, application, "before-stop") == "kept"

    def test_a_server_that_does_not_run_is_reported_with_the_place_to_look(self) -> None:
        with temporary_state() as state:
            secrets = EmbeddedSecretStore(state.secrets)
            database = a_database(self.engine, "absent")
            server = embedded_server(database, state, secrets, free_port() - database.port)
            with pytest.raises(ServerNotReady, match="drp logs absent"):
                server.initialise(0.0)


def _is_configuration(path: Path) -> bool:
    return path.suffix in {".conf", ".acl", ".yaml", ".xml", ".json", ".pid", ".opts"} and path.is_file()


def _configuration(site: Site) -> Mapping[str, tuple[str, float]]:
    """Content and age of every file that preparation writes."""
    found = [p for p in (site.state.data / site.server.name).rglob("*") if _is_configuration(p)]
    return {str(p): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime) for p in found}


def _refusing(errors: tuple[type[Exception], ...], act: Callable[[], Any]) -> Any:
    try:
        return act()
    except errors as error:
        raise Refused(type(error).__name__) from error


class TestEmbeddedPostgres(EmbeddedServerContract):
    engine = Engine.POSTGRESQL
    defaults = (Account("postgres", ""), Account("postgres", "postgres"))

    def make_table(self, endpoint: Endpoint, admin: Account) -> None:
        self._run(endpoint, admin, "CREATE TABLE kept (key text PRIMARY KEY, value text)")

    def put(self, endpoint: Endpoint, account: Account, key: str, value: str) -> None:
        self._run(endpoint, account, "INSERT INTO kept VALUES (%s, %s)", key, value)

    def get(self, endpoint: Endpoint, account: Account, key: str) -> str | None:
        rows = self._run(endpoint, account, "SELECT value FROM kept WHERE key = %s", key)
        return rows[0][0] if rows else None

    def _run(self, endpoint: Endpoint, account: Account, statement: str, *values: str) -> list[Any]:
        import psycopg

        def act() -> list[Any]:
            with psycopg.connect(
                host=endpoint.host,
                port=endpoint.port,
                dbname=endpoint.database,
                user=account.username or "postgres",
                password=account.password or None,
                autocommit=True,
            ) as connection:
                cursor = connection.execute(statement, values)  # type: ignore[arg-type]
                return cursor.fetchall() if cursor.description else []

        return _refusing((psycopg.OperationalError, psycopg.errors.InsufficientPrivilege), act)

    def test_vectors_and_checksums_are_on(self, site: Site) -> None:
        endpoint, admin = site.server.endpoint(), site.account("admin")
        assert self._run(endpoint, admin, "SELECT '[1,2]'::vector <-> '[1,2]'::vector") == [(0.0,)]
        assert self._run(endpoint, admin, "SHOW data_checksums") == [("on",)]

    @pytest.mark.parametrize(
        "statement", ["CREATE TABLE mine (a int)", "CREATE ROLE mine", "DROP TABLE kept", "CREATE DATABASE mine"]
    )
    def test_the_application_changes_rows_and_nothing_else(self, site: Site, statement: str) -> None:
        with pytest.raises(Refused):
            self._run(site.server.endpoint(), site.account("application"), statement)

    def test_the_log_says_who_came_and_quotes_no_statement(self, site: Site) -> None:
        import psycopg

        endpoint, application = site.server.endpoint(), site.account("application")
        insert = "INSERT INTO kept VALUES ('a patient', '')"
        self._run(endpoint, application, insert)
        with pytest.raises(psycopg.errors.UniqueViolation):
            self._run(endpoint, application, insert)
        assert f"connection authorized: user={application.username}" in site.running.output
        assert "duplicate key" in site.running.output
        assert "a patient" not in site.running.output

    def test_an_interrupted_first_preparation_is_begun_anew(self) -> None:
        with temporary_state() as state:
            half_made = state.data / ".store.x.new"
            half_made.mkdir(parents=True)
            (half_made / "PG_VERSION").write_text("18\n")
            (state.data / ".store.x.password.new").write_text("generated")
            server = embedded_server(a_database(self.engine), state, EmbeddedSecretStore(state.secrets))
            server.acquire(print)
            server.prepare()
            assert [p.name for p in state.data.iterdir()] == ["store"]
            assert (state.data / "store" / "global" / "pg_control").exists()


class TestEmbeddedRedis(EmbeddedServerContract):
    engine = Engine.REDIS
    defaults = (Account("default", ""), Account("default", "redis"))

    def put(self, endpoint: Endpoint, account: Account, key: str, value: str) -> None:
        self._run(endpoint, account, "SET", key, value)

    def get(self, endpoint: Endpoint, account: Account, key: str) -> str | None:
        value = self._run(endpoint, account, "GET", key)
        return value.decode() if value else None

    def _run(self, endpoint: Endpoint, account: Account, *command: str) -> Any:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        def act() -> Any:
            login = {"username": account.username or None, "password": account.password or None}
            with redis.Redis(endpoint.host, endpoint.port, retry=Retry(NoBackoff(), 0), **login) as client:
                return client.execute_command(*command)

        refusals = (redis.AuthenticationError, redis.exceptions.NoPermissionError)
        return _refusing(refusals, act)

    @pytest.mark.parametrize(
        "command", [("FLUSHALL",), ("CONFIG", "GET", "*"), ("ACL", "LIST"), ("KEYS", "*"), ("SHUTDOWN",)]
    )
    def test_the_application_can_neither_empty_nor_reconfigure_it(self, site: Site, command: tuple[str, ...]) -> None:
        with pytest.raises(Refused):
            self._run(site.server.endpoint(), site.account("application"), *command)

    def settled(self, endpoint: Endpoint, admin: Account) -> bool:
        """With ``appendfsync everysec`` a write waits in the server, two seconds at most, while the sync before
        it is still under way: on a busy disk an answer comes before the file has it."""
        return self._run(endpoint, admin, "INFO", "persistence")["aof_buffer_length"] == 0

    def test_every_write_goes_to_the_append_only_file(self, site: Site) -> None:
        info = self._run(site.server.endpoint(), site.account("admin"), "INFO", "persistence")
        assert info["aof_enabled"] == 1

    def test_accounts_lost_from_its_file_are_put_back(self) -> None:
        with temporary_state() as state:
            server = embedded_server(a_database(self.engine), state, EmbeddedSecretStore(state.secrets))
            server.prepare()
            accounts = state.data / "store" / "users.acl"
            whole = accounts.read_text()
            accounts.write_text(whole.splitlines()[0] + "\n")
            server.prepare()
            assert accounts.read_text() == whole


class TestEmbeddedFerretDB(EmbeddedServerContract):
    engine = Engine.MONGODB
    defaults = (Account("admin", "admin"), Account("root", "root"), Account("drp_admin", "drp_admin"))

    def put(self, endpoint: Endpoint, account: Account, key: str, value: str) -> None:
        def act(kept: Any) -> None:
            kept.replace_one({"_id": key}, {"value": value}, upsert=True)

        self._run(endpoint, account, act)

    def get(self, endpoint: Endpoint, account: Account, key: str) -> str | None:
        found = self._run(endpoint, account, lambda kept: kept.find_one({"_id": key}))
        return found["value"] if found else None

    def _run(self, endpoint: Endpoint, account: Account, act: Callable[[Any], Any]) -> Any:
        import pymongo

        login = {"username": account.username, "password": account.password, "authSource": "admin"}
        with pymongo.MongoClient(
            endpoint.host, endpoint.port, serverSelectionTimeoutMS=5000, **(login if account.username else {})
        ) as client:
            return _refusing((pymongo.errors.OperationFailure,), lambda: act(client[endpoint.database].kept))

    def test_without_a_password_not_even_the_list_of_databases_is_shown(self, site: Site) -> None:
        with pytest.raises(Refused):
            self._run(site.server.endpoint(), NOBODY, lambda kept: kept.database.client.list_database_names())


GOSSIP = bytes.fromhex("ca552dfa0000c0ac00000000")
"""How a node begins to talk to another."""


def _speak_encrypted(address: tuple[str, int]) -> bytes:
    """As a node would that encrypts, but has no key that the other knows."""
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.check_hostname = False
    stranger.verify_mode = ssl.CERT_NONE
    with socket.create_connection(address, timeout=10) as plain, stranger.wrap_socket(plain) as encrypted:
        encrypted.sendall(GOSSIP)
        return encrypted.recv(1)


class TestEmbeddedCassandra(EmbeddedServerContract):
    engine = Engine.SCYLLADB
    defaults = (Account("cassandra", "cassandra"),)

    def make_table(self, endpoint: Endpoint, admin: Account) -> None:
        self._run(endpoint, admin, "CREATE TABLE kept (key text PRIMARY KEY, value text)")

    def put(self, endpoint: Endpoint, account: Account, key: str, value: str) -> None:
        self._run(endpoint, account, "INSERT INTO kept (key, value) VALUES (%s, %s)", key, value)

    def get(self, endpoint: Endpoint, account: Account, key: str) -> str | None:
        rows = self._run(endpoint, account, "SELECT value FROM kept WHERE key = %s", key)
        return rows[0].value if rows else None

    def _run(self, endpoint: Endpoint, account: Account, statement: str, *values: str) -> list[Any]:
        from cassandra import AuthenticationFailed, Unauthorized
        from cassandra.auth import PlainTextAuthProvider
        from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
        from cassandra.policies import WhiteListRoundRobinPolicy

        cluster = Cluster(
            [endpoint.host],
            port=endpoint.port,
            protocol_version=4,
            auth_provider=PlainTextAuthProvider(account.username, account.password) if account.username else None,
            execution_profiles={EXEC_PROFILE_DEFAULT: ExecutionProfile(WhiteListRoundRobinPolicy([endpoint.host]))},
        )
        try:
            return list(cluster.connect(endpoint.database).execute(statement, values))
        except NoHostAvailable as error:
            causes = tuple(error.errors.values())
            if any(isinstance(cause, AuthenticationFailed) for cause in causes):
                raise Refused("AuthenticationFailed") from error
            raise
        except Unauthorized as error:
            raise Refused("Unauthorized") from error
        finally:
            cluster.shutdown()

    @pytest.mark.parametrize(
        "statement",
        ["CREATE TABLE mine (a int PRIMARY KEY)", "DROP TABLE kept", "CREATE ROLE mine", "TRUNCATE system.local"],
    )
    def test_the_application_changes_rows_and_nothing_else(self, site: Site, statement: str) -> None:
        with pytest.raises(Refused):
            self._run(site.server.endpoint(), site.account("application"), statement)

    def test_a_neighbour_without_the_nodes_own_key_is_turned_away(self, site: Site) -> None:
        """Nodes trust each other without a password, so whoever could join would read everything."""
        address = (site.server.endpoint().host, site.server.endpoint().port + 1)
        with socket.create_connection(address, timeout=10) as plain:
            plain.sendall(GOSSIP)
            assert plain.recv(1) in (b"", b"\x15")  # closed, or a TLS alert
        with pytest.raises((ssl.SSLError, ConnectionError)):
            _speak_encrypted(address)

    def test_no_account_but_the_two_is_left(self, site: Site) -> None:
        roles = self._run(site.server.endpoint(), site.account("admin"), "SELECT role FROM system_auth.roles")
        assert {row.role for row in roles} == {"drp_admin", "drp_application"}
