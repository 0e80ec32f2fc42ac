"""Taking events in: each decision is kept as evidence, once, however often its event is delivered.

Here: the order of reading, deciding and writing, and what was taken in. Not here: the decision (``decide``).

An entry's subject is ``intake/<environment>/<hash of the event's identity>``, its kind ``intake-accepted`` or
``intake-ignored``. An event that was ignored is decided anew when it is delivered again, because the catalog
may say something else by then; one that was accepted never is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from dr_platform.catalog import Environment
from dr_platform.evidence import Entry, EvidenceLog, StaleSubject
from dr_platform.intake.change import Change, Nothing
from dr_platform.intake.decide import WAITS_FOR, Accepted, Ignored, decide

ACCEPTED = "intake-accepted"
IGNORED = "intake-ignored"
_TRIES = 5


class Outcome(StrEnum):
    ACCEPTED = "accepted"
    IGNORED = "ignored"
    DUPLICATE = "duplicate"
    """It was accepted before; nothing more comes of it."""


@dataclass(frozen=True)
class Taken:
    """What became of an event. ``release`` is empty where it deploys nothing."""

    outcome: Outcome
    why: str
    release: str = ""

    def as_json(self) -> dict[str, str | None]:
        return {"outcome": self.outcome.value, "release": self.release or None, "why": self.why}


class IntakeDesk:
    """Of one environment. Raises ``OperationsUnavailable`` while the evidence log does not answer: an event
    that is not evidence was not taken in, and is to be delivered again."""

    def __init__(self, evidence: EvidenceLog, environment: Environment) -> None:
        self._evidence = evidence
        self._environment = environment

    def take(self, found: Change | Nothing, actor: str, delivery: str = "") -> Taken:
        """``delivery`` is the sender's name for this delivery, for whoever compares both sides' logs."""
        if isinstance(found, Nothing):
            return Taken(Outcome.IGNORED, found.why)
        for attempt in range(_TRIES):
            try:
                return self._take(found, actor, delivery)
            except StaleSubject:  # the same event came in twice at once
                if attempt == _TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    def _take(self, change: Change, actor: str, delivery: str) -> Taken:
        subject = self._subject(change)
        earlier = tuple(self._evidence.entries(subject=subject))
        for entry in earlier:
            if entry.kind == ACCEPTED:
                return Taken(Outcome.DUPLICATE, f"taken in before: {entry.body['why']}", str(entry.body["release"]))
        intent = decide(change, self._environment)
        if isinstance(intent, Ignored):
            if not any(entry.body.get("why") == intent.why for entry in earlier):
                self._write(IGNORED, subject, actor, change, {"why": intent.why, "delivery": delivery}, earlier)
            return Taken(Outcome.IGNORED, intent.why)
        body = {"why": intent.why, "release": intent.release, "delivery": delivery}
        self._write(ACCEPTED, subject, actor, change, body, earlier)
        return Taken(Outcome.ACCEPTED, intent.why, intent.release)

    def _subject(self, change: Change) -> str:
        digest = hashlib.sha256(change.identity.encode()).hexdigest()[:32]
        return f"intake/{self._environment.name}/{digest}"

    def _write(
        self, kind: str, subject: str, actor: str, change: Change, body: dict[str, str], earlier: tuple[Entry, ...]
    ) -> None:
        about = {
            "event": change.happening.value,
            "branch": change.branch,
            "commit": change.commit,
            "source": change.source,
            "repository": change.repository,
        }
        read_to = earlier[-1].sequence if earlier else 0
        self._evidence.append(kind, subject, actor, {**about, **body}, read_to=read_to)

    def accepted(self, after: int = 0) -> tuple[Accepted, ...]:
        """What was taken in for this environment after an entry of the log, oldest first."""
        prefix = f"intake/{self._environment.name}/"
        entries = self._evidence.entries(kind=ACCEPTED, after=after)
        return tuple(_accepted(entry) for entry in entries if entry.subject.startswith(prefix))


def _accepted(entry: Entry) -> Accepted:
    body = entry.body
    return Accepted(
        entry.sequence, entry.subject, str(body["release"]), entry.at, str(body["why"]), str(body["source"])
    )  # fmt: skip


__all__ = ["ACCEPTED", "IGNORED", "WAITS_FOR", "IntakeDesk", "Outcome", "Taken"]
