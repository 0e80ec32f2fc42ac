"""The platform's own PostgreSQL server: Dagster's store and the operations database.

Here: a server that only the user who runs the platform can reach, and only through a socket file;
it needs no password. Not here: the managed databases of the catalog, or what the tables are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from dr_platform.clock import Clock, SystemClock
from dr_platform.databases.embedded import postgresql_files
from dr_platform.databases.embedded.files import invoking_user, private_directory
from dr_platform.databases.embedded.port import ServerNotReady
from dr_platform.databases.embedded.postgresql import postgres_program
from dr_platform.databases.embedded.waiting import until_it_answers
from dr_platform.runtime.local.programs import Program
from dr_platform.state import StateDirectory
from dr_platform.verdict import Progress

SystemDatabase = Literal["dagster", "operations"]
DATABASES: tuple[SystemDatabase, ...] = ("dagster", "operations")
NAME = "operations-db"
SUPERUSER = "platform"

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "64MB",
    # Dagster writes many small transactions; none of them may be lost, so each waits for the disk,
    # but those that arrive within 0.2 ms of each other share one wait.
    "synchronous_commit": "on",
    "commit_delay": "200",
    "commit_siblings": "3",
    "wal_level": "replica",
    "max_wal_senders": "2",
    "wal_buffers": "8MB",
    "log_line_prefix": "%m [%p] ",
    "log_connections": "",
}

# The driver each store uses: dagster-postgres is written for psycopg2.
_SCHEMES: Mapping[SystemDatabase, str] = {"dagster": "postgresql+psycopg2", "operations": "postgresql+psycopg"}


@dataclass(frozen=True)
class SystemPostgres:
    """Steps as in ``EmbeddedServer``; both databases are there before the server first starts."""

    state: StateDirectory
    clock: Clock = field(default_factory=SystemClock)

    @property
    def name(self) -> str:
        return NAME

    @property
    def data(self) -> Path:
        return self.state.data / NAME

    @property
    def sockets(self) -> Path:
        """A folder that the server's user and root alone can enter."""
        return self.state.run / "db"

    def acquire(self, progress: Progress) -> None:
        del progress  # a copy of 38 MB at most
        postgresql_files.place_binaries(self.state, postgresql_files.server_user())

    def prepare(self) -> None:
        user = postgresql_files.server_user()
        self.state.make_run()
        private_directory(self.sockets, user)
        programs = postgresql_files.binaries(self.state, user)
        postgresql_files.make_cluster(
            self.data, programs, user, superuser=SUPERUSER, password=None, statements=tuple(_first_statements())
        )
        me = invoking_user().name
        settings = {**SETTINGS, "unix_socket_directories": str(self.sockets)}
        access = ("local all all peer map=platform", f"local replication {SUPERUSER} peer map=platform")
        names = [f'platform "{me}" {role}' for role in (SUPERUSER, *DATABASES)]
        postgresql_files.configure(self.data, user, settings, access, names)

    def program(self) -> Program:
        user = postgresql_files.server_user()
        programs = postgresql_files.binaries(self.state, user)
        return postgres_program(self.name, self.data, programs, user, self.sockets)

    def url(self, database: SystemDatabase) -> str:
        """SQLAlchemy URL; it holds no secret, the socket's peer is the proof of identity."""
        return f"{_SCHEMES[database]}://{database}@/{database}?host={quote(str(self.sockets), safe='/')}"

    def conninfo(self, database: SystemDatabase) -> str:
        """The same for psycopg and ``psql``."""
        return f"host={self.sockets} dbname={database} user={database}"

    def initialise(self, within_s: float) -> None:
        """Wait until both databases answer."""
        import psycopg

        for database in DATABASES:
            until_it_answers(
                self.name, lambda d=database: self._ask(d), (psycopg.OperationalError,), within_s, self.clock
            )

    def _ask(self, database: SystemDatabase) -> None:
        import psycopg

        with psycopg.connect(self.conninfo(database), connect_timeout=5) as connection:
            connection.execute("SELECT 1")

    def answers(self) -> bool:
        """Whether both databases answer at this moment."""
        with contextlib.suppress(ServerNotReady):
            self.initialise(0.0)
            return True
        return False


def _first_statements() -> Iterator[str]:
    """Single-user mode takes one statement a line."""
    yield "REVOKE ALL ON DATABASE postgres FROM PUBLIC"
    for name in DATABASES:
        yield f"CREATE ROLE {name} LOGIN"
        yield f"CREATE DATABASE {name} OWNER {name}"
        yield f"REVOKE ALL ON DATABASE {name} FROM PUBLIC"
