"""What the incident ledger promises on every evidence log; an adapter's tests inherit this class."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from dr_platform.clock import ManualClock
from dr_platform.errors import PlatformError
from dr_platform.evidence import EvidenceLog, RefusedEvidence
from dr_platform.incidents import (
    ActionTaken,
    BlastMeasured,
    BlastRadius,
    BreachNotAssessed,
    BrokenIncident,
    Conclusion,
    IdentifierTaken,
    IncidentLedger,
    Mitigated,
    Noted,
    OutOfOrder,
    RefusedSignature,
    Resolved,
    Reviewed,
    Severity,
    Status,
    TriggerKind,
    UnknownIncident,
    incident_id,
)
from dr_platform.incidents.fold import fold
from tests.incidents import ASSESSED, CONTROLLER, PERSON, T0, an_action, an_opening

ID = incident_id("ro-7k3m9q2w", 4)
HIPAA = an_opening(kind=TriggerKind.HIPAA)
REVIEW = Reviewed(contributing_factors=("a retry without a limit",))


class IncidentLedgerContract:
    """No ``Test`` prefix: it runs only through its adapters, which provide ``log`` and ``clock``."""

    @pytest.fixture
    def ledger(self, log: EvidenceLog, clock: ManualClock) -> IncidentLedger:
        return IncidentLedger(log, clock, origin="boot-test")

    def test_an_incident_is_followed_from_its_opening_to_its_closing(
        self, ledger: IncidentLedger, clock: ManualClock, log: EvidenceLog
    ) -> None:
        assert ledger.open(ID, an_opening(), CONTROLLER).status is Status.OPEN
        clock.sleep(20)
        ledger.append(ID, "traffic", ActionTaken(action=an_action(at=clock.now())), CONTROLLER)
        blast = BlastRadius(requests_served=210, requests_failed=17, exposure_seconds=64.5, max_weight=10)
        assert ledger.mitigate(ID, clock.now(), CONTROLLER, blast).status is Status.MITIGATED
        clock.sleep(600)
        assert ledger.resolve(ID, "the former version serves alone", PERSON).status is Status.RESOLVED
        assert ledger.review(ID, REVIEW, PERSON).status is Status.REVIEWED
        closed = ledger.close(ID, PERSON)
        assert (closed.status, closed.blast_radius, len(closed.actions)) == (Status.CLOSED, blast, 1)
        assert closed.recovered_seconds == (clock.now() - closed.detection.began_at).total_seconds()
        assert ledger.show(ID) == closed == fold(log.entries(subject=ID))
        assert log.verify() is None

    def test_what_is_returned_after_each_event_is_what_is_read_back(self, ledger: IncidentLedger) -> None:
        steps: tuple[Callable[[], object], ...] = (
            lambda: ledger.open(ID, HIPAA, CONTROLLER),
            lambda: ledger.append(ID, "note", Noted(at=T0, event="asked the team", source_link="run 12"), PERSON),
            lambda: ledger.assess(ID, "first", ASSESSED, PERSON),
            lambda: ledger.mitigate(ID, T0 + timedelta(minutes=1), CONTROLLER),
            lambda: ledger.resolve(ID, "fixed", PERSON, T0 + timedelta(minutes=5)),
        )
        for step in steps:
            assert step() == ledger.show(ID)

    def test_a_controller_that_repeats_itself_adds_nothing(
        self, ledger: IncidentLedger, log: EvidenceLog, clock: ManualClock
    ) -> None:
        def run(writer: IncidentLedger) -> None:
            writer.open(ID, an_opening(fired_at=clock.now()), CONTROLLER)
            writer.append(ID, "traffic", ActionTaken(action=an_action(at=clock.now())), CONTROLLER)
            writer.mitigate(ID, clock.now(), CONTROLLER)

        run(ledger)
        before = ledger.show(ID)
        clock.sleep(30)
        run(IncidentLedger(log, clock, origin="boot-another"))
        assert ledger.show(ID) == before
        assert log.count() == 3
        assert len(ledger.list()) == 1

    def test_closing_again_adds_nothing(self, ledger: IncidentLedger, log: EvidenceLog) -> None:
        ledger.open(ID, an_opening(), CONTROLLER)
        for _ in range(2):
            ledger.resolve(ID, "fixed", PERSON)
        for _ in range(2):
            assert ledger.close(ID, PERSON).status is Status.CLOSED
        assert log.count() == 3

    def test_controllers_at_once_open_one_incident(self, ledger: IncidentLedger, log: EvidenceLog) -> None:
        with ThreadPoolExecutor(8) as pool:
            opened = list(pool.map(lambda _: ledger.open(ID, an_opening(), CONTROLLER), range(8)))
        assert opened == [opened[0]] * 8
        assert log.count() == 1

    def test_of_many_resolutions_at_once_one_is_written_and_the_record_stays_readable(
        self, ledger: IncidentLedger, log: EvidenceLog
    ) -> None:
        ledger.open(ID, an_opening(), CONTROLLER)

        def attempt(number: int) -> bool:
            try:
                ledger.append(ID, f"by-{number}", Resolved(reason=f"reason {number}"), PERSON)
            except OutOfOrder:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(attempt, range(12))) == 1
        assert log.count() == 2
        assert ledger.show(ID).status is Status.RESOLVED

    def test_events_at_once_are_all_kept(self, ledger: IncidentLedger) -> None:
        ledger.open(ID, an_opening(), CONTROLLER)

        def note(number: int) -> None:
            ledger.append(ID, f"note-{number}", Noted(at=T0, event=f"note {number}"), PERSON)

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(note, range(12)))
        told = {line.event for line in ledger.show(ID).timeline}
        assert {f"note {number}" for number in range(12)} <= told

    def test_one_identifier_never_stands_for_two_troubles(self, ledger: IncidentLedger, log: EvidenceLog) -> None:
        ledger.open(ID, an_opening(), CONTROLLER)
        with pytest.raises(IdentifierTaken):
            ledger.open(ID, an_opening(service="gateway"), CONTROLLER)
        assert log.count() == 1

    def test_nobody_can_write_about_an_incident_that_was_never_opened(
        self, ledger: IncidentLedger, log: EvidenceLog
    ) -> None:
        for attempt in (
            lambda: ledger.show(ID),
            lambda: ledger.resolve(ID, "fixed", PERSON),
            lambda: ledger.close(ID, PERSON),
            lambda: ledger.append(ID, "opened", Noted(at=T0, event="note"), PERSON),
        ):
            with pytest.raises(UnknownIncident, match="drp incident list"):
                attempt()
        assert log.count() == 0

    @pytest.mark.parametrize("kind", [TriggerKind.HIPAA, TriggerKind.SECURITY])
    def test_a_presumed_breach_is_neither_resolved_nor_closed_until_a_person_has_signed(
        self, ledger: IncidentLedger, log: EvidenceLog, kind: TriggerKind
    ) -> None:
        opened = ledger.open(ID, an_opening(kind=kind), CONTROLLER)
        assert opened.breach_assessment is not None
        assert opened.breach_assessment.conclusion is Conclusion.PENDING
        assert opened.security_incident
        assert opened.severity is Severity.SEV1
        ledger.mitigate(ID, T0 + timedelta(minutes=1), CONTROLLER)
        for attempt in (lambda: ledger.resolve(ID, "fixed", PERSON), lambda: ledger.close(ID, PERSON)):
            with pytest.raises(BreachNotAssessed, match=rf"nothing was written(?s:.)*drp incident assess {ID}"):
                attempt()
        with pytest.raises(RefusedSignature, match="a program cannot sign"):
            ledger.assess(ID, "by a program", ASSESSED, CONTROLLER)
        assert log.count() == 2
        signed = ledger.assess(ID, "by a person", ASSESSED, PERSON).breach_assessment
        assert signed is not None
        assert (signed.assessor, signed.conclusion) == (PERSON, Conclusion.LOW_PROBABILITY)
        assert ledger.resolve(ID, "fixed", PERSON).status is Status.RESOLVED

    def test_a_severe_incident_is_reviewed_before_it_is_closed(self, ledger: IncidentLedger) -> None:
        ledger.open(ID, an_opening(severity=Severity.SEV2), CONTROLLER)
        ledger.resolve(ID, "fixed", PERSON)
        with pytest.raises(OutOfOrder, match="drp incident review"):
            ledger.close(ID, PERSON)
        ledger.review(ID, REVIEW, PERSON)
        assert ledger.close(ID, PERSON).contributing_factors == REVIEW.contributing_factors

    def test_nothing_is_added_to_a_closed_incident(self, ledger: IncidentLedger, log: EvidenceLog) -> None:
        ledger.open(ID, an_opening(), CONTROLLER)
        ledger.resolve(ID, "fixed", PERSON)
        ledger.close(ID, PERSON)
        with pytest.raises(OutOfOrder, match="closed"):
            ledger.append(ID, "late", Noted(at=T0, event="forgotten"), PERSON)
        assert log.count() == 3

    @pytest.mark.parametrize("text", ["patient SSN 987-65-4321", "call (312) 555-0142", "password=hunter2secret"])
    def test_what_identifies_a_patient_or_opens_a_door_is_never_written(
        self, ledger: IncidentLedger, log: EvidenceLog, text: str
    ) -> None:
        with pytest.raises(RefusedEvidence):
            ledger.open(ID, an_opening(rule=text), CONTROLLER)
        ledger.open(ID, an_opening(), CONTROLLER)
        with pytest.raises(RefusedEvidence) as caught:
            ledger.resolve(ID, text, PERSON)
        assert text not in str(caught.value)
        assert log.count() == 1
        assert ledger.show(ID).status is Status.OPEN

    def test_incidents_are_listed_newest_first_with_what_is_known(
        self, ledger: IncidentLedger, clock: ManualClock
    ) -> None:
        first, second = incident_id("ro-1", 1), incident_id("ro-1", 2)
        for incident in (first, second):
            ledger.open(incident, an_opening(), CONTROLLER)
            clock.sleep(1)
        ledger.append(first, "blast", BlastMeasured(blast_radius=BlastRadius(requests_failed=3)), CONTROLLER)
        ledger.mitigate(first, T0 + timedelta(seconds=40), CONTROLLER)
        rows = [incident.as_row() for incident in ledger.list()]
        assert [row["id"] for row in rows] == [second, first]
        assert rows[1] == {
            "id": first,
            "service": "billing",
            "trigger": "error-rate",
            "status": "mitigated",
            "opened_at": rows[1]["opened_at"],
            "detected_s": 12.0,
            "restored_s": 52.0,
            "failed_requests": 3,
        }
        assert (rows[0]["restored_s"], rows[0]["failed_requests"]) == (None, None)

    def test_entries_of_others_about_the_incident_are_left_alone(
        self, ledger: IncidentLedger, log: EvidenceLog
    ) -> None:
        ledger.open(ID, an_opening(), CONTROLLER)
        log.append("approval.given", ID, PERSON, {"key": "resolved"})
        assert ledger.resolve(ID, "fixed", PERSON).status is Status.RESOLVED
        assert ledger.show(ID).status is Status.RESOLVED

    def test_what_this_ledger_would_not_have_written_is_named_by_its_entry(
        self, ledger: IncidentLedger, log: EvidenceLog
    ) -> None:
        ledger.open(ID, an_opening(), CONTROLLER)
        log.append("incident.closed", ID, PERSON, {"event": {}})
        with pytest.raises(BrokenIncident, match="entry 2"):
            ledger.show(ID)

    def test_offsets_do_not_follow_a_wall_clock_that_jumps(
        self, ledger: IncidentLedger, clock: ManualClock, log: EvidenceLog
    ) -> None:
        ledger.open(ID, an_opening(), CONTROLLER)
        clock.sleep(5)
        clock.jump(-3600)
        ledger.append(ID, "here", Noted(at=T0, event="here"), PERSON)
        IncidentLedger(log, clock, origin="boot-another").append(ID, "there", Noted(at=T0, event="there"), PERSON)
        offsets = {line.event: line.offset_seconds for line in ledger.show(ID).timeline}
        assert (offsets["incident opened"], offsets["here"], offsets["there"]) == (0, 5, None)

    def test_traffic_that_is_restored_after_somebody_resolved_it_is_still_noted(self, ledger: IncidentLedger) -> None:
        ledger.open(ID, an_opening(), CONTROLLER)
        ledger.resolve(ID, "fixed", PERSON)
        late = ledger.mitigate(ID, T0 + timedelta(seconds=9), CONTROLLER)
        assert (late.status, late.mitigated_seconds) == (Status.RESOLVED, 21.0)
        with pytest.raises(OutOfOrder, match="mitigated already"):
            ledger.append(ID, "once more", Mitigated(traffic_restored_at=T0), CONTROLLER)

    def test_refusals_leave_the_record_as_it_was(self, ledger: IncidentLedger, log: EvidenceLog) -> None:
        ledger.open(ID, HIPAA, CONTROLLER)
        before = ledger.show(ID)
        refused = (Resolved(reason="fixed"), REVIEW)
        for number, event in enumerate(itertools.chain(refused, refused)):
            with pytest.raises(PlatformError):
                ledger.append(ID, f"key-{number}", event, PERSON)
        assert (ledger.show(ID), log.count()) == (before, 1)
