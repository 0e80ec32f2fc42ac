"""When somebody has to stand in for the controller, and for how long.

Here: whether open rollouts are left alone, and when a stand-in stops. Not here: the work itself
(``controller``), or how a run is started (``sensors``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from dr_platform.catalog.models import Strategy
from dr_platform.errors import PlatformError
from dr_platform.rollout.controller import Controller
from dr_platform.rollout.record import Phase, Record
from dr_platform.runtime.port import Lease

GRACE = timedelta(seconds=5)
"""A controller that was started anew takes its lease within this."""
PAUSE = timedelta(seconds=15)
"""After the end of a run: as long as a lease that it may not have given back. Doubles with each run
that did not even get the lease, up to ``LONGEST_PAUSE``."""
LONGEST_PAUSE = timedelta(minutes=10)
OFFER_EVERY_S = 30.0
OFFERED_LOOKS = 2.5
"""So often, and for so many looks, a stand-in offers the lease to the controller that should have it."""


@dataclass(frozen=True)
class Wait:
    why: str


@dataclass(frozen=True)
class Start:
    """Start a run; ``key`` names it, so that it is started once."""

    key: str
    why: str


@dataclass(frozen=True)
class Earlier:
    """The runs before: whether one is at work, how many there were about this lapse of the lease, and
    when the last of all ended."""

    at_work: bool = False
    attempts: int = 0
    ended_at: datetime | None = None


def unattended(record: Record) -> bool:
    """Whether a service needs somebody at once: a candidate carries traffic, nothing does, or it is
    what carries the traffic that shall be gone back from."""
    if record.queued is not None and record.queued.kind == "rollback":
        return True
    rollout = record.rollout
    if rollout is None or rollout.phase is Phase.STUCK or rollout.restored_at is not None:
        return False
    urgent = rollout.intent.kind == "rollback" or rollout.intent.strategy is Strategy.RECREATE
    return urgent or rollout.max_weight > 0


def lapse(lease: Lease | None) -> str:
    """Names the time since a lease had its last holder."""
    return f"{lease.transitions}-{lease.expires_at.timestamp():.0f}" if lease is not None else "never"


def decide(records: Iterable[Record], lease: Lease | None, earlier: Earlier, now: datetime) -> Wait | Start:
    """Equal arguments give equal answers."""
    alone = sorted(record.service for record in records if unattended(record))
    if not alone:
        return Wait("no service needs somebody at once")
    if lease is not None and now < lease.expires_at + GRACE:
        return Wait("a controller acts" if lease.holder else "a controller may be starting")
    if earlier.at_work:
        return Wait("a run acts")
    pause = min(LONGEST_PAUSE, PAUSE * 2 ** min(max(0, earlier.attempts - 1), 10))
    if earlier.ended_at is not None and now - earlier.ended_at < pause:
        return Wait("a run has ended not long ago")
    key = f"tend:{lapse(lease)}:{earlier.attempts + 1}"
    return Start(key, f"no controller acts on {', '.join(alone)}")


@dataclass(frozen=True)
class StoodIn:
    """How a stand-in ended. ``done`` means that open rollouts are in good hands."""

    done: bool
    why: str
    ticks: int


def stand_in(controller: Controller, look_s: float, limit_s: float) -> StoodIn:
    """Do the controller's work until nothing is open or another one does it; at most for ``limit_s``
    seconds. Killed at any point it leaves what every controller leaves: a record to go on from."""
    try:
        return _stand_in(controller, look_s, limit_s)
    finally:
        controller.give_back()


def _stand_in(controller: Controller, look_s: float, limit_s: float) -> StoodIn:
    clock, ticks = controller.clock, 0
    began = offered = clock.monotonic()
    while clock.monotonic() - began < limit_s:
        pause = look_s
        try:
            if not controller.tick():
                return StoodIn(True, "another controller acts", ticks)
            ticks += 1
            if not controller.has_work():
                return StoodIn(True, "nothing is open any more", ticks)
            if clock.monotonic() - offered >= OFFER_EVERY_S:
                controller.give_back()
                offered, pause = clock.monotonic(), OFFERED_LOOKS * look_s
        except PlatformError as exc:  # what cannot be reached now may be at the next look
            controller.progress(f"stand-in: {exc.what}")
        clock.sleep(pause)
    return StoodIn(False, f"its time of {limit_s:.0f} s is over", ticks)
