"""A release on its way from staging to production, with real databases, secrets, files and the commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from dr_platform.approvals import ApprovalRefused
from dr_platform.cli import promotion_verbs
from dr_platform.clock import ManualClock
from dr_platform.errors import PlatformError
from dr_platform.operations import operations_engine, upgrade
from dr_platform.platform import Platform
from dr_platform.promotion import attested_lines
from dr_platform.readiness import candidate_of, recorder, target_of
from tests.catalogs import shipped_copy
from tests.opened import Opened
from tests.postgres_server import PostgresServer, running_postgres

pytestmark = pytest.mark.contract

# A Wednesday, in no freeze.
NOW = datetime(2026, 1, 7, 12, tzinfo=UTC)
DAY_S = 86400.0
AS = ("--as", "ada")
ADA = (*AS, "--reason", "seen")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@dataclass(frozen=True)
class Promotion:
    """Two environments of one catalog, each with its own database and secrets, and one hand-over store."""

    clock: ManualClock
    staging: Platform
    production: Platform

    def drp(self, *words: str, on: Platform | None = None) -> Result:
        app = typer.Typer()
        promotion_verbs.register(app)
        return CliRunner().invoke(app, list(words), obj=Opened(on or self.production))

    def done(self, *words: str, on: Platform | None = None) -> str:
        result = self.drp(*words, on=on)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.output

    def shut(self) -> dict[str, str]:
        rows = json.loads(self.drp("production-ready", "--json").output)["rows"]
        return {row["name"]: row["standing"] for row in rows if not row["allow"]}

    def verify_in_staging(self) -> None:
        candidate = candidate_of(self.staging, None, self.staging.environment)
        recorder(self.staging).verified(candidate, "rollout")
        self.clock.sleep(DAY_S)
        for suite in target_of(self.production, "production").entry.suites:
            recorder(self.staging).suite_ran(candidate, suite, "suites", passed=True, checks=7, failed=0)

    def hand_over(self) -> None:
        key = self.done("promotion", "key", on=self.staging).strip()
        self.done("promotion", "trust", "staging", key)
        self.done("promotion", "export", on=self.staging)

    def attest_everything(self) -> None:
        for line in attested_lines(target_of(self.production, "production")):
            self.done("attest", line, "--reason", "seen", "--as", "ada")

    def ask(self) -> str:
        asked = self.done("request", "3.0", "--reason", "weekly release", "--as", "rita", "--json")
        return json.loads(asked)["id"]

    def approve(self, request: str, name: str) -> Result:
        return self.drp("approve", request, "--reason", "read the plan", "--as", name)


@contextmanager
def opened_path(server: PostgresServer, folder: Path) -> Iterator[Promotion]:
    clock, catalog = ManualClock(NOW), shipped_copy(folder)

    def opened(environment: str) -> Platform:
        state = folder / "state"
        platform = Platform.open(environment, catalog=catalog, state=state, runtime="local", clock=clock)
        url = server.new_database()
        upgrade(url)
        platform.operations = operations_engine(url)
        return platform

    staging, production = opened("staging"), opened("production")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DRP_PROMOTION_STORE", raising=False)
        yield Promotion(clock, staging, production)
    for platform in (staging, production):
        platform.operations.dispose()


@pytest.fixture
def path(server: PostgresServer, tmp_path: Path) -> Iterator[Promotion]:
    with opened_path(server, tmp_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def untouched(server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Promotion]:
    """For tests that leave nothing behind, as each of them requires."""
    with opened_path(server, tmp_path_factory.mktemp("untouched")) as opened:
        yield opened


def test_a_release_enters_production_when_everything_is_recorded_and_not_before(path: Promotion) -> None:
    first = path.drp("production-ready")
    assert first.exit_code == 1
    assert "may not enter" in first.output
    assert path.shut()["promotion-evidence"] == "failed"

    path.verify_in_staging()
    path.hand_over()
    assert not any(row.startswith(("suite:", "promotion", "verified", "soak")) for row in path.shut())
    path.attest_everything()
    assert path.shut() == {"approvals": "not run"}

    request = path.ask()
    assert path.approve(request, "ada").exit_code == 0
    assert path.shut() == {"approvals": "waiting"}
    assert path.approve(request, "bo").exit_code == 0
    ready = path.drp("production-ready")
    assert ready.exit_code == 0, ready.output
    assert "release 3.0 may enter production" in ready.output
    assert "rehearsal" in ready.output

    path.clock.sleep(DAY_S)
    assert path.shut()["approvals"] == "waiting"
    assert path.shut()["suite:hipaa"] == "stale"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("Rita", "nobody approves their own request", id="oneself"),
        pytest.param("ada", "already", id="twice"),
    ],
)
def test_the_command_refuses_who_may_not_approve(path: Promotion, name: str, reason: str) -> None:
    request = path.ask()
    assert path.approve(request, "ada").exit_code == 0
    refused = path.approve(request, name).exception
    assert isinstance(refused, ApprovalRefused)
    assert reason in str(refused)
    shown = json.loads(path.done("approvals", "--json"))
    assert [a["approver"]["name"] for a in shown[0]["approvals"]] == ["ada"]
    assert shown[0]["judgement"] == "waiting"


def test_a_changed_setting_of_the_environment_voids_what_was_agreed(path: Promotion) -> None:
    request = path.ask()
    for name in ("ada", "bo"):
        assert path.approve(request, name).exit_code == 0
    assert json.loads(path.done("approvals", "--json"))[0]["judgement"] == "allowed"

    changed = path.production.catalog.root / "environments" / "production.yaml"
    changed.write_text(changed.read_text().replace('confidence_threshold: "0.7"', 'confidence_threshold: "0.6"'))
    now = Platform.open(
        "production",
        catalog=path.production.catalog.root,
        state=path.production.state.root.parent,
        runtime="local",
        clock=path.clock,
    )
    now.operations = path.production.operations
    shown = json.loads(path.done("approvals", "--json", on=now))
    assert (shown[0]["judgement"], shown[0]["reason"]) == (
        "refused",
        "the plan has changed since approval was requested",
    )
    path.done("request", "3.0", "--reason", "new threshold", "--as", "rita", on=now)
    reasons = [
        entry["voided"] and entry["voided"]["reason"] for entry in json.loads(path.done("approvals", "--json", on=now))
    ]
    assert sorted(reasons, key=str) == [None, "the plan has changed"]
    late = path.drp("approve", request, "--reason", "late", "--as", "cleo", on=now)
    assert isinstance(late.exception, ApprovalRefused)


def test_a_changed_byte_in_the_store_shuts_the_gate(path: Promotion) -> None:
    path.verify_in_staging()
    path.hand_over()
    assert "promotion-evidence" not in path.shut()
    (file,) = (path.production.state.root.parent / "promotion").rglob("*.json")
    file.write_bytes(file.read_bytes().replace(b'"failed":0', b'"failed":1', 1))
    shut = path.shut()
    assert shut["promotion-evidence"] == "failed"
    assert shut["verified"] == "not run"


def test_another_environments_key_opens_nothing(path: Promotion) -> None:
    path.verify_in_staging()
    path.hand_over()
    own = path.done("promotion", "key").strip()
    path.done("promotion", "trust", "staging", own)
    assert path.shut()["promotion-evidence"] == "failed"


def test_holds_freezes_and_waivers_are_obeyed_and_end(path: Promotion) -> None:
    reason = ("--reason", "incident", "--as", "olga")
    path.done("hold", "set", "3.0", *reason)
    path.done("freeze", "on", *reason)
    assert {"holds", "freeze"} <= path.shut().keys()
    assert json.loads(path.done("freeze", "show", "--json"))["frozen"] is True
    path.done("hold", "clear", "3.0", *reason)
    path.done("freeze", "off", *reason)
    assert not {"holds", "freeze"} & path.shut().keys()
    assert json.loads(path.done("freeze", "show", "--json"))["frozen"] is False

    path.done("waive", "soak", "--reason", "security correction", "--as", "ada")
    assert "soak" in path.shut()
    path.done("waive", "soak", "--reason", "security correction", "--as", "bo")
    assert "soak" not in path.shut()
    path.clock.sleep(8 * DAY_S)
    assert "soak" in path.shut()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        pytest.param(["approve", "apr-nothing", *ADA], "no such request", id="unknown request"),
        pytest.param(["attest", "approvals", *ADA], "nobody has to vouch", id="no such line"),
        pytest.param(["attest", "ci-tests", *ADA], "nobody has to vouch", id="a line that suites prove"),
        pytest.param(["waive", "suite:hipaa", *ADA], "no row of the gate that can be waived", id="HIPAA is not waived"),
        pytest.param(["request", "9.9", *ADA], "no such release", id="unknown release"),
        pytest.param(["production-ready", "--to", "moon"], "no such environment", id="unknown environment"),
        pytest.param(["promotion", "trust", "staging", "abc"], "not a public key", id="no key"),
        pytest.param(["attest", "review", *AS, "--reason", "api_key = abcd1234"], "refused", id="a secret as reason"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_and_leaves_no_entry(untouched: Promotion, words: list[str], told: str) -> None:
    result = untouched.drp(*words)
    assert isinstance(result.exception, PlatformError)
    assert told in str(result.exception)
    assert result.exception.exit_code == 2
    assert untouched.production.evidence.count() == 0


def test_a_declared_name_is_refused_outside_of_rehearsals(untouched: Promotion) -> None:
    real = Platform(
        untouched.production.catalog,
        untouched.production.environment,
        untouched.production.state,
        clock=untouched.clock,
    )
    real.operations = untouched.production.operations
    assert real.binding.runtime == "kubernetes"
    result = untouched.drp("attest", "review", "--reason", "seen", "--as", "ada", on=real)
    assert isinstance(result.exception, PlatformError)
    assert "rehearsals" in str(result.exception)
    assert untouched.production.evidence.count() == 0


def test_where_nothing_answers_every_row_is_unknown_and_the_command_says_it_could_not_look(
    untouched: Promotion,
) -> None:
    there = untouched.production
    down = Platform(there.catalog, there.environment, there.state, runtime="local", clock=there.clock)
    down.operations = operations_engine("postgresql://nobody@/none?host=/nonexistent")
    result = untouched.drp("production-ready", "--json", on=down)
    assert result.exit_code == 3
    assert {row["standing"] for row in json.loads(result.output)["rows"]} == {"unknown"}
    assert "drp up" in untouched.drp("production-ready", on=down).output
