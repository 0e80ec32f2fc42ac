"""Backups of a real server through the desk, as the command and the jobs use it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine as SqlEngine

from dr_platform.backup_desk import (
    ASKED,
    FAILED,
    PROVED,
    REMOVED,
    RESTORED,
    TAKEN,
    ApprovalNeeded,
    BackupDesk,
    NoSuchKind,
    UnknownDatabase,
    restore_digest,
)
from dr_platform.backups.catalogue import State
from dr_platform.backups.errors import BackupFailed, Cause, NoEscrow
from dr_platform.backups.port import Kind
from dr_platform.backups.restore import NotConfirmed, RestoreRefused
from dr_platform.backups.switch import SWITCHED, SwitchPlan, SwitchRefused
from dr_platform.catalog import DataClass, Engine
from dr_platform.database_switch import ASKED as SWITCH_ASKED
from dr_platform.database_switch import SwitchDesk, switch_digest
from dr_platform.databases.access import read_login
from dr_platform.databases.port import Endpoint
from dr_platform.databases.redis_ import RedisDatabase
from dr_platform.evidence import RefusedEvidence
from dr_platform.identity import Person, Proof
from dr_platform.operations import operations_engine, upgrade
from dr_platform.platform import Platform
from dr_platform.readiness import approval_desk, valid_for
from dr_platform.recovery import fresh_verdict, recovery_looks, restorable_verdict, verified_verdict
from dr_platform.state import locate_state
from tests.contracts.embedded_servers import Beside, Running, running
from tests.postgres_server import running_postgres

pytestmark = pytest.mark.contract

NAME = "redis"
KEYS = {
    "id", "database", "kind", "state", "reason", "created_at", "size_bytes", "raw_bytes", "duration_s", "proof_s",
    "location",
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(Engine.REDIS, NAME) as started:
        database = RedisDatabase(started.database, started.endpoint, read_login(NAME, "admin", started.secrets))
        client: Any = database.client
        client.mset({f"key {number}": "x" * number for number in range(300)})
        database.close()
        yield started


@pytest.fixture(autouse=True)
def only_the_live_database(server: Running) -> Iterator[None]:
    """What a test restored beside it is no part of the next backup."""
    yield
    client: Any = RedisDatabase(server.database, server.endpoint, read_login(NAME, "admin", server.secrets)).client
    for number in ("7", "8", "9"):
        client.execute_command("SELECT", number)
        client.flushdb()
    client.close()


@pytest.fixture
def platform(server: Running, tmp_path: Path) -> Platform:
    return Beside.of({NAME: server}, state=locate_state("local", tmp_path).make())


@pytest.fixture
def desk(platform: Platform) -> BackupDesk:
    return BackupDesk(platform, workers=0)


def kinds_of_evidence(platform: Platform) -> list[str]:
    return [entry.kind for entry in platform.evidence.entries(subject=f"backups/{NAME}")]


def test_a_backup_is_verified_listed_and_written_down(desk: BackupDesk) -> None:
    record = desk.take(NAME, None, "before the release", "somebody")
    assert (record.state, record.kind) == (State.VERIFIED, Kind.RDB)
    (listed,) = (found.as_json() for found in desk.records())
    assert set(listed) == KEYS
    assert json.loads(json.dumps(listed)) == listed
    assert listed["proof_s"] > 0
    assert listed["raw_bytes"] > 1000
    folder = Path(listed["location"].removeprefix("file://"))
    assert (folder / "manifest.json").is_file()
    assert list((folder / "parts").rglob("00000"))
    assert kinds_of_evidence(desk.platform) == [ASKED, TAKEN, PROVED]
    assert [look.verdict().passed for look in recovery_looks(desk.platform) if look.asset[1] == NAME] == [True] * 5


def test_without_a_backup_nothing_is_well(desk: BackupDesk) -> None:
    for verdict in (verified_verdict, fresh_verdict, restorable_verdict):
        assert verdict(desk.platform, NAME).passed is False


def test_a_part_that_is_gone_turns_its_checks_red(desk: BackupDesk) -> None:
    record = desk.take(NAME, None, "on demand", "somebody")
    folder = Path(record.location.removeprefix("file://"))
    part = next((folder / "parts").rglob("00000"))
    part.unlink()
    found = restorable_verdict(desk.platform, NAME)
    assert (found.passed, "are not there in their size" in found.why) == (False, True)
    assert desk.prove(record.id, "somebody").state == "failed"
    found = verified_verdict(desk.platform, NAME)
    assert (found.passed, "part missing" in found.why) == (False, True)
    assert fresh_verdict(desk.platform, NAME).passed is False


def test_a_store_that_was_set_back_to_an_earlier_day_is_found(desk: BackupDesk) -> None:
    desk.take(NAME, None, "on demand", "somebody")
    second = desk.take(NAME, None, "on demand", "somebody")
    for info in list(desk.bucket.objects.list(f"backups/{NAME}/{second.id}")):
        desk.bucket.objects.delete(info.key)
    found = verified_verdict(desk.platform, NAME)
    assert (found.passed, second.id in found.why) == (False, True)


def test_what_may_not_be_written_down_stops_it_before_anything_is_read(desk: BackupDesk) -> None:
    with pytest.raises(RefusedEvidence):
        desk.take(NAME, None, "for the patient with SSN 536-22-8714", "somebody")
    assert desk.records() == ()


def test_a_server_that_does_not_answer_leaves_a_note_and_the_last_verified_backup(desk: BackupDesk) -> None:
    first = desk.take(NAME, None, "on demand", "somebody")
    platform = desk.platform
    assert isinstance(platform, Beside)
    platform.servers = {NAME: replace(platform.servers[NAME], endpoint=Endpoint("127.0.0.1", 1, "nobody"))}
    with pytest.raises(BackupFailed) as failed:
        desk.take(NAME, Kind.RDB, "on demand", "somebody")
    assert failed.value.cause is Cause.TOOL_FAILED
    newest, before = desk.records(NAME)
    assert (newest.id, newest.state, before.state) == (failed.value.backup_id, State.FAILED, State.VERIFIED)
    assert desk.listing(NAME).newest_verified() == before
    assert before.id == first.id
    assert FAILED in kinds_of_evidence(platform)
    assert verified_verdict(platform, NAME).passed is False
    assert fresh_verdict(platform, NAME).passed is True


def test_wrong_names_are_refused_with_those_there_are(desk: BackupDesk) -> None:
    with pytest.raises(UnknownDatabase, match="postgres"):
        desk.take("oracle", None, "", "somebody")
    with pytest.raises(NoSuchKind, match="choose one of rdb"):
        desk.take(NAME, Kind.BSON, "", "somebody")


def test_data_of_people_is_not_backed_up_without_an_escrow_key_in_a_persons_hand(desk: BackupDesk) -> None:
    desk.keys.secrets.delete("backups/escrow")
    binding = desk.platform.binding
    desk.platform.binding = type(binding)("local", "embedded", "embedded", DataClass.PHI)
    with pytest.raises(NoEscrow):
        desk.take(NAME, None, "on demand", "somebody")
    assert desk.records() == ()


def test_a_restore_shows_its_plan_wants_the_id_and_never_goes_into_the_live_database(desk: BackupDesk) -> None:
    record = desk.take(NAME, None, "on demand", "somebody")
    with pytest.raises(RestoreRefused, match="is live"):
        desk.plan_restore(NAME, record.id, desk.platform.catalog.databases[NAME].database)
    plan = desk.plan_restore(NAME, record.id, "7")
    with pytest.raises(NotConfirmed):
        desk.restore(plan, "yes", "somebody", "a drill")
    assert RESTORED not in kinds_of_evidence(desk.platform)
    restored = desk.restore(plan, record.id, "somebody", "a drill")
    assert {check.passed for check in restored.checks} <= {True, None}
    (told,) = desk.platform.evidence.entries(kind=RESTORED)
    target = desk.engine_of(desk.platform, NAME).switching().standing("7").target
    assert target is not None
    assert told.body["identity"] == target.identity


def test_what_a_policy_does_not_keep_is_planned_removed_and_counted(desk: BackupDesk) -> None:
    for _ in range(2):
        desk.take(NAME, None, "on demand", "somebody")
    older = desk.records(NAME)[-1].id
    assert [expired.id for expired in desk.plan_prune(NAME).expired] == [older]
    desk.hold(older, "somebody", "asked for by counsel")
    assert desk.prune(NAME, "somebody").removed == ()
    desk.lift(older, "somebody", "the matter has ended")
    pruned = desk.prune(NAME, "somebody")
    assert (pruned.removed, pruned.left) == ((older,), 1)
    assert REMOVED in kinds_of_evidence(desk.platform)
    assert verified_verdict(desk.platform, NAME).passed is True


@pytest.fixture(scope="module")
def operations() -> Iterator[SqlEngine]:
    with running_postgres() as server:
        url = server.new_database()
        upgrade(url)
        engine = operations_engine(url)
        yield engine
        engine.dispose()


def test_where_releases_need_approvals_a_restore_needs_as_many_for_exactly_its_plan(
    desk: BackupDesk, operations: SqlEngine
) -> None:
    platform = desk.platform
    vars(platform)["operations"] = operations
    strict = platform.environment.approvals.model_copy(update={"required": 1})
    platform.environment = platform.environment.model_copy(update={"approvals": strict})
    record = desk.take(NAME, None, "on demand", "somebody")
    plan = desk.plan_restore(NAME, record.id, "8")
    with pytest.raises(ApprovalNeeded) as needed:
        desk.restore(plan, record.id, "somebody", "a drill")
    with pytest.raises(ApprovalNeeded) as again:
        desk.restore(plan, record.id, "somebody", "a drill")
    (request_id, _), approvals = needed.value.args, approval_desk(platform)
    assert again.value.args == needed.value.args
    subject = approvals.store.read(request_id).request.release
    assert restore_digest(platform, subject) == plan.digest
    assert restore_digest(platform, "1.2.0") is None
    approver = Person("another", Proof.DECLARED)
    approvals.approve(request_id, approver, plan.digest, "read it", valid_for=valid_for(platform.environment))
    with pytest.raises(ApprovalNeeded):
        desk.restore(desk.plan_restore(NAME, record.id, "9"), record.id, "somebody", "another plan")
    assert desk.restore(plan, record.id, "somebody", "a drill").plan == plan


def test_a_switch_needs_as_many_for_exactly_these_two_databases(desk: BackupDesk, operations: SqlEngine) -> None:
    platform = desk.platform
    vars(platform)["operations"] = operations
    own = platform.environment
    record = desk.take(NAME, None, "on demand", "somebody")
    desk.restore(desk.plan_restore(NAME, record.id, "8"), record.id, "somebody", "a drill")
    switches = SwitchDesk(desk, lambda _platform, _database: {}, settle_s=0.0)
    platform.environment = own.model_copy(update={"approvals": own.approvals.model_copy(update={"required": 1})})
    plan = switches.plan(NAME, "8")
    assert isinstance(plan, SwitchPlan)
    with pytest.raises(ApprovalNeeded) as needed:
        switches.switch(NAME, "8", "8", "somebody", "a drill")
    assert isinstance(switches.plan(NAME, "8"), SwitchPlan), "nothing was switched"
    assert SWITCH_ASKED not in kinds_of_evidence(platform)
    (request_id, _), approvals = needed.value.args, approval_desk(platform)
    subject = approvals.store.read(request_id).request.release
    assert switch_digest(platform, subject) == plan.digest
    assert restore_digest(platform, subject) is None
    for_a_day = valid_for(platform.environment)
    approvals.approve(request_id, Person("another", Proof.DECLARED), plan.digest, "read it", valid_for=for_a_day)
    done = switches.switch(NAME, "8", "8", "somebody", "a drill")
    with pytest.raises(SwitchRefused, match="live already"):
        switch_digest(platform, subject)
    with pytest.raises(ApprovalNeeded):
        switches.switch(NAME, done.before, done.before, "somebody", "back is a plan of its own")
    assert switches.switch(NAME, "8", "8", "somebody", "a repetition").before == done.before
    platform.environment = own
    switches.switch(NAME, done.before, done.before, "somebody", "the drill has ended")
    assert kinds_of_evidence(platform)[-4:] == [SWITCH_ASKED, SWITCHED, SWITCH_ASKED, SWITCHED]


def test_the_job_takes_one_for_its_slot_and_its_checks_judge_it(platform: Platform) -> None:
    from dr_platform.definitions import build_definitions

    job = build_definitions(platform).resolve_job_def(f"backup_{NAME}")
    config = {"ops": {f"backups__{NAME}": {"config": {"kind": "rdb", "reason": "schedule"}}}}
    done = job.execute_in_process(
        partition_key=f"{platform.clock.now():%Y-%m-%d}", run_config=config, tags={"dr-platform/actor": "schedule"}
    )
    assert done.success
    answers = {found.check_name: found.passed for found in done.get_asset_check_evaluations()}
    assert answers == {"verified": True, "fresh": True, "restorable": True, "expiry": True, "drill": True}
    (made,) = done.asset_materializations_for_node(f"backups__{NAME}")
    assert made.metadata["state"].value == "verified"
    (record,) = BackupDesk(platform).records(NAME)
    assert record.why == "schedule (schedule)"


def test_a_schedule_asks_for_the_slot_of_its_day_and_the_kind_of_the_catalog(platform: Platform) -> None:
    import dagster as dg

    from dr_platform.definitions import build_definitions

    definitions = build_definitions(platform)
    schedule = next(s for s in definitions.schedules or () if s.name == "backup_redis_rdb")
    assert isinstance(schedule, dg.ScheduleDefinition)
    repository = definitions.get_repository_def()
    at = datetime(2026, 11, 25, 1, 30, tzinfo=UTC)
    with dg.build_schedule_context(scheduled_execution_time=at, repository_def=repository) as context:
        (request,) = schedule.evaluate_tick(context).run_requests or ()
    assert request.partition_key == "2026-11-25"
    assert request.run_config["ops"]["backups__redis"]["config"] == {"kind": "rdb", "reason": "schedule"}
    assert schedule.cron_schedule == "30 1 * * *"
