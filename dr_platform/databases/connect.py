"""Opens the adapter that belongs to a database's engine; its driver is imported only then."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from dr_platform.catalog import Database, Engine
from dr_platform.databases.access import LoginRole, NoCredentials, read_login
from dr_platform.databases.lease import TTL_S

if TYPE_CHECKING:
    from dr_platform.clock import Clock
    from dr_platform.databases.port import Endpoint, ManagedDatabase
    from dr_platform.secrets.port import SecretStore


def connect_database(
    database: Database,
    endpoint: Endpoint,
    secrets: SecretStore,
    role: LoginRole,
    *,
    clock: Clock | None = None,
    lease_s: float = TTL_S,
) -> ManagedDatabase:
    """A connection with the login ``databases/<name>/<role>`` of the secret store; the caller closes it.

    Raises ``DatabaseUnreachable``, ``AccessDenied``, ``DatabaseMissing``, ``NoCredentials``, and what
    the secret store raises. ``lease_s`` is how long a killed schema runner blocks the next one, on
    engines whose locks do not end with a connection.
    """
    login = read_login(database.name, role, secrets)
    try:
        application = read_login(database.name, "application", secrets)
    except NoCredentials:  # an administrator may come before the application has a login
        application = None
    match database.engine:
        case Engine.POSTGRESQL:
            from dr_platform.databases.postgresql import PostgresDatabase

            return PostgresDatabase(database, endpoint, login, role, application, clock=clock)
        case Engine.REDIS:
            from dr_platform.databases.redis_ import RedisDatabase

            return RedisDatabase(database, endpoint, login, role, application, clock=clock, lease_s=lease_s)
        case Engine.MONGODB:
            from dr_platform.databases.mongodb import MongoDatabase

            return MongoDatabase(database, endpoint, login, role, application, clock=clock, lease_s=lease_s)
        case Engine.SCYLLADB:
            from dr_platform.databases.cql import CqlDatabase

            return CqlDatabase(database, endpoint, login, role, application, clock=clock, lease_s=lease_s)
        case _:
            assert_never(database.engine)
