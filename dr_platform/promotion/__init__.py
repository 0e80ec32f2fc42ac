"""Promotion: whether a release may enter the next environment, and by which evidence.

Here: gates as functions of recorded evidence, the guides' checklists, calendars, and evidence that
crosses from one environment to the next as signed files. Not here: running suites, deploying, or
approvals themselves (``approvals``).
"""

from dr_platform.promotion.candidate import Candidate, plan_digest, release_digest
from dr_platform.promotion.checklist import CHECKLIST, Attested, Line, Phase, Suites, Verified, attested_lines
from dr_platform.promotion.facts import Facts, Unread, read_facts
from dr_platform.promotion.gates import Answer, Standing
from dr_platform.promotion.record import Recorder
from dr_platform.promotion.signed import (
    PromotionEvidence,
    RefusedPromotionEvidence,
    generate_key,
    open_signed,
    public_key_of,
    sign,
)
from dr_platform.promotion.table import GateTable, Row, gate
from dr_platform.promotion.windows import Calendar, Risk

__all__ = [
    "CHECKLIST",
    "Answer",
    "Attested",
    "Calendar",
    "Candidate",
    "Facts",
    "GateTable",
    "Line",
    "Phase",
    "PromotionEvidence",
    "Recorder",
    "RefusedPromotionEvidence",
    "Risk",
    "Row",
    "Standing",
    "Suites",
    "Unread",
    "Verified",
    "attested_lines",
    "gate",
    "generate_key",
    "open_signed",
    "plan_digest",
    "public_key_of",
    "read_facts",
    "release_digest",
    "sign",
]
