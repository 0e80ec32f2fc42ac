"""From a folder to a ``Catalog``, or to the list of everything that is wrong with it.

Here: which files a catalog has, and one model per file. Not here: YAML itself (``documents``), the
models, wording (``explain``), and the rules between files (``rules``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dr_platform.catalog.catalog import Catalog
from dr_platform.catalog.documents import Document, Flaw, Place, Unreadable, read_document
from dr_platform.catalog.explain import explain
from dr_platform.catalog.faults import WHOLE_FILE, CatalogError, Fault, field_path
from dr_platform.catalog.models import (
    Database,
    EmbeddingModel,
    Environment,
    KnowledgeSet,
    Model,
    Release,
    SecretCategory,
    Service,
)
from dr_platform.catalog.rules import Declared, faults_between_files

__all__ = ["KINDS", "CatalogError", "Fault", "Kind", "load_catalog"]

MAX_LISTED = 50
"""Faults told of one file; nobody reads more of one file before correcting the first."""
MAX_CONTRADICTIONS = 200
"""Faults between files told at once."""

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Kind:
    """A kind of catalog file: ``<folder>/<name>.yaml``, or ``<folder>/<name>/<inner>``."""

    name: str
    model: type[Model]
    folder: str
    inner: str | None = None
    required: bool = True
    """Whether a catalog without one of them is at fault."""

    def path_of(self, name: str) -> str:
        return f"{self.folder}/{name}/{self.inner}" if self.inner else f"{self.folder}/{name}.yaml"

    def names_in(self, root: Path) -> list[str]:
        """Of the files that a catalog folder has of this kind, by their names alone."""
        return sorted(f.parent.name if self.inner else f.stem for f in root.glob(self.path_of("*")))


KINDS = (
    Kind("service", Service, "services"),
    Kind("database", Database, "databases", "database.yaml"),
    Kind("environment", Environment, "environments"),
    Kind("embedder", EmbeddingModel, "embedders"),
    Kind("knowledge", KnowledgeSet, "knowledge", "set.yaml", required=False),
    Kind("release", Release, "releases"),
    Kind("secret", SecretCategory, "secrets"),
)


@dataclass
class _Reading:
    """What was found so far. ``names`` holds every entry that has a file, readable or not, so that
    one broken file does not make its users look wrong too."""

    root: Path
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    names: dict[str, set[str]] = field(default_factory=dict)
    lines: dict[str, dict[str, int]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def fault(self, file: str, where: str, problem: str, remedy: str, line: int | None = None) -> None:
        self.faults.append(Fault(file, where, problem, remedy, line))


def load_catalog(root: Path) -> Catalog:
    """Read every file below ``root``; raises ``CatalogError`` with all faults of all files."""
    reading = _Reading(root)
    if not os.path.isdir(root):  # noqa: PTH112 - Path.is_dir raises where a parent may not be entered
        problem, remedy = "is no folder that can be entered", "name the catalog's folder with --catalog"
        raise CatalogError((Fault(_shown(root.as_posix()), WHOLE_FILE, problem, remedy),))
    for kind in KINDS:
        _read_kind(kind, reading)
    catalog = _assembled(reading)
    declared = Declared(*(frozenset(reading.names[kind]) for kind in ("service", "database", "embedder")))
    contradictions = islice(faults_between_files(catalog, declared), MAX_CONTRADICTIONS)
    reading.faults.extend(_located(fault, reading.lines.get(fault.file, {})) for fault in contradictions)
    if reading.faults:
        raise CatalogError(tuple(sorted(reading.faults, key=lambda f: (_folder_order(f.file), f.file, f.line or 0))))
    return catalog


def _assembled(reading: _Reading) -> Catalog:
    by_kind = {kind: dict(sorted(found.items())) for kind, found in reading.entries.items()}
    return Catalog(
        root=reading.root.absolute(),  # handed to processes that start elsewhere
        services=by_kind["service"],
        databases=by_kind["database"],
        environments=by_kind["environment"],
        embedders=by_kind["embedder"],
        knowledge=by_kind["knowledge"],
        releases=by_kind["release"],
        secret_categories=by_kind["secret"],
    )


def _folder_order(file: str) -> int:
    folders = [kind.folder for kind in KINDS]
    first = file.partition("/")[0]
    return folders.index(first) if first in folders else -1


def _read_kind(kind: Kind, reading: _Reading) -> None:
    reading.entries[kind.name] = {}
    reading.names[kind.name] = set()
    for name in _names_in_folder(kind, reading):
        reading.names[kind.name].add(name)
        entry = _read_entry(kind, name, reading)
        if entry is not None:
            reading.entries[kind.name][name] = entry


def _names_in_folder(kind: Kind, reading: _Reading) -> Iterator[str]:
    """Names of entries by the names of their files; what cannot be an entry becomes a fault."""
    try:
        found = sorted(os.listdir(reading.root / kind.folder))  # noqa: PTH208 - names alone, twice as fast for 1,000
    except OSError as exc:
        if kind.required or not isinstance(exc, FileNotFoundError):
            problem = f"cannot be read ({os.strerror(exc.errno or 0).lower()})"
            remedy = f"make the folder, with one {kind.path_of('<name>')} for each {kind.name}"
            reading.fault(kind.folder, WHOLE_FILE, problem, remedy)
        return
    names = [name for entry in found if (name := _entry_name(kind, entry, reading))]
    if kind.required and not names:
        reading.fault(kind.folder, WHOLE_FILE, f"holds no {kind.name}", f"add {kind.path_of('<name>')}")
    yield from names


def _entry_name(kind: Kind, entry: str, reading: _Reading) -> str | None:
    if entry.startswith((".", "_")) or entry.endswith("~"):  # editors' and systems' own files
        return None
    if kind.inner:
        # Whatever is no plain file may be meant as the entry's folder: a link in a circle is told, not skipped.
        name = None if os.path.isfile(reading.root / kind.folder / entry) else entry  # noqa: PTH113 - never raises
    else:
        name = _stem(kind, entry, reading)
    if name is not None and not _FILE_NAME.fullmatch(name):
        remedy = "use letters, digits, dots and hyphens, at most 64"
        reading.fault(_shown(f"{kind.folder}/{entry}"), WHOLE_FILE, "has a name that no entry can have", remedy)
        return None
    return name


def _stem(kind: Kind, entry: str, reading: _Reading) -> str | None:
    stem, suffix = os.path.splitext(entry)  # noqa: PTH122 - a name, not a path
    if suffix.lower() in {".yml", ".yaml", ".json"} and suffix != ".yaml":
        remedy = f"rename it to {_shown(stem)}.yaml"
        reading.fault(_shown(f"{kind.folder}/{entry}"), WHOLE_FILE, "would be left unread", remedy)
        return None
    return stem if suffix == ".yaml" else None


def _read_entry(kind: Kind, name: str, reading: _Reading) -> Model | None:
    file = _shown(kind.path_of(name))
    try:
        document = read_document(reading.root / kind.path_of(name))
    except Unreadable as exc:
        line = exc.flaw.line
        reading.fault(file, f"line {line}" if line else WHOLE_FILE, exc.flaw.problem, exc.flaw.remedy, line)
        return None
    reading.lines[file] = {field_path(place): line for place, line in document.lines.items()}
    flaws = list(document.flaws)
    entry = None
    try:
        entry = kind.model.model_validate(document.data)
    except ValidationError as exc:
        flaws += [_flaw(kind, error, document) for error in exc.errors(include_url=False)]
    if not any(flaw.place == ("name",) for flaw in flaws):
        flaws += _misnamed(kind, name, document)
    for flaw in flaws[:MAX_LISTED]:
        reading.fault(file, field_path(flaw.place), flaw.problem, flaw.remedy, flaw.line)
    if len(flaws) > MAX_LISTED:
        reading.fault(file, WHOLE_FILE, f"has {len(flaws) - MAX_LISTED} more faults", "correct the first ones")
    return entry if not flaws else None


def _flaw(kind: Kind, error: Any, document: Document) -> Flaw:
    problem, remedy = explain(kind.model, error)
    place: Place = tuple(segment for segment in error["loc"] if segment != "[key]")
    return Flaw(_line_of(place, document.lines), problem, remedy, place)


def _misnamed(kind: Kind, name: str, document: Document) -> list[Flaw]:
    written = document.data.get("name")
    if written == name or not isinstance(written, str):
        return []
    source = "folder" if kind.inner else "file"
    remedy = f"give both the same name ({_shown(name)}, as the {source} has it, or rename the {source})"
    return [Flaw(document.lines[("name",)], f"differs from the name of its {source}", remedy, ("name",))]


def _line_of(place: Place, lines: dict[Place, int]) -> int | None:
    """The line of the field, or of the nearest field around it that was written."""
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place)


def _located(fault: Fault, lines: dict[str, int]) -> Fault:
    where = fault.field
    while where and where not in lines:
        where = where.rpartition(".")[0]
    return replace(fault, line=lines.get(where))


def _shown(name: str) -> str:
    """File names come from outside too: no bytes that a terminal would obey or cannot print."""
    return "".join(char if char.isprintable() else "?" for char in name)
