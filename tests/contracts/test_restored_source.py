"""Masking from a backup: all four databases come back into servers of their own, and production is not asked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dr_platform.backup_desk import BackupDesk
from dr_platform.backups.catalogue import State
from dr_platform.catalog import Engine
from dr_platform.databases.connect import connect_database
from dr_platform.databases.schema import migrate
from dr_platform.masked_staging import EVIDENCE, NoRestoredSource, mask_into, plan
from dr_platform.masking import postgresql as pg
from dr_platform.masking.port import Access
from dr_platform.masking.recipe import Profile
from dr_platform.masking.seals import KeyRing
from dr_platform.platform import load_catalog
from dr_platform.restored_source import environment_named, restored
from dr_platform.secrets.embedded import EmbeddedSecretStore
from tests.catalogs import SHIPPED
from tests.contracts.embedded_servers import Beside, Running, running
from tests.contracts.test_masking_all import (
    NAMES,
    fill_cql,
    fill_mongo,
    fill_postgres,
    fill_redis,
    of_server,
    steps,
)

pytestmark = pytest.mark.contract

ENGINES = {
    "postgres": Engine.POSTGRESQL,
    "mongodb": Engine.MONGODB,
    "redis": Engine.REDIS,
    "scylladb": Engine.SCYLLADB,
}


@dataclass(frozen=True)
class Pair:
    production: Beside
    staging: Beside
    live: Access


def opened(environment: str, servers: dict[str, Running], folder: Path) -> Beside:
    secrets = EmbeddedSecretStore(folder / environment)
    for server in servers.values():
        for name in server.secrets.names():
            fields = server.secrets.read(name)
            assert fields is not None
            secrets.ensure(name, lambda fields=fields: dict(fields), category="databases")
    return Beside.of(servers, environment=environment, secrets=secrets)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("secrets")
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(running(engine, name, 240)) for name, engine in ENGINES.items()}
        another = {**servers, "redis": stack.enter_context(running(Engine.REDIS, "redis", 60))}
        production, staging = opened("production", servers, folder), opened("staging", another, folder)
        cipher = KeyRing.of(production.secrets).cipher()
        live = of_server(servers["postgres"], servers["postgres"].endpoint.database)
        fills: dict[str, Any] = {"mongodb": fill_mongo, "redis": fill_redis, "scylladb": fill_cql}
        for name, server in servers.items():
            with contextlib.closing(
                connect_database(server.database, server.endpoint, server.secrets, "admin")
            ) as database:
                migrate(database, steps(name))
                if name in fills:
                    fills[name](database, cipher)
        fill_postgres(live, cipher)
        desk = BackupDesk(production, workers=0)
        for name in ENGINES:
            assert desk.take(name, None, "for staging", "somebody").state is State.VERIFIED
        production.servers = {}  # whoever asks for one of them from now on fails
        yield Pair(production, staging, live)


def test_production_is_masked_into_staging_through_its_backups_alone(pair: Pair) -> None:
    with pg.connect(pair.live) as connection:
        before = connection.execute("SELECT count(*), max(updated_at) FROM identity.accounts").fetchone()
    with restored(pair.production, None) as source:
        assert set(source.access()) == set(ENGINES)
        assert plan(pair.production, source, pair.staging, Profile.EXPERT_DETERMINATION)["into"] == "staging"
        report = mask_into(pair.production, source, pair.staging, Profile.EXPERT_DETERMINATION)
    assert {gate.name: gate.detail for gate in report.gates if gate.passed is not True} == {}
    assert report.passed
    assert set(report.databases) == set(ENGINES)
    root = pair.production.state.root
    left = [path for folder in ("scratch", "backup-work") for path in (root / folder).iterdir()]
    assert left == [], "a copy is still there"
    with pg.connect(pair.live) as connection:
        after = connection.execute("SELECT count(*), max(updated_at) FROM identity.accounts").fetchone()
        assert after == before, "a canary was planted into the live database"
    with pg.connect(pair.live, report.databases["postgres"]) as masked:
        row = masked.execute("SELECT count(*) FROM identity.accounts").fetchone()
    assert row is not None
    assert row[0] >= len(NAMES)
    begun, ended = pair.production.evidence.entries(kind=EVIDENCE)
    assert begun.subject == ended.subject == "environment:staging"
    ids = {record.id for record in BackupDesk(pair.production).records()}
    assert set(str(begun.body["source"]).split(", ")) == ids


def test_one_backup_is_brought_back_alone(pair: Pair) -> None:
    (record,) = BackupDesk(pair.production).records("redis")
    with restored(pair.production, record.id) as source:
        assert (source.name, set(source.access())) == (record.id, {"redis"})


def test_what_is_not_there_is_not_brought_back(pair: Pair) -> None:
    with pytest.raises(NoRestoredSource, match="no such backup"), restored(pair.production, "nothing"):
        pytest.fail("something was brought back")


def test_the_word_for_a_source_names_an_environment_or_a_backup() -> None:
    catalog = load_catalog(SHIPPED)
    assert environment_named(catalog, "production-backup") == "production"
    assert environment_named(catalog, "redis-20261126T012431Z-f66dfp06") is None
    assert environment_named(catalog, "nowhere-backup") is None
