"""Where requests and approvals are kept: the port and its adapters.

Here: storing and finding, and what may stand beside what is stored already. Not here: whether a
request is agreed to (``judge``) or the evidence (``desk``).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from dr_platform.approvals.records import Approval, Case, Request, Voided
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.identity import Person, Proof

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Row


class ApprovalStore(Protocol):
    """Requests with their approvals; records are added and never changed or removed.

    Of several writers at once each sees what the others stored: one person approves a request once,
    and nothing is added to a voided one. A refused write leaves nothing behind. An outage raises
    ``OperationsUnavailable`` and is never reported as "no such request".
    """

    def add(self, request: Request) -> None:
        """Raises ``NotAdmissible`` for an identifier that is taken."""

    def give(self, approval: Approval) -> None:
        """Raises ``UnknownRequest``, or ``NotAdmissible`` with the reason of ``objection``."""

    def void(self, request_id: str, voided: Voided) -> None:
        """Raises ``UnknownRequest``, or ``NotAdmissible`` where it was voided before."""

    def read(self, request_id: str) -> Case:
        """Raises ``UnknownRequest``."""

    def cases(self, *, environment: str | None = None, release: str | None = None) -> tuple[Case, ...]:
        """Newest request first."""


class UnknownRequest(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, request_id: str) -> None:
        super().__init__(request_id)
        self.what = f"{request_id[:80]!r}: no such request for approval"
        self.untouched = "every request and approval"
        self.next_step = "list them with `drp approvals`"


class NotAdmissible(PlatformError):
    """Never retried: what is stored decides."""

    exit_code = ExitCode.REFUSED

    def __init__(self, request_id: str, reason: str) -> None:
        super().__init__(request_id, reason)
        self.reason = reason
        self.what = f"{request_id}: refused, {reason}"
        self.untouched = "the request and the approvals it has"
        self.next_step = "see `drp approvals`; ask anew with `drp request` where the request itself has ended"


def objection(case: Case, approval: Approval) -> str | None:
    """Why an approval may not stand beside what is stored, if it may not."""
    request = case.request
    if request.voided is not None:
        return f"the request was voided: {request.voided.reason}"
    if approval.plan_digest != request.plan_digest:
        return "the approval is for another plan than the request"
    if approval.approver.key == request.requester.key:
        return "nobody approves their own request"
    if any(approval.approver.key == other.approver.key for other in case.approvals):
        return "this person has approved the request already; an expired approval needs a new request"
    return None


class MemoryApprovalStore:
    """For tests of what asks for approval; it ends with its process."""

    def __init__(self) -> None:
        self._cases: dict[str, Case] = {}
        self._lock = threading.Lock()

    def add(self, request: Request) -> None:
        with self._lock:
            if request.id in self._cases:
                raise NotAdmissible(request.id, "there is a request of this name")
            self._cases[request.id] = Case(request)

    def give(self, approval: Approval) -> None:
        with self._lock:
            case = self.read(approval.request_id)
            if reason := objection(case, approval):
                raise NotAdmissible(approval.request_id, reason)
            self._cases[case.request.id] = replace(case, approvals=(*case.approvals, approval))

    def void(self, request_id: str, voided: Voided) -> None:
        with self._lock:
            case = self.read(request_id)
            if case.request.voided is not None:
                raise NotAdmissible(request_id, "it was voided before")
            self._cases[request_id] = replace(case, request=replace(case.request, voided=voided))

    def read(self, request_id: str) -> Case:
        if request_id not in self._cases:
            raise UnknownRequest(request_id)
        return self._cases[request_id]

    def cases(self, *, environment: str | None = None, release: str | None = None) -> tuple[Case, ...]:
        chosen = [
            case
            for case in tuple(self._cases.values())
            if environment in (None, case.request.environment) and release in (None, case.request.release)
        ]
        return tuple(sorted(chosen, key=lambda c: (c.request.requested_at, c.request.id), reverse=True))


class PostgresApprovalStore:
    """In the operations database, whose triggers refuse changes, one's own approval, and any after
    the request was voided, whoever asks for them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, request: Request) -> None:
        from sqlalchemy.dialects.postgresql import insert

        from dr_platform.operations.engine import unavailable_when_down
        from dr_platform.operations.tables import approval_request as t

        fields = {name: value for name, value in vars(request).items() if name not in ("requester", "voided")}
        change = insert(t).values(**fields, **_columns("requester", request.requester)).on_conflict_do_nothing()
        with unavailable_when_down(), self._engine.begin() as connection:
            if connection.execute(change.returning(t.c.id)).first() is None:
                raise NotAdmissible(request.id, "there is a request of this name")

    def give(self, approval: Approval) -> None:
        from sqlalchemy import insert

        from dr_platform.operations.engine import unavailable_when_down
        from dr_platform.operations.tables import approval as t

        fields = {name: value for name, value in vars(approval).items() if name != "approver"}
        with unavailable_when_down(), self._engine.begin() as connection:
            if reason := objection(_locked(connection, approval.request_id), approval):
                raise NotAdmissible(approval.request_id, reason)
            connection.execute(insert(t).values(**fields, **_columns("approver", approval.approver)))

    def void(self, request_id: str, voided: Voided) -> None:
        from sqlalchemy import insert

        from dr_platform.operations.engine import unavailable_when_down
        from dr_platform.operations.tables import approval_void as t

        with unavailable_when_down(), self._engine.begin() as connection:
            if _locked(connection, request_id).request.voided is not None:
                raise NotAdmissible(request_id, "it was voided before")
            connection.execute(insert(t).values(request_id=request_id, **vars(voided)))

    def read(self, request_id: str) -> Case:
        from dr_platform.operations.engine import unavailable_when_down

        with unavailable_when_down(), self._engine.connect() as connection:
            return _one(connection, request_id)

    def cases(self, *, environment: str | None = None, release: str | None = None) -> tuple[Case, ...]:
        from dr_platform.operations.engine import unavailable_when_down
        from dr_platform.operations.tables import approval_request as t

        chosen = [
            *((t.c.environment == environment,) if environment is not None else ()),
            *((t.c.release == release,) if release is not None else ()),
        ]
        with unavailable_when_down(), self._engine.connect() as connection:
            return tuple(_cases(connection, *chosen))


def _columns(role: str, person: Person) -> dict[str, str]:
    return {role: person.name, f"{role}_key": person.key, f"{role}_proof": person.proof.value}


def _locked(connection: Connection, request_id: str) -> Case:
    """The case, its request locked until the transaction ends: approvals and voids come one by one."""
    from sqlalchemy import select

    from dr_platform.operations.tables import approval_request as t

    connection.execute(select(t.c.id).where(t.c.id == request_id).with_for_update())
    return _one(connection, request_id)


def _one(connection: Connection, request_id: str) -> Case:
    from dr_platform.operations.tables import approval_request as t

    case = next(_cases(connection, t.c.id == request_id), None)
    if case is None:
        raise UnknownRequest(request_id)
    return case


def _cases(connection: Connection, *chosen: Any) -> Iterator[Case]:
    from sqlalchemy import select

    from dr_platform.operations.tables import approval, approval_void
    from dr_platform.operations.tables import approval_request as t

    rows = connection.execute(select(t).where(*chosen).order_by(t.c.requested_at.desc(), t.c.id.desc())).all()
    ids = [row.id for row in rows]
    given = connection.execute(
        select(approval).where(approval.c.request_id.in_(ids)).order_by(approval.c.given_at, approval.c.evidence)
    ).all()
    voids = connection.execute(select(approval_void).where(approval_void.c.request_id.in_(ids))).all()
    ended = {v.request_id: Voided(v.by, v.at, v.reason, v.evidence) for v in voids}
    for row in rows:
        approvals = tuple(_approval(a) for a in given if a.request_id == row.id)
        yield Case(_request(row, ended.get(row.id)), approvals)


def _request(row: Row[Any], voided: Voided | None) -> Request:
    requester = Person(row.requester, Proof(row.requester_proof))
    return Request(
        row.id, row.release, row.environment, row.plan_digest, requester, row.requested_at, row.reason, row.evidence,
        voided,
    )  # fmt: skip


def _approval(row: Row[Any]) -> Approval:
    approver = Person(row.approver, Proof(row.approver_proof))
    return Approval(row.request_id, approver, row.plan_digest, row.given_at, row.expires_at, row.reason, row.evidence)
