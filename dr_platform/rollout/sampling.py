"""One look at what is on trial: increases of counters, probes, what the candidate says of itself.

Here: reading, and turning what was read into a ``Sample``. Not here: what a sample means (``guards``)
or what is done about it (``decide``). What cannot be read is ``None``, never zero.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from dr_platform.catalog import Service
from dr_platform.errors import PlatformError
from dr_platform.metrics.port import Counters, TrafficSource, Window, between
from dr_platform.rollout.record import Placement, Rollout
from dr_platform.rollout.window import Sample, SlotSample
from dr_platform.runtime.port import Observed, ProbeResult, Runtime, Slot

REQUESTS_OF_OUR_OWN = 20
"""Sent to the candidate with each look while its own traffic is not enough to judge by: 59 without an
error are needed to claim less than 5 %."""
_PROBE_S = 1.0
HEALTH = "/health"


@dataclass(frozen=True)
class Subject:
    """What is looked at. ``exposed`` once the candidate had a share of the traffic, ``beside`` is a slot
    whose readiness is asked as well, ``synthetic`` how many requests of our own are sent to the candidate."""

    id: str
    candidate: Slot
    exposed: bool
    beside: Slot | None = None
    synthetic: int = 0

    @classmethod
    def of(cls, rollout: Rollout) -> Subject:
        stable = rollout.stable.slot if rollout.stable is not None and rollout.phase.reverting else None
        own = REQUESTS_OF_OUR_OWN if rollout.synthetic else 0
        return cls(rollout.id, rollout.candidate.slot, rollout.max_weight > 0, stable, own)

    @classmethod
    def promoted(cls, stable: Placement) -> Subject:
        """A stable revision beside the one before it."""
        return cls(f"{stable.slot}:{stable.revision.version}", stable.slot, exposed=True, beside=stable.slot.other)


@dataclass(frozen=True)
class Looked:
    """``hipaa`` is what the candidate's compliance block says, ``None`` where it could not be read."""

    sample: Sample
    hipaa: bool | None
    stable_answers: bool | None
    rate: float
    """Requests a second of the whole service since the look before."""


@dataclass
class Sampler:
    """Keeps the counters of the last look of each service; a new controller begins without any, and
    its first look gives no traffic."""

    runtime: Runtime
    traffic: TrafficSource
    _before: dict[str, Mapping[Slot, Counters]] = field(default_factory=dict)
    _restarts: dict[str, tuple[str, int]] = field(default_factory=dict)

    def look(self, service: Service, subject: Subject, observed: Observed, now: datetime) -> Looked:
        """Takes at most a few seconds: every probe has its own limit.

        What a candidate answers before it has a share of the traffic is not counted: all of it are our
        own requests, and the router refuses those until it has seen the candidate ready by itself. The
        smoke tests judge it until then.
        """
        windows = self._windows(service.name)
        candidate = subject.candidate
        probes = self._probes(service, subject)
        restarts = self._new_restarts(service.name, subject, observed)
        sides = {slot: self._side(service, windows[slot], slot, candidate, probes, restarts) for slot in Slot}
        own = sides[candidate]
        if own is not None and not subject.exposed:
            own = SlotSample(restarts=own.restarts)
        sample = Sample(at=now, candidate=own, stable=sides[candidate.other])
        seen = [window for window in windows.values() if window is not None]
        health = probes.get(HEALTH)
        stable = probes.get("stable")
        return Looked(
            sample,
            compliant(health) if health is not None else None,
            stable.ok if stable is not None and stable.status is not None else (False if stable else None),
            sum(window.rate for window in seen),
        )

    def forget(self, service: str) -> None:
        """Nobody looks at it any more, or at something else: the next look begins anew."""
        self._before.pop(service, None)
        self._restarts.pop(service, None)

    def _windows(self, name: str) -> Mapping[Slot, Window | None]:
        try:
            now = self.traffic.read(name)
        except PlatformError:
            return dict.fromkeys(Slot)
        before = self._before.get(name)
        self._before[name] = now
        if before is None:
            return dict.fromkeys(Slot)
        return {slot: between(before[slot], now[slot]) for slot in Slot}

    def _probes(self, service: Service, subject: Subject) -> dict[str, ProbeResult]:
        """Side by side: a candidate that hangs must not cost the look more than one probe's time."""
        name, path = service.name, service.probes.readiness.path
        wanted: dict[str, tuple[str, Slot]] = {
            "ready": (path, subject.candidate),
            HEALTH: (HEALTH, subject.candidate),
        }
        if subject.beside is not None:
            wanted["stable"] = (path, subject.beside)
        wanted |= {f"own-{n}": (HEALTH, subject.candidate) for n in range(subject.synthetic)}

        def ask(asked: tuple[str, Slot]) -> ProbeResult:
            try:
                return self.runtime.probe(name, asked[0], asked[1], _PROBE_S)
            except PlatformError as exc:
                return ProbeResult(None, reason=type(exc).__name__)

        with ThreadPoolExecutor(max_workers=8) as pool:
            return dict(zip(wanted, pool.map(ask, wanted.values()), strict=True))

    def _new_restarts(self, service: str, subject: Subject, observed: Observed) -> int:
        total = sum(replica.restarts for replica in observed.slots[subject.candidate].replicas)
        known, before = self._restarts.get(service, (subject.id, total))
        self._restarts[service] = (subject.id, total)
        return max(0, total - before) if known == subject.id else 0

    def _side(
        self,
        service: Service,
        window: Window | None,
        slot: Slot,
        candidate: Slot,
        probes: Mapping[str, ProbeResult],
        restarts: int,
    ) -> SlotSample | None:
        if window is None:
            return None
        probed = probes.get("ready" if slot is candidate else "stable")
        return SlotSample(
            requests=window.requests,
            errors=window.errors,
            timeouts=window.timeouts,
            slow=slower_than(window, service.slo.latency_p95),
            probes=1 if probed is not None else 0,
            probe_failures=int(probed is not None and not probed.ok),
            restarts=restarts if slot is candidate else 0,
        )


def slower_than(window: Window, limit_s: float | None) -> int:
    """Requests that took longer, by the smallest bucket that holds the limit, which spares the
    requests between the limit and its bucket's end; 0 where nothing is promised."""
    if limit_s is None:
        return 0
    within = 0
    for bound, count in zip(window.latency.bounds_ms, window.latency.counts, strict=True):
        within = count
        if bound >= limit_s * 1000:
            break
    return max(0, window.latency.total - within)


def compliant(answer: ProbeResult) -> bool | None:
    """Whether every field of the health response's compliance block is true (second guide, "Health
    Check Response")."""
    try:
        block = json.loads(answer.body)["compliance"]
        flags = [value for value in block.values() if isinstance(value, bool)]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return all(flags) if flags else None
