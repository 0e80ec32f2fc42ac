"""Guards that masking opens a field at the place where synthetic data, like the services, has sealed it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dr_platform.backups.postgresql.facts import HEARTBEAT as POSTGRES_HEARTBEAT
from dr_platform.backups.redis_ import HEARTBEAT_KEY
from dr_platform.backups.source import HEARTBEAT
from dr_platform.clock import ManualClock
from dr_platform.databases.postgresql_batches import PROGRESS
from dr_platform.databases.postgresql_steps import HISTORY, REVISION
from dr_platform.masking.classification import Seal, read_classifications
from dr_platform.masking.seals import place_of
from dr_platform.reference_service.cipher import FieldCipher
from dr_platform.secrets.embedded import EmbeddedSecretStore
from dr_platform.synthetic.block import clinicians, patients
from dr_platform.synthetic.loading.mongodb import MongoLoader
from dr_platform.synthetic.loading.postgresql import TABLES
from dr_platform.synthetic.plan import Plan
from dr_platform.synthetic.sealing import Sealer, read_keys
from tests.catalogs import SHIPPED

pytestmark = pytest.mark.unit

PLAN = Plan(seed=5, scale=0.1)
KNOWN = read_classifications(SHIPPED)
DOCUMENT = Path(__file__).parents[2] / "docs" / "synthetic-data.md"
BY_SERVICES_ALONE = {"work.tasks.payload_ciphertext", "service_records.body"}
_CIPHERTEXT = b"\x01\x00\x00\x00"
"""How every sealed field begins: its format, and the first bytes of the key's version."""


class _Kept:
    """Collections that keep what is inserted."""

    def __init__(self) -> None:
        self.documents: list[tuple[str, dict[str, Any]]] = []

    def __getitem__(self, name: str) -> _Collection:
        return _Collection(name, self.documents)


class _Collection:
    def __init__(self, name: str, kept: list[tuple[str, dict[str, Any]]]) -> None:
        self._name, self._kept = name, kept

    def insert_many(self, documents: list[dict[str, Any]], ordered: bool) -> None:
        del ordered
        self._kept += [(self._name, document) for document in documents]


def rows(sealer: Sealer) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Database, table and row of everything that these two loaders would write."""
    kept: Any = _Kept()
    for block in (clinicians(PLAN, 0), patients(PLAN, 0), patients(PLAN, 1)):
        for table in TABLES:
            for row in table.rows(block, sealer):
                yield "postgres", table.name, dict(zip(table.columns, row, strict=True))
        MongoLoader("mongodb", kept, sealer).load(block)
    yield from (("mongodb", name, document) for name, document in kept.documents)


def test_every_field_that_synthetic_data_seals_opens_where_the_classification_says(tmp_path: Path) -> None:
    secrets, clock = EmbeddedSecretStore(tmp_path), ManualClock()
    cipher = FieldCipher(secrets, clock)
    opened: set[str] = set()
    for database, table, row in rows(Sealer(read_keys(secrets, clock))):
        columns = KNOWN[database].tables[table].columns
        for column, value in row.items():
            if isinstance(value, bytes) and value.startswith(_CIPHERTEXT) and not column.endswith("_index"):
                seal = columns[column].sealed
                assert seal is not None, f"{database}: {table}.{column} is sealed and not classified so"
                assert cipher.decrypt(value, place_of(seal, row))
                opened.add(f"{table}.{column}")
    classified = {
        f"{table}.{column}"
        for name in ("postgres", "mongodb")
        for table, described in KNOWN[name].tables.items()
        for column, facts in described.columns.items()
        if facts.sealed is not None
    }
    assert classified - opened <= BY_SERVICES_ALONE | {"identity.emergency_access.reason_ciphertext"}  # one in hundreds


def documented() -> dict[str, tuple[str, ...]]:
    """Columns of the page's table with table, field and row of their place."""
    found = {}
    _, _, below = DOCUMENT.read_text(encoding="utf-8").partition("| Column | Place: table, field, row |")
    section = below.partition("\n\n")[0]
    for line in section.splitlines()[2:]:
        columns, place = (cell.strip() for cell in line.strip("| ").split(" | "))
        named = re.findall(r"`([^`]+)`", columns)
        schema = named[0].rpartition(".")[0]
        for name in named:
            found[f"{schema}.{name}" if schema and "." not in name else name] = tuple(place.split(", "))
    return found


def _matches(seal: Seal, column: str, place: tuple[str, ...]) -> bool:
    table, field, row = (part.replace("`", "") for part in place)
    own, _, name = column.rpartition(".")
    table = {"collection": own, "<service>.records": "{service}.records"}.get(table, table)
    fields = {name} if field == "field" else set(field.split(" or "))
    return seal.table == table and seal.field in fields and seal.row == "{" + row.replace(" ", "_") + "}"


def test_the_documented_places_are_those_of_the_classification() -> None:
    pages = {column: place for column, place in documented().items() if not column.startswith("session:")}
    assert len(pages) >= 15
    columns = {
        f"{table}.{name}": column.sealed
        for known in KNOWN.values()
        for table, described in known.tables.items()
        for name, column in described.columns.items()
        if column.sealed is not None
    }
    short = {name.rpartition(" ")[2]: place for name, place in pages.items()}
    assert [name for name, place in short.items() if not _matches(columns[name], name, place)] == []


def test_what_the_platform_itself_keeps_in_a_database_is_classified_and_stays_behind() -> None:
    """Otherwise a run would stop at the first database that was ever migrated or backed up."""
    own = {
        "postgres": {*(f"public.{name}" for name in (HISTORY, REVISION, PROGRESS)), ".".join(POSTGRES_HEARTBEAT._obj)},
        "mongodb": {HISTORY, HEARTBEAT},
        "scylladb": {HISTORY, HEARTBEAT},
        "redis": {HEARTBEAT_KEY},
    }
    for database, tables in own.items():
        known = KNOWN[database].tables
        assert {name for name in tables if name not in known or known[name].is_masked} == set()
