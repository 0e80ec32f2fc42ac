"""Redis: the driver's own pool, bounded."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Generator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dr_platform.reference_service.stores.port import LOOPBACK, StoreUnavailable, read_login
from dr_platform.reference_service.topology import DatabaseEntry
from dr_platform.secrets.port import SecretStore

if TYPE_CHECKING:
    import redis

CANARY_S = 86_400
ANSWER_S = 1.5
"""This server answers in less than a millisecond; a request must not wait for a cache that hangs."""


class RedisStore:
    def __init__(self, entry: DatabaseEntry, secrets: SecretStore, max_connections: int) -> None:
        self.entry = entry
        self._secrets = secrets
        self._max_connections = max_connections

    @cached_property
    def _client(self) -> redis.Redis:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        login = read_login(self.entry.name, self._secrets)
        pool = redis.BlockingConnectionPool(
            host=LOOPBACK,
            port=self.entry.port,
            username=login.username,
            password=login.password,
            socket_connect_timeout=ANSWER_S,
            socket_timeout=ANSWER_S,
            max_connections=self._max_connections,
            timeout=ANSWER_S,
            # One more attempt at once: a kept connection may have been closed by a restarted server.
            # A server that does not answer is not asked twice.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
            client_name="reference-service",
        )
        return redis.Redis(connection_pool=pool)

    @contextlib.contextmanager
    def client(self) -> Generator[Any]:
        """The driver's client, answering bytes. Outages and refusals become ``StoreUnavailable``."""
        import redis

        try:
            yield self._client
        except redis.AuthenticationError as exc:
            self.close()  # rotated credentials are read again
            raise StoreUnavailable(self.entry.name, type(exc).__name__) from None
        except redis.RedisError as exc:
            raise StoreUnavailable(self.entry.name, type(exc).__name__) from None

    def ping(self) -> None:
        with self.client() as client:
            client.ping()

    def missing(self, wanted: Collection[str]) -> tuple[str, ...]:
        with self.client() as client:
            return tuple(sorted(key for key in wanted if not client.exists(key)))

    def put_canary(self, name: str, sealed: bytes) -> None:
        with self.client() as client:
            client.set(f"cache:canary:{name}", sealed, ex=CANARY_S)

    def raw_canary(self, name: str) -> bytes:
        with self.client() as client:
            return client.get(f"cache:canary:{name}") or b""

    def close(self) -> None:
        if (client := self.__dict__.pop("_client", None)) is not None:
            client.connection_pool.disconnect()
