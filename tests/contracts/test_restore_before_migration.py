"""A database comes back as it was right before a migration, from its backup and its archived log."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from dr_platform.backup_desk import BackupDesk, PointBeforeBackup
from dr_platform.backup_store import backup_age, newest_backup
from dr_platform.backups.port import Kind
from dr_platform.catalog import Engine
from dr_platform.cli import backup_verbs
from dr_platform.errors import PlatformError
from dr_platform.log_recovery import NoLog
from dr_platform.migrations.gates import NoFreshBackup
from dr_platform.platform import Platform
from dr_platform.schema_changes import bring_forward
from dr_platform.schema_record import POINT, NoPoint, points
from tests.catalogs import shipped_copy
from tests.contracts.embedded_servers import Beside, running
from tests.opened import Opened

pytestmark = pytest.mark.contract

NAME = "postgres"


@dataclass(frozen=True)
class Place:
    desk: BackupDesk
    migrations: Path

    @property
    def platform(self) -> Platform:
        return self.desk.platform

    def write(self, name: str, text: str) -> None:
        (self.migrations / f"{name}.sql").write_text(text)

    def connected(self, database: str | None = None) -> psycopg.Connection[Any]:
        access = self.desk.log_of(NAME).engine.access
        return (access.to(database) if database else access).connect({})

    def drp(self, *words: str) -> Result:
        app = typer.Typer()
        backup_verbs.register(app)
        return CliRunner().invoke(app, list(words), obj=Opened(self.platform))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    catalog = shipped_copy(tmp_path_factory.mktemp("catalog"))
    migrations = catalog / "databases" / NAME / "migrations"
    migrations.mkdir(exist_ok=True)
    with running(Engine.POSTGRESQL, NAME, ready_s=120) as server:
        platform = Beside.of({NAME: server}, catalog)
        found = Place(BackupDesk(platform, workers=0), migrations)
        found.write("V1__visits", "CREATE TABLE public.visits (id bigint PRIMARY KEY);")
        bring_forward(platform, NAME)
        yield found


def test_the_state_before_a_named_migration_comes_back_with_what_was_written_until_then(place: Place) -> None:
    assert list(place.platform.evidence.entries(kind=POINT)) == [], "an empty schema has nothing to lose"
    full = place.desk.take(NAME, Kind.PHYSICAL_FULL, "before the release", "somebody")
    with place.connected() as connection:
        connection.execute("INSERT INTO public.visits SELECT generate_series(1, 500)")
    place.write("V2__note", "ALTER TABLE public.visits ADD COLUMN note text;")
    place.write("V3__forget", "-- phase: contract\nDROP TABLE public.visits;")
    told: list[str] = []
    bring_forward(place.platform, NAME, told.append)
    known = points(place.platform.evidence.entries(kind=POINT, subject=f"schema/{NAME}"))
    assert list(known) == ["2", "3"]
    assert all(any(point.name in line for line in told) for point in known.values())
    assert known["2"].name.startswith("before-postgres-2-")

    words = ("restore", NAME, "--backup", full.id, "--into", "as_before", "--before", "2.0")
    shown = place.drp(*words, "--json")
    assert (shown.exit_code, json.loads(shown.stdout)["moment"]) == (2, known["2"].name)
    done = place.drp(*words, "--confirm", full.id)
    assert done.exit_code == 0, (done.output, done.exception)
    with place.connected("as_before") as connection:
        assert connection.execute("SELECT count(*) FROM public.visits").fetchone() == (500,)
        assert connection.execute("SELECT array_agg(version) FROM drp_schema_history").fetchone() == (["1"],)
    with place.connected() as connection:
        assert connection.execute("SELECT to_regclass('public.visits')").fetchone() == (None,)
        connection.autocommit = True
        connection.execute("DROP DATABASE as_before WITH (FORCE)")


def test_a_backup_from_after_the_migration_is_refused_with_the_one_that_fits(place: Place) -> None:
    older = place.desk.records(NAME)[-1]
    later = place.desk.take(NAME, Kind.PHYSICAL_FULL, "after the release", "somebody")
    with pytest.raises(PointBeforeBackup) as refused:
        place.desk.point_before(NAME, "2", later.id)
    assert refused.value.next_step.endswith(f"--backup {older.id}")


@pytest.mark.parametrize("version", ["7", "newest", "1"])
def test_a_version_without_a_point_is_refused_with_those_that_have_one(place: Place, version: str) -> None:
    with pytest.raises(NoPoint, match="before 2, 3"):
        place.desk.point_before(NAME, version, place.desk.records(NAME)[0].id)


def test_a_time_a_point_and_a_version_are_not_named_together(place: Place) -> None:
    found = place.drp("restore", NAME, "--backup", "b", "--into", "x", "--before", "2", "--point", "p")
    assert found.exit_code == 2
    assert "one of them" in " ".join(re.findall(r"\w+", found.output))


def test_only_what_has_a_log_is_brought_to_a_point(place: Place) -> None:
    with pytest.raises(NoLog):
        place.desk.plan_restore("redis", "any", "7", "before-redis-2")


def test_where_the_environment_asks_the_newest_verified_backup_decides_about_a_migration(place: Place) -> None:
    platform = place.platform
    asking = platform.environment.model_copy(update={"backup_before_change": "always"})
    own, platform.environment = platform.environment, asking
    place.write("V4__later", "CREATE TABLE public.later (id bigint PRIMARY KEY);")
    try:
        taken = newest_backup(platform, NAME)
        assert taken == place.desk.listing(NAME).records[0].created_at
        assert backup_age(platform, NAME) == timedelta(hours=24), "what backup.yaml promises"
        with _ahead(platform, timedelta(hours=25)), pytest.raises(NoFreshBackup, match=r"25\.0 h old"):
            bring_forward(platform, NAME)
        assert [record.version for record in bring_forward(platform, NAME).records] == ["4"]
        assert newest_backup(platform, "redis") is None
    finally:
        platform.environment = own


@contextlib.contextmanager
def _ahead(platform: Platform, by: timedelta) -> Iterator[None]:
    own = platform.clock

    class Ahead(type(own)):
        def now(self) -> Any:
            return own.now() + by

    platform.clock = Ahead()
    try:
        yield
    finally:
        platform.clock = own


def test_where_the_store_does_not_answer_nobody_says_that_there_is_no_backup(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "local").write_text("a file where the store's folder should be")
    monkeypatch.setenv("DRP_BACKUP_STORE", tmp_path.as_uri())
    with pytest.raises(PlatformError):
        newest_backup(place.platform, NAME)
