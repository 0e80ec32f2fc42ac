"""When a set is seeded again by itself: its source has changed, or it has not been compared for too long.

Pure. Not here: reading source and store (``dr_platform.knowledge_upkeep``), or starting a run (the sensor).

Attempts that do not help have a budget: a set whose source and store stay as they were is tried
``ATTEMPTS`` times, then left to a person, whom the set's failing check calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

ATTEMPTS = 3
WINDOW = timedelta(hours=24)
"""The budget is for the attempts in so long; afterwards it is whole again."""
PAUSE = timedelta(minutes=10)
"""Between two attempts at the same."""
COMPARED_DAYS = 1.0
"""A set is compared this often even if its policy allows it to be older: comparing without a change
costs a tenth of a second."""
EARLY = 0.8
"""Of its policy; then the set never is older than that allows."""


@dataclass(frozen=True)
class Standing:
    """How a set stands. ``signature`` changes with the source and with every seed; ``age_days`` is absent
    before the first seed; ``trouble`` says why the source cannot be used."""

    name: str
    limit_days: int
    signature: str = ""
    pending: int = 0
    age_days: float | None = None
    trouble: str = ""


@dataclass(frozen=True)
class Tried:
    """What was asked for before, at one signature."""

    signature: str
    at: tuple[datetime, ...] = ()


@dataclass(frozen=True)
class Reseed:
    name: str
    why: str
    tried: Tried
    """With this attempt."""

    @property
    def key(self) -> str:
        """Each attempt is made once."""
        return f"{self.name}:{self.tried.signature}:{self.tried.at[-1].isoformat()}"


@dataclass(frozen=True)
class Leave:
    name: str
    why: str


def decide(standing: Standing, tried: Tried | None, now: datetime, *, busy: str = "") -> Reseed | Leave:
    """``busy`` says what is at work on the set, if anything. Equal arguments give equal answers."""
    name = standing.name
    if standing.trouble:
        return Leave(name, standing.trouble)
    if standing.age_days is None:
        return Leave(name, "never seeded: left to whoever brings it up")
    if not (why := _due(standing)):
        return Leave(name, "equals its source")
    if busy:
        return Leave(name, busy)
    same = tried.at if tried is not None and tried.signature == standing.signature else ()
    recent = tuple(at for at in same if now - at < WINDOW)
    if len(recent) >= ATTEMPTS:
        return Leave(name, f"{why}, but {len(recent)} attempts in a day have not helped: a person is needed")
    if recent and now - recent[-1] < PAUSE:
        return Leave(name, f"{why}; tried {len(recent)} times, the next attempt follows")
    return Reseed(name, why, Tried(standing.signature, (*recent, now)))


def _due(standing: Standing) -> str:
    if standing.pending:
        return f"{standing.pending} articles differ from the source"
    oldest = min(COMPARED_DAYS, EARLY * standing.limit_days)
    if standing.age_days is not None and standing.age_days >= oldest:
        return f"last compared {standing.age_days:.1f} days ago"
    return ""
