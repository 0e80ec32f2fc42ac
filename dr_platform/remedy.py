"""Carrying out what remediation decides: budgets are saved first, evidence second, requests last.

Here: what is done about each target, one after the other, so that one that cannot be looked at or acted on
stops no other. Not here: the decision (``remediation``), or starting runs (``sensors``), by which targets
are materialised and restarted. Going back is asked of the controller at once, as everywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from dr_platform import delivery
from dr_platform.catalog.models import Remedial
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.identity import new_id
from dr_platform.incidents import incident_id
from dr_platform.operations.budgets import RemediationBudgets, Spent, StaleBudget
from dr_platform.platform import Platform
from dr_platform.remediation import (
    HEALTHY,
    ROUTER,
    Action,
    Attempt,
    Clear,
    Condition,
    Escalate,
    Grounds,
    Leave,
    Policies,
    Situation,
    Target,
    Trail,
    decide,
    situations,
    subject_of,
)
from dr_platform.rollout import record as records
from dr_platform.rollout.aftercare import automatic_rollbacks
from dr_platform.rollout.events import check_failed
from dr_platform.rollout.record import Intent, Record
from dr_platform.rollout.requests import RolloutRefused, ask, over_budget
from dr_platform.runtime.port import Slot
from dr_platform.verdict import Progress, silent

T = TypeVar("T")
ACTOR = "sensor:remediation"
ROUND_S = 20.0
"""Nothing is begun after this; a sensor's tick has a minute."""
TURN_S = 5.0


class NotOurs(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        name = "/".join(target)
        self.what = f"{name} is not started by this platform, so it cannot be restarted by it"
        self.untouched = name
        self.next_step = "ask those who run it, or choose another action in `remediation.rules`"


@dataclass(frozen=True)
class Remedy:
    """One thing to do about a target. ``episode`` tells one trouble from the next of the same target."""

    target: Target
    number: int
    why: str
    episode: str
    check: str = HEALTHY
    action: Remedial = "re-materialise"

    @property
    def subject(self) -> str:
        return subject_of(self.target, self.check)


@dataclass(frozen=True)
class Remedies:
    """``attempts`` are to be started as runs; ``went_back`` was asked of the controller already."""

    attempts: tuple[Remedy, ...] = ()
    escalations: tuple[Remedy, ...] = ()
    waiting: Mapping[str, str] = field(default_factory=dict)
    went_back: tuple[Remedy, ...] = ()

    def summary(self) -> str:
        """Why nothing is done about what is unhealthy, for whoever looks at the sensor."""
        return "; ".join(f"{subject}: {why}" for subject, why in self.waiting.items()) or "nothing to mend"

    def plus(self, other: Remedies) -> Remedies:
        return Remedies(
            self.attempts + other.attempts,
            self.escalations + other.escalations,
            {**self.waiting, **other.waiting},
            self.went_back + other.went_back,
        )


@dataclass(frozen=True)
class Findings:
    """What one check says of targets, and what runs did about it."""

    check: str
    conditions: Mapping[Target, Condition]
    trails: Mapping[Target, Trail]


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


def carry_out(platform: Platform, found: Iterable[Findings], policies: Policies) -> Remedies:
    """Decide for every check of all targets and save the budgets. An attempt that could not be counted is
    not made: it might be repeated without end. Raises ``PlatformError`` where not even what stands can be
    told; what goes wrong about one target is among ``waiting``."""
    every = tuple(found)
    stands = standing(platform)
    suspended = frozenset(("services", name) for name in platform.runtime.suspensions())
    health = next((Grounds(f.conditions, f.trails) for f in every if f.check == HEALTHY), Grounds({}, {}))
    cases = [
        (_Case(platform, findings, policies, suspended, None if findings.check == HEALTHY else health), target)
        for findings in every
        for target in sorted(findings.conditions.keys() & stands)
    ]
    clock, remedies = platform.clock, Remedies()
    until = clock.monotonic() + ROUND_S
    for case, target in in_turn(cases, clock.now()):
        late = Remedies(waiting={case.subject(target): "no time in this round"})
        remedies = remedies.plus(case.about(target) if clock.monotonic() < until else late)
    return remedies


def in_turn(cases: Sequence[T], now: datetime) -> Sequence[T]:
    """All of them, beginning with another one every few seconds: what is slow must not always come before
    the same others."""
    first = int(now.timestamp() // TURN_S) % len(cases) if cases else 0
    return [*cases[first:], *cases[:first]]


@dataclass(frozen=True)
class _Case:
    """One check, with all that its targets have in common."""

    platform: Platform
    findings: Findings
    policies: Policies
    suspended: Collection[Target]
    ground: Grounds | None

    def subject(self, target: Target) -> str:
        return subject_of(target, self.findings.check)

    def about(self, target: Target) -> Remedies:
        subject = self.subject(target)
        try:
            return self._act(target, subject)
        except PlatformError as exc:
            return Remedies(waiting={subject: exc.what})

    def _act(self, target: Target, subject: str) -> Remedies:
        policy = self.policies.of(target, self.findings.check)
        if policy is None:
            return Remedies()
        budgets, now = RemediationBudgets(self.platform.operations), self.platform.clock.now()
        spent = budgets.read(subject)
        situation = self._situation(target, spent)
        action = decide(situation, now, policy)
        if isinstance(action, Leave):
            return Remedies() if situation.condition.good else Remedies(waiting={subject: action.why})
        try:
            saved = budgets.write(_after(spent, action, now))
        except StaleBudget:
            return Remedies()  # another tick acted on this target a moment ago
        _note(self.platform, subject, action, saved)
        return self._done(target, action, saved, situation.condition.why, now)

    def _situation(self, target: Target, spent: Spent) -> Situation:
        found = self.findings
        ill = [target] if found.conditions[target].good is False else []
        rolling = _rolling(self.platform, ill)
        suspended = [target] if target in self.suspended else []
        budgets = {target: spent}
        return situations(
            self.platform.catalog, found.conditions, budgets, found.trails, suspended, rolling, self.ground
        )[target]

    def _done(
        self, target: Target, action: Attempt | Escalate | Clear, saved: Spent, why: str, now: datetime
    ) -> Remedies:
        check, episode = self.findings.check, _episode(saved, now)
        match action:
            case Attempt(number, "roll-back"):
                remedy = Remedy(target, number, why, episode, check, "roll-back")
                go_back(self.platform, target[1], check, why)
                return Remedies(went_back=(remedy,))
            case Attempt(number, act):
                return Remedies(attempts=(Remedy(target, number, why, episode, check, act),))
            case Escalate(reason):
                return Remedies(escalations=(Remedy(target, saved.attempts, reason, episode, check, "page"),))
            case Clear():
                return Remedies()  # the budget is whole again, nobody needs to be asked


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


def _note(platform: Platform, subject: str, action: Action, saved: Spent) -> None:
    """What was decided, for auditors; the reason's text stays out, it may hold more than names."""
    body: dict[str, object] = {"attempts": saved.attempts}
    if isinstance(action, Attempt) and action.action != "re-materialise":
        body["action"] = action.action
    platform.evidence.append(_KINDS[type(action)], subject, ACTOR, body)


# Acting


def go_back(platform: Platform, name: str, check: str, why: str) -> Intent:
    """Ask the controller for the version before, within the budgets of automatic rollbacks. The incident is in
    the write that asks. Raises ``RolloutRefused`` with what speaks against it."""
    fleet = delivery.fleet_records(platform)
    record, now = records.read(platform.runtime, name).record, platform.clock.now()
    if (spent := over_budget(record.automatic_rollbacks, automatic_rollbacks(fleet), now)) is not None:
        raise RolloutRefused(name, f"not gone back: {spent}", f"decide yourself: `drp rollback {name}`")
    intent_id = new_id("ro")
    intent = delivery.rollback(
        platform,
        name,
        requested_by=ACTOR,
        reason=f"check {check} fails: {why}",
        automatic=True,
        incident=incident_id(intent_id, record.epoch),
        intent_id=intent_id,
    )

    def opening(held: Record) -> Record:
        if held.rollout is not None or held.queued is not None or held.epoch != record.epoch:
            raise RolloutRefused(name, "not gone back: somebody else asked for something meanwhile", "look again")
        return held.telling(check_failed(held, intent, check, why, now))

    ask(platform.runtime, name, intent, opening)
    return intent


def restart(platform: Platform, target: Target, progress: Progress = silent) -> str:
    """Start the processes of a part anew, and say what was. Raises ``NotOurs`` for a server that somebody
    else runs."""
    layer, name = target
    if layer == "services":
        return _restart_service(platform, name, progress)
    if layer == "databases" and platform.binding.databases != "embedded":
        raise NotOurs(target)
    program = platform.local_runtime.router_program().name if target == ROUTER else name
    progress(f"{'/'.join(target)}: stopping and starting its process")
    platform.supervisor.restart(program)
    return "its process was started anew"


def _restart_service(platform: Platform, name: str, progress: Progress) -> str:
    record, observed = records.read(platform.runtime, name).record, platform.runtime.observe(name)
    slots = [record.stable.slot] if record.stable is not None else list(Slot)
    replicas = {slot: [r.name for r in observed.slots[slot].replicas] for slot in slots}
    for slot, names in replicas.items():
        for replica in names:  # one after the other, so that somebody serves meanwhile
            progress(f"{name}: starting {replica} anew")
            platform.runtime.replace(name, slot, [replica])
    return f"{sum(map(len, replicas.values()))} replicas were started anew"
