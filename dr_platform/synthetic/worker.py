"""One process that makes blocks and loads them: its connections, and what it does with an errand.

Here: generation, loading and the record of a block, with the repetition of what may succeed later.
Not here: which blocks there are to do (``load``).
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, assert_never

from dr_platform.catalog import Database, Engine
from dr_platform.clock import Clock, SystemClock
from dr_platform.databases.connect import connect_database
from dr_platform.databases.port import Endpoint
from dr_platform.errors import TemporaryFailure
from dr_platform.secrets.port import SecretStore
from dr_platform.synthetic import block as blocks
from dr_platform.synthetic.loading.port import Counts, Loader
from dr_platform.synthetic.plan import Plan
from dr_platform.synthetic.progress import block_id, record_block
from dr_platform.synthetic.rows import Block
from dr_platform.synthetic.sealing import Keys, Sealer

if TYPE_CHECKING:
    from psycopg import Connection

    from dr_platform.synthetic.loading.postgresql import PostgresLoader

CLINICIANS, PATIENTS = "clinicians", "patients"
_ATTEMPTS = 3
_PAUSE_S = 2.0


@dataclass(frozen=True)
class Server:
    """A database of the catalog and where it answers."""

    database: Database
    endpoint: Endpoint


@dataclass(frozen=True)
class Servers:
    """Where the blocks go, and the secrets that open it. Of each engine one; PostgreSQL is the first,
    because it has the accounts that everything else names, and the records of progress."""

    postgresql: Server
    others: tuple[Server, ...]
    secrets: SecretStore = field(repr=False)

    @property
    def all(self) -> tuple[Server, ...]:
        return (self.postgresql, *self.others)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(server.database.name for server in self.all)


@dataclass(frozen=True)
class Errand:
    """A block, and the databases that do not have it yet, in the order of ``Servers.all``."""

    plan: Plan
    part: str
    block: int
    databases: tuple[str, ...]

    def make(self) -> Block:
        made = blocks.clinicians if self.part == CLINICIANS else blocks.patients
        return made(self.plan, self.block)


@dataclass(frozen=True)
class Done:
    """``counts`` and ``seconds`` per database; of a database that had the block already there are none."""

    counts: Mapping[str, Counts]
    seconds: Mapping[str, float]
    generated_s: float


class Worker:
    """Connects to each database when a block goes there, and again after a failure."""

    def __init__(self, servers: Servers, keys: Keys, clock: Clock) -> None:
        self._servers = {server.database.name: server for server in servers.all}
        self._records = servers.postgresql.database.name
        self._secrets = servers.secrets
        self._sealer = Sealer(keys)
        self._clock = clock
        self._open: dict[str, Any] = {}

    def carry_out(self, errand: Errand) -> Done:
        """Make the block and load it where it is missing. Raises what the last attempt raised."""
        started = self._clock.monotonic()
        block = errand.make()
        generated_s = self._clock.monotonic() - started
        counts: dict[str, Counts] = {}
        seconds: dict[str, float] = {}
        for name in errand.databases:
            started = self._clock.monotonic()
            if (loaded := self._repeatedly(errand, name, block)) is not None:
                counts[name] = loaded
                seconds[name] = self._clock.monotonic() - started
        return Done(counts, seconds, generated_s)

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def _repeatedly(self, errand: Errand, name: str, block: Block) -> Counts | None:
        for attempt in range(_ATTEMPTS):
            try:
                return self._load(errand, name, block)
            except TemporaryFailure:
                self.close()
                if attempt == _ATTEMPTS - 1:
                    raise
                self._clock.sleep(_PAUSE_S * (attempt + 1))
        raise AssertionError("the last attempt returns or raises")

    def _load(self, errand: Errand, name: str, block: Block) -> Counts | None:
        identifier = block_id(errand.plan, name, errand.part, errand.block)

        def record(connection: Connection[Any], counts: Counts) -> bool:
            return record_block(connection, self._sealer, identifier, name, counts)

        if name == self._records:
            return self._postgres().load_once(block, record)
        loaded = self._loader(name).load(block)
        return loaded if record(self._adapter(self._records).connection, loaded) else None

    def _adapter(self, name: str) -> Any:
        if name not in self._open:
            server = self._servers[name]
            self._open[name] = connect_database(server.database, server.endpoint, self._secrets, "admin")
        return self._open[name]

    def _postgres(self) -> PostgresLoader:
        from dr_platform.synthetic.loading.postgresql import PostgresLoader

        return PostgresLoader(self._records, self._adapter(self._records).connection, self._sealer)

    def _loader(self, name: str) -> Loader:
        adapter, engine = self._adapter(name), self._servers[name].database.engine
        match engine:
            case Engine.MONGODB:
                from dr_platform.synthetic.loading.mongodb import MongoLoader

                return MongoLoader(name, adapter.schema, self._sealer)
            case Engine.REDIS:
                from dr_platform.synthetic.loading.redis_ import RedisLoader

                return RedisLoader(name, adapter.client, self._sealer)
            case Engine.SCYLLADB:
                from dr_platform.synthetic.loading.cql import CqlLoader

                return CqlLoader(name, adapter.session, self._sealer)
            case Engine.POSTGRESQL:
                raise ValueError("the first PostgreSQL database is loaded with the records of progress")
            case _:
                assert_never(engine)


_worker: Worker | None = None
"""Of this process; processes of a pool are handed errands one by one."""


def start(servers: Servers, keys: Keys) -> None:
    """Make this process a worker, that ends with its parent however that ends."""
    global _worker  # noqa: PLW0603 - a pool calls functions, so what they share belongs to the process
    _worker = Worker(servers, keys, SystemClock())
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def carry_out(errand: Errand) -> Done:
    if _worker is None:
        raise RuntimeError("start comes first")
    return _worker.carry_out(errand)
