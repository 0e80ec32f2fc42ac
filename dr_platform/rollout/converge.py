"""The loop that carries out ``decide`` until a service is as wanted, and the same for a whole fleet.

Here: observing, acting, waiting, deadlines. Not here: what comes next (``settle``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import assert_never

from dr_platform.clock import Clock
from dr_platform.errors import PlatformError, TemporaryFailure
from dr_platform.rollout import record as records
from dr_platform.rollout.settle import Apply, Remember, Replace, Retire, Route, Settled, Wait, decide
from dr_platform.runtime.port import CLOSED, NoCapacity, Observed, Runtime, Slot, StaleRecord, Workload
from dr_platform.verdict import Measure, Progress, silent

LOOK_S = 0.25
"""Pause between two looks at a service that is starting."""


@dataclass(frozen=True)
class Converged:
    """How a convergence ended. ``actions`` tells what was changed, in order; empty means nothing."""

    service: str
    settled: bool
    why: str
    duration_s: float
    actions: tuple[str, ...] = ()
    observed: Observed | None = None

    def describe(self) -> str:
        return f"{self.why}; changed now: {', '.join(self.actions) or 'nothing'}"

    def measurements(self) -> dict[str, Measure]:
        ready = desired = 0
        if self.observed is not None:
            ready = sum(status.ready for status in self.observed.slots.values())
            desired = sum(status.desired for status in self.observed.slots.values())
        return {
            "replicas": ready,
            "replicas_desired": desired,
            "duration_s": round(self.duration_s, 3),
            "actions": len(self.actions),
        }


class ServiceNotSettled(PlatformError):
    """A service did not become what was wanted in the time it was given."""

    def __init__(self, service: str, why: str, seconds: float) -> None:
        super().__init__(service, why, seconds)
        self.what = f"{service} is not as wanted after {seconds:.0f} s: {why}"
        self.untouched = "every other service; traffic stays where ready replicas are"
        self.next_step = f"see `drp diagnose {service}` and `drp logs {service}`, then materialise it again"


@dataclass
class _Attempt:
    """What one convergence has done so far."""

    actions: list[str] = field(default_factory=list)
    replaced: frozenset[str] = frozenset()


def converge(
    runtime: Runtime, workload: Workload, clock: Clock, timeout_s: float = 60.0, progress: Progress = silent
) -> Converged:
    """Bring one service to the wanted workload; returns how far it got, raises only when the runtime
    refuses something for good. A lost race with another writer is read again and decided anew."""
    service = workload.service.name
    started = clock.monotonic()
    attempt = _Attempt()
    runtime.declare(workload.service)
    why = "not looked at yet"
    observed: Observed | None = None
    while clock.monotonic() - started < timeout_s:
        held = records.read(runtime, service)
        observed = runtime.observe(service)
        action = decide(held.record, observed, workload, clock.now(), attempt.replaced)
        if isinstance(action, Settled):
            return Converged(service, True, "as wanted", clock.monotonic() - started, tuple(attempt.actions), observed)
        if isinstance(action, Wait):
            why = action.why
            clock.sleep(LOOK_S)
            continue
        try:
            _act(runtime, held, workload, action, attempt)
        except (TemporaryFailure, StaleRecord, NoCapacity) as exc:
            why = exc.what
            clock.sleep(LOOK_S)
        else:
            progress(f"{service}: {attempt.actions[-1]}")
    return Converged(service, False, why, clock.monotonic() - started, tuple(attempt.actions), observed)


def _act(
    runtime: Runtime,
    held: records.Held,
    workload: Workload,
    action: Apply | Route | Remember | Replace | Retire,
    attempt: _Attempt,
) -> None:
    service = workload.service.name
    match action:
        case Apply(slot):
            runtime.apply(slot, workload, held.record.epoch)
            attempt.actions.append(f"{workload.replicas} x {workload.revision.version} in {slot}")
        case Route(weights):
            runtime.route(service, weights, held.record.epoch)
            attempt.actions.append(f"weights {weights.blue}/{weights.green}")
        case Remember(stable):
            records.save(runtime, held, held.record.with_stable(stable))
            attempt.actions.append(f"stable is {stable.slot}" if stable else "nothing is stable")
        case Replace(slot, replicas):
            runtime.replace(service, slot, replicas)
            attempt.replaced |= set(replicas)
            attempt.actions.append(f"replaced {', '.join(replicas)}")
        case Retire(slot):
            runtime.retire(service, slot, held.record.epoch)
            attempt.actions.append(f"retired {slot}")
        case _:
            assert_never(action)


def converge_fleet(
    runtime: Runtime,
    waves: Iterable[Iterable[str]],
    workload_of: Callable[[str], Workload],
    clock: Clock,
    timeout_s: float = 60.0,
    progress: Progress = silent,
) -> Mapping[str, Converged]:
    """Converge all services, wave after wave, those of one wave together.

    A service that does not settle does not stop the others: whoever needs it says so in its own
    health.
    """
    outcomes: dict[str, Converged] = {}
    with ThreadPoolExecutor(max_workers=16, thread_name_prefix="converge") as pool:
        for wave in waves:
            names = tuple(wave)
            results = pool.map(lambda n: _settle(runtime, workload_of(n), clock, timeout_s, progress), names)
            outcomes.update(zip(names, results, strict=True))
    return outcomes


def _settle(runtime: Runtime, workload: Workload, clock: Clock, timeout_s: float, progress: Progress) -> Converged:
    started = clock.monotonic()
    try:
        return converge(runtime, workload, clock, timeout_s, progress)
    except PlatformError as exc:
        return Converged(workload.service.name, False, exc.what, clock.monotonic() - started)


def remove_services(runtime: Runtime, names: Iterable[str], progress: Progress = silent) -> tuple[str, ...]:
    """Close, empty and undeclare services, such as those whose catalog file is gone."""
    removed = []
    for name in sorted(names):
        held = records.read(runtime, name)
        runtime.route(name, CLOSED, held.record.epoch)
        for slot in Slot:
            runtime.retire(name, slot)
        runtime.undeclare(name)
        progress(f"{name}: removed")
        removed.append(name)
    return tuple(removed)
