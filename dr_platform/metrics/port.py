"""What a service's traffic looks like from outside: counters at one moment, and what lies between two.

Here: values and pure functions on them. Not here: where counters come from (``envoy``), what they
mean for a rollout (``dr_platform.rollout``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from dr_platform.errors import TemporaryFailure
from dr_platform.runtime.port import Slot


@dataclass(frozen=True)
class Histogram:
    """Cumulative counts: ``counts[i]`` requests took at most ``bounds_ms[i]``.

    There is no bucket for the rest: the top bound must lie above every possible latency.
    """

    bounds_ms: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        return self.counts[-1] if self.counts else 0


@dataclass(frozen=True)
class Counters:
    """One slot's traffic since its counters began, at ``at``.

    ``requests`` are completed ones, whatever came of them; ``errors`` are those answered 5xx, which
    includes refused connections, missing replicas and timeouts. ``healthy`` of ``members`` replicas
    get requests. The router's own health checks count nowhere.
    """

    at: datetime
    requests: int
    errors: int
    timeouts: int
    latency: Histogram
    members: int
    healthy: int


@dataclass(frozen=True)
class Window:
    """What happened between two looks."""

    seconds: float
    requests: int
    errors: int
    timeouts: int
    latency: Histogram

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds if self.seconds > 0 else 0.0

    @property
    def error_ratio(self) -> float | None:
        """``None`` without requests: no traffic shows no errors, which is not the same as none."""
        return self.errors / self.requests if self.requests else None

    @property
    def p95_ms(self) -> float | None:
        return percentile(self.latency, 0.95)


class TrafficSource(Protocol):
    """Where counters are read. Nothing is remembered: windows are made by whoever keeps snapshots."""

    def read(self, service: str) -> Mapping[Slot, Counters]:
        """Both slots at one moment. Raises ``MetricsUnavailable`` when nothing can be read, which
        is never reported as zero."""

    def read_all(self) -> Mapping[str, Mapping[Slot, Counters]]:
        """Every service's slots at one moment; costs little more than one service."""


class MetricsUnavailable(TemporaryFailure):
    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, reason)
        self.what = f"traffic cannot be measured: {source} does not answer ({reason})"
        self.untouched = "everything; this was a look"
        self.next_step = "`drp doctor` says whether the router runs; it restarts by itself within seconds"


def was_reset(earlier: Counters, later: Counters) -> bool:
    """Whether counting began anew in between, as after a restart of the router: what only rises has
    fallen. What was counted before then is lost, so a window across it is meaningless."""
    return later.requests < earlier.requests or later.timeouts < earlier.timeouts


def between(earlier: Counters, later: Counters) -> Window | None:
    """What happened from the earlier to the later look; ``None`` across a reset or backwards.

    Look often and add the windows up (``total``): when a slot's set of replicas changes, the router
    begins anew with errors and latencies while it goes on counting requests. Those between the last
    look and the change are lost then, so a window from long ago would miss many.
    """
    if was_reset(earlier, later) or later.at < earlier.at:
        return None
    errors = later.errors - earlier.errors if later.errors >= earlier.errors else later.errors
    return Window(
        seconds=(later.at - earlier.at).total_seconds(),
        requests=later.requests - earlier.requests,
        errors=errors,
        timeouts=later.timeouts - earlier.timeouts,
        latency=subtract(earlier.latency, later.latency),
    )


def total(windows: Iterable[Window]) -> Window:
    """Several windows as one; without any, a window in which nothing happened."""
    windows = tuple(windows)
    bounds = max((w.latency.bounds_ms for w in windows), key=len, default=())
    counts = [_counts_at(w.latency, bounds) for w in windows]
    return Window(
        seconds=sum(w.seconds for w in windows),
        requests=sum(w.requests for w in windows),
        errors=sum(w.errors for w in windows),
        timeouts=sum(w.timeouts for w in windows),
        latency=Histogram(bounds, tuple(map(sum, zip(*counts, strict=True)))),
    )


def _counts_at(latency: Histogram, bounds: tuple[float, ...]) -> tuple[int, ...]:
    """Cumulative counts at other bounds; a histogram without buckets counted nothing."""
    known = dict(zip(latency.bounds_ms, latency.counts, strict=True))
    return tuple(known.get(bound, 0) for bound in bounds)


def subtract(earlier: Histogram, later: Histogram) -> Histogram:
    """Requests of the later histogram that are not in the earlier one. Bounds that only the later
    one has are kept: before, there was nothing to count.

    A histogram starts anew whenever the slot's set of replicas changes, while the counters go on.
    Then the later one alone is given: fewer requests than there were, but true ones.
    """
    before = dict(zip(earlier.bounds_ms, earlier.counts, strict=True))
    counts = tuple(n - before.get(bound, 0) for bound, n in zip(later.bounds_ms, later.counts, strict=True))
    began_anew = any(count < 0 for count in counts) or later.total < earlier.total
    return later if began_anew else Histogram(later.bounds_ms, counts)


def percentile(latency: Histogram, share: float) -> float | None:
    """The latency in milliseconds that ``share`` of the requests stay below, interpolated linearly
    within its bucket; ``None`` without requests."""
    if latency.total == 0:
        return None
    rank = share * latency.total
    lower_bound, below = 0.0, 0
    for bound, count in zip(latency.bounds_ms, latency.counts, strict=True):
        if count >= rank:
            inside = count - below
            return lower_bound + (bound - lower_bound) * ((rank - below) / inside if inside else 1.0)
        lower_bound, below = bound, count
    return latency.bounds_ms[-1]
