"""Whether an event deploys here, and which of those that do comes next: pure functions.

Not here: where events and decisions are kept (``desk``), and the gate, which is asked by whatever deploys.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from dr_platform.catalog import Environment
from dr_platform.catalog.models import Intake
from dr_platform.intake.change import Change, Happening, Nothing

WAITS_FOR = timedelta(hours=24)
"""CI may take so long to create the release; then nothing is deployed for the event."""


@dataclass(frozen=True)
class Deploy:
    """This release is wanted in this environment, if its gate is open."""

    environment: str
    release: str
    why: str


@dataclass(frozen=True)
class Ignored:
    why: str


Intent = Deploy | Ignored


def decide(found: Change | Nothing, environment: Environment) -> Intent:
    """Equal arguments give equal answers. What an environment's file does not name deploys nothing there."""
    if isinstance(found, Nothing):
        return Ignored(found.why)
    wanted = environment.intake
    if wanted is None:
        return Ignored(f"no event deploys to {environment.name}")
    if wanted.repositories and found.repository not in wanted.repositories:
        return Ignored(f"its repository is none of those that deploy to {environment.name}")
    if (against := _against(found, wanted)) is not None:
        return Ignored(f"{against} deploys nothing to {environment.name}")
    return Deploy(environment.name, found.release, _what(found))


def _against(change: Change, wanted: Intake) -> str | None:
    match change.happening:
        case Happening.PUSH:
            return None if _matches(change.branch, wanted.pushed_to) else f"a push to {change.branch}"
        case Happening.PULL_REQUEST_MERGE:
            if not _matches(change.branch, wanted.merged_into):
                return f"a merge into {change.branch}"
            # The plain form may leave out where it came from; only a rule that asks for it needs to know.
            if wanted.merged_from != ("*",) and not _matches(change.came_from, wanted.merged_from):
                return f"a merge of {change.came_from or 'an unnamed branch'}"
            return None


def _matches(branch: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(branch, pattern) for pattern in patterns)


def _what(change: Change) -> str:
    done = "push to" if change.happening is Happening.PUSH else "merge into"
    return f"{done} {change.branch}, commit {change.commit[:12]}"


@dataclass(frozen=True)
class Accepted:
    """An event that deploys here, as it was taken in. ``sequence`` is its place among all."""

    sequence: int
    subject: str
    release: str
    at: datetime
    why: str
    source: str


@dataclass(frozen=True)
class Turn:
    """What comes next: one to start, or none; the others with the reason why not."""

    start: Accepted | None
    waiting: tuple[tuple[Accepted, str], ...] = ()

    def summary(self) -> str:
        return "; ".join(f"{one.release}: {why}" for one, why in self.waiting) or "nothing was taken in"


def turn(accepted: Iterable[Accepted], started: int, releases: Collection[str], now: datetime) -> Turn:
    """The newest whose release exists; those before it are overtaken and never deployed. ``started`` is the
    sequence of the one that was started last."""
    later = sorted((one for one in accepted if one.sequence > started), key=lambda one: -one.sequence)
    start = next((one for one in later if one.release in releases and now - one.at < WAITS_FOR), None)
    waiting = tuple((one, _why_not(one, start, now)) for one in later if one is not start)
    return Turn(start, waiting)


def _why_not(one: Accepted, start: Accepted | None, now: datetime) -> str:
    if start is not None and one.sequence < start.sequence:
        return f"overtaken by {start.release}"
    if now - one.at >= WAITS_FOR:
        return "its release was not created in time"
    return "waits for `drp release create`"
