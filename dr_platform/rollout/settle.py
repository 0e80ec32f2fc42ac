"""What comes next for one service, as a function of values.

``decide`` converges a service on a wanted workload: it fills the free slot, waits until it is ready,
moves the traffic, remembers it, and empties the other slot; always in this order, so that no request
meets a slot without a ready replica. It touches nothing and may be asked again at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from dr_platform.rollout.record import Placement, Record
from dr_platform.runtime.port import (
    CLOSED,
    Observed,
    Replica,
    ReplicaState,
    Revision,
    Slot,
    SlotStatus,
    Weights,
    Workload,
)

PATIENCE = timedelta(seconds=15)
"""A replica that is not ready this long after its start is started anew, once per convergence.
The slowest replica measured was ready in 6 s on two busy cores."""


@dataclass(frozen=True)
class Apply:
    """Tell the slot to run the workload."""

    slot: Slot


@dataclass(frozen=True)
class Route:
    weights: Weights


@dataclass(frozen=True)
class Remember:
    """Save that this placement is stable."""

    stable: Placement | None


@dataclass(frozen=True)
class Replace:
    """Start these replicas anew: they run, but do not become ready."""

    slot: Slot
    replicas: tuple[str, ...]


@dataclass(frozen=True)
class Retire:
    slot: Slot


@dataclass(frozen=True)
class Wait:
    why: str


@dataclass(frozen=True)
class Settled:
    """The service is as wanted."""


Action = Apply | Route | Remember | Replace | Retire | Wait | Settled


def decide(
    record: Record, observed: Observed, workload: Workload, now: datetime, replaced: frozenset[str] = frozenset()
) -> Action:
    """The next single action. ``replaced`` names replicas that were already started anew. While a
    rollout is open its controller alone changes the service."""
    if record.rollout is not None:
        return Settled()
    if observed.weights is None:
        return Wait("the router cannot be read")
    if workload.replicas == 0:
        return _close(record, observed)
    slot = _target(record, observed, observed.weights, workload.revision)
    status = observed.slots[slot]
    if status.revision != workload.revision or status.desired != workload.replicas:
        return _place(slot, observed, observed.weights, workload.revision)
    if status.ready < workload.replicas:
        return _heal(slot, status, workload, now, replaced)
    if observed.weights != Weights.all_to(slot):
        return Route(Weights.all_to(slot))
    placement = Placement(slot, workload.revision)
    if record.stable != placement:
        return Remember(placement)
    if observed.slots[slot.other].revision is not None and not record.keeps_warm(slot.other, now):
        return Retire(slot.other)
    return Settled()


def _target(record: Record, observed: Observed, weights: Weights, wanted: Revision) -> Slot:
    """The stable slot while it runs what is wanted, else the other one; blue for a first deployment.

    After a stop between two writes that slot may carry traffic of something else: then the other
    slot is filled instead, because a revision under traffic is never changed in place.
    """
    if record.stable is None:
        preferred = Slot.BLUE
    else:
        preferred = record.stable.slot if record.stable.revision == wanted else record.stable.slot.other
    occupied = observed.slots[preferred].revision not in (None, wanted) and weights.of(preferred) > 0
    return preferred.other if occupied else preferred


def _place(slot: Slot, observed: Observed, weights: Weights, wanted: Revision) -> Action:
    if observed.slots[slot].revision in (None, wanted):
        return Apply(slot)
    if weights.of(slot) == 0:
        return Retire(slot)
    # Both slots carry traffic of something else: it is gathered where there is capacity for it.
    return Route(Weights.all_to(slot.other) if observed.slots[slot.other].ready else CLOSED)


def _heal(slot: Slot, status: SlotStatus, workload: Workload, now: datetime, replaced: frozenset[str]) -> Action:
    stuck = tuple(r.name for r in status.replicas if _is_stuck(r, now) and r.name not in replaced)
    if stuck:
        return Replace(slot, stuck)
    reasons = sorted({r.reason for r in status.replicas if r.state is not ReplicaState.READY and r.reason})
    return Wait(
        f"{status.ready} of {workload.replicas} replicas ready" + (f": {'; '.join(reasons)}" if reasons else "")
    )


def _is_stuck(replica: Replica, now: datetime) -> bool:
    if replica.state is ReplicaState.FAILED:
        return True
    young = replica.started_at is None or now - replica.started_at < PATIENCE
    return replica.state is ReplicaState.UNREADY and not young


def _close(record: Record, observed: Observed) -> Action:
    if observed.weights != CLOSED:
        return Route(CLOSED)
    for slot in Slot:
        if observed.slots[slot].revision is not None:
            return Retire(slot)
    return Settled() if record.stable is None else Remember(None)
