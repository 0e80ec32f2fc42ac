"""Which databases need a backup that no schedule has brought: a machine that was off, a first start, one that failed.

Here: the decision. Not here: taking a backup (``backup_desk``), or looking for the newest verified one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

GRACE = timedelta(minutes=10)
"""What is overdue waits so long: a platform that was just started has better things to do, and a schedule may be
about to do it."""
PAUSE = timedelta(hours=1)
"""Between two backups of a database that are asked for in this way; one that fails is not repeated without end."""


@dataclass(frozen=True)
class Wanted:
    """A database of the catalog. ``newest`` is when its newest verified backup was taken; ``tier`` 1 goes first."""

    name: str
    tier: int
    rpo: timedelta
    newest: datetime | None

    def overdue(self, now: datetime) -> bool:
        return self.newest is None or now - self.newest > self.rpo


@dataclass(frozen=True)
class Waiting:
    """Since when a database is seen to be overdue, and when a backup was last asked for."""

    since: datetime
    asked: datetime | None = None

    def may_ask(self, now: datetime) -> bool:
        return now - self.since >= GRACE and (self.asked is None or now - self.asked >= PAUSE)


def upkeep(
    wanted: tuple[Wanted, ...], waiting: Mapping[str, Waiting], now: datetime
) -> tuple[Wanted | None, Mapping[str, Waiting]]:
    """The one database whose backup to ask for now, if any, and what to remember. One at a time: each is proved
    by a server of its own."""
    overdue = [each for each in wanted if each.overdue(now)]
    kept = {each.name: waiting.get(each.name, Waiting(now)) for each in overdue}
    ready = [each for each in overdue if kept[each.name].may_ask(now)]
    if not ready:
        return None, kept
    first = min(ready, key=lambda each: (each.tier, each.name))
    return first, {**kept, first.name: Waiting(kept[first.name].since, now)}
