"""The catalog for other eyes: JSON Schema for editors, plain data for ``drp catalog show``.

Here: translations of models and of a loaded catalog into plain data. Not here: printing it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from dr_platform.catalog.catalog import Catalog
from dr_platform.catalog.faults import choose_among
from dr_platform.catalog.load import KINDS, Kind
from dr_platform.catalog.models import Model
from dr_platform.errors import ExitCode, PlatformError


class UnknownEntry(PlatformError):
    """Nothing of the catalog has this name."""

    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, remedy: str) -> None:
        super().__init__(name, remedy)
        self.what = f"{name}: the catalog has nothing of this name"
        self.untouched = "everything; only the catalog was read"
        self.next_step = remedy


class _WithWrittenDefaults(GenerateJsonSchema):
    """Shows defaults of quantities as a person writes them: ``30 s``, not 30.0."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        found = super().default_schema(schema)
        written: dict[str, Any] = dict(cast("dict[str, Any]", schema["schema"]).get("serialization", {}))
        if isinstance(found.get("default"), float) and written.get("type") == "function-plain":
            found["default"] = written["function"](found["default"])
        return found


def kinds() -> tuple[str, ...]:
    """Kinds of catalog files, such as ``service``."""
    return tuple(kind.name for kind in KINDS)


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one kind of file. Rules between files are not in it."""
    found = next((k for k in KINDS if k.name == kind), None)
    if found is None:
        raise UnknownEntry(kind, choose_among(kind, kinds()))
    schema = found.model.model_json_schema(schema_generator=_WithWrittenDefaults)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"{found.path_of('<name>')}"}
    return head | {key: value for key, value in schema.items() if key != "title"}


def schema_documents() -> dict[str, str]:
    """Path to text of one schema file per kind, such as ``service.schema.json``."""
    return {f"{kind}.schema.json": json.dumps(json_schema(kind), indent=2) + "\n" for kind in kinds()}


@dataclass(frozen=True)
class FieldLine:
    """One field a file may have: ``path`` is dotted, ``<name>`` stands for a free name in it."""

    path: str
    required: bool
    meaning: str


def field_reference(kind: str) -> tuple[FieldLine, ...]:
    """Every field of one kind of file, in the order of its model; nested fields follow their parent."""
    schema = json_schema(kind)
    return tuple(_field_lines(schema, schema.get("$defs", {}), ""))


def _field_lines(schema: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str) -> Iterator[FieldLine]:
    for name, described in schema.get("properties", {}).items():
        path = f"{prefix}{name}"
        yield FieldLine(path, name in schema.get("required", ()), described["description"])
        for inner, step in _inner_schemas(described):
            if "$ref" in inner:
                yield from _field_lines(definitions[inner["$ref"].rpartition("/")[2]], definitions, f"{path}{step}.")


def _inner_schemas(described: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """What a field may hold: itself, its alternatives, and the values of a mapping with free names."""
    for option in (described, *described.get("anyOf", ())):
        yield option, ""
        for valued in (option.get("additionalProperties"), *option.get("patternProperties", {}).values()):
            if isinstance(valued, dict):
                yield valued, ".<name>"


def show(catalog: Catalog, name: str | None = None) -> dict[str, Any]:
    """Plain data with all defaults filled in: by folder and name, or what has this name, by its kind.

    Raises ``UnknownEntry``.
    """
    entries = _entries(catalog)
    if name is None:
        return {kind.folder: {key: _plain(entry) for key, entry in entries[kind].items()} for kind in KINDS}
    found = {kind.name: _plain(entries[kind][name]) for kind in KINDS if name in entries[kind]}
    if not found:
        raise UnknownEntry(name, choose_among(name, {key for by_name in entries.values() for key in by_name}))
    return found


def _entries(catalog: Catalog) -> dict[Kind, Mapping[str, Model]]:
    by_name: dict[str, Mapping[str, Model]] = {
        "service": catalog.services,
        "database": catalog.databases,
        "environment": catalog.environments,
        "embedder": catalog.embedders,
        "knowledge": catalog.knowledge,
        "release": catalog.releases,
        "secret": catalog.secret_categories,
    }
    return {kind: by_name[kind.name] for kind in KINDS}


def _plain(entry: Model) -> dict[str, Any]:
    return entry.model_dump(mode="json")
