"""ScyllaDB, or another server that speaks CQL. Statements are prepared once."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Collection
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any

from dr_platform.reference_service.stores.port import CONNECT_S, LOOPBACK, QUERY_S, StoreUnavailable, read_login
from dr_platform.reference_service.topology import DatabaseEntry
from dr_platform.secrets.port import SecretStore

if TYPE_CHECKING:
    from cassandra.cluster import Cluster, Session

_CANARY_DAY = date(1970, 1, 1)
"""A day on which nobody talked: canaries lie in the table of messages, under conversations of their own."""


class CqlStore:
    def __init__(self, entry: DatabaseEntry, secrets: SecretStore) -> None:
        self.entry = entry
        self._secrets = secrets
        self._lock = threading.Lock()
        self._cluster: Cluster | None = None
        self._session: Session | None = None
        self._prepared: dict[str, Any] = {}

    def execute(self, statement: str, *parameters: object) -> Any:
        """Run a statement with ``?`` for its parameters. Outages become ``StoreUnavailable``."""
        from cassandra import DriverException, InvalidRequest, RequestExecutionException
        from cassandra.cluster import NoHostAvailable

        try:
            return self._opened().execute(self._prepare(statement), parameters, timeout=QUERY_S)
        except (NoHostAvailable, DriverException, RequestExecutionException, InvalidRequest) as exc:
            raise StoreUnavailable(self.entry.name, type(exc).__name__) from None

    def _prepare(self, statement: str) -> Any:
        if statement not in self._prepared:
            self._prepared[statement] = self._opened().prepare(statement)
        return self._prepared[statement]

    def _opened(self) -> Session:
        with self._lock:
            if self._session is None:
                self._session = self._connect()
            return self._session

    def _connect(self) -> Session:
        import logging

        from cassandra import ConsistencyLevel
        from cassandra.auth import PlainTextAuthProvider
        from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
        from cassandra.policies import ConstantReconnectionPolicy, WhiteListRoundRobinPolicy

        logging.getLogger("cassandra").setLevel(logging.CRITICAL)  # it logs every refused connection
        login = read_login(self.entry.name, self._secrets)
        profile = ExecutionProfile(
            load_balancing_policy=WhiteListRoundRobinPolicy([LOOPBACK]),
            request_timeout=QUERY_S,
            consistency_level=ConsistencyLevel.LOCAL_QUORUM,
        )
        cluster = Cluster(
            [LOOPBACK],
            port=self.entry.port,
            protocol_version=4,  # the newest that both servers speak
            auth_provider=PlainTextAuthProvider(login.username, login.password),
            execution_profiles={EXEC_PROFILE_DEFAULT: profile},
            connect_timeout=CONNECT_S,
            control_connection_timeout=CONNECT_S,
            reconnection_policy=ConstantReconnectionPolicy(1.0, max_attempts=None),
            executor_threads=2,
            schema_metadata_enabled=False,
            token_metadata_enabled=False,
        )
        try:
            session = cluster.connect(self.entry.database)
        except NoHostAvailable as exc:
            cluster.shutdown()
            raise StoreUnavailable(self.entry.name, type(exc).__name__) from None
        except Exception:
            cluster.shutdown()
            raise
        self._cluster = cluster
        return session

    def ping(self) -> None:
        self.execute("SELECT key FROM system.local")

    def missing(self, wanted: Collection[str]) -> tuple[str, ...]:
        rows = self.execute("SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?", self.entry.database)
        return tuple(sorted(set(wanted) - {row.table_name for row in rows}))

    def put_canary(self, name: str, sealed: bytes) -> None:
        conversation, day, message = _canary_key(name)
        # A message belongs to a conversation, this one too: whoever follows references must not find a loose end.
        self.execute(
            "INSERT INTO conversations (conversation_id, account_id, started_at, status, days)"
            " VALUES (?, ?, ?, 'canary', ?)",
            *(conversation, conversation, datetime.combine(day, time.min, UTC), {day}),
        )
        self.execute(
            "INSERT INTO messages_by_conversation"
            " (conversation_id, day, message_id, author, body_ciphertext, key_version)"
            " VALUES (?, ?, ?, 'canary', ?, 1)",
            *(conversation, day, message, sealed),
        )

    def raw_canary(self, name: str) -> bytes:
        row = self.execute(
            "SELECT body_ciphertext FROM messages_by_conversation"
            " WHERE conversation_id = ? AND day = ? AND message_id = ?",
            *_canary_key(name),
        ).one()
        return bytes(row.body_ciphertext) if row else b""

    def close(self) -> None:
        with self._lock:
            if self._cluster is not None:
                self._cluster.shutdown()
            self._cluster = self._session = None
            self._prepared.clear()


def _canary_key(name: str) -> tuple[uuid.UUID, date, uuid.UUID]:
    own = uuid.uuid5(uuid.NAMESPACE_URL, f"dr-platform/canary/{name}")
    # Its version must be 1, time based, for the column to take it.
    return own, _CANARY_DAY, uuid.UUID(int=own.int, version=1)
