"""Whether a request has been agreed to. A function of values.

Here: which approvals count. Not here: how they were obtained, or what happens next.

An approval counts for one plan only: any change of the digest refuses the request as a whole, so
that nobody's agreement to one plan carries another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from dr_platform.approvals.records import Approval, Request
from dr_platform.identity import Proof

LOOK_AGAIN = timedelta(minutes=1)
"""People decide in minutes; nothing is gained by asking more often."""


@dataclass(frozen=True)
class Quorum:
    """How many must agree, and by which proof of who they are."""

    number: int
    proofs: frozenset[Proof] = frozenset({Proof.ACCOUNT})


@dataclass(frozen=True)
class Uncounted:
    """An approval that does not count, and why."""

    approver: str
    reason: str

    def __str__(self) -> str:
        return f"{self.approver}: {self.reason}"


@dataclass(frozen=True)
class Allowed:
    """``until`` is when the quorum is first lost by expiry; ``None`` where nobody had to agree."""

    approvers: tuple[str, ...]
    until: datetime | None


@dataclass(frozen=True)
class Refused:
    """No further approval can help; a new request is needed."""

    reason: str


@dataclass(frozen=True)
class Waiting:
    """``missing`` more people must agree. The answer may be another one at ``ask_again_at``."""

    missing: int
    ask_again_at: datetime
    uncounted: tuple[Uncounted, ...] = ()


Judgement = Allowed | Refused | Waiting


def judge(
    request: Request, approvals: Iterable[Approval], plan_digest: str, now: datetime, required: Quorum
) -> Judgement:
    """Say whether ``plan_digest`` may be carried out now. Equal arguments give equal answers."""
    if request.voided is not None:
        return Refused(f"voided by {request.voided.by}: {request.voided.reason}")
    if request.plan_digest != plan_digest:
        return Refused("the plan has changed since approval was requested")
    counted, uncounted = _sorted_out(request, approvals, now, required.proofs)
    if len(counted) >= required.number:
        return Allowed(tuple(a.approver.name for a in counted), _lost_at(counted, required.number))
    changes = [now + LOOK_AGAIN, *(a.expires_at for a in counted)]
    return Waiting(required.number - len(counted), min(changes), uncounted)


def _sorted_out(
    request: Request, approvals: Iterable[Approval], now: datetime, proofs: frozenset[Proof]
) -> tuple[tuple[Approval, ...], tuple[Uncounted, ...]]:
    counted: dict[str, Approval] = {}
    uncounted: list[Uncounted] = []
    for approval in approvals:
        reason = next(_objections(request, approval, now, proofs), None)
        if reason is None and approval.approver.key in counted:
            reason = "has already approved this request"
        if reason is None:
            counted[approval.approver.key] = approval
        else:
            uncounted.append(Uncounted(approval.approver.name, reason))
    return tuple(counted.values()), tuple(uncounted)


def _objections(request: Request, approval: Approval, now: datetime, proofs: frozenset[Proof]) -> Iterator[str]:
    if approval.request_id != request.id:
        yield "approved another request"
    if approval.plan_digest != request.plan_digest:
        yield "approved another plan"
    if approval.approver.key == request.requester.key:
        yield "asked for it, and nobody approves their own request"
    if approval.approver.proof not in proofs:
        yield f"is known by a {approval.approver.proof} name only"
    if now < approval.given_at:
        yield "approved at a time that has not come; compare the clocks"
    if approval.expires_at <= now:
        yield f"approved until {approval.expires_at:%Y-%m-%d %H:%M} UTC; the approval has expired"


def _lost_at(counted: tuple[Approval, ...], number: int) -> datetime | None:
    """With three approvals of two needed, one may expire without effect."""
    return sorted((a.expires_at for a in counted), reverse=True)[number - 1] if number else None
