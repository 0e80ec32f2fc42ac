"""What Dagster remembers, read and trimmed on its real store: PostgreSQL, configured as `drp up` configures it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy
from dagster._core.execution.api import create_execution_plan
from dagster._core.snap import snapshot_from_execution_plan
from dagster_postgres import PostgresEventLogStorage

from dr_platform.definitions import build_definitions
from dr_platform.health import looks
from dr_platform.infrastructure.orchestrator import write_configuration
from dr_platform.look import Look
from dr_platform.platform import Platform
from dr_platform.remediation import ROUTER, Trail, remediable
from dr_platform.remedy import Remedy
from dr_platform.resources import (
    REMEDIATION_JOB,
    TARGET_TAG,
    History,
    cheap,
    check_evaluation,
    conditions_of,
    escalation,
    purge_runs,
)
from dr_platform.retention import trim_events
from dr_platform.state import StateDirectory
from dr_platform.verdict import Verdict
from dr_platform.watch import due, name_of
from tests.catalogs import generated
from tests.postgres_server import PostgresServer, running_postgres

pytestmark = pytest.mark.contract

HOUR = timedelta(hours=1)
GOOD, BAD, BLIND = Verdict(True, "fine", {"latency_ms": 1.5}), Verdict(False, "0 of 1"), Verdict.unknown("dark")
TARGET = ("services", "service-0000")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    folder = tmp_path_factory.mktemp("catalog")
    return Platform.open("local", catalog=generated(folder, 3), state=folder / "state")


@pytest.fixture(scope="module")
def definitions(platform: Platform) -> dg.Definitions:
    return build_definitions(platform)


@pytest.fixture
def url(server: PostgresServer) -> str:
    return server.new_database().replace("postgresql://", "postgresql+psycopg2://")


@pytest.fixture
def instance(url: str, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    state = StateDirectory(tmp_path / "state", tmp_path / "run").make()
    write_configuration(state, url)
    with dg.DagsterInstance.from_config(str(state.dagster_home)) as instance:
        yield instance


def known(platform: Platform) -> list[Look]:
    """The checks of a bring-up."""
    return cheap(looks(platform))


def health_of(platform: Platform, target: tuple[str, str] = TARGET) -> Look:
    return next(look for look in looks(platform) if (look.asset, look.check) == (target, "healthy"))


def started(
    instance: dg.DagsterInstance,
    definitions: dg.Definitions,
    job: str,
    target: tuple[str, str] | None = None,
    tags: dict[str, str] | None = None,
) -> dg.DagsterRun:
    """A run that has begun and has promised its checks, as the daemon leaves it."""
    job_def, key = definitions.resolve_job_def(job), dg.AssetKey(list(target)) if target else None
    if key is not None:
        job_def = job_def.get_subset(asset_selection={key}, asset_check_selection={dg.AssetCheckKey(key, "healthy")})
    plan = create_execution_plan(job_def)
    return instance.create_run(
        job_name=job,
        run_id=None,
        run_config=None,
        status=dg.DagsterRunStatus.STARTED,
        tags=tags,
        root_run_id=None,
        parent_run_id=None,
        step_keys_to_execute=None,
        execution_plan_snapshot=snapshot_from_execution_plan(plan, job_def.get_job_snapshot_id()),
        job_snapshot=job_def.get_job_snapshot(),
        parent_job_snapshot=None,
        asset_selection=frozenset({key}) if key else None,
        asset_check_selection=frozenset({dg.AssetCheckKey(key, "healthy")}) if key else None,
        resolved_op_selection=None,
        op_selection=None,
        remote_job_origin=None,
        job_code_origin=None,
        asset_graph=definitions.resolve_asset_graph(),
    )


def test_configuration_of_the_instance_is_what_dagster_accepts_and_uses(instance: dg.DagsterInstance) -> None:
    assert isinstance(instance.event_log_storage, PostgresEventLogStorage)
    assert type(instance.run_coordinator).__name__ == "QueuedRunCoordinator"
    assert instance.run_monitoring_enabled
    assert instance.telemetry_enabled is False
    assert instance.get_settings("sensors")["use_threads"] is True
    assert instance.get_settings("schedules")["use_threads"] is True


@pytest.mark.parametrize("verdict", [GOOD, BAD, BLIND])
def test_an_answer_written_outside_of_runs_is_read_back_as_it_was_given(
    instance: dg.DagsterInstance, platform: Platform, verdict: Verdict
) -> None:
    look = health_of(platform)
    before = datetime.now(UTC)
    instance.report_runless_asset_event(check_evaluation(look, verdict))
    written = History(instance).written(known(platform))
    assert set(written) == {name_of(look)}
    entry = written[name_of(look)]
    assert (entry.passed, entry.why, entry.promised, entry.broken) == (verdict.passed, verdict.why, False, False)
    assert before <= entry.at <= datetime.now(UTC)
    assert conditions_of(written)[TARGET].good is verdict.passed


def test_a_run_at_work_promises_its_checks_and_one_that_ended_without_answers_broke_the_promise(
    instance: dg.DagsterInstance, platform: Platform, definitions: dg.Definitions
) -> None:
    instance.report_runless_asset_event(check_evaluation(health_of(platform), BAD))
    run = started(instance, definitions, "bring_up")
    written = History(instance).written(known(platform))
    assert len(written) == len(known(platform))
    assert all(entry.promised for entry in written.values())
    assert conditions_of(written) == {}
    assert due(known(platform), written, datetime.now(UTC), {}) == []
    instance.report_run_canceled(run)
    written = History(instance).written(known(platform))
    assert all(entry.broken for entry in written.values())
    chosen = due(known(platform), written, datetime.now(UTC), {})
    assert {name_of(look) for look in chosen} >= {
        (*TARGET, "healthy"),
        (*TARGET, "hipaa"),
    }


def test_a_remediation_works_on_its_target_alone_a_bring_up_on_all_and_checks_on_nothing(
    instance: dg.DagsterInstance, platform: Platform, definitions: dg.Definitions
) -> None:
    targets = remediable(platform.catalog)

    def busy() -> set[tuple[str, str]]:
        trails = History(instance).trails(targets, datetime.now(UTC), HOUR)
        return {target for target, trail in trails.items() if trail.under_way}

    run = started(instance, definitions, "health")
    assert busy() == set()
    instance.report_run_canceled(run)
    run = started(instance, definitions, REMEDIATION_JOB, TARGET, {TARGET_TAG: "/".join(TARGET)})
    assert busy() == {TARGET}
    instance.report_run_canceled(run)
    run = started(instance, definitions, "bring_up")
    assert busy() == set(targets)
    instance.report_run_canceled(run)
    run = started(instance, definitions, "teardown")
    assert busy() == set(targets)


def test_a_trail_tells_when_the_newest_attempt_ended_and_how_many_there_were(
    instance: dg.DagsterInstance, platform: Platform, definitions: dg.Definitions
) -> None:
    for _ in range(2):
        run = started(instance, definitions, REMEDIATION_JOB, TARGET, {TARGET_TAG: "/".join(TARGET)})
        instance.report_run_failed(run)
    now = datetime.now(UTC)
    trails = History(instance).trails((TARGET, ROUTER), now, HOUR)
    ended = trails[TARGET].ended_at
    assert ended is not None
    assert now - timedelta(minutes=1) < ended <= now
    assert (trails[TARGET].recent, trails[TARGET].under_way) == (2, False)
    assert trails[ROUTER] == Trail()
    assert History(instance).trails((TARGET,), now + 2 * HOUR, HOUR)[TARGET].recent == 0


def test_hourly_checks_wait_while_the_platform_is_brought_up(
    instance: dg.DagsterInstance, definitions: dg.Definitions
) -> None:
    schedule = definitions.resolve_schedule_def("hourly_checks")

    def asked() -> int:
        context = dg.build_schedule_context(instance, scheduled_execution_time=datetime.now(UTC))
        return len(schedule.evaluate_tick(context).run_requests or [])

    assert asked() == 1
    run = started(instance, definitions, "bring_up")
    assert asked() == 0
    instance.report_run_canceled(run)
    assert asked() == 1


def test_old_runs_are_removed_and_what_may_still_work_is_not(
    instance: dg.DagsterInstance, definitions: dg.Definitions
) -> None:
    ended, working = started(instance, definitions, "health"), started(instance, definitions, "health")
    instance.report_run_canceled(ended)
    logs = Path(instance.root_directory) / "compute_logs"
    for run in (ended, working):
        (logs / run.run_id / "step").mkdir(parents=True)
    now = datetime.now(UTC)
    assert purge_runs(instance, now - HOUR) == 0
    assert purge_runs(instance, now + HOUR) == 1
    assert [run.run_id for run in instance.get_runs()] == [working.run_id]
    assert [folder.name for folder in logs.iterdir()] == [working.run_id]


def test_trimming_leaves_the_newest_answer_of_each_check_and_removes_what_is_older(
    instance: dg.DagsterInstance, platform: Platform, url: str
) -> None:
    look, other = health_of(platform), health_of(platform, ROUTER)
    for verdict in (GOOD, BAD, GOOD):
        instance.report_runless_asset_event(check_evaluation(look, verdict))
    instance.report_runless_asset_event(check_evaluation(other, BAD))
    instance.report_runless_asset_event(escalation(Remedy(TARGET, 3, "0 of 1", "1")))
    before = History(instance).written(known(platform))
    now = datetime.now(UTC)
    assert trim_events(url, now - HOUR) == 0
    assert trim_events(url, now + HOUR) == 2 + 3  # two superseded results, their events, one observation
    assert trim_events(url, now + HOUR) == 0
    assert History(instance).written(known(platform)) == before
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        kept = connection.execute(sqlalchemy.text("SELECT count(*) FROM event_logs WHERE run_id = ''")).scalar()
    engine.dispose()
    assert kept == 2
