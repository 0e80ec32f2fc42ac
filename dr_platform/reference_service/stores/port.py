"""What the service asks of every database, whatever its engine.

Here: the promises. Not here: the statements of each kind of work (``roles``) or any driver.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

from dr_platform.errors import PlatformError, TemporaryFailure
from dr_platform.reference_service.topology import DatabaseEntry
from dr_platform.secrets.port import SecretStore

LOOPBACK = "127.0.0.1"
CONNECT_S = 2.0
QUERY_S = 5.0


class StoreUnavailable(TemporaryFailure):
    """``reason`` is the type of what went wrong; a driver's text may quote stored data."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason
        self.what = f"{name} cannot be used: {reason}"
        self.untouched = f"everything stored in {name}"
        self.next_step = f"see `drp logs {name}` and `drp doctor`"


class UnknownEngine(PlatformError):
    def __init__(self, name: str, engine: str) -> None:
        super().__init__(name, engine)
        self.what = f"{name}: the reference service has no driver for {engine}"
        self.untouched = "every database"
        self.next_step = "remove it from the service's needs"


@dataclass(frozen=True)
class Login:
    username: str
    password: str = field(repr=False)


class Store(Protocol):
    """A database, connected on first use and again after an outage. For any number of threads.
    Every method raises ``StoreUnavailable`` where the server does not answer in time."""

    entry: DatabaseEntry

    def ping(self) -> None:
        """Return when the server has answered a simple query."""

    def missing(self, wanted: Collection[str]) -> tuple[str, ...]:
        """Which of these tables (collections) do not exist, sorted."""

    def put_canary(self, name: str, sealed: bytes) -> None:
        """Store a value where this engine keeps patient data, in place of the one of that name."""

    def raw_canary(self, name: str) -> bytes:
        """The value exactly as the server has it."""

    def close(self) -> None: ...


def read_login(name: str, secrets: SecretStore) -> Login:
    fields = secrets.read(f"databases/{name}/application")
    if fields is None:
        raise StoreUnavailable(name, "no credentials yet")
    return Login(fields["username"], fields["password"])


def open_store(entry: DatabaseEntry, secrets: SecretStore, max_connections: int) -> Store:
    """The store of a database; connects on first use."""
    match entry.engine:
        case "postgresql":
            from dr_platform.reference_service.stores.postgresql import PostgresStore

            return PostgresStore(entry, secrets, max_connections)
        case "redis":
            from dr_platform.reference_service.stores.redis_ import RedisStore

            return RedisStore(entry, secrets, max_connections)
        case "mongodb":
            from dr_platform.reference_service.stores.mongodb import MongoStore

            return MongoStore(entry, secrets, max_connections)
        case "scylladb":
            from dr_platform.reference_service.stores.cql import CqlStore

            return CqlStore(entry, secrets)
    raise UnknownEngine(entry.name, entry.engine)
