"""Six services, a release that breaks a contract in the third of them, and a controller, all in memory.

``a`` to ``f`` need each other in this order, or by ``WAVES``: two that need nothing, then the third, then
two that need it, then one that needs both. Release 3.0 runs. In release 4.0 every service has another
version, ``c`` provides another contract, and ``d`` and ``e`` require it; what they required before, it does
not provide any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

from dr_platform.catalog.models import Strategy
from dr_platform.clock import ManualClock
from dr_platform.databases.port import Phase
from dr_platform.objects import ObjectInfo, ObjectStore, open_objects
from dr_platform.release_rollout import SIDE_BY_SIDE, ReleaseRollout
from dr_platform.releases.bundle import Member, ReleaseBundle, Step
from dr_platform.releases.ledger import Ended, Episode, ReleaseLedger
from dr_platform.releases.plan import ApplySchema, Running
from dr_platform.rollout import record as records
from dr_platform.rollout.controller import Controller, Settings
from dr_platform.rollout.decide import Patience
from dr_platform.rollout.guards import GuardPolicy
from dr_platform.rollout.record import Intent, Placement, Rollout, Smoke
from dr_platform.rollout.requests import RolloutRefused, target_of
from dr_platform.rollout.strategy import IMMEDIATE_WEIGHTS, rollback_steps, steps_of
from dr_platform.runtime.memory import MemoryRuntime
from dr_platform.runtime.port import Lease, RecordVersion, Revision, Slot, Weights, Workload
from tests.release_values import a_bundle, a_catalog, a_member, a_step
from tests.rollouts import MemoryTraffic, answer, at_once

NAMES = tuple(f"svc-{letter}" for letter in "abcdef")
A, B, C, D, E, F = NAMES
NEEDS = {name: NAMES[:number][-1:] for number, name in enumerate(NAMES)}
WAVES: dict[str, tuple[str, ...]] = {A: (), B: (), C: (), D: (C,), E: (C,), F: (D, E)}
DATABASE = "postgres"
OLD, NEW = "1.0.0", "2.0.0"
REPLICAS = 2
SCHEMA_3 = (a_step("1.0"),)
SCHEMA_4 = (*SCHEMA_3, a_step("2.0"), a_step("2.1", Phase.CONTRACT))


def release_3() -> ReleaseBundle:
    members = {name: a_member(OLD) for name in NAMES}
    members |= {name: a_member(OLD, svc_c="1") for name in (D, E)}
    return a_bundle(members, {DATABASE: SCHEMA_3}, name="3.0")


def release_4(schema: tuple[Step, ...] = SCHEMA_3, name: str = "4.0") -> ReleaseBundle:
    members = {name: a_member(NEW) for name in NAMES}
    members |= {C: a_member(NEW, "2"), **{name: a_member(NEW, svc_c="2") for name in (D, E)}}
    return a_bundle(members, {DATABASE: schema}, name=name)


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Life:
    """Ends at the so many-th thing that is done, or at the so many-th look while waiting; ``None`` never."""

    left: int | None = None
    looks_left: int | None = None
    done: int = 0
    looks: int = 0

    def step(self) -> None:
        if self.left is not None and self.done >= self.left:
            raise Killed
        self.done += 1

    def look(self) -> None:
        if self.looks_left is not None and self.looks >= self.looks_left:
            raise Killed
        self.looks += 1


class DyingRuntime:
    """What the driver asks of the runtime, in a process that ends."""

    def __init__(self, runtime: MemoryRuntime, life: Life) -> None:
        self._runtime, self._life = runtime, life

    def write_record(self, service: str, body: str, expected: RecordVersion | None) -> RecordVersion:
        self._life.step()
        return self._runtime.write_record(service, body, expected)

    def acquire_lease(self, name: str, holder: str, ttl: timedelta) -> Lease | None:
        """Asked at every look."""
        self._life.look()
        return self._runtime.acquire_lease(name, holder, ttl)

    def retire(self, name: str, slot: Slot) -> None:
        self._life.step()
        self._runtime.retire(name, slot)

    def __getattr__(self, name: str) -> object:
        return getattr(self._runtime, name)


class DyingObjects:
    def __init__(self, objects: ObjectStore, life: Life) -> None:
        self._objects, self._life = objects, life

    def put(self, key: str, content: bytes) -> None:
        self._life.step()
        self._objects.put(key, content)

    def get(self, key: str) -> bytes:
        return self._objects.get(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._objects.get_range(key, start, length)

    def head(self, key: str) -> ObjectInfo | None:
        return self._objects.head(key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self._objects.list(prefix)

    def delete(self, key: str) -> None:
        self._objects.delete(key)


class BusyClock(ManualClock):
    """While somebody sleeps by it, others work."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], object] = lambda: None

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.meanwhile()


@dataclass
class Estate:
    """What runs, and who acts on it. ``bad``: versions whose smoke tests fail, by service."""

    clock: BusyClock = field(default_factory=BusyClock)
    bad: dict[str, str] = field(default_factory=dict)
    unreadable: bool = False
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: NEEDS)
    lost: str = ""
    """A service whose image of before is not there any more."""

    def __post_init__(self) -> None:
        self.catalog = a_catalog(self.needs, {name: [DATABASE] for name in NAMES})
        self.runtime = MemoryRuntime(self.clock)
        self.traffic = MemoryTraffic(self.runtime, self.clock)
        self.objects = open_objects("memory://")
        self.applied = list(SCHEMA_3)
        self.known = [release_3(), release_4()]
        self.log: list[str] = []
        self.open: list[frozenset[str]] = []
        """Which services had an open rollout, after each look."""
        self.told: dict[tuple[str, str], str] = {}
        for version in (OLD, NEW):
            self.runtime.faults.answers[version] = answer(version)
        for name, member in release_3().services.items():
            self._settle(name, member)
        self._acting = self._controller()
        self.clock.meanwhile = self.work

    def _settle(self, name: str, member: Member) -> None:
        service = self.catalog.services[name]
        self.runtime.declare(service)
        self.runtime.apply(Slot.BLUE, Workload(service, member.revision, REPLICAS))
        self.runtime.route(name, Weights(100, 0), 1)
        placement = Placement(Slot.BLUE, member.revision)
        records.change(self.runtime, name, lambda record: record.with_stable(placement))

    def _controller(self) -> Controller:
        patience = Patience(start=timedelta(seconds=20), keep_warm=timedelta(seconds=60))
        return Controller(
            runtime=self.runtime,
            traffic=self.traffic,
            services=self.catalog.services.values,
            settings=Settings(lambda _s: patience, lambda _s: GuardPolicy(), lambda _s: {}),
            smoke=lambda service, rollout: self._smoke(service.name, rollout),
            alerts=lambda _service, _rollout: 0,
            tell=lambda _event: None,
            clock=self.clock,
            driver="controller",
            aside=at_once,
        )

    def _smoke(self, service: str, rollout: Rollout) -> Smoke:
        fails = self.bad.get(service) == rollout.candidate.revision.version
        return Smoke(not fails, "its smoke tests failed" if fails else "fine", self.clock.now())

    def work(self) -> None:
        """One look of the controller, and what came to its end by it."""
        before = {name: records.read(self.runtime, name).record.last for name in NAMES}
        self._acting.tick()
        for name in NAMES:
            last = records.read(self.runtime, name).record.last
            if last is not None and last != before[name]:
                self.log.append(f"{name} {last.result}")
        held = [records.read(self.runtime, name).record for name in NAMES]
        self.open.append(frozenset(record.service for record in held if record.rollout is not None))

    # The driver's parts

    def driver(self, life: Life | None = None, side_by_side: int = SIDE_BY_SIDE) -> ReleaseRollout:
        life = life or Life()
        runtime = DyingRuntime(self.runtime, life)
        return ReleaseRollout(
            runtime=runtime,  # ty: ignore[invalid-argument-type] - it is one by delegation
            catalog=self.catalog,
            ledger=ReleaseLedger(DyingObjects(self.objects, life)),
            books=Told(self.told, life),
            clock=self.clock,
            running=self.running,
            apply_schema=lambda step: self._apply(step, life),
            deployment=self._deployment,
            rollback=self._rollback,
            actor="ana",
            declared="3.0",
            side_by_side=side_by_side,
        )

    def running(self, _bundle: ReleaseBundle) -> Running:
        stable = {name: records.read(self.runtime, name).record.stable for name in sorted(self.runtime.declared())}
        members = [(name, member) for bundle in self.known for name, member in bundle.services.items()]
        services = {
            name: next(m for known, m in members if known == name and m.revision == place.revision)
            for name, place in stable.items()
            if place is not None
        }
        return Running(services, {DATABASE: None if self.unreadable else tuple(self.applied)})

    def _apply(self, step: ApplySchema, life: Life) -> None:
        life.step()
        self.log.append(f"{step.phase} {','.join(step.versions)}")
        self.applied += [s for s in SCHEMA_4 if s.version in step.versions and s not in self.applied]

    def _deployment(self, service: str, revision: Revision, intent_id: str, reason: str) -> Intent:
        return Intent(
            id=intent_id,
            kind="deploy",
            revision=revision,
            replicas=REPLICAS,
            strategy=Strategy.BLUE_GREEN,
            steps=steps_of(Strategy.BLUE_GREEN, REPLICAS, 2.0),
            requested_by="ana",
            requested_at=self.clock.now(),
            reason=reason,
        )

    def _rollback(self, service: str, revision: Revision, intent_id: str, reason: str) -> Intent:
        if service == self.lost:
            raise RolloutRefused(service, "its image is not there any more", "deploy another version")
        known = target_of(records.read(self.runtime, service).record, revision.version, lambda _r: None)
        assert known.revision == revision, known.against
        back = self._deployment(service, revision, intent_id, reason)
        return replace(back, kind="rollback", steps=rollback_steps(IMMEDIATE_WEIGHTS, REPLICAS))

    # What a test asks

    def versions(self) -> str:
        """The first digits of what each service runs with all traffic, ``a`` to ``f``."""
        return "".join(self._version(name) for name in NAMES)

    def _version(self, name: str) -> str:
        stable = records.read(self.runtime, name).record.stable
        if stable is None:
            return "-"
        observed = self.runtime.observe(name)
        assert observed.weights == Weights.all_to(stable.slot), f"{name}: {observed.weights}"
        assert observed.slots[stable.slot].revision == stable.revision
        return stable.revision.version[0]


@dataclass(frozen=True)
class Told:
    """Books that keep what they were told first."""

    told: dict[tuple[str, str], str]
    life: Life

    def began(self, episode: Episode) -> None:
        self.life.step()
        self.told.setdefault(("began", episode.id), episode.began.action)

    def ended(self, episode: Episode, bundle: ReleaseBundle, ended: Ended) -> None:
        self.life.step()
        self.told.setdefault(("ended", episode.id), ended.outcome)
