"""What a platform looks like from outside, as one value that machines read and people are shown.

Here: collecting. Not here: judging (``health``) or printing (``cli``). A part that cannot be asked is
shown as not healthy with its reason; collecting never fails for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from dr_platform.catalog import Role, Tier
from dr_platform.catalog.models import INTAKE_PORT, UI_PORT
from dr_platform.dagster_client import DagsterClient, NotRunning
from dr_platform.errors import PlatformError
from dr_platform.health import database_verdict
from dr_platform.platform import Platform
from dr_platform.rollout import record as records
from dr_platform.runtime.port import Slot


@dataclass(frozen=True)
class ServiceStatus:
    name: str
    namespace: str
    slot: str | None
    version: str | None
    replicas_ready: int
    replicas_desired: int
    healthy: bool
    address: str
    suspended: bool = False
    """Answers 503 with a notice, for maintenance. It may be healthy all the same."""


@dataclass(frozen=True)
class DatabaseStatus:
    name: str
    engine: str
    server: str | None
    server_version: str | None
    healthy: bool
    latency_ms: float | None


@dataclass(frozen=True)
class AssetCounts:
    materialized: int = 0
    failed: int = 0
    checks_passed: int = 0
    checks_failed: int = 0
    failing: tuple[str, ...] = ()
    """The failed checks, as ``layer/name check``."""


@dataclass(frozen=True)
class Status:
    """The document of ``drp status --json``."""

    environment: str
    services: tuple[ServiceStatus, ...]
    databases: tuple[DatabaseStatus, ...]
    assets: AssetCounts
    urls: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def namespace_of(platform: Platform, tier: Tier) -> str:
    return tier.value if platform.environment.namespaces == "by-tier" else platform.environment.namespace


def urls(platform: Platform) -> dict[str, str]:
    """Addresses that a person opens."""
    found = {"dagster": f"http://127.0.0.1:{UI_PORT + platform.port_offset}"}
    if gateway := platform.catalog.with_role(Role.GATEWAY):
        found["gateway"] = f"http://127.0.0.1:{gateway.port + platform.port_offset}"
    if platform.environment.intake is not None:
        found["intake"] = f"http://127.0.0.1:{INTAKE_PORT + platform.port_offset}"
    return found


def running_dagster(platform: Platform) -> DagsterClient:
    """A client of this environment's Dagster. Raises ``NotRunning`` where it does not run: another
    platform's may answer at the same address."""
    if not platform.supervisor.running():
        raise NotRunning(platform.environment.name)
    return DagsterClient(urls(platform)["dagster"])


def service_status(platform: Platform, name: str) -> ServiceStatus:
    service = platform.catalog.services[name]
    address = f"http://127.0.0.1:{service.port + platform.port_offset}"
    wanted = platform.replicas_of(service)
    namespace = namespace_of(platform, Tier(service.tier))
    try:
        observed = platform.runtime.observe(name)
        record = records.read(platform.runtime, name).record
        stable = record.stable
    except PlatformError:
        return ServiceStatus(name, namespace, None, None, 0, wanted, healthy=False, address=address)
    if stable is None:
        return ServiceStatus(name, namespace, None, None, 0, wanted, healthy=False, address=address)
    slot: Slot = stable.slot
    ready = observed.slots[slot].ready
    serves = record.rollout is not None or (observed.weights is not None and observed.weights.of(slot) > 0)
    healthy = ready >= wanted and observed.weights is not None and serves
    suspended = observed.notice is not None
    version = stable.revision.version
    return ServiceStatus(name, namespace, slot.value, version, ready, wanted, healthy, address, suspended)


def database_status(platform: Platform, name: str) -> DatabaseStatus:
    database = platform.catalog.databases[name]
    verdict = database_verdict(platform, name)
    server, _, version = str(verdict.measurements.get("server", "")).rpartition(" ")
    latency = verdict.measurements.get("latency_ms")
    return DatabaseStatus(
        name,
        database.engine.value,
        server or None,
        version or None,
        verdict.passed is True,
        float(latency) if latency is not None else None,
    )


def collect(platform: Platform) -> Status:
    """Look at everything side by side."""
    services, databases = sorted(platform.catalog.services), sorted(platform.catalog.databases)
    with ThreadPoolExecutor(max_workers=12) as pool:
        service_results = pool.map(lambda n: service_status(platform, n), services)
        database_results = pool.map(lambda n: database_status(platform, n), databases)
        assets = pool.submit(_asset_counts, platform)
        return Status(
            platform.environment.name,
            tuple(service_results),
            tuple(database_results),
            assets.result(),
            urls(platform),
        )


def _asset_counts(platform: Platform) -> AssetCounts:
    try:
        summary = running_dagster(platform).summary()
    except PlatformError:
        return AssetCounts()
    failing = summary.failing
    return AssetCounts(summary.materialized, summary.failed, summary.checks_passed, len(failing), failing)
