"""A runtime in memory, for tests of decisions: it keeps the port's promises at once, and breaks on request.

Here: the adapter and its faults. Not here: any process or port.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from urllib.parse import parse_qs, urlsplit

from dr_platform.catalog import Service
from dr_platform.clock import Clock
from dr_platform.runtime.notice import Notice, page
from dr_platform.runtime.port import (
    CLOSED,
    Job,
    JobResult,
    Lease,
    LogLine,
    NoCapacity,
    Observed,
    ProbeResult,
    RecordVersion,
    Replica,
    ReplicaState,
    RouteNotVerified,
    RuntimeUnreachable,
    Slot,
    SlotInUse,
    SlotStatus,
    StaleEpoch,
    StaleRecord,
    StoredRecord,
    SuspensionNotVerified,
    UnknownService,
    Weights,
    Workload,
    is_health_path,
)

_OUTPUT_BYTES = 64 << 10
_FOLLOW_S = 0.01


@dataclass
class Faults:
    """What is broken at the moment. Tests change it; everything else only reads it."""

    runtime_unreachable: bool = False
    router_unreachable: bool = False
    routes_ignored: bool = False
    """The router takes new weights and notices, and goes on with the old ones."""
    unready_versions: set[str] = field(default_factory=set)
    crashing_versions: set[str] = field(default_factory=set)
    unready_replicas: set[str] = field(default_factory=set)
    """Until they are started anew."""
    answers: dict[str, ProbeResult] = field(default_factory=dict)
    """What every request to this version is answered."""


@dataclass
class _Slot:
    workload: Workload
    replicas: list[Replica] = field(default_factory=list)


@dataclass
class _Declared:
    service: Service
    slots: dict[Slot, _Slot] = field(default_factory=dict)
    told: Weights = CLOSED
    routed: Weights = CLOSED
    epoch: int = 0
    requests: int = 0
    notice: Notice | None = None
    shown: Notice | None = None
    """What the router does, as ``routed`` for the weights."""


class MemoryRuntime:
    """``Runtime`` without processes. ``run`` carries out jobs; ``faults`` break things."""

    def __init__(self, clock: Clock, run: Callable[[Job], JobResult] = lambda _job: JobResult(0, "", 0.0)) -> None:
        self.faults = Faults()
        self._clock = clock
        self._run = run
        self._services: dict[str, _Declared] = {}
        self._records: dict[str, StoredRecord] = {}
        self._leases: dict[str, Lease] = {}
        self._lives: defaultdict[str, list[list[str]]] = defaultdict(list)
        self._jobs: dict[str, tuple[threading.Event, list[JobResult]]] = {}
        self._versions = 0
        self._lock = threading.RLock()

    def crash(self, name: str, slot: Slot, replica: str) -> None:
        """End a replica's process; it is started again at once, as every runtime does."""
        with self._lock:
            place = self._slot(name, slot)
            for index, found in enumerate(place.replicas):
                if found.name == replica:
                    place.replicas[index] = replace(self._started(found, place.workload), restarts=found.restarts + 1)

    def write_log(self, replica: str, text: str) -> None:
        self._lives[replica][-1].append(text)

    def declare(self, service: Service) -> None:
        with self._reachable():
            known = self._services.setdefault(service.name, _Declared(service))
            known.service = service

    def undeclare(self, name: str) -> None:
        with self._reachable():
            for slot in self._known(name).slots:
                raise SlotInUse(name, slot, "it runs a workload")
            del self._services[name]
            self._records.pop(name, None)

    def declared(self) -> frozenset[str]:
        with self._reachable():
            return frozenset(self._services)

    def apply(self, slot: Slot, workload: Workload, epoch: int | None = None) -> None:
        name = workload.service.name
        with self._reachable():
            known = self._fenced(name, epoch)
            place = known.slots.get(slot)
            if place is None or place.workload.revision != workload.revision:
                if place is not None:
                    self._refuse_under_traffic(known, slot)
                place = known.slots[slot] = _Slot(workload)
            place.workload = workload
            del place.replicas[workload.replicas :]
            for number in range(len(place.replicas), workload.replicas):
                fresh = Replica(f"{name}-{slot}.{number}", ReplicaState.READY, f"memory:{number}")
                place.replicas.append(self._started(fresh, workload))

    def replace(self, name: str, slot: Slot, replicas: Collection[str]) -> None:
        with self._reachable():
            place = self._known(name).slots.get(slot)
            if place is None:
                return
            self.faults.unready_replicas -= set(replicas)
            place.replicas = [self._started(r, place.workload) if r.name in replicas else r for r in place.replicas]

    def retire(self, name: str, slot: Slot, epoch: int | None = None) -> None:
        with self._reachable():
            known = self._fenced(name, epoch)
            self._refuse_under_traffic(known, slot)
            known.slots.pop(slot, None)

    def fence(self, name: str, epoch: int) -> None:
        with self._reachable():
            self._fenced(name, epoch)

    def observe(self, name: str) -> Observed:
        with self._reachable():
            known = self._known(name)
            slots = {slot: self._status(known, slot) for slot in Slot}
            if self.faults.router_unreachable:
                return Observed(name, slots, None, known.epoch)
            return Observed(name, slots, known.routed, known.epoch, known.shown)

    def probe(self, name: str, path: str, slot: Slot | None = None, timeout_s: float = 5.0) -> ProbeResult:
        with self._reachable():
            known = self._known(name)
            if self.faults.router_unreachable:
                return ProbeResult(None, reason="connection refused")
            if known.shown is not None and slot is None and not is_health_path(path):
                return ProbeResult(503, page(known.shown).encode(), retry_after_s=known.shown.retry_after_s)
            target = slot or self._chosen(known)
            if target is None or not self._status(known, target).ready:
                return ProbeResult(503, b'{"status": "unavailable"}')
            revision = known.slots[target].workload.revision
            took_s = float(parse_qs(urlsplit(path).query).get("wait", ["0"])[0])
            if took_s > timeout_s:
                return ProbeResult(None, latency_ms=timeout_s * 1000, reason=f"no answer within {timeout_s:g} s")
            if took_s > known.service.request_timeout:
                return ProbeResult(504, latency_ms=known.service.request_timeout * 1000)
            body = json.dumps({"version": revision.version}).encode()
            return self.faults.answers.get(revision.version, ProbeResult(200, body, took_s * 1000))

    def route(self, name: str, weights: Weights, epoch: int) -> None:
        with self._reachable():
            known = self._known(name)
            if epoch < known.epoch:
                raise StaleEpoch(name, epoch, known.epoch)
            if self.faults.router_unreachable:
                raise RuntimeUnreachable("memory", "the router is gone")
            for slot in Slot:
                if weights.of(slot) and not self._status(known, slot).ready:
                    raise NoCapacity(name, slot)
            known.told, known.epoch = weights, epoch
            if self.faults.routes_ignored:
                raise RouteNotVerified(name, weights, f"{known.routed.blue}/{known.routed.green}")
            known.routed = weights

    def suspend(self, name: str, notice: Notice) -> None:
        self._tell(name, notice)

    def resume(self, name: str) -> None:
        self._tell(name, None)

    def suspensions(self) -> Mapping[str, Notice]:
        with self._reachable():
            return {name: known.notice for name, known in self._services.items() if known.notice is not None}

    def run_job(self, job: Job) -> JobResult:
        with self._reachable():
            running = self._jobs.get(job.name)
            done, results = running or self._jobs.setdefault(job.name, (threading.Event(), []))
        if running is None:
            try:
                results.append(self._run(job))
            finally:
                with self._lock:
                    del self._jobs[job.name]
                done.set()
        done.wait()
        result = results[0] if results else JobResult(None, "", 0.0)
        return replace(result, output=result.output.encode()[-_OUTPUT_BYTES:].decode("utf-8", "ignore"))

    def logs(
        self, name: str, slot: Slot | None = None, *, previous: bool = False, lines: int = 100, follow: bool = False
    ) -> Iterator[LogLine]:
        with self._reachable():
            known = self._known(name)
            replicas = [r.name for s in Slot if slot in (None, s) and s in known.slots for r in known.slots[s].replicas]
        return self._log_lines(replicas, 2 if previous else 1, lines, follow=follow)

    def read_record(self, name: str) -> StoredRecord | None:
        with self._reachable():
            self._known(name)
            return self._records.get(name)

    def write_record(self, name: str, body: str, expected: RecordVersion | None) -> RecordVersion:
        with self._reachable():
            self._known(name)
            stored = self._records.get(name)
            if (stored.version if stored else None) != expected:
                raise StaleRecord(name)
            self._versions += 1
            version = RecordVersion(f"m{self._versions}")
            self._records[name] = StoredRecord(body, version)
            return version

    def acquire_lease(self, name: str, holder: str, ttl: timedelta) -> Lease | None:
        with self._reachable():
            now = self._clock.now()
            before = self._leases.get(name) or Lease(name, "", 0, now)
            if before.holder not in ("", holder) and before.expires_at > now:
                return None
            lease = Lease(name, holder, before.transitions + (before.holder != holder), now + ttl)
            self._leases[name] = lease
            return lease

    def read_lease(self, name: str) -> Lease | None:
        with self._reachable():
            return self._leases.get(name)

    def release_lease(self, lease: Lease) -> None:
        with self._reachable():
            held = self._leases.get(lease.name)
            if held and (held.holder, held.transitions) == (lease.holder, lease.transitions):
                self._leases[lease.name] = replace(held, holder="")

    def _reachable(self) -> AbstractContextManager[object]:
        if self.faults.runtime_unreachable:
            raise RuntimeUnreachable("memory", "made unreachable")
        return self._lock

    def _known(self, name: str) -> _Declared:
        if name not in self._services:
            raise UnknownService(name, self._services)
        return self._services[name]

    def _fenced(self, name: str, epoch: int | None) -> _Declared:
        known = self._known(name)
        if epoch is not None and epoch < known.epoch:
            raise StaleEpoch(name, epoch, known.epoch)
        known.epoch = max(known.epoch, epoch or 0)
        return known

    def _tell(self, name: str, notice: Notice | None) -> None:
        with self._reachable():
            known = self._known(name)
            if self.faults.router_unreachable:
                raise RuntimeUnreachable("memory", "the router is gone")
            known.notice = notice
            if self.faults.routes_ignored:
                raise SuspensionNotVerified(name, known.shown.title if known.shown else "no notice")
            known.shown = notice

    def _slot(self, name: str, slot: Slot) -> _Slot:
        return self._known(name).slots[slot]

    def _refuse_under_traffic(self, known: _Declared, slot: Slot) -> None:
        if weight := max(known.told.of(slot), known.routed.of(slot)):
            raise SlotInUse(known.service.name, slot, f"it carries {weight} % of the traffic")

    def _started(self, replica: Replica, workload: Workload) -> Replica:
        self._lives[replica.name].append([f"serving {workload.revision.version}"])
        return replace(replica, started_at=self._now())

    def _now(self) -> datetime:
        return self._clock.now()

    def _status(self, known: _Declared, slot: Slot) -> SlotStatus:
        place = known.slots.get(slot)
        if place is None:
            return SlotStatus()
        replicas = tuple(self._judged(replica, place.workload) for replica in place.replicas)
        return SlotStatus(place.workload.revision, place.workload.replicas, replicas)

    def _judged(self, replica: Replica, workload: Workload) -> Replica:
        version = workload.revision.version
        if version in self.faults.crashing_versions:
            return replace(replica, state=ReplicaState.FAILED, reason="crashes at every start")
        if version in self.faults.unready_versions or replica.name in self.faults.unready_replicas:
            return replace(replica, state=ReplicaState.UNREADY, reason="readiness answered 503")
        return replica

    def _chosen(self, known: _Declared) -> Slot | None:
        """The slot of the next request; of every 100 requests each slot gets its weight."""
        if known.routed == CLOSED:
            return None
        known.requests += 1
        return Slot.BLUE if known.requests % 100 < known.routed.blue else Slot.GREEN

    def _log_lines(self, replicas: list[str], life: int, lines: int, *, follow: bool) -> Iterator[LogLine]:
        seen = {name: len(self._lives[name][-1]) for name in replicas}
        for name in replicas:
            written = self._lives[name][-life] if len(self._lives[name]) >= life else []
            for text in written[-lines:]:
                yield LogLine(name, text)
        while follow:
            for name in replicas:
                for text in self._lives[name][-1][seen[name] :]:
                    seen[name] += 1
                    yield LogLine(name, text)
            self._clock.sleep(_FOLLOW_S)
