"""PostgreSQL: a few connections, made when they are needed and given back after each use."""

from __future__ import annotations

import contextlib
import queue
import threading
import uuid
from collections.abc import Collection, Generator
from functools import cache
from typing import TYPE_CHECKING, Any

from dr_platform.reference_service.stores.port import CONNECT_S, LOOPBACK, QUERY_S, StoreUnavailable, read_login
from dr_platform.reference_service.topology import DatabaseEntry
from dr_platform.secrets.port import SecretStore

if TYPE_CHECKING:
    import psycopg

_POOL = 4
"""Connections of one replica at most: 16 threads seldom need more, and the server has 100 for all."""


class PostgresStore:
    def __init__(self, entry: DatabaseEntry, secrets: SecretStore, max_connections: int) -> None:
        self.entry = entry
        self._secrets = secrets
        self._idle: queue.LifoQueue[psycopg.Connection[Any]] = queue.LifoQueue()
        self._slots = threading.BoundedSemaphore(min(max_connections, _POOL))

    @contextlib.contextmanager
    def connection(self) -> Generator[psycopg.Connection[Any]]:
        """A connection in autocommit, alone for the block. Errors of the server that are the
        statement's own fault pass through; an outage becomes ``StoreUnavailable``."""
        import psycopg

        if not self._slots.acquire(timeout=QUERY_S):
            raise StoreUnavailable(self.entry.name, "all connections are in use")
        try:
            connection = self._take()
            try:
                yield connection
            except (psycopg.OperationalError, psycopg.InterfaceError) as exc:
                connection.close()
                raise StoreUnavailable(self.entry.name, type(exc).__name__) from None
            except psycopg.errors.UndefinedTable:
                raise StoreUnavailable(self.entry.name, "a table is missing") from None
            finally:
                if not connection.closed:
                    self._idle.put(connection)
        finally:
            self._slots.release()

    def _take(self) -> psycopg.Connection[Any]:
        with contextlib.suppress(queue.Empty):
            while True:
                connection = self._idle.get_nowait()
                if not connection.closed and not _ended(connection):
                    return connection
                connection.close()
        return self._open()

    def _open(self) -> psycopg.Connection[Any]:
        import psycopg

        login = read_login(self.entry.name, self._secrets)
        try:
            return _bounded().connect(
                host=LOOPBACK,
                port=self.entry.port,
                dbname=self.entry.database,
                user=login.username,
                password=login.password,
                connect_timeout=int(CONNECT_S),
                passfile="/dev/null",  # a password file of the user must not decide who gets in
                application_name="reference-service",
                options=f"-c statement_timeout={int(QUERY_S * 1000)}",
                autocommit=True,
            )
        except psycopg.OperationalError as exc:
            raise StoreUnavailable(self.entry.name, type(exc).__name__) from None

    def ping(self) -> None:
        with self.connection() as connection:
            connection.execute("SELECT 1")

    def missing(self, wanted: Collection[str]) -> tuple[str, ...]:
        with self.connection() as connection:
            rows = connection.execute(
                "SELECT name FROM unnest(%s::text[]) AS name WHERE to_regclass(name) IS NULL", (list(wanted),)
            )
            return tuple(sorted(name for (name,) in rows))

    def put_canary(self, name: str, sealed: bytes) -> None:
        with self.connection() as connection:
            connection.execute(
                "INSERT INTO work.records (service, id, kind, body_ciphertext) VALUES (%s, %s, 'canary', %s)"
                " ON CONFLICT (service, id) DO UPDATE SET body_ciphertext = excluded.body_ciphertext,"
                " updated_at = now()",
                (name.partition(":")[0], _canary_id(name), sealed),
            )

    def raw_canary(self, name: str) -> bytes:
        with self.connection() as connection:
            row = connection.execute(
                "SELECT body_ciphertext FROM work.records WHERE service = %s AND id = %s",
                (name.partition(":")[0], _canary_id(name)),
            ).fetchone()
        return bytes(row[0]) if row else b""

    def close(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()


@cache
def _bounded() -> type[psycopg.Connection[Any]]:
    """Connections on which nobody waits for ever for an answer, also where the server stands still
    and its kernel goes on accepting what is sent. A class made on use, because of the import."""
    import psycopg

    class BoundedConnection(psycopg.Connection[Any]):
        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            # Longer than the server's own limit, which leaves the connection usable.
            return super().wait(gen, interval, QUERY_S + 0.5 if timeout is None else timeout)

    return BoundedConnection


def _canary_id(name: str) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_URL, f"dr-platform/canary/{name}")


def _ended(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server has closed an idle connection, seen without asking it."""
    import select

    readable, _, _ = select.select([connection.fileno()], [], [], 0)
    return bool(readable)
