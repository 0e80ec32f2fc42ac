"""The controller: the one that acts on open rollouts, once a second, by lease. Between rollouts it goes on
looking at what was promoted for as long as the revision before is kept warm.

Here: read, look, decide, do one action, save. Not here: what comes next (``decide``), what is read
(``sampling``), what it means (``guards``), who asks for a rollout (``requests``).

Between any two of its writes it may be killed: everything a successor needs is in the record, and
every action compares what is with what is wanted, so that repeating it is harmless. The record goes
first: evidence and phase are saved before anything is done because of them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import assert_never

from dr_platform.catalog import Service
from dr_platform.clock import Clock
from dr_platform.errors import PlatformError, TemporaryFailure
from dr_platform.metrics.port import TrafficSource
from dr_platform.rollout import events
from dr_platform.rollout import record as records
from dr_platform.rollout.aftercare import is_due, watched
from dr_platform.rollout.aside import Aside, Start, on_a_thread
from dr_platform.rollout.decide import (
    Apply,
    Fence,
    Patience,
    Rest,
    Retire,
    Route,
    RunSmoke,
    Save,
    Signals,
    StartAnew,
    Tidy,
    Wait,
    decide,
    needs_look,
    needs_watch,
)
from dr_platform.rollout.guards import GuardPolicy, enough_to_promote, evaluate, judge
from dr_platform.rollout.record import Event, Phase, Record, Rollout, Smoke
from dr_platform.rollout.sampling import Looked, Sampler, Subject
from dr_platform.rollout.window import Evidence
from dr_platform.runtime.port import Lease, Observed, Revision, Runtime, Slot, StaleRecord, Workload
from dr_platform.verdict import Progress, silent

LEASE = "controller"
LEASE_TTL = timedelta(seconds=15)
WATCHED_A_TICK = 4
"""Each may take a probe's time, and an open rollout must not wait for many of them."""
ALERTS_S = 0.5
"""So long a look waits for what scanners found, which is in a database that may be away."""
_TURNS = 24
"""Actions for one service within one look; more than any way forward or back has without a wait."""


class LeaseLost(Exception):
    """Somebody else acts now; this controller stops where it is."""


@dataclass(frozen=True)
class Settings:
    """What differs between services: how patient, and how a guard is set."""

    patience: Callable[[Service], Patience]
    guard: Callable[[Service], GuardPolicy]
    settings: Callable[[Service], Mapping[str, str]]


SmokeTest = Callable[[Service, Rollout], Smoke | None]
"""``None`` means that it cannot be said yet; it is asked again until the phase's deadline."""
Alerts = Callable[[Service, Rollout], int | None]
"""Distinct security alerts about the candidate since the rollout began; ``None``: could not look."""
Tell = Callable[[Event], None]
"""Copies an event to the operations database; raises ``PlatformError`` while it does not answer.
Called again with the same event after a stop: its key makes that harmless."""


@dataclass
class Controller:
    """One per environment acts. ``driver`` names this process for as long as it lives."""

    runtime: Runtime
    traffic: TrafficSource
    services: Callable[[], Iterable[Service]]
    settings: Settings
    smoke: SmokeTest
    alerts: Alerts
    tell: Tell
    clock: Clock
    driver: str
    progress: Progress = silent
    lease_ttl: timedelta = LEASE_TTL
    """So long nobody acts after the one that acts was killed."""
    aside: Start = on_a_thread
    """How work is begun that no look waits for."""
    _aside: Aside = field(init=False)
    _sampler: Sampler = field(init=False)
    _lease: Lease | None = field(init=False, default=None)
    _lease_until: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._sampler = Sampler(self.runtime, self.traffic)
        self._aside = Aside(self.aside)

    def run(self, stop: threading.Event, look_s: float) -> None:
        """Until ``stop`` is set. A tick that fails is told and followed by the next."""
        while not stop.is_set():
            began = self.clock.monotonic()
            try:
                self.tick()
            except PlatformError as exc:
                self.progress(f"controller: {exc.what}")
            self.clock.sleep(max(0.02, look_s - (self.clock.monotonic() - began)))
        self.give_back()

    def tick(self) -> bool:
        """One look at every service that needs one; false when another controller holds the lease."""
        if not self._renew():
            return False
        due: list[tuple[Service, records.Held]] = []
        for service in self.services():
            try:
                if self._is_due((held := self._tend(service)).record):
                    due.append((service, held))
            except LeaseLost:
                return False
            except PlatformError as exc:  # one service's trouble must not keep the others waiting
                self.progress(f"{service.name}: {exc.what}")
        return self._watch_some(due)

    def _watch_some(self, due: list[tuple[Service, records.Held]]) -> bool:
        """Those that were not looked at for longest; false when the lease was lost on the way."""
        due.sort(key=lambda one: one[1].record.watch.looked_at.timestamp() if one[1].record.watch else 0.0)
        for service, held in due[:WATCHED_A_TICK]:
            try:
                self._watch(service, held)
            except LeaseLost:
                return False
            except PlatformError as exc:
                self.progress(f"{service.name}: {exc.what}")
        return True

    def _is_due(self, record: Record) -> bool:
        now = self.clock.now()
        return needs_watch(record, now) and is_due(record.watch, now)

    def _watch(self, service: Service, held: records.Held) -> None:
        """One look at what was promoted, kept in its record for whoever judges it."""
        record, now = held.record, self.clock.now()
        if record.stable is None:
            return
        subject, observed = Subject.promoted(record.stable), self.runtime.observe(service.name)
        seen = watched(record.watch, self._sampler.look(service, subject, observed, now), now)
        self._require_lease()
        with contextlib.suppress(StaleRecord):  # somebody asked for something; that comes first
            records.save(self.runtime, held, replace(record, watch=seen))

    def has_work(self) -> bool:
        """Whether anything is open that a controller can carry on."""
        held = (records.read(self.runtime, service.name).record for service in self.services())
        return any(
            r.queued is not None
            or r.restart is not None
            or (r.rollout is not None and r.rollout.phase is not Phase.STUCK)
            for r in held
        )

    def _renew(self) -> bool:
        before = self.clock.monotonic()
        self._lease = self.runtime.acquire_lease(LEASE, self.driver, self.lease_ttl)
        # Counted from before the call, on a clock that never jumps.
        self._lease_until = before + self.lease_ttl.total_seconds() if self._lease else 0.0
        return self._lease is not None

    def give_back(self) -> None:
        """A successor need not wait for the lease of one that ended in order, or offers it."""
        if self._lease is None:
            return
        try:
            self.runtime.release_lease(self._lease)
        except PlatformError as exc:
            self.progress(f"controller: {exc.what}")
        self._lease, self._lease_until = None, 0.0

    def _require_lease(self) -> None:
        """A process that was stopped and goes on finds out here, before it acts."""
        if self.clock.monotonic() >= self._lease_until and not self._renew():
            raise LeaseLost

    def _tend(self, service: Service) -> records.Held:
        """Act until there is something to wait for, so that a revert takes no further look. One look's
        sample counts once, whoever else writes meanwhile. Returns the record as it was read last."""
        held = records.read(self.runtime, service.name)
        if held.record.outbox:
            self._aside.go_on(f"copy {service.name}", lambda: self._copy_out(service.name))
        looked: Looked | None = None
        signals, counts = Signals(), False
        for _ in range(_TURNS):
            held = records.read(self.runtime, service.name)
            if not needs_look(held.record, self.clock.now()):
                return held
            observed = self.runtime.observe(service.name)
            if looked is None and (looked := self._look(service, held.record, observed)) is not None:
                counts = True
            record = held.record
            if counts and looked is not None:
                record, signals = self._judged(service, record, looked)
            try:
                goes_on = self._act(service, held, record, observed, signals)
            except StaleRecord:  # a person's command came between; it is read at the next turn
                continue
            if not goes_on:
                return held
            counts = False
        return held

    def _look(self, service: Service, record: Record, observed: Observed) -> Looked | None:
        rollout = record.rollout
        if rollout is None or rollout.phase in (Phase.PREPARE, Phase.STUCK) or rollout.driver != self.driver:
            self._sampler.forget(service.name)  # what is counted meanwhile belongs to no look
            return None
        return self._sampler.look(service, Subject.of(rollout), observed, self.clock.now())

    def _act(self, service: Service, held: records.Held, record: Record, observed: Observed, signals: Signals) -> bool:
        """Do one thing; false when there is nothing to do but wait."""
        now = self.clock.now()
        action = decide(record, observed, signals, now, self.settings.patience(service), self.driver)
        self._require_lease()
        if isinstance(action, Save):
            self._save(held, record, analysed(record, action.record, signals))
            self.progress(f"{service.name}: {action.why}")
            if action.record.rollout is None:
                self._sampler.forget(service.name)
            return True
        held = records.save(self.runtime, held, record) if record != held.record else held
        match action:
            case Wait() | Rest():
                return False
            case RunSmoke():
                return self._run_smoke(service, held)
            case Apply(slot, revision, replicas):
                self._apply(service, slot, revision, replicas, record.epoch)
                self.progress(f"{service.name}: {replicas} x {revision.version} in {slot}")
            case Tidy(restart):
                place = restart.placement
                self._apply(service, place.slot, place.revision, restart.replicas, record.epoch)
                records.save(self.runtime, held, replace(record, restart=replace(restart, tidied=True)))
            case Route(weights):
                self.runtime.route(service.name, weights, record.epoch)
                self.progress(f"{service.name}: weights {weights.blue}/{weights.green}")
            case Retire(slot):
                self.runtime.retire(service.name, slot, record.epoch)
                self.progress(f"{service.name}: retired {slot}")
            case Fence():
                self.runtime.fence(service.name, record.epoch)
            case StartAnew(slot, replica):
                anew = lambda: self.runtime.replace(service.name, slot, [replica])  # noqa: E731 - begun at most once
                self._aside.go_on(f"restart {service.name}", anew)
                return False
            case _:
                assert_never(action)
        return True

    def _apply(self, service: Service, slot: Slot, revision: Revision, replicas: int, epoch: int) -> None:
        settings = self.settings.settings(service)
        self.runtime.apply(slot, Workload(service, revision, replicas, settings), epoch)

    def _save(self, held: records.Held, judged: Record, wanted: Record) -> None:
        """The share of the traffic changes with a bake: what arrives is counted from there."""
        before, after = judged.rollout, wanted.rollout
        shifted = before is not None and after is not None and before.phase is Phase.SHIFT
        if shifted and after is not None and after.phase is Phase.BAKE and after.evidence:
            evidence = Evidence.from_json(after.evidence).shifted().as_json()
            wanted = wanted.with_rollout(replace(after, evidence=evidence))
        records.save(self.runtime, held, wanted)

    def _run_smoke(self, service: Service, held: records.Held) -> bool:
        rollout = held.record.rollout
        if rollout is None or (result := self.smoke(service, rollout)) is None:
            return False
        records.save(self.runtime, held, held.record.with_rollout(replace(rollout, smoke=result)))
        self.progress(f"{service.name}: smoke tests {'passed' if result.passed else 'failed'}: {result.why}")
        return True

    def _judged(self, service: Service, record: Record, looked: Looked) -> tuple[Record, Signals]:
        now, rollout = self.clock.now(), record.rollout
        if rollout is None:
            return record, Signals()
        policy = self.settings.guard(service)
        rollout = counted(rollout, looked, now)
        evidence = Evidence.from_json(rollout.evidence or {})
        weight = rollout.intent.steps[rollout.step].weight if rollout.phase is Phase.BAKE else 0
        evaluations = evaluate(
            evidence,
            policy,
            weight=weight,
            expected_rate=looked.rate,
            now=now,
            # Its smoke tests wait until it has measured itself; from then on it must stay compliant.
            hipaa=looked.hipaa if rollout.phase is not Phase.SMOKE else None,
            alerts=self._alerts(service, rollout),
        )
        judgement = judge(evaluations)
        measured = next((e.as_measurements() for e in evaluations if e.trigger is judgement.trigger), {})
        enough = enough_to_promote(evidence, policy)
        return record.with_rollout(rollout), Signals(judgement, enough, looked.stable_answers, measured, evaluations)

    def _alerts(self, service: Service, rollout: Rollout) -> int | None:
        return self._aside.answer(f"alerts {rollout.id}", lambda: self.alerts(service, rollout), ALERTS_S)

    def _tell(self, service: str, event: Event) -> None:
        """What is refused for good is not offered again: it would keep everything behind it."""
        try:
            self.tell(event)
        except TemporaryFailure:
            raise
        except PlatformError as exc:
            self.progress(f"{service}: {event.key} was refused: {exc.what}")

    def _copy_out(self, service: str) -> None:
        """Tell what is waiting; what cannot be told now waits, and stops nothing."""
        held, told = records.read(self.runtime, service), set()
        try:
            for event in held.record.outbox:
                if self.clock.monotonic() >= self._lease_until:
                    break  # it took long, and by now a successor may tell the same
                self._tell(service, event)
                told.add(event.key)
        except TemporaryFailure as exc:
            self.progress(f"{service}: {exc.what}")
        if not told:
            return
        with contextlib.suppress(StaleRecord):  # told again at the next look, which its key makes harmless
            records.change(self.runtime, service, lambda record: _without(record, told))


def _without(record: Record, told: set[str]) -> Record:
    return replace(record, outbox=tuple(event for event in record.outbox if event.key not in told))


def analysed(before: Record, after: Record, signals: Signals) -> Record:
    """What is saved, with what the triggers said where the look took the rollout a turn."""
    if before.rollout is None:
        return after
    told = events.analysis(before.service, before.rollout, after.rollout, signals.judgement, signals.evaluations)
    return after if told is None else after.telling(told)


def counted(rollout: Rollout, looked: Looked, now: datetime) -> Rollout:
    """The look taken into the evidence and the blast radius."""
    evidence = Evidence.from_json(rollout.evidence) if rollout.evidence else Evidence.empty(now)
    sample = looked.sample
    evidence = evidence.with_sample(sample)
    seen = sample.candidate
    requests, errors = (seen.requests, seen.errors) if seen is not None else (0, 0)
    exposed = rollout.max_weight > 0 and rollout.restored_at is None
    # A clock that jumps must not make an exposure of hours, or a negative one.
    lasted = min(max((now - _before(rollout, now)).total_seconds(), 0.0), 5.0) if exposed else 0.0
    return replace(
        rollout,
        evidence=evidence.as_json(),
        served=rollout.served + (requests if exposed else 0),
        failed=rollout.failed + (errors if exposed else 0),
        exposed_s=rollout.exposed_s + lasted,
        # The earliest it can have been: right after the look before.
        first_failure_at=rollout.first_failure_at or (_before(rollout, now) if errors and exposed else None),
    )


def _before(rollout: Rollout, now: datetime) -> datetime:
    """When the look before was taken."""
    last = rollout.evidence.get("last_at") if rollout.evidence else None
    return datetime.fromisoformat(last) if last else now
