"""What a rollout has seen lately: one bucket a second of both versions, and totals since it began.

Here: taking samples in, forgetting old ones, the text form that survives a restart. Not here: how a
sample is made from counters (whoever looks), what the numbers mean (``guards``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any

SECONDS_KEPT = 300
"""The longest window any trigger asks for: health-check failures for 5 minutes."""


@dataclass(frozen=True)
class SlotSample:
    """What one version did since the look before. ``errors``, ``timeouts`` (which are errors too) and
    ``slow`` are of the ``requests``; ``slow`` took longer than the service promises; a probe that was
    due and had no answer is a failed one; ``restarts`` are ends of replicas nobody asked for.

    Never negative: across a reset of its counters a version could not be looked at (``None``).
    """

    requests: int = 0
    errors: int = 0
    timeouts: int = 0
    slow: int = 0
    probes: int = 0
    probe_failures: int = 0
    restarts: int = 0

    def __post_init__(self) -> None:
        if min(self.values()) < 0:
            raise ValueError("counts that fell were reset: give None instead of what happened")

    def values(self) -> tuple[int, ...]:
        return (
            self.requests,
            self.errors,
            self.timeouts,
            self.slow,
            self.probes,
            self.probe_failures,
            self.restarts,
        )

    def plus(self, other: SlotSample) -> SlotSample:
        return SlotSample(*map(sum, zip(self.values(), other.values(), strict=True)))


_NOTHING = SlotSample()


@dataclass(frozen=True)
class Sample:
    """One look at both versions. ``None`` means that one could not be read, which is not zero."""

    at: datetime
    candidate: SlotSample | None
    stable: SlotSample | None


@dataclass(frozen=True)
class Bucket:
    """A second. ``None`` where nothing is known of it: no look, or one that read nothing."""

    candidate: SlotSample | None = None
    stable: SlotSample | None = None

    def plus(self, other: Bucket) -> Bucket:
        return Bucket(_added(self.candidate, other.candidate), _added(self.stable, other.stable))


_UNSEEN = Bucket()


def _added(one: SlotSample | None, other: SlotSample | None) -> SlotSample | None:
    if one is None or other is None:
        return one or other
    return one.plus(other)


@dataclass(frozen=True)
class Evidence:
    """All that judging needs to go on after a restart.

    ``buckets`` are consecutive seconds, oldest first, at most ``SECONDS_KEPT``; the newest is that of
    ``last_at``. ``unreadable`` counts the looks in a row that could not read the candidate,
    ``candidate_unreadable`` those of them that read the stable version. ``expected_since`` buckets
    have passed since the candidate's share of the traffic was set: only they say whether it arrives.
    """

    began_at: datetime
    last_at: datetime | None = None
    buckets: tuple[Bucket, ...] = ()
    candidate_total: SlotSample = _NOTHING
    stable_total: SlotSample = _NOTHING
    unreadable: int = 0
    candidate_unreadable: int = 0
    expected_since: int = 0

    @classmethod
    def empty(cls, now: datetime) -> Evidence:
        return cls(began_at=now)

    def reset(self, now: datetime) -> Evidence:
        """Nothing of what was seen counts any more, as for another candidate."""
        return Evidence.empty(now)

    def shifted(self) -> Evidence:
        """The candidate's share was changed: what it did still counts against it, but how much
        traffic it should have had is counted from here."""
        return replace(self, expected_since=0)

    def with_sample(self, sample: Sample) -> Evidence:
        """Wall time may jump. Backwards, one second is taken to have passed; forwards by more than
        is kept, the window begins anew, while the totals stay."""
        seconds = self._seconds_until(sample.at)
        seen = Bucket(sample.candidate, sample.stable)
        blind = sample.candidate is None
        return replace(
            self,
            last_at=sample.at,
            buckets=self._moved_on(seconds, seen),
            candidate_total=self.candidate_total.plus(sample.candidate or _NOTHING),
            stable_total=self.stable_total.plus(sample.stable or _NOTHING),
            unreadable=self.unreadable + 1 if blind else 0,
            candidate_unreadable=self.candidate_unreadable + 1 if blind and sample.stable is not None else 0,
            expected_since=min(SECONDS_KEPT, self.expected_since + seconds),
        )

    def _seconds_until(self, at: datetime) -> int:
        if self.last_at is None:
            return 1
        passed = _second(at) - _second(self.last_at)
        return passed if at >= self.last_at else 1

    def _moved_on(self, seconds: int, seen: Bucket) -> tuple[Bucket, ...]:
        if seconds == 0:
            return (*self.buckets[:-1], self.buckets[-1].plus(seen))
        if seconds >= SECONDS_KEPT:
            return (seen,)
        return (*self.buckets, *[_UNSEEN] * (seconds - 1), seen)[-SECONDS_KEPT:]

    def age(self, now: datetime) -> int:
        """Whole seconds since the last look; 0 when the clock went back since."""
        return 0 if self.last_at is None else max(0, _second(now) - _second(self.last_at))

    def last(self, seconds: int, now: datetime) -> tuple[Bucket, ...]:
        """The buckets of the last ``seconds`` before ``now``, oldest first; fewer when it looked for
        less long."""
        wanted = seconds - self.age(now)
        return self.buckets[-wanted:] if wanted > 0 else ()

    def as_json(self) -> dict[str, Any]:
        """Below 32 KiB as text when full. Zeros at a row's end are left out; ``null`` is unread."""
        return {
            "began_at": self.began_at.isoformat(),
            "last_at": self.last_at and self.last_at.isoformat(),
            "candidate": [_row(bucket.candidate) for bucket in self.buckets],
            "stable": [_row(bucket.stable) for bucket in self.buckets],
            "candidate_total": _row(self.candidate_total),
            "stable_total": _row(self.stable_total),
            "unreadable": self.unreadable,
            "candidate_unreadable": self.candidate_unreadable,
            "expected_since": self.expected_since,
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Evidence:
        rows = zip(raw["candidate"], raw["stable"], strict=True)
        return cls(
            began_at=datetime.fromisoformat(raw["began_at"]),
            last_at=datetime.fromisoformat(raw["last_at"]) if raw["last_at"] else None,
            buckets=tuple(Bucket(_slot_sample(candidate), _slot_sample(stable)) for candidate, stable in rows),
            candidate_total=SlotSample(*raw["candidate_total"]),
            stable_total=SlotSample(*raw["stable_total"]),
            unreadable=raw["unreadable"],
            candidate_unreadable=raw["candidate_unreadable"],
            expected_since=raw["expected_since"],
        )


def _second(at: datetime) -> int:
    return int(at.timestamp() // 1)


def _row(sample: SlotSample | None) -> list[int] | None:
    if sample is None:
        return None
    row = list(sample.values())
    while row and row[-1] == 0:
        row.pop()
    return row


def _slot_sample(row: Sequence[int] | None) -> SlotSample | None:
    return None if row is None else SlotSample(*row)


@dataclass(frozen=True)
class Tally:
    """``bad`` of ``total`` within some stretch of time."""

    bad: int = 0
    total: int = 0

    @property
    def ratio(self) -> float | None:
        """``None`` for nothing of nothing, which is neither good nor bad."""
        return self.bad / self.total if self.total else None

    def above(self, threshold: float) -> bool:
        return self.bad > threshold * self.total


@dataclass(frozen=True)
class Series:
    """Bad and all of one kind, second by second, oldest first; seconds nobody read count nothing."""

    bad: tuple[int, ...]
    total: tuple[int, ...]

    @classmethod
    def of(
        cls,
        samples: Sequence[SlotSample | None],
        bad: Callable[[SlotSample], int],
        total: Callable[[SlotSample], int],
    ) -> Series:
        bads = [0 if sample is None else bad(sample) for sample in samples]
        totals = [0 if sample is None else total(sample) for sample in samples]
        # Two counters are not read in one instant: what failed was there, even if not counted yet.
        return cls(tuple(bads), tuple(map(max, bads, totals)))

    def tally(self, seconds: int | None = None) -> Tally:
        """All of it, or its last seconds."""
        start = 0 if seconds is None else max(0, len(self.total) - seconds)
        return Tally(sum(islice(self.bad, start, None)), sum(islice(self.total, start, None)))

    def since(self, start: int) -> Series:
        return Series(self.bad[start:], self.total[start:])
