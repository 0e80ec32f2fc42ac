"""PostgreSQL through the desk: kinds, parents, the archived log, and a moment brought back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dr_platform.backup_desk import BackupDesk
from dr_platform.backups.catalogue import State
from dr_platform.backups.port import Kind
from dr_platform.backups.postgresql import wal
from dr_platform.backups.restore import RestoreRefused
from dr_platform.catalog import Engine
from dr_platform.errors import PlatformError
from dr_platform.log_recovery import NoLog
from tests.contracts.embedded_servers import Beside, running

pytestmark = pytest.mark.contract

NAME = "postgres"


@pytest.fixture(scope="module")
def desk() -> Iterator[BackupDesk]:
    with running(Engine.POSTGRESQL, NAME) as server:
        yield BackupDesk(Beside.of({NAME: server}), workers=0)


def connected(desk: BackupDesk, database: str | None = None) -> psycopg.Connection[Any]:
    access = desk.log_of(NAME).engine.access
    return (access.to(database) if database else access).connect({})


def test_every_kind_is_verified_and_an_incremental_one_continues_the_full_one(desk: BackupDesk) -> None:
    with connected(desk) as connection:
        connection.execute("CREATE TABLE public.notes AS SELECT i AS id FROM generate_series(1, 1000) i")
    first = desk.take(NAME, Kind.PHYSICAL_INCREMENTAL, "nothing to continue yet", "somebody")
    assert (first.kind, first.state) == (Kind.PHYSICAL_FULL, State.VERIFIED)
    with connected(desk) as connection:
        connection.execute("INSERT INTO public.notes SELECT 1000 + i FROM generate_series(1, 10) i")
    second = desk.take(NAME, Kind.PHYSICAL_INCREMENTAL, "on demand", "somebody")
    assert (second.kind, second.state, second.parent) == (Kind.PHYSICAL_INCREMENTAL, State.VERIFIED, first.id)
    assert second.raw_bytes < first.raw_bytes / 2
    third = desk.take(NAME, Kind.LOGICAL, "on demand", "somebody")
    assert third.state is State.VERIFIED


def test_a_dropped_table_comes_back_as_of_the_moment_before(desk: BackupDesk, tmp_path: Path) -> None:
    full = desk.take(NAME, Kind.PHYSICAL_FULL, "on demand", "somebody")
    with connected(desk) as connection:
        connection.execute("CREATE TABLE public.precious AS SELECT i AS id FROM generate_series(1, 2000) i")
    with connected(desk) as connection:
        wal.mark(connection, "before-the-mistake")
    with connected(desk) as connection:
        connection.execute("DROP TABLE public.precious")
    plan = desk.plan_restore(NAME, full.id, "as_it_was", "before-the-mistake")
    assert any("before-the-mistake" in line for line in plan.lines())
    restored = desk.restore(plan, full.id, "somebody", "somebody dropped a table")
    assert {check.passed for check in restored.checks if check.name != "extensions"} == {None}
    with connected(desk, "as_it_was") as connection:
        assert connection.execute("SELECT count(*) FROM public.precious").fetchone() == (2000,)
    with connected(desk) as connection:
        assert connection.execute("SELECT to_regclass('public.precious')").fetchone() == (None,)
        connection.autocommit = True
        connection.execute("DROP DATABASE as_it_was WITH (FORCE)")


def test_only_physical_backups_and_only_of_postgresql_are_brought_to_a_moment(desk: BackupDesk) -> None:
    logical = desk.take(NAME, Kind.LOGICAL, "on demand", "somebody")
    plan = desk.plan_restore(NAME, logical.id, "never", "before-the-mistake")
    with pytest.raises(PlatformError, match="logical"):
        desk.restore(plan, logical.id, "somebody", "a drill")
    with pytest.raises(NoLog):
        desk.plan_restore("redis", logical.id, "7", "2026-11-26T10:00:00Z")
    with pytest.raises(RestoreRefused, match="is live"):
        desk.plan_restore(NAME, logical.id, desk.platform.catalog.databases[NAME].database)


def test_the_log_that_no_backup_needs_any_more_goes_and_the_rest_stays(desk: BackupDesk) -> None:
    desk.log_of(NAME).flush()
    position = desk.reader.manifest(NAME, desk.take(NAME, Kind.PHYSICAL_FULL, "", "somebody").id)[0].facts.position
    desk.log_of(NAME).flush()
    archive = desk.log_of(NAME)
    before = [found.segment for found in archive._archive(position["system_identifier"]).segments()]
    removed = archive.expire([position])
    after = [found.segment for found in archive._archive(position["system_identifier"]).segments()]
    assert 0 < removed == len(before) - len(after)
    assert after == before[removed:]
    assert after
    assert archive.expire([]) == 0
