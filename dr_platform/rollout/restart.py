"""What comes next for a restart of the stable revision, as a function of values.

Here: which replica is started anew, when the next one may be, and when to stop. Not here: who acts
(``controller``) or asks (``requests``), nor how a replica's requests end first (``runtime.port``).

Slots and weights stay as they are, and so does what is kept warm. The next replica goes only when all
that were started anew are ready, so that a revision that cannot start any more loses one replica and
not the service. Where a rollout is asked for meanwhile, that goes first and the restart ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from dr_platform.rollout.record import Event, Life, Record, Restart, Restarted
from dr_platform.runtime.port import Observed, Replica, ReplicaState, Slot


@dataclass(frozen=True)
class StartAnew:
    """Start one replica anew, when its requests have ended. That takes a while, and nobody waits for it."""

    slot: Slot
    replica: str


@dataclass(frozen=True)
class Tidy:
    """Tell the slot once more what it runs: a stop may have left a replica beside the one that took its
    place, or one that gets no requests."""

    restart: Restart


@dataclass(frozen=True)
class Change:
    """Store the record; ``why`` is for whoever follows."""

    record: Record
    why: str


@dataclass(frozen=True)
class Await:
    until: datetime
    why: str


Action = StartAnew | Tidy | Change | Await


def decide(record: Record, restart: Restart, observed: Observed, now: datetime) -> Action:
    """The next single action. Equal arguments give equal actions."""
    status = observed.slots[restart.placement.slot]
    if record.stable != restart.placement or status.revision != restart.placement.revision:
        return _end(record, restart, now, "stopped: another revision runs there by now")
    old = [r for r in status.replicas if Life(r.name, r.started_at) in restart.old]
    if under_way := [r for r in old if r.name == restart.current]:
        if now >= restart.deadline:
            return _stop(record, restart, under_way, old, now)
        return StartAnew(restart.placement.slot, under_way[0].name)
    if late := [r for r in status.replicas if r not in old and r.state is not ReplicaState.READY]:
        return _wait(record, restart, late, old, now)
    if old:
        # One that is not ready serves nobody: it goes first.
        following = min(old, key=lambda r: (r.state is ReplicaState.READY, r.name))
        until = now + timedelta(seconds=restart.each_s)
        begun = replace(restart, current=following.name, deadline=until)
        return Change(replace(record, restart=begun), f"{following.name} is started anew, {len(old) - 1} follow")
    if not restart.tidied:
        return Tidy(restart)
    if status.ready < restart.replicas:
        return _wait(record, restart, (), (), now)
    return _end(record, restart, now)


def superseded(record: Record, now: datetime) -> Record:
    """The record without a restart that is under way: something else was asked for."""
    if record.restart is None:
        return record
    return _ended(record, record.restart, now, "stopped: a rollout was asked for meanwhile")


def _wait(record: Record, restart: Restart, late: Iterable[Replica], old: Iterable[Replica], now: datetime) -> Action:
    if now >= restart.deadline:
        return _stop(record, restart, late, old, now)
    return Await(restart.deadline, "waits until what was started anew is ready")


def _stop(record: Record, restart: Restart, late: Iterable[Replica], old: Iterable[Replica], now: datetime) -> Change:
    names = ", ".join(sorted(f"{r.name} ({r.reason})" if r.reason else r.name for r in late)) or "a replica"
    left = len(list(old))
    return _end(record, restart, now, f"stopped: {names} did not become ready in time; {left} were left as they were")


def _end(record: Record, restart: Restart, now: datetime, against: str | None = None) -> Change:
    ended = _ended(record, restart, now, against)
    return Change(ended, f"restart {ended.restarted.why if ended.restarted else ''}")


def _ended(record: Record, restart: Restart, now: datetime, against: str | None) -> Record:
    version = restart.placement.revision.version
    why = against or f"done: {restart.replicas} replicas"
    how = Restarted(restart.id, version, against is None, why, restart.requested_at, now)
    body = {
        "version": version,
        "replicas": restart.replicas,
        "done": how.done,
        "duration_s": round((now - restart.requested_at).total_seconds(), 3),
    }
    told = Event(f"{restart.id}:restart-ended", "restart-ended", f"services/{record.service}", body)
    return replace(record, restart=None, restarted=how).telling(told)
