"""The sensors as the daemon calls them, with an instance of their own and nothing of the platform running."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from dr_platform.catalog.models import Needs, Remediation
from dr_platform.clock import ManualClock
from dr_platform.definitions import build_definitions
from dr_platform.evidence import PostgresEvidenceLog
from dr_platform.health import looks
from dr_platform.operations import operations_engine, upgrade
from dr_platform.platform import Platform
from dr_platform.remediation import ROUTER
from dr_platform.resources import ATTEMPT_TAG, TARGET_TAG, check_evaluation
from dr_platform.state import StateDirectory
from dr_platform.verdict import Verdict
from dr_platform.watch import is_cadenced
from tests.catalogs import generated
from tests.postgres_server import PostgresServer, running_postgres

pytestmark = pytest.mark.contract

GOOD, BAD = Verdict(True, "fine"), Verdict(False, "0 of 1 replicas ready")
SERVICE, DEPENDENT = ("services", "service-0001"), ("services", "service-0002")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def platform(server: PostgresServer, tmp_path: Path) -> Iterator[Platform]:
    """Three services are declared, nothing runs; the clock stands where the event log's does."""
    catalog, environment = generated(tmp_path, 3), "staging"
    with tempfile.TemporaryDirectory(prefix="drp-s-") as folder:
        platform = Platform.open(environment, catalog=catalog, state=Path(folder), runtime="local")
        platform.state.make()
        url = server.new_database()
        upgrade(url)
        platform.operations = operations_engine(url)
        (platform.state.supervisor / "programs").mkdir()
        (platform.state.supervisor / "programs" / "router.conf").touch()
        for service in platform.catalog.services.values():
            platform.local_runtime._records.declare(service)
        yield platform
        platform.operations.dispose()


def sensor(platform: Platform, name: str) -> dg.SensorDefinition:
    return next(s for s in build_definitions(platform).sensors or () if s.name == name)


def tick(platform: Platform, name: str, instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
    """One evaluation, with its events stored as the daemon does."""
    context = dg.build_sensor_context(instance=instance, cursor=cursor)
    result = sensor(platform, name)(context)
    assert isinstance(result, dg.SensorResult)
    for event in result.asset_events:
        instance.report_runless_asset_event(event)
    return result


def say(platform: Platform, instance: dg.DagsterInstance, target: tuple[str, str], verdict: Verdict) -> None:
    look = next(look for look in looks(platform) if (look.asset, look.check) == (target, "healthy"))
    instance.report_runless_asset_event(check_evaluation(look, verdict))


def in_the_future(platform: Platform, seconds: float) -> None:
    """Let the platform's clock stand so many seconds after what was just written."""
    platform.clock = ManualClock(datetime.now(UTC) + timedelta(seconds=seconds))
    platform.evidence = PostgresEvidenceLog(platform.operations, platform.clock)


def test_the_health_sensor_answers_for_everything_cheap_although_nothing_runs_and_then_keeps_silent(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    expected = {(look.asset, look.check) for look in looks(platform) if is_cadenced(look)}
    first = tick(platform, "health", instance)
    found = {(tuple(e.asset_key.path), e.check_name): e for e in first.asset_events}
    assert set(found) == expected
    assert not any(e.passed for (asset, _), e in found.items() if asset != ("infrastructure", "ports"))
    assert tick(platform, "health", instance).asset_events == []


def test_what_has_just_fallen_ill_is_left_to_its_supervisor(platform: Platform, instance: dg.DagsterInstance) -> None:
    say(platform, instance, SERVICE, BAD)
    in_the_future(platform, 5)
    result = tick(platform, "remediation", instance)
    assert result.run_requests == []
    assert result.skip_reason is not None
    assert "services/service-0001: may be starting" in str(result.skip_reason.skip_message)


def test_what_stays_ill_is_materialised_alone_with_its_checks_and_the_attempt_is_evidence(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    say(platform, instance, SERVICE, BAD)
    in_the_future(platform, 15)
    (request,) = tick(platform, "remediation", instance).run_requests or []
    assert request.asset_selection == [dg.AssetKey(list(SERVICE))]
    assert {key.name for key in request.asset_check_keys or ()} == {"healthy", "hipaa"}
    assert {key.asset_key for key in request.asset_check_keys or ()} == {dg.AssetKey(list(SERVICE))}
    assert (request.tags[TARGET_TAG], request.tags[ATTEMPT_TAG]) == ("services/service-0001", "1")
    (entry,) = platform.evidence.entries(kind="remediation-attempt")
    assert (entry.subject, entry.actor, entry.body) == ("services/service-0001", "sensor:remediation", {"attempts": 1})


def test_a_permanent_fault_asks_three_times_with_different_keys_and_calls_a_person_once(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    say(platform, instance, SERVICE, BAD)
    in_the_future(platform, 15)
    clock, keys, calls = platform.clock, [], []
    for _ in range(120):
        result = tick(platform, "remediation", instance)
        keys += [request.run_key for request in result.run_requests or ()]
        calls += [event for event in result.asset_events if isinstance(event, dg.AssetObservation)]
        clock.sleep(5)
    assert len(keys) == len(set(keys)) == platform.environment.remediation.attempts
    (call,) = calls
    assert call.asset_key == dg.AssetKey(list(SERVICE))
    assert call.description == "A person is needed: 3 attempts did not help: 0 of 1 replicas ready"
    assert [entry.kind for entry in platform.evidence.entries()] == ["remediation-attempt"] * 3 + [
        "remediation-escalated"
    ]
    assert tick(platform, "remediation", instance).skip_reason is not None


def test_the_root_of_the_trouble_is_mended_and_what_stands_on_it_is_not(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    assert SERVICE[1] in platform.catalog.services[DEPENDENT[1]].needs.services
    for target in (SERVICE, DEPENDENT):
        say(platform, instance, target, BAD)
    in_the_future(platform, 60)
    requests = tick(platform, "remediation", instance).run_requests or []
    assert [request.tags[TARGET_TAG] for request in requests] == ["services/service-0001"]


def test_what_was_taken_down_on_purpose_is_not_brought_back(platform: Platform, instance: dg.DagsterInstance) -> None:
    for target in (ROUTER, SERVICE):
        say(platform, instance, target, BAD)
    platform.local_runtime._records.undeclare(SERVICE[1])
    (platform.state.supervisor / "programs" / "router.conf").unlink()
    in_the_future(platform, 600)
    result = tick(platform, "remediation", instance)
    assert result.run_requests == []
    assert str(result.skip_reason.skip_message if result.skip_reason else "") == "nothing to mend"


def with_rules(platform: Platform, *rules: dict[str, object]) -> None:
    wanted = Remediation.model_validate({"rules": rules})
    platform.environment = platform.environment.model_copy(update={"remediation": wanted})


def fails(platform: Platform, instance: dg.DagsterInstance, target: tuple[str, str], check: str) -> None:
    look = next(look for look in looks(platform) if (look.asset, look.check) == (target, check))
    instance.report_runless_asset_event(check_evaluation(look, BAD))


def test_each_check_is_met_with_its_own_action_and_its_own_budget(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    with_rules(
        platform,
        {"layer": "services", "check": "hipaa", "actions": ["restart", "page"]},
        {"layer": "services", "part": DEPENDENT[1], "check": "smoke", "actions": ["page"]},
    )
    say(platform, instance, SERVICE, GOOD)
    fails(platform, instance, SERVICE, "hipaa")
    fails(platform, instance, SERVICE, "smoke")  # nothing is said about the smoke test of this one
    fails(platform, instance, DEPENDENT, "smoke")
    in_the_future(platform, 15)
    clock, requests, calls = platform.clock, [], []
    for _ in range(20):
        result = tick(platform, "remediation", instance)
        requests += result.run_requests or []
        calls += [str(event.description) for event in result.asset_events]
        clock.sleep(5)
    (request,) = requests
    assert (request.job_name, request.tags[TARGET_TAG]) == ("restart_part", "services/service-0001:hipaa")
    assert sorted(calls) == [
        "A person is needed: 1 attempts did not help: 0 of 1 replicas ready",
        "A person is needed: nothing is tried by the policy: 0 of 1 replicas ready",
    ]
    written = [(entry.kind, entry.subject) for entry in platform.evidence.entries()]
    assert sorted(written) == [
        ("remediation-attempt", "services/service-0001:hipaa"),
        ("remediation-escalated", "services/service-0001:hipaa"),
        ("remediation-escalated", "services/service-0002:smoke"),
    ]


def test_what_cannot_go_back_says_why_and_has_the_next_action_and_stops_no_other(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    with_rules(platform, {"layer": "services", "actions": ["roll-back", "restart"]})
    other = ("services", "service-0000")
    for target in (other, ROUTER):
        say(platform, instance, target, BAD if target == other else GOOD)
    in_the_future(platform, 15)
    first = tick(platform, "remediation", instance)
    assert first.run_requests == []
    assert "services/service-0000: service-0000: no other revision was stable here before" in str(first.skip_reason)
    platform.clock.sleep(10)
    (request,) = tick(platform, "remediation", instance).run_requests or []
    assert (request.job_name, request.tags[ATTEMPT_TAG]) == ("restart_part", "2")


class SlowClock(ManualClock):
    """On a machine where a quarter of a minute goes by whenever somebody looks how long it takes."""

    def monotonic(self) -> float:
        self.sleep(15)
        return super().monotonic()


def unconnected(platform: Platform) -> None:
    """No service stands on another one."""
    alone = {name: s.model_copy(update={"needs": Needs()}) for name, s in platform.catalog.services.items()}
    platform.catalog = replace(platform.catalog, services=alone)


def test_a_slow_part_takes_its_round_and_not_that_of_the_others(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    """A round is over after one service; at the next ticks others come first."""
    unconnected(platform)
    for target in (("services", "service-0000"), SERVICE, DEPENDENT):
        say(platform, instance, target, BAD)
    clock, asked = SlowClock(datetime.now(UTC) + timedelta(seconds=15)), []
    platform.clock = clock
    for _ in range(9):
        requests = tick(platform, "remediation", instance).run_requests or []
        assert len(requests) <= 1
        asked += [request.tags[TARGET_TAG] for request in requests]
        clock.sleep(5)
    assert {"services/service-0000", "services/service-0001", "services/service-0002"} == set(asked)


def test_one_service_whose_record_cannot_be_read_keeps_no_other_from_being_mended(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    broken, sound = ("services", "service-0000"), SERVICE
    unconnected(platform)
    for target in (broken, sound):
        say(platform, instance, target, BAD)
    platform.runtime.write_record(broken[1], "spoiled", None)
    in_the_future(platform, 15)
    requests = tick(platform, "remediation", instance).run_requests or []
    assert [request.tags[TARGET_TAG] for request in requests] == ["services/service-0001"]


def test_health_regained_for_a_while_gives_the_budget_back(platform: Platform, instance: dg.DagsterInstance) -> None:
    say(platform, instance, SERVICE, BAD)
    in_the_future(platform, 15)
    assert tick(platform, "remediation", instance).run_requests
    say(platform, instance, SERVICE, GOOD)
    in_the_future(platform, 61)
    tick(platform, "remediation", instance)
    say(platform, instance, SERVICE, BAD)
    in_the_future(platform, 300)
    (request,) = tick(platform, "remediation", instance).run_requests or []
    assert request.tags[ATTEMPT_TAG] == "1"


def _event(state: StateDirectory, line: str) -> None:
    with state.events.open("a", encoding="utf-8") as file:
        file.write(line)


def test_the_process_sensor_tells_each_end_and_restart_once_and_waits_for_whole_lines(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    assert tick(platform, "processes", instance).asset_events == []
    event = {"at": "2026-01-01T12:00:00+00:00", "program": "router", "event": "ended", "pid": 7, "detail": "SIGKILL"}
    _event(platform.state, json.dumps(event) + "\n" + '{"program": "rou')
    first = tick(platform, "processes", instance, "0")
    (told,) = first.asset_events
    assert told.asset_key == dg.AssetKey(["infrastructure", "runtime"])
    assert told.description == "router: ended SIGKILL"
    _event(platform.state, 'ter", "event": "restarted"}\n')
    second = tick(platform, "processes", instance, first.cursor)
    assert [e.description for e in second.asset_events] == ["router: restarted"]
    assert tick(platform, "processes", instance, second.cursor).asset_events == []


def test_the_sensors_of_delivery_have_nothing_to_do_where_nothing_was_deployed(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    for name, why in (("aftercare", "nothing is watched"), ("controller", "no service needs somebody at once")):
        result = tick(platform, name, instance)
        assert result.asset_events == []
        assert why in str(result.skip_reason)
    assert tick(platform, "rollouts", instance).asset_events == []
    shown = tick(platform, "incidents", instance)
    assert [type(event).__name__ for event in shown.asset_events] == [
        "AssetMaterialization",
        "AssetCheckEvaluation",
        "AssetCheckEvaluation",
    ]
    assert tick(platform, "incidents", instance, shown.cursor).asset_events == []


@pytest.mark.parametrize("name", ["aftercare", "controller", "rollouts", "incidents"])
def test_a_sensor_of_delivery_says_so_when_its_stores_do_not_answer(
    platform: Platform, instance: dg.DagsterInstance, name: str
) -> None:
    platform.state.runtime_database.unlink()
    platform.state.runtime_database.mkdir()
    with platform.operations.begin() as connection:
        connection.exec_driver_sql("DROP TABLE evidence_log CASCADE")
    assert "could not look" in str(tick(platform, name, instance).skip_reason)
