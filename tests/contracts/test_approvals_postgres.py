"""Approvals on a real PostgreSQL server, whose triggers hold against whoever writes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from dr_platform.approvals import ApprovalDesk, PostgresApprovalStore
from dr_platform.clock import ManualClock
from dr_platform.evidence import PostgresEvidenceLog
from dr_platform.operations import OperationsUnavailable, operations_engine
from tests.contracts.approvals import (
    DAY,
    OTHER_PLAN,
    PLAN,
    VOIDED,
    ApprovalStoreContract,
    a_request,
    an_approval,
    person,
)
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


TABLES = ("approval_void", "approval", "approval_request")


@pytest.fixture
def engine(shared_engine: Engine) -> Engine:
    with shared_engine.begin() as connection:
        for table in TABLES:
            connection.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
        connection.exec_driver_sql(f"TRUNCATE {', '.join(TABLES)}")
        for table in TABLES:
            connection.exec_driver_sql(f"ALTER TABLE {table} ENABLE TRIGGER ALL")
    return shared_engine


@pytest.fixture
def store(engine: Engine) -> PostgresApprovalStore:
    return PostgresApprovalStore(engine)


class TestPostgresApprovalStore(ApprovalStoreContract):
    pass


COLUMNS = "approver, approver_proof, plan_digest, given_at, expires_at, reason, evidence"
INSERT = f"INSERT INTO approval (request_id, approver_key, {COLUMNS})"
COPY = f"{INSERT} SELECT request_id, 'bo', {COLUMNS} FROM approval"
OTHER_COLUMNS = COLUMNS.replace("plan_digest", "'b'")
FOR_ANOTHER_PLAN = f"{INSERT} SELECT request_id, 'bo', {OTHER_COLUMNS} FROM approval"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE approval SET expires_at = expires_at + interval '1 day'",
        "UPDATE approval_request SET plan_digest = 'another'",
        "DELETE FROM approval",
        "DELETE FROM approval_void",
        "TRUNCATE approval_void",
        COPY.replace("'bo'", "'rita'"),
        FOR_ANOTHER_PLAN,
        COPY.replace("SELECT request_id", "SELECT 'apr-voided'"),
    ],
    ids=["longer", "other plan", "removed", "reopened", "reopened by truncation", "own", "for another plan", "voided"],
)  # fmt: skip
def test_the_server_refuses_what_would_break_four_eyes_even_to_the_owner(
    engine: Engine, store: PostgresApprovalStore, statement: str
) -> None:
    store.add(a_request())
    store.give(an_approval())
    store.add(a_request("apr-voided"))
    store.void("apr-voided", VOIDED)
    before = store.cases()
    with pytest.raises(IntegrityError, match=r"written once|by another person"), engine.begin() as connection:
        connection.exec_driver_sql(statement)
    assert store.cases() == before


def test_the_server_takes_the_same_copy_where_no_rule_is_broken(engine: Engine, store: PostgresApprovalStore) -> None:
    """Otherwise the test above might pass for another reason than the rule it names."""
    store.add(a_request())
    store.give(an_approval())
    with engine.begin() as connection:
        connection.exec_driver_sql(COPY)
    assert len(store.read("apr-1").approvals) == 2


def test_a_database_that_is_down_is_an_outage_and_not_a_missing_request() -> None:
    store = PostgresApprovalStore(operations_engine("postgresql://nobody@/none?host=/nonexistent"))
    for call in (lambda: store.read("apr-1"), store.cases, lambda: store.add(a_request())):
        with pytest.raises(OperationsUnavailable):
            call()


def test_every_step_on_the_real_server_is_named_by_its_evidence(engine: Engine, store: PostgresApprovalStore) -> None:
    clock = ManualClock()
    log = PostgresEvidenceLog(engine, clock)
    desk = ApprovalDesk(store, log, clock)
    start = log.head().sequence
    first = desk.request("3.1", "production", PLAN, person("rita"), "weekly release")
    given = desk.approve(first.id, person("ada"), PLAN, "read the plan", valid_for=DAY)
    desk.request("3.1", "production", OTHER_PLAN, person("rita"), "one more correction")
    voided = store.read(first.id).request.voided
    assert voided is not None
    kinds = {entry.sequence: entry.kind for entry in log.entries(after=start)}
    assert [kinds[n] for n in (first.evidence, given.evidence, voided.evidence)] == [
        "approval-requested", "approval-given", "approval-voided",
    ]  # fmt: skip
