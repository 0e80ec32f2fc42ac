"""Carrying out what remediation decides: budgets are saved first, evidence second, requests last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dr_platform.operations.budgets import RemediationBudgets, Spent, StaleBudget
from dr_platform.platform import Platform
from dr_platform.remediation import Action, Attempt, Clear, Condition, Escalate, Policy, Target, act_on


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
        return "; ".join(f"{'/'.join(target)}: {why}" for target, why in self.waiting.items()) or "all is well"


def carry_out(platform: Platform, conditions: Mapping[Target, Condition], policy: Policy) -> Remedies:
    """Decide for all targets and save the budgets. An attempt that could not be counted is not made:
    it might be repeated without end."""
    budgets = RemediationBudgets(platform.operations)
    spent = {target: budgets.read("/".join(target)) for target in conditions}
    now = platform.clock.now()
    actions = act_on(platform.catalog, conditions, spent, now, policy)
    attempts, escalations, waiting = [], [], {}
    for target, action in actions.items():
        try:
            saved = _save(budgets, spent[target], action, now)
        except StaleBudget:
            continue  # another tick acted on this target a moment ago
        why = conditions[target].why
        episode = str(saved.first_attempt_at.timestamp()) if saved.first_attempt_at else "0"
        match action:
            case Attempt(number):
                attempts.append(Remedy(target, number, why, episode))
                _note(platform, "remediation-attempt", target, {"attempt": number})
            case Escalate(reason):
                escalations.append(Remedy(target, saved.attempts, reason, episode))
                _note(platform, "remediation-escalated", target, {"attempts": saved.attempts})
            case _ if conditions[target].good is False:
                waiting[target] = action.why if hasattr(action, "why") else ""
    return Remedies(tuple(attempts), tuple(escalations), waiting)


def _save(budgets: RemediationBudgets, spent: Spent, action: Action, now) -> Spent:
    match action:
        case Attempt():
            return budgets.write(spent.with_attempt(now))
        case Escalate():
            return budgets.write(spent.with_escalation(now))
        case Clear():
            return budgets.write(spent.cleared())
        case _:
            return spent


def _note(platform: Platform, kind: str, target: Target, body: dict) -> None:
    """What was decided, for auditors; the reason's text stays out, it may hold more than names."""
    platform.evidence.append(kind, "/".join(target), "sensor:remediation", body)
