"""What is written down of an approval. Each record is written once and never changed.

Here: the shapes. Not here: when a record counts (``judge``) or where it is kept (``store``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dr_platform.identity import Person


@dataclass(frozen=True)
class Voided:
    """The end of a request. ``evidence`` here and below is the sequence number of the entry in the
    evidence log, which is written first: nothing counts that auditors cannot see."""

    by: str
    at: datetime
    reason: str
    evidence: int


@dataclass(frozen=True)
class Request:
    """Somebody wants a release in an environment by exactly this plan.

    ``plan_digest`` covers everything that would change: images, configuration, schema, environment.
    """

    id: str
    release: str
    environment: str
    plan_digest: str
    requester: Person
    requested_at: datetime
    reason: str
    evidence: int
    voided: Voided | None = None


@dataclass(frozen=True)
class Approval:
    """One person's agreement, bound to the plan that this person saw."""

    request_id: str
    approver: Person
    plan_digest: str
    given_at: datetime
    expires_at: datetime
    reason: str
    evidence: int


@dataclass(frozen=True)
class Case:
    """A request with its approvals in the order they were given."""

    request: Request
    approvals: tuple[Approval, ...] = ()
