"""PostgreSQL with pgvector on loopback, for a database of the catalog.

Here: its accounts, its settings, its program. Not here: the schema, which migrations bring.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dr_platform.databases.embedded import launch, postgresql_files
from dr_platform.databases.embedded.accounts import Account
from dr_platform.databases.embedded.catalog_server import CatalogServer
from dr_platform.databases.embedded.files import ServerUser, private_directory
from dr_platform.databases.embedded.postgresql_archive import archive_settings
from dr_platform.databases.embedded.waiting import until_it_answers
from dr_platform.runtime.local.programs import Program
from dr_platform.verdict import Progress

if TYPE_CHECKING:
    from psycopg import Connection

STOP_S = 20.0

MANAGED_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "300",
    "shared_buffers": "128MB",
    "maintenance_work_mem": "128MB",  # building an HNSW index slows down sharply when it does not fit
    "wal_level": "replica",
    "max_wal_senders": "4",
    "summarize_wal": "on",  # incremental backups are made of these summaries
    # Who came and went (access control, 45 CFR 164.312(b)); pgaudit is not in the wheel.
    "log_connections": "authentication,authorization",
    "log_disconnections": "on",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}


def postgres_program(name: str, data: Path, programs: Path, user: ServerUser, sockets: Path | None = None) -> Program:
    """The supervised program of a PostgreSQL data folder. SIGINT is its fast shutdown: sessions
    are ended, everything is written, and the next start needs no recovery."""
    argv = [*launch.COMMAND, "--pid-file", str(data / "postmaster.pid")]
    if not user.is_me:
        argv += ["--user", f"{user.uid}:{user.gid}"]
    if sockets is not None:
        argv += ["--directory", str(sockets)]
    argv += ["--", str(programs / "postgres"), "-D", str(data)]
    return Program(
        name,
        tuple(argv),
        environment={"LC_ALL": "C"},
        directory=Path("/"),
        stop_s=STOP_S,
        stop_signal="INT",
        priority=100,
    )


@dataclass(frozen=True)
class EmbeddedPostgres(CatalogServer):
    """See ``EmbeddedServer``. The application's account owns nothing: it may read and write rows of
    what the admin's account creates, unless a migration takes that away again."""

    @property
    def spool(self) -> Path:
        """Where its log waits to be archived."""
        return self.state.wal / self.name

    def acquire(self, progress: Progress) -> None:
        del progress  # a copy of 38 MB at most
        postgresql_files.place_binaries(self.state, postgresql_files.server_user())

    def missing(self) -> str:
        postgresql_files.place_binaries(self.state, postgresql_files.server_user())
        return ""

    def prepare(self) -> None:
        user = postgresql_files.server_user()
        admin, _ = self.accounts()
        programs = postgresql_files.binaries(self.state, user)
        postgresql_files.make_cluster(
            self.data, programs, user, superuser=admin.username, password=admin.password, statements=()
        )
        access = (
            "host all all 127.0.0.1/32 scram-sha-256",
            f"host replication {admin.username} 127.0.0.1/32 scram-sha-256",
        )
        private_directory(self.spool, user)
        settings = {**MANAGED_SETTINGS, **archive_settings(self.spool), "port": str(self.endpoint().port)}
        postgresql_files.configure(self.data, user, settings, access)

    def program(self) -> Program:
        user = postgresql_files.server_user()
        return postgres_program(self.name, self.data, postgresql_files.binaries(self.state, user), user)

    def initialise(self, within_s: float) -> None:
        import psycopg

        admin, application = self.accounts()
        give_up = self.clock.monotonic() + within_s
        with until_it_answers(
            self.name, lambda: self._connect("postgres", admin), (psycopg.OperationalError,), within_s, self.clock
        ) as server:
            _make_role(server, application)
            _make_database(server, self.database.database, admin, application)
        remaining_s = max(1.0, give_up - self.clock.monotonic())
        with until_it_answers(
            self.name,
            lambda: self._connect(self.database.database, admin),
            (psycopg.OperationalError,),
            remaining_s,
            self.clock,
        ) as connection:
            _grant(connection, admin, application)

    def _connect(self, database: str, account: Account) -> Connection:
        import psycopg

        endpoint = self.endpoint()
        return psycopg.connect(
            host=endpoint.host,
            port=endpoint.port,
            dbname=database,
            user=account.username,
            password=account.password,
            connect_timeout=5,
            autocommit=True,
            application_name="drp-initialise",
        )


def _make_role(server: Connection, account: Account) -> None:
    """Make the role. A role that exists keeps its password: it may have been rotated."""
    from psycopg import sql

    if server.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (account.username,)).fetchone():
        return
    # The server stores what libpq derives, so that the password itself never reaches it.
    verifier = server.pgconn.encrypt_password(account.password.encode(), account.username.encode(), b"scram-sha-256")
    server.execute(
        sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD {}").format(
            sql.Identifier(account.username), sql.Literal(verifier.decode())
        )
    )


def _make_database(server: Connection, database: str, admin: Account, application: Account) -> None:
    from psycopg import sql

    if not server.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,)).fetchone():
        server.execute(
            sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(database), sql.Identifier(admin.username))
        )
    for name in ("postgres", "template1", database):
        server.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
    server.execute(
        sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(
            sql.Identifier(database), sql.Identifier(application.username)
        )
    )


def _grant(connection: Connection, admin: Account, application: Account) -> None:
    from psycopg import sql

    owner, user = sql.Identifier(admin.username), sql.Identifier(application.username)
    connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    connection.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    connection.execute(sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(user))
    defaults = sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA public GRANT {} ON {} TO {}")
    for rights, objects in (("SELECT, INSERT, UPDATE, DELETE", "TABLES"), ("USAGE, SELECT", "SEQUENCES")):
        connection.execute(defaults.format(owner, sql.SQL(rights), sql.SQL(objects), user))
