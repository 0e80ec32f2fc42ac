"""The composition root: a platform is a catalog, an environment, and the adapters they ask for.

Here: which adapter serves which environment. Not here: any decision, and nothing of Dagster.
Everything is made on first use, so that reading the catalog costs no connection.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dr_platform.catalog import Catalog, Database, DataClass, Engine, Environment, Service, load_catalog
from dr_platform.clock import Clock, SystemClock
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.runtime.port import Revision, Runtime, Workload
from dr_platform.secrets.port import Fields, SecretStore
from dr_platform.state import StateDirectory, locate_state, state_base

if TYPE_CHECKING:
    import psycopg
    import sqlalchemy

    from dr_platform.databases.embedded import EmbeddedServer
    from dr_platform.databases.embedded.system import SystemPostgres
    from dr_platform.databases.port import Endpoint, ManagedDatabase
    from dr_platform.evidence import EvidenceLog
    from dr_platform.incidents import IncidentLedger
    from dr_platform.knowledge.embedder import Embedder
    from dr_platform.knowledge.embedders import Embedders
    from dr_platform.metrics.port import TrafficSource
    from dr_platform.reference_service.client import ServiceClient
    from dr_platform.runtime.local.runtime import LocalRuntime
    from dr_platform.runtime.local.supervisor import Supervisor

DEFAULT_ENVIRONMENT = "local"


class UnknownEnvironment(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(name, known)
        self.what = f"{name}: no such environment in the catalog"
        self.untouched = "every environment"
        self.next_step = f"choose one of {', '.join(known)} with --env or DRP_ENVIRONMENT"


class RuntimeNotAvailable(PlatformError):
    """The environment's own runtime is not part of this version."""

    exit_code = ExitCode.REFUSED

    def __init__(self, environment: str, runtime: str) -> None:
        super().__init__(environment, runtime)
        self.what = f"{environment} runs on {runtime}, and this version has no adapter for that runtime"
        self.untouched = f"everything in {environment}"
        self.next_step = f"run it embedded on this machine: `drp --env {environment} --runtime local …`"


class NoCatalog(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.what = f"there is no catalog at {path}"
        self.untouched = "everything; nothing was started"
        self.next_step = "name a catalog folder with --catalog or DRP_CATALOG"


def find_catalog(named: Path | None = None) -> Path:
    """``named``, else ``DRP_CATALOG``, else ``catalog/`` of the checkout, else the shipped one."""
    configured = os.environ.get("DRP_CATALOG")
    if named is not None or configured:
        root = (named or Path(str(configured))).absolute()
    else:
        beside = Path(__file__).resolve().parent.parent / "catalog"
        here = Path.cwd() / "catalog"
        shipped = Path(__file__).resolve().parent / "shipped_catalog"
        root = next((p for p in (here, beside, shipped) if (p / "environments").is_dir()), shipped)
    if not root.is_dir():
        raise NoCatalog(root)
    return root


def reference_digest() -> str:
    """The image digest on the local runtime: SHA-256 over the reference service's code."""
    package = Path(__file__).resolve().parent
    digest = hashlib.sha256()
    beside = (package / "faults.py", package / "embedding.py", *(package / "knowledge").glob("*embedder*.py"))
    for source in sorted([*(package / "reference_service").rglob("*.py"), *beside]):
        digest.update(source.read_bytes())
    return "sha256:" + digest.hexdigest()


def definitions_digest(catalog_root: Path) -> str:
    """Identifies what Dagster's definitions are made of: the catalog's files and this code. When it
    changes, the code location must be loaded again."""
    package = Path(__file__).resolve().parent
    digest = hashlib.sha256()
    sources = [*package.rglob("*.py")]
    sources += [p for name in ("assets", "jobs", "sensors", "schedules") for p in (package.parent / name).rglob("*.py")]
    for path in sorted([*sources, *catalog_root.rglob("*.yaml")]):
        digest.update(str(path).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def migrations_digest(catalog: Catalog, database: str) -> str:
    """Identifies the schema that the catalog wants."""
    digest = hashlib.sha256()
    for path in sorted((catalog.database_folder(database) / "migrations").glob("*")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def config_hash(service: Service, settings: Mapping[str, str]) -> str:
    """Identifies everything a replica is handed. Replicas, owner and texts are left out: changing
    them must not restart anything."""
    handed = service.model_dump_json(include={"name", "port", "roles", "needs", "slo", "request_timeout"})
    text = handed + "".join(f"\n{key}={value}" for key, value in sorted(settings.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Binding:
    """What an environment is served by on this machine. An environment bound to the local runtime
    has embedded databases and secrets and synthetic data, whatever its file says."""

    runtime: Literal["local", "kubernetes"]
    databases: Literal["embedded", "endpoints"]
    secrets: Literal["embedded", "vault"]
    data_class: DataClass


class Platform:
    """One environment of one catalog, with adapters made on first use."""

    def __init__(
        self,
        catalog: Catalog,
        environment: Environment,
        state: StateDirectory,
        *,
        runtime: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.catalog = catalog
        self.environment = environment
        self.state = state
        self.clock: Clock = clock or SystemClock()
        self.binding = _bind(environment, runtime)

    @classmethod
    def open(
        cls,
        environment: str | None = None,
        *,
        catalog: Path | None = None,
        state: Path | None = None,
        runtime: str | None = None,
        clock: Clock | None = None,
    ) -> Platform:
        """Read the catalog and choose the environment; arguments come before ``DRP_…`` variables."""
        root = find_catalog(catalog)
        loaded = load_catalog(root)
        name = environment or os.environ.get("DRP_ENVIRONMENT") or DEFAULT_ENVIRONMENT
        if name not in loaded.environments:
            raise UnknownEnvironment(name, tuple(loaded.environments))
        located = locate_state(name, state or state_base(Path.cwd()))
        chosen = runtime or os.environ.get("DRP_RUNTIME") or None
        return cls(loaded, loaded.environments[name], located, runtime=chosen, clock=clock)

    @property
    def port_offset(self) -> int:
        return self.environment.port_offset

    def require_local(self) -> None:
        """Raise ``RuntimeNotAvailable`` unless this environment is bound to the local runtime."""
        if self.binding.runtime != "local":
            raise RuntimeNotAvailable(self.environment.name, self.binding.runtime)

    def process_environment(self) -> dict[str, str]:
        """What every supervised process is told; never a secret."""
        return {
            "DRP_ENVIRONMENT": self.environment.name,
            "DRP_RUNTIME": self.binding.runtime,
            "DRP_CATALOG": str(self.catalog.root),
            "DRP_STATE": str(self.state.root.parent),
            "DRP_STATE_ROOT": str(self.state.root),
        }

    # Workloads

    def settings_of(self, service: Service) -> dict[str, str]:
        """The environment's settings and its overrides for this service."""
        override = self.environment.services.get(service.name)
        return {**self.environment.settings, **(override.settings if override else {})}

    def replicas_of(self, service: Service) -> int:
        override = self.environment.services.get(service.name)
        if override is not None and override.replicas is not None:
            return override.replicas
        return service.replicas_in(self.environment.name)

    def workload(self, name: str, version: str | None = None) -> Workload:
        """What runs of a service in this version; without one, what the environment's release wants."""
        service = self.catalog.services[name]
        settings = self.settings_of(service)
        version = version or self.catalog.release_of(self.environment).version_of(name)
        revision = Revision(version=version, digest=self._digest, config_hash=config_hash(service, settings))
        return Workload(service=service, revision=revision, replicas=self.replicas_of(service), settings=settings)

    @cached_property
    def _digest(self) -> str:
        return reference_digest()

    # Adapters

    @cached_property
    def supervisor(self) -> Supervisor:
        from dr_platform.runtime.local.supervisor import Supervisor

        self.require_local()
        return Supervisor(self.state)

    @cached_property
    def local_runtime(self) -> LocalRuntime:
        from dr_platform.infrastructure.replicas import launch
        from dr_platform.runtime.local.runtime import LocalRuntime

        self.require_local()
        return LocalRuntime(
            self.state,
            launch=lambda workload, slot: launch(workload, slot, self.process_environment(), sys.executable),
            port_offset=self.port_offset,
            clock=self.clock,
            environment=self.process_environment(),
            entry_point=(sys.executable, "-m", "dr_platform.cli"),
        )

    @property
    def runtime(self) -> Runtime:
        return self.local_runtime

    @cached_property
    def secrets(self) -> SecretStore:
        if self.binding.secrets == "vault":
            from dr_platform.secrets.vault import VaultSecretStore

            return VaultSecretStore.from_environment(f"therapeutic-ai/{self.environment.name}")
        from dr_platform.secrets.embedded import EmbeddedSecretStore

        return EmbeddedSecretStore(self.state.secrets)

    @cached_property
    def client(self) -> ServiceClient:
        """The services as somebody outside of them calls them, through the router."""
        from dr_platform.reference_service.client import ServiceClient

        return ServiceClient(self.catalog, self.secrets, self.port_offset, subject="platform-checks", clock=self.clock)

    @cached_property
    def system_database(self) -> SystemPostgres:
        from dr_platform.databases.embedded.system import SystemPostgres

        self.require_local()
        return SystemPostgres(self.state)

    def embedded_server(self, name: str) -> EmbeddedServer:
        """The embedded server of a database; only where databases are embedded."""
        from dr_platform.databases.embedded import embedded_server

        return embedded_server(self.catalog.databases[name], self.state, self.secrets, self.port_offset)

    def connect(self, name: str, role: Literal["admin", "application"] = "application") -> ManagedDatabase:
        """A connection to a managed database; the caller closes it."""
        from dr_platform.databases.connect import connect_database

        database = self.catalog.databases[name]
        return connect_database(database, self.endpoint(database), self.secrets, role)

    def connect_elsewhere(self, name: str, endpoint: Endpoint) -> ManagedDatabase:
        """As ``admin`` to another database of the server of ``name``; the caller closes it."""
        from dr_platform.databases.connect import connect_database

        return connect_database(self.catalog.databases[name], endpoint, self.secrets, "admin")

    @property
    def knowledge_database(self) -> Database:
        """Where knowledge is kept: the first database whose engine has vectors and full text."""
        return next(d for d in self.catalog.databases.values() if d.engine is Engine.POSTGRESQL)

    @contextmanager
    def knowledge(self, role: Literal["admin", "application"] = "application") -> Generator[psycopg.Connection]:
        """A connection to where knowledge is kept."""
        from dr_platform.databases.postgresql import PostgresDatabase

        database = self.connect(self.knowledge_database.name, role)
        try:
            if not isinstance(database, PostgresDatabase):
                raise TypeError("knowledge is kept in PostgreSQL")
            yield database.connection
        finally:
            database.close()

    def endpoint(self, database: Database) -> Endpoint:
        """Where a database answers in this environment."""
        from dr_platform.databases.port import Endpoint

        if self.binding.databases == "embedded":
            return Endpoint("127.0.0.1", database.port + self.port_offset, database.database)
        host, _, rest = self.environment.endpoints[database.name].rpartition(":")
        port, _, name = rest.partition("/")
        return Endpoint(host, int(port), name or database.database)

    @cached_property
    def operations(self) -> sqlalchemy.Engine:
        from dr_platform.operations import operations_engine

        return operations_engine(self.system_database.url("operations"))

    @cached_property
    def evidence(self) -> EvidenceLog:
        from dr_platform.evidence import PostgresEvidenceLog

        return PostgresEvidenceLog(self.operations, self.clock)

    @cached_property
    def traffic(self) -> TrafficSource:
        from dr_platform.metrics.envoy import EnvoyTraffic

        return EnvoyTraffic(self.local_runtime.router.admin, self.clock.now)

    @cached_property
    def incidents(self) -> IncidentLedger:
        from dr_platform.incidents import IncidentLedger

        return IncidentLedger(self.evidence, self.clock)

    @cached_property
    def embedders(self) -> Embedders:
        """The catalog's embedding models."""
        from dr_platform.knowledge.embedders import Embedders, entries_of

        return Embedders(entries_of(self.catalog), self._secret, self.clock)

    def _secret(self, name: str) -> Fields | None:
        return self.secrets.read(name)  # here, because the store is made on first use

    def embedder_of(self, connection: psycopg.Connection) -> Embedder:
        """What makes vectors that compare with the stored ones, or what an empty store is loaded with. Raises
        ``UnknownModel`` where the store was switched to one that the catalog does not have."""
        from dr_platform.knowledge.store import read_in_use

        used = read_in_use(connection)
        return self.embedders.named(self.embedders.first if used is None else used.model)


def _bind(environment: Environment, runtime: str | None) -> Binding:
    if runtime == "local" or environment.runtime == "local":
        return Binding("local", "embedded", "embedded", DataClass.SYNTHETIC)
    return Binding(environment.runtime, environment.databases, environment.secrets, environment.data_class)
