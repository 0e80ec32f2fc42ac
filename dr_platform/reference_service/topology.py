"""Who is where: services and databases of one environment, with the ports they answer on here, and embedding models.

Here: the few facts of the catalog that a running service needs, and a snapshot of them as JSON.
Reading the catalog itself costs 0.3 s and 20 MB, which two dozen processes should not each pay, so
the first one writes the snapshot and the others read it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from dr_platform.errors import ExitCode, PlatformError
from dr_platform.knowledge.embedders import EmbedderEntry, entries_of

_FORMAT = 2
"""Rises when the snapshot's shape changes."""


class Work(StrEnum):
    """Values of the catalog's ``Role``; a copy, because importing that costs as much as the snapshot
    saves. A test keeps the two equal."""

    GATEWAY = "gateway"
    AI_GATEWAY = "ai-gateway"
    AUTHENTICATION = "authentication"
    EMBEDDING = "embedding"
    SEARCH = "search"
    GENERATION = "generation"
    CHAT_HISTORY = "chat-history"
    AUDIT_LOG = "audit-log"
    CONTENT_SAFETY = "content-safety"
    BACKGROUND_TASKS = "background-tasks"


class UnknownReferenceService(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, environment: str) -> None:
        super().__init__(name, environment)
        self.what = f"{name}: the catalog has no such service for {environment}"
        self.untouched = "every running service"
        self.next_step = "name a service of `drp catalog show`"


@dataclass(frozen=True)
class ServiceEntry:
    """A service as its peers see it: ``port`` is the router's, on loopback."""

    name: str
    port: int
    roles: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    databases: tuple[str, ...] = ()
    replicas: int = 1
    public: bool = False

    def works_as(self, work: Work) -> bool:
        return work.value in self.roles


@dataclass(frozen=True)
class DatabaseEntry:
    """A database server on loopback. ``engine`` is a value of the catalog's ``Engine``."""

    name: str
    engine: str
    port: int
    database: str


@dataclass(frozen=True)
class Topology:
    environment: str
    services: Mapping[str, ServiceEntry] = field(default_factory=dict)
    databases: Mapping[str, DatabaseEntry] = field(default_factory=dict)
    embedders: Mapping[str, EmbedderEntry] = field(default_factory=dict)

    def service(self, name: str) -> ServiceEntry:
        if name not in self.services:
            raise UnknownReferenceService(name, self.environment)
        return self.services[name]

    def with_work(self, work: Work) -> ServiceEntry | None:
        """The service that does this work, if there is one."""
        return next((s for s in self.services.values() if s.works_as(work)), None)


def read_topology(catalog_root: Path, environment: str, cache: Path) -> Topology:
    """The environment's topology: from the snapshot below ``cache`` while it is of the catalog's
    present files, else from the catalog.

    Where the catalog cannot be read any more, the last snapshot is used: a mistake in a file that
    somebody is editing must not keep a crashed replica from coming back.
    """
    snapshot = cache / f"topology-{environment}.json"
    wanted = _state_of(catalog_root)
    if (found := _read(snapshot, wanted)) is not None:
        return found
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (cache / "topology.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (found := _read(snapshot, wanted)) is not None:  # another replica was first
            return found
        try:
            topology = _from_catalog(catalog_root, environment)
        except PlatformError:
            if (stale := _read(snapshot, None)) is not None:
                return stale
            raise
        _write(snapshot, wanted, topology)
        return topology


def _state_of(root: Path) -> str:
    """Names, sizes and change times of the files that the topology is made of."""
    digest = hashlib.sha256(f"{_FORMAT}\0{root}".encode())
    for pattern in ("services/*.yaml", "databases/*/database.yaml", "environments/*.yaml", "embedders/*.yaml"):
        for path in sorted(root.glob(pattern)):
            seen = path.stat()
            digest.update(f"{path.name}\0{path.parent.name}\0{seen.st_mtime_ns}\0{seen.st_size}\n".encode())
    return digest.hexdigest()


def _read(snapshot: Path, wanted: str | None) -> Topology | None:
    try:
        document: dict[str, Any] = json.loads(snapshot.read_text(encoding="utf-8"))
        if wanted is not None and document["state"] != wanted:
            return None
        return Topology(
            document["environment"],
            {name: _service(fields) for name, fields in document["services"].items()},
            {name: DatabaseEntry(**fields) for name, fields in document["databases"].items()},
            {name: EmbedderEntry(**fields) for name, fields in document["embedders"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _service(fields: dict[str, Any]) -> ServiceEntry:
    lists: dict[str, Any] = {key: tuple(fields[key]) for key in ("roles", "services", "databases")}
    return ServiceEntry(**{**fields, **lists})


def _write(snapshot: Path, state: str, topology: Topology) -> None:
    part = snapshot.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps({"state": state, **asdict(topology)}), encoding="utf-8")
    part.replace(snapshot)


def _from_catalog(root: Path, environment: str) -> Topology:
    from dr_platform.catalog import load_catalog

    return topology_of(load_catalog(root), environment)


def topology_of(catalog: Any, environment: str) -> Topology:
    """The same from a ``Catalog`` that is loaded already."""
    if environment not in catalog.environments:
        raise UnknownReferenceService(environment, "any environment")
    chosen = catalog.environments[environment]
    services = {}
    for name, service in catalog.services.items():
        override = chosen.services.get(name)
        told = override.replicas if override is not None else None
        services[name] = ServiceEntry(
            name=name,
            port=service.port + chosen.port_offset,
            roles=tuple(role.value for role in service.roles),
            services=tuple(service.needs.services),
            databases=tuple(service.needs.databases),
            replicas=service.replicas_in(environment) if told is None else told,
            public=service.public,
        )
    databases = {
        name: DatabaseEntry(name, found.engine.value, found.port + chosen.port_offset, found.database)
        for name, found in catalog.databases.items()
    }
    return Topology(environment, services, databases, entries_of(catalog))
