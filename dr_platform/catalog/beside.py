"""Files that stand beside ``database.yaml`` and are read by whoever needs them, with the catalog's own care.

Here: from the files of one name to models, or to all their faults at once. Not here: what the files
mean; each has its model beside the code that acts on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from dr_platform.catalog.documents import Document, Flaw, Place, Unreadable, read_document
from dr_platform.catalog.explain import explain
from dr_platform.catalog.faults import WHOLE_FILE, CatalogError, Fault, field_path
from dr_platform.catalog.models import Model

M = TypeVar("M", bound=Model)


def read_beside(root: Path, file_name: str, model: type[M]) -> Mapping[str, M]:
    """``databases/<name>/<file_name>`` by name, sorted; a database without the file is left out. Raises
    ``CatalogError`` with the faults of all files."""
    found: dict[str, M] = {}
    faults: list[Fault] = []
    for path in sorted((root / "databases").glob(f"*/{file_name}")):
        entry = _read(path, f"databases/{path.parent.name}/{file_name}", model)
        if isinstance(entry, list):
            faults += entry
        else:
            found[path.parent.name] = entry
    if faults:
        raise CatalogError(tuple(faults))
    return found


def _read(path: Path, shown: str, model: type[M]) -> M | list[Fault]:
    try:
        document = read_document(path)
    except Unreadable as exc:
        line = exc.flaw.line
        return [Fault(shown, f"line {line}" if line else WHOLE_FILE, exc.flaw.problem, exc.flaw.remedy, line)]
    flaws = list(document.flaws)
    entry = None
    try:
        entry = model.model_validate(document.data)
    except ValidationError as exc:
        flaws += [_flaw(model, error, document) for error in exc.errors(include_url=False)]
    if entry is None or flaws:
        return [Fault(shown, field_path(flaw.place), flaw.problem, flaw.remedy, flaw.line) for flaw in flaws]
    return entry


def _flaw(model: type[Model], error: object, document: Document) -> Flaw:
    problem, remedy = explain(model, error)  # ty: ignore[invalid-argument-type]
    place: Place = tuple(s for s in error["loc"] if s != "[key]")  # ty: ignore[not-subscriptable]
    near = place
    while near and near not in document.lines:
        near = near[:-1]
    return Flaw(document.lines.get(near), problem, remedy, place)
