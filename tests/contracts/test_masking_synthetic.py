"""Guards that masking opens whatever synthetic data seals, leaves no invented person in it, and passes its gates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest

from dr_platform.catalog import DataClass
from dr_platform.clock import SystemClock
from dr_platform.databases.access import read_login
from dr_platform.databases.connect import connect_database
from dr_platform.databases.embedded import embedded_server
from dr_platform.databases.port import Endpoint
from dr_platform.databases.schema import read_steps
from dr_platform.masking import postgresql as pg
from dr_platform.masking.canaries import Canaries
from dr_platform.masking.classification import read_classifications
from dr_platform.masking.port import Access
from dr_platform.masking.recipe import Profile, Recipe
from dr_platform.masking.run import Order, Part, Report, mask
from dr_platform.masking.seals import KeyRing, place_of
from dr_platform.reference_service.cipher import make_key
from dr_platform.synthetic.block import clinician_blocks, clinicians, patients
from dr_platform.synthetic.load import load
from dr_platform.synthetic.people import Person
from dr_platform.synthetic.plan import Existing, Plan
from dr_platform.synthetic.worker import Server, Servers
from tests.catalogs import SHIPPED
from tests.reference_platform import databases, fleet

pytestmark = [pytest.mark.contract, pytest.mark.timeout(300)]

NAMES = ("postgres", "mongodb", "scylladb")
"""Redis holds open sessions of synthetic data alone, which masking drops."""
PLAN = Plan(seed=11, scale=0.02)
KNOWN = read_classifications(SHIPPED)
SEALING = KeyRing({1: make_key()})
RECIPE = Recipe(Profile.EXPERT_DETERMINATION, b"k" * 32, date(2026, 11, 26))


@dataclass(frozen=True)
class Masked:
    report: Report
    parts: dict[str, Part]

    def texts(self, name: str) -> Iterator[tuple[str, str]]:
        """Every sealed column of a table of staging, opened with its key: where it stands and what it says."""
        part, cipher = self.parts[name], SEALING.cipher()
        for table, row in _rows(part):
            for column, described in part.known.tables[table].columns.items():
                if described.sealed is not None and row.get(column) is not None:
                    yield f"{table}.{column}", cipher.decrypt(bytes(row[column]), place_of(described.sealed, row))


def _rows(part: Part) -> Iterator[tuple[str, dict[str, Any]]]:
    tables = [
        name
        for name, table in part.known.tables.items()
        if table.is_masked and any(c.sealed for c in table.columns.values())
    ]
    if part.target.name == "postgres":
        with pg.connect(part.target) as connection:
            for name in tables:
                cursor = connection.execute(f"SELECT * FROM {name}".encode())
                columns = [each.name for each in cursor.description or ()]
                yield from ((name, dict(zip(columns, row, strict=True))) for row in cursor)
        return
    from dr_platform.databases.cql import CqlDatabase
    from dr_platform.databases.mongodb import MongoDatabase

    target = part.target
    if target.name == "mongodb":
        with closing(MongoDatabase(target.database, target.endpoint, target.login)) as mongo:
            yield from ((name, document) for name in tables for document in mongo.schema[name].find({}))
    else:
        with closing(CqlDatabase(target.database, target.endpoint, target.login)) as cql:
            for name in tables:
                yield from ((name, row._asdict()) for row in cql.session.execute(f"SELECT * FROM {name}"))


@pytest.fixture(scope="module")
def masked() -> Iterator[Masked]:
    with fleet() as made, databases(made, NAMES):
        at = {
            name: Server(
                made.catalog.databases[name],
                embedded_server(made.catalog.databases[name], made.state, made.secrets).endpoint(),
            )
            for name in NAMES
        }
        servers = Servers(at["postgres"], (at["mongodb"], at["scylladb"]), made.secrets)
        load(PLAN, servers, "local", DataClass.SYNTHETIC, SystemClock(), existing=Existing.KEPT, processes=1)
        parts = {name: _part(server, made.secrets) for name, server in at.items()}
        order = Order(
            "mask-synthetic", RECIPE, KeyRing.of(made.secrets), SEALING, Canaries.made_from(b"synthetic data")
        )
        yield Masked(mask(list(parts.values()), order, SystemClock()), parts)


def _part(server: Server, secrets: Any) -> Part:
    name, there = server.database.name, server.endpoint
    login = read_login(name, "admin", secrets)
    with closing(connect_database(server.database, there, secrets, "admin")):
        source = Access(server.database, there, login)
    target = Access(server.database, Endpoint(there.host, there.port, f"{there.database}_masked"), login)
    return Part(source, target, KNOWN[name], read_steps(SHIPPED / "databases" / name / "migrations"))


def people() -> list[Person]:
    blocks = [clinicians(PLAN, number) for number in range(clinician_blocks(PLAN))]
    blocks += [patients(PLAN, number) for number in range(PLAN.blocks)]
    return [account.person for block in blocks for account in block.accounts]


def test_every_field_opens_no_canary_is_left_and_every_gate_passes(masked: Masked) -> None:
    report = masked.report
    assert {gate.name: gate.detail for gate in report.gates if gate.passed is not True} == {}
    assert [(name, one.name) for name, found in report.tables.items() for one in found if one.unopened] == []
    searched = {gate.name: gate.counts for gate in report.gates if gate.name.endswith("canaries")}
    assert set(searched) == {f"{name}: canaries" for name in NAMES}
    assert all(counts["planted"] and not counts["found"] for counts in searched.values())
    rows = {one.name: one.rows for found in report.tables.values() for one in found}
    for table in ("identity.accounts", "care_plans", "session_notes", "messages_by_conversation", "audit.events"):
        assert rows[table] > 20, table


@pytest.mark.parametrize("name", NAMES)
def test_staging_reads_what_is_sealed_and_in_it_nobody(masked: Masked, name: str) -> None:
    """Each person's mail address, telephone, record and social security number stand in texts of their own."""
    of_people = {part for p in people() for part in (p.email, p.phone, p.ssn, p.mrn)}
    places: dict[str, int] = {}
    left = []
    for place, text in masked.texts(name):
        places[place] = places.get(place, 0) + 1
        left += [place] if any(part in text for part in of_people) else []
    assert left == []
    sealed = {
        f"{table}.{column}"
        for table, described in KNOWN[name].tables.items()
        if described.is_masked
        for column, facts in described.columns.items()
        if facts.sealed is not None
    }
    # Services write the first two alone, and the third is one in hundreds.
    rare = {"work.tasks.payload_ciphertext", "service_records.body", "identity.emergency_access.reason_ciphertext"}
    assert sealed - set(places) <= rare
