"""When something unhealthy is started anew, and when a person is called instead.

Here: the decision as a function of values. Not here: how health is looked at (``health``), where
budgets are kept (``operations.budgets``) or how a run is started (``sensors``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from dr_platform.catalog import Catalog
from dr_platform.operations.budgets import Spent

Target = tuple[str, str]
"""Layer and name of an asset, such as ``("services", "billing")``."""

ROUTER: Target = ("infrastructure", "router")


@dataclass(frozen=True)
class Policy:
    """How much is tried before a person is called.

    ``failing_for`` bridges a process that its supervisor is starting anew already. Pauses double
    from ``first_pause`` on. A target that was well for ``well_for`` has its whole budget again.
    """

    attempts: int = 3
    failing_for: timedelta = timedelta(seconds=12)
    first_pause: timedelta = timedelta(seconds=20)
    well_for: timedelta = timedelta(seconds=60)

    def pause_after(self, attempts: int) -> timedelta:
        return self.first_pause * 2 ** (attempts - 1)


@dataclass(frozen=True)
class Attempt:
    """Materialise the target; ``number`` counts from 1."""

    number: int


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


def decide(condition: Condition, spent: Spent, now: datetime, policy: Policy, cause: Target | None = None) -> Action:
    """What to do about one target. ``cause`` is another unhealthy target that it stands on."""
    if condition.good is None:
        return Leave("could not be looked at")
    if condition.good:
        return _when_well(condition, spent, now, policy)
    if spent.escalated_at is not None:
        return Leave("a person was called")
    if cause is not None:
        return Leave(f"stands on {'/'.join(cause)}, which is unhealthy")
    if now - condition.since < policy.failing_for and spent.attempts == 0:
        return Leave("may be starting")
    if spent.attempts == 0 or spent.last_attempt_at is None:
        return Attempt(1)
    if now - spent.last_attempt_at < policy.pause_after(spent.attempts):
        return Leave(f"attempt {spent.attempts} has time to work")
    if spent.attempts >= policy.attempts:
        return Escalate(f"{spent.attempts} attempts did not help: {condition.why}")
    return Attempt(spent.attempts + 1)


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


def causes(catalog: Catalog, target: Target, failing: Collection[Target]) -> Target | None:
    """The nearest unhealthy thing that a target stands on: its databases, its peers, the router."""
    layer, name = target
    if layer != "services":
        return None
    needs = catalog.services[name].needs
    below: list[Target] = [ROUTER]
    below += [("databases", n) for n in needs.databases]
    below += [("services", n) for n in needs.services]
    return next((b for b in below if b in failing), None)


def act_on(
    catalog: Catalog,
    conditions: Mapping[Target, Condition],
    budgets: Mapping[Target, Spent],
    now: datetime,
    policy: Policy,
) -> dict[Target, Action]:
    """``decide`` for all targets, each with the cause it stands on."""
    failing = {target for target, condition in conditions.items() if condition.good is False}
    known = set(catalog.services)
    return {
        target: decide(condition, budgets[target], now, policy, causes(catalog, target, failing))
        for target, condition in conditions.items()
        if target[0] != "services" or target[1] in known
    }
