"""A disaster with real servers: the secret store and the servers are gone, bucket and escrow identity are left."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer
from typer.testing import CliRunner

from dr_platform.backup_desk import BackupDesk, identity_file
from dr_platform.backups.catalogue import State as Proved
from dr_platform.backups.drill import State
from dr_platform.backups.port import Kind
from dr_platform.catalog import Engine
from dr_platform.cli import drill_verbs
from dr_platform.databases.access import read_login
from dr_platform.databases.redis_ import RedisDatabase
from dr_platform.drill import DRILLED, DisasterDrill
from dr_platform.platform import Platform
from dr_platform.resources import DRILL_JOB, DRILL_OP
from tests.contracts.embedded_servers import Beside, Running, running
from tests.opened import Opened

pytestmark = pytest.mark.contract

NAMES = ("postgres", "redis")


class NothingLeft:
    """In the place of the secret store, which the disaster took."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the drill asked the secret store for {name}")


@pytest.fixture(scope="module")
def lost() -> Iterator[Platform]:
    """Both databases have a verified backup; then everything but the bucket and the identity goes."""
    with contextlib.ExitStack() as state:
        with contextlib.ExitStack() as alive:
            # The servers end before their state does: the bucket lies in it.
            servers = {
                "postgres": state.enter_context(running(Engine.POSTGRESQL, "postgres", ready_s=120)),
                "redis": alive.enter_context(running(Engine.REDIS, "redis")),
            }
            secrets = servers["postgres"].secrets
            secrets.ensure("databases/redis/admin", lambda: vars(_admin(servers["redis"])), category="databases")
            platform = Beside.of(servers)
            _fill(BackupDesk(platform, workers=0), servers["redis"])
        servers["postgres"].process.stop()
        platform.servers = {}
        vars(platform)["secrets"] = NothingLeft()
        yield platform


def _admin(server: Running) -> Any:
    return read_login("redis", "admin", server.secrets)


def _fill(desk: BackupDesk, server: Running) -> None:
    redis = RedisDatabase(server.database, server.endpoint, _admin(server))
    client: Any = redis.client
    client.mset({f"key {number}": "x" * number for number in range(300)})
    redis.close()
    with desk.log_of("postgres").engine.access.connect({}) as connection:
        connection.execute("CREATE TABLE public.notes AS SELECT i AS id, md5(i::text) FROM generate_series(1, 5000) i")
    for name, kind in (("postgres", Kind.PHYSICAL_FULL), ("redis", Kind.RDB)):
        assert desk.take(name, kind, "before the disaster", "somebody").state is Proved.VERIFIED
    desk.log_of("postgres").flush()


def test_all_of_them_are_back_equal_and_in_time_and_nothing_is_left_of_it(lost: Platform) -> None:
    told: list[str] = []
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    found = DisasterDrill(lost, identity_file(lost), told.append).run("somebody", NAMES)
    assert [(each.database, each.attempt.state, each.passed) for each in found.returned] == [
        ("postgres", State.EQUAL, True),
        ("redis", State.EQUAL, True),
    ], found.markdown()
    postgres, redis = found.returned
    assert postgres.attempt.rows >= 5000
    assert "fingerprints_equal" not in postgres.attempt.reason
    assert 0 < postgres.attempt.restore_s + redis.attempt.restore_s == found.rto_s <= found.seconds
    assert postgres.log_age_s is not None
    assert postgres.log_age_s < (postgres.backup_age_s or 0), "the archived log has what is newer than the backup"
    assert redis.log_age_s is None
    assert not (lost.state.root / "drill" / "machine").exists()
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before
    (entry,) = lost.evidence.entries(kind=DRILLED)
    assert entry.body["passed"] is True


def test_the_command_says_what_came_back_and_ends_well_only_then(lost: Platform, tmp_path: Path) -> None:
    app = typer.Typer()
    drill_verbs.register(app)
    done = CliRunner().invoke(app, ["redis", "--json"], obj=Opened(lost))
    assert done.exit_code == 0, (done.output, done.exception)
    shown = json.loads(done.stdout)
    assert (shown["passed"], shown["databases"][0]["database"]) == (True, "redis")
    other = CliRunner().invoke(app, ["redis", "--signer", "ab" * 32], obj=Opened(lost))
    assert (other.exit_code, "not ours" in other.output) == (1, True)
    missing = CliRunner().invoke(app, ["--identity", str(tmp_path / "none")], obj=Opened(lost))
    assert missing.exit_code != 0


def test_the_job_shows_the_report_as_markdown_with_its_numbers(lost: Platform) -> None:
    from dr_platform.definitions import build_definitions

    job = build_definitions(lost).resolve_job_def(DRILL_JOB)
    done = job.execute_in_process(run_config={"ops": {DRILL_OP: {"config": {"databases": ["redis"]}}}})
    assert done.success
    (output,) = (e.step_output_data for e in done.all_events if e.is_successful_output)
    assert output is not None
    assert "| 3 | redis |" in str(output.metadata["report"].value)
    assert isinstance(output.metadata["redis_rto_s"].value, float)


def test_the_schedule_rehearses_all_of_them_once_a_month(lost: Platform) -> None:
    from dr_platform.definitions import build_definitions

    (schedule,) = (s for s in build_definitions(lost).schedules or () if s.name == DRILL_JOB)
    assert getattr(schedule, "cron_schedule", None) == "30 6 1 * *"
