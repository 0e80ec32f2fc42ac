"""The runtime of one machine: supervisord keeps replicas alive, Envoy routes, SQLite remembers.

Here: the port's promises, carried out with those three. Not here: how each of them is driven
(``supervisor``, ``router``, ``records``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from dr_platform.catalog import Service
from dr_platform.clock import Clock
from dr_platform.runtime.local import configuration, envoy, logs
from dr_platform.runtime.local.documents import InUse
from dr_platform.runtime.local.jobs import Jobs
from dr_platform.runtime.local.journal import Journal
from dr_platform.runtime.local.liveness import Watched, forget_watched, write_watched
from dr_platform.runtime.local.locks import exclusively
from dr_platform.runtime.local.ports import PortsBusy, busy_ports, connections, listening
from dr_platform.runtime.local.programs import Program
from dr_platform.runtime.local.records import Declared, FilledSlot, LocalRecords, PortRange, ports_for
from dr_platform.runtime.local.router import ROUTER_PROGRAM, Router, RouteRejected
from dr_platform.runtime.local.supervisor import ProcessInfo, Supervisor, program_environment
from dr_platform.runtime.notice import Notice
from dr_platform.runtime.port import (
    REVISION_HEADER,
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
    Slot,
    SlotInUse,
    SlotStatus,
    StaleEpoch,
    StoredRecord,
    SuspensionNotVerified,
    Weights,
    Workload,
)
from dr_platform.state import StateDirectory

_PROBE_S = 1.0
_SETTLE_S = 3.0
"""The router checks each replica every second; so long it may lag behind what a probe finds."""
_START_S = 5.0
"""An end after this time is restarted for ever; a busy machine takes seconds to reach a crash at the start."""
_SURGE_S = 60.0
_WORKERS_S = 0.05
_DRAIN_POLL_S = 0.02


@dataclass(frozen=True)
class Launch:
    """How a workload's process is started; ``%(process_num)d`` in ``argv`` is its port."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None


class LocalRuntime:
    """``Runtime`` on this machine. ``launch`` says how a workload's process is started,
    ``entry_point`` what stands before a job's arguments."""

    def __init__(
        self,
        state: StateDirectory,
        *,
        launch: Callable[[Workload, Slot], Launch],
        port_offset: int,
        clock: Clock,
        entry_point: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        ports: PortRange | None = None,
    ) -> None:
        ports = ports or ports_for(port_offset)
        self._state = state
        self._launch = launch
        self._offset = port_offset
        self._clock = clock
        self._entry_point = entry_point
        self._records = LocalRecords(state.runtime_database, clock, ports)
        self._supervisor = Supervisor(state)
        self._jobs = Jobs(state.root / "jobs", program_environment(environment or {}, state), clock)
        self._journal = Journal(state.logs / "supervisord.log")
        self._ends: dict[str, list[datetime]] = {}
        self.router = Router(state, self._records, port_offset=port_offset, admin_port=ports.admin, clock=clock)

    def router_program(self) -> Program:
        return self.router.program()

    def start_router(self) -> None:
        """Write everything stored for Envoy, start it and wait until it serves; again: no change."""
        self.router.write_bootstrap()
        if not self.router.admin.live() and (held := busy_ports([self.router.admin.port])):
            raise PortsBusy(tuple(held))
        self.router.project()
        self._supervisor.put([self.router_program()])
        self.router.await_live()

    def stop_router(self) -> None:
        self._supervisor.remove([ROUTER_PROGRAM])

    def declare(self, service: Service) -> None:
        if service.name in self._records.names():
            known = self._records.one(service.name)
            if known.service == service and self.router.is_current(known):
                return
        port = service.port + self._offset
        if port not in self.router.listening_ports() and (held := busy_ports([port])):
            raise PortsBusy(tuple(held))
        self.router.await_live()
        self._records.declare(service)
        self.router.converge(service.name)

    def undeclare(self, name: str) -> None:
        with self._changing(name):
            for slot in self._records.one(name).slots:
                raise SlotInUse(name, slot, "it runs a workload")
            for slot in Slot:
                self._forget(program_name(name, slot))
            self._records.undeclare(name)
            self.router.project()

    def declared(self) -> frozenset[str]:
        return self._records.names()

    def filled(self) -> Mapping[str, Mapping[Slot, FilledSlot]]:
        """What every service's slots were told to run, from the records alone: nothing else is asked."""
        return {name: known.slots for name, known in self._records.all().items()}

    def apply(self, slot: Slot, workload: Workload, epoch: int | None = None) -> None:
        name = workload.service.name
        with self._changing(name):
            if epoch is not None:
                self._records.fence(name, epoch)  # before anything is waited for
            known = self._records.one(name)
            before = known.slots.get(slot)
            if before is not None and before.revision == workload.revision:
                self._scale(known, slot, before, workload, epoch)
                return
            if before is not None:
                self._refuse_under_traffic(known, slot)
                self._await_no_requests(known, slot)
            ports = self._free_ports(name, slot, (), workload.replicas)
            self._records.fill(name, slot, _filled(workload, ports, self._clock.now()), epoch)
            self._supervise(workload, slot, ports)
            self.router.project()

    def replace(self, name: str, slot: Slot, replicas: Collection[str]) -> None:
        with self._changing(name):
            known = self._records.one(name)
            filled = known.slots.get(slot)
            if filled is None:
                return
            ports = [port for port in filled.ports if replica_name(name, slot, port) in replicas]
            healthy = self.router.healthy_ports(name, slot)
            # Those that get no requests anyway go together, the others one after the other.
            idle = [port for port in ports if port not in healthy]
            for batch in [idle, *([port] for port in ports if port in healthy)]:
                self._replace(self._records.one(name), slot, batch)

    def retire(self, name: str, slot: Slot, epoch: int | None = None) -> None:
        with self._changing(name):
            if epoch is not None:
                self._records.fence(name, epoch)
            known = self._records.one(name)
            self._refuse_under_traffic(known, slot)
            filled = known.slots.get(slot)
            if filled is not None:
                self._await_no_requests(known, slot)
                self._records.empty(name, slot, epoch)
                self.router.project()
                self._drain(known.service, slot, (), filled.ports)
            self._forget(program_name(name, slot))

    def fence(self, name: str, epoch: int) -> None:
        self._records.fence(name, epoch)

    def observe(self, name: str) -> Observed:
        known = self._records.one(name)
        processes = {info.name: info for info in self._supervisor.processes()}
        self._note_ends()
        slots = {slot: self._status(known, slot, processes) for slot in Slot}
        seen = self.router.in_use(name)
        return Observed(name, slots, seen.weights, known.route.epoch, seen.notice)

    def probe(self, name: str, path: str, slot: Slot | None = None, timeout_s: float = 5.0) -> ProbeResult:
        service = self._records.one(name).service
        headers = {REVISION_HEADER: str(slot)} if slot else {}
        return envoy.get(service.port + self._offset, path, headers, timeout_s, self._clock.monotonic)

    def route(self, name: str, weights: Weights, epoch: int) -> None:
        known = self._records.one(name)
        if epoch < known.route.epoch:
            raise StaleEpoch(name, epoch, known.route.epoch)
        self.router.await_live()
        for slot in Slot:
            if weights.of(slot) and not self._has_capacity(known, slot):
                raise NoCapacity(name, slot)
        before = self._records.route(name, weights, epoch)
        try:
            self.router.converge(name)
        except RouteRejected:
            told = replace(before, weights=weights, epoch=epoch, sequence=before.sequence + 1)
            self._records.take_back(name, told, before.weights)
            raise
        if (current := self._records.one(name).route.epoch) > epoch:
            raise StaleEpoch(name, epoch, current)

    def suspend(self, name: str, notice: Notice) -> None:
        self._tell(name, notice)

    def resume(self, name: str) -> None:
        self._tell(name, None)

    def suspensions(self) -> Mapping[str, Notice]:
        return self._records.notices()

    def run_job(self, job: Job) -> JobResult:
        return self._jobs.run(job, (*self._entry_point, *job.arguments))

    def logs(
        self, name: str, slot: Slot | None = None, *, previous: bool = False, lines: int = 100, follow: bool = False
    ) -> Iterator[LogLine]:
        files = self._log_files(name, [slot] if slot else list(Slot))
        read = logs.before_last_start if previous else logs.newest
        return self._log_lines(files, read, lines, follow=follow)

    def program_logs(
        self, program: str, *, previous: bool = False, lines: int = 100, follow: bool = False
    ) -> Iterator[LogLine]:
        """``logs`` for a program that is no service, such as a database server or the router."""
        names = [info.name for info in self._supervisor.processes() if info.group == program]
        files = {name: configuration.log_path(self._state, name) for name in names}
        return self._log_lines(files, logs.before_last_start if previous else logs.newest, lines, follow=follow)

    def told(self, name: str) -> InUse:
        """What the router was told last, to be compared with what it does (``router.in_use``)."""
        known = self._records.one(name)
        return InUse(known.route.weights, known.notice)

    def read_record(self, name: str) -> StoredRecord | None:
        return self._records.read_record(name)

    def write_record(self, name: str, body: str, expected: RecordVersion | None) -> RecordVersion:
        return self._records.write_record(name, body, expected)

    def acquire_lease(self, name: str, holder: str, ttl: timedelta) -> Lease | None:
        return self._records.acquire_lease(name, holder, ttl)

    def read_lease(self, name: str) -> Lease | None:
        return self._records.read_lease(name)

    def release_lease(self, lease: Lease) -> None:
        self._records.release_lease(lease)

    def _tell(self, name: str, notice: Notice | None) -> None:
        self._records.one(name)
        self.router.await_live()
        before = self._records.tell(name, notice)
        try:
            self.router.converge(name)
        except RouteRejected as exc:
            self._records.untell(name, notice, before)
            raise SuspensionNotVerified(name, exc.seen) from exc
        except RouteNotVerified as exc:
            raise SuspensionNotVerified(name, exc.seen) from exc

    def _changing(self, name: str):
        return exclusively(self._state.supervisor / "services" / f"{name}.lock", timeout_s=300.0)

    def _refuse_under_traffic(self, known: Declared, slot: Slot) -> None:
        """Both what was told and what the router does count: they may differ for a moment."""
        name = known.service.name
        seen = self.router.weights(name)
        weight = max(known.route.weights.of(slot), seen.of(slot) if seen else 0)
        if weight:
            raise SlotInUse(name, slot, f"it carries {weight} % of the traffic")

    def _free_ports(self, name: str, slot: Slot, used: tuple[int, ...], count: int) -> tuple[int, ...]:
        """``count`` ports of the slot that are not among ``used`` and that nobody listens on."""
        wanted = len(used) + count
        while True:
            held = self._records.ports(name, slot, wanted, listening)
            free = [port for port in held if port not in used]
            foreign = listening(free) - self._own_ports(name, slot)
            usable = [port for port in free if port not in foreign]
            if len(usable) >= count:
                return tuple(usable[:count])
            wanted = len(held) + 1

    def _own_ports(self, name: str, slot: Slot) -> frozenset[int]:
        """Ports whose listener is, or is about to be, replaced by what we start there."""
        program = program_name(name, slot)
        return frozenset(info.number for info in self._supervisor.processes() if info.group == program)

    def _scale(self, known: Declared, slot: Slot, before: FilledSlot, workload: Workload, epoch: int | None) -> None:
        name = known.service.name
        kept = before.ports[: workload.replicas]
        added = self._free_ports(name, slot, before.ports, workload.replicas - len(kept))
        removed = before.ports[workload.replicas :]
        ports = (*kept, *added)
        self._records.fill(name, slot, replace(before, ports=ports, draining=()), epoch)
        if added or not removed:
            self._supervise(workload, slot, ports)
        self.router.project()
        if removed:
            self._drain(known.service, slot, ports, removed)
            self._supervise(workload, slot, ports)

    def _replace(self, known: Declared, slot: Slot, ports: list[int]) -> None:
        name, filled = known.service.name, known.slots[slot]
        if not ports:
            return
        healthy = self.router.healthy_ports(name, slot)
        if known.route.weights.of(slot) and healthy and healthy <= set(ports):
            for port in ports:  # the last one that serves: its successor must be ready first
                self._succeed(self._records.one(name), slot, port)
            return
        self._records.fill(name, slot, replace(filled, draining=tuple(ports)))
        self.router.project()
        self._drain(known.service, slot, tuple(p for p in filled.ports if p not in ports), tuple(ports))
        with ThreadPoolExecutor(max_workers=16) as pool:
            list(pool.map(self._supervisor.restart, (replica_name(name, slot, port) for port in ports)))
        self._records.fill(name, slot, replace(filled, draining=()))
        self.router.project()
        if healthy & set(ports):  # the next one goes only when this one serves again
            self._eventually(lambda: set(ports) <= self.router.healthy_ports(name, slot), _SURGE_S)

    def _succeed(self, known: Declared, slot: Slot, port: int) -> None:
        """Start a replica on another port, and end this one when that one serves."""
        name, filled = known.service.name, known.slots[slot]
        workload = filled.workload(known.service)
        (successor,) = self._free_ports(name, slot, filled.ports, 1)
        both = (*filled.ports, successor)
        self._records.fill(name, slot, replace(filled, ports=both))
        self._supervise(workload, slot, both)
        self.router.project()
        ready = self._eventually(lambda: successor in self.router.healthy_ports(name, slot), _SURGE_S)
        gone = port if ready else successor
        remaining = tuple(p for p in both if p != gone)
        self._records.fill(name, slot, replace(filled, ports=remaining))
        self.router.project()
        self._drain(known.service, slot, remaining, (gone,))
        self._supervise(workload, slot, remaining)
        if not ready:
            raise NoCapacity(name, slot)

    def _supervise(self, workload: Workload, slot: Slot, ports: tuple[int, ...]) -> None:
        launch = self._launch(workload, slot)
        name = program_name(workload.service.name, slot)
        if not ports:
            self._forget(name)
            return
        probe = workload.service.probes.liveness
        times = (probe.path, probe.initial_delay, probe.period, probe.timeout, probe.failures)
        write_watched(self._state, name, [Watched(f"{name}.{port}", port, *times) for port in ports])
        self._supervisor.put(
            Program(
                name,
                launch.argv,
                launch.environment,
                launch.directory,
                first_number=port,
                start_s=_START_S,
                stop_s=workload.service.drain + 2.0,
            )
            for port in ports
        )

    def _forget(self, program: str) -> None:
        forget_watched(self._state, program)
        self._supervisor.remove([program])

    def _await_no_requests(self, known: Declared, slot: Slot) -> None:
        """Requests that were given to the slot before its weight became 0 come to their end."""
        name = known.service.name
        if self.router.admin.live():
            self._eventually(lambda: self.router.admin.active_requests(name, slot) == 0, known.service.drain)

    def _drain(self, service: Service, slot: Slot, remaining: tuple[int, ...], leaving: tuple[int, ...]) -> None:
        """Wait until the router knows only the remaining replicas and has let go of the others.

        Envoy closes a connection to a removed replica when its last request has ended, so no
        connection means no request; a count of requests would start at 0 for the new host list.
        """
        if not self.router.admin.live():
            return
        self.router.await_ports(service.name, slot, frozenset(remaining))
        # The workers take the new list a moment after the main thread shows it.
        self._clock.sleep(_WORKERS_S)
        self._eventually(lambda: not any(map(connections, leaving)), service.drain)

    def _has_capacity(self, known: Declared, slot: Slot) -> bool:
        filled = known.slots.get(slot)
        if filled is None or not any(answer.ok for answer in self._readiness(known.service, filled.ports).values()):
            return False
        name = known.service.name
        return self._eventually(lambda: bool(self.router.healthy_ports(name, slot)), _SETTLE_S)

    def _readiness(self, service: Service, ports: Collection[int]) -> dict[int, ProbeResult]:
        probe = service.probes.readiness
        timeout_s = min(probe.timeout, _PROBE_S)

        def ask(port: int) -> ProbeResult:
            return envoy.get(port, probe.path, {}, timeout_s, self._clock.monotonic)

        if len(ports) <= 1:
            return {port: ask(port) for port in ports}
        with ThreadPoolExecutor(max_workers=min(16, len(ports))) as pool:
            return dict(zip(ports, pool.map(ask, ports), strict=True))

    def _status(self, known: Declared, slot: Slot, processes: Mapping[str, ProcessInfo]) -> SlotStatus:
        filled = known.slots.get(slot)
        if filled is None:
            return SlotStatus()
        answers, since = self._readiness(known.service, filled.ports), filled.applied_at

        def replica(port: int) -> Replica:
            name = replica_name(known.service.name, slot, port)
            restarts = sum(at >= since for at in self._ends.get(name, ()))
            info = processes.get(name)
            state, reason = _judge(known.service, info, answers[port], restarts, self._clock.now())
            return Replica(name, state, f"127.0.0.1:{port}", restarts, info.started_at if info else None, reason)

        # A supervisor that was stopped has forgotten its programs: nothing was told to it since.
        told = sum(replica_name(known.service.name, slot, port) in processes for port in filled.ports)
        return SlotStatus(filled.revision, told, tuple(map(replica, filled.ports)))

    def _note_ends(self) -> None:
        for event in self._journal.new_events():
            if event.kind == "ended":
                self._ends.setdefault(event.name, []).append(event.at)

    def _log_files(self, name: str, slots: list[Slot]) -> dict[str, Path]:
        """Logs of the replicas there are; of an empty slot those of the replicas there were."""
        known, found = self._records.one(name), {}
        for slot in slots:
            filled = known.slots.get(slot)
            if filled:
                names = [replica_name(name, slot, port) for port in filled.ports]
            else:
                names = sorted(path.stem for path in self._state.logs.glob(f"{program_name(name, slot)}.*.log"))
            found.update({replica: configuration.log_path(self._state, replica) for replica in names})
        return found

    def _log_lines(
        self, files: dict[str, Path], read: Callable[[Path, int], list[str]], lines: int, *, follow: bool
    ) -> Iterator[LogLine]:
        for replica, path in files.items():
            for line in read(path, lines):
                yield LogLine(replica, line)
        if follow:
            for replica, line in logs.follow(files, self._clock.sleep):
                yield LogLine(replica, line)

    def _eventually(self, condition: Callable[[], object], timeout_s: float) -> bool:
        deadline = self._clock.monotonic() + timeout_s
        while not condition():
            if self._clock.monotonic() >= deadline:
                return False
            self._clock.sleep(_DRAIN_POLL_S)
        return True


def program_name(service: str, slot: Slot) -> str:
    return f"{service}-{slot}"


def replica_name(service: str, slot: Slot, port: int) -> str:
    """As ``configuration.group_name`` names the process."""
    return f"{program_name(service, slot)}.{port}"


def _filled(workload: Workload, ports: tuple[int, ...], now: datetime) -> FilledSlot:
    return FilledSlot(workload.revision, workload.settings, ports, now)


def _judge(
    service: Service, info: ProcessInfo | None, answer: ProbeResult, restarts: int, now: datetime
) -> tuple[ReplicaState, str]:
    """What a replica is, from what supervisord says of its process and what its probe answered."""
    if info is None:
        return ReplicaState.FAILED, "it is not supervised"
    if info.state not in ("STARTING", "RUNNING", "BACKOFF"):
        return ReplicaState.FAILED, info.reason or info.state.lower()
    if info.state == "BACKOFF":
        crashes = ReplicaState.FAILED if restarts > 1 else ReplicaState.STARTING
        return crashes, info.reason or "it ended right after its start"
    if answer.ok:
        return ReplicaState.READY, ""
    reason = answer.reason or f"readiness answered {answer.status}"
    age = (now - info.started_at).total_seconds() if info.started_at else 0.0
    young = answer.status is None and age < service.probes.readiness.initial_delay
    return (ReplicaState.STARTING if young else ReplicaState.UNREADY), reason
