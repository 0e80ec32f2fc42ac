"""How long backups stay: grandfather, father, son. Functions of values.

Here: which backups a policy keeps, why, and which may go. Not here: deleting (``housekeeping``).

Only verified backups fill the places of days, weeks, months and years, and they do so by the time of their
manifests. What failed never pushes anything out: it makes no place, and takes none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from dr_platform.backups.catalogue import Record, State, Unfinished

UNFINISHED_FOR = timedelta(hours=48)
"""What has no manifest after this long was given up: no backup runs for two days."""
FAILED_FOR = timedelta(days=30)
"""How long the note of a failure stays in the bucket; the evidence log has it for good."""
SKEW = timedelta(minutes=5)
"""Clocks that agree differ by less. With a clock that is wrong, everything looks too old or too new."""


@dataclass(frozen=True)
class Keep:
    """How many of each a policy keeps."""

    daily: int = 7
    weekly: int = 5
    monthly: int = 12
    yearly: int = 7


@dataclass(frozen=True)
class Kept:
    id: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Expired:
    """``size_bytes`` is what its deletion gives back."""

    id: str
    why: str
    size_bytes: int


@dataclass(frozen=True)
class Plan:
    """What stays and what goes. ``refused`` says why nothing may go at all."""

    database: str
    kept: tuple[Kept, ...]
    expired: tuple[Expired, ...]
    refused: str = ""

    @property
    def size_bytes(self) -> int:
        return sum(expired.size_bytes for expired in self.expired)


def plan(
    database: str,
    records: Sequence[Record],
    unfinished: Sequence[Unfinished],
    keep: Keep,
    now: datetime,
    store_now: datetime | None,
) -> Plan:
    """Equal arguments give equal plans, and a plan that was carried out leaves nothing to do.

    ``store_now`` is the time by the store's clock, ``None`` where it could not be had."""
    reasons = _reasons(records, keep, now)
    if skew := _disagreeing(now, store_now) or _skew(records, unfinished, now):
        return Plan(database, tuple(Kept(r.id, ("the clock is in doubt",)) for r in records), (), skew)
    kept = tuple(Kept(r.id, tuple(reasons[r.id])) for r in records if reasons.get(r.id))
    expired = [Expired(r.id, _why(r), r.size_bytes) for r in records if not reasons.get(r.id)]
    expired += [Expired(u.id, "never finished", 0) for u in unfinished if now - u.newest_at > UNFINISHED_FOR]
    return Plan(database, kept, tuple(expired))


def _disagreeing(now: datetime, store_now: datetime | None) -> str:
    if store_now is None:
        return "the time by the store's clock could not be had"
    if abs(now - store_now) <= SKEW:
        return ""
    return f"this machine's clock and the store's differ by {abs(now - store_now)}: compare the clocks"


def _skew(records: Iterable[Record], unfinished: Iterable[Unfinished], now: datetime) -> str:
    """A time that has not come means that this clock, or the one that wrote it, is wrong."""
    times = [(r.created_at, r.id) for r in records] + [(u.newest_at, u.id) for u in unfinished]
    at, name = max(times, default=(now, ""))
    if at - now <= SKEW:
        return ""
    return f"{name} is from {at:%Y-%m-%d %H:%M} UTC, which has not come by this machine's clock: compare the clocks"


def _reasons(records: Sequence[Record], keep: Keep, now: datetime) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {record.id: [] for record in records}
    verified = sorted((r for r in records if r.state is State.VERIFIED), key=lambda r: (r.created_at, r.id))
    for name, count, slot in _grids(keep):
        for record in _newest_of_slots(verified, count, slot):
            reasons[record.id].append(name)
    if verified:
        reasons[verified[-1].id].append("newest verified")
    for record in records:
        reasons[record.id] += _own_reasons(record, verified, now)
    _keep_parents(records, reasons)
    return reasons


def _grids(keep: Keep) -> Iterator[tuple[str, int, Callable[[datetime], object]]]:
    yield "daily", keep.daily, lambda at: at.date()
    yield "weekly", keep.weekly, lambda at: at.isocalendar()[:2]
    yield "monthly", keep.monthly, lambda at: (at.year, at.month)
    yield "yearly", keep.yearly, lambda at: at.year


def _newest_of_slots(verified: Sequence[Record], count: int, slot: Callable[[datetime], object]) -> list[Record]:
    """The newest backup of each of the last ``count`` days, weeks, … that have one at all: a pause of the
    schedule costs no backup."""
    newest: dict[object, Record] = {slot(record.created_at): record for record in verified}
    return list(newest.values())[-count:] if count else []


def _own_reasons(record: Record, verified: Sequence[Record], now: datetime) -> Iterator[str]:
    if record.held:
        yield "legal hold"
    if record.complete and record.state is State.UNVERIFIED and not _replaced(record, verified):
        yield "newer than every verified one"
    if record.state is State.FAILED and not _replaced(record, verified):
        yield "no verified one since"
    elif record.state is State.FAILED and now - record.created_at <= FAILED_FOR:
        yield "failed lately"


def _replaced(record: Record, verified: Sequence[Record]) -> bool:
    return any(other.created_at > record.created_at for other in verified)


def _keep_parents(records: Sequence[Record], reasons: dict[str, list[str]]) -> None:
    by_id = {record.id: record for record in records}
    for record in records:
        child = record
        while reasons[record.id] and child.parent in by_id:
            parent = by_id[child.parent]
            why = f"parent of {child.id}"
            if why in reasons[parent.id]:
                break
            reasons[parent.id].append(why)
            child = parent


def _why(record: Record) -> str:
    if record.state is State.FAILED:
        return "failed, and a verified one came after it"
    if record.state is State.UNVERIFIED:
        return "never proved, and a verified one came after it"
    return "outside of every day, week, month and year that is kept"
