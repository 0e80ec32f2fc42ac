"""Asking for approval, giving it and ending it, each with its entry in the evidence log.

Here: the order of writing. Not here: the judgement (``judge``) or who somebody is (``identity``).

Evidence comes first, so that nothing counts that auditors cannot see. A write that is refused after
that is told in an entry of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from dr_platform.approvals.records import Approval, Case, Request, Voided
from dr_platform.approvals.store import ApprovalStore, NotAdmissible, objection
from dr_platform.clock import Clock
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.evidence import EvidenceLog
from dr_platform.identity import Person, new_id

REQUESTED = "approval-requested"
GIVEN = "approval-given"
REFUSED = "approval-refused"
VOIDED = "approval-voided"


class ApprovalRefused(PlatformError):
    """What a person may not do; it is written down as well."""

    exit_code = ExitCode.REFUSED

    def __init__(self, request_id: str, person: str, reason: str) -> None:
        super().__init__(request_id, person, reason)
        self.reason = reason
        self.what = f"{request_id}: {person} may not approve it: {reason}"
        self.untouched = "the request and the approvals it has"
        self.next_step = "let somebody else approve it, or ask anew with `drp request`"


@dataclass(frozen=True)
class ApprovalDesk:
    """Every method raises ``OperationsUnavailable`` where store or log do not answer, and
    ``RefusedEvidence`` for a reason that holds secrets or patient data."""

    store: ApprovalStore
    evidence: EvidenceLog
    clock: Clock
    identify: Callable[[str], str] = new_id

    def request(self, release: str, environment: str, plan_digest: str, requester: Person, reason: str) -> Request:
        """Ask for approval of a plan. Earlier open requests for the same release and environment but
        another plan are voided: their plan is not to be carried out any more."""
        self.void_changed(release, environment, plan_digest, requester.name)
        request_id = self.identify("apr")
        body = {"request": request_id, "environment": environment, "plan": plan_digest, "reason": reason}
        entry = self._note(REQUESTED, release, requester, body)
        request = Request(
            request_id, release, environment, plan_digest, requester, self.clock.now(), reason, entry,
        )  # fmt: skip
        self.store.add(request)
        return request

    def approve(
        self, request_id: str, approver: Person, plan_digest: str, reason: str, *, valid_for: timedelta
    ) -> Approval:
        """Agree to a request. ``plan_digest`` is the plan as it is now, computed anew. Raises
        ``ApprovalRefused`` or ``UnknownRequest``."""
        case = self.store.read(request_id)
        now = self.clock.now()
        approval = Approval(request_id, approver, plan_digest, now, now + valid_for, reason, 0)
        if refusal := objection(case, approval):
            self._refuse(case, approver, refusal)
        body = {
            "request": request_id, "environment": case.request.environment, "plan": plan_digest, "reason": reason,
            "expires": approval.expires_at.isoformat(),
        }  # fmt: skip
        entry = self._note(GIVEN, case.request.release, approver, body)
        given = Approval(request_id, approver, plan_digest, now, approval.expires_at, reason, entry)
        try:
            self.store.give(given)
        except NotAdmissible as exc:  # somebody was first; the entry above is answered by this one
            self._refuse(case, approver, exc.reason)
        return given

    def void(self, request_id: str, by: str, reason: str) -> None:
        """End a request. Raises ``NotAdmissible`` where it has ended, ``UnknownRequest``."""
        case = self.store.read(request_id)
        if case.request.voided is not None:
            raise NotAdmissible(request_id, "it was voided before")
        body = {"request": request_id, "environment": case.request.environment, "reason": reason}
        entry = self.evidence.append(VOIDED, _subject(case.request.release), by, body)
        self.store.void(request_id, Voided(by, self.clock.now(), reason, entry.sequence))

    def void_changed(self, release: str, environment: str, plan_digest: str, by: str) -> tuple[str, ...]:
        """End every open request of a release and environment whose plan is another one by now."""
        open_cases = self.store.cases(environment=environment, release=release)
        stale = [c.request for c in open_cases if not c.request.voided and c.request.plan_digest != plan_digest]
        for request in stale:
            self.void(request.id, by, "the plan has changed")
        return tuple(request.id for request in stale)

    def _refuse(self, case: Case, person: Person, reason: str) -> None:
        request = case.request
        body = {"request": request.id, "environment": request.environment, "reason": reason}
        self._note(REFUSED, request.release, person, body)
        raise ApprovalRefused(request.id, person.name, reason)

    def _note(self, kind: str, release: str, person: Person, body: Mapping[str, str]) -> int:
        return self.evidence.append(kind, _subject(release), person.name, {**body, "identity": person.proof}).sequence


def _subject(release: str) -> str:
    return f"releases/{release}"
