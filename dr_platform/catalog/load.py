"""From a folder to a ``Catalog``, or to the list of everything that is wrong with it.

Here: which files a catalog has, and one model per file. Not here: YAML itself (``documents``), the
models, and the rules between files (``rules``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from dr_platform.catalog.catalog import Catalog
from dr_platform.catalog.documents import Unreadable, read_document
from dr_platform.catalog.faults import CatalogError, Fault
from dr_platform.catalog.models import (
    Database,
    Environment,
    KnowledgeSet,
    Model,
    Release,
    SecretCategory,
    Service,
)
from dr_platform.catalog.rules import faults_between_files

__all__ = ["CatalogError", "Fault", "load_catalog"]

M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class Kind(Generic[M]):
    model: type[M]
    folder: str
    file: str | None


def load_catalog(root: Path) -> Catalog:
    """Read every file below ``root``; raises ``CatalogError`` with all faults of all files."""
    faults: list[Fault] = []

    def load(model: type[M], files: Iterator[Path]) -> dict[str, M]:
        found: dict[str, M] = {}
        for file in sorted(files):
            relative = file.relative_to(root).as_posix()
            try:
                entry = model.model_validate(read_document(file).data)
                found[entry.name] = entry  # type: ignore[attr-defined]
            except Unreadable as exc:
                faults.append(Fault(relative, f"line {exc.flaw.line}", exc.flaw.problem, exc.flaw.remedy, exc.flaw.line))
            except ValidationError as exc:
                faults.extend(
                    Fault(relative, ".".join(map(str, e["loc"])), e["msg"], "correct it") for e in exc.errors()
                )
        return found

    catalog = Catalog(
        root=root,
        services=load(Service, root.glob("services/*.yaml")),
        databases=load(Database, root.glob("databases/*/database.yaml")),
        environments=load(Environment, root.glob("environments/*.yaml")),
        knowledge=load(KnowledgeSet, root.glob("knowledge/*/set.yaml")),
        releases=load(Release, root.glob("releases/*.yaml")),
        secret_categories=load(SecretCategory, root.glob("secrets/*.yaml")),
    )
    faults.extend(faults_between_files(catalog) if not faults else ())
    if faults:
        raise CatalogError(tuple(faults))
    return catalog
