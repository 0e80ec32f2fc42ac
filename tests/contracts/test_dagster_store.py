"""Guards that Dagster's store keeps its connections, survives a server that ends them, and gives them back."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest
import yaml
from dagster._core.instance import DagsterInstance
from sqlalchemy import create_engine, make_url, text

from dr_platform.infrastructure.orchestrator import CONFIGURATION, instance_configuration
from dr_platform.state import StateDirectory
from tests.embedded_programs import temporary_state
from tests.postgres_server import PostgresServer, running_postgres

pytestmark = pytest.mark.contract

KEY = dg.AssetKey(["services", "billing"])
BACKENDS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def url(server: PostgresServer) -> str:
    return server.new_database()


@pytest.fixture
def state() -> Iterator[StateDirectory]:
    with temporary_state() as state:
        yield state


@pytest.fixture
def instance(state: StateDirectory, url: str) -> Iterator[DagsterInstance]:
    """As each of Dagster's processes makes it, from the file that `drp up` writes."""
    psycopg2 = make_url(url).set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)
    written = yaml.safe_dump(instance_configuration(state, psycopg2))
    (state.dagster_home / CONFIGURATION[0]).write_text(written, encoding="utf-8")
    with DagsterInstance.from_config(str(state.dagster_home)) as instance:
        yield instance


def asked(url: str, query: str) -> set[int]:
    """By a connection of its own that does not stay."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return set(connection.execute(text(query)).scalars())
    finally:
        engine.dispose()


def tell(instance: DagsterInstance, times: int) -> None:
    for _ in range(times):
        instance.report_runless_asset_event(dg.AssetMaterialization(KEY))


def told(instance: DagsterInstance) -> int:
    return len(instance.fetch_materializations(KEY, limit=100).records)


def test_events_are_written_over_connections_that_stay(instance: DagsterInstance, url: str) -> None:
    tell(instance, 1)
    before = asked(url, BACKENDS)
    assert before
    tell(instance, 5)
    assert asked(url, BACKENDS) == before
    assert told(instance) == 6


def test_a_server_that_ended_every_connection_is_connected_to_anew(instance: DagsterInstance, url: str) -> None:
    tell(instance, 1)
    assert (ended := asked(url, BACKENDS))
    asked(url, BACKENDS.replace("SELECT pid", "SELECT pg_terminate_backend(pid)::int"))
    tell(instance, 2)
    assert told(instance) == 3
    assert not asked(url, BACKENDS) & ended


def test_an_instance_that_is_disposed_of_leaves_no_connection(instance: DagsterInstance, url: str) -> None:
    tell(instance, 1)
    instance.dispose()
    assert not asked(url, BACKENDS)
