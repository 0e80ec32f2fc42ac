"""What a replica counts about itself, and the Prometheus text of it.

Here: counters, one histogram per route, gauges that are read when asked for. Not here: what is
counted where.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 2.5, 5.0, 10.0)
"""Upper bounds of the latency histogram; they include the promises of the catalog (50 ms to 2 s)."""

Labels = tuple[tuple[str, str], ...]


class _Histogram:
    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.total_s += seconds


class Telemetry:
    """Safe to use from several threads. Label values are route patterns and status codes, never
    anything a caller sent."""

    def __init__(self, constant: Mapping[str, str]) -> None:
        self._constant = tuple(constant.items())
        self._lock = threading.Lock()
        self._counters: defaultdict[tuple[str, Labels], float] = defaultdict(float)
        self._latencies: defaultdict[Labels, _Histogram] = defaultdict(_Histogram)
        self._gauges: dict[tuple[str, Labels], Callable[[], float]] = {}

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        with self._lock:
            self._counters[name, tuple(labels.items())] += amount

    def value(self, name: str, **labels: str) -> float:
        """What was counted so far under exactly these labels."""
        with self._lock:
            return self._counters.get((name, tuple(labels.items())), 0.0)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        labels = (("route", route), ("method", method))
        with self._lock:
            self._counters["drp_requests_total", (*labels, ("status", str(status)))] += 1
            # Counted from 0 on: of a counter that appears with its first error that error is never seen.
            self._counters["drp_request_errors_total", labels] += status >= 500
            self._latencies[labels].add(seconds)

    def gauge(self, name: str, read: Callable[[], float], **labels: str) -> None:
        """Have ``read`` called whenever the metrics are asked for; it must be quick."""
        self._gauges[name, tuple(labels.items())] = read

    def text(self) -> str:
        """Everything in Prometheus' text format 0.0.4."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        with self._lock:
            counters = sorted(self._counters.items())
            latencies = [(labels, list(h.counts), h.total_s) for labels, h in sorted(self._latencies.items())]
        yield from _typed(counters, "counter", self._constant)
        gauges = sorted((key, read()) for key, read in self._gauges.items())
        yield from _typed(gauges, "gauge", self._constant)
        yield "# TYPE drp_request_duration_seconds histogram"
        for labels, counts, total_s in latencies:
            yield from self._histogram((*self._constant, *labels), counts, total_s)

    @staticmethod
    def _histogram(labels: Labels, counts: list[int], total_s: float) -> Iterator[str]:
        name, running = "drp_request_duration_seconds", 0
        for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), counts, strict=True):
            running += count
            yield f"{name}_bucket{_text((*labels, ('le', bound)))} {running}"
        yield f"{name}_sum{_text(labels)} {total_s:.6f}"
        yield f"{name}_count{_text(labels)} {running}"


def _typed(rows: list[tuple[tuple[str, Labels], float]], kind: str, constant: Labels) -> Iterator[str]:
    previous = ""
    for (name, labels), value in rows:
        if name != previous:
            yield f"# TYPE {name} {kind}"
            previous = name
        yield f"{name}{_text((*constant, *labels))} {value:g}"


def _text(labels: Labels) -> str:
    escaped = (f'{key}="{_escaped(value)}"' for key, value in labels)
    return "{" + ",".join(escaped) + "}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
