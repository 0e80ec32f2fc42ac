"""The catalog as one value, and the questions everybody asks of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path

from dr_platform.catalog.models import (
    Database,
    EmbeddingModel,
    Environment,
    KnowledgeSet,
    Release,
    Role,
    SecretCategory,
    Service,
)


@dataclass(frozen=True)
class Catalog:
    """All catalog files of one folder, checked against each other. Keys are names, sorted."""

    root: Path
    services: Mapping[str, Service]
    databases: Mapping[str, Database]
    environments: Mapping[str, Environment]
    embedders: Mapping[str, EmbeddingModel]
    knowledge: Mapping[str, KnowledgeSet]
    releases: Mapping[str, Release]
    secret_categories: Mapping[str, SecretCategory]

    def with_role(self, role: Role) -> Service | None:
        """The service that does this work, if the platform has one."""
        return next((s for s in self.services.values() if role in s.roles), None)

    def release_of(self, environment: Environment) -> Release:
        """The environment's release; the newest by date where the environment names none."""
        if environment.release is not None:
            return self.releases[environment.release]
        return max(self.releases.values(), key=lambda r: (r.released, r.name))

    @cached_property
    def waves(self) -> tuple[tuple[str, ...], ...]:
        """Services in start order: all of one wave may start together, after the waves before it."""
        sorter = TopologicalSorter({s.name: s.needs.services for s in self.services.values()})
        sorter.prepare()
        waves: list[tuple[str, ...]] = []
        while sorter.is_active():
            ready = tuple(sorted(sorter.get_ready()))
            waves.append(ready)
            sorter.done(*ready)
        return tuple(waves)

    def database_folder(self, name: str) -> Path:
        return self.root / "databases" / name

    def knowledge_folder(self, name: str) -> Path:
        return self.root / "knowledge" / name
