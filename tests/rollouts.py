"""A service, its traffic and a controller in memory, for tests of rollouts: one second a look, no process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from dr_platform.catalog.models import Strategy
from dr_platform.clock import ManualClock
from dr_platform.metrics.port import Counters, Histogram, MetricsUnavailable
from dr_platform.rollout import record as records
from dr_platform.rollout.controller import Controller, Settings
from dr_platform.rollout.decide import Patience
from dr_platform.rollout.guards import GuardPolicy
from dr_platform.rollout.record import Event, Intent, Placement, Record, Rollout, Smoke
from dr_platform.rollout.strategy import Step, canary, first_deployment
from dr_platform.runtime.memory import MemoryRuntime
from dr_platform.runtime.port import Observed, ProbeResult, Revision, Runtime, Slot, Weights
from tests.contracts.runtime import a_service


def at_once(work: Callable[[], Any]) -> Future[Any]:
    """Work beside a controller's looks, where nothing takes time."""
    future: Future[Any] = Future()
    try:
        future.set_result(work())
    except Exception as exc:  # noqa: BLE001 - it is raised where the answer is read
        future.set_exception(exc)
    return future


BODY = b'{"version": "%s", "compliance": {"encryption_active": true}}'
STEPS = canary((25, 100), 2, 5.0)


def answer(version: str, status: int = 200, *, compliant: bool = True) -> ProbeResult:
    flag = "true" if compliant else "false"
    return ProbeResult(status, f'{{"version": "{version}", "compliance": {{"encryption_active": {flag}}}}}'.encode())


class MemoryTraffic:
    """So many requests a second, shared by the weights that are in use; each version fails its share."""

    def __init__(self, runtime: MemoryRuntime, clock: ManualClock, rate: float = 100.0) -> None:
        self.rate, self.away = rate, False
        self.error_ratio: dict[str, float] = {}
        self.refused_at_weight_0 = 0.0
        """Requests of our own a second that a router refuses for a candidate it does not know as ready."""
        self.lost = 0.0
        self._runtime, self._clock = runtime, clock
        self._counts: dict[str, dict[Slot, list[float]]] = {}
        self._at: dict[str, float] = {}

    def pass_time(self, service: str) -> None:
        """Account for the time since the last call at the weights of now."""
        now = self._clock.monotonic()
        seconds = now - self._at.get(service, now)
        self._at[service] = now
        counts = self._counts.setdefault(service, {slot: [0.0, 0.0] for slot in Slot})
        observed = self._runtime.observe(service)
        for slot in Slot:
            weight = (observed.weights or Weights(0, 0)).of(slot)
            requests = seconds * self.rate * weight / 100
            revision = observed.slots[slot].revision
            if weight and not observed.slots[slot].ready:
                self.lost += requests
            counts[slot][0] += requests
            counts[slot][1] += requests * self.error_ratio.get(revision.version if revision else "", 0.0)
            if revision and not weight:
                counts[slot] = [count + seconds * self.refused_at_weight_0 for count in counts[slot]]

    def read(self, service: str) -> Mapping[Slot, Counters]:
        if self.away:
            raise MetricsUnavailable("memory", "made unavailable")
        self.pass_time(service)
        at = self._clock.now()
        return {
            slot: Counters(at, int(requests), int(errors), 0, Histogram(), 1, 1)
            for slot, (requests, errors) in self._counts[service].items()
        }

    def read_all(self) -> Mapping[str, Mapping[Slot, Counters]]:
        return {name: self.read(name) for name in self._runtime.declared()}


@dataclass
class World:
    """One service with version 1 in blue, taking all traffic."""

    clock: ManualClock = field(default_factory=ManualClock)
    rate: float = 100.0
    stable: bool = True

    def __post_init__(self) -> None:
        self.service = a_service()
        self.runtime = MemoryRuntime(self.clock)
        self.traffic = MemoryTraffic(self.runtime, self.clock, self.rate)
        self.told: dict[str, Event] = {}
        self.alerts = 0
        self.smoke_passes: bool | None = True
        self.numbers = iter(range(1, 1000))
        for version in ("1", "2", "3"):
            self.runtime.faults.answers[version] = answer(version)
        self.runtime.declare(self.service)
        if self.stable:
            self.settle("1")

    @property
    def name(self) -> str:
        return self.service.name

    def revision(self, version: str) -> Revision:
        return Revision(version, f"sha256:{version}", "c0")

    def settle(self, version: str) -> None:
        from tests.contracts.runtime import a_workload

        self.runtime.apply(Slot.BLUE, a_workload(self.service, version, 2))
        self.runtime.route(self.name, Weights(100, 0), 1)
        placement = Placement(
            Slot.BLUE, self.runtime.observe(self.name).slots[Slot.BLUE].revision or Revision("", "", "")
        )
        records.change(self.runtime, self.name, lambda record: record.with_stable(placement))

    def controller(self, driver: str, runtime: Runtime | None = None) -> Controller:
        return Controller(
            runtime=runtime or self.runtime,
            traffic=self.traffic,
            services=lambda: [self.service],
            settings=Settings(lambda _s: PATIENCE, lambda _s: GuardPolicy(), lambda _s: {}),
            smoke=self._smoke,
            alerts=lambda _service, _rollout: self.alerts,
            tell=self._tell,
            clock=self.clock,
            driver=driver,
            aside=at_once,
        )

    def _smoke(self, _service: object, _rollout: Rollout) -> Smoke | None:
        if self.smoke_passes is None:
            return None
        return Smoke(self.smoke_passes, "asked", self.clock.now())

    def _tell(self, event: Event) -> None:
        self.told.setdefault(event.key, event)

    def intent(
        self,
        version: str = "2",
        strategy: Strategy = Strategy.CANARY,
        steps: tuple[Step, ...] | None = None,
        **changes: object,
    ) -> Intent:
        fields: dict[str, object] = {
            "id": f"ro-{next(self.numbers)}",
            "kind": "deploy",
            "revision": self.revision(version),
            "replicas": 2,
            "strategy": strategy,
            "steps": steps or (STEPS if self.stable else first_deployment(2, 5.0)),
            "requested_by": "somebody",
            "requested_at": self.clock.now(),
        }
        return Intent(**(fields | changes))  # ty: ignore[invalid-argument-type]

    def record(self) -> Record:
        return records.read(self.runtime, self.name).record

    def observed(self) -> Observed:
        return self.runtime.observe(self.name)

    def seconds(self, controller: Controller, most: int = 600) -> Iterator[int]:
        """A look each second, until nothing is under way."""
        for second in range(most):
            controller.tick()
            record = self.record()
            if record.rollout is None and record.queued is None:
                controller.tick()  # what is to be told and emptied
                return
            yield second
            self.clock.sleep(1.0)
        raise AssertionError(f"not ended within {most} s: {self.record().rollout}")

    def to_the_end(self, controller: Controller, each: Callable[[int], None] = lambda _second: None) -> Record:
        for second in self.seconds(controller):
            each(second)
        return self.record()

    def incidents(self) -> list[Event]:
        return [event for event in self.told.values() if event.kind == "incident-opened"]


PATIENCE = Patience(start=timedelta(seconds=20), keep_warm=timedelta(seconds=60))
