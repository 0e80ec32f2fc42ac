"""Objectives of the catalog as rules, scrape configuration and a dashboard; and who owns the files."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dr_platform.catalog import Slo
from dr_platform.cli.app import app
from dr_platform.clock import SystemClock
from dr_platform.monitoring.dashboard import dashboard_document
from dr_platform.monitoring.folder import MANIFEST, FolderUnusable, ForeignFiles, digest, look, plan, texts, write
from dr_platform.monitoring.prometheus import TARGETS_FILE, Target, prometheus_document, targets_document
from dr_platform.monitoring.rules import BURNS, Rule, objectives, rules_of
from dr_platform.monitoring.scope import Scope, namespaces_of
from dr_platform.platform import Platform
from dr_platform.reference_service.telemetry import BUCKETS_S, Telemetry
from dr_platform.runtime.local.records import FilledSlot, LocalRecords, ports_for
from dr_platform.runtime.port import Revision, Slot
from tests.monitoring.shipped import scope, shipped

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "monitoring" / "shipped.txt"
ENVIRONMENTS = ("local", "production")


def rules(environment: str) -> Iterator[tuple[str, Rule]]:
    chosen = scope(environment)
    for service in chosen.services:
        for rule in rules_of(chosen, service):
            yield service.name, rule


def alerts() -> list[tuple[str, Rule]]:
    return [pair for environment in ENVIRONMENTS for pair in rules(environment) if pair[1].alert]


def summary(environment: str) -> str:
    """One line for each service: what it promises, and how often each alert watches that."""
    chosen, lines = scope(environment), [f"[{environment}]"]
    for service in chosen.services:
        promised = " ".join(f"{name}={value:g}" for name, value in objectives(service).items())
        count = Counter(f"{r.alert[3:]}/{r.labels['severity']}" for r in rules_of(chosen, service) if r.alert)
        watched = " ".join(f"{alert}*{number}" for alert, number in sorted(count.items()))
        lines.append(f"{service.name} ({service.owner}) {promised}: {watched}")
    return "\n".join(lines) + "\n"


def test_the_shipped_catalog_is_watched_as_the_golden_file_says() -> None:
    assert "\n".join(map(summary, ENVIRONMENTS)) == GOLDEN.read_text(encoding="utf-8")


def test_the_whole_of_one_rule_file_is_as_it_was_reviewed() -> None:
    expected = (ROOT / "tests" / "monitoring" / "background-tasks.golden.yaml").read_text(encoding="utf-8")
    assert texts(scope("production"))["rules/background-tasks.yaml"] == expected


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_files_do_not_depend_on_the_order_in_which_services_are_named(environment: str) -> None:
    chosen = scope(environment)
    turned = replace(chosen, services=chosen.services[::-1], namespaces=chosen.namespaces[::-1])
    targets = [Target("billing", "blue", "3.0", "127.0.0.1:20010"), Target("api-gateway", "green", "3.0", "h:1")]
    assert texts(chosen, targets) == texts(turned, targets[::-1])


def test_every_alert_says_how_urgent_it_is_who_is_called_and_what_to_do() -> None:
    document = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    anchors = {heading.lower() for heading in re.findall(r"^### (\w+)$", document, re.MULTILINE)}
    assert alerts()
    for service, rule in alerts():
        assert rule.labels["severity"] in {"page", "ticket"}
        assert rule.labels["owner"] == shipped().services[service].owner
        page, _, anchor = rule.annotations["runbook_url"].partition("#")
        assert (page, anchor) == ("docs/monitoring.md", rule.alert.lower())
        assert anchor in anchors, f"docs/monitoring.md has no section {rule.alert}"
    assert anchors == {rule.alert.lower() for _, rule in alerts()}


def test_every_objective_of_every_service_is_watched_or_said_to_be_not_applicable() -> None:
    for environment in ENVIRONMENTS:
        seen = {(name, r.labels.get("slo")) for name, r in rules(environment) if r.alert}
        seen |= {(name, "gpu_utilisation") for name, r in rules(environment) if r.record.endswith("not_applicable")}
        wanted = {(s.name, promise) for s in shipped().services.values() for promise in objectives(s)}
        assert wanted <= seen


def test_gpu_use_is_measured_in_a_cluster_and_not_applicable_on_this_machine() -> None:
    local = [rule for _, rule in rules("local") if "gpu" in rule.record + rule.alert.lower()]
    assert [rule.expr for rule in local] == ["vector(1)", "vector(1)"]
    assert all("no GPU" in rule.labels["reason"] for rule in local)
    cluster = {rule.alert for name, rule in rules("production") if name == "qwen-host"}
    assert {"DrpGpuUtilisation", "DrpObjectiveUnreadable"} <= cluster


def test_a_service_that_asks_for_no_gpu_has_no_rule_that_could_pass() -> None:
    host = shipped().services["qwen-host"]
    without = host.model_copy(update={"resources": host.resources.model_copy(update={"gpu": 0})})
    found = rules_of(Scope("production", "kubernetes", (without,)), without)
    assert [r.labels["reason"] for r in found if "gpu" in r.record] == ["the service asks for no GPU"]
    assert not any("Gpu" in r.alert for r in found)


@given(st.decimals(min_value="0.01", max_value=100, places=2))
def test_only_burn_rates_that_an_outage_can_reach_become_alerts(percent: object) -> None:
    billing = shipped().services["billing"]
    slo = Slo.model_validate({"error_ratio": f"{percent} %"})
    service = billing.model_copy(update={"slo": slo})
    found = rules_of(Scope("production", "kubernetes", (service,)), service)
    windows = {r.labels["window"] for r in found if r.alert == "DrpErrorBudgetBurn"}
    assert windows == {burn.long for burn in BURNS if burn.rate * slo.error_ratio < 1}


def raw_metrics(expression: str) -> set[str]:
    """Metrics that no rule records: what has to be exposed by somebody."""
    bare = re.sub(r'"[^"]*"', "", expression)
    return set(re.findall(r"(?<![\w:])(?:drp_\w+)(?![\w:])", bare))


def test_rules_read_only_metrics_and_labels_that_the_reference_service_exposes() -> None:
    telemetry = Telemetry({"service": "billing", "version": "3.0", "slot": "blue"})
    telemetry.request("/v1/x", "GET", 200, 0.01)
    source = "".join(p.read_text() for p in (ROOT / "dr_platform" / "reference_service").rglob("*.py"))
    exposed = set(re.findall(r"^(\w+)\{", telemetry.text(), re.MULTILINE)) | set(re.findall(r'"(drp_\w+)"', source))
    read = {metric for env in ENVIRONMENTS for _, rule in rules(env) for metric in raw_metrics(rule.expr)}
    assert {"drp_requests_total", "drp_queue_depth", "drp_cache_hits_total"} <= read
    assert read <= exposed


def test_a_replica_counts_its_errors_from_its_first_request_on() -> None:
    """Of a counter that appears together with its first error, Prometheus sees no increase."""
    telemetry = Telemetry({"service": "billing"})
    telemetry.request("/v1/x", "GET", 200, 0.01)
    assert 'drp_request_errors_total{service="billing",route="/v1/x",method="GET"} 0' in telemetry.text()
    telemetry.request("/v1/x", "GET", 503, 0.01)
    assert 'drp_request_errors_total{service="billing",route="/v1/x",method="GET"} 1' in telemetry.text()


def test_every_promised_latency_is_a_bound_of_the_histogram() -> None:
    """Between two bounds a percentile is a guess."""
    promised = {s.slo.latency_p95 for s in shipped().services.values() if s.slo.latency_p95}
    assert promised
    assert promised <= set(BUCKETS_S)


def test_replicas_on_this_machine_are_scraped_one_by_one_and_keep_their_own_labels() -> None:
    jobs = {job["job_name"]: job for job in prometheus_document(scope("local"))["scrape_configs"]}
    assert jobs["drp-replicas"]["honor_labels"] is True
    assert jobs["drp-replicas"]["file_sd_configs"] == [{"files": [TARGETS_FILE]}]
    assert jobs["drp-router"]["static_configs"] == [{"targets": ["127.0.0.1:21999"]}]
    labels = {c["target_label"]: c for c in jobs["drp-router"]["metric_relabel_configs"]}
    matched = re.fullmatch(labels["slot"]["regex"], "chat-history--green")
    assert matched is not None
    assert matched.groups() == ("chat-history", "green")
    assert (labels["service"]["replacement"], labels["slot"]["replacement"]) == ("$1", "$2")


def test_a_target_names_its_revision_so_that_a_dead_replica_does_too() -> None:
    assert targets_document([Target("billing", "green", "3.1", "127.0.0.1:20020")]) == [
        {"targets": ["127.0.0.1:20020"], "labels": {"service": "billing", "slot": "green", "version": "3.1"}}
    ]


@pytest.mark.parametrize(
    ("environment", "namespaces"),
    [("production", ["ai-processing", "backend", "frontend"]), ("staging", ["therapeutic-ai"])],
)
def test_a_cluster_is_scraped_in_the_namespaces_of_its_environment(environment: str, namespaces: list[str]) -> None:
    job = prometheus_document(scope(environment))["scrape_configs"][0]
    assert job["kubernetes_sd_configs"][0]["namespaces"]["names"] == namespaces
    assert {c["target_label"] for c in job["relabel_configs"] if "target_label" in c} >= {"service", "version", "slot"}


def test_an_environment_may_put_all_services_into_one_namespace() -> None:
    staging = shipped().environments["staging"]
    assert namespaces_of(staging, shipped().services.values()) == ("therapeutic-ai",)


def queries(document: dict[str, Any]) -> set[str]:
    return {target["expr"] for panel in document["panels"] for target in panel.get("targets", ())}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_panel_reads_what_some_rule_records(environment: str) -> None:
    recorded = {rule.record for _, rule in rules(environment) if rule.record}
    read = {name for q in queries(dashboard_document(scope(environment))) for name in re.findall(r"\w+:\w+:\w+", q)}
    assert "service:drp_slo:objective" in read
    assert read <= recorded
    assert not any(raw_metrics(q) for q in queries(dashboard_document(scope(environment))))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_dashboard_is_well_formed(environment: str) -> None:
    document = json.loads(texts(scope(environment))["dashboard.json"])
    assert document["uid"] == f"{environment}-overview"
    assert len(document["uid"]) <= 40
    panels = document["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
    assert [variable["name"] for variable in document["templating"]["list"]] == ["datasource", "service"]
    for panel in panels:
        references = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(references)) == len(references)
        assert panel["type"] == "text" or references


def test_every_kind_of_promise_has_a_panel_with_its_objective() -> None:
    document = dashboard_document(scope("production"))
    promised = {name for s in shipped().services.values() for name in objectives(s)}
    shown = {name for query in queries(document) for name in re.findall(r'slo="(\w+)"', query)}
    assert shown == promised


def test_the_dashboard_of_this_machine_says_that_gpu_use_is_not_applicable() -> None:
    panels = [p for p in dashboard_document(scope("local"))["panels"] if "GPU" in p["title"]]
    assert [panel["type"] for panel in panels] == ["text"]
    assert "qwen-host: not applicable" in panels[0]["options"]["content"]


NAMES = st.sampled_from(["a", "b", "rules/c.yaml", "d"])
TEXTS = st.sampled_from(["1", "2", "3"])


@given(
    wanted=st.dictionaries(NAMES, TEXTS),
    there=st.dictionaries(NAMES, TEXTS),
    ours=st.dictionaries(NAMES, st.lists(TEXTS, max_size=2)),
)
def test_a_plan_touches_only_what_is_ours_and_leads_to_what_is_wanted(
    wanted: dict[str, str], there: dict[str, str], ours: dict[str, list[str]]
) -> None:
    known = {path: [digest(text) for text in written] for path, written in ours.items()}
    planned = plan(wanted, {path: digest(text) for path, text in there.items()}, known)
    for path in {*planned.write, *planned.remove} & set(there):
        assert there[path] in ours.get(path, ())
    after = {path: text for path, text in there.items() if path not in planned.remove}
    after |= {path: wanted[path] for path in planned.write}
    if not planned.foreign:
        assert {path: after.get(path) for path in wanted} == wanted
        assert not [path for path in ours if path in after and path not in wanted]


def test_a_second_export_changes_nothing_and_a_service_that_is_gone_takes_its_file_along(tmp_path: Path) -> None:
    chosen = scope("local")
    assert len(write(tmp_path, texts(chosen)).write) == 25
    assert write(tmp_path, texts(chosen)).nothing
    without = replace(chosen, services=tuple(s for s in chosen.services if s.name != "billing"))
    assert write(tmp_path, texts(without)).remove == ("rules/billing.yaml",)
    assert not (tmp_path / "rules/billing.yaml").exists()
    assert look(tmp_path, texts(without)).nothing


@pytest.mark.parametrize("spoil", ["another's", "ours, changed"])
def test_what_somebody_else_wrote_is_refused_as_a_whole(tmp_path: Path, spoil: str) -> None:
    wanted = texts(scope("local"))
    if spoil == "ours, changed":
        write(tmp_path, wanted)
        (tmp_path / "rules/billing.yaml").unlink()
    (tmp_path / "prometheus.yaml").write_text("mine: true\n")
    with pytest.raises(ForeignFiles, match=r"prometheus\.yaml"):
        write(tmp_path, wanted)
    assert (tmp_path / "prometheus.yaml").read_text() == "mine: true\n"
    assert not (tmp_path / "rules/billing.yaml").exists()


def test_an_export_that_was_interrupted_is_finished_by_the_next_one(tmp_path: Path) -> None:
    write(tmp_path, {"a": "1", "b": "1"})
    after = {"a": "2", "b": "2"}
    (tmp_path / ".b.partial").mkdir()  # in the way of the second file
    with pytest.raises(FolderUnusable):
        write(tmp_path, after)
    assert (tmp_path / "a").read_text() == "2"
    (tmp_path / ".b.partial").rmdir()
    assert write(tmp_path, after).write == ("b",)
    assert look(tmp_path, after).nothing


def test_a_changed_manifest_makes_nothing_outside_the_folder_ours(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    folder.mkdir()
    outside.write_text("1")
    (folder / MANIFEST).write_text(json.dumps({"files": {"../outside": [digest("1")], str(outside): [digest("1")]}}))
    assert write(folder, {"a": "1"}).remove == ()
    assert outside.read_text() == "1"


def drp(tmp_path: Path, *words: str) -> Any:
    return CliRunner().invoke(app, ["--state", str(tmp_path / "state"), *words])


def test_the_verb_writes_all_files_once_and_tells_what_they_cannot_show(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = drp(tmp_path, "monitoring", "export", "--to", str(out), "--json")
    assert first.exit_code == 0, first.output
    assert len(json.loads(first.stdout)["written"]) == 25
    assert not (tmp_path / "state").exists()
    again = drp(tmp_path, "monitoring", "export", "--to", str(out))
    assert "0 files written" in again.stdout
    assert yaml.safe_load((out / "prometheus.yaml").read_text())["global"]["external_labels"] == {
        "environment": "local"
    }


def test_replicas_that_were_told_to_run_are_scraped_where_they_listen(tmp_path: Path) -> None:
    platform = Platform.open("local", state=tmp_path / "state")
    ports, now = ports_for(platform.port_offset), datetime(2026, 1, 1, tzinfo=UTC)
    records = LocalRecords(platform.state.runtime_database, SystemClock(), ports)
    records.declare(platform.catalog.services["billing"])
    filled = FilledSlot(Revision("3.1", "sha256:0", "0"), {}, (20020, 20021), now)
    records.fill("billing", Slot.GREEN, filled)
    out = tmp_path / "out"
    assert drp(tmp_path, "monitoring", "export", "--to", str(out)).exit_code == 0
    found = json.loads((out / TARGETS_FILE).read_text())
    assert [entry["targets"] for entry in found] == [["127.0.0.1:20020"], ["127.0.0.1:20021"]]
    assert found[0]["labels"] == {"service": "billing", "slot": "green", "version": "3.1"}
    router = yaml.safe_load((out / "prometheus.yaml").read_text())["scrape_configs"][1]
    assert router["static_configs"] == [{"targets": [f"127.0.0.1:{ports.admin}"]}]


def test_a_check_finds_files_that_are_missing_or_old(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert drp(tmp_path, "monitoring", "check", "--to", str(out)).exit_code == 1
    drp(tmp_path, "monitoring", "export", "--to", str(out))
    (out / "rules/billing.yaml").unlink()
    found = drp(tmp_path, "monitoring", "check", "--to", str(out), "--json")
    assert found.exit_code == 1
    assert "rules/billing.yaml" in json.loads(found.stdout)["files"]["why"]


def test_without_promtool_the_check_says_that_it_could_not_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    drp(tmp_path, "monitoring", "export", "--to", str(out))
    monkeypatch.setenv("PATH", str(tmp_path))
    found = drp(tmp_path, "monitoring", "check", "--to", str(out), "--json")
    assert found.exit_code == 3
    answers = json.loads(found.stdout)
    assert {name: answer["passed"] for name, answer in answers.items()} == {
        "files": True,
        "rules": None,
        "configuration": None,
    }
