"""Starts one embedded database server for tests, without a supervisor, in a folder of its own."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from dr_platform.catalog import Database, Engine
from dr_platform.databases.connect import connect_database
from dr_platform.databases.embedded import embedded_server
from dr_platform.databases.port import Endpoint
from dr_platform.databases.schema import migrate, read_steps
from dr_platform.evidence import MemoryEvidenceLog
from dr_platform.platform import Platform, load_catalog
from dr_platform.secrets.embedded import EmbeddedSecretStore
from dr_platform.state import StateDirectory
from tests import embedded_programs
from tests.catalogs import SHIPPED
from tests.contracts.runtime import until


@dataclass(frozen=True)
class Running:
    """A server that answers, with the secrets that open it."""

    database: Database
    endpoint: Endpoint
    state: StateDirectory
    secrets: EmbeddedSecretStore
    process: embedded_programs.Running

    @contextlib.contextmanager
    def stopped(self) -> Generator[None]:
        """Every process of the server stands still: its sockets accept, nobody answers."""
        family = [psutil.Process(self.process.pid)]
        family += family[0].children(recursive=True)
        try:
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):  # servers have workers that come and go
                    process.send_signal(signal.SIGSTOP)
            # A thread that is on a processor goes on for a moment, long enough for an answer.
            until(lambda: all(_stands_still(process.pid) for process in family))
            yield
        finally:
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)


def _stands_still(pid: int) -> bool:
    try:
        states = [stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:  # a thread or the process has ended between two looks
        return not psutil.pid_exists(pid)
    return set(states) <= {"T", "Z", "X"}


@contextlib.contextmanager
def running(engine: Engine, name: str, ready_s: float = 60.0) -> Iterator[Running]:
    with embedded_programs.temporary_state() as state:
        secrets = EmbeddedSecretStore(state.secrets)
        database = embedded_programs.a_database(engine, name)
        # Catalog ports end below 20000; the offset carries the rest of the way to a free one.
        offset = embedded_programs.free_port() - database.port
        server = embedded_server(database, state, secrets, port_offset=offset)
        server.acquire(print)
        server.prepare()
        with embedded_programs.running(embedded_programs.unkept(server.program(), engine), state) as process:
            server.initialise(ready_s)
            yield Running(database, server.endpoint(), state, secrets, process)


@contextlib.contextmanager
def running_with_schema(name: str = "postgres") -> Iterator[Running]:
    """A PostgreSQL with every step of the shipped catalog, into which the application is let."""
    with running(Engine.POSTGRESQL, name) as server:
        database = connect_database(server.database, server.endpoint, server.secrets, "admin")
        with contextlib.closing(database):
            migrate(database, read_steps(SHIPPED / "databases" / name / "migrations"))
        yield server


class Beside(Platform):
    """A platform whose servers are those of the test, as long as there are any."""

    servers: Mapping[str, Running]

    @classmethod
    def of(
        cls,
        servers: Mapping[str, Running],
        catalog: Path = SHIPPED,
        environment: str = "local",
        *,
        state: StateDirectory | None = None,
        secrets: EmbeddedSecretStore | None = None,
    ) -> Beside:
        """State and secrets are those of the first server, unless others are given; evidence is in memory."""
        first, loaded = next(iter(servers.values())), load_catalog(catalog)
        platform = cls(loaded, loaded.environments[environment], state or first.state, runtime="local")
        platform.servers = servers
        vars(platform)["secrets"] = secrets or first.secrets
        vars(platform)["evidence"] = MemoryEvidenceLog(platform.clock)
        return platform

    def endpoint(self, database: Database) -> Endpoint:
        return self.servers[database.name].endpoint
