"""Guards that suites are what gates ask for: nothing unassigned, nothing empty, no answer is no pass."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

import pytest

from dr_platform.health import looks
from dr_platform.look import Look
from dr_platform.platform import Platform, find_catalog
from dr_platform.suites import (
    SUITES,
    NothingToCheck,
    Result,
    UnknownSuite,
    complete,
    performance_line,
    select,
    suites_of,
)
from dr_platform.verdict import Verdict

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
ASKED_FOR = ("health", "smoke", "integration", "hipaa", "ai", "security", "performance", "recovery", "data")


@cache
def every() -> tuple[Look, ...]:
    return looks(Platform.open("local", catalog=find_catalog(), state=Path("/nonexistent")))


def checks(suite: str) -> set[tuple[str, str]]:
    return {("/".join(look.asset), look.check) for look in select(every(), suite, None)}


@pytest.mark.parametrize("suite", ASKED_FOR)
def test_a_suite_has_checks(suite: str) -> None:
    assert checks(suite)


def test_every_check_belongs_to_a_suite_of_the_catalogs_names() -> None:
    for look in every():
        assert suites_of(look), f"{look.asset} {look.check}"
        assert suites_of(look) <= set(SUITES)


def test_a_check_that_nobody_assigned_belongs_to_no_suite() -> None:
    assert suites_of(Look(("services", "any"), "novel", "", lambda: Verdict(True, ""))) == frozenset()


def test_every_service_is_smoke_tested_and_judged_by_its_promises_and_its_door() -> None:
    services = {f"services/{name}" for name in Platform.open("local", catalog=find_catalog()).catalog.services}
    for suite, check in (("smoke", "smoke"), ("performance", "performance"), ("security", "access")):
        assert {asset for asset, name in checks(suite) if name == check} == services


def test_ai_is_retrieval_the_gates_of_articles_latency_crisis_refusal_and_identifiers() -> None:
    gates = {"duplicates", "language", "phi", "staleness"}
    said = {"retrieval", "latency", "crisis", "refusal", "identifiers"}
    assert {check for _asset, check in checks("ai")} == said | gates
    timed = {asset for asset, check in checks("ai") if check == "latency"}
    assert timed == {f"services/{name}-service" for name in ("search", "embedding", "generation")}


def test_databases_are_judged_by_their_promised_latency_in_the_performance_suite() -> None:
    assert {asset for asset, check in checks("performance") if check == "healthy"} == {
        f"databases/{name}" for name in ("postgres", "mongodb", "redis", "scylladb")
    }


def test_a_selection_narrows_a_suite() -> None:
    found = select(every(), "smoke", "services/billing")
    assert [(look.asset, look.check) for look in found] == [(("services", "billing"), "smoke")]


def test_a_suite_that_does_not_exist_and_one_that_has_no_checks_are_refused_with_those_there_are() -> None:
    without = [look for look in every() if look.asset[0] != "backups"]
    for name, known in (("speed", every()), ("recovery", without)):
        with pytest.raises(UnknownSuite) as refused:
            select(known, name, None)
        there_are = [suite for suite in ASKED_FOR if known is not without or suite != "recovery"]
        assert ", ".join(there_are) in refused.value.next_step


@pytest.mark.parametrize(
    ("suite", "selection", "what"),
    [
        ("smoke", "databases", "databases: no check of the suite smoke belongs to it"),
        (None, "services/nobody", "services/nobody: no check belongs to it"),
        (None, "services/api", "services/api: no check belongs to it"),
    ],
)
def test_nothing_to_check_is_refused_and_does_not_pass(suite: str | None, selection: str, what: str) -> None:
    with pytest.raises(NothingToCheck) as refused:
        select(every(), suite, selection)
    assert refused.value.what == what


def test_an_expected_check_without_an_answer_has_not_passed() -> None:
    expected = select(every(), "smoke", "services/billing")
    (result,) = complete([], expected)
    assert result.as_json() == {
        "asset": "services/billing",
        "check": "smoke",
        "passed": False,
        "reason": "could not look: the run gave no answer",
    }
    given = Result("services/billing", "smoke", True, "answers")
    assert complete([given], expected) == (given,)


def test_the_performance_line_sets_what_was_measured_beside_what_was_promised() -> None:
    gateway, slow = "services/api-gateway", "services/auth-rbac"
    results = (
        Result(gateway, "performance", True, "fine", {"p95_ms": 43.2, "limit_ms": 100.0}),
        Result(slow, "performance", False, "p95 71 ms of at most 50 ms", {"p95_ms": 71.0, "limit_ms": 50.0}),
        Result(slow, "smoke", False, "not about performance"),
    )
    assert performance_line(results, every()) == (
        "Performance: 1 of 2 promises kept; api-gateway p95 43.2 of 100 ms; auth-rbac: p95 71 ms of at most 50 ms"
    )


def test_what_was_not_measured_is_not_said_to_be_fast() -> None:
    assert performance_line([Result("services/billing", "smoke", True, "")], every()).startswith(
        "Performance: not measured"
    )


@pytest.mark.parametrize(
    ("verb", "command"),
    [
        ("test-all", "drp check"),
        ("test-all-verbose", "drp check --verbose"),
        ("test-hipaa", "drp check --suite hipaa"),
        ("test-ai", "drp check --suite ai"),
        ("test-security", "drp check --suite security"),
        ("test-hipaa-verbose", "drp check --suite hipaa --verbose"),
        ("test-hipaa-staging", "drp --env staging check --suite hipaa"),
        ("test-performance-staging", "drp --env staging check --suite performance"),
        ("test-integration-staging", "drp --env staging check --suite integration"),
        ("security-scan-staging", "drp --env staging check --suite security"),
        ("health-check-production", "drp --env production health"),
    ],
)
def test_the_guides_verbs_run_the_suite_that_they_name(verb: str, command: str) -> None:
    words = ("make", "--no-print-directory", "--dry-run", "--old-file=.venv/run", verb)
    # These tests may themselves be run by make, which would hand its own options and level down.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT, env=environment, timeout=30)
    assert " ".join(done.stdout.split()) == f".venv/bin/{command}"


@pytest.mark.parametrize("suite", ASKED_FOR)
def test_a_suite_stands_in_the_document(suite: str) -> None:
    assert f"| `{suite}` |" in (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
