"""Guards the way of a release: promoted when good, taken back when bad, whoever is killed in between."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime

import pytest

from dr_platform.catalog.models import Strategy
from dr_platform.errors import PlatformError, TemporaryFailure
from dr_platform.rollout.controller import Controller
from dr_platform.rollout.record import Phase, Record
from dr_platform.rollout.requests import NobodyActs, RolloutRefused, ask, follow, steer
from dr_platform.rollout.strategy import IMMEDIATE_WEIGHTS, Step, rollback_steps, steps_of
from dr_platform.runtime.port import CLOSED, ProbeResult, Runtime, Slot, Weights
from tests.rollouts import World, answer

pytestmark = pytest.mark.unit

BLUE, GREEN = Slot.BLUE, Slot.GREEN


def outcome(record: Record) -> str:
    assert record.last is not None
    return record.last.result


def deploy(world: World, **changes: object) -> Record:
    ask(world.runtime, world.name, world.intent(**changes))  # ty: ignore[invalid-argument-type]
    return world.to_the_end(world.controller("a"))


def failing_after(world: World, version: str, seconds: int, ratio: float) -> object:
    def each(second: int) -> None:
        if second == seconds:
            world.traffic.error_ratio[version] = ratio

    return each


@pytest.mark.parametrize("strategy", [Strategy.CANARY, Strategy.BLUE_GREEN, Strategy.ROLLING])
def test_a_good_version_is_promoted_and_the_one_before_stays_warm_where_that_is_wanted(strategy: Strategy) -> None:
    world = World()
    record = deploy(world, strategy=strategy, steps=steps_of(strategy, 2, 5.0))
    assert outcome(record) == "promoted"
    assert record.stable is not None
    assert record.stable.revision.version == "2"
    assert world.observed().weights == Weights(0, 100)
    assert world.observed().slots[GREEN].ready == 2
    assert world.incidents() == []
    warm = world.observed().slots[BLUE].ready == 2
    assert warm == (strategy is not Strategy.ROLLING)


def test_what_cannot_run_twice_is_stopped_before_its_successor_starts() -> None:
    world = World()
    seen: set[tuple[bool, bool]] = set()
    ask(world.runtime, world.name, world.intent(strategy=Strategy.RECREATE, steps=steps_of(Strategy.RECREATE, 2, 5.0)))

    def each(_second: int) -> None:
        slots = world.observed().slots
        seen.add((slots[BLUE].revision is not None, slots[GREEN].revision is not None))

    record = world.to_the_end(world.controller("a"), each)
    assert outcome(record) == "promoted"
    assert (True, True) not in seen


def test_the_version_before_is_emptied_when_its_warm_time_is_over() -> None:
    world = World()
    deploy(world)
    controller = world.controller("b")
    world.clock.sleep(59)
    controller.tick()
    assert world.observed().slots[BLUE].revision is not None
    world.clock.sleep(2)
    controller.tick()
    assert world.observed().slots[BLUE].revision is None
    assert world.record().warm is None


def test_a_first_deployment_takes_all_traffic_at_once_and_a_bad_one_leaves_none() -> None:
    good, bad = World(stable=False), World(stable=False)
    assert outcome(deploy(good)) == "promoted"
    bad.traffic.error_ratio["2"] = 1.0
    assert outcome(deploy(bad)) == "rolled_back"
    assert bad.observed().weights == CLOSED
    assert bad.observed().slots[BLUE].revision is None
    assert len(bad.incidents()) == 1


def test_deploying_what_is_stable_does_nothing() -> None:
    world = World()
    record = deploy(world, version="1")
    assert (outcome(record), record.last and record.last.reason) == ("promoted", "it is stable already")
    assert world.observed().slots[GREEN].revision is None


@pytest.mark.parametrize(("ratio", "within_s"), [(1.0, 3), (0.2, 8)])
def test_errors_of_the_candidate_bring_all_traffic_back_within_seconds(ratio: float, within_s: int) -> None:
    world = World(rate=200)

    def each(_second: int) -> None:
        if world.observed().weights == Weights(75, 25):
            world.traffic.error_ratio["2"] = ratio

    ask(world.runtime, world.name, world.intent())
    record = world.to_the_end(world.controller("a"), each)
    assert outcome(record) == "rolled_back"
    assert world.observed().weights == Weights(100, 0)
    (incident,) = world.incidents()
    assert incident.body["trigger"] == "errors"
    assert incident.body["fired_guard"] is True
    assert incident.body["measured"]["threshold"] == 0.05
    restored = next(event for event in world.told.values() if event.kind == "incident-restored")
    began = datetime.fromisoformat(incident.body["first_failure_at"])
    assert 0 < (datetime.fromisoformat(restored.body["restored_at"]) - began).total_seconds() <= within_s
    assert restored.body["errors"] > 0


def test_a_rolled_back_revision_is_held_from_programs_and_not_from_persons() -> None:
    world = World()
    world.traffic.error_ratio["2"] = 1.0
    assert outcome(deploy(world)) == "rolled_back"
    world.traffic.error_ratio.clear()
    assert outcome(deploy(world, automatic=True)) == "refused"
    record = deploy(world)
    assert outcome(record) == "promoted"
    assert record.holds == ()


def test_smoke_tests_that_fail_abort_at_weight_0_without_an_incident() -> None:
    world = World()
    world.smoke_passes = False
    assert outcome(deploy(world)) == "aborted"
    assert world.incidents() == []
    assert world.record().holds[0].revision.version == "2"


def test_own_requests_that_the_router_refuses_before_it_knows_a_candidate_say_nothing_against_it() -> None:
    world = World()
    world.smoke_passes, world.traffic.refused_at_weight_0 = None, 5.0
    ask(world.runtime, world.name, world.intent())

    def each(second: int) -> None:
        if second == 5:
            world.smoke_passes, world.traffic.refused_at_weight_0 = True, 0.0

    assert outcome(world.to_the_end(world.controller("a"), each)) == "promoted"


def test_a_controller_that_ends_in_order_gives_its_lease_back_and_one_that_has_none_takes_none_away() -> None:
    world = World()
    holder, waiting, third = world.controller("a"), world.controller("b"), world.controller("c")
    assert (holder.tick(), waiting.tick()) == (True, False)
    stopped = threading.Event()
    stopped.set()
    waiting.run(stopped, 1.0)
    assert third.tick() is False
    holder.run(stopped, 1.0)
    assert third.tick() is True


def test_a_candidate_that_crashes_at_every_start_is_aborted_before_its_deadline() -> None:
    world = World()
    world.runtime.faults.crashing_versions.add("2")
    began = world.clock.monotonic()
    assert outcome(deploy(world)) == "aborted"
    assert world.clock.monotonic() - began < 20


def test_a_candidate_that_never_gets_ready_is_aborted_at_its_deadline() -> None:
    world = World()
    world.runtime.faults.unready_versions.add("2")
    assert outcome(deploy(world)) == "aborted"
    assert world.clock.monotonic() >= 20


def test_a_failed_compliance_test_and_a_security_alert_roll_back_each_with_its_trigger() -> None:
    for trigger in ("hipaa", "security"):
        world = World()

        def each(_second: int, world: World = world, trigger: str = trigger) -> None:
            if world.observed().weights == Weights(75, 25):
                if trigger == "hipaa":
                    world.runtime.faults.answers["2"] = answer("2", compliant=False)
                else:
                    world.alerts = 1

        ask(world.runtime, world.name, world.intent())
        assert outcome(world.to_the_end(world.controller("a"), each)) == "rolled_back"
        assert [event.body["trigger"] for event in world.incidents()] == [trigger]
        assert world.incidents()[0].body["fired_literal"] is True


def test_no_data_is_no_success_the_rollout_waits_for_a_person_and_goes_on_when_told() -> None:
    world = World(rate=0.0)
    ask(world.runtime, world.name, world.intent())
    controller = world.controller("a")
    for _ in world.seconds(controller, most=200):
        rollout = world.record().rollout
        if rollout is not None and rollout.paused:
            break
    rollout = world.record().rollout
    assert rollout is not None
    assert rollout.synthetic
    assert "promote or abort" in str(rollout.paused)
    steer(world.runtime, world.name, "promote", "somebody")
    assert outcome(world.to_the_end(controller)) == "promoted"


def test_guards_go_on_during_a_pause_and_abort_outranks_promote() -> None:
    world = World()
    ask(world.runtime, world.name, world.intent())
    controller = world.controller("a")
    for _ in world.seconds(controller):
        if world.observed().weights == Weights(75, 25):
            break
    steer(world.runtime, world.name, "pause", "somebody")
    for _ in range(30):
        controller.tick()
        world.clock.sleep(1)
    assert world.observed().weights == Weights(75, 25)
    world.traffic.error_ratio["2"] = 1.0
    assert outcome(world.to_the_end(controller)) == "rolled_back"

    other = World()
    ask(other.runtime, other.name, other.intent())
    controller = other.controller("a")
    for _ in other.seconds(controller):
        if other.observed().weights == Weights(75, 25):
            break
    steer(other.runtime, other.name, "abort", "somebody")
    steer(other.runtime, other.name, "promote", "somebody")
    record = other.to_the_end(controller)
    assert outcome(record) == "aborted"
    assert other.incidents() == []
    assert record.holds == ()  # nothing was found wrong with it


def test_a_newer_version_takes_the_older_rollout_back_and_follows_it() -> None:
    world = World()
    ask(world.runtime, world.name, world.intent("2"))
    controller = world.controller("a")
    for _ in world.seconds(controller):
        if world.observed().weights == Weights(75, 25):
            break
    ask(world.runtime, world.name, world.intent("3"))
    record = world.to_the_end(controller)
    assert record.stable is not None
    assert record.stable.revision.version == "3"
    results = [e.body["result"] for e in world.told.values() if e.kind == "rollout-ended"]
    assert results == ["aborted", "promoted"]
    assert world.incidents() == []


def test_a_rollback_goes_to_the_warm_version_in_one_look_and_holds_what_it_came_from() -> None:
    world = World()
    deploy(world)
    at_once = rollback_steps(IMMEDIATE_WEIGHTS, 2)
    intent = world.intent("1", kind="rollback", automatic=True, steps=at_once)
    ask(world.runtime, world.name, intent)
    began = world.clock.monotonic()
    record = world.to_the_end(world.controller("a"))
    assert outcome(record) == "rolled_back"
    assert world.clock.monotonic() - began <= 3
    assert world.observed().weights == Weights(100, 0)
    assert record.is_held(world.revision("2"))
    assert len(record.automatic_rollbacks) == 1


def test_when_the_stable_version_cannot_take_the_traffic_a_person_is_needed_and_nothing_more_is_done() -> None:
    world = World()
    ask(world.runtime, world.name, world.intent())
    controller = world.controller("a")
    for _ in world.seconds(controller):
        if world.observed().weights == Weights(75, 25):
            break
    world.runtime.faults.unready_versions.add("1")
    world.traffic.error_ratio["2"] = 1.0
    for _ in range(200):
        controller.tick()
        world.clock.sleep(1)
    rollout = world.record().rollout
    assert rollout is not None
    assert rollout.phase is Phase.STUCK
    with pytest.raises(RolloutRefused, match="stuck"):
        ask(world.runtime, world.name, world.intent("3"))
    world.runtime.faults.unready_versions.clear()
    steer(world.runtime, world.name, "abort", "somebody")
    assert outcome(world.to_the_end(controller)) == "rolled_back"


# Crash injection: the points are the writes that the code makes, counted and not listed by hand.


class Killed(BaseException):
    """The controller's process is gone at this moment."""


WRITES = ("apply", "route", "retire", "replace", "fence", "write_record")


class Dying:
    """A runtime whose caller is killed before or after its n-th write."""

    def __init__(self, runtime: Runtime, at: int, moment: str) -> None:
        self._runtime, self._left, self._moment = runtime, at, moment
        self.writes = 0

    def __getattr__(self, name: str) -> object:
        method = getattr(self._runtime, name)
        if name not in WRITES:
            return method

        def write(*args: object, **kwargs: object) -> object:
            self.writes += 1
            self._left -= 1
            if self._left == 0 and self._moment == "before":
                raise Killed
            result = method(*args, **kwargs)
            if self._left == 0 and self._moment == "after":
                raise Killed
            return result

        return write


SCENARIOS = {
    "good canary": ({}, 0.0),
    "bad canary": ({}, 1.0),
    "good blue/green": ({"strategy": Strategy.BLUE_GREEN, "steps": steps_of(Strategy.BLUE_GREEN, 2, 5.0)}, 0.0),
    "bad blue/green": ({"strategy": Strategy.BLUE_GREEN, "steps": steps_of(Strategy.BLUE_GREEN, 2, 5.0)}, 1.0),
    "bad recreate": ({"strategy": Strategy.RECREATE, "steps": steps_of(Strategy.RECREATE, 2, 5.0)}, 1.0),
}


def killed_at(scenario: str, at: int, moment: str) -> tuple[World, bool]:
    """Run with a controller that dies at that write, then with successors; whether it died at all."""
    changes, ratio = SCENARIOS[scenario]
    world = World()
    world.traffic.error_ratio["2"] = ratio
    ask(world.runtime, world.name, world.intent(**changes))  # ty: ignore[invalid-argument-type]
    dying = Dying(world.runtime, at, moment)
    died = False
    try:
        check(world, world.seconds(world.controller("first", dying)))  # ty: ignore[invalid-argument-type]
    except Killed:
        died = True
    world.clock.sleep(16)  # its lease has lapsed
    check(world, world.seconds(world.controller("second")))
    return world, died


def check(world: World, looks: Iterator[int]) -> None:
    for _ in looks:
        weights = world.observed().weights
        assert weights is not None
        assert weights.blue + weights.green in (0, 100)
        for slot in Slot:
            assert weights.of(slot) == 0 or world.observed().slots[slot].ready > 0


@pytest.mark.parametrize("scenario", list(SCENARIOS))
def test_killed_before_or_after_any_write_the_successor_reaches_the_same_end(scenario: str) -> None:
    bad = scenario.startswith("bad")
    for moment in ("before", "after"):
        for at in range(1, 1000):
            world, died = killed_at(scenario, at, moment)
            record = world.record()
            assert record.rollout is None, (at, moment)
            assert outcome(record) == ("rolled_back" if bad else "promoted"), (at, moment)
            assert record.stable is not None
            assert record.stable.revision.version == ("1" if bad else "2")
            assert world.observed().weights == Weights.all_to(record.stable.slot), (at, moment)
            assert len(world.incidents()) == (1 if bad else 0), (at, moment)
            assert world.traffic.lost == 0
            if not died:
                assert at > 10
                break


def test_a_controller_that_slept_through_a_takeover_changes_nothing_any_more() -> None:
    world = World()
    ask(world.runtime, world.name, world.intent())
    old, new = world.controller("old"), world.controller("new")
    for _ in world.seconds(old):
        if world.observed().weights == Weights(75, 25):
            break
    assert new.tick() is False
    world.clock.sleep(16)
    assert new.tick() is True
    before = world.record()
    assert before.epoch == 2
    assert old.tick() is False
    assert world.record() == before
    assert outcome(world.to_the_end(new)) == "promoted"


def test_an_old_controller_that_passed_its_lease_check_is_refused_by_its_epoch() -> None:
    world = World()
    ask(world.runtime, world.name, world.intent())
    old, new = world.controller("old"), world.controller("new")
    for _ in world.seconds(old):
        if world.observed().weights == Weights(75, 25):
            break
    stale = world.record()
    world.clock.sleep(16)
    new.tick()
    world.to_the_end(new)
    weights = world.observed().weights
    with pytest.raises(PlatformError):
        world.runtime.route(world.name, Weights(50, 50), stale.epoch - 1)
    assert world.observed().weights == weights


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0, -1.5, 90.0])
@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_a_clock_that_jumps_changes_the_end_of_no_rollout(jump_s: float, ratio: float) -> None:
    world = World()
    world.traffic.error_ratio["2"] = ratio
    ask(world.runtime, world.name, world.intent())
    controller = world.controller("a")

    def each(second: int) -> None:
        if second == 3:
            world.clock.jump(jump_s)

    world.to_the_end(controller, each)
    result = outcome(world.record())
    assert result in (("rolled_back",) if ratio else ("promoted", "rolled_back", "aborted"))
    assert (world.observed().weights or CLOSED) in (Weights(100, 0), Weights(0, 100))
    if result != "promoted":
        assert world.observed().weights == Weights(100, 0)


def test_metrics_that_are_away_for_a_while_only_delay() -> None:
    world = World()
    ask(world.runtime, world.name, world.intent())

    def each(second: int) -> None:
        world.traffic.away = 3 <= second < 12

    record = world.to_the_end(world.controller("a"), each)
    assert outcome(record) in ("promoted", "rolled_back")


def test_an_operations_database_that_is_away_stops_nothing_and_is_told_afterwards() -> None:
    world = World()
    world.traffic.error_ratio["2"] = 1.0
    controller = world.controller("a")
    tell = controller.tell

    def away(_event: object) -> None:
        raise TemporaryFailure

    controller.tell = away
    ask(world.runtime, world.name, world.intent())
    assert outcome(world.to_the_end(controller)) == "rolled_back"
    assert world.incidents() == []
    controller.tell = tell
    controller.tick()
    assert len(world.incidents()) == 1
    assert world.record().outbox == ()


def test_an_unreadable_router_delays_and_a_request_without_an_answer_is_a_failed_probe() -> None:
    world = World()
    ask(world.runtime, world.name, world.intent())

    def each(second: int) -> None:
        world.runtime.faults.router_unreachable = 2 <= second < 6

    assert outcome(world.to_the_end(world.controller("a"), each)) in ("promoted", "rolled_back")
    assert ProbeResult(None).ok is False


class Acting:
    """The world's clock; whenever somebody sleeps on it, the controller looks."""

    def __init__(self, world: World, controller: Controller | None) -> None:
        self._clock, self._controller = world.clock, controller
        self.now, self.monotonic = world.clock.now, world.clock.monotonic

    def sleep(self, seconds: float) -> None:
        self._clock.sleep(max(1.0, seconds))
        if self._controller is not None:
            self._controller.tick()


def test_a_watch_that_is_longer_than_the_followers_patience_is_followed_to_its_end() -> None:
    world = World()
    intent = world.intent(steps=(Step(25, 1, 300.0), Step(100, 2, 5.0)))
    ask(world.runtime, world.name, intent)
    lines: list[str] = []
    ended = follow(world.runtime, world.name, intent.id, Acting(world, world.controller("a")), 30.0, lines.append)
    assert ended.result == "promoted"
    assert world.clock.monotonic() > 300
    assert len(lines) == len(set(lines))  # each is said once


def test_a_rollout_that_nobody_carries_on_is_said_and_stays_asked_for() -> None:
    world = World()
    intent = world.intent()
    ask(world.runtime, world.name, intent)
    with pytest.raises(NobodyActs, match="did not move for 30 s"):
        follow(world.runtime, world.name, intent.id, Acting(world, None), 30.0)
    assert world.record().queued == intent
    assert outcome(world.to_the_end(world.controller("later"))) == "promoted"
