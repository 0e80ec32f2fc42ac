"""Guards that the graph is whole: every asset checked, owned and described, nothing pointing at nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import dagster as dg
import pytest

from dr_platform.definitions import build_definitions
from dr_platform.health import looks
from dr_platform.look import Cost
from dr_platform.platform import Platform, find_catalog
from dr_platform.resources import key_of
from tests.catalogs import generated

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ("local", "development", "integration", "staging", "production")
ACCEPTED_BY_DESIGN = {"services/fleet"}
"""Assets without a HIPAA check among services and databases."""


@cache
def platform(environment: str = "local") -> Platform:
    return Platform.open(environment, catalog=find_catalog(), state=Path("/nonexistent"), runtime="local")


@cache
def definitions(environment: str = "local") -> dg.Definitions:
    return build_definitions(platform(environment))


def graph():
    return definitions().resolve_asset_graph()


def names(keys) -> set[str]:
    return {key.to_user_string() for key in keys}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_definitions_are_loadable(environment: str) -> None:
    dg.Definitions.validate_loadable(definitions(environment))


def test_no_check_and_no_dependency_points_at_an_unknown_asset() -> None:
    made = set(graph().materializable_asset_keys)
    assert {key.asset_key for key in graph().asset_check_keys} <= made
    assert set(graph().get_all_asset_keys()) == made
    for checks in definitions().asset_checks or ():
        assert isinstance(checks, dg.AssetChecksDefinition)
        for spec in checks.check_specs:
            assert {dep.asset_key for dep in spec.additional_deps} <= made


def test_every_part_of_the_catalog_is_an_asset() -> None:
    catalog = platform().catalog
    expected = {f"infrastructure/{name}" for name in ("runtime", "router", "ports", "state")}
    expected |= {"services/fleet", "compliance/incidents"}
    for layer, parts in (
        ("databases", catalog.databases),
        ("schema", catalog.databases),
        ("services", catalog.services),
        ("knowledge", catalog.knowledge),
        ("backups", catalog.databases),
    ):
        expected |= {f"{layer}/{name}" for name in parts}
    assert names(graph().materializable_asset_keys) == expected


def test_every_asset_has_a_health_check() -> None:
    checked = {key.asset_key for key in graph().asset_check_keys if key.name == "healthy"}
    backups = {dg.AssetKey(["backups", name]) for name in platform().catalog.databases}
    assert checked == set(graph().materializable_asset_keys) - backups
    assert backups == {key.asset_key for key in graph().asset_check_keys if key.name == "verified"}


def test_every_database_and_service_has_a_hipaa_check() -> None:
    checked = names(key.asset_key for key in graph().asset_check_keys if key.name == "hipaa")
    held = {n for n in names(graph().materializable_asset_keys) if n.split("/")[0] in ("databases", "services")}
    assert checked == held - ACCEPTED_BY_DESIGN


@pytest.mark.parametrize(("environment", "severe"), [("local", False), ("production", True)])
def test_a_hipaa_failure_is_an_error_only_where_a_compliance_level_asks_for_it(environment: str, severe: bool) -> None:
    found = {look.severe for look in looks(platform(environment)) if look.check == "hipaa"}
    assert found == {severe}


def test_checks_and_looks_are_the_same_list() -> None:
    assert {key_of(look) for look in looks(platform())} == set(graph().asset_check_keys)


def test_every_asset_says_what_it_is_whose_it_is_and_where_it_belongs() -> None:
    for key in graph().materializable_asset_keys:
        node = graph().get(key)
        assert node.description, key
        assert node.owners, key
        assert node.group_name, key
        assert node.kinds, key
        assert node.tags.get("dr-platform/layer") == key.path[0], key


def test_services_are_grouped_by_tier_and_have_a_pool_of_their_own() -> None:
    pools = set()
    for name, service in platform().catalog.services.items():
        node = graph().get(dg.AssetKey(["services", name]))
        assert node.group_name == f"services/{service.tier.value.replace('-', '_')}"
        pools |= node.pools or set()
    assert len(pools) == len(platform().catalog.services)


def test_code_versions_change_with_what_they_stand_for_and_not_between_two_loads() -> None:
    again = build_definitions(Platform.open("local", catalog=find_catalog(), state=Path("/nonexistent")))
    for key in graph().materializable_asset_keys:
        assert again.resolve_asset_graph().get(key).code_version == graph().get(key).code_version
    for layer, parts in (("schema", platform().catalog.databases), ("services", platform().catalog.services)):
        assert all(graph().get(dg.AssetKey([layer, name])).code_version for name in parts)


def test_a_service_comes_after_the_fleet_its_needs_and_their_schema() -> None:
    for name, service in platform().catalog.services.items():
        expected = {"services/fleet"} | {f"services/{n}" for n in service.needs.services}
        expected |= {f"schema/{n}" for n in service.needs.databases}
        assert names(graph().get(dg.AssetKey(["services", name])).parent_keys) == expected


def test_a_whole_run_evaluates_checks_in_few_steps() -> None:
    job = definitions().resolve_job_def("health")
    assert len(job.nodes) <= 35  # of so many kinds are checks, however many assets there are


def check_steps(job: str) -> set[str]:
    return {node.name for node in definitions().resolve_job_def(job).nodes if node.name.startswith("check_")}


def test_what_costs_more_than_a_look_is_in_no_run_that_brings_something_up() -> None:
    costs: dict[str, set[Cost]] = {}
    for look in looks(platform()):
        costs.setdefault(look.step, set()).add(look.cost)
    assert check_steps("bring_up") == check_steps("remediate") == {n for n, c in costs.items() if c == {Cost.CHEAP}}
    assert check_steps("hourly_checks") == {n for n, c in costs.items() if Cost.LOAD not in c}
    assert check_steps("health") == set(costs)


def test_sensors_and_schedules_run_from_the_start() -> None:
    sensors, schedules = definitions().sensors or [], definitions().schedules or []
    assert {s.name for s in sensors} >= {
        "health",
        "remediation",
        "processes",
        "aftercare",
        "controller",
        "rollouts",
        "incidents",
        "intake",
        "knowledge",
    }
    assert all(s.default_status is dg.DefaultSensorStatus.RUNNING for s in sensors)
    named = {s.name for s in schedules}
    assert named >= {"hourly_checks", "daily_retention", "daily_backups_prune", "migrations"}
    assert {name.split("_")[1] for name in named if name.startswith("backup_")} == set(platform().catalog.databases)
    assert all(s.default_status is dg.DefaultScheduleStatus.RUNNING for s in schedules)
    assert {s.execution_timezone for s in schedules} == {"UTC"}


def test_everything_that_is_scheduled_or_asked_for_is_a_job() -> None:
    jobs = {job.name for job in definitions().resolve_all_job_defs()}
    kept = {
        "bring_up",
        "health",
        "seed",
        "teardown",
        "retention",
        "remediate",
        "hourly_checks",
        "promote",
        "restart_part",
        "synthesize",
        "mask",
    }
    assert jobs >= kept | {"deploy", "rollback", "tend_rollouts", "emergency", "synthesize"}
    assert {s.job_name for s in definitions().schedules or []} <= jobs


def test_invented_patients_are_loaded_by_nobody_but_a_person() -> None:
    targets = {target.job_name for sensor in definitions().sensors or [] for target in sensor.targets}
    assert "synthesize" not in targets | {schedule.job_name for schedule in definitions().schedules or []}
    assert "load_synthetic_data" not in {node.name for node in definitions().resolve_job_def("bring_up").nodes}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_deployment_takes_only_what_the_catalog_knows(environment: str) -> None:
    job = definitions(environment).resolve_job_def("deploy")
    service = next(iter(platform(environment).catalog.services))

    def config(**changes: str) -> dict[str, object]:
        fields = {"service": service, "version": "2.0.0", "strategy": "blue-green"} | changes
        return {"ops": {"deploy_version": {"config": fields}}}

    assert dg.validate_run_config(job, config())
    for wrong in ({"service": "no-such-service"}, {"strategy": "hope"}, {"unknown": "field"}):
        with pytest.raises(dg.DagsterInvalidConfigError):
            dg.validate_run_config(job, config(**wrong))


def test_a_further_service_is_an_asset_with_checks_without_any_other_change(tmp_path: Path) -> None:
    few = build_definitions(Platform.open("local", catalog=generated(tmp_path / "few", 3), state=Path("/nonexistent")))
    more = build_definitions(
        Platform.open("local", catalog=generated(tmp_path / "more", 4), state=Path("/nonexistent"))
    )
    added = set(more.resolve_asset_graph().asset_check_keys) - set(few.resolve_asset_graph().asset_check_keys)
    checks = ("healthy", "hipaa", "smoke", "access", "performance", "analysis")
    assert {key.to_user_string() for key in added} == {f"services/service-0003:{check}" for check in checks}


def _in_a_fresh_interpreter(code: str, environment: str, folder: Path) -> subprocess.CompletedProcess[str]:
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("DRP_", "DAGSTER_"))}
    variables |= {"DRP_ENVIRONMENT": environment, "DRP_STATE": str(folder), "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", code]
    return subprocess.run(argv, capture_output=True, text=True, env=variables, cwd=folder, timeout=120, check=False)


@pytest.mark.contract
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_code_location_loads_in_a_fresh_interpreter_with_nothing_running(environment: str, tmp_path: Path) -> None:
    code = "import dagster as dg, dr_platform.definitions as d; dg.Definitions.validate_loadable(d.defs); print('ok')"
    done = _in_a_fresh_interpreter(code, environment, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "ok"
    assert list(tmp_path.iterdir()) == []  # loading makes nothing


def test_a_wrong_environment_is_named_when_the_location_loads(tmp_path: Path) -> None:
    done = _in_a_fresh_interpreter("import dr_platform.definitions", "produktion", tmp_path)
    assert done.returncode != 0
    assert "produktion: no such environment in the catalog" in done.stderr
    assert "choose one of" in done.stderr
