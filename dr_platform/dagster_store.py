"""Dagster's PostgreSQL store with connections that are kept, and with a table's shape asked for once.

As it comes, each process but the webserver connects anew for every read and every event, and asks for the columns
of a table before most of them: measured, a third of the time of a run that finds everything as it should be.
Not here: which store is used (``infrastructure.orchestrator``) or what stands in it.
"""

from __future__ import annotations

from collections.abc import Mapping

from dagster._config.config_schema import UserConfigSchema
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.event_log import EventLogStorage
from dagster._core.storage.runs import RunStorage
from dagster._core.storage.schedules import ScheduleStorage
from dagster._serdes import ConfigurableClass, ConfigurableClassData
from dagster_postgres import PostgresEventLogStorage, PostgresRunStorage, PostgresScheduleStorage
from dagster_postgres.utils import create_pg_engine
from sqlalchemy.engine import Connection, Engine

KEPT = 2
"""Connections of a process that are kept; further ones are opened for the moment, so that nobody waits."""


def kept_connections(url: str) -> Engine:
    """Opens nothing yet. A kept connection is tried before it is used: the server may have been started anew."""
    return create_pg_engine(url, isolation_level="AUTOCOMMIT", pool_size=KEPT, max_overflow=-1, pool_pre_ping=True)


# Dagster 1.13 has no public way for either: ``optimize_for_webserver`` makes a pool for each store and limits
# the time of every statement, and what each stored event asks about columns is asked by a private method.


class _Runs(PostgresRunStorage):
    def __init__(self, url: str, engine: Engine) -> None:
        super().__init__(url)
        self._engine = engine

    def dispose(self) -> None:
        self._engine.dispose()


class _Events(PostgresEventLogStorage):
    def __init__(self, url: str, engine: Engine) -> None:
        super().__init__(url)
        self._engine = engine
        self._columns: set[str] = set()

    def has_asset_key_col(self, column_name: str) -> bool:
        return column_name in self._columns or super().has_asset_key_col(column_name)

    def _has_asset_key_col_on_connection(self, conn: Connection, column_name: str) -> bool:
        """Columns are added and never removed, so one that was there is there."""
        if column_name not in self._columns and super()._has_asset_key_col_on_connection(conn, column_name):
            self._columns.add(column_name)
        return column_name in self._columns

    def dispose(self) -> None:
        super().dispose()
        self._engine.dispose()


class _Schedules(PostgresScheduleStorage):
    def __init__(self, url: str, engine: Engine) -> None:
        super().__init__(url)
        self._engine = engine


class KeptConnectionsStorage(DagsterStorage, ConfigurableClass):
    """Dagster makes one from ``dagster.yaml`` in each of its processes, and one for each tick of a sensor."""

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        engine = kept_connections(postgres_url)
        self._inst_data = inst_data
        self._runs, self._events = _Runs(postgres_url, engine), _Events(postgres_url, engine)
        self._schedules = _Schedules(postgres_url, engine)
        super().__init__()

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {"postgres_url": str}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, str]
    ) -> KeptConnectionsStorage:
        return cls(config_value["postgres_url"], inst_data)

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @property
    def run_storage(self) -> RunStorage:
        return self._runs

    @property
    def event_log_storage(self) -> EventLogStorage:
        return self._events

    @property
    def schedule_storage(self) -> ScheduleStorage:
        return self._schedules
