"""What a block consists of, in plain text: one type per table or collection.

Here: values. Not here: how they are drawn (``block``), encrypted (``sealing``) or stored (``loading``).
Times are milliseconds since 1970, UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from dr_platform.synthetic.people import Person


class Account(NamedTuple):
    person: Person
    kind: str
    role: str
    created_ms: int


class Session(NamedTuple):
    id: str
    account: str
    token_hash: bytes
    created_ms: int
    expires_ms: int
    revoked_ms: int | None
    open: bool
    """Still in the cache of open sessions; of each account the newest at most."""


class Consent(NamedTuple):
    id: str
    account: str
    purpose: str
    policy_version: str
    granted_ms: int
    withdrawn_ms: int | None
    evidence: str


class Relationship(NamedTuple):
    id: str
    patient: str
    other: str
    kind: str
    note: str
    started_ms: int
    ended_ms: int | None


class EmergencyAccess(NamedTuple):
    id: str
    requester: str
    patient: str
    reason: str
    granted_ms: int
    expires_ms: int
    reviewer: str | None


class Subscription(NamedTuple):
    id: str
    account: str
    plan: str
    status: str
    started_ms: int
    renews_ms: int | None
    ended_ms: int | None


class Usage(NamedTuple):
    account: str
    metric: str
    units: int
    at_ms: int
    report: str


class Profile(NamedTuple):
    """A record of the service that keeps what is known of a person."""

    id: str
    body: str
    created_ms: int


class AuditEvent(NamedTuple):
    """The server numbers, dates and chains it."""

    actor: str
    action: str
    resource: str
    outcome: str
    service: str
    request_id: str
    detail: str


class Message(NamedTuple):
    at_ms: int
    sequence: int
    """Bits that keep two messages of one millisecond apart."""
    author: str
    text: str
    model: str
    safety: str


class Conversation(NamedTuple):
    id: str
    """As callers name it; the columns' identifier is derived from it, see ``chat_history.stable_id``."""
    account: str
    started_ms: int
    title: str
    status: str
    messages: tuple[Message, ...]


class CarePlan(NamedTuple):
    id: str
    patient: str
    author: str
    status: str
    revision: int
    body: str
    created_ms: int


class SessionNote(NamedTuple):
    id: str
    patient: str
    clinician: str
    kind: str
    note: str
    held_ms: int
    signed_ms: int | None


class ModelOutput(NamedTuple):
    request: str
    conversation: str
    model: str
    output: str
    confidence: float
    safety: str
    created_ms: int


class Transcript(NamedTuple):
    id: str
    session: str
    text: str
    duration_s: int
    created_ms: int


class Entities(NamedTuple):
    id: str
    source: str
    spans: str
    created_ms: int


class Feedback(NamedTuple):
    id: str
    output: str
    rating: int
    comment: str
    created_ms: int


@dataclass(frozen=True)
class Block:
    """Everything that hangs on some patients. Refers to accounts of its own and to clinicians only."""

    accounts: tuple[Account, ...] = ()
    sessions: tuple[Session, ...] = ()
    consents: tuple[Consent, ...] = ()
    relationships: tuple[Relationship, ...] = ()
    emergencies: tuple[EmergencyAccess, ...] = ()
    subscriptions: tuple[Subscription, ...] = ()
    usage: tuple[Usage, ...] = ()
    profiles: tuple[Profile, ...] = ()
    audit: tuple[AuditEvent, ...] = ()
    conversations: tuple[Conversation, ...] = ()
    care_plans: tuple[CarePlan, ...] = ()
    notes: tuple[SessionNote, ...] = ()
    outputs: tuple[ModelOutput, ...] = ()
    transcripts: tuple[Transcript, ...] = ()
    entities: tuple[Entities, ...] = ()
    feedback: tuple[Feedback, ...] = field(default=())
