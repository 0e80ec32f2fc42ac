"""Guards what happens after a promotion: a program goes back within its budget, else a person is called once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.catalog.models import Strategy
from dr_platform.rollout import record as records
from dr_platform.rollout.aftercare import (
    STALE,
    Call,
    Case,
    Finding,
    GoBack,
    Leave,
    Standing,
    asking,
    automatic_rollbacks,
    calling,
    decide,
    find,
    is_due,
    watched,
)
from dr_platform.rollout.guards import GuardPolicy, Judgement, Trigger
from dr_platform.rollout.guards import Verdict as Judged
from dr_platform.rollout.record import Intent, Outcome, Placement, Record, Warm, Watch
from dr_platform.rollout.requests import (
    FLEET_PERIOD,
    FLEET_ROLLBACKS,
    SERVICE_PERIOD,
    SERVICE_ROLLBACKS,
    RolloutRefused,
    Target,
    ask,
)
from dr_platform.rollout.sampling import Looked
from dr_platform.rollout.strategy import Step, steps_of
from dr_platform.rollout.window import Evidence, Sample, SlotSample
from dr_platform.runtime.port import Revision, Slot
from tests.rollouts import PATIENCE, World, answer

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
OLD, NEW = Revision("1", "sha256:1", "c0"), Revision("2", "sha256:2", "c0")
BAD = Finding(Judgement(Judged.FAIL, Trigger.ERRORS, "errors: 60 of 100 requests failed", fired_guard=True))
LEAKS = Finding(Judgement(Judged.FAIL, Trigger.HIPAA, "hipaa: the compliance test failed"))
GOOD = Finding(Judgement(Judged.PASS, None, "no trigger fired"))
BLIND = Finding(Judgement(Judged.PENDING, Trigger.ERRORS, "errors: nothing was counted yet"))
UNHELPFUL = Finding(Judgement(Judged.INCONCLUSIVE, Trigger.HEALTH, "health: going back cannot help"))
WELL, SILENT = Standing(answers=True, compliant=True), Standing()


def promoted(service: str = "billing", at: datetime = NOW) -> Record:
    """Version 2 is stable, version 1 is kept warm, and somebody has just looked."""
    outcome = Outcome("ro-1", "deploy", "promoted", "1", "2", Strategy.CANARY, "", at, at)
    watch = Watch(at, Evidence.empty(at).as_json(), compliant=True)
    warm = Warm(Placement(Slot.BLUE, OLD), at + timedelta(hours=24))
    return Record(
        service,
        stable=Placement(Slot.GREEN, NEW),
        warm=warm,
        watch=watch,
        last=outcome,
        known_good=(NEW, OLD),
    )


def intent(kind: str = "rollback", at: datetime = NOW, identity: str = "ro-back") -> Intent:
    steps = (Step(100, 2, 0.0),)
    return Intent(
        identity, kind, OLD, 2, Strategy.CANARY, steps, "sensor", at, automatic=True, incident=f"inc-{identity}-1"
    )  # ty: ignore[invalid-argument-type]


def a_case(record: Record | None = None, finding: Finding = BAD, **changes: object) -> Case:
    fields: dict[str, object] = {"target": Target(OLD, ()), "standing": WELL, "fleet": ()} | changes
    return Case(record or promoted(), finding, **fields)  # ty: ignore[invalid-argument-type]


def with_watch(**changes: object) -> Record:
    record = promoted()
    assert record.watch is not None
    return replace(record, watch=replace(record.watch, **changes))  # ty: ignore[invalid-argument-type]


AN_HOUR = [NOW - timedelta(minutes=m) for m in (5, 20, 50)]

TABLE = [
    pytest.param(a_case(), GoBack, "60 of 100", id="fails and the revision before is well"),
    pytest.param(a_case(finding=GOOD), Leave, "no trigger fired", id="well"),
    pytest.param(a_case(finding=BLIND), Leave, "nothing was counted", id="no data is no reason to go back"),
    pytest.param(a_case(finding=UNHELPFUL), Leave, "cannot help", id="both versions fail"),
    pytest.param(a_case(replace(promoted(), warm=None)), Leave, "no revision before", id="nothing is kept warm"),
    pytest.param(a_case(replace(promoted(), queued=intent())), Leave, "rollout is under way", id="asked already"),
    pytest.param(a_case(promoted(at=NOW - STALE * 2)), Leave, "nobody has looked", id="what was seen is old"),
    pytest.param(a_case(suspended=True), Leave, "maintenance", id="somebody works on it"),
    pytest.param(a_case(with_watch(paged="trouble", paged_at=NOW)), Leave, "a person was called", id="called before"),
    pytest.param(a_case(with_watch(asked="ro-9")), Call, "ro-9 was to go back", id="tried before in vain"),
    pytest.param(
        a_case(target=Target(None, ("1 was rolled back itself",))), Call, "rolled back itself", id="no target"
    ),
    pytest.param(a_case(standing=Standing(False, None)), Call, "does not answer either", id="the target is ill"),
    pytest.param(a_case(standing=SILENT), Leave, "could not be asked", id="the target could not be asked"),
    pytest.param(a_case(finding=LEAKS), GoBack, "compliance", id="a compliant revision is gone back to"),
    pytest.param(
        a_case(finding=LEAKS, standing=Standing(True, False)), Call, "maintenance mode", id="the target fails HIPAA too"
    ),
    pytest.param(
        a_case(finding=LEAKS, standing=Standing(True, None)), Call, "does not say", id="the target's compliance unknown"
    ),
    pytest.param(
        a_case(standing=Standing(True, False)), Call, "compliance test as well", id="errors, but the target leaks"
    ),
    pytest.param(
        a_case(replace(promoted(), automatic_rollbacks=(NOW - timedelta(minutes=29),))),
        Call,
        "within 30 min",
        id="the service has spent its budget",
    ),
    pytest.param(
        a_case(replace(promoted(), automatic_rollbacks=(NOW - timedelta(minutes=31),))),
        GoBack,
        "60 of 100",
        id="the budget is there again",
    ),
    pytest.param(a_case(fleet=tuple(AN_HOUR)), Call, "within an hour", id="the fleet has spent its budget"),
]


@pytest.mark.parametrize(("case", "kind", "says"), TABLE)
def test_what_is_done_about_a_promoted_revision(case: Case, kind: type, says: str) -> None:
    action = decide(case, NOW)
    assert isinstance(action, kind)
    assert says in action.why


MOMENTS = st.integers(0, 120).map(lambda minutes: NOW - timedelta(minutes=minutes))


@given(
    finding=st.sampled_from([BAD, LEAKS, GOOD, BLIND, UNHELPFUL]),
    standing=st.builds(Standing, st.sampled_from([True, False, None]), st.sampled_from([True, False, None])),
    target=st.sampled_from([Target(OLD, ()), Target(None, ("gone",))]),
    own=st.lists(MOMENTS, max_size=3),
    others=st.lists(MOMENTS, max_size=6),
    asked=st.sampled_from([None, "ro-9"]),
    paged=st.sampled_from([None, "trouble"]),
    suspended=st.booleans(),
    waiting=st.booleans(),
)
def test_a_program_goes_back_only_where_nothing_speaks_against_it(
    finding: Finding,
    standing: Standing,
    target: Target,
    own: list[datetime],
    others: list[datetime],
    asked: str | None,
    paged: str | None,
    suspended: bool,
    waiting: bool,
) -> None:
    record = replace(with_watch(asked=asked, paged=paged), automatic_rollbacks=tuple(own))
    record = replace(record, queued=intent()) if waiting else record
    case = Case(record, finding, target, standing, tuple(own + others), suspended)
    action = decide(case, NOW)
    assert action == decide(case, NOW)
    fails = finding in (BAD, LEAKS)
    if isinstance(action, GoBack):
        assert fails
        assert not suspended
        assert not waiting
        assert (asked, paged) == (None, None)
        assert target.revision is not None
        assert standing.answers is True
        assert standing.compliant is not False
        assert finding is BAD or standing.compliant is True
        assert sum(NOW - at < SERVICE_PERIOD for at in own) < SERVICE_ROLLBACKS
        assert sum(NOW - at < FLEET_PERIOD for at in own + others) < FLEET_ROLLBACKS
    if isinstance(action, Call):
        assert fails
        assert paged is None


def test_a_week_of_flapping_rolls_back_no_more_often_than_the_budget_allows_and_calls_once_each_promotion() -> None:
    """Five services fail always, and somebody deploys the bad version again each time at once."""
    names = [f"s{n}" for n in range(5)]
    records = {name: promoted(name) for name in names}
    backs: list[tuple[datetime, str]] = []
    promotions, calls = 5, 0
    for minute in range(7 * 24 * 60):
        now = NOW + timedelta(minutes=minute)
        for name in names:
            record = records[name]
            assert record.watch is not None
            looked = replace(record.watch, looked_at=now)
            kept = Warm(Placement(Slot.BLUE, OLD), now + timedelta(hours=1))
            record = replace(record, watch=looked, warm=kept)
            case = Case(record, BAD, Target(OLD, ()), WELL, automatic_rollbacks(records.values()))
            match decide(case, now):
                case GoBack():
                    backs.append((now, name))
                    spent = (now, *record.automatic_rollbacks)[:10]
                    record, promotions = replace(promoted(name, now), automatic_rollbacks=spent), promotions + 1
                case Call() as call:
                    record, calls = calling(record, case, call, now), calls + 1
            if minute % 90 == 89:  # a person has looked at it and deploys anew
                record = replace(promoted(name, now), automatic_rollbacks=record.automatic_rollbacks)
                promotions += 1
            records[name] = record
    assert len(backs) > 100
    for at, name in backs:
        assert sum(n == name and timedelta(0) <= at - other < SERVICE_PERIOD for other, n in backs) <= SERVICE_ROLLBACKS
        assert sum(timedelta(0) <= at - other < FLEET_PERIOD for other, _ in backs) <= FLEET_ROLLBACKS
    assert 0 < calls <= promotions


def test_rollbacks_under_way_count_against_the_budget_of_the_fleet() -> None:
    asked = [replace(promoted(f"s{n}"), queued=intent()) for n in range(FLEET_ROLLBACKS)]
    assert len(automatic_rollbacks(asked)) == FLEET_ROLLBACKS
    assert isinstance(decide(a_case(fleet=automatic_rollbacks(asked)), NOW), Call)
    assert automatic_rollbacks([replace(promoted(), queued=intent("deploy"))]) == ()


def test_what_is_written_goes_with_the_question_and_is_refused_where_the_record_moved_on() -> None:
    case, action = a_case(), GoBack("errors", "too many")
    wanted = intent()
    written = asking(case.record, case, wanted, action, NOW)
    assert written.watch is not None
    assert written.watch.asked == wanted.id
    (event,) = written.outbox
    assert (event.kind, event.subject, event.body["trigger"]) == ("incident-opened", wanted.incident, "errors")
    assert (event.body["from"]["version"], event.body["to"]["version"]) == ("1", "2")
    for moved in (
        replace(case.record, queued=intent("deploy")),
        replace(case.record, stable=Placement(Slot.BLUE, OLD)),
        replace(case.record, epoch=2),
    ):
        with pytest.raises(RolloutRefused):
            asking(moved, case, wanted, action, NOW)


def test_a_call_is_written_once() -> None:
    case, call = a_case(), Call("errors", "too many")
    once = calling(case.record, case, call, NOW)
    assert [event.kind for event in once.outbox] == ["aftercare-escalated"]
    assert calling(once, case, call, NOW + timedelta(minutes=1)) == once
    assert Record.from_text(once.to_text()) == once


# What the watch says


FINE, IDLE = SlotSample(requests=100, probes=1), SlotSample(probes=1)
FAILING = SlotSample(requests=100, errors=20, probes=1)
UNREADY = SlotSample(requests=100, probes=1, probe_failures=1)
UNREADY_BEFORE = SlotSample(probes=1, probe_failures=1)


def seen(
    seconds: int,
    stable: SlotSample = FINE,
    before: SlotSample = IDLE,
    *,
    hipaa: bool | None = True,
    watch: Watch | None = None,
    start: datetime = NOW,
) -> Watch:
    """Looks three seconds apart."""
    for second in range(0, seconds, 3):
        at = start + timedelta(seconds=second)
        watch = watched(watch, Looked(Sample(at, stable, before), hipaa, True, 33.0), at)
    assert watch is not None
    return watch


@pytest.mark.parametrize(
    ("watch", "alerts", "verdict", "trigger"),
    [
        pytest.param(seen(600), 0, Judged.PASS, None, id="a good one passes"),
        pytest.param(seen(180, FAILING), 0, Judged.FAIL, Trigger.ERRORS, id="errors"),
        pytest.param(seen(300, UNREADY), 0, Judged.FAIL, Trigger.HEALTH, id="probes fail"),
        pytest.param(
            seen(300, UNREADY, UNREADY_BEFORE), 0, Judged.INCONCLUSIVE, Trigger.HEALTH, id="both fail: no help"
        ),
        pytest.param(seen(3, hipaa=False, watch=seen(60)), 0, Judged.PASS, None, id="one lost compliance look"),
        pytest.param(seen(6, hipaa=False, watch=seen(60)), 0, Judged.FAIL, Trigger.HIPAA, id="not compliant"),
        pytest.param(seen(60), 1, Judged.FAIL, Trigger.SECURITY, id="a security alert"),
        pytest.param(seen(60), None, Judged.PENDING, Trigger.SECURITY, id="alerts could not be read"),
        pytest.param(seen(60, FAILING), None, Judged.FAIL, Trigger.ERRORS, id="and that hides no errors"),
        pytest.param(seen(60, hipaa=None), 0, Judged.PENDING, Trigger.HIPAA, id="compliance could not be read"),
        pytest.param(
            seen(60, SlotSample(requests=100, slow=90, timeouts=1, probes=1)), 0, Judged.PASS, None, id="only slow"
        ),
    ],
)
def test_what_the_watch_says(watch: Watch, alerts: int | None, verdict: Judged, trigger: Trigger | None) -> None:
    found = find(watch, GuardPolicy(), alerts)
    assert found.judgement.verdict is verdict, found.judgement
    if trigger is not None or verdict is Judged.PASS:
        assert found.judgement.trigger is trigger


def test_the_errors_of_an_outage_are_seen_within_seconds_also_after_a_long_good_time() -> None:
    good = seen(300)
    looks = next(
        n
        for n in range(1, 20)
        if find(
            seen(3 * n, SlotSample(requests=100, errors=100), watch=good, start=NOW + timedelta(seconds=300)),
            GuardPolicy(),
            0,
        ).judgement.verdict
        is Judged.FAIL
    )
    assert looks <= 4


def test_a_watch_remembers_a_bounded_time_and_survives_as_text() -> None:
    watch = seen(3600, FAILING)
    record = replace(promoted(), watch=watch)
    assert len(record.to_text()) < 32_768
    assert Record.from_text(record.to_text()) == record
    found = find(watch, GuardPolicy(), 0)
    assert found.failing_since is not None
    assert timedelta(0) < watch.looked_at - found.failing_since <= timedelta(seconds=300)
    assert (found.requests, found.errors) == (120_000, 24_000)


def test_a_look_is_due_each_few_seconds_and_after_a_clock_was_set_back() -> None:
    watch = seen(3)
    assert is_due(None, NOW)
    assert not is_due(watch, NOW + timedelta(seconds=2))
    assert is_due(watch, NOW + timedelta(seconds=3))
    assert is_due(watch, NOW - timedelta(seconds=1))


# The controller goes on looking


def promoted_world() -> World:
    world = World()
    ask(world.runtime, world.name, world.intent(strategy=Strategy.CANARY))
    world.to_the_end(world.controller("a"))
    world.clock.sleep(16)  # its lease has lapsed
    return world


def test_the_controller_watches_what_it_promoted_for_as_long_as_the_one_before_is_warm() -> None:
    world = promoted_world()
    controller, versions = world.controller("b"), set()
    for _ in range(30):
        controller.tick()
        versions.add(world.runtime.read_record(world.name).version)  # ty: ignore[possibly-missing-attribute]
        world.clock.sleep(1)
    assert 8 <= len(versions) <= 12  # one durable write each three seconds
    watch = world.record().watch
    assert watch is not None
    assert find(watch, GuardPolicy(), 0).judgement.verdict is Judged.PASS
    world.clock.sleep(PATIENCE.keep_warm.total_seconds())
    controller.tick()
    assert (world.record().warm, world.record().watch) == (None, None)
    before = world.record()
    world.clock.sleep(10)
    controller.tick()
    assert world.record() == before


def test_nothing_is_watched_where_nothing_is_kept_to_go_back_to() -> None:
    world = World()
    ask(world.runtime, world.name, world.intent(strategy=Strategy.ROLLING, steps=steps_of(Strategy.ROLLING, 2, 5.0)))
    world.to_the_end(world.controller("a"))
    controller = world.controller("b")
    for _ in range(10):
        controller.tick()
        world.clock.sleep(1)
    assert world.record().watch is None


@pytest.mark.parametrize(("ratio", "within_s"), [(1.0, 15), (0.2, 30)])
def test_a_version_that_fails_after_its_promotion_is_found_out_by_what_the_controller_keeps(
    ratio: float, within_s: int
) -> None:
    world = promoted_world()
    controller = world.controller("b")
    for _ in range(10):
        controller.tick()
        world.clock.sleep(1)
    world.traffic.error_ratio["2"] = ratio
    for second in range(60):
        controller.tick()
        watch = world.record().watch
        assert watch is not None
        if find(watch, GuardPolicy(), 0).judgement.verdict is Judged.FAIL:
            assert second <= within_s
            return
        world.clock.sleep(1)
    raise AssertionError("not found out")


def test_what_happened_between_a_watch_and_the_next_rollout_counts_for_no_look() -> None:
    world = promoted_world()
    controller = world.controller("b")
    for _ in range(10):
        controller.tick()
        world.clock.sleep(1)
    world.clock.sleep(3600)  # the one before is not kept any more, and nobody counts
    controller.tick()
    ask(world.runtime, world.name, world.intent("3"))
    counted = 0
    for _ in world.seconds(controller):
        rollout = world.record().rollout
        if rollout is not None and rollout.evidence is not None:
            counted = max(counted, Evidence.from_json(rollout.evidence).stable_total.requests)
    assert 0 < counted < 100 * 60
    last = world.record().last
    assert last is not None
    assert last.result == "promoted"


def test_the_time_that_a_candidate_takes_to_start_is_in_no_look_either() -> None:
    world = promoted_world()
    controller = world.controller("b")
    for _ in range(10):
        controller.tick()
        world.clock.sleep(1)
    world.runtime.faults.unready_versions.add("3")
    ask(world.runtime, world.name, world.intent("3"))
    first: int | None = None
    for second in world.seconds(controller):
        if second == 15:
            world.runtime.faults.unready_versions.clear()
        rollout = world.record().rollout
        if first is None and rollout is not None and rollout.evidence is not None:
            seen_first = Evidence.from_json(rollout.evidence).stable_total.requests
            first = seen_first or None
    assert first is not None
    assert first <= 200


def test_a_controller_without_the_lease_keeps_no_watch() -> None:
    world = promoted_world()
    first, second = world.controller("b"), world.controller("c")
    first.tick()
    before = world.record()
    world.clock.sleep(4)
    assert second.tick() is False
    assert world.record() == before


def test_what_was_done_about_one_version_is_forgotten_with_the_promotion_of_the_next() -> None:
    world = promoted_world()
    controller = world.controller("b")
    controller.tick()
    called = Call("errors", "too many")
    case = a_case(world.record())
    records.change(world.runtime, world.name, lambda record: calling(record, case, called, world.clock.now()))
    ask(world.runtime, world.name, world.intent("3"))
    world.to_the_end(controller)
    for _ in range(4):
        controller.tick()
        world.clock.sleep(1)
    watch = world.record().watch
    assert watch is not None
    assert (watch.paged, watch.asked) == (None, None)
    assert any(event.kind == "aftercare-escalated" for event in world.told.values())


def test_a_rollout_that_was_taken_back_leaves_nothing_to_go_back_to_and_no_watch() -> None:
    world = promoted_world()
    controller = world.controller("b")
    controller.tick()
    world.smoke_passes = False
    ask(world.runtime, world.name, world.intent("3"))
    record = world.to_the_end(controller)
    assert record.stable is not None
    assert (record.stable.revision.version, record.warm, record.watch) == ("2", None, None)


def test_trouble_that_both_versions_have_is_no_reason_to_go_back() -> None:
    world = promoted_world()
    controller = world.controller("b")
    for version in ("1", "2"):
        world.runtime.faults.answers[version] = answer(version, 503)
    verdicts = set()
    for _ in range(40):
        controller.tick()
        watch = world.record().watch
        assert watch is not None
        verdicts.add(find(watch, GuardPolicy(), 0).judgement.verdict)
        world.clock.sleep(1)
    assert Judged.FAIL not in verdicts
    assert Judged.INCONCLUSIVE in verdicts


def test_a_controller_that_lost_its_lease_during_a_look_does_not_keep_what_it_saw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = promoted_world()
    slow, other = world.controller("b"), world.controller("c")
    slow.tick()
    world.clock.sleep(4)
    before, read = world.record(), world.traffic.read

    def sleeping(service: str) -> object:
        monkeypatch.setattr(world.traffic, "read", read)
        world.clock.sleep(16)
        assert world.runtime.acquire_lease("controller", other.driver, timedelta(seconds=15)) is not None
        return read(service)

    monkeypatch.setattr(world.traffic, "read", sleeping)
    assert slow.tick() is False
    assert world.record() == before


def test_an_automatic_rollback_that_is_itself_taken_back_tells_nobody_that_traffic_is_restored() -> None:
    world = promoted_world()
    world.smoke_passes = False
    back = world.intent("1", kind="rollback", automatic=True, incident="inc-x-1")
    ask(world.runtime, world.name, back)
    record = world.to_the_end(world.controller("b"))
    assert record.last is not None
    assert (record.last.result, record.last.incident) == ("aborted", "inc-x-1")
    assert not [event for event in world.told.values() if event.kind == "incident-restored"]
    assert world.record().stable == Placement(Slot.GREEN, world.revision("2"))


def test_an_automatic_rollback_says_which_slot_was_bad() -> None:
    world = promoted_world()
    back = world.intent("1", kind="rollback", automatic=True, incident="inc-x-1", steps=(Step(100, 2, 0.0),))
    ask(world.runtime, world.name, back)
    world.to_the_end(world.controller("b"))
    (event,) = [event for event in world.told.values() if event.kind == "incident-restored"]
    assert (event.body["candidate"], event.body["weight"]) == ("green", 100)
    assert "requests" not in event.body
