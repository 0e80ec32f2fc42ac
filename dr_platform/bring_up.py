"""Bringing up the parts of a platform, one function per kind of asset.

Here: the order of steps inside one part, and what each reports. Not here: the order between parts
(Dagster's graph), the decisions (``rollout.settle``) or how parts are judged (``health``).
Every function may be repeated; a repetition on a running platform changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from dr_platform.catalog.models import INTAKE_PORT, UI_PORT
from dr_platform.errors import PlatformError
from dr_platform.platform import Platform
from dr_platform.rollout import record as records
from dr_platform.rollout.converge import (
    Converged,
    ServiceNotSettled,
    converge,
    remove_services,
)
from dr_platform.rollout.converge import converge_fleet as converge_waves
from dr_platform.runtime.port import Workload
from dr_platform.verdict import Measure, Progress, silent

DATABASE_START_S = 120.0
"""The slowest engine measured, on two busy cores, answered after 25 s."""
FLEET_START_S = 90.0


@dataclass(frozen=True)
class PortsOutcome:
    documented: tuple[int, ...]

    def measurements(self) -> dict[str, Measure]:
        return {"ports": len(self.documented)}

    def describe(self) -> str:
        return f"{len(self.documented)} documented ports on loopback are ours or free"


@dataclass(frozen=True)
class RuntimeOutcome:
    processes: int
    running: int
    resident_bytes: int

    def measurements(self) -> dict[str, Measure]:
        return {"processes": self.processes, "running": self.running, "resident_bytes": self.resident_bytes}

    def describe(self) -> str:
        return f"supervisor and keeper run; {self.running} of {self.processes} processes running"


@dataclass(frozen=True)
class RouterOutcome:
    listeners: int
    duration_s: float

    def measurements(self) -> dict[str, Measure]:
        return {"listeners": self.listeners, "duration_s": round(self.duration_s, 3)}

    def describe(self) -> str:
        return f"Envoy routes {self.listeners} services"


@dataclass(frozen=True)
class OperationsOutcome:
    entries: int
    duration_s: float

    def measurements(self) -> dict[str, Measure]:
        return {"evidence_entries": self.entries, "duration_s": round(self.duration_s, 3)}

    def describe(self) -> str:
        return f"operations database is current; {self.entries} entries in the evidence log"


@dataclass(frozen=True)
class DatabaseOutcome:
    """``available`` is false where this machine cannot have the engine; ``remedy`` then says why."""

    name: str
    available: bool
    server: str = ""
    version: str = ""
    reduced: tuple[str, ...] = ()
    remedy: str = ""
    latency_ms: float = 0.0
    duration_s: float = 0.0

    def measurements(self) -> dict[str, Measure]:
        return {
            "available": self.available,
            "server": f"{self.server} {self.version}".strip(),
            "latency_ms": round(self.latency_ms, 2),
            "duration_s": round(self.duration_s, 3),
            "reduced": "; ".join(self.reduced) or "nothing",
        }

    def describe(self) -> str:
        return f"{self.server} {self.version} answers" if self.available else f"not available here: {self.remedy}"


@dataclass(frozen=True)
class SchemaOutcome:
    name: str
    current: str
    applied: tuple[str, ...]
    duration_s: float
    skipped: str = ""

    def measurements(self) -> dict[str, Measure]:
        return {
            "schema_version": self.current,
            "applied": len(self.applied),
            "duration_s": round(self.duration_s, 3),
        }

    def describe(self) -> str:
        if self.skipped:
            return f"not applied: {self.skipped}"
        return f"schema {self.current}; applied now: {', '.join(self.applied) or 'nothing'}"


@dataclass(frozen=True)
class FleetOutcome:
    services: Mapping[str, Converged]
    removed: tuple[str, ...]
    duration_s: float

    @property
    def unsettled(self) -> tuple[Converged, ...]:
        return tuple(c for c in self.services.values() if not c.settled)

    def measurements(self) -> dict[str, Measure]:
        return {
            "services": len(self.services),
            "settled": len(self.services) - len(self.unsettled),
            "changed": sum(bool(c.actions) for c in self.services.values()),
            "removed": len(self.removed),
            "duration_s": round(self.duration_s, 3),
        }

    def describe(self) -> str:
        late = "; ".join(f"{c.service}: {c.why}" for c in self.unsettled)
        return f"{len(self.services) - len(self.unsettled)} of {len(self.services)} services as wanted" + (
            f". Not yet: {late}" if late else ""
        )


@dataclass(frozen=True)
class SeedOutcome:
    name: str
    counts: Mapping[str, int]
    duration_s: float
    detail: str = ""
    extra: Mapping[str, Measure] = field(default_factory=dict)

    def measurements(self) -> dict[str, Measure]:
        return {**self.counts, **self.extra, "duration_s": round(self.duration_s, 3)}

    def describe(self) -> str:
        return ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in self.counts.items())


def documented_ports(platform: Platform) -> dict[int, str]:
    """Every port that a person may expect an answer on, with what answers there."""
    offset = platform.port_offset
    ports = {UI_PORT + offset: "the Dagster UI"}
    if platform.environment.intake is not None:
        ports[INTAKE_PORT + offset] = "the intake"
    ports |= {s.port + offset: s.name for s in platform.catalog.services.values()}
    if platform.binding.databases == "embedded":
        ports |= {d.port + offset: d.name for d in platform.catalog.databases.values()}
    return ports


def check_ports(platform: Platform) -> PortsOutcome:
    """Raise ``PortsBusy`` naming every documented port that another program holds."""
    from dr_platform.runtime.local.ports import PortsBusy, busy_ports

    wanted = documented_ports(platform)
    foreign = tuple(busy for busy in busy_ports(wanted) if not _is_ours(platform, busy.pid))
    if foreign:
        raise PortsBusy(foreign, wanted)
    return PortsOutcome(tuple(sorted(wanted)))


def _is_ours(platform: Platform, pid: int | None) -> bool:
    """Whether a process was started for this environment: it carries the marker of its state."""
    import psutil

    if pid is None:
        return False
    try:
        process = psutil.Process(pid)
        lineage = [process, *process.parents()]
        return any(p.environ().get("DRP_STATE_ROOT") == str(platform.state.root) for p in lineage[:3])
    except psutil.Error:
        return False


def describe_runtime(platform: Platform) -> RuntimeOutcome:
    """What the supervisor runs. Raises ``RuntimeUnreachable`` when it does not answer."""
    import psutil

    processes = platform.supervisor.processes()
    running = [p for p in processes if p.pid]
    resident = 0
    for process in running:
        try:
            resident += psutil.Process(process.pid).memory_info().rss
        except psutil.Error:  # ended between the two looks
            continue
    return RuntimeOutcome(len(processes), len(running), resident)


def start_router(platform: Platform, progress: Progress = silent) -> RouterOutcome:
    """Start Envoy and make the permanent address of every service."""
    started = platform.clock.monotonic()
    runtime = platform.local_runtime
    runtime.start_router()
    progress("router: answers")
    for service in platform.catalog.services.values():
        runtime.declare(service)
    return RouterOutcome(len(platform.catalog.services), platform.clock.monotonic() - started)


def upgrade_operations(platform: Platform, progress: Progress = silent) -> OperationsOutcome:
    """Bring the operations database to the newest schema."""
    from dr_platform.operations import upgrade

    started = platform.clock.monotonic()
    upgrade(platform.system_database.url("operations"))
    progress("operations database is current")
    entries = platform.evidence.count()
    return OperationsOutcome(entries, platform.clock.monotonic() - started)


def start_databases(
    platform: Platform, names: Iterable[str], progress: Progress = silent
) -> Mapping[str, DatabaseOutcome]:
    """Start these databases together. One that this machine cannot have does not stop the others."""
    wanted = tuple(names)
    with ThreadPoolExecutor(max_workers=8, thread_name_prefix="database") as pool:
        return dict(zip(wanted, pool.map(lambda n: _start_database(platform, n, progress), wanted), strict=True))


def _start_database(platform: Platform, name: str, progress: Progress) -> DatabaseOutcome:
    started = platform.clock.monotonic()
    try:
        if platform.binding.databases == "embedded":
            _start_embedded(platform, name, progress)
        database = platform.connect(name, "admin")
        try:
            info, latency = database.server(), database.ping()
        finally:
            database.close()
    except PlatformError as exc:
        # Its own check turns red; whatever does not need this database still comes up.
        progress(f"{name}: {exc.what}")
        return DatabaseOutcome(name, available=False, remedy=f"{exc.what}. {exc.next_step}")
    duration = platform.clock.monotonic() - started
    progress(f"{name}: {info.server} {info.version} answers")
    return DatabaseOutcome(name, True, info.server, info.version, info.reduced, "", latency, duration)


def _start_embedded(platform: Platform, name: str, progress: Progress) -> None:
    server = platform.embedded_server(name)
    server.acquire(progress)
    server.prepare()
    platform.supervisor.put([server.program()])
    server.initialise(DATABASE_START_S)


def apply_schema(
    platform: Platform, name: str, progress: Progress = silent, *, only: Collection[str] | None = None
) -> SchemaOutcome:
    """Apply the migrations of one database that are not applied yet; of them those versions ``only``."""
    from dr_platform.schema_changes import bring_forward

    started = platform.clock.monotonic()
    if (reason := unavailable_reason(platform, name)) is not None:
        return SchemaOutcome(name, "none", (), 0.0, skipped=reason)
    changed = bring_forward(platform, name, progress, only=only)
    versions = tuple(record.version for record in changed.records)
    return SchemaOutcome(name, changed.current, versions, platform.clock.monotonic() - started)


def unavailable_reason(platform: Platform, name: str) -> str | None:
    """Why an embedded engine is not on this machine, or ``None`` where it is."""
    from dr_platform.databases.embedded.port import EngineUnavailable

    if platform.binding.databases != "embedded":
        return None
    try:
        return platform.embedded_server(name).missing() or None
    except EngineUnavailable as exc:
        return exc.what


def converge_fleet(platform: Platform, progress: Progress = silent) -> FleetOutcome:
    """Bring every service to what the release wants and take away what the catalog no longer has."""
    started = platform.clock.monotonic()
    runtime = platform.runtime
    removed = remove_services(runtime, runtime.declared() - set(platform.catalog.services), progress)
    outcomes = converge_waves(
        runtime, platform.catalog.waves, lambda name: wanted(platform, name), platform.clock, FLEET_START_S, progress
    )
    return FleetOutcome(outcomes, removed, platform.clock.monotonic() - started)


def wanted(platform: Platform, name: str) -> Workload:
    """What should run of a service: what was deployed on top of this release, else the release's own."""
    deployed = records.read(platform.runtime, name).record.deployed if name in platform.runtime.declared() else None
    release = platform.catalog.release_of(platform.environment).name
    return platform.workload(name, deployed.version if deployed and deployed.release == release else None)


def converge_service(platform: Platform, name: str, progress: Progress = silent) -> Converged:
    """Bring one service to what the release wants; raises ``ServiceNotSettled``."""
    outcome = converge(
        platform.runtime, wanted(platform, name), platform.clock, platform.environment.service_start, progress
    )
    if not outcome.settled:
        raise ServiceNotSettled(name, outcome.why, outcome.duration_s)
    return outcome


def seed_knowledge(
    platform: Platform, name: str, progress: Progress = silent, source: Path | None = None
) -> SeedOutcome:
    """Load what changed of one knowledge set, from ``source`` or from the catalog's own folder."""
    from dr_platform.knowledge.seeding import seed
    from dr_platform.knowledge_mirror import mirror_set

    knowledge_set = platform.catalog.knowledge[name]
    folder = source or platform.catalog.knowledge_folder(name) / knowledge_set.source
    with platform.knowledge("admin") as connection:
        embedder = platform.embedder_of(connection)
        report = seed(connection, knowledge_set, folder, embedder, progress, clock=platform.clock)
        mirrored = mirror_set(platform, connection, name)
    counts = {
        "documents_added": report.documents_added,
        "documents_changed": report.documents_changed,
        "documents_removed": report.documents_removed,
        "documents_unchanged": report.documents_unchanged,
        "chunks": report.chunks,
        "embedded": report.embedded,
    }
    return SeedOutcome(name, counts, report.duration_s, extra=mirrored.measurements())
