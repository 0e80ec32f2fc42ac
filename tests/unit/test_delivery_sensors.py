"""The sensors and jobs of delivery as Dagster calls them, on a runtime, traffic and evidence in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from dr_platform import delivery
from dr_platform.aftercare import attend
from dr_platform.catalog.models import Strategy
from dr_platform.clock import ManualClock
from dr_platform.definitions import build_definitions
from dr_platform.errors import PlatformError
from dr_platform.evidence import Entry, MemoryEvidenceLog
from dr_platform.health import PROTECTED, assessments_verdict, fleet_verdict, ledger_verdict, service_verdict
from dr_platform.incidents import Conclusion, IncidentLedger, Status
from dr_platform.operations import OperationsUnavailable
from dr_platform.platform import Platform
from dr_platform.remediation import Condition, Policy, Trail, decide, situations
from dr_platform.remedy import _rolling
from dr_platform.resources import LAPSE_TAG
from dr_platform.rollout import record as records
from dr_platform.rollout.controller import LEASE, LEASE_TTL, Controller
from dr_platform.rollout.record import Intent, Outcome, Placement, Record
from dr_platform.rollout.requests import ask, steer
from dr_platform.rollout.takeover import OFFER_EVERY_S, Earlier, Start, Wait, stand_in, unattended
from dr_platform.rollout.takeover import decide as decide_takeover
from dr_platform.runtime.memory import MemoryRuntime
from dr_platform.runtime.port import Lease, ProbeResult, Slot, Weights
from dr_platform.status import service_status
from tests.catalogs import generated
from tests.rollouts import MemoryTraffic, World, at_once

pytestmark = pytest.mark.unit

NAME = "service-0000"
HEALTHY = b'{"status": "healthy", "version": "%s", "compliance": {"encryption_active": true}}'
LEAKING = b'{"status": "healthy", "version": "%s", "compliance": {"encryption_active": false}}'


class LivelyClock(ManualClock):
    """While somebody sleeps, the controller looks once a second."""

    act: Callable[[], object] | None = None

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        act, self.act = self.act, None  # the controller itself never sleeps, but nobody shall rely on it
        if act is not None:
            act()
            self.act = act


@dataclass
class Stage:
    """A platform whose services run in memory, and its controller."""

    platform: Platform
    runtime: MemoryRuntime
    traffic: MemoryTraffic
    clock: LivelyClock
    instance: dg.DagsterInstance
    controller: Controller

    def __post_init__(self) -> None:
        self.cursors: dict[str, str | None] = {}
        self.definitions = build_definitions(self.platform)

    def record(self, name: str = NAME) -> Record:
        return records.read(self.runtime, name).record

    def look(self, seconds: int) -> None:
        for _ in range(seconds):
            self.controller.tick()
            self.clock.sleep(1)

    def deploy(self, version: str, name: str = NAME, strategy: Strategy | None = None) -> Outcome:
        intent = delivery.deployment(self.platform, name, version, requested_by="somebody", strategy=strategy)
        return self.follow(intent, name)

    def follow(self, intent: Intent, name: str = NAME) -> Outcome:
        ask(self.runtime, name, intent)
        for _ in range(900):
            self.look(1)
            last = self.record(name).last
            if last is not None and last.rollout == intent.id:
                return last
        raise AssertionError(f"not ended: {self.record(name).rollout}")

    def tick(self, sensor: str) -> dg.SensorResult:
        """One evaluation, with its events and cursor stored as the daemon does."""
        definition = next(s for s in self.definitions.sensors or () if s.name == sensor)
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursors.get(sensor))
        result = definition(context)
        assert isinstance(result, dg.SensorResult)
        for event in result.asset_events:
            self.instance.report_runless_asset_event(event)
        self.cursors[sensor] = result.cursor
        return result

    def answer(self, version: str, body: bytes = HEALTHY) -> None:
        self.runtime.faults.answers[version] = ProbeResult(200, body.replace(b"%s", version.encode()))

    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.platform.evidence.entries()]


def in_memory(catalog: Path, state: Path) -> tuple[Platform, MemoryRuntime, MemoryTraffic, LivelyClock]:
    """Four services with version 1.0.0 stable; local pace, and the version before is kept an hour."""
    clock = LivelyClock()
    platform = Platform.open("local", catalog=catalog, state=state, runtime="local", clock=clock)
    platform.environment = platform.environment.model_copy(update={"keep_previous": 3600.0})
    runtime = MemoryRuntime(clock)
    platform.__dict__["local_runtime"] = runtime
    platform.__dict__["traffic"] = traffic = MemoryTraffic(runtime, clock)
    platform.__dict__["evidence"] = MemoryEvidenceLog(clock)
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        runtime.faults.answers[version] = ProbeResult(200, HEALTHY.replace(b"%s", version.encode()))
    for service in platform.catalog.services.values():
        workload = platform.workload(service.name, "1.0.0")
        runtime.declare(service)
        runtime.apply(Slot.BLUE, workload)
        runtime.route(service.name, Weights(100, 0), 1)
        placement = Placement(Slot.BLUE, workload.revision)
        records.change(runtime, service.name, lambda record, placement=placement: record.with_stable(placement))
    return platform, runtime, traffic, clock


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    platform, runtime, traffic, clock = in_memory(generated(tmp_path, 4), tmp_path / "state")
    with dg.DagsterInstance.ephemeral() as instance:
        yield Stage(platform, runtime, traffic, clock, instance, delivery.controller(platform, aside=at_once))


def observations(result: dg.SensorResult) -> list[str]:
    return [str(event.description) for event in result.asset_events]


# Aftercare


def test_a_version_that_turns_bad_after_its_promotion_goes_back_with_an_incident_that_was_there_before(
    stage: Stage,
) -> None:
    assert stage.deploy("2.0.0").result == "promoted"
    stage.look(30)
    assert "no trigger fired" in str(stage.tick("aftercare").skip_reason)
    stage.traffic.error_ratio["2.0.0"] = 1.0
    stage.look(15)
    (told,) = observations(stage.tick("aftercare"))
    assert told.startswith("Going back to 1.0.0: errors:")
    record = stage.record()
    assert record.queued is not None
    assert record.queued.automatic
    incident = record.queued.incident
    assert incident == f"inc-{record.queued.id}-{record.epoch}"
    assert [event.kind for event in record.outbox] == ["incident-opened"]
    assert observations(stage.tick("aftercare")) == []  # it waits already
    stage.look(5)
    record = stage.record()
    assert record.stable is not None
    assert record.stable.revision.version == "1.0.0"
    assert record.is_held(stage.platform.workload(NAME, "2.0.0").revision)
    opened = stage.platform.incidents.show(str(incident))
    assert opened.status is Status.MITIGATED
    assert opened.release.to_revision is not None
    assert opened.release.to_revision.version == "2.0.0"
    assert opened.blast_radius.requests_failed is not None
    assert opened.blast_radius.requests_failed > 500
    assert opened.detected_seconds is not None
    assert 0 < opened.detected_seconds <= 16
    assert stage.kinds().index("incident.opened") < stage.kinds().index("rollout-began", 3)


def test_a_second_rollback_within_half_an_hour_is_left_to_a_person_who_is_called_once(stage: Stage) -> None:
    stage.deploy("2.0.0")
    stage.traffic.error_ratio = {"2.0.0": 1.0, "3.0.0": 1.0}
    stage.look(20)
    stage.tick("aftercare")
    stage.look(5)
    stage.traffic.error_ratio = {"2.0.0": 1.0}
    assert stage.deploy("3.0.0").result == "promoted"
    stage.traffic.error_ratio = {"3.0.0": 1.0}
    calls = []
    for _ in range(60):
        stage.look(5)
        calls += observations(stage.tick("aftercare"))
    (call,) = calls
    assert call.startswith("A person is needed: errors:")
    assert "within 30 min" in call
    record = stage.record()
    assert record.stable is not None
    assert record.stable.revision.version == "3.0.0"
    assert len(record.automatic_rollbacks) == 1
    assert stage.kinds().count("aftercare-escalated") == 1
    stage.cursors.clear()  # a sensor whose cursor was lost tells it once more, and writes nothing
    assert len(observations(stage.tick("aftercare"))) == 1
    assert stage.kinds().count("aftercare-escalated") == 1


def test_a_revision_that_fails_the_same_compliance_test_is_not_gone_back_to(stage: Stage) -> None:
    stage.deploy("2.0.0")
    stage.look(10)
    for version in ("1.0.0", "2.0.0"):
        stage.answer(version, LEAKING)
    stage.look(10)
    (call,) = observations(stage.tick("aftercare"))
    assert "1.0.0 fails the compliance test as well; maintenance mode" in call
    assert stage.record().queued is None


def test_a_compliance_failure_of_the_new_version_alone_goes_back_and_presumes_a_breach(stage: Stage) -> None:
    stage.deploy("2.0.0")
    stage.look(10)
    stage.answer("2.0.0", LEAKING)
    stage.look(10)
    (told,) = observations(stage.tick("aftercare"))
    assert told.startswith("Going back to 1.0.0: hipaa")
    stage.look(5)
    (incident,) = stage.platform.incidents.list()
    assert incident.detection.trigger == "hipaa"
    assert incident.breach_assessment is not None
    assert incident.breach_assessment.conclusion is Conclusion.PENDING


def test_a_failed_check_counts_as_well_but_only_what_it_said_of_this_version(stage: Stage) -> None:
    stage.deploy("2.0.0")
    stage.look(10)
    record = stage.record()
    assert record.last is not None
    before = attend(stage.platform, {NAME: record.last.ended_at - timedelta(seconds=1)})
    assert (before.went_back, before.calls) == ((), ())
    # Version 1 answers everybody without a token too: going back would mend nothing.
    after = attend(stage.platform, {NAME: stage.clock.now()})
    (call,) = after.calls
    assert "1.0.0 fails the compliance test as well" in call.why
    assert after.went_back == ()


def test_a_failed_check_goes_back_to_a_version_that_refuses_strangers(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.deploy("2.0.0")
    stage.look(10)
    probe = stage.runtime.probe

    def refusing(name: str, path: str, slot: Slot | None = None, timeout_s: float = 5.0) -> ProbeResult:
        refuses = path == PROTECTED and slot is Slot.BLUE
        return ProbeResult(401) if refuses else probe(name, path, slot, timeout_s)

    monkeypatch.setattr(stage.runtime, "probe", refusing)
    (back,) = attend(stage.platform, {NAME: stage.clock.now()}).went_back
    assert back.why.startswith("hipaa")


def test_a_security_alert_about_the_new_version_goes_back_and_one_about_another_does_not(stage: Stage) -> None:
    stage.deploy("2.0.0")
    stage.look(10)
    for version, service in (("1.0.0", NAME), ("2.0.0", "service-0001")):
        body = {"version": version, "fingerprint": "f1"}
        stage.platform.evidence.append(delivery.SECURITY_ALERT, service, "scanner", body)
    assert observations(stage.tick("aftercare")) == []
    body = {"version": "2.0.0", "fingerprint": "f1"}
    stage.platform.evidence.append(delivery.SECURITY_ALERT, NAME, "scanner", body)
    (told,) = observations(stage.tick("aftercare"))
    assert told.startswith("Going back to 1.0.0: security")


def test_an_operations_database_that_is_away_hinders_no_rollback(stage: Stage) -> None:
    stage.deploy("2.0.0")
    stage.traffic.error_ratio["2.0.0"] = 1.0
    stage.look(20)

    class Away(MemoryEvidenceLog):
        def entries(self, **_: object) -> Iterator[Entry]:  # ty: ignore[invalid-method-override]
            raise OperationsUnavailable("made unavailable")

        def append(self, *_: object, **__: object) -> Entry:
            raise OperationsUnavailable("made unavailable")

    answering = stage.platform.evidence
    stage.platform.__dict__["evidence"] = Away(stage.clock)
    stage.platform.__dict__["incidents"] = IncidentLedger(stage.platform.evidence, stage.clock)
    assert len(stage.tick("aftercare").asset_events) == 1
    stage.look(5)
    record = stage.record()
    assert record.stable is not None
    assert record.stable.revision.version == "1.0.0"
    stage.platform.__dict__["evidence"] = answering
    stage.platform.__dict__["incidents"] = IncidentLedger(answering, stage.clock)
    stage.look(2)
    (incident,) = stage.platform.incidents.list()
    assert record.last is not None
    assert (incident.id, incident.status) == (record.last.incident, Status.MITIGATED)


def test_a_rollout_that_waits_for_a_person_calls_one_once_and_not_where_a_person_paused_it(stage: Stage) -> None:
    stage.traffic.rate = 0.0
    ask(stage.runtime, NAME, delivery.deployment(stage.platform, NAME, "2.0.0", requested_by="somebody"))
    calls = []
    for _ in range(120):
        stage.look(1)
        calls += observations(stage.tick("aftercare"))
    (call,) = calls
    assert "promote or abort it" in call
    steer(stage.runtime, NAME, "pause", "somebody")
    stage.cursors.clear()
    assert observations(stage.tick("aftercare")) == []


def test_within_one_round_no_more_services_go_back_than_the_fleet_may(stage: Stage) -> None:
    names = sorted(stage.platform.catalog.services)
    assert len(names) == 4
    for name in names:
        assert stage.deploy("2.0.0", name).result == "promoted"
    stage.traffic.error_ratio["2.0.0"] = 1.0
    stage.look(20)
    told = observations(stage.tick("aftercare"))
    assert sum(line.startswith("Going back") for line in told) == 3
    (call,) = [line for line in told if line.startswith("A person is needed")]
    assert "within an hour" in call


def test_one_service_that_cannot_be_looked_at_keeps_no_other_from_going_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (NAME, "service-0001"):
        stage.deploy("2.0.0", name)
    stage.traffic.error_ratio["2.0.0"] = 1.0
    stage.look(20)
    observe = stage.runtime.observe

    def refuse(name: str) -> object:
        if name == NAME:
            raise PlatformError
        return observe(name)

    monkeypatch.setattr(stage.runtime, "observe", refuse)
    result = stage.tick("aftercare")
    assert [event.asset_key.path[-1] for event in result.asset_events] == ["service-0001"]


@pytest.mark.parametrize("name", ["aftercare", "controller", "rollouts", "incidents", "intake"])
def test_a_sensor_that_cannot_look_says_so_and_keeps_its_cursor(
    stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.cursors[name] = "{}"
    stage.runtime.faults.runtime_unreachable = True

    def broken(**_: object) -> object:
        raise ValueError("of patient 123")

    monkeypatch.setattr(stage.platform.evidence, "entries", broken)
    result = stage.tick(name)
    assert result.asset_events == []
    assert str(result.skip_reason).find("could not look") >= 0
    assert "123" not in str(result.skip_reason)
    assert result.cursor == "{}"


# Health and remediation beside a rollout


def test_replicas_that_are_only_kept_warm_do_not_count_as_serving(stage: Stage) -> None:
    stage.deploy("2.0.0")
    assert service_verdict(stage.platform, NAME).passed is True
    assert service_verdict(stage.platform, NAME).measurements["replicas"] == 1
    stage.runtime.faults.unready_versions.add("2.0.0")
    verdict = service_verdict(stage.platform, NAME)
    assert verdict.passed is False
    assert verdict.why.startswith("0 of 1 replicas ready")
    assert NAME in fleet_verdict(stage.platform).why


def test_a_service_whose_candidate_has_all_the_traffic_is_not_called_ill_for_it(stage: Stage) -> None:
    ask(
        stage.runtime,
        NAME,
        delivery.deployment(stage.platform, NAME, "2.0.0", requested_by="x", strategy=Strategy.BLUE_GREEN),
    )
    while stage.runtime.observe(NAME).weights != Weights(0, 100):
        stage.look(1)
    assert stage.record().rollout is not None
    assert service_status(stage.platform, NAME).healthy
    verdict = service_verdict(stage.platform, NAME)
    assert verdict.passed is True
    assert verdict.why.endswith("; a rollout is under way")


def test_remediation_leaves_a_service_to_its_rollout(stage: Stage) -> None:
    target = ("services", NAME)
    ill = Condition(False, stage.clock.now() - timedelta(hours=1), "0 of 1 replicas ready")
    ask(stage.runtime, NAME, delivery.deployment(stage.platform, NAME, "2.0.0", requested_by="somebody"))
    rolling = _rolling(stage.platform, [target])
    assert rolling == {target}
    stage.look(2)
    assert stage.record().rollout is not None
    assert _rolling(stage.platform, [target]) == {target}
    from dr_platform.operations.budgets import Spent

    policy = Policy.of(stage.platform.environment.remediation)
    for rolling, expected in ((_rolling(stage.platform, [target]), "a rollout is under way"), (frozenset(), None)):
        situation = situations(
            stage.platform.catalog, {target: ill}, {target: Spent("s")}, {target: Trail()}, (), rolling
        )
        action = decide(situation[target], stage.clock.now(), policy)
        assert getattr(action, "why", None) == expected


# Standing in


def shifting() -> World:
    world = World()
    ask(world.runtime, world.name, world.intent())
    for _ in world.seconds(world.controller("gone")):
        if world.observed().weights == Weights(75, 25):
            break
    return world


NONE = Earlier()


def test_a_run_stands_in_when_the_lease_has_lapsed_under_traffic_and_not_before() -> None:
    world = shifting()
    found, now = [world.record()], world.clock.now()
    assert unattended(found[0])
    held = Lease(LEASE, "gone", 4, now + timedelta(seconds=3))
    lapsed = Lease(LEASE, "gone", 4, now - timedelta(seconds=6))
    assert isinstance(decide_takeover(found, held, NONE, now), Wait)
    assert isinstance(decide_takeover(found, Lease(LEASE, "gone", 4, now - timedelta(seconds=1)), NONE, now), Wait)
    start = decide_takeover(found, lapsed, NONE, now)
    assert isinstance(start, Start)
    assert world.name in start.why
    assert isinstance(decide_takeover(found, lapsed, Earlier(at_work=True), now), Wait)
    tried = Earlier(attempts=1, ended_at=now - timedelta(seconds=14))
    assert isinstance(decide_takeover(found, lapsed, tried, now), Wait)
    again = decide_takeover(found, lapsed, Earlier(attempts=1, ended_at=now - timedelta(seconds=16)), now)
    assert isinstance(again, Start)
    assert again.key != start.key
    often = Earlier(attempts=9, ended_at=now - timedelta(minutes=9))
    assert isinstance(decide_takeover(found, lapsed, often, now), Wait)
    assert isinstance(decide_takeover([Record("idle")], lapsed, NONE, now), Wait)
    waiting = Record("asked", queued=world.intent("1", kind="rollback"))
    assert isinstance(decide_takeover([waiting], lapsed, NONE, now), Start)
    deploying = Record("asked", queued=world.intent("3"))
    assert isinstance(decide_takeover([deploying], lapsed, NONE, now), Wait)
    assert isinstance(decide_takeover(found, None, NONE, now), Start)


def test_a_stand_in_finishes_what_a_lost_controller_left_and_gives_the_lease_back() -> None:
    world = shifting()
    world.clock.sleep(LEASE_TTL.total_seconds() + 1)
    ended = stand_in(world.controller("run"), 1.0, 600.0)
    assert (ended.done, ended.why) == (True, "nothing is open any more")
    assert world.record().last is not None
    assert world.record().epoch == 2
    lease = world.runtime.read_lease(LEASE)
    assert lease is not None
    assert lease.holder == ""
    assert world.controller("back").tick() is True


def test_a_stand_in_leaves_the_work_to_a_controller_that_is_back() -> None:
    world = shifting()
    assert stand_in(world.controller("run"), 1.0, 600.0).why == "another controller acts"
    world.traffic.rate = 0.0  # it waits for a person now, without an end
    world.clock.sleep(LEASE_TTL.total_seconds() + 1)
    back = world.controller("back")

    class Beside(ManualClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            world.clock.sleep(seconds)
            back.tick()

    run = world.controller("run")
    run.clock = Beside(world.clock.now())
    ended = stand_in(run, 1.0, 600.0)
    assert (ended.done, ended.why) == (True, "another controller acts")
    assert run.clock.monotonic() <= OFFER_EVERY_S + 10


def test_a_stand_in_is_bounded_in_time_and_gives_the_lease_back() -> None:
    world = shifting()
    world.traffic.rate = 0.0
    world.clock.sleep(LEASE_TTL.total_seconds() + 1)
    ended = stand_in(world.controller("run"), 1.0, 100.0)
    assert ended.done is False
    lease = world.runtime.read_lease(LEASE)
    assert lease is not None
    assert lease.holder == ""


def test_the_controller_sensor_asks_for_one_run_a_lapse_and_the_run_ends_the_rollout(stage: Stage) -> None:
    assert "no service needs" in str(stage.tick("controller").skip_reason)
    ask(
        stage.runtime,
        NAME,
        delivery.deployment(stage.platform, NAME, "2.0.0", requested_by="x", strategy=Strategy.BLUE_GREEN),
    )
    while not unattended(stage.record()):
        stage.look(1)
    assert "a controller acts" in str(stage.tick("controller").skip_reason)
    stage.clock.sleep(30)
    (request,) = stage.tick("controller").run_requests or []
    assert request.run_key.startswith("tend:")
    assert request.run_key.endswith(":1")
    assert request.tags[LAPSE_TAG] in request.run_key
    job = stage.definitions.resolve_job_def("tend_rollouts")
    done = job.execute_in_process(instance=stage.instance, tags=dict(request.tags))
    assert done.success
    last = stage.record().last
    assert last is not None
    assert last.result == "promoted"
    assert "no service needs" in str(stage.tick("controller").skip_reason)


# Jobs


def run_job(stage: Stage, job: str, op: str, **config: str) -> dg.ExecuteInProcessResult:
    stage.clock.act = stage.controller.tick
    return stage.definitions.resolve_job_def(job).execute_in_process(
        instance=stage.instance,
        run_config={"ops": {op: {"config": config}}},
        raise_on_error=False,
    )


def failure_of(result: dg.ExecuteInProcessResult) -> tuple[str, dict[str, object]]:
    (event,) = [e for e in result.all_events if e.is_step_failure]
    data = event.step_failure_data.user_failure_data
    assert data is not None
    return str(data.description), {k: v.value for k, v in data.metadata.items()}


def test_a_deploy_run_succeeds_with_figures_when_promoted_and_a_rollback_run_when_back(stage: Stage) -> None:
    result = run_job(stage, "deploy", "deploy_version", service=NAME, version="2.0.0", reason="a new feature")
    assert result.success
    last = stage.record().last
    assert last is not None
    assert (last.rollout, last.reason, last.automatic) == (f"ro-{result.run_id}", "a new feature", False)
    (output,) = [e for e in result.all_events if e.event_type_value == "STEP_OUTPUT"]
    figures = {k: v.value for k, v in output.step_output_data.metadata.items()}
    assert figures["outcome"] == "promoted"
    assert figures["error_ratio"] == 0.0
    assert figures["duration_s"] > 0
    assert run_job(stage, "rollback", "go_back", service=NAME).success
    record = stage.record()
    assert record.stable is not None
    assert record.stable.revision.version == "1.0.0"


def test_a_deploy_run_fails_with_the_same_figures_when_the_version_was_taken_back(stage: Stage) -> None:
    stage.traffic.error_ratio["2.0.0"] = 1.0
    result = run_job(stage, "deploy", "deploy_version", service=NAME, version="2.0.0", strategy="canary")
    assert not result.success
    description, figures = failure_of(result)
    assert "rolled_back" in description
    assert figures["outcome"] == "rolled_back"
    assert figures["error_ratio"] > 0.5  # ty: ignore[unsupported-operator]
    assert str(figures["incident"]).startswith(f"inc-ro-{result.run_id}")


def test_what_is_refused_fails_the_run_and_says_what_to_do(stage: Stage) -> None:
    description, figures = failure_of(run_job(stage, "rollback", "go_back", service=NAME))
    assert "no other revision was stable here before" in description
    assert "drp deploy" in str(figures["next"])


def test_a_killed_follower_that_is_started_again_asks_for_nothing_twice(stage: Stage) -> None:
    made: list[str] = []

    def make() -> records.Intent:
        made.append("made")
        return delivery.deployment(stage.platform, NAME, "2.0.0", requested_by="job:deploy", intent_id="ro-run-1")

    class Killed(BaseException):
        pass

    def die() -> None:
        stage.controller.tick()
        if stage.record().rollout is not None:
            raise Killed

    stage.clock.act = die
    with pytest.raises(Killed):
        delivery.carried_through(stage.platform, NAME, "ro-run-1", make)
    stage.clock.act = stage.controller.tick
    for _ in range(2):  # while it goes on, and after its end
        outcome = delivery.carried_through(stage.platform, NAME, "ro-run-1", make)
        assert (outcome.rollout, outcome.result) == ("ro-run-1", "promoted")
    assert made == ["made"]


# What is shown


def test_an_ended_rollout_is_shown_once_and_makes_the_asset_anew_only_where_the_version_changed(stage: Stage) -> None:
    stage.deploy("2.0.0")
    (event,) = stage.tick("rollouts").asset_events
    assert isinstance(event, dg.AssetMaterialization)
    assert event.asset_key == dg.AssetKey(["services", NAME])
    assert (event.metadata["from"].value, event.metadata["to"].value) == ("1.0.0", "2.0.0")
    assert event.metadata["rollout"].value == stage.record().last.rollout  # ty: ignore[possibly-missing-attribute]
    assert stage.tick("rollouts").asset_events == []
    stage.traffic.error_ratio["3.0.0"] = 1.0
    assert stage.deploy("3.0.0").result == "rolled_back"
    (event,) = [e for e in stage.tick("rollouts").asset_events if not isinstance(e, dg.AssetCheckEvaluation)]
    assert isinstance(event, dg.AssetObservation)
    assert str(event.description).startswith("3.0.0 rolled back: errors")


def test_open_incidents_are_shown_when_one_changes_and_fail_a_check_until_they_are_assessed(stage: Stage) -> None:
    first = stage.tick("incidents")
    assert isinstance(first.asset_events[0], dg.AssetMaterialization)
    assert first.asset_events[0].metadata["open"].value == "No incident is open."
    assert assessments_verdict(stage.platform).passed is True
    assert stage.tick("incidents").asset_events == []
    stage.deploy("2.0.0")
    stage.look(10)
    stage.answer("2.0.0", LEAKING)
    stage.look(10)
    stage.tick("aftercare")
    stage.look(5)
    shown = stage.tick("incidents").asset_events
    (incident,) = stage.platform.incidents.list()
    assert isinstance(shown[0], dg.AssetMaterialization)
    assert f"| {incident.id} | {NAME} | hipaa | SEV-1 |" in str(shown[0].metadata["open"].value)
    checks = {e.check_name: e.passed for e in shown if isinstance(e, dg.AssetCheckEvaluation)}
    assert checks == {"healthy": True, "assessed": False}
    assert ledger_verdict(stage.platform).measurements["assessments_pending"] == 1
    assert incident.id in assessments_verdict(stage.platform).why


@pytest.mark.parametrize(("chosen", "back"), [("blue-green", "blue-green"), ("recreate", "recreate")])
def test_where_versions_are_recreated_one_that_still_runs_is_gone_back_to_by_traffic_alone(
    stage: Stage, chosen: str, back: str
) -> None:
    strategies = (Strategy.RECREATE, Strategy.BLUE_GREEN)
    stage.platform.environment = stage.platform.environment.model_copy(update={"strategies": strategies})
    assert stage.deploy("2.0.0", strategy=Strategy(chosen)).result == "promoted"
    asked = delivery.rollback(stage.platform, NAME, requested_by="somebody")
    assert (asked.strategy, asked.revision.version) == (Strategy(back), "1.0.0")
    ended = stage.follow(asked)
    assert (ended.result, ended.strategy) == ("rolled_back", Strategy(back))
    assert stage.runtime.observe(NAME).weights.green == 0
