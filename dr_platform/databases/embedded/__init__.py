"""Database servers that this machine runs itself, one per engine of the catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dr_platform.catalog import Database
    from dr_platform.databases.embedded.port import EmbeddedServer
    from dr_platform.secrets.port import SecretStore
    from dr_platform.state import StateDirectory


def embedded_server(
    database: Database, state: StateDirectory, secrets: SecretStore, port_offset: int = 0
) -> EmbeddedServer:
    """The server for one database of the catalog; nothing is touched yet."""
    from dr_platform.catalog import Engine
    from dr_platform.databases.embedded.cql import EmbeddedCassandra
    from dr_platform.databases.embedded.mongodb import EmbeddedFerretDB
    from dr_platform.databases.embedded.postgresql import EmbeddedPostgres
    from dr_platform.databases.embedded.redis_ import EmbeddedRedis

    kinds = {
        Engine.POSTGRESQL: EmbeddedPostgres,
        Engine.MONGODB: EmbeddedFerretDB,
        Engine.REDIS: EmbeddedRedis,
        Engine.SCYLLADB: EmbeddedCassandra,
    }
    return kinds[database.engine](database, state, secrets, port_offset)
