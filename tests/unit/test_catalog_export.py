"""Schemas for editors and plain data for ``drp catalog show`` agree with the models."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from dr_platform.catalog import load_catalog
from dr_platform.catalog.export import UnknownEntry, json_schema, kinds, schema_documents, show
from dr_platform.catalog.fields import IN_WORDS
from dr_platform.catalog.load import KINDS
from tests.catalogs import SHIPPED

pytestmark = pytest.mark.unit


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for inner in schema.values():
            yield from nodes(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from nodes(inner)


@pytest.mark.parametrize("kind", kinds())
def test_every_field_has_a_description(kind: str) -> None:
    schema = json_schema(kind)
    tables = [schema["properties"], *(d["properties"] for d in schema.get("$defs", {}).values() if "properties" in d)]
    undescribed = [name for table in tables for name, field in table.items() if not field.get("description")]
    assert undescribed == []


@pytest.mark.parametrize("kind", kinds())
def test_unknown_fields_are_refused_by_the_schema_too(kind: str) -> None:
    schema = json_schema(kind)
    assert schema["additionalProperties"] is False
    assert all(d["additionalProperties"] is False for d in schema.get("$defs", {}).values() if d["type"] == "object")


@pytest.mark.parametrize("kind", kinds())
def test_defaults_of_quantities_are_shown_with_their_unit(kind: str) -> None:
    wrong = [n for n in nodes(json_schema(kind)) if n.get("type") == "string" and isinstance(n.get("default"), float)]
    assert wrong == []


@pytest.mark.parametrize("kind", kinds())
def test_every_pattern_has_words(kind: str) -> None:
    patterns = {
        n["pattern"]
        for n in nodes(json_schema(kind))
        if isinstance(n.get("pattern"), str) and n.get("type") == "string"
    }
    of_quantities = {n["pattern"] for n in nodes(json_schema(kind)) if "examples" in n and n.get("type") == "string"}
    assert patterns - of_quantities - IN_WORDS.keys() == set()


def test_every_pattern_in_words_is_used() -> None:
    used = {n["pattern"] for kind in kinds() for n in nodes(json_schema(kind)) if isinstance(n.get("pattern"), str)}
    keyed = {p for kind in kinds() for n in nodes(json_schema(kind)) for p in n.get("patternProperties", {})}
    named = {
        n["propertyNames"]["pattern"]
        for k in kinds()
        for n in nodes(json_schema(k))
        if "pattern" in n.get("propertyNames", {})
    }
    assert IN_WORDS.keys() - used - keyed - named == set()


def test_the_schema_files_are_json_with_an_address_of_the_draft() -> None:
    documents = schema_documents()
    assert set(documents) == {f"{kind}.schema.json" for kind in kinds()}
    assert all(json.loads(text)["$schema"].endswith("2020-12/schema") for text in documents.values())


def test_what_is_shown_of_every_entry_is_a_valid_file_again() -> None:
    """Defaults filled in and units written out: nothing is lost or invented."""
    shown = show(load_catalog(SHIPPED))
    catalog = load_catalog(SHIPPED)
    by_folder = {
        "services": catalog.services,
        "databases": catalog.databases,
        "environments": catalog.environments,
        "embedders": catalog.embedders,
        "knowledge": catalog.knowledge,
        "releases": catalog.releases,
        "secrets": catalog.secret_categories,
    }
    for kind in KINDS:
        again = {name: kind.model.model_validate(data) for name, data in shown[kind.folder].items()}
        assert again == by_folder[kind.folder]


def test_one_entry_is_shown_by_its_kind() -> None:
    shown = show(load_catalog(SHIPPED), "postgres")
    assert list(shown) == ["database"]
    assert shown["database"]["latency"] == "10 ms"


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownEntry, match=re.escape("did you mean postgres?")):
        show(load_catalog(SHIPPED), "postgress")


def test_an_unknown_kind_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownEntry, match=re.escape("did you mean service?")):
        json_schema("services")
