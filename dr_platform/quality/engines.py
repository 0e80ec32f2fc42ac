"""Which inspector looks into which database. Not here: how any of them counts."""

from __future__ import annotations

from dr_platform.clock import Clock
from dr_platform.databases.port import ManagedDatabase
from dr_platform.quality.port import Inspector


def inspector_of(database: ManagedDatabase, clock: Clock) -> Inspector:
    """Takes the connection over: closing the inspector closes it."""
    from dr_platform.databases.cql import CqlDatabase
    from dr_platform.databases.mongodb import MongoDatabase
    from dr_platform.databases.postgresql import PostgresDatabase
    from dr_platform.databases.redis_ import RedisDatabase

    match database:
        case PostgresDatabase():
            from dr_platform.quality.postgresql import PostgresInspector

            return PostgresInspector(database, clock)
        case MongoDatabase():
            from dr_platform.quality.mongodb import MongoInspector

            return MongoInspector(database, clock)
        case CqlDatabase():
            from dr_platform.quality.cql import CqlInspector

            return CqlInspector(database, clock)
        case RedisDatabase():
            from dr_platform.quality.redis_ import RedisInspector

            return RedisInspector(database)
    raise TypeError(type(database).__name__)
