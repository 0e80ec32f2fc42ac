"""What a rollout tells of itself: events for evidence and incidents, and how it ended.

Here: their content, as values. Not here: when they are told (``decide``), or where they are written
(``chronicle``). An event's key makes copying it twice harmless.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from dr_platform.rollout.guards import Evaluation, Judgement
from dr_platform.rollout.record import Event, Intent, Outcome, Phase, Placement, Record, Result, Rollout

ANALYSIS = "rollout-analysis"
"""Kind of the entries that keep what the triggers said when a rollout took a turn; subject: the rollout."""


@dataclass(frozen=True)
class Cause:
    """Why a rollout is taken back. ``person`` is true when nothing was found wrong with it."""

    trigger: str
    why: str
    person: bool = False
    fired_literal: bool = False
    fired_guard: bool = False
    measured: Mapping[str, str | int | float | bool] = field(default_factory=dict)


def event(rollout: Rollout, kind: str, body: dict[str, object]) -> Event:
    return Event(f"{rollout.id}:{kind}", kind, rollout.id, body)


def ended(rollout: Rollout, outcome: Outcome) -> Event:
    body = {
        "from": outcome.from_version or "",
        "to": outcome.to_version,
        "strategy": outcome.strategy.value,
        "result": outcome.result,
        "trigger": rollout.trigger or "",
        "fired_literal": rollout.fired_literal,
        "fired_guard": rollout.fired_guard,
        **_radius(rollout),
        "duration_s": round((outcome.ended_at - outcome.began_at).total_seconds(), 3),
        "incident": outcome.incident or "",
    }
    return event(rollout, "rollout-ended", body)


def analysis(
    service: str, before: Rollout, after: Rollout | None, judgement: Judgement | None, found: tuple[Evaluation, ...]
) -> Event | None:
    """What every trigger said in the look that ended a watch, prolonged it, or took the rollout back;
    ``None`` for a look that changed nothing of that. The key is of the window and not of the look, so
    that whoever decides it again after a stop tells the same."""
    if judgement is None or not found or (turn := _turn(before, after)) is None:
        return None
    step = before.intent.steps[before.step]
    window = f"{before.phase.value}-{before.step}-{(before.bake_until or before.entered_at).timestamp():.0f}"
    body: dict[str, object] = {
        "service": service,
        "version": before.candidate.revision.version,
        "kind": before.intent.kind,
        "phase": before.phase.value,
        "step": before.step + 1,
        "steps": len(before.intent.steps),
        "weight": step.weight if before.phase is Phase.BAKE else before.max_weight,
        "turn": turn,
        "verdict": judgement.verdict.value,
        "trigger": judgement.trigger.value if judgement.trigger else "",
        "why": judgement.why,
        "fired_literal": judgement.fired_literal,
        "fired_guard": judgement.fired_guard,
        "evaluations": {e.trigger.value: e.as_measurements() for e in found},
    }
    return Event(f"{before.id}:analysis:{window}:{turn}", ANALYSIS, before.id, body)


def _turn(before: Rollout, after: Rollout | None) -> str | None:
    """What the look led to, in a word; watches end by a step, by more time, by a person or by going back."""
    if before.phase.reverting or after is None:
        return None
    if after.phase.reverting:
        return "taken-back"
    if before.phase is not Phase.BAKE:
        return None
    if after.phase is Phase.FINALIZE:
        return "watched-to-the-end"
    if after.step != before.step:
        return "next-step"
    if after.paused is not None and before.paused is None:
        return "waits-for-a-person"
    return "prolonged" if after.extensions > before.extensions else None


def incident_opened(record: Record, rollout: Rollout, cause: Cause, now: datetime) -> Event:
    step = rollout.intent.steps[rollout.step]
    body: dict[str, object] = {
        "service": record.service,
        "rollout": rollout.id,
        "epoch": record.epoch,
        "strategy": rollout.intent.strategy.value,
        "from": reference(rollout.stable),
        "to": reference(rollout.candidate),
        "trigger": cause.trigger,
        "why": cause.why,
        "fired_literal": cause.fired_literal,
        "fired_guard": cause.fired_guard,
        "measured": dict(cause.measured),
        "first_failure_at": rollout.first_failure_at.isoformat() if rollout.first_failure_at else None,
        "fired_at": now.isoformat(),
        "weight": step.weight,
        **_radius(rollout),
    }
    return Event(f"{rollout.incident}:opened", "incident-opened", str(rollout.incident), body)


def check_failed(record: Record, intent: Intent, check: str, why: str, now: datetime) -> Event:
    """The opening of an incident for a check that fails while no rollout is open. Who met the revision was
    not counted, and since when it fails is not known any better than by the check."""
    before = Placement(record.stable.slot.other, intent.revision) if record.stable else None
    body: dict[str, object] = {
        "service": record.service,
        "rollout": intent.id,
        "epoch": record.epoch,
        "strategy": intent.strategy.value,
        "from": reference(before),
        "to": reference(record.stable),
        "trigger": "health" if check == "healthy" else check,
        "why": f"check {check} fails: {why}",
        "fired_literal": False,
        "fired_guard": True,
        "measured": {},
        "first_failure_at": None,
        "fired_at": now.isoformat(),
        "weight": 100,
        "requests": None,
        "errors": None,
        "max_weight": 100,
        "exposure_s": None,
    }
    return Event(f"{intent.incident}:opened", "incident-opened", str(intent.incident), body)


def incident_restored(rollout: Rollout, now: datetime) -> Event:
    bad, radius = rollout.candidate, _radius(rollout)
    if rollout.intent.kind == "rollback" and rollout.stable is not None:
        # What failed is what it came from; how much that did was counted when the incident was opened.
        bad, radius = rollout.stable, {}
    body: dict[str, object] = {
        "rollout": rollout.id,
        "candidate": bad.slot.value,
        "weight": rollout.max_weight,
        "restored_at": (rollout.restored_at or now).isoformat(),
        "ended_at": now.isoformat(),
        **radius,
    }
    return Event(f"{rollout.incident}:restored", "incident-restored", str(rollout.incident), body)


def reference(placement: Placement | None) -> dict[str, str] | None:
    if placement is None:
        return None
    revision = placement.revision
    return {
        "slot": placement.slot.value,
        "version": revision.version,
        "digest": revision.digest,
        "config_hash": revision.config_hash,
    }


def _radius(rollout: Rollout) -> dict[str, object]:
    return {
        "requests": rollout.served,
        "errors": rollout.failed,
        "max_weight": rollout.max_weight,
        "exposure_s": round(rollout.exposed_s, 3),
    }


def outcome(rollout: Rollout, result: Result, reason: str, now: datetime) -> Outcome:
    before = rollout.stable.revision.version if rollout.stable else None
    outcome = outcome_of(rollout.intent, before, result, reason, rollout.began_at, now)
    ended_by = rollout.commanded_by if rollout.command == "abort" else ""
    return replace(outcome, incident=rollout.incident, served=rollout.served, failed=rollout.failed, ended_by=ended_by)


def outcome_of(
    intent: Intent, before: str | None, result: Result, reason: str, began_at: datetime, now: datetime
) -> Outcome:
    return Outcome(
        rollout=intent.id,
        kind=intent.kind,
        result=result,
        from_version=before,
        to_version=intent.revision.version,
        strategy=intent.strategy,
        reason=reason,
        began_at=began_at,
        ended_at=now,
        automatic=intent.automatic,
        incident=intent.incident,
        revision=intent.revision,
    )
