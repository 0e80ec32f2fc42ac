"""Carrying out what remediation decides: budgets are saved first, evidence second, requests last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from dr_platform.operations.budgets import RemediationBudgets, Spent, StaleBudget
from dr_platform.platform import Platform
from dr_platform.remediation import (
    ROUTER,
    Action,
    Attempt,
    Clear,
    Condition,
    Escalate,
    Leave,
    Policy,
    Target,
    Trail,
    decide,
    situations,
)
from dr_platform.rollout import record as records


@dataclass(frozen=True)
class Remedy:
    """One thing to do about a target. ``episode`` tells one trouble from the next of the same target."""

    target: Target
    number: int
    why: str
    episode: str


@dataclass(frozen=True)
class Remedies:
    attempts: tuple[Remedy, ...]
    escalations: tuple[Remedy, ...]
    waiting: Mapping[Target, str]

    def summary(self) -> str:
        """Why nothing is done about what is unhealthy, for whoever looks at the sensor."""
        return "; ".join(f"{'/'.join(target)}: {why}" for target, why in self.waiting.items()) or "nothing to mend"


def standing(platform: Platform) -> frozenset[Target]:
    """What was brought up and not taken down. Only this is mended: anything else would be brought
    back against the will of whoever ended it, or tried in vain where an engine cannot be had."""
    programs = frozenset(platform.supervisor.programs())
    embedded = platform.binding.databases == "embedded"
    found: set[Target] = {("services", name) for name in platform.runtime.declared()}
    found |= {("databases", name) for name in platform.catalog.databases if not embedded or name in programs}
    if platform.local_runtime.router_program().name in programs:
        found.add(ROUTER)
    return frozenset(found)


def carry_out(
    platform: Platform, conditions: Mapping[Target, Condition], trails: Mapping[Target, Trail], policy: Policy
) -> Remedies:
    """Decide for all targets and save the budgets. An attempt that could not be counted is not made:
    it might be repeated without end."""
    budgets = RemediationBudgets(platform.operations)
    spent = {target: budgets.read("/".join(target)) for target in conditions.keys() & standing(platform)}
    suspended: set[Target] = {("services", name) for name in platform.runtime.suspensions()}
    rolling = _rolling(platform, (target for target in spent if conditions[target].good is False))
    now = platform.clock.now()
    attempts, escalations, waiting = [], [], {}
    for target, situation in situations(platform.catalog, conditions, spent, trails, suspended, rolling).items():
        action = decide(situation, now, policy)
        if isinstance(action, Leave):
            if not situation.condition.good:
                waiting[target] = action.why
            continue
        try:
            saved = budgets.write(_after(spent[target], action, now))
        except StaleBudget:
            continue  # another tick acted on this target a moment ago
        _note(platform, target, action, saved)
        remedy = Remedy(target, saved.attempts, situation.condition.why, _episode(saved, now))
        match action:
            case Attempt():
                attempts.append(remedy)
            case Escalate(reason):
                escalations.append(Remedy(target, saved.attempts, reason, remedy.episode))
            case Clear():
                pass  # the budget is whole again, nobody needs to be asked
    return Remedies(tuple(attempts), tuple(escalations), waiting)


def _rolling(platform: Platform, ill: Iterable[Target]) -> frozenset[Target]:
    """Services whose controller is at work, or soon will be."""
    held = {target: records.read(platform.runtime, target[1]).record for target in ill if target[0] == "services"}
    return frozenset(t for t, record in held.items() if record.rollout or record.queued or record.restart)


def _after(spent: Spent, action: Attempt | Escalate | Clear, now: datetime) -> Spent:
    match action:
        case Attempt():
            return spent.with_attempt(now)
        case Escalate():
            return spent.with_escalation(now)
        case Clear():
            return spent.cleared()


def _episode(spent: Spent, now: datetime) -> str:
    return f"{(spent.first_attempt_at or now).timestamp():.0f}"


_KINDS: Mapping[type[Action], str] = {
    Attempt: "remediation-attempt",
    Escalate: "remediation-escalated",
    Clear: "remediation-ended",
}


def _note(platform: Platform, target: Target, action: Action, saved: Spent) -> None:
    """What was decided, for auditors; the reason's text stays out, it may hold more than names."""
    body = {"attempts": saved.attempts}
    platform.evidence.append(_KINDS[type(action)], "/".join(target), "sensor:remediation", body)
