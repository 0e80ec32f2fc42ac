"""The generated rules under Prometheus' own promtool: accepted, firing when they must, silent else."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from dr_platform.monitoring import promtool
from dr_platform.monitoring.folder import texts, write
from dr_platform.monitoring.prometheus import Target, prometheus_document
from dr_platform.monitoring.rules import rules_of
from tests.monitoring.shipped import scope, strict_scope

PROMTOOL = promtool.find()
SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.yaml"))

pytestmark = [
    pytest.mark.monitoring,
    pytest.mark.skipif(PROMTOOL is None, reason="promtool is not on this machine; `make test-monitoring` needs it"),
]


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    return subprocess.run([PROMTOOL, *map(str, words)], capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for each kind of runtime, as an export leaves them; `strict` beside the others."""
    root = tmp_path_factory.mktemp("monitoring")
    write(root / "local", texts(scope("local"), [Target("billing", "blue", "3.0", "127.0.0.1:20010")]))
    write(root / "kubernetes", texts(scope("production")))
    (root / "kubernetes/rules/strict.yaml").write_text(texts(strict_scope())["rules/strict.yaml"])
    return root


@pytest.mark.parametrize("runtime", ["local", "kubernetes"])
def test_promtool_accepts_every_rule_of_the_shipped_catalog(exported: Path, runtime: str) -> None:
    assert promtool.verdicts(PROMTOOL, exported / runtime, runtime=runtime)["rules"].passed is True


def test_promtool_accepts_the_local_configuration_with_its_rules_and_targets(exported: Path) -> None:
    done = run("check", "config", exported / "local/prometheus.yaml")
    assert done.returncode == 0, done.stderr
    assert "22 rule files found" in done.stdout


def test_promtool_accepts_the_configuration_for_a_cluster_as_far_as_it_was_built_for_one(
    exported: Path, tmp_path: Path
) -> None:
    """Debian's promtool knows no Kubernetes; there all but the discovery itself is shown to it."""
    document = prometheus_document(scope("production"))
    if PROMTOOL is not None and not promtool.knows_kubernetes(PROMTOOL):
        for job in document["scrape_configs"]:
            assert job.pop("kubernetes_sd_configs")[0]["role"] == "pod"
    document["rule_files"] = [str(exported / "kubernetes" / file) for file in document["rule_files"]]
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(document))
    done = run("check", "config", tmp_path / "prometheus.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_configuration_that_this_promtool_cannot_judge_is_not_called_good(exported: Path) -> None:
    verdict = promtool.verdicts(PROMTOOL, exported / "kubernetes", runtime="kubernetes")["configuration"]
    assert PROMTOOL is not None
    assert verdict.passed is (True if promtool.knows_kubernetes(PROMTOOL) else None)


def test_a_broken_rule_and_a_broken_configuration_are_found(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(exported / "local", folder)
    rule, configuration = folder / "rules/billing.yaml", folder / "prometheus.yaml"
    rule.write_text(rule.read_text().replace("sum by (service)", "sum by (service", 1))
    configuration.write_text(configuration.read_text().replace("scrape_interval", "scrape_intervall"))
    found = promtool.verdicts(PROMTOOL, folder, runtime="local")
    assert [verdict.passed for verdict in found.values()] == [False, False]
    assert "rules/billing.yaml" in found["rules"].why
    assert "scrape_intervall" in found["configuration"].why


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.stem)
def test_rules_fire_and_stay_silent_as_the_scenario_says(exported: Path, scenario: Path) -> None:
    copy = exported / scenario.name
    shutil.copy(scenario, copy)
    done = run("test", "rules", copy)
    assert done.returncode == 0, done.stdout + done.stderr


def _proven_to_fire() -> Iterator[str]:
    """Alert names that some scenario expects to fire."""
    for scenario in SCENARIOS:
        for test in yaml.safe_load(scenario.read_text())["tests"]:
            for alert in test.get("alert_rule_test", ()):
                if alert.get("exp_alerts"):
                    yield alert["alertname"]
            for expression in test.get("promql_expr_test", ()):
                for sample in expression.get("exp_samples", ()):
                    yield from re.findall(r'alertname="(\w+)"', expression["expr"] + sample["labels"])


def test_every_alert_is_proven_to_fire_by_some_scenario() -> None:
    alerts = {
        rule.alert
        for environment in ("local", "production")
        for service in scope(environment).services
        for rule in rules_of(scope(environment), service)
        if rule.alert
    }
    assert alerts == set(_proven_to_fire())
