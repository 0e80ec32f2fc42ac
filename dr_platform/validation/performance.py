"""Performance: what every service promises, judged under a stated load that is the same for all.

The load is open loop (``reference_service.traffic``): ``EACH`` requests to every service and as many
in sum of the work that services do for patients, at random times, ``RATE`` a second in the mean.
Latencies and errors are the router's own figures for that time, so whatever else was asked meanwhile
counts too.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dr_platform.catalog import Service
from dr_platform.catalog.models import Slo
from dr_platform.clock import Clock
from dr_platform.errors import PlatformError
from dr_platform.look import always_answers
from dr_platform.metrics.port import Counters, Window, between, total
from dr_platform.platform import Platform
from dr_platform.reference_service.client import ServiceClient
from dr_platform.reference_service.traffic import Sender, plan, read_questions, send_all
from dr_platform.runtime.port import Slot
from dr_platform.verdict import Measure, Verdict

RATE = 30.0
"""Requests a second in the mean."""
EACH = 15
"""Requests to every service; with fewer a 95th percentile says nothing."""
QUESTIONS = 24
"""Different questions of the load. Each is asked once before, as after an hour of real traffic."""
KEPT_RATIO = 0.95
"""Share of the load that must have been sent for it to be the stated one."""
FRESH_S = 5.0
"""Services are judged side by side by one load; a later look has a load of its own."""
FLUSH_S = 2.0
"""The router brings its histograms up to date every second."""
GPU_DEVICES = "nvidia[0-9]*"

_CACHE = re.compile(r'drp_cache_(hits|misses)_total\{[^}]*tier="(\w+)"[^}]*\} (\S+)')
_QUEUE = re.compile(r"drp_queue_depth\{[^}]*\} (\S+)")
FIRST_TIER = "memory"


@dataclass(frozen=True)
class Gauges:
    """What replicas of a service count about themselves, added up."""

    cache_hits: float = 0.0
    cache_asked: float = 0.0
    queue_depth: float | None = None


@dataclass(frozen=True)
class Loaded:
    """What was seen while the load was on. ``window`` is ``None`` for services whose counting began
    anew meanwhile."""

    requests: int
    seconds: float
    dropped: int
    windows: Mapping[str, Window | None] = field(default_factory=dict)
    before: Mapping[str, Gauges] = field(default_factory=dict)
    after: Mapping[str, Gauges] = field(default_factory=dict)
    gpu_devices: int = 0

    @property
    def as_stated(self) -> bool:
        return self.requests > 0 and 1 - self.dropped / self.requests >= KEPT_RATIO

    def describe(self) -> str:
        return f"{self.requests} requests in {self.seconds:.0f} s"


class Load:
    """One load for all who ask at the same time. ``measure`` puts it on and says what was seen."""

    def __init__(self, measure: Callable[[], Loaded], clock: Clock) -> None:
        self._measure = measure
        self._clock = clock
        self._lock = threading.Lock()
        self._ended = float("-inf")
        self._outcome: Loaded | PlatformError | None = None

    def loaded(self) -> Loaded:
        """Put the load on, or wait for the one that is on. Raises what kept it from being measured, to
        all who ask at the same time."""
        with self._lock:
            outcome = self._outcome
            if outcome is None or self._clock.monotonic() - self._ended > FRESH_S:
                self._outcome = outcome = self._attempt()
                self._ended = self._clock.monotonic()
        if isinstance(outcome, PlatformError):
            raise outcome
        return outcome

    def _attempt(self) -> Loaded | PlatformError:
        try:
            return self._measure()
        except PlatformError as exc:
            return exc


def measure(platform: Platform, chance: random.Random) -> Loaded:
    """Put the stated load on the platform. Raises ``MetricsUnavailable`` where nothing is counted."""
    from dr_platform.metrics.envoy import EnvoyTraffic

    client, clock = platform.client, platform.clock
    questions = _questions(platform.catalog.root, chance)
    warm_up(client, questions)
    source = EnvoyTraffic(platform.local_runtime.router.admin, clock.now)
    requests = plan(client.topology, questions, EACH, chance)
    clock.sleep(FLUSH_S)
    gauges, counters, began = _gauges(platform), source.read_all(), clock.monotonic()
    sender = Sender(client.peers, clock)
    send_all(sender, requests, RATE, chance, clock)
    seconds = clock.monotonic() - began
    clock.sleep(FLUSH_S)
    later = source.read_all()
    windows = {name: window_of(counters.get(name, {}), later.get(name, {})) for name in platform.catalog.services}
    devices = len(list(Path("/dev").glob(GPU_DEVICES)))
    return Loaded(len(requests), seconds, sender.tally.totals["dropped"], windows, gauges, _gauges(platform), devices)


def _questions(catalog: Path, chance: random.Random) -> list[str]:
    known = read_questions(catalog)
    return chance.sample(known, min(QUESTIONS, len(known)))


def warm_up(client: ServiceClient, questions: Sequence[str]) -> None:
    """Ask every question once; a service that does not answer is seen by the load itself."""
    for question in questions:
        try:
            client.answer(question)
        except PlatformError:
            return


def window_of(before: Mapping[Slot, Counters], after: Mapping[Slot, Counters]) -> Window | None:
    """Both slots together; a slot that was first used meanwhile counts from nothing."""
    windows = [between(before[slot], now) if slot in before else _from_nothing(now) for slot, now in after.items()]
    return None if None in windows else total(window for window in windows if window is not None)


def _from_nothing(now: Counters) -> Window:
    return Window(0.0, now.requests, now.errors, now.timeouts, now.latency)


def _gauges(platform: Platform) -> dict[str, Gauges]:
    """Of the services that promise something about caches or queues."""
    services = platform.catalog.services.values()
    return {s.name: parse(_metrics(platform, s.name)) for s in services if s.slo.cache_hit_ratio or s.slo.queue_depth}


def _metrics(platform: Platform, name: str) -> Iterator[str]:
    """The metrics of each replica, asked directly: through the router one of them would answer."""
    from dr_platform.runtime.local import envoy

    for status in platform.runtime.observe(name).slots.values():
        for replica in status.replicas:
            port = int(replica.address.rpartition(":")[2])
            yield envoy.get(port, "/metrics", {}, 3.0, platform.clock.monotonic).body.decode(errors="replace")


def parse(texts: Iterator[str]) -> Gauges:
    """Every look-up begins at the first tier, so what was asked there is all that was asked."""
    hits = asked = 0.0
    depths: list[float] = []
    for text in texts:
        for outcome, tier, value in _CACHE.findall(text):
            hits += float(value) if outcome == "hits" else 0.0
            asked += float(value) if tier == FIRST_TIER else 0.0
        depths += [float(value) for value in _QUEUE.findall(text)]
    return Gauges(hits, asked, max(depths, default=None))


@always_answers
def performance_verdict(load: Load, service: Service) -> Verdict:
    """Everything that the service promises, under the load."""
    return judge(service.name, service.slo, load.loaded())


@dataclass(frozen=True)
class Promise:
    """``kept`` is ``None`` where it could not be measured."""

    kept: bool | None
    told: str
    measurements: Mapping[str, Measure] = field(default_factory=dict)


def judge(name: str, slo: Slo, loaded: Loaded) -> Verdict:
    """A broken promise counts whatever the load was; kept ones count only under the stated load."""
    promises = list(_promises(name, slo, loaded))
    measurements: dict[str, Measure] = {"load_requests": loaded.requests, "load_s": round(loaded.seconds, 1)}
    for promise in promises:
        measurements |= promise.measurements
    if broken := [p.told for p in promises if p.kept is False]:
        return Verdict(False, f"{'; '.join(broken)} (under {loaded.describe()})", measurements)
    if blind := [p.told for p in promises if p.kept is None]:
        return Verdict(None, "; ".join(blind), measurements)
    if not loaded.as_stated:
        return Verdict(None, f"{loaded.dropped} of {loaded.describe()} could not be sent", measurements)
    return Verdict(True, f"{'; '.join(p.told for p in promises)} (under {loaded.describe()})", measurements)


def _promises(name: str, slo: Slo, loaded: Loaded) -> Iterator[Promise]:
    yield from _traffic(slo, loaded.windows.get(name))
    before, after = loaded.before.get(name, Gauges()), loaded.after.get(name, Gauges())
    if slo.cache_hit_ratio is not None:
        yield _cache(slo.cache_hit_ratio, after.cache_hits - before.cache_hits, after.cache_asked - before.cache_asked)
    if slo.queue_depth is not None:
        yield _queue(slo.queue_depth, after.queue_depth)
    if slo.gpu_utilisation is not None:
        yield _gpu(loaded.gpu_devices)


def _traffic(slo: Slo, window: Window | None) -> Iterator[Promise]:
    if window is None:
        yield Promise(None, "the router began to count anew meanwhile")
        return
    ratio, p95 = window.error_ratio, window.p95_ms
    measured: dict[str, Measure] = {"requests": window.requests}
    if window.requests < EACH or ratio is None or p95 is None:
        yield Promise(None, f"only {window.requests} requests were counted, needed are {EACH}", measured)
        return
    measured |= {"error_ratio": round(ratio, 4), "p95_ms": round(p95, 2)}
    yield Promise(ratio < slo.error_ratio, f"errors {ratio:.1%}, promised below {slo.error_ratio:.0%}", measured)
    if slo.latency_p95 is not None:
        limit_ms = slo.latency_p95 * 1000
        yield Promise(p95 < limit_ms, f"p95 {p95:.0f} ms, promised below {limit_ms:g} ms", {"limit_ms": limit_ms})


def _cache(promised: float, hits: float, asked: float) -> Promise:
    if asked <= 0:
        return Promise(None, "no cache was asked")
    ratio = hits / asked
    return Promise(
        ratio > promised, f"cache hits {ratio:.0%}, promised above {promised:.0%}", {"cache_hit_ratio": round(ratio, 4)}
    )


def _queue(promised: int, depth: float | None) -> Promise:
    if depth is None:
        return Promise(None, "the queue's depth could not be read")
    return Promise(
        depth < promised, f"{depth:.0f} waiting tasks, promised below {promised}", {"queue_depth": int(depth)}
    )


def _gpu(devices: int) -> Promise:
    if devices:
        return Promise(None, "the use of this machine's GPU is not measured by this version", {"gpu_devices": devices})
    return Promise(True, "no GPU here whose use could be judged", {"gpu_devices": 0})
