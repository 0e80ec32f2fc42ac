"""When something unhealthy is started anew, and when a person is called instead.

Here: the decision as a function of values. Not here: how health is looked at (``health``), where
budgets are kept (``operations.budgets``), how a decision is carried out (``remedy``) or how a run is
started (``sensors``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from dr_platform.catalog import Catalog
from dr_platform.catalog.models import Remedial, Remediation, RemedyRule
from dr_platform.operations.budgets import Spent

Target = tuple[str, str]
"""Layer and name of an asset, such as ``("services", "billing")``."""

ROUTER: Target = ("infrastructure", "router")
HEALTHY = "healthy"
"""The check that says whether something works at all; it is mended before any other."""


def subject_of(target: Target, check: str = HEALTHY) -> str:
    """By which budgets and runs are known: a path, and the check where it is not health."""
    return "/".join(target) if check == HEALTHY else f"{'/'.join(target)}:{check}"


@dataclass(frozen=True)
class Policy:
    """How much is tried before a person is called.

    An episode begins with the first attempt and ends when the target was well for ``well_for``; it
    has ``attempts``, and then one call. ``attempts_in_window`` bounds a target that is well and ill
    in turn, whose every episode is short. Pauses double from ``first_pause`` on and count from the
    end of the attempt before.
    """

    attempts: int
    failing_for: timedelta
    """Bridges a process that its supervisor is starting anew already."""
    database_failing_for: timedelta
    """The slowest engine answers 25 s after its process was started, measured on two busy cores."""
    first_pause: timedelta
    well_for: timedelta
    window: timedelta
    attempts_in_window: int
    actions: tuple[Remedial, ...] = ("re-materialise",)
    """One an attempt, in this order; the last is repeated until the attempts are used up."""

    @classmethod
    def of(cls, wanted: Remediation, rule: RemedyRule | None = None) -> Policy:
        """The policy that a catalog's environment states, with what a rule of it says otherwise."""
        own = {name: said for name, said in rule if said is not None} if rule is not None else {}
        database_failing_for = own.get("failing_for", wanted.database_failing_for)
        return cls(
            attempts=own.get("attempts", wanted.attempts),
            failing_for=timedelta(seconds=own.get("failing_for", wanted.failing_for)),
            database_failing_for=timedelta(seconds=database_failing_for),
            first_pause=timedelta(seconds=own.get("first_pause", wanted.first_pause)),
            well_for=timedelta(seconds=own.get("well_for", wanted.well_for)),
            window=timedelta(seconds=wanted.window),
            attempts_in_window=own.get("attempts_in_window", wanted.attempts_in_window),
            actions=own.get("actions", ("re-materialise",)),
        )

    def patience(self, target: Target) -> timedelta:
        """How long a target must have been failing before anything is tried."""
        return self.database_failing_for if target[0] == "databases" else self.failing_for

    def pause_after(self, attempts: int) -> timedelta:
        return self.first_pause * 2 ** (attempts - 1)

    def action(self, number: int) -> Remedial:
        """What the attempt of this number does; the first is 1."""
        return self.actions[min(number, len(self.actions)) - 1]


@dataclass(frozen=True)
class Policies:
    """What is done about which check of what: the environment's rules, and health alone without one."""

    wanted: Remediation

    def of(self, target: Target, check: str = HEALTHY) -> Policy | None:
        """``None`` where nothing is done about the check."""
        layer, part = target
        fitting = [r for r in self.wanted.rules if (r.layer, r.check) == (layer, check) and r.part in (None, part)]
        rule = next((r for r in fitting if r.part is not None), fitting[0] if fitting else None)
        return Policy.of(self.wanted, rule) if rule is not None or check == HEALTHY else None

    @property
    def checks(self) -> tuple[str, ...]:
        """Every check that something is done about somewhere, health first."""
        return tuple(dict.fromkeys((HEALTHY, *(rule.check for rule in self.wanted.rules))))


@dataclass(frozen=True)
class Attempt:
    """Do something about the target; ``number`` counts from 1."""

    number: int
    action: Remedial = "re-materialise"


@dataclass(frozen=True)
class Escalate:
    """Call a person, once."""

    why: str


@dataclass(frozen=True)
class Leave:
    """Do nothing, for this reason."""

    why: str


@dataclass(frozen=True)
class Clear:
    """The target is well again: give it back its budget."""


Action = Attempt | Escalate | Leave | Clear


@dataclass(frozen=True)
class Condition:
    """What the checks say of a target. ``good`` is ``None`` when it could not be looked at."""

    good: bool | None
    since: datetime
    why: str = ""


@dataclass(frozen=True)
class Trail:
    """What runs have done about a target. ``recent`` counts the attempts of the policy's window."""

    under_way: bool = False
    ended_at: datetime | None = None
    recent: int = 0


@dataclass(frozen=True)
class Ground:
    """Something that a target stands on; ``condition`` is ``None`` where nobody has looked yet."""

    condition: Condition | None = None
    trail: Trail = Trail()

    @property
    def trouble(self) -> str | None:
        """Why nothing is tried above: mended first, because it may be the whole trouble."""
        if self.trail.under_way:
            return "is being worked on"
        return "is unhealthy" if self.condition is not None and self.condition.good is False else None

    @property
    def changed_at(self) -> datetime | None:
        """When it last became what it is. An attempt that has just ended counts: the look that
        follows it may not have been taken yet."""
        times = (self.condition.since if self.condition else None, self.trail.ended_at)
        return max((at for at in times if at is not None), default=None)


@dataclass(frozen=True)
class Situation:
    """All that is known of one target and of what it stands on."""

    target: Target
    condition: Condition
    spent: Spent
    trail: Trail = Trail()
    below: Mapping[Target, Ground] = field(default_factory=dict)
    suspended: bool = False
    """Somebody took it out of traffic to work on it."""
    rolling: bool = False
    """A rollout is under way: its controller alone changes the service."""

    @property
    def cause(self) -> str | None:
        """The first trouble below, in words."""
        troubles = ((target, ground.trouble) for target, ground in self.below.items())
        return next((f"stands on {'/'.join(target)}, which {why}" for target, why in troubles if why), None)

    @property
    def failing_on_firm_ground_since(self) -> datetime:
        """Since when it fails although nothing below does: what stood on something ill needs a
        moment to notice that it is well again."""
        changes = (ground.changed_at for ground in self.below.values())
        return max([self.condition.since, *(at for at in changes if at is not None)])


def decide(situation: Situation, now: datetime, policy: Policy) -> Action:
    """What to do about one target. Equal arguments give equal actions."""
    condition, spent = situation.condition, situation.spent
    if situation.trail.under_way:
        return Leave("a run is working on it")
    if condition.good is None:
        return Leave("could not be looked at")
    if condition.good:
        return _when_well(condition, spent, now, policy)
    if situation.suspended:
        return Leave("is suspended for maintenance")
    if situation.rolling:
        return Leave("a rollout is under way")
    if spent.escalated_at is not None:
        return Leave("a person was called")
    if situation.cause is not None:
        return Leave(situation.cause)
    if now - situation.failing_on_firm_ground_since < policy.patience(situation.target):
        return Leave("may be starting")
    return _when_ill(situation, now, policy)


def _when_ill(situation: Situation, now: datetime, policy: Policy) -> Action:
    spent, trail, why = situation.spent, situation.trail, situation.condition.why
    last = max((at for at in (spent.last_attempt_at, trail.ended_at) if at is not None), default=None)
    if spent.attempts > 0 and last is not None and now - last < policy.pause_after(spent.attempts):
        return Leave(f"attempt {spent.attempts} has time to work")
    if spent.attempts >= policy.attempts:
        return Escalate(f"{spent.attempts} attempts did not help: {why}")
    if policy.action(spent.attempts + 1) == "page":
        tried = f"{spent.attempts} attempts did not help" if spent.attempts else "nothing is tried by the policy"
        return Escalate(f"{tried}: {why}")
    if trail.recent >= policy.attempts_in_window:
        return Escalate(f"falls ill again and again, {trail.recent} attempts since {now - policy.window:%H:%M}: {why}")
    number = spent.attempts + 1
    return Attempt(number, policy.action(number))


def _when_well(condition: Condition, spent: Spent, now: datetime, policy: Policy) -> Action:
    if spent.attempts == 0 and spent.escalated_at is None:
        return Leave("well")
    if now - condition.since < policy.well_for:
        return Leave("well again, not long enough to forget")
    return Clear()


def remediable(catalog: Catalog) -> tuple[Target, ...]:
    """What is materialised anew when it stays unhealthy."""
    return (
        ROUTER,
        *(("databases", name) for name in catalog.databases),
        *(("services", name) for name in catalog.services),
    )


def below(catalog: Catalog, target: Target) -> Iterator[Target]:
    """What a target stands on directly, the deepest first. What is further below shows through it."""
    layer, name = target
    if layer != "services":
        return
    needs = catalog.services[name].needs
    yield ROUTER
    yield from (("databases", n) for n in needs.databases)
    yield from (("services", n) for n in needs.services)


def situations(
    catalog: Catalog,
    conditions: Mapping[Target, Condition],
    budgets: Mapping[Target, Spent],
    trails: Mapping[Target, Trail],
    suspended: Collection[Target] = (),
    rolling: Collection[Target] = (),
    health: Grounds | None = None,
) -> dict[Target, Situation]:
    """Put together what is known of each target that has a budget. ``health`` is given for other checks
    than health: a target stands on its own health first, then on that of what is below it."""
    ground = health or Grounds(conditions, trails)
    return {
        target: Situation(
            target,
            conditions[target],
            spent,
            trails.get(target, Trail()),
            {b: ground.of(b) for b in ((target,) if health else ()) + tuple(below(catalog, target))},
            target in suspended,
            target in rolling,
        )
        for target, spent in budgets.items()
    }


@dataclass(frozen=True)
class Grounds:
    """What is known of the health of everything that something may stand on."""

    conditions: Mapping[Target, Condition]
    trails: Mapping[Target, Trail]

    def of(self, target: Target) -> Ground:
        return Ground(self.conditions.get(target), self.trails.get(target, Trail()))
