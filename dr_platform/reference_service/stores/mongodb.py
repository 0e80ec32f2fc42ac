"""MongoDB, or a server that speaks its protocol."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Generator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dr_platform.reference_service.stores.port import CONNECT_S, LOOPBACK, QUERY_S, StoreUnavailable, read_login
from dr_platform.reference_service.topology import DatabaseEntry
from dr_platform.secrets.port import SecretStore

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.database import Database

_CANARIES = "drp_encryption_canaries"
_POOL = 8
_REFUSED = (13, 18)
"""Unauthorized, AuthenticationFailed."""


class MongoStore:
    def __init__(self, entry: DatabaseEntry, secrets: SecretStore, max_connections: int) -> None:
        self.entry = entry
        self._secrets = secrets
        self._max_connections = max_connections

    @cached_property
    def _client(self) -> MongoClient[dict[str, Any]]:
        from pymongo import MongoClient

        login = read_login(self.entry.name, self._secrets)
        return MongoClient(
            LOOPBACK,
            self.entry.port,
            username=login.username,
            password=login.password,
            authSource="admin",
            directConnection=True,
            serverSelectionTimeoutMS=int(CONNECT_S * 1000),
            connectTimeoutMS=int(CONNECT_S * 1000),
            socketTimeoutMS=int(QUERY_S * 1000),
            maxPoolSize=min(self._max_connections, _POOL),
            heartbeatFrequencyMS=10_000,
            appname="reference-service",
            tz_aware=True,
        )

    @contextlib.contextmanager
    def database(self) -> Generator[Database[dict[str, Any]]]:
        """The service's database. Outages become ``StoreUnavailable``; a refused document passes through."""
        from pymongo import errors

        try:
            yield self._client[self.entry.database]
        except errors.WriteError:
            raise
        except errors.PyMongoError as exc:
            if isinstance(exc, errors.OperationFailure) and exc.code in _REFUSED:
                self.close()  # rotated credentials are read again
            raise StoreUnavailable(self.entry.name, type(exc).__name__) from None

    def ping(self) -> None:
        with self.database() as database:
            database.command("ping")

    def missing(self, wanted: Collection[str]) -> tuple[str, ...]:
        with self.database() as database:
            return tuple(sorted(set(wanted) - set(database.list_collection_names())))

    def put_canary(self, name: str, sealed: bytes) -> None:
        with self.database() as database:
            database[_CANARIES].replace_one({"_id": name}, {"_id": name, "sealed": sealed}, upsert=True)

    def raw_canary(self, name: str) -> bytes:
        with self.database() as database:
            found = database[_CANARIES].find_one({"_id": name})
        return bytes(found["sealed"]) if found else b""

    def close(self) -> None:
        if (client := self.__dict__.pop("_client", None)) is not None:
            client.close()
