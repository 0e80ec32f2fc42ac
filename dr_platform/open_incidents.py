"""Which incidents are not closed yet, as figures and as a table for people.

Here: choosing and showing. Not here: what an incident is, or what may be done about it (``incidents``).
"""

from __future__ import annotations

from dataclasses import dataclass

from dr_platform.incidents import Incident, IncidentLedger, Status
from dr_platform.verdict import Measure

_HEAD = ("Incident", "Service", "Trigger", "Severity", "Status", "Opened (UTC)", "Breach assessment", "Notice due")


@dataclass(frozen=True)
class OpenIncidents:
    """Those that are not closed, opened last first; ``total`` counts all there ever were."""

    incidents: tuple[Incident, ...]
    total: int

    @property
    def pending(self) -> tuple[Incident, ...]:
        """Those whose breach assessment nobody has signed; until then a breach is presumed."""
        return tuple(i for i in self.incidents if i.breach_pending)

    def measurements(self) -> dict[str, Measure]:
        unresolved = sum(i.status in (Status.OPEN, Status.MITIGATED) for i in self.incidents)
        return {
            "incidents": self.total,
            "not_closed": len(self.incidents),
            "unresolved": unresolved,
            "assessments_pending": len(self.pending),
        }

    def describe(self) -> str:
        left, unsigned = len(self.incidents), len(self.pending)
        return f"{left} of {self.total} incidents not closed, {unsigned} breach assessments pending"

    def markdown(self) -> str:
        if not self.incidents:
            return "No incident is open."
        rows = [_HEAD, ("---",) * len(_HEAD), *map(_row, self.incidents)]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    @property
    def state(self) -> str:
        """Changes whenever an incident does."""
        return ";".join(f"{i.id}:{i.status}:{i.written_at.isoformat()}" for i in self.incidents) + f";{self.total}"


def look(ledger: IncidentLedger) -> OpenIncidents:
    """Raises ``OperationsUnavailable``, and ``BrokenIncident`` for what the ledger did not write."""
    every = ledger.list()
    return OpenIncidents(tuple(i for i in every if i.status is not Status.CLOSED), len(every))


def _row(incident: Incident) -> tuple[str, ...]:
    assessment = incident.breach_assessment
    conclusion = assessment.conclusion.value if assessment else "not needed"
    notice = incident.notices.individuals if incident.notices else None
    return (
        incident.id,
        incident.service,
        incident.detection.trigger,
        incident.severity.value,
        incident.status.value,
        f"{incident.opened_at:%Y-%m-%d %H:%M}",
        conclusion,
        notice.isoformat() if notice else "",
    )
