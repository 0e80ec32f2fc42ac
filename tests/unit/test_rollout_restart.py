"""Guards restarts of what is stable, and second tries: one replica after the other, whoever is killed in
between, and never in the way of a rollout."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from dr_platform.catalog.models import Strategy
from dr_platform.rollout import record as records
from dr_platform.rollout.controller import Controller
from dr_platform.rollout.record import Record, Restart, Restarted
from dr_platform.rollout.requests import (
    NobodyActs,
    RolloutRefused,
    Wanted,
    ask,
    call_off,
    follow_restart,
    last_try,
    restart,
    steer,
)
from dr_platform.rollout.strategy import IMMEDIATE_WEIGHTS, rollback_steps
from dr_platform.runtime.port import Slot, StaleEpoch, Weights
from tests.contracts.runtime import a_workload
from tests.rollouts import World

pytestmark = pytest.mark.unit

BLUE, GREEN = Slot.BLUE, Slot.GREEN
EACH_S = 30.0


@pytest.fixture
def world() -> World:
    return a_world()


def a_world(replicas: int = 3) -> World:
    world = World()
    world.runtime.apply(BLUE, a_workload(world.service, "1", replicas))
    world.clock.sleep(60)
    return world


def asked(world: World, number: int = 1) -> Restart:
    return restart(world.runtime, world.name, Wanted(f"rs-{number}", EACH_S, "olga", world.clock.now()))


def looks(world: World, controller: Controller, most: int = 120) -> Iterator[None]:
    for _ in range(most):
        controller.tick()
        if world.record().restart is None:
            controller.tick()  # what is to be told
            return
        yield
        world.clock.sleep(1.0)
    raise AssertionError(f"not ended: {world.record().restart}")


def ended(world: World, controller: Controller | None = None) -> Restarted:
    for _ in looks(world, controller or world.controller("a")):
        pass
    how = world.record().restarted
    assert how is not None
    return how


def ready(world: World) -> int:
    return world.observed().slots[BLUE].ready


def test_every_replica_is_started_anew_one_after_the_other_and_nothing_else_changes(world: World) -> None:
    before, weights = world.observed().slots[BLUE].replicas, world.observed().weights
    started: list[int] = []
    asked(world)
    for _ in looks(world, world.controller("a")):
        replicas = world.observed().slots[BLUE].replicas
        started.append(sum(now.started_at != then.started_at for now, then in zip(replicas, before, strict=True)))
    assert started == [1, 2, 3]
    how, record = world.record().restarted, world.record()
    assert how is not None
    assert (how.done, how.why) == (True, "done: 3 replicas")
    assert world.observed().weights == weights
    assert record.last is None
    told = world.told["rs-1:restart-ended"]
    assert (told.subject, told.body["replicas"], told.body["done"]) == (f"services/{world.name}", 3, True)


def test_a_replica_that_is_ill_goes_first_and_is_well_afterwards(world: World) -> None:
    ill = world.observed().slots[BLUE].replicas[2].name
    world.runtime.faults.unready_replicas.add(ill)
    asked(world)
    controller = world.controller("a")
    controller.tick()
    assert world.runtime.faults.unready_replicas == set()
    assert asked_of(world).current == ill
    assert ended(world, controller).done
    assert ready(world) == 3


def asked_of(world: World) -> Restart:
    found = world.record().restart
    assert found is not None
    return found


def test_a_revision_that_does_not_start_any_more_loses_one_replica_and_not_the_service(world: World) -> None:
    before = world.observed().slots[BLUE].replicas
    asked(world)
    controller = world.controller("a")
    controller.tick()
    first = asked_of(world).current
    assert first is not None
    world.runtime.faults.unready_replicas.add(first)
    how = ended(world, controller)
    assert not how.done
    assert first in how.why
    assert "2 were left as they were" in how.why
    assert [r.started_at for r in world.observed().slots[BLUE].replicas[1:]] == [r.started_at for r in before[1:]]
    assert world.clock.monotonic() - 60 == pytest.approx(EACH_S, abs=2)


class Killed(BaseException):
    """The controller's process is gone at this moment."""


class Dying:
    """A runtime whose caller is killed before or after its n-th write."""

    def __init__(self, world: World, at: int, moment: str) -> None:
        self._runtime, self._left, self._moment = world.runtime, at, moment

    def __getattr__(self, name: str) -> object:
        method = getattr(self._runtime, name)
        if name not in ("write_record", "replace", "apply"):
            return method

        def write(*args: object) -> object:
            self._left -= 1
            if self._left == 0 and self._moment == "before":
                raise Killed
            result = method(*args)
            if self._left == 0:
                raise Killed
            return result

        return write


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_any_write_the_successor_ends_it_and_starts_no_replica_anew_twice(moment: str) -> None:
    for at in range(1, 100):
        world = a_world()
        asked(world)
        try:
            first = world.controller("first", Dying(world, at, moment))  # ty: ignore[invalid-argument-type]
            for _ in looks(world, first):
                assert ready(world) == 3
        except Killed:
            world.clock.sleep(16)  # its lease has lapsed
            assert ended(world, world.controller("second")).done
        else:
            assert at > 6
            return
        lives = world.runtime._lives
        assert [len(lives[replica.name]) for replica in world.observed().slots[BLUE].replicas] == [2, 2, 2], at
        assert list(world.told) == ["rs-1:restart-ended"]


def test_a_replica_that_a_stop_left_beside_its_successor_is_taken_away(world: World) -> None:
    asked(world)
    world.runtime.apply(BLUE, a_workload(world.service, "1", 4))
    assert ended(world).done
    assert (world.observed().slots[BLUE].desired, ready(world)) == (3, 3)


def test_a_deployment_goes_first_and_the_restart_ends(world: World) -> None:
    asked(world)
    controller = world.controller("a")
    controller.tick()
    ask(world.runtime, world.name, world.intent())
    record = world.to_the_end(controller)
    assert record.last is not None
    assert record.last.result == "promoted"
    assert record.restarted is not None
    assert (record.restarted.done, record.restart) == (False, None)
    assert "a rollout was asked for" in record.restarted.why


def test_what_is_kept_warm_stays_so_and_can_be_gone_back_to(world: World) -> None:
    ask(world.runtime, world.name, world.intent())
    controller = world.controller("a")
    world.to_the_end(controller)
    warm, watched = world.record().warm, world.observed().slots[BLUE]
    world.clock.sleep(5)
    asked(world)
    assert ended(world, controller).done
    assert world.record().warm == warm
    assert world.observed().slots[BLUE] == watched
    ask(world.runtime, world.name, world.intent("1", kind="rollback", steps=rollback_steps(IMMEDIATE_WEIGHTS, 2)))
    record = world.to_the_end(controller)
    assert record.last is not None
    assert record.last.result == "rolled_back"


def test_it_is_refused_while_a_rollout_is_open_another_is_under_way_or_nothing_is_stable(world: World) -> None:
    first = asked(world)
    with pytest.raises(RolloutRefused, match="rs-1 is under way"):
        asked(world, 2)
    assert restart(world.runtime, world.name, Wanted("rs-1", EACH_S, "olga", world.clock.now())) == first
    ended(world)
    ask(world.runtime, world.name, world.intent())
    with pytest.raises(RolloutRefused, match="a rollout is open"):
        asked(world, 3)
    with pytest.raises(RolloutRefused, match="nothing is stable"):
        asked(World(stable=False))


def test_a_restart_that_nobody_carries_on_is_said_and_stays_asked_for(world: World) -> None:
    made = asked(world)
    with pytest.raises(NobodyActs, match="did not move for 30 s"):
        follow_restart(world.runtime, made, world.name, world.clock, 30.0)
    assert world.record().restart == made


def test_a_restart_is_followed_to_its_end(world: World) -> None:
    made, controller = asked(world), world.controller("a")
    lines: list[str] = []

    class Acting:
        now, monotonic = world.clock.now, world.clock.monotonic

        def sleep(self, seconds: float) -> None:
            world.clock.sleep(max(1.0, seconds))
            controller.tick()

    assert follow_restart(world.runtime, made, world.name, Acting(), 30.0, lines.append).done
    assert len(lines) == len(set(lines)) >= 2


# Once more


def taken_back(world: World) -> Record:
    world.smoke_passes = False
    ask(world.runtime, world.name, world.intent(strategy=Strategy.ROLLING))
    return world.to_the_end(world.controller("a"))


def test_what_was_aborted_is_remembered_with_its_revision_and_strategy(world: World) -> None:
    taken_back(world)
    last, revision = last_try(world.record())
    assert (last.result, last.strategy, revision) == ("aborted", Strategy.ROLLING, world.revision("2"))


def test_what_ended_as_asked_is_not_tried_again_nor_what_is_open(world: World) -> None:
    with pytest.raises(RolloutRefused, match="no rollout yet"):
        last_try(world.record())
    ask(world.runtime, world.name, world.intent())
    with pytest.raises(RolloutRefused, match="open"):
        last_try(world.record())
    world.to_the_end(world.controller("a"))
    with pytest.raises(RolloutRefused, match="as asked"):
        last_try(world.record())


def test_a_record_of_before_revisions_were_kept_is_read_and_refused(world: World) -> None:
    record = taken_back(world)
    assert record.last is not None
    written = json.loads(record.to_text())
    for new in ("revision", "ended_by"):
        del written["last"][new]
    for new in ("restart", "restarted"):
        del written[new]
    with pytest.raises(RolloutRefused, match="without its revision"):
        last_try(Record.from_text(json.dumps(written)))


# Calling off


def test_a_request_that_waits_is_called_off_and_its_follower_finds_the_end(world: World) -> None:
    intent = world.intent()
    ask(world.runtime, world.name, intent)
    call_off(world.runtime, world.name, intent.id, "release 4.0", world.clock.now())
    last = world.record().last
    assert last is not None
    assert (last.rollout, last.result, last.ended_by) == (intent.id, "aborted", "release 4.0")
    world.controller("a").tick()
    assert world.observed().slots[GREEN].revision is None


def test_an_open_rollout_is_called_off_without_an_incident_or_a_hold_and_others_are_left_alone(world: World) -> None:
    intent = world.intent()
    ask(world.runtime, world.name, intent)
    controller = world.controller("a")
    for _ in world.seconds(controller):
        if world.observed().weights == Weights(75, 25):
            break
    before = world.record()
    assert call_off(world.runtime, world.name, "another", "release 4.0", world.clock.now()) == before
    call_off(world.runtime, world.name, intent.id, "release 4.0", world.clock.now())
    record = world.to_the_end(controller)
    assert record.last is not None
    assert (record.last.result, record.last.ended_by) == ("aborted", "release 4.0")
    assert (record.holds, world.incidents(), record.automatic_rollbacks) == ((), [], ())
    assert world.observed().weights == Weights(100, 0)
    assert call_off(world.runtime, world.name, intent.id, "release 4.0", world.clock.now()) == record


def test_what_a_person_aborted_names_that_person_as_who_ended_it(world: World) -> None:
    ask(world.runtime, world.name, world.intent())
    controller = world.controller("a")
    controller.tick()
    steer(world.runtime, world.name, "abort", "olga")
    record = world.to_the_end(controller)
    assert record.last is not None
    assert record.last.ended_by == "olga"


# Fencing


def test_a_controller_that_wakes_after_a_takeover_scales_nothing_even_before_its_successor_changed_anything(
    world: World,
) -> None:
    ask(world.runtime, world.name, world.intent())
    old, new = world.controller("old"), world.controller("new")
    for _ in world.seconds(old):
        if world.observed().weights == Weights(75, 25):
            break
    world.clock.sleep(16)
    new.tick()
    assert records.read(world.runtime, world.name).record.epoch == 2
    before = world.observed().slots
    with pytest.raises(StaleEpoch):
        world.runtime.apply(GREEN, a_workload(world.service, "2", 1), 1)
    with pytest.raises(StaleEpoch):
        world.runtime.retire(world.name, GREEN, 1)
    assert world.observed().slots == before
