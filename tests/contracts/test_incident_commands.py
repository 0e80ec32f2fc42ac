"""``drp incident`` on the platform's own database, as people use it after a rollback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from dr_platform.cli.app import app
from dr_platform.cli.incident_verbs import IncompleteFile
from dr_platform.databases.embedded.system import SystemPostgres
from dr_platform.evidence import RefusedEvidence
from dr_platform.incidents import (
    BreachNotAssessed,
    IncidentLedger,
    OutOfOrder,
    Responders,
    TriggerKind,
    UnknownIncident,
)
from dr_platform.operations import upgrade
from dr_platform.platform import Platform
from dr_platform.state import StateDirectory
from tests.embedded_programs import running, temporary_state
from tests.incidents import CONTROLLER, FACTORS, T0, an_opening

pytestmark = pytest.mark.contract

LESSER, PRESUMED = "inc-ro-lesser-1", "inc-ro-presumed-1"
ANSWERS = ["--nature", "titles", "--person", "none found", "--acquired", "not viewed", "--mitigation", "taken out"]


@pytest.fixture(scope="module")
def state() -> Iterator[StateDirectory]:
    with temporary_state() as state:
        system = SystemPostgres(state)
        system.acquire(print)
        system.prepare()
        with running(system.program(), state):
            system.initialise(20.0)
            upgrade(system.url("operations"))
            yield state


@pytest.fixture
def ledger(state: StateDirectory) -> IncidentLedger:
    return Platform.open("local", state=state.root.parent).incidents


@pytest.fixture
def drp(state: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DRP_ACTOR", "dana@example.org")

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, ["--state", str(state.root.parent), "incident", *words])

    return run


def test_a_lesser_incident_is_listed_shown_resolved_and_closed(ledger: IncidentLedger, drp: Any) -> None:
    ledger.open(LESSER, an_opening(), CONTROLLER)
    ledger.mitigate(LESSER, T0 + timedelta(seconds=40), CONTROLLER)
    row = next(row for row in json.loads(drp("list", "--json").stdout) if row["id"] == LESSER)
    assert list(row) == [
        "id", "service", "trigger", "status", "opened_at", "detected_s", "restored_s", "failed_requests",
    ]  # fmt: skip
    assert (row["status"], row["detected_s"], row["restored_s"], row["failed_requests"]) == ("mitigated", 12, 52, None)
    assert LESSER in drp("list").stdout
    assert isinstance(drp("close", LESSER).exception, OutOfOrder)
    assert drp("resolve", LESSER, "--reason", "the former version serves alone").exit_code == 0
    assert drp("close", LESSER).stdout == f"{LESSER}: closed\n"
    shown = json.loads(drp("show", LESSER, "--json").stdout)
    assert (shown["status"], shown["resolution"]) == ("closed", "the former version serves alone")
    assert drp("show", LESSER, "--markdown").stdout.startswith(f"# Incident {LESSER}: billing in staging\n")
    assert "traffic restored" in drp("show", LESSER).stdout


def test_a_presumed_breach_is_signed_by_whoever_is_named_and_whoever_recorded_it(
    ledger: IncidentLedger, drp: Any, tmp_path: Path
) -> None:
    ledger.open(PRESUMED, an_opening(kind=TriggerKind.HIPAA), CONTROLLER)
    assert isinstance(drp("resolve", PRESUMED, "--reason", "fixed").exception, BreachNotAssessed)
    assert "notice, individuals: 2026-03-02" in drp("show", PRESUMED).stdout
    answered = drp("assess", PRESUMED, *ANSWERS, "--conclusion", "breach", "--affected", "3", "--signer", "kim")
    assert answered.exit_code == 0, answered.exception
    file = tmp_path / "assessment.yaml"
    factors = "\n".join(f"  {name}: '{text}'" for name, text in FACTORS.model_dump().items())
    file.write_text(f"conclusion: breach\naffected_persons: 3\nfactors:\n{factors}\n", encoding="utf-8")
    options = ["--conclusion", "low_probability", "--discovered", "2025-12-30", "--nature", "titles"]
    signed = drp("assess", PRESUMED, "--file", str(file), *options, "--json")
    assessment = json.loads(signed.stdout)["breach_assessment"]
    assert (assessment["conclusion"], assessment["assessor"]) == ("low_probability", "dana@example.org")
    assert assessment["discovered_at"] == "2025-12-30T00:00:00Z"
    assert assessment["factors"] == {**FACTORS.model_dump(), "nature_and_extent": "titles"}
    entries = [e for e in ledger.show(PRESUMED).timeline if e.event.startswith("breach assessment signed")]
    assert [(e.event, e.actor) for e in entries] == [
        ("breach assessment signed: breach", "kim, recorded by dana@example.org"),
        ("breach assessment signed: low probability", "dana@example.org"),
    ]
    assert drp("resolve", PRESUMED, "--reason", "fixed").exit_code == 0
    assert isinstance(drp("close", PRESUMED).exception, OutOfOrder)
    assert drp("review", PRESUMED, "--factor", "one", "--factor", "another", "--well", "quick").exit_code == 0
    assert drp("close", PRESUMED).exit_code == 0


def test_responders_acknowledge_take_notes_and_are_named(ledger: IncidentLedger, drp: Any) -> None:
    incident = "inc-ro-people-1"
    ledger.open(incident, an_opening(), CONTROLLER)
    for words in (
        ("acknowledge", incident),
        ("note", incident, "asked the team", "--at", "2026-01-01 00:10:00", "--link", "run 12"),
        ("respond", incident, "--commander", "dana", "--expert", "kim"),
        ("respond", incident, "--scribe", "lee"),
    ):
        assert drp(*words).exit_code == 0
    acknowledged = ledger.show(incident).acknowledged_at
    drp("acknowledge", incident)
    found = ledger.show(incident)
    assert (found.acknowledged_at, found.acknowledged_at is not None) == (acknowledged, True)
    assert found.responders == Responders(incident_commander="dana", scribe="lee", subject_experts=("kim",))
    told = next(line for line in found.timeline if line.event == "asked the team")
    assert (told.at, told.source_link, told.actor) == (T0 + timedelta(minutes=10), "run 12", "dana@example.org")


@pytest.mark.parametrize(("text", "told"), [
    ("conclusion: maybe\n", "conclusion: is none of the values"),
    ("conclusion: breach\nsurprise: 1\n", "surprise: is not known"),
    ("factors: yes\n", "factors.mitigation: is missing"),
    ("a: [\n", "not valid YAML"),
    ("conclusion: breach\nconclusion: breach\n", "is written twice"),
])  # fmt: skip
def test_a_file_that_cannot_be_signed_is_refused_by_its_fields(drp: Any, tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "assessment.yaml"
    file.write_text(text, encoding="utf-8")
    refused = drp("assess", "inc-any", "--file", str(file)).exception
    assert isinstance(refused, IncompleteFile)
    assert told in str(refused)
    assert "maybe" not in str(refused)


def test_what_nobody_opened_cannot_be_acted_on(drp: Any) -> None:
    for words in (("show", "inc-none"), ("resolve", "inc-none", "--reason", "x"), ("close", "inc-none")):
        assert isinstance(drp(*words).exception, UnknownIncident)


def test_a_reason_that_identifies_a_patient_is_refused(ledger: IncidentLedger, drp: Any) -> None:
    ledger.open("inc-ro-phi-1", an_opening(), CONTROLLER)
    refused = drp("resolve", "inc-ro-phi-1", "--reason", "patient SSN 987-65-4321 was served")
    assert isinstance(refused.exception, RefusedEvidence)
    assert json.loads(drp("show", "inc-ro-phi-1", "--json").stdout)["status"] == "open"
