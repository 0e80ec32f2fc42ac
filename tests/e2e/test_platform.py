"""Guards what a user gets: everything up through Dagster, healed when broken, gone when taken away."""

from __future__ import annotations

import json
import os
import signal
import urllib.request

import psutil
import pytest

from dr_platform.runtime.local.supervisor import Supervisor
from dr_platform.state import locate_state
from tests.e2e.platform_process import ENVIRONMENT, Command, await_true

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

NEW_SERVICE = """
name: care-plans
title: Care plans
description: A service that a newcomer adds.
language: go
tier: backend
port: 8090
owner: team:platform
image: dr-assistant/care-plans
needs: {services: [], databases: [postgres]}
data_class: phi
resources:
  cpu: {request: 0.5, limit: 1}
  memory: {request: 512 MiB, limit: 1 GiB}
"""
WHOLE_AGAIN_S = 60


def processes(platform: Command) -> dict[str, int]:
    """Supervised process, such as ``billing-blue.24320``, to pid, read from the platform itself."""
    return {row["name"]: row["pid"] for row in platform.json("top") if row["pid"]}


def is_whole(platform: Command) -> bool:
    status = platform.json("status")
    return all(s["healthy"] for s in status["services"]) and all(d["healthy"] for d in status["databases"])


@pytest.fixture(autouse=True)
def healthy(platform: Command) -> None:
    """Each test begins with a healthy platform, which is what the one before must leave."""
    await_true("all services are healthy", lambda: platform.run("health").returncode == 0, 2 * WHOLE_AGAIN_S)


def test_up_leaves_every_asset_green(platform: Command) -> None:
    await_true("nothing is red", lambda: platform.json("status")["assets"]["failing"] == [], 150, every=5)
    status = platform.json("status")
    assert status["environment"] == ENVIRONMENT
    assert len(status["services"]) >= 22
    assert {d["engine"] for d in status["databases"]} == {"postgresql", "mongodb", "redis", "scylladb"}
    assert status["assets"]["failed"] == 0
    assert status["assets"]["materialized"] >= 22 + 4 + 4
    assert status["assets"]["checks_passed"] > status["assets"]["materialized"]


def test_health_is_each_services_own_answer(platform: Command) -> None:
    health = platform.json("health")
    assert health["healthy"] is True
    for name, body in health["services"].items():
        assert body["service"] == name
        assert {"status", "version", "timestamp", "dependencies", "compliance"} <= set(body)


def test_a_second_up_restarts_nothing(platform: Command) -> None:
    before = processes(platform)
    platform.ok("up")
    assert processes(platform) == before


def test_the_ui_shows_the_graph_with_sensors_and_schedules_on(platform: Command) -> None:
    url = platform.json("status")["urls"]["dagster"]
    with urllib.request.urlopen(url, timeout=10) as page:
        assert page.status == 200
    query = """{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError {
        ... on RepositoryLocation {
        repositories { sensors { sensorState { status } } schedules { scheduleState { status } } } } } } } } }"""
    request = urllib.request.Request(
        f"{url}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        entries = json.load(answer)["data"]["workspaceOrError"]["locationEntries"]
    repository = entries[0]["locationOrLoadError"]["repositories"][0]
    states = [s["sensorState"]["status"] for s in repository["sensors"]]
    states += [s["scheduleState"]["status"] for s in repository["schedules"]]
    assert len(states) >= 5
    assert set(states) == {"RUNNING"}


def test_search_finds_the_article_that_answers(platform: Command) -> None:
    hits = platform.json("search", "I lie awake for hours and cannot fall asleep")
    assert 1 <= len(hits) <= 10
    assert all({"document", "title", "score", "text"} <= set(hit) for hit in hits)
    assert hits == sorted(hits, key=lambda hit: -hit["score"])


def test_the_conversation_answers_with_sources(platform: Command) -> None:
    said = platform.run("demo", stdin="How can I remember to take my tablets?\n\n")
    assert said.returncode == 0, said.stderr
    assert "platform >" in said.stdout


@pytest.mark.parametrize(
    "victim",
    [
        *("billing", "router", "redis", "postgres", "mongodb", "scylladb", "operations-db"),
        *("dagster-daemon", "dagster-webserver", "dagster-code", "controller", "keeper", "supervisord"),
    ],
)
def test_whatever_is_killed_comes_back_by_itself(platform: Command, victim: str) -> None:
    state = locate_state(ENVIRONMENT, platform.state)
    offset = state.events.stat().st_size if state.events.exists() else 0
    if victim == "supervisord":
        pid = Supervisor(state).pid()
        assert pid is not None
    else:
        pid = next(
            p
            for name, p in processes(platform).items()
            if name.split(".")[0].removesuffix("-blue").removesuffix("-green") == victim
        )
    born = psutil.Process(pid).create_time()
    os.kill(pid, signal.SIGKILL)

    def replaced() -> bool:
        try:
            return psutil.Process(pid).create_time() != born
        except psutil.NoSuchProcess:
            return True

    await_true(f"{victim} has ended", replaced, 5, every=0.05)
    await_true(f"the platform is whole after {victim} was killed", lambda: is_whole(platform), WHOLE_AGAIN_S)

    def told() -> bool:
        lines = state.events.read_text(encoding="utf-8")[offset:].splitlines()
        return any(json.loads(line)["program"].startswith(victim) for line in lines)

    await_true(f"the log says what happened to {victim}", told, 15)


def test_a_23rd_service_is_one_file(platform: Command) -> None:
    file = platform.catalog / "services" / "care-plans.yaml"
    file.write_text(NEW_SERVICE)
    refused = platform.run("up")
    assert refused.returncode == 2
    assert "care-plans.yaml" in refused.stderr
    assert "port" in refused.stderr
    file.write_text(NEW_SERVICE.replace("port: 8090", "port: 8189"))
    platform.ok("up")
    added = next(s for s in platform.json("status")["services"] if s["name"] == "care-plans")
    assert added["healthy"]
    with urllib.request.urlopen(f"{added['address']}/health", timeout=10) as answer:
        assert json.load(answer)["service"] == "care-plans"
    platform.ok("check", "services/care-plans")
    file.unlink()
    platform.ok("up")
    assert "care-plans" not in {s["name"] for s in platform.json("status")["services"]}
    assert not [name for name in processes(platform) if name.startswith("care-plans")]


def test_a_busy_port_is_named_with_its_holder_before_anything_starts(platform: Command) -> None:
    rival = Command(platform.catalog, platform.state.parent / "rival")
    refused = rival.run("up")
    assert refused.returncode == 2
    assert "api-gateway needs" in refused.stderr
    assert "held by" in refused.stderr
    assert not rival.state.exists()
