"""Guards that the emergency procedure comes to the same end wherever it was stopped, and harms nothing well."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import typer
import yaml
from click.testing import Result
from typer.testing import CliRunner

from dr_platform import delivery, maintenance
from dr_platform.cli import emergency_verbs
from dr_platform.emergency import (
    EVERYTHING,
    Await,
    Call,
    GoBack,
    Handled,
    Leave,
    NotWell,
    Step,
    TakeBack,
    Unrecorded,
    handle,
    mitigation,
)
from dr_platform.errors import PlatformError
from dr_platform.evidence import Entry, MemoryEvidenceLog, RefusedEvidence
from dr_platform.incidents import Conclusion, Incident, IncidentLedger, Reviewed, RiskFactors, Status, TriggerKind
from dr_platform.incidents.events import Assessed
from dr_platform.maintenance import TEXT, TITLE, Order
from dr_platform.operations import OperationsUnavailable
from dr_platform.platform import Platform
from dr_platform.rollout import record as records
from dr_platform.rollout.controller import Controller
from dr_platform.rollout.record import Outcome, Phase, Record
from dr_platform.rollout.requests import ask
from dr_platform.runtime.memory import MemoryRuntime
from dr_platform.runtime.notice import Notice
from dr_platform.runtime.port import ProbeResult, UnknownService
from jobs.emergency import emergency_job
from tests.catalogs import generated
from tests.opened import Opened
from tests.rollouts import at_once
from tests.unit.test_delivery_sensors import HEALTHY, NAME, LivelyClock, in_memory

pytestmark = pytest.mark.unit

SICK = HEALTHY.replace(b'"healthy"', b'"unhealthy"')
OTHER = "service-0003"
STEPS = [step.value for step in Step]


class Killed(BaseException):
    """The process ends here, whatever it was doing."""


@dataclass
class Place:
    """A platform in memory with its controller, which goes on whoever is killed beside it."""

    platform: Platform
    runtime: MemoryRuntime
    clock: LivelyClock
    controller: Controller
    at_work: bool = field(default=False)

    def __post_init__(self) -> None:
        self.clock.act = self.look

    def look(self) -> None:
        self.at_work = True
        try:
            self.controller.tick()
        finally:
            self.at_work = False

    def seconds(self, count: int) -> None:
        for _ in range(count):
            self.clock.sleep(1)

    def record(self, name: str = NAME) -> Record:
        return records.read(self.runtime, name).record

    def version(self, name: str = NAME) -> str:
        stable = self.record(name).stable
        return stable.revision.version if stable else ""

    def promoted(self, version: str, name: str = NAME) -> Outcome:
        intent = delivery.deployment(self.platform, name, version, requested_by="somebody")
        ask(self.runtime, name, intent)
        for _ in range(300):
            self.seconds(1)
            last = self.record(name).last
            if last is not None and last.rollout == intent.id:
                assert last.result == "promoted"
                return last
        raise AssertionError(self.record(name).rollout)

    def falls_ill(self, version: str) -> None:
        self.runtime.faults.answers[version] = ProbeResult(200, SICK.replace(b"%s", version.encode()))

    def recovers(self, version: str) -> None:
        self.runtime.faults.answers[version] = ProbeResult(200, HEALTHY.replace(b"%s", version.encode()))

    def handled(self, scope: str = NAME, kind: TriggerKind = TriggerKind.MANUAL) -> Handled:
        return handle(self.platform, Call(scope, "orders are lost", "alex", kind))

    def incident(self) -> Incident:
        (incident,) = [i for i in self.platform.incidents.list() if i.detection.trigger == "emergency"]
        return incident


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = generated(tmp_path_factory.mktemp("catalog"), 4)
    for name in (NAME, "service-0001"):
        with (root / "services" / f"{name}.yaml").open("a", encoding="utf-8") as file:
            file.write("public: true\n")
    return root


@pytest.fixture
def make(catalog: Path, tmp_path: Path) -> Callable[[], Place]:
    numbers = iter(range(1000))

    def placed() -> Place:
        platform, runtime, _, clock = in_memory(catalog, tmp_path / f"state-{next(numbers)}")
        return Place(platform, runtime, clock, delivery.controller(platform, aside=at_once))

    return placed


@pytest.fixture
def place(make: Callable[[], Place]) -> Place:
    return make()


def ill_after_promotion(place: Place) -> Place:
    place.promoted("2.0.0")
    place.falls_ill("2.0.0")
    return place


# The procedure


def test_a_service_that_fell_ill_by_its_last_deployment_is_closed_taken_back_verified_and_opened(place: Place) -> None:
    ill_after_promotion(place)
    handled = place.handled()
    assert [name for name, _ in handled.steps] == STEPS
    assert (handled.done, handled.status) == (True, Status.RESOLVED)
    assert place.version() == "1.0.0"
    assert place.runtime.suspensions() == {}
    incident = place.incident()
    assert (incident.detection.rule, incident.opened_by) == ("orders are lost", "alex")
    result = dict(handled.steps)
    assert result["maintenance-on"] == "1 of 1 suspended"
    assert result["mitigate"] == f"1 went back: {NAME}"
    assert "tell stakeholders yourself" in result["communicate"]
    assessed = next(a for a in incident.actions if a.name == "assess")
    assert assessed.after[f"services/{NAME}"] == "bad: says it is unhealthy"
    assert str(assessed.after[f"changed {NAME}"]).startswith("2.0.0 promoted")
    assert incident.traffic_restored_at is not None  # by the rollback, which names this incident
    kinds = [entry.kind for entry in place.platform.evidence.entries()]
    assert kinds.index("incident.opened") < kinds.index("maintenance-on")


def test_callers_are_kept_out_from_the_first_step_until_everything_was_verified(place: Place) -> None:
    ill_after_promotion(place)
    closed: list[bool] = []

    def watch(line: str) -> None:
        if line.split(": ")[1] in STEPS:
            closed.append(NAME in place.runtime.suspensions())

    handle(place.platform, Call(NAME, "why", "alex"), watch)
    assert closed == [False, True, True, True, True, False, False]


def test_what_is_well_is_not_taken_back_and_says_why(place: Place) -> None:
    place.promoted("2.0.0")
    result = dict(place.handled().steps)
    assert place.version() == "2.0.0"
    assert result["mitigate"] == f"0 went back; {NAME}: not gone back: healthy by its checks"


def test_a_security_emergency_takes_back_what_looks_well_and_waits_for_the_signed_assessment(place: Place) -> None:
    place.promoted("2.0.0")
    handled = place.handled(kind=TriggerKind.SECURITY)
    assert place.version() == "1.0.0"
    assert (handled.done, handled.status) == (False, Status.MITIGATED)
    assert "164.402(2) is not signed" in handled.waits
    assert [name for name, _ in handled.steps] == [name for name in STEPS if name != "resolve"]
    assert place.runtime.suspensions() == {}
    factors = RiskFactors(
        nature_and_extent="titles", unauthorised_person="none", acquired_or_viewed="no", mitigation="taken back"
    )
    signed = Assessed(factors=factors, conclusion=Conclusion.LOW_PROBABILITY)
    place.platform.incidents.assess(handled.incident, "signature", signed, "sam")
    again = place.handled(kind=TriggerKind.SECURITY)
    assert (again.incident, again.done, again.status) == (handled.incident, True, Status.RESOLVED)


def test_without_a_version_to_go_back_to_it_says_so_and_keeps_callers_out_until_a_person_has_mended_it(
    place: Place,
) -> None:
    place.falls_ill("1.0.0")
    with pytest.raises(NotWell) as refused:
        place.handled()
    assert "says it is unhealthy" in refused.value.what
    assert NAME in place.runtime.suspensions()
    mitigated = next(a for a in place.incident().actions if a.name == "mitigate")
    assert "no deployment was its last change" in mitigated.result
    place.recovers("1.0.0")
    assert place.handled().done
    assert place.runtime.suspensions() == {}


def test_a_version_that_may_not_be_gone_back_to_is_named_and_nothing_is_asked_for(place: Place) -> None:
    place.promoted("2.0.0")
    held = place.platform.workload(NAME, "1.0.0").revision
    records.change(place.runtime, NAME, lambda record: record.holding(held, place.clock.now(), "it leaks"))
    place.falls_ill("2.0.0")
    with pytest.raises(NotWell):
        place.handled()
    mitigated = next(a for a in place.incident().actions if a.name == "mitigate")
    assert "not gone back: " in mitigated.result
    assert "1.0.0 was rolled back itself" in mitigated.result
    assert place.version() == "2.0.0"


def test_an_open_rollout_is_the_last_change_and_is_taken_back(place: Place) -> None:
    ask(place.runtime, NAME, delivery.deployment(place.platform, NAME, "2.0.0", requested_by="somebody"))
    place.seconds(3)
    assert place.record().rollout is not None
    handled = place.handled()
    assert (handled.done, place.version()) == (True, "1.0.0")
    assert dict(handled.steps)["mitigate"] == f"1 went back: {NAME}"


def test_all_means_every_public_door_and_only_what_is_ill_goes_back(place: Place) -> None:
    for name in (NAME, OTHER):
        place.promoted("2.0.0" if name == NAME else "3.0.0", name)
    place.falls_ill("2.0.0")
    doors = set(maintenance.every_public(place.platform.catalog))
    closed: set[str] = set()
    handle(
        place.platform,
        Call(EVERYTHING, "why", "alex"),
        lambda _: closed.update(place.runtime.suspensions()),
    )
    assert closed == doors
    assert (place.version(), place.version(OTHER)) == ("1.0.0", "3.0.0")
    assessed = next(a for a in place.incident().actions if a.name == "assess")
    assert {f"services/{name}" for name in place.platform.catalog.services} <= set(assessed.after)


def test_what_somebody_else_had_suspended_stays_so(place: Place) -> None:
    notice, order = Notice(TITLE, TEXT, 60), Order("sam", "new disks")
    maintenance.begin(place.runtime, place.platform.evidence, [NAME, OTHER], notice, order)
    place.seconds(1)
    handled = place.handled()
    assert set(place.runtime.suspensions()) == {NAME, OTHER}
    assert "had been suspended before" in dict(handled.steps)["maintenance-off"]


def test_a_repetition_of_what_has_just_ended_changes_nothing_and_a_later_call_is_a_new_incident(place: Place) -> None:
    first = place.handled()
    entries = place.platform.evidence.count()
    assert place.handled() == first
    assert place.platform.evidence.count() == entries
    other = handle(place.platform, Call(NAME, "another trouble", "alex"))
    place.clock.sleep(601)
    later = place.handled()
    assert [i.incident for i in (first, other, later)] == [f"inc-emergency-{NAME}-{n}" for n in (1, 2, 3)]


def test_a_record_that_was_spoiled_keeps_nobody_from_calling_an_emergency(place: Place) -> None:
    for subject in ("inc-other", f"inc-emergency-{NAME}-1"):
        place.platform.evidence.append("incident.opened", subject, "somebody", {"schema_version": 99})
    handled = place.handled()
    assert (handled.done, handled.incident) == (True, f"inc-emergency-{NAME}-2")


def test_a_reason_that_identifies_a_patient_and_an_unknown_service_are_refused_before_anything_is_changed(
    place: Place,
) -> None:
    with pytest.raises(RefusedEvidence):
        handle(place.platform, Call(NAME, "Jane Roe, SSN 123-45-6789, sees others' notes", "alex"))
    with pytest.raises(UnknownService):
        place.handled("no-such-service")
    assert place.runtime.suspensions() == {}
    assert place.platform.incidents.list() == ()


def test_an_evidence_log_that_is_away_keeps_callers_out_all_the_same_and_the_repeat_opens_again(place: Place) -> None:
    class Away(MemoryEvidenceLog):
        def entries(self, **_: object) -> Iterator[Entry]:  # ty: ignore[invalid-method-override]
            raise OperationsUnavailable("made unavailable")

        def append(self, *_: object, **__: object) -> Entry:
            raise OperationsUnavailable("made unavailable")

    ill_after_promotion(place)
    log = place.platform.evidence

    def use(evidence: MemoryEvidenceLog) -> None:
        place.platform.__dict__["evidence"] = evidence
        place.platform.__dict__["incidents"] = IncidentLedger(evidence, place.clock)

    use(Away(place.clock))
    with pytest.raises(Unrecorded):
        place.handled()
    assert NAME in place.runtime.suspensions()
    assert place.version() == "2.0.0"
    use(log)  # ty: ignore[invalid-argument-type]
    assert place.handled().done
    assert (place.version(), place.runtime.suspensions()) == ("1.0.0", {})


# What is decided


def test_what_is_done_about_a_service_follows_from_its_record_and_its_health(place: Place) -> None:
    manual, security = TriggerKind.MANUAL, TriggerKind.SECURITY
    fresh = place.record()
    assert isinstance(mitigation(fresh, False, manual), Leave)
    place.promoted("2.0.0")
    promoted = place.record()
    assert mitigation(promoted, False, manual) == GoBack()
    assert mitigation(promoted, None, manual) == Leave("could not be looked at, and is not changed in the dark")
    assert mitigation(promoted, True, manual) == Leave("healthy by its checks")
    assert mitigation(promoted, True, security) == mitigation(promoted, None, security) == GoBack()
    ask(place.runtime, NAME, delivery.deployment(place.platform, NAME, "3.0.0", requested_by="somebody"))
    place.seconds(3)
    rollout = place.record().rollout
    assert rollout is not None
    assert mitigation(place.record(), True, manual) == TakeBack(rollout.id)
    back = replace(place.record(), rollout=rollout.entering(Phase.REVERT_TRAFFIC, rollout.began_at, rollout.deadline))
    assert mitigation(back, False, manual) == Await(rollout.id)
    stuck = replace(back, rollout=rollout.entering(Phase.STUCK, rollout.began_at, rollout.deadline))
    assert isinstance(mitigation(stuck, False, security), Leave)


# Stopped anywhere

WRITES = ("suspend", "resume", "write_record")


@dataclass
class Injector:
    """Kills the procedure before or after its n-th write, wherever that goes; the controller is left alone."""

    place: Place
    fatal: int
    count: int = 0
    armed: bool = True

    def __post_init__(self) -> None:
        for owner, name in (*((self.place.runtime, name) for name in WRITES), (self.place.platform.evidence, "append")):
            setattr(owner, name, self._around(getattr(owner, name)))

    def _around(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **named: Any) -> Any:
            if not self.armed or self.place.at_work:
                return write(*args, **named)
            self._pass()
            done = write(*args, **named)
            self._pass()
            return done

        return guarded

    def _pass(self) -> None:
        self.count += 1
        if self.count == self.fatal:
            raise Killed


def points(make: Callable[[], Place]) -> int:
    counter = Injector(ill_after_promotion(make()), fatal=0)
    counter.place.handled()
    return counter.count


def test_killed_before_or_after_any_of_its_writes_the_repeat_comes_to_the_same_end(make: Callable[[], Place]) -> None:
    total = points(make)
    assert total > 25
    for fatal in range(1, total + 1):
        place = ill_after_promotion(make())
        injector = Injector(place, fatal)
        with pytest.raises(Killed):
            place.handled()
        injector.armed = False
        place.seconds(2)
        handled = place.handled()
        assert handled.done, fatal
        assert (place.version(), place.runtime.suspensions()) == ("1.0.0", {}), fatal
        incident = place.incident()
        assert [a.name for a in incident.actions if a.name in STEPS] == STEPS, fatal
        assert incident.status is Status.RESOLVED
        began = [e for e in place.platform.evidence.entries(kind="rollout-began") if "emergency" in e.subject]
        assert len(began) == 1, fatal


def test_killed_again_and_again_it_gets_on_by_what_stands_in_the_incident(place: Place) -> None:
    ill_after_promotion(place)
    ended = False
    for _ in range(60):
        injector = Injector(place, fatal=7)
        try:
            place.handled()
            ended = True
        except Killed:
            pass
        injector.armed = False
        if ended:
            break
    assert ended
    assert [a.name for a in place.incident().actions if a.name in STEPS] == STEPS


# The draft, and who is told


def test_the_draft_is_the_form_of_a_review_and_is_refused_until_a_person_has_named_a_factor(place: Place) -> None:
    ill_after_promotion(place)
    handled = place.handled()
    action = next(a for a in place.incident().actions if a.name == "post-mortem-draft")
    path = place.platform.state.objects / str(action.after["object"])
    text = path.read_text(encoding="utf-8")
    assert f"mitigate {NAME}: 1 went back" in text
    fields = yaml.safe_load(text)
    assert fields["contributing_factors"] == []
    review = Reviewed.model_validate({**fields, "contributing_factors": ["no test of lost orders"]})
    place.platform.incidents.review(handled.incident, review, "alex")
    assert place.incident().status is Status.REVIEWED


def test_whoever_follows_the_tracker_is_told_when_it_is_mitigated_and_when_it_is_over(place: Place) -> None:
    told: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        fields = {"url": f"http://127.0.0.1:{server.server_port}/", "key": "k"}
        place.platform.state.make()
        place.platform.secrets.ensure("webhooks/release-tracker", lambda: fields, category="api-keys")
        handled = place.handled()
        server.shutdown()
    assert dict(handled.steps)["communicate"] == "the tracker was told"
    assert [statement["said"].split(";")[0] for statement in told] == ["under way", "resolved"]
    assert {statement["incident"] for statement in told} == {handled.incident}


# As a verb and as a job


def drp(place: Place, *words: str) -> Result:
    app = typer.Typer()
    emergency_verbs.register(app)
    app.command("other")(lambda: None)
    return CliRunner().invoke(app, ["emergency", *words], obj=Opened(place.platform))


def test_the_verb_ends_with_0_only_at_the_end_and_prints_one_document(place: Place) -> None:
    done = drp(place, NAME, "--reason", "orders are lost", "--json")
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert (shown["status"], shown["waits"]) == ("resolved", None)
    assert [step["step"] for step in shown["steps"]] == STEPS
    assert drp(place, NAME, "--reason", "leak", "--security").exit_code == 1
    place.falls_ill("1.0.0")
    assert isinstance(drp(place, OTHER, "--reason", "leak").exception, PlatformError)


@pytest.mark.parametrize("words", [[], [NAME, "--all"], [NAME, "--reason", " "]])
def test_a_call_that_does_not_say_what_or_why_is_refused(place: Place, words: list[str]) -> None:
    reason = [] if "--reason" in words else ["--reason", "why"]
    assert drp(place, *words, *reason).exit_code == 2
    assert place.runtime.suspensions() == {}


def test_a_run_that_was_killed_is_gone_on_with_by_the_next_one(place: Place) -> None:
    ill_after_promotion(place)
    injector = Injector(place, fatal=12)
    with contextlib.suppress(Killed):
        place.handled()
    injector.armed = False
    before = place.incident()
    job = emergency_job(place.platform)
    config = {"ops": {"handle_emergency": {"config": {"scope": NAME, "reason": "orders are lost"}}}}
    with dg.DagsterInstance.ephemeral() as instance:
        assert job.execute_in_process(instance=instance, run_config=config).success
    assert place.incident().id == before.id
    assert place.incident().status is Status.RESOLVED


def test_a_run_that_waits_for_a_signature_fails_with_what_it_waits_for(place: Place) -> None:
    job = emergency_job(place.platform)
    config = {"scope": NAME, "reason": "leak", "kind": "security"}
    with dg.DagsterInstance.ephemeral() as instance:
        ended = job.execute_in_process(
            instance=instance, run_config={"ops": {"handle_emergency": {"config": config}}}, raise_on_error=False
        )
    (event,) = [e for e in ended.all_events if e.is_step_failure]
    data = event.step_failure_data.user_failure_data
    assert data is not None
    assert "164.402(2) is not signed" in str(data.description)
