"""Guards the incident record: its order, its clocks, its durations, and the report made of it."""

from __future__ import annotations

import contextlib
import pickle
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dr_platform.catalog.documents import parse_document
from dr_platform.clock import ManualClock
from dr_platform.errors import PlatformError
from dr_platform.evidence import Body, Entry, MemoryEvidenceLog
from dr_platform.incidents import (
    Acknowledged,
    ActionItem,
    ActionTaken,
    Approver,
    Assessed,
    BlastRadius,
    BreachNotAssessed,
    BrokenIncident,
    Communications,
    Conclusion,
    Decision,
    Detection,
    Event,
    EvidenceAdded,
    Incident,
    IncidentLedger,
    Mitigated,
    Noted,
    Opened,
    OutOfOrder,
    Phi,
    Possible,
    RefusedSignature,
    Resolved,
    Responders,
    RespondersNamed,
    Reviewed,
    RuleEvidence,
    Severity,
    StateAtFire,
    StateNotice,
    Status,
    TriggerKind,
    incident_id,
    notices,
    retention_until,
    review_due,
)
from dr_platform.incidents.events import EVENTS, Closed, body_of
from dr_platform.incidents.fold import fold
from dr_platform.incidents.model import BreachException, ClockReading
from dr_platform.incidents.report import report
from tests.contracts.incidents import IncidentLedgerContract
from tests.incidents import ASSESSED, CONTROLLER, FACTORS, PERSON, T0, an_action, an_opening

pytestmark = pytest.mark.unit

ID = incident_id("ro-7k3m9q2w", 4)
GOLDEN = Path(__file__).parent / "golden" / "incident-report.md"
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "incidents.md"
SECOND = timedelta(seconds=1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def log(clock: ManualClock) -> MemoryEvidenceLog:
    return MemoryEvidenceLog(clock)


class TestIncidentsInMemory(IncidentLedgerContract):
    pass


# The order of events


def entries(*events: Event, actor: str = PERSON, keys: tuple[str, ...] | None = None) -> list[Entry]:
    """As if somebody had written them without asking the ledger."""
    log = MemoryEvidenceLog(ManualClock(T0))
    for number, event in enumerate(events):
        key = keys[number] if keys else f"key-{number}"
        log.append(event.KIND, ID, actor, body_of(event, key, ClockReading(origin="boot-test", monotonic_s=0)))
    return list(log.entries())


MITIGATED = Mitigated(traffic_restored_at=T0 + 40 * SECOND)
RESOLVED = Resolved(reason="fixed")
REVIEWED = Reviewed(contributing_factors=("one",))
NOTED = Noted(at=T0, event="note")
OPENED = an_opening()
PRESUMED = an_opening(kind=TriggerKind.SECURITY)
SEVERE = an_opening(severity=Severity.SEV1)


@pytest.mark.parametrize(("events", "refused"), [
    pytest.param((NOTED, OPENED), 1, id="something before the opening"),
    pytest.param((OPENED, OPENED), 2, id="two openings"),
    pytest.param((OPENED, MITIGATED, MITIGATED), 3, id="mitigated twice"),
    pytest.param((OPENED, RESOLVED, RESOLVED), 3, id="resolved twice"),
    pytest.param((OPENED, MITIGATED, REVIEWED), 3, id="reviewed before it was resolved"),
    pytest.param((OPENED, RESOLVED, REVIEWED, REVIEWED), 4, id="reviewed twice"),
    pytest.param((OPENED, MITIGATED, Closed()), 3, id="closed before it was resolved"),
    pytest.param((SEVERE, RESOLVED, Closed()), 3, id="a severe one closed without review"),
    pytest.param((OPENED, RESOLVED, Closed(), NOTED), 4, id="something after the closing"),
    pytest.param((OPENED, RESOLVED, Closed(), Closed()), 4, id="closed twice"),
    pytest.param((PRESUMED, RESOLVED), 2, id="resolved while a breach is presumed"),
    pytest.param((PRESUMED, Closed()), 2, id="closed while a breach is presumed"),
])  # fmt: skip
def test_an_order_that_cannot_be_is_refused_at_its_entry(events: tuple[Event, ...], refused: int) -> None:
    with pytest.raises(BrokenIncident, match=f"entry {refused} "):
        fold(entries(*events))


@pytest.mark.parametrize(("events", "status"), [
    pytest.param((OPENED,), Status.OPEN, id="opened"),
    pytest.param((OPENED, MITIGATED), Status.MITIGATED, id="mitigated"),
    pytest.param((OPENED, RESOLVED), Status.RESOLVED, id="resolved at once"),
    pytest.param((OPENED, RESOLVED, MITIGATED), Status.RESOLVED, id="mitigation noted late"),
    pytest.param((OPENED, MITIGATED, RESOLVED, REVIEWED), Status.REVIEWED, id="reviewed"),
    pytest.param((OPENED, RESOLVED, Closed()), Status.CLOSED, id="a lesser one without review"),
    pytest.param((SEVERE, RESOLVED, REVIEWED, Closed()), Status.CLOSED, id="a severe one with review"),
    pytest.param((PRESUMED, ASSESSED, RESOLVED, REVIEWED, Closed()), Status.CLOSED, id="a presumed breach, signed"),
])  # fmt: skip
def test_an_order_that_can_be_leads_to_its_status(events: tuple[Event, ...], status: Status) -> None:
    assert fold(entries(*events)).status is status


def test_an_event_that_was_written_twice_counts_once() -> None:
    twice = entries(OPENED, OPENED, MITIGATED, MITIGATED, keys=("opened", "opened", "m", "m"))
    assert fold(twice).timeline == fold([twice[0], twice[2]]).timeline


def test_no_entries_are_no_incident() -> None:
    with pytest.raises(ValueError, match="no entry"):
        fold([])


@pytest.mark.parametrize("body", [
    {}, {"schema_version": 1}, {"schema_version": 2, "key": "k", "clock": {}, "event": {}},
    {"schema_version": 1, "key": "k", "clock": {"origin": "b", "monotonic_s": 0}, "event": {"surprise": 1}},
])  # fmt: skip
def test_what_cannot_be_understood_is_refused_without_quoting_it(body: dict[str, object]) -> None:
    log = MemoryEvidenceLog(ManualClock())
    log.append("incident.opened", ID, PERSON, body)
    with pytest.raises(BrokenIncident) as caught:
        fold(log.entries())
    assert "surprise" not in str(caught.value)


def test_a_known_event_in_the_form_of_a_newer_version_is_not_misread() -> None:
    log = MemoryEvidenceLog(ManualClock())
    body = body_of(OPENED, "opened", ClockReading(origin="boot-test", monotonic_s=0))
    log.append(OPENED.KIND, ID, PERSON, {**body, "schema_version": 2})
    with pytest.raises(BrokenIncident, match="newer version"):
        fold(log.entries())


def test_the_first_acknowledgement_counts() -> None:
    later = Acknowledged(at=T0 + 60 * SECOND)
    assert fold(entries(OPENED, Acknowledged(at=T0), later)).acknowledged_at == T0


def test_an_event_of_a_newer_version_is_not_passed_over() -> None:
    log = MemoryEvidenceLog(ManualClock())
    log.append("incident.teleported", ID, PERSON, {})
    with pytest.raises(BrokenIncident):
        fold(log.entries())


EVENT = st.sampled_from([
    NOTED, MITIGATED, RESOLVED, REVIEWED, ASSESSED, Closed(), ActionTaken(action=an_action()), Acknowledged(at=T0),
])  # fmt: skip
ATTEMPTS = st.lists(st.tuples(EVENT, st.integers(0, 6), st.sampled_from([PERSON, CONTROLLER])), max_size=14)


@given(st.sampled_from([OPENED, PRESUMED, SEVERE]), ATTEMPTS)
def test_whatever_is_attempted_the_log_tells_an_incident_that_can_be(
    opening: Opened, attempts: list[tuple[Event, int, str]]
) -> None:
    log = MemoryEvidenceLog(ManualClock(T0))
    ledger = IncidentLedger(log, ManualClock(T0), origin="boot-test")
    current = ledger.open(ID, opening, CONTROLLER)
    for event, key, actor in attempts:
        with contextlib.suppress(PlatformError):
            current = ledger.append(ID, f"key-{key}", event, actor)
        assert fold(log.entries()) == current
    over = current.status in (Status.RESOLVED, Status.REVIEWED, Status.CLOSED)
    assert not (over and current.breach_pending)
    assert not (current.status is Status.CLOSED and current.severity.needs_review and current.reviewed_at is None)
    assert log.verify() is None


class InterruptedLog(MemoryEvidenceLog):
    """Somebody else acts between what a writer has read and its append."""

    meanwhile: Callable[[], object] | None = None

    def append(self, kind: str, subject: str, actor: str, body: Body, *, read_to: int | None = None) -> Entry:
        if (act := self.meanwhile) is not None:
            self.meanwhile = None
            act()
        return super().append(kind, subject, actor, body, read_to=read_to)


@pytest.fixture
def interrupted() -> InterruptedLog:
    log = InterruptedLog(ManualClock(T0))
    IncidentLedger(log).open(ID, OPENED, CONTROLLER)
    return log


def test_who_was_overtaken_decides_anew_and_appends(interrupted: InterruptedLog) -> None:
    ledger = IncidentLedger(interrupted)
    interrupted.meanwhile = lambda: ledger.append(ID, "theirs", NOTED, PERSON)
    ledger.append(ID, "ours", MITIGATED, CONTROLLER)
    assert [e.body["key"] for e in interrupted.entries()] == ["opened", "theirs", "ours"]


def test_who_was_overtaken_by_itself_adds_nothing(interrupted: InterruptedLog) -> None:
    ledger = IncidentLedger(interrupted)
    interrupted.meanwhile = lambda: ledger.append(ID, "same", MITIGATED, CONTROLLER)
    assert ledger.append(ID, "same", MITIGATED, CONTROLLER).status is Status.MITIGATED
    assert interrupted.count() == 2


def test_who_was_overtaken_by_the_same_step_of_another_is_refused(interrupted: InterruptedLog) -> None:
    ledger = IncidentLedger(interrupted)
    interrupted.meanwhile = lambda: ledger.append(ID, "theirs", RESOLVED, PERSON)
    with pytest.raises(OutOfOrder):
        ledger.append(ID, "ours", RESOLVED, PERSON)
    assert interrupted.count() == 2


# The breach assessment


@pytest.mark.parametrize("change", [
    pytest.param({"conclusion": Conclusion.PENDING}, id="no conclusion"),
    pytest.param({"conclusion": Conclusion.BREACH, "exception": BreachException.GOOD_FAITH}, id="a contradiction"),
    pytest.param({"discovered_at": T0 + SECOND}, id="clocks that start after the rule knew"),
])  # fmt: skip
def test_what_cannot_be_signed_is_refused(change: dict[str, object]) -> None:
    ledger = IncidentLedger(MemoryEvidenceLog(ManualClock(T0)))
    ledger.open(ID, PRESUMED, CONTROLLER)
    with pytest.raises(RefusedSignature, match="drp incident assess"):
        ledger.assess(ID, "key", ASSESSED.model_copy(update=change), PERSON)
    assert ledger.show(ID).breach_pending


@pytest.mark.parametrize("factor", list(FACTORS.model_dump()))
@pytest.mark.parametrize("answer", [None, "", "  "])
def test_each_factor_has_to_be_answered(factor: str, answer: str | None) -> None:
    answers = {**FACTORS.model_dump(), factor: answer}
    with pytest.raises(ValidationError):
        Assessed.model_validate({"factors": answers, "conclusion": "low_probability"})


def test_clocks_run_while_a_breach_is_presumed_and_stop_when_the_assessment_shows_otherwise() -> None:
    presumed = fold(entries(PRESUMED))
    assert presumed.notices == notices(T0, None)
    assert fold(entries(PRESUMED, ASSESSED)).notices is None


def test_a_later_signature_replaces_the_former_and_an_earlier_discovery_moves_the_clocks() -> None:
    worse = Assessed(
        factors=FACTORS,
        conclusion=Conclusion.BREACH,
        discovered_at=T0 - timedelta(days=3),
        affected_persons=12,
        state_law=(StateNotice(state="Illinois", due=date(2026, 2, 1)),),
    )
    incident = fold(entries(PRESUMED, ASSESSED, worse))
    assert incident.notices == notices(T0 - timedelta(days=3), 12)
    assert incident.breach_assessment is not None
    assert incident.breach_assessment.conclusion is Conclusion.BREACH
    undated = worse.model_copy(update={"discovered_at": None})
    assert fold(entries(PRESUMED, worse, undated)).notices == incident.notices


def test_a_breach_may_be_assessed_where_no_trigger_presumed_one() -> None:
    incident = fold(entries(OPENED, ASSESSED))
    assert incident.breach_assessment is not None
    assert incident.breach_assessment.assessor == PERSON


@pytest.mark.parametrize(("kind", "phi", "security", "severity"), [
    (TriggerKind.LITERAL, Possible.UNKNOWN, False, Severity.SEV3),
    (TriggerKind.LITERAL, Possible.YES, False, Severity.SEV1),
    (TriggerKind.LITERAL, Possible.NO, True, Severity.SEV2),
    (TriggerKind.HIPAA, Possible.UNKNOWN, False, Severity.SEV1),
    (TriggerKind.SECURITY, Possible.NO, False, Severity.SEV2),
])  # fmt: skip
def test_unsure_means_the_higher_severity(kind: TriggerKind, phi: Possible, security: bool, severity: Severity) -> None:
    opening = an_opening(kind=kind, phi=Phi(possible=phi), security_incident=security)
    assert fold(entries(opening)).severity is severity


# Clocks


DISCOVERED = datetime(2026, 11, 25, 23, 30, tzinfo=UTC)


@pytest.mark.parametrize(("affected", "residents", "secretary", "media"), [
    pytest.param(1, None, date(2027, 3, 1), None, id="few: after the end of the year"),
    pytest.param(499, None, date(2027, 3, 1), None, id="499 are few"),
    pytest.param(500, None, date(2027, 1, 24), None, id="500 are many for the Secretary and not for the media"),
    pytest.param(501, None, date(2027, 1, 24), date(2027, 1, 24), id="501, perhaps all of one State"),
    pytest.param(900, 500, date(2027, 1, 24), None, id="many, of several States"),
    pytest.param(900, 501, date(2027, 1, 24), date(2027, 1, 24), id="many of one State"),
    pytest.param(None, None, date(2027, 1, 24), date(2027, 1, 24), id="not known is treated as many"),
])  # fmt: skip
def test_notices_are_due_as_the_number_of_persons_says(
    affected: int | None, residents: int | None, secretary: date, media: date | None
) -> None:
    due = notices(DISCOVERED, affected, residents)
    assert (due.individuals, due.business_associate) == (date(2027, 1, 24), date(2027, 1, 24))
    assert (due.secretary, due.media) == (secretary, media)


MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2080, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - naive bounds


@given(MOMENTS, st.none() | st.integers(0, 2000), st.none() | st.integers(0, 2000))
def test_no_notice_is_later_than_its_outer_limit(at: datetime, affected: int | None, residents: int | None) -> None:
    due = notices(at, affected, residents)
    assert (due.individuals - at.date()).days == 60
    assert due.individuals <= due.secretary <= date(at.year, 12, 31) + timedelta(days=60)
    assert due.media in (None, due.individuals)


@given(MOMENTS, st.integers(0, 2000), st.integers(0, 2000))
def test_more_persons_never_give_more_time(at: datetime, one: int, two: int) -> None:
    fewer, more = notices(at, min(one, two)), notices(at, max(one, two))
    assert more.secretary <= fewer.secretary
    assert not (fewer.media and not more.media)


@pytest.mark.parametrize(("opened", "due"), [
    (date(2026, 11, 25), date(2026, 12, 2)),  # Wednesday to Wednesday
    (date(2026, 11, 27), date(2026, 12, 4)),  # Friday to Friday
    (date(2026, 11, 28), date(2026, 12, 4)),  # Saturday: Monday is the first day
])  # fmt: skip
def test_the_review_is_due_in_five_business_days(opened: date, due: date) -> None:
    assert review_due(datetime.combine(opened, datetime.min.time(), UTC)) == due


@given(MOMENTS)
def test_there_are_five_business_days_until_the_review(at: datetime) -> None:
    days = [at.date() + timedelta(days=n) for n in range(1, (review_due(at) - at.date()).days + 1)]
    assert sum(day.weekday() < 5 for day in days) == 5
    assert days[-1].weekday() < 5


def test_records_are_kept_for_six_years_after_they_were_last_written() -> None:
    assert retention_until(datetime(2026, 11, 25, tzinfo=UTC)) == date(2032, 11, 25)
    assert retention_until(datetime(2028, 2, 29, tzinfo=UTC)) == date(2034, 3, 1)


def test_a_clock_that_goes_back_shortens_no_retention() -> None:
    clock = ManualClock(T0)
    ledger = IncidentLedger(MemoryEvidenceLog(clock), clock)
    ledger.open(ID, OPENED, CONTROLLER)
    clock.sleep(86_400)
    assert ledger.append(ID, "one", NOTED, PERSON).retention_until == date(2032, 1, 2)
    clock.jump(-10 * 86_400)
    assert ledger.append(ID, "two", NOTED, PERSON).retention_until == date(2032, 1, 2)


# Durations


def test_durations_count_from_the_fault() -> None:
    incident = fold(entries(OPENED, MITIGATED, Resolved(reason="fixed", recovered_at=T0 + 300 * SECOND)))
    assert (incident.detected_seconds, incident.mitigated_seconds, incident.recovered_seconds) == (12, 52, 312)


def test_a_fault_of_unknown_beginning_was_detected_after_an_unknown_time() -> None:
    detection = Detection(trigger="t", kind=TriggerKind.MANUAL, rule="a person asked for it", fired_at=T0)
    incident = fold(entries(OPENED.model_copy(update={"detection": detection}), MITIGATED))
    assert (incident.detected_seconds, incident.mitigated_seconds) == (None, 40)


def test_an_estimated_beginning_comes_before_the_first_bad_sample() -> None:
    detection = OPENED.detection.model_copy(update={"fault_estimated_at": T0 - 30 * SECOND})
    assert fold(entries(OPENED.model_copy(update={"detection": detection}))).detected_seconds == 30


def test_a_rule_cannot_fire_before_its_fault() -> None:
    with pytest.raises(ValidationError):
        Detection(trigger="t", kind=TriggerKind.GUARD, rule="r", fired_at=T0, first_bad_sample_at=T0 + SECOND)


@pytest.mark.parametrize("error", [BreachNotAssessed("inc-1", "closing"), OutOfOrder("inc-1", "s", "w", "n"),
                                   RefusedSignature("inc-1", "why"), BrokenIncident("inc-1", 3, "why")])  # fmt: skip
def test_errors_survive_the_way_between_processes(error: PlatformError) -> None:
    copied = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (type(copied), str(copied)) == (type(error), str(error))


# Bodies and report


def whole_incident() -> Incident:
    """One of everything, written as the platform and people would."""
    clock = ManualClock(T0 + 2 * SECOND)
    ledger = IncidentLedger(MemoryEvidenceLog(clock), clock, origin="boot-test")
    evidence = RuleEvidence(
        query="sum(errors) / sum(requests)", window_seconds=180, samples=((T0, 0.31), (T0 + SECOND, 0.35)),
        stable_samples=((T0, 0.002),), p_value=0.0004, threshold=0.05, verdict="above the threshold",
        snapshot_uri="s3://restricted/incidents/1", sha256="0123456789abcdef" * 4,
    )  # fmt: skip
    opening = an_opening(
        kind=TriggerKind.HIPAA,
        location="cluster-1/therapeutic-ai",
        evidence=(evidence,),
        state_at_fire=StateAtFire(
            weights={"blue": 90, "green": 10}, replicas={"blue": 3, "green": 1}, endpoints={"blue": 3, "green": 1},
            active_alerts=("error-rate",), controller_epoch=4,
        ),
        decision=Decision(
            mode="immediate", automatic=True, policy_version="7", target_admissibility=("1.4.0 passes the same test",),
            alternatives_rejected=("gradual: PHI may be exposed meanwhile",),
            approver=Approver(id="approval-12", role="release manager", method="signed", at=T0),
        ),
        phi=Phi(possible=Possible.UNKNOWN, data_classes=("conversations",), encrypted_at_rest=True, keys_exposed=False),
    )  # fmt: skip
    ledger.open(ID, opening, CONTROLLER)
    clock.sleep(3)
    ledger.append(ID, "ack", Acknowledged(at=clock.now()), PERSON)
    ledger.append(ID, "traffic", ActionTaken(action=an_action(at=clock.now())), CONTROLLER)
    ledger.append(ID, "more", EvidenceAdded(evidence=evidence.model_copy(update={"verdict": "good again"})), CONTROLLER)
    named = Responders(incident_commander="dana", scribe="lee", subject_experts=("kim",))
    ledger.append(ID, "who", RespondersNamed(responders=named), PERSON)
    clock.sleep(35)
    blast = BlastRadius(
        requests_served=210, requests_failed=17, max_weight=10, exposure_seconds=52, users_distinct=9,
        tenants=("clinic-a",), dependents=("gateway", "scheduler"), dependents_rolled_back=("gateway",),
        downstream_assets=("knowledge/faq",), data_written=("invoices 2026-01",),
    )  # fmt: skip
    ledger.mitigate(ID, clock.now(), CONTROLLER, blast)
    ledger.append(ID, "note", Noted(at=clock.now(), event="<b>odd</b> | `cell`", source_link="[logs](x)"), PERSON)
    ledger.assess(ID, "first", ASSESSED.model_copy(update={"affected_persons": 0}), PERSON)
    clock.sleep(600)
    ledger.resolve(ID, "the former version serves alone", PERSON)
    review = Reviewed(
        contributing_factors=("a retry without a limit",), went_well=("found in 12 s",), went_badly=("paged late",),
        lucky=("few were awake",), communications=Communications(internal="posted in the channel"),
        action_items=(ActionItem(type="prevent", what="limit retries", owner="team:billing", due=date(2026, 2, 1)),),
    )  # fmt: skip
    ledger.review(ID, review, PERSON)
    return ledger.close(ID, PERSON)


def test_the_report_says_all_that_is_known() -> None:
    assert report(whole_incident()) == GOLDEN.read_text(encoding="utf-8")


def test_a_report_of_what_has_just_begun_says_what_is_missing() -> None:
    text = report(fold(entries(PRESUMED)))
    assert "| Requests failed | not recorded |" in text
    assert "| Conclusion (164.402(2)) | pending |" in text
    assert "| Notice to individuals until (164.404) | 2026-03-02 |" in text


@given(st.text(max_size=60).filter(lambda text: text.strip()))
def test_no_text_can_break_out_of_its_cell(text: str) -> None:
    incident = fold(entries(OPENED, RESOLVED)).model_copy(update={"resolution": text})
    plain = report(incident.model_copy(update={"resolution": "plain"}))
    told = report(incident)
    assert len(told.splitlines()) == len(plain.splitlines())
    row = next(line for line in told.splitlines() if line.startswith("| Resolution |"))
    assert row.replace("\\\\", "").replace("\\|", "").count("|") == 3


def test_the_whole_record_goes_through_json_and_back() -> None:
    incident = whole_incident()
    assert Incident.model_validate_json(incident.model_dump_json()) == incident
    told = incident.as_json()
    assert (told["ttd_seconds"], told["ttm_seconds"], told["retention_until"]) == (12, 52, "2032-01-01")
    assert told["review_due"] == "2026-01-08"


def test_the_files_of_the_document_can_be_signed_and_recorded() -> None:
    assessment, review = (
        parse_document(text).data
        for text in re.findall(r"```yaml\n(# drp incident .+?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    )
    signed = Assessed.model_validate(assessment)
    reviewed = Reviewed.model_validate(review)
    assert set(assessment) == set(Assessed.model_fields)
    assert set(review) == set(Reviewed.model_fields)
    incident = fold(entries(PRESUMED, signed, RESOLVED, reviewed, Closed()))
    assert incident.action_items[0].due == date(2026, 2, 1)


def test_the_document_names_every_status_and_its_order() -> None:
    table = DOCUMENT.read_text("utf-8").split("| Status |")[1].split("\n\n")[0]
    named = re.findall(r"^\| `([a-z]+)` \|", table, re.MULTILINE)
    assert named == list(Status)


def test_every_event_is_read_back_as_it_was_written() -> None:
    assert len(EVENTS) == 12
    opening = an_opening(kind=TriggerKind.HIPAA, phi=Phi(possible=Possible.NO), severity=Severity.SEV4)
    for event in (opening, MITIGATED, ASSESSED, REVIEWED, NOTED, Closed()):
        body = body_of(event, "key", ClockReading(origin="boot-test", monotonic_s=1.5))
        assert EVENTS[event.KIND].model_validate(body["event"]) == event
