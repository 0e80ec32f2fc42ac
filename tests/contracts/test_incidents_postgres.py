"""The incident ledger on a real PostgreSQL server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from dr_platform.clock import ManualClock
from dr_platform.evidence import PostgresEvidenceLog
from tests.contracts.incidents import IncidentLedgerContract
from tests.contracts.test_evidence_postgres import without_triggers
from tests.postgres_server import PostgresServer, operations_database, running_postgres

pytestmark = pytest.mark.contract


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def shared_engine(server: PostgresServer) -> Iterator[Engine]:
    with operations_database(server) as engine:
        yield engine


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def log(shared_engine: Engine, clock: ManualClock) -> PostgresEvidenceLog:
    without_triggers(shared_engine, "TRUNCATE evidence_log")
    return PostgresEvidenceLog(shared_engine, clock)


class TestIncidentsInPostgres(IncidentLedgerContract):
    pass
