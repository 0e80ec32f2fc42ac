"""Guards where masked data may go, whose key it is, and that a mistake stops before any server is asked."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dr_platform import masked_staging
from dr_platform.backups.redis_ import HEARTBEAT_KEY
from dr_platform.backups.source import HEARTBEAT
from dr_platform.cli.app import app
from dr_platform.databases import cql, mongodb
from dr_platform.databases.postgresql_batches import PROGRESS
from dr_platform.databases.postgresql_steps import HISTORY, REVISION
from dr_platform.errors import PlatformError
from dr_platform.masked_staging import LiveSource, NoRestoredSource, NotAnEnvironmentForMasked, masking_key
from dr_platform.masking.classification import read_classifications
from dr_platform.masking.port import Gate
from dr_platform.masking.recipe import Profile
from dr_platform.masking.run import Report
from dr_platform.platform import Platform
from tests.catalogs import SHIPPED

pytestmark = pytest.mark.unit


def platform(environment: str, state: Path, runtime: str | None = "local") -> Platform:
    return Platform.open(environment, catalog=SHIPPED, state=state, runtime=runtime)


def test_the_key_of_an_expert_profile_stays_and_that_of_safe_harbor_never_does(tmp_path: Path) -> None:
    production = platform("production", tmp_path)
    first = masking_key(production, "staging", Profile.EXPERT_DETERMINATION)
    assert first == masking_key(platform("production", tmp_path), "staging", Profile.EXPERT_DETERMINATION)
    assert first != masking_key(production, "integration", Profile.EXPERT_DETERMINATION)
    assert len(first) == 32
    before = production.secrets.names()
    keys = {masking_key(production, "staging", Profile.SAFE_HARBOR) for _ in range(3)}
    assert len(keys) == 3
    assert production.secrets.names() == before


@pytest.mark.parametrize(("source", "into"), [("staging", "staging"), ("staging", "production")])
def test_masked_data_goes_neither_back_nor_where_patients_are(source: str, into: str, tmp_path: Path) -> None:
    opened = platform(source, tmp_path)
    with pytest.raises(NotAnEnvironmentForMasked):
        masked_staging.plan(opened, LiveSource(opened), platform(into, tmp_path), Profile.SAFE_HARBOR)


def test_a_live_database_of_patients_is_never_read(tmp_path: Path) -> None:
    production = platform("production", tmp_path, runtime=None)
    source = LiveSource(production)
    assert not source.expendable
    with pytest.raises(NoRestoredSource, match="patients"):
        source.access()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--runtime", "local", "mask", "--from", "production-backup", "--into", "staging"], NoRestoredSource),
        (["mask", "--from", "live", "--into", "nowhere"], PlatformError),
        (["mask", "--from", "live", "--into", "production", "--plan"], NotAnEnvironmentForMasked),
    ],
)
def test_a_mistake_ends_before_anything_is_asked(words: list[str], told: type[PlatformError], tmp_path: Path) -> None:
    ended = CliRunner().invoke(app, ["--catalog", str(SHIPPED), "--state", str(tmp_path), *words])
    assert isinstance(ended.exception, told)
    assert ended.exception.exit_code == 2


def test_what_the_platform_itself_keeps_in_a_database_never_stops_a_run() -> None:
    """A backup leaves its heartbeat and a migration its books in every database."""
    known = read_classifications(SHIPPED)
    own = {
        "postgres": {f"public.{name}" for name in (HISTORY, REVISION, PROGRESS, "drp_backup_heartbeat")},
        "mongodb": {HISTORY, HEARTBEAT, mongodb.LOCK},
        "scylladb": {HISTORY, HEARTBEAT, cql.LOCK},
        "redis": {HEARTBEAT_KEY, "drp:schema:*"},
    }
    assert {name: tables - known[name].tables.keys() for name, tables in own.items()} == {name: set() for name in own}
    assert not any(known[name].tables[table].is_masked for name, tables in own.items() for table in tables)


def report(**databases: str) -> Report:
    gates = (Gate("postgres: row counts", bool(databases), ""),)
    return Report("mask-1", Profile.SAFE_HARBOR, "k", {}, gates, databases, 1.0)


def test_a_passed_run_says_how_to_switch_and_the_catalog_takes_what_it_says(tmp_path: Path) -> None:
    staging = platform("staging", tmp_path, runtime=None)
    made = {"postgres": "therapy_mask_1", "mongodb": "sessions_mask_1", "scylladb": "talks_mask_1", "redis": "15"}
    steps = masked_staging.switch(staging, report(**made))
    assert steps[:2] == (
        "run `drp --env staging switch postgres --to therapy_mask_1`",
        "run `drp --env staging switch redis --to 15`",
    )
    assert [step for step in steps if "right to read" in step] == [
        "give the application's login of mongodb the right to read and write sessions_mask_1"
    ]
    (entry,) = re.findall(r"`scylladb: (\S+)`", " ".join(steps))
    catalog = tmp_path / "catalog"
    shutil.copytree(SHIPPED, catalog)
    file = catalog / "environments" / "staging.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("scylladb: scylladb:9042", f"scylladb: {entry}"), "utf-8")
    switched = Platform.open("staging", catalog=catalog, state=tmp_path)
    there = switched.endpoint(switched.catalog.databases["scylladb"])
    assert (there.host, there.port, there.database) == ("scylladb", 9042, "talks_mask_1")
    before = staging.endpoint(staging.catalog.databases["scylladb"])
    assert before.database == staging.catalog.databases["scylladb"].database


def test_there_is_nothing_to_switch_to_where_a_gate_failed_or_servers_are_of_this_machine(tmp_path: Path) -> None:
    staging = platform("staging", tmp_path, runtime=None)
    assert masked_staging.switch(staging, report()) == ()
    one_key_space = staging.catalog.databases["redis"].database
    assert masked_staging.switch(staging, report(redis=one_key_space)) == ()
    switched, told, seeded = masked_staging.switch(platform("staging", tmp_path), report(mongodb="m", postgres="p"))
    assert switched == "run `drp --env staging --runtime local switch postgres --to p`"
    assert told.startswith("mongodb: nothing")
    assert "materialize knowledge" in seeded
