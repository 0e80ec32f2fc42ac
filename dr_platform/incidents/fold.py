"""The incident as a fold over its entries: what each event changes, and what may not follow.

Here: pure functions. Not here: reading and appending (``ledger``), which asks ``advance`` before it
appends, so that nothing is written that ``fold`` refuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dr_platform.errors import PlatformError
from dr_platform.evidence import Entry
from dr_platform.incidents.errors import BreachNotAssessed, BrokenIncident, OutOfOrder, RefusedSignature
from dr_platform.incidents.events import (
    PREFIX,
    SCHEMA_VERSION,
    Acknowledged,
    ActionTaken,
    Assessed,
    BlastMeasured,
    Closed,
    Event,
    EvidenceAdded,
    Mitigated,
    Noted,
    Opened,
    Resolved,
    RespondersNamed,
    Reviewed,
    Written,
    read,
)
from dr_platform.incidents.model import (
    BreachAssessment,
    BreachException,
    ClockReading,
    Conclusion,
    Incident,
    Status,
    TimelineEvent,
    severity_of,
)

AUTOMATIC_ACTOR = re.compile(r"(?:^|\s)(?:sensor|schedule|run|job|controller|keeper|watchdog|program):")
"""Programs are named ``sensor:remediation``; a signature is a person's."""


@dataclass(frozen=True)
class Writing:
    """By whom and when an event is written. ``source`` is where to look it up."""

    at: datetime
    actor: str
    clock: ClockReading
    source: str = ""


@dataclass(frozen=True)
class History:
    """All that was read of a subject: ``read_to`` is the last entry's sequence number, 0 for none."""

    incident: Incident | None = None
    keys: frozenset[str] = field(default_factory=frozenset)
    read_to: int = 0


def fold(entries: Iterable[Entry]) -> Incident:
    """The incident that the entries of one subject tell. Raises ``BrokenIncident`` for an order that
    cannot be, and ``ValueError`` where no entry belongs to an incident."""
    incident = replay(entries).incident
    if incident is None:
        raise ValueError("no entry of an incident")
    return incident


def replay(entries: Iterable[Entry]) -> History:
    """An event whose key was seen before changes nothing: whoever wrote it had repeated itself."""
    history = History()
    for entry in entries:
        history = _continued(history, entry)
    return history


def _continued(history: History, entry: Entry) -> History:
    if not entry.kind.startswith(PREFIX):
        return History(history.incident, history.keys, entry.sequence)
    try:
        written = read(entry)
        if written.key in history.keys:
            return History(history.incident, history.keys, entry.sequence)
        incident = advance(history.incident, entry.subject, written.event, writing_of(written))
    except PlatformError as exc:
        raise BrokenIncident(entry.subject, entry.sequence, exc.what) from None
    except (KeyError, TypeError, ValueError):
        # Nothing of the cause is shown: it may quote what was written.
        raise BrokenIncident(entry.subject, entry.sequence, "it is no event of an incident") from None
    return History(incident, history.keys | {written.key}, entry.sequence)


def writing_of(written: Written) -> Writing:
    entry = written.entry
    return Writing(entry.at, entry.actor, written.clock, f"evidence {entry.sequence}")


def advance(incident: Incident | None, subject: str, event: Event, writing: Writing) -> Incident:
    """The incident after one more event. Raises ``OutOfOrder``, ``BreachNotAssessed`` and
    ``RefusedSignature``."""
    if isinstance(event, Opened):
        if incident is not None:
            raise OutOfOrder(subject, "opening", "it is open already", "append to it")
        return _opened(subject, event, writing)
    if incident is None:
        raise OutOfOrder(subject, "the event", "the incident was never opened", "open it first")
    if incident.status is Status.CLOSED:
        raise OutOfOrder(subject, "the event", "the incident is closed", "open another that names this one")
    changes = _changes(incident, event, writing)
    timeline = _in_order(*incident.timeline, _line(incident.opened_clock, event, writing))
    return incident.model_copy(
        update={**changes, "timeline": timeline, "written_at": max(incident.written_at, writing.at)}
    )


def _opened(subject: str, event: Opened, writing: Writing) -> Incident:
    detection = event.detection
    security = event.security_incident or detection.kind.presumes_breach
    return Incident(
        **{name: getattr(event, name) for name in type(event).model_fields if name in _CARRIED},
        id=subject,
        schema_version=SCHEMA_VERSION,
        status=Status.OPEN,
        severity=event.severity or severity_of(detection.kind, event.phi, security_incident=security),
        security_incident=security,
        breach_assessment=BreachAssessment(discovered_at=detection.fired_at) if security else None,
        timeline=_in_order(*_before_opening(event), _line(writing.clock, event, writing)),
        opened_at=writing.at,
        opened_by=writing.actor,
        opened_clock=writing.clock,
        written_at=writing.at,
    )


_CARRIED = frozenset({
    "service", "environment", "location", "release", "detection", "evidence", "state_at_fire", "decision",
    "blast_radius", "phi",
})  # fmt: skip


def _before_opening(event: Opened) -> Iterable[TimelineEvent]:
    found = event.detection
    moments = (
        (found.fault_estimated_at, "the fault began, as far as can be estimated"),
        (found.first_bad_sample_at, "first bad sample"),
        (found.fired_at, f"{found.trigger} fired: {found.rule}"),
    )
    for at, text in moments:
        if at is not None:
            yield TimelineEvent(at=at, event=text, actor=found.trigger, source_link="detection")


def _changes(incident: Incident, event: Event, writing: Writing) -> Mapping[str, Any]:
    match event:
        case Acknowledged(at=at):
            return {"acknowledged_at": incident.acknowledged_at or at}
        case ActionTaken(action=action):
            return {"actions": (*incident.actions, action)}
        case EvidenceAdded(evidence=evidence):
            return {"evidence": (*incident.evidence, evidence)}
        case BlastMeasured(blast_radius=blast_radius):
            return {"blast_radius": blast_radius}
        case RespondersNamed(responders=responders):
            return {"responders": responders}
        case Noted():
            return {}
        case Mitigated():
            return _mitigated(incident, event)
        case Assessed():
            return {"breach_assessment": _signed(incident, event, writing)}
        case Resolved():
            return _resolved(incident, event, writing)
        case Reviewed():
            return _reviewed(incident, event, writing)
        case Closed():
            return _closed(incident, writing)
    raise TypeError(type(event).__name__)


def _mitigated(incident: Incident, event: Mitigated) -> Mapping[str, Any]:
    if incident.traffic_restored_at is not None:
        raise OutOfOrder(incident.id, "mitigation", "it was mitigated already", "append what was done as an action")
    # Somebody may have resolved it while the program that restored traffic was away.
    status = Status.MITIGATED if incident.status is Status.OPEN else incident.status
    return {
        "status": status,
        "traffic_restored_at": event.traffic_restored_at,
        "blast_radius": event.blast_radius or incident.blast_radius,
    }


def _resolved(incident: Incident, event: Resolved, writing: Writing) -> Mapping[str, Any]:
    if incident.status not in (Status.OPEN, Status.MITIGATED):
        raise OutOfOrder(incident.id, "resolution", "it was resolved already", "review it")
    if incident.breach_pending:
        raise BreachNotAssessed(incident.id, "resolution")
    return {
        "status": Status.RESOLVED,
        "resolution": event.reason,
        "recovered_at": event.recovered_at or writing.at,
    }


def _reviewed(incident: Incident, event: Reviewed, writing: Writing) -> Mapping[str, Any]:
    if incident.status is not Status.RESOLVED:
        why = "it was reviewed already" if incident.status is Status.REVIEWED else "it is not resolved"
        remedy = f"see `drp incident show {incident.id}`"
        raise OutOfOrder(incident.id, "review", why, remedy)
    return {
        **{name: getattr(event, name) for name in type(event).model_fields},
        "status": Status.REVIEWED,
        "reviewed_at": writing.at,
    }


def _closed(incident: Incident, writing: Writing) -> Mapping[str, Any]:
    if incident.breach_pending:
        raise BreachNotAssessed(incident.id, "closing")
    if incident.status in (Status.OPEN, Status.MITIGATED):
        remedy = f"resolve it with `drp incident resolve {incident.id}`"
        raise OutOfOrder(incident.id, "closing", "it is not resolved", remedy)
    if incident.severity.needs_review and incident.status is not Status.REVIEWED:
        remedy = f"record its review with `drp incident review {incident.id}`"
        raise OutOfOrder(incident.id, "closing", f"a {incident.severity} incident is reviewed first", remedy)
    return {"status": Status.CLOSED, "closed_at": writing.at}


# The breach assessment


def _signed(incident: Incident, event: Assessed, writing: Writing) -> BreachAssessment:
    discovered = event.discovered_at or _discovered_at(incident)
    if why := _unsignable(incident, event, writing.actor, discovered):
        raise RefusedSignature(incident.id, why)
    signed = {name: getattr(event, name) for name in type(event).model_fields if name != "discovered_at"}
    return BreachAssessment(**signed, discovered_at=discovered, assessor=writing.actor, signed_at=writing.at)


def _discovered_at(incident: Incident) -> datetime:
    stands = incident.breach_assessment
    return stands.discovered_at if stands else incident.detection.fired_at


def _unsignable(incident: Incident, event: Assessed, actor: str, discovered: datetime) -> str | None:
    if AUTOMATIC_ACTOR.search(actor):
        return "a program cannot sign it"
    if event.conclusion is Conclusion.PENDING:
        return "a signature needs a conclusion"
    if event.conclusion is Conclusion.BREACH and event.exception is not BreachException.NONE:
        return "what falls under an exception of 45 CFR 164.402(1) is no breach"
    # The clocks of 164.404 start when it could have been known, and the rule that fired did know.
    if discovered > incident.detection.fired_at:
        return "the discovery cannot be later than the rule that fired"
    return None


# The timeline


def _in_order(*events: TimelineEvent) -> tuple[TimelineEvent, ...]:
    return tuple(sorted(events, key=lambda line: line.at))


def _line(opened: ClockReading, event: Event, writing: Writing) -> TimelineEvent:
    told = event.line()
    same_clock = opened.origin == writing.clock.origin
    offset = round(writing.clock.monotonic_s - opened.monotonic_s, 3) if same_clock else None
    return TimelineEvent(
        at=told.at or writing.at,
        event=told.text,
        actor=writing.actor,
        source_link=told.link or writing.source,
        offset_seconds=offset,
    )
