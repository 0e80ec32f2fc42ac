"""What can be written about an incident, and its form in the evidence log.

Here: one class an event, and the body of its entry. Not here: which event may follow which (``fold``).

An entry's kind is the event's ``KIND``, its subject the incident's identifier. Its body has
``schema_version``, ``key`` (the caller's idempotency key), ``clock`` (a monotonic reading) and ``event``
(the fields below, without those that have their default; so a default never changes).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from dr_platform.evidence import Entry
from dr_platform.incidents.model import (
    Action,
    ActionItem,
    BlastRadius,
    BreachException,
    ClockReading,
    Communications,
    Conclusion,
    Decision,
    Detection,
    Fact,
    Label,
    Moment,
    NonNegativeInt,
    Phi,
    Release,
    Responders,
    RiskFactors,
    RuleEvidence,
    Severity,
    StateAtFire,
    StateNotice,
    Text,
)

PREFIX = "incident."
SCHEMA_VERSION = 1
"""Rises when entries are written that an older version would misread."""


@dataclass(frozen=True)
class Line:
    """An event in the timeline: in words, when it happened and where its data is. ``None`` is the
    entry's own moment, and the entry itself."""

    text: str
    at: datetime | None = None
    link: str | None = None


class Event(Fact):
    """Something that was done or found."""

    KIND: ClassVar[str]

    def line(self) -> Line:
        raise NotImplementedError


class Opened(Event):
    """Appended before anything acts. Without a severity the highest of the possible ones is taken."""

    KIND = "incident.opened"

    service: Label
    environment: Label
    location: Label | None = None
    release: Release = Release()
    detection: Detection
    severity: Severity | None = None
    security_incident: bool = False
    evidence: tuple[RuleEvidence, ...] = ()
    state_at_fire: StateAtFire = StateAtFire()
    decision: Decision | None = None
    blast_radius: BlastRadius = BlastRadius()
    phi: Phi = Phi()

    def line(self) -> Line:
        return Line("incident opened")


class Acknowledged(Event):
    """A person has taken notice."""

    KIND = "incident.acknowledged"

    at: Moment

    def line(self) -> Line:
        return Line("acknowledged", self.at)


class ActionTaken(Event):
    KIND = "incident.action"

    action: Action

    def line(self) -> Line:
        done = self.action
        return Line(f"{done.name} {done.object}: {done.result}", done.at, done.run_id and f"run {done.run_id}")


class EvidenceAdded(Event):
    KIND = "incident.evidence"

    evidence: RuleEvidence

    def line(self) -> Line:
        return Line(f"evidence added: {self.evidence.verdict}", link=self.evidence.snapshot_uri)


class BlastMeasured(Event):
    """Counted anew; replaces what was counted before."""

    KIND = "incident.blast-radius"

    blast_radius: BlastRadius

    def line(self) -> Line:
        return Line("blast radius measured")


class RespondersNamed(Event):
    KIND = "incident.responders"

    responders: Responders

    def line(self) -> Line:
        return Line("responders named")


class Noted(Event):
    """Something for the timeline; ``source_link`` leads to the data that shows it."""

    KIND = "incident.timeline"

    at: Moment
    event: Text
    source_link: Label | None = None

    def line(self) -> Line:
        return Line(self.event, self.at, self.source_link)


class Mitigated(Event):
    """No traffic meets the bad revision any more."""

    KIND = "incident.mitigated"

    traffic_restored_at: Moment
    blast_radius: BlastRadius | None = None

    def line(self) -> Line:
        return Line("traffic restored", self.traffic_restored_at)


class Assessed(Event):
    """Whoever appends it signs it. A later one replaces it until the incident is closed."""

    KIND = "incident.breach-assessment"

    factors: RiskFactors
    conclusion: Conclusion
    exception: BreachException = BreachException.NONE
    discovered_at: Moment | None = None
    affected_persons: NonNegativeInt | None = None
    residents_of_one_state: NonNegativeInt | None = None
    state_law: tuple[StateNotice, ...] = ()

    def line(self) -> Line:
        return Line(f"breach assessment signed: {self.conclusion.replace('_', ' ')}")


class Resolved(Event):
    """Everything is as it should be again."""

    KIND = "incident.resolved"

    reason: Text
    recovered_at: Moment | None = None

    def line(self) -> Line:
        return Line(f"resolved: {self.reason}", self.recovered_at)


class Reviewed(Event):
    """The post-mortem, without blame."""

    KIND = "incident.reviewed"

    contributing_factors: tuple[Text, ...]
    went_well: tuple[Text, ...] = ()
    went_badly: tuple[Text, ...] = ()
    lucky: tuple[Text, ...] = ()
    action_items: tuple[ActionItem, ...] = ()
    communications: Communications = Communications()

    def line(self) -> Line:
        return Line("reviewed")


class Closed(Event):
    KIND = "incident.closed"

    def line(self) -> Line:
        return Line("closed")


EVENTS: dict[str, type[Event]] = {
    event.KIND: event
    for event in (
        Opened, Acknowledged, ActionTaken, EvidenceAdded, BlastMeasured, RespondersNamed, Noted, Mitigated, Assessed,
        Resolved, Reviewed, Closed,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Written:
    """An event as it stands in the log."""

    entry: Entry
    key: str
    clock: ClockReading
    event: Event


def body_of(event: Event, key: str, clock: ClockReading) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "key": key,
        "clock": clock.model_dump(mode="json"),
        "event": event.model_dump(mode="json", exclude_defaults=True),
    }


def read(entry: Entry) -> Written:
    """Raises ``KeyError``, ``TypeError`` or ``ValueError`` for what ``body_of`` would not have made."""
    body = entry.body
    if body["schema_version"] != SCHEMA_VERSION:
        raise ValueError("written in a form that this version does not know")
    event = EVENTS[entry.kind].model_validate(body["event"])
    return Written(entry, str(body["key"]), ClockReading.model_validate(body["clock"]), event)
