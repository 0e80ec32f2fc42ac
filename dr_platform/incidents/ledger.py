"""Writing incidents into the evidence log and reading them from it.

Here: idempotency and the order of concurrent writers. Not here: what may follow what (``fold``).

Every method raises ``OperationsUnavailable`` when the log does not answer; the same call can then be
made again, because its key tells whether the first one arrived.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path

from dr_platform.clock import Clock, SystemClock
from dr_platform.evidence import EvidenceLog, StaleSubject
from dr_platform.identity import new_id
from dr_platform.incidents.errors import IdentifierTaken, UnknownIncident
from dr_platform.incidents.events import (
    Assessed,
    Closed,
    Event,
    Mitigated,
    Opened,
    Resolved,
    Reviewed,
    Written,
    body_of,
)
from dr_platform.incidents.fold import History, Writing, advance, replay, writing_of
from dr_platform.incidents.model import BlastRadius, ClockReading, Incident

MAX_ATTEMPTS = 50
"""How often an append is decided anew when others write about the same incident at once; each time at
least one of them has succeeded."""


def incident_id(rollout_id: str, epoch: int) -> str:
    """The one incident of a rollout under one epoch, the same whoever asks and however often."""
    return f"inc-{rollout_id}-{epoch}"


def boot_origin() -> str:
    """Names what monotonic readings of this machine count from: its boot, else this process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        return new_id("process")
    return f"boot-{hashlib.sha256(boot).hexdigest()[:12]}"


class IncidentLedger:
    """Incidents in an evidence log, append-only. Safe for several processes: an append is decided on
    what the log holds at that moment, and a key that an incident has already adds nothing to it."""

    def __init__(self, evidence: EvidenceLog, clock: Clock | None = None, origin: str | None = None) -> None:
        self._evidence = evidence
        self._clock = clock or SystemClock()
        self._origin = origin or boot_origin()

    # Reading

    def list(self) -> tuple[Incident, ...]:
        """All incidents, those opened last first."""
        opened = {entry.subject: None for entry in self._evidence.entries(kind=Opened.KIND)}
        return tuple(self.show(incident) for incident in reversed(opened))

    def show(self, incident: str) -> Incident:
        """Raises ``UnknownIncident``, and ``BrokenIncident`` for what this ledger did not write."""
        found = self._history(incident).incident
        if found is None:
            raise UnknownIncident(incident)
        return found

    def _history(self, incident: str) -> History:
        return replay(self._evidence.entries(subject=incident))

    # Writing

    def open(self, incident: str, opening: Opened, actor: str) -> Incident:
        """Open it, or return it as it stands where that was done before. To be called before anything
        acts, with an identifier that follows from the trouble (``incident_id``). Raises
        ``IdentifierTaken`` where the identifier stands for another trouble."""
        found = self._append(incident, "opened", opening, actor)
        ours = (opening.service, opening.environment, opening.release.rollout_id)
        if ours != (found.service, found.environment, found.release.rollout_id):
            raise IdentifierTaken(incident)
        return found

    def append(self, incident: str, key: str, event: Event, actor: str) -> Incident:
        """Add an event. ``key`` names the event among those of the incident: whoever repeats itself
        passes the same one, and then nothing is added, whatever the event holds. Raises
        ``UnknownIncident``, ``OutOfOrder``, ``BreachNotAssessed``, ``RefusedSignature`` and
        ``RefusedEvidence``; nothing is written then."""
        if isinstance(event, Opened):
            raise TypeError("incidents are opened by open()")
        return self._append(incident, key, event, actor)

    def mitigate(
        self, incident: str, traffic_restored_at: datetime, actor: str, blast_radius: BlastRadius | None = None
    ) -> Incident:
        """Once an incident; what is said again adds nothing."""
        event = Mitigated(traffic_restored_at=traffic_restored_at, blast_radius=blast_radius)
        return self.append(incident, "mitigated", event, actor)

    def assess(self, incident: str, key: str, assessment: Assessed, actor: str) -> Incident:
        """Sign a breach assessment; ``actor`` is the assessor and must be a person."""
        return self.append(incident, key, assessment, actor)

    def resolve(self, incident: str, reason: str, actor: str, recovered_at: datetime | None = None) -> Incident:
        """Once an incident. Raises ``BreachNotAssessed`` while an assessment is pending."""
        return self.append(incident, "resolved", Resolved(reason=reason, recovered_at=recovered_at), actor)

    def review(self, incident: str, review: Reviewed, actor: str) -> Incident:
        """Once an incident, after it was resolved."""
        return self.append(incident, "reviewed", review, actor)

    def close(self, incident: str, actor: str) -> Incident:
        """Once an incident; nothing can be added after it. Raises ``BreachNotAssessed`` while an
        assessment is pending and ``OutOfOrder`` while the review of a SEV-1 or SEV-2 is missing."""
        return self.append(incident, "closed", Closed(), actor)

    def _append(self, incident: str, key: str, event: Event, actor: str) -> Incident:
        for attempt in range(MAX_ATTEMPTS):
            try:
                return self._append_once(incident, key, event, actor)
            except StaleSubject:
                if attempt == MAX_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def _append_once(self, incident: str, key: str, event: Event, actor: str) -> Incident:
        history = self._history(incident)
        if history.incident is None and not isinstance(event, Opened):
            raise UnknownIncident(incident)
        if history.incident is not None and key in history.keys:
            return history.incident
        clock = ClockReading(origin=self._origin, monotonic_s=round(self._clock.monotonic(), 3))
        advance(history.incident, incident, event, Writing(self._clock.now(), actor, clock))
        body = body_of(event, key, clock)
        entry = self._evidence.append(event.KIND, incident, actor, body, read_to=history.read_to)
        return advance(history.incident, incident, event, writing_of(Written(entry, key, clock, event)))
