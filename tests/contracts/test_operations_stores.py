"""Observations and remediation budgets on a real PostgreSQL server."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from dr_platform.operations import OperationsUnavailable, operations_engine
from dr_platform.operations.budgets import RemediationBudgets, Spent, StaleBudget
from dr_platform.operations.observations import Observation, Observations
from dr_platform.verdict import Verdict
from tests.postgres_server import PostgresServer, operations_database, running_postgres

pytestmark = pytest.mark.contract

T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SUBJECT = "services/example"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def engine(server: PostgresServer) -> Iterator[Engine]:
    with operations_database(server) as engine:
        yield engine


@pytest.fixture
def observations(engine: Engine) -> Observations:
    return Observations(engine)


@pytest.fixture
def budgets(engine: Engine) -> RemediationBudgets:
    return RemediationBudgets(engine)


def seen(minute: int, passed: bool | None, subject: str = SUBJECT, look: str = "health") -> Observation:
    return Observation(T0 + minute * MINUTE, subject, look, Verdict(passed, f"minute {minute}", {"latency_ms": 1.5}))


def test_what_was_recorded_is_found_oldest_first_with_its_three_answers(observations: Observations) -> None:
    recorded = [seen(2, None), seen(0, True), seen(1, False)]
    observations.record(recorded)
    assert observations.history(SUBJECT, "health", T0) == (recorded[1], recorded[2], recorded[0])
    assert observations.history(SUBJECT, "health", T0 + MINUTE) == (recorded[2], recorded[0])
    assert observations.history(SUBJECT, "hipaa", T0) == ()


def test_the_newest_is_found_for_each_subject_and_look(observations: Observations) -> None:
    observations.record([seen(0, True), seen(5, False), seen(3, True), seen(1, None, look="hipaa")])
    observations.record([seen(2, True, subject="databases/example")])
    assert observations.newest() == {
        (SUBJECT, "health"): seen(5, False),
        (SUBJECT, "hipaa"): seen(1, None, look="hipaa"),
        ("databases/example", "health"): seen(2, True, subject="databases/example"),
    }


def test_of_two_at_the_same_moment_the_one_recorded_later_is_the_newest(observations: Observations) -> None:
    observations.record([seen(0, True)])
    observations.record([seen(0, False)])
    assert observations.newest()[SUBJECT, "health"].verdict.passed is False


def test_pruning_removes_what_is_older_than_is_kept_and_nothing_else(observations: Observations) -> None:
    observations.record([seen(minute, True) for minute in range(10)])
    assert observations.prune(T0 + 10 * MINUTE, kept=4 * MINUTE) == 6
    assert len(observations.history(SUBJECT, "health", T0)) == 4
    assert observations.prune(T0 + 10 * MINUTE, kept=4 * MINUTE) == 0


def test_a_record_that_cannot_be_stored_as_a_whole_is_not_stored_at_all(observations: Observations) -> None:
    broken = Observation(T0, "subject with \0", "health", Verdict(True, ""))
    with pytest.raises(Exception, match="NUL"):
        observations.record([seen(0, True), broken])
    assert observations.newest() == {}


def test_recording_nothing_is_no_error(observations: Observations) -> None:
    observations.record([])
    assert observations.newest() == {}


def test_a_subject_that_was_never_remediated_has_spent_nothing(budgets: RemediationBudgets) -> None:
    assert budgets.read(SUBJECT) == Spent(SUBJECT)


def test_attempts_are_counted_with_their_times_until_the_subject_is_well(budgets: RemediationBudgets) -> None:
    spent = budgets.write(budgets.read(SUBJECT).with_attempt(T0))
    spent = budgets.write(spent.with_attempt(T0 + MINUTE))
    spent = budgets.write(spent.with_escalation(T0 + 2 * MINUTE))
    assert budgets.read(SUBJECT) == spent == Spent(SUBJECT, 3, 2, T0, T0 + MINUTE, T0 + 2 * MINUTE)
    assert budgets.write(spent.cleared()) == Spent(SUBJECT, 4)
    assert budgets.read("services/other") == Spent("services/other")


@pytest.mark.parametrize("before", [0, 1], ids=["never stored", "stored before"])
def test_of_many_who_act_on_one_state_exactly_one_may(budgets: RemediationBudgets, before: int) -> None:
    if before:
        budgets.write(Spent(SUBJECT).with_attempt(T0))
    read = budgets.read(SUBJECT)

    def act(_number: int) -> bool:
        try:
            budgets.write(read.with_attempt(T0))
        except StaleBudget:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(act, range(6))) == 1
    assert budgets.read(SUBJECT).attempts == before + 1


def test_a_database_that_is_down_is_an_outage_and_not_an_unspent_budget() -> None:
    engine = operations_engine("postgresql://nobody@/none?host=/nonexistent")
    for call in (lambda: RemediationBudgets(engine).read(SUBJECT), lambda: Observations(engine).newest()):
        with pytest.raises(OperationsUnavailable):
            call()
