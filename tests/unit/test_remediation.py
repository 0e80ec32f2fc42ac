"""Guards that trouble is met with a bounded number of attempts, the root of it first, and one call for a person."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dr_platform.catalog import load_catalog
from dr_platform.catalog.models import Remediation
from dr_platform.operations.budgets import Spent
from dr_platform.platform import find_catalog
from dr_platform.remediation import (
    ROUTER,
    Action,
    Attempt,
    Clear,
    Condition,
    Escalate,
    Ground,
    Leave,
    Policy,
    Situation,
    Target,
    Trail,
    below,
    decide,
    remediable,
    situations,
)

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
POLICY = Policy.of(Remediation())
SERVICE: Target = ("services", "any")
DATABASE: Target = ("databases", "any")
CATALOG = load_catalog(find_catalog())


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def ill(seconds: float) -> Condition:
    return Condition(False, ago(seconds), "0 of 1 replicas ready")


def well(seconds: float) -> Condition:
    return Condition(True, ago(seconds))


def spent(attempts: int, last_s: float = 1000, escalated_s: float | None = None) -> Spent:
    at = ago(last_s) if attempts else None
    return Spent("s", 1, attempts, at, at, ago(escalated_s) if escalated_s is not None else None)


UNSPENT = spent(0)


def situation(
    condition: Condition,
    budget: Spent = UNSPENT,
    trail: Trail = Trail(),  # noqa: B008 - frozen
    below: Ground | None = None,
    target: Target = SERVICE,
    *,
    suspended: bool = False,
) -> Situation:
    return Situation(target, condition, budget, trail, {DATABASE: below} if below else {}, suspended)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(situation(ill(12)), Attempt(1), id="long enough ill is tried"),
        pytest.param(situation(ill(11)), Leave("may be starting"), id="the supervisor comes first"),
        pytest.param(situation(ill(39), target=DATABASE), Leave("may be starting"), id="databases start slowly"),
        pytest.param(situation(ill(40), target=DATABASE), Attempt(1), id="but not for ever"),
        pytest.param(
            situation(Condition(None, ago(999))), Leave("could not be looked at"), id="blind is no reason to act"
        ),
        pytest.param(
            situation(ill(99), trail=Trail(under_way=True)), Leave("a run is working on it"), id="one run at a time"
        ),
        pytest.param(
            situation(ill(99), below=Ground(ill(1))),
            Leave("stands on databases/any, which is unhealthy"),
            id="root cause first",
        ),
        pytest.param(
            situation(ill(99), below=Ground(Condition(None, ago(99)))), Attempt(1), id="blind below is no cause"
        ),
        pytest.param(
            situation(ill(99), below=Ground(well(5))), Leave("may be starting"), id="time to notice a mended cause"
        ),
        pytest.param(situation(ill(99), below=Ground(well(12))), Attempt(1), id="noticed nothing after that time"),
        pytest.param(
            situation(ill(99), below=Ground(None, Trail(under_way=True))),
            Leave("stands on databases/any, which is being worked on"),
            id="a cause under repair is a cause, although its check has no answer yet",
        ),
        pytest.param(
            situation(ill(99), below=Ground(None, Trail(ended_at=ago(11)))),
            Leave("may be starting"),
            id="a repair that has just ended was not looked at yet",
        ),
        pytest.param(situation(ill(99), below=Ground()), Attempt(1), id="ground that nobody looks at is no cause"),
        pytest.param(
            situation(ill(99), spent(1, 30), Trail(ended_at=ago(9), recent=1)),
            Leave("attempt 1 has time to work"),
            id="pauses count from the end of the attempt",
        ),
        pytest.param(situation(ill(99), spent(1, 30), Trail(ended_at=ago(10))), Attempt(2), id="first pause is 10 s"),
        pytest.param(
            situation(ill(99), spent(2, 19)), Leave("attempt 2 has time to work"), id="the second pause is longer"
        ),
        pytest.param(situation(ill(99), spent(2, 20)), Attempt(3), id="second pause is 20 s"),
        pytest.param(
            situation(ill(99), spent(3, 39)), Leave("attempt 3 has time to work"), id="the last attempt has its pause"
        ),
        pytest.param(
            situation(ill(99), spent(3, 40)),
            Escalate("3 attempts did not help: 0 of 1 replicas ready"),
            id="after the budget a person",
        ),
        pytest.param(situation(ill(99), spent(3, 99, 1)), Leave("a person was called"), id="then silence"),
        pytest.param(
            situation(ill(99), trail=Trail(recent=9)),
            Escalate("falls ill again and again, 9 attempts since 11:00: 0 of 1 replicas ready"),
            id="ever new episodes end in a call too",
        ),
        pytest.param(
            situation(ill(99), suspended=True),
            Leave("is suspended for maintenance"),
            id="who works on it is not disturbed",
        ),
        pytest.param(
            situation(ill(99), spent(3, 99), suspended=True), Leave("is suspended for maintenance"), id="nor called"
        ),
        pytest.param(
            situation(well(60), spent(1), suspended=True), Clear(), id="a suspended service gets its budget back too"
        ),
        pytest.param(situation(well(99)), Leave("well"), id="well"),
        pytest.param(
            situation(well(59), spent(1)), Leave("well again, not long enough to forget"), id="too early to forget"
        ),
        pytest.param(situation(well(60), spent(1)), Clear(), id="well for a while resets"),
        pytest.param(situation(well(60), spent(3, 999, 500)), Clear(), id="also after a call"),
    ],
)
def test_decide(given: Situation, expected: Action) -> None:
    assert decide(given, NOW, POLICY) == expected


def test_the_router_every_database_and_every_service_is_mended() -> None:
    expected = {ROUTER} | {("databases", n) for n in CATALOG.databases} | {("services", n) for n in CATALOG.services}
    assert set(remediable(CATALOG)) == expected


def test_what_a_service_stands_on_are_the_router_and_its_needs_and_databases_come_before_peers() -> None:
    name, needy = next((n, s) for n, s in CATALOG.services.items() if s.needs.services and s.needs.databases)
    found = list(below(CATALOG, ("services", name)))
    assert found[0] == ROUTER
    assert set(found[1:]) == {("databases", n) for n in needy.needs.databases} | {
        ("services", n) for n in needy.needs.services
    }
    layers = [layer for layer, _ in found[1:]]
    assert layers == sorted(layers)
    assert list(below(CATALOG, ("databases", next(iter(CATALOG.databases))))) == []


def test_only_targets_with_a_budget_are_decided_about_but_all_conditions_count_as_causes() -> None:
    name, service = next((n, s) for n, s in CATALOG.services.items() if s.needs.databases)
    target, database = ("services", name), ("databases", service.needs.databases[0])
    conditions = {target: ill(99), database: ill(99)}
    found = situations(CATALOG, conditions, {target: UNSPENT}, {})
    assert set(found) == {target}
    assert found[target].cause == f"stands on databases/{database[1]}, which is unhealthy"


def test_only_the_suspended_targets_are_left_to_whoever_works_on_them() -> None:
    names = list(CATALOG.services)[:2]
    conditions = {("services", name): ill(99) for name in names}
    found = situations(CATALOG, conditions, dict.fromkeys(conditions, UNSPENT), {}, {("services", names[0])})
    assert [found["services", name].suspended for name in names] == [True, False]


@dataclass
class World:
    """A target under the remediation sensor: looks each 5 s, runs of 10 s, answers as told.

    ``healed_by`` is the attempt after which it is well for good; ``None`` for never.
    """

    policy: Policy = POLICY
    healed_by: int | None = None
    now: datetime = NOW
    spent: Spent = UNSPENT
    condition: Condition = field(default_factory=lambda: Condition(True, NOW))
    run_ends: datetime | None = None
    attempts: list[datetime] = field(default_factory=list)
    escalations: list[datetime] = field(default_factory=list)
    clears: list[datetime] = field(default_factory=list)
    RUN = timedelta(seconds=10)

    def look(self, good: bool | None) -> None:
        healed = self.healed_by is not None and len(self.attempts) >= self.healed_by and not self._busy
        answer = True if healed else good
        if answer != self.condition.good:
            self.condition = Condition(answer, self.now)

    @property
    def _busy(self) -> bool:
        return self.run_ends is not None and self.now < self.run_ends

    def _trail(self) -> Trail:
        recent = sum(self.now - at <= self.policy.window for at in self.attempts)
        return Trail(self._busy, None if self._busy else self.run_ends, recent)

    def tick(self, good: bool | None) -> None:
        self.look(good)
        match decide(Situation(SERVICE, self.condition, self.spent, self._trail()), self.now, self.policy):
            case Attempt(number):
                assert not self._busy
                assert self.condition.good is False
                assert number == self.spent.attempts + 1
                self.spent = self.spent.with_attempt(self.now)
                self.attempts.append(self.now)
                self.run_ends = self.now + self.RUN
            case Escalate():
                self.spent = self.spent.with_escalation(self.now)
                self.escalations.append(self.now)
            case Clear():
                self.spent = self.spent.cleared()
                self.clears.append(self.now)
        self.now += timedelta(seconds=5)


def live(world: World, answers: Sequence[bool | None]) -> World:
    for answer in answers:
        world.tick(answer)
    return world


def test_a_permanent_fault_takes_exactly_the_budget_then_one_call_then_silence() -> None:
    world = live(World(), [False] * 5000)
    assert len(world.attempts) == POLICY.attempts
    assert len(world.escalations) == 1
    assert world.clears == []
    gaps = [b - a for a, b in zip(world.attempts, [*world.attempts[1:], *world.escalations], strict=True)]
    pauses = [POLICY.pause_after(n) + World.RUN for n in (1, 2, 3)]
    assert all(gap >= pause for gap, pause in zip(gaps, pauses, strict=True))
    assert all(gap < pause + timedelta(seconds=10) for gap, pause in zip(gaps, pauses, strict=True))


@pytest.mark.parametrize("attempt", [1, 2, 3])
def test_a_fault_that_an_attempt_heals_takes_just_so_many_and_nobody_is_called(attempt: int) -> None:
    world = live(World(healed_by=attempt), [False] * 500)
    assert len(world.attempts) == attempt
    assert world.escalations == []
    assert len(world.clears) == 1


def test_after_a_call_and_a_time_of_health_the_budget_is_whole_again() -> None:
    world = live(World(), [False] * 100 + [True] * 20 + [False] * 100)
    assert len(world.attempts) == 2 * POLICY.attempts
    assert len(world.escalations) == 2
    assert len(world.clears) == 1


@pytest.mark.parametrize(("ill_looks", "well_looks"), [(5, 14), (4, 30), (20, 14), (60, 13)])
def test_a_target_that_is_ill_and_well_in_turn_is_not_started_anew_for_ever(ill_looks: int, well_looks: int) -> None:
    world = live(World(), ([False] * ill_looks + [True] * well_looks) * 100)
    assert world.escalations
    hours = (world.now - NOW) / timedelta(hours=1)
    assert len(world.attempts) <= POLICY.attempts_in_window * (hours + 1)


answers = st.lists(st.tuples(st.sampled_from([True, False, None]), st.integers(1, 60)), min_size=1, max_size=40).map(
    lambda spells: [answer for answer, looks in spells for _ in range(looks)]
)


@settings(max_examples=150)
@given(answers)
def test_whatever_happens_attempts_stay_within_every_window(looks: list[bool | None]) -> None:
    world = live(World(), looks)
    for end in world.attempts:
        within = [at for at in world.attempts if end - POLICY.window <= at <= end]
        assert len(within) <= POLICY.attempts_in_window


@settings(max_examples=150)
@given(answers)
def test_whatever_happens_an_episode_has_its_budget_and_at_most_one_call_which_ends_it(
    looks: list[bool | None],
) -> None:
    world = live(World(), looks)
    bounds = [NOW - timedelta(days=1), *world.clears, world.now + timedelta(days=1)]
    for begin, end in itertools.pairwise(bounds):
        attempts = [at for at in world.attempts if begin < at <= end]
        calls = [at for at in world.escalations if begin < at <= end]
        assert len(attempts) <= POLICY.attempts
        assert len(calls) <= 1
        assert not calls or all(at < calls[0] for at in attempts)


@settings(max_examples=100)
@given(st.lists(st.sampled_from([True, None]), max_size=300))
def test_without_a_bad_look_nothing_is_ever_done(looks: list[bool | None]) -> None:
    world = live(World(), looks)
    assert (world.attempts, world.escalations, world.clears) == ([], [], [])
