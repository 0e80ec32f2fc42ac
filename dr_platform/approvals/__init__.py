"""Approvals: who agreed that which plan may be carried out, and whether that is enough.

Here: requests, approvals, their store and the judgement. Not here: what a plan consists of, the
other gates of a promotion (``promotion``), or carrying anything out.
"""

from dr_platform.approvals.desk import ApprovalDesk, ApprovalRefused
from dr_platform.approvals.judge import Allowed, Judgement, Quorum, Refused, Uncounted, Waiting, judge
from dr_platform.approvals.person import PROVEN, REHEARSAL, UnprovenPerson, person_at_work
from dr_platform.approvals.records import Approval, Case, Request, Voided
from dr_platform.approvals.store import (
    ApprovalStore,
    MemoryApprovalStore,
    NotAdmissible,
    PostgresApprovalStore,
    UnknownRequest,
)

__all__ = [
    "PROVEN",
    "REHEARSAL",
    "Allowed",
    "Approval",
    "ApprovalDesk",
    "ApprovalRefused",
    "ApprovalStore",
    "Case",
    "Judgement",
    "MemoryApprovalStore",
    "NotAdmissible",
    "PostgresApprovalStore",
    "Quorum",
    "Refused",
    "Request",
    "Uncounted",
    "UnknownRequest",
    "UnprovenPerson",
    "Voided",
    "Waiting",
    "judge",
    "person_at_work",
]
