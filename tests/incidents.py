"""Incidents as tests need them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from dr_platform.incidents import (
    Action,
    Assessed,
    Conclusion,
    Detection,
    Opened,
    Release,
    RevisionReference,
    RiskFactors,
    TriggerKind,
)

T0 = datetime(2026, 1, 1, tzinfo=UTC)
"""When the rule fires; the fault began 12 s before."""
CONTROLLER = "controller:rollout"
PERSON = "dana@example.org"

FACTORS = RiskFactors(
    nature_and_extent="titles of articles; no identifiers",
    unauthorised_person="none found in the access logs",
    acquired_or_viewed="not viewed: every response was an error",
    mitigation="the version was taken out after 52 s",
)
ASSESSED = Assessed(factors=FACTORS, conclusion=Conclusion.LOW_PROBABILITY)


def an_opening(
    *,
    kind: TriggerKind = TriggerKind.LITERAL,
    service: str = "billing",
    rule: str = "error rate > 5 % for 3 min",
    fired_at: datetime = T0,
    **more: Any,
) -> Opened:
    return Opened(
        service=service,
        environment="staging",
        release=Release(
            rollout_id="ro-7k3m9q2w",
            from_revision=RevisionReference(version="1.4.0"),
            to_revision=RevisionReference(version="1.5.0", digest="sha256:" + "0123456789abcdef" * 4),
        ),
        detection=Detection(
            trigger="error-rate",
            kind=kind,
            rule=rule,
            first_bad_sample_at=fired_at - timedelta(seconds=12),
            fired_at=fired_at,
        ),
        **more,
    )


def an_action(at: datetime = T0) -> Action:
    return Action(
        at=at,
        name="return-traffic",
        object="routes/billing",
        before={"weight": 10, "version": "1.5.0"},
        after={"weight": 0, "version": "1.4.0"},
        result="seen in use",
        run_id="8f14e45f-ceea-467f-9575-1d1f0a2b4c5d",
    )
