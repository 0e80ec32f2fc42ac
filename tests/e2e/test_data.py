"""Guards what is done with data on a running platform: filled in, backed up, proved, brought back, checked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.platform_process import Command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

FILL = """-- batched: knowledge.documents by id, 10 rows
UPDATE knowledge.documents SET tags = tags WHERE in_batch(id);
"""
UNDO = "SELECT 1;\n"


@pytest.fixture
def filling(platform: Command) -> Iterator[str]:
    """A step in the catalog that fills in data; it is taken back afterwards."""
    folder = platform.catalog / "databases" / "postgres" / "migrations"
    step, undo = folder / "V9_0_0__fill_tags.sql", folder / "U9_0_0__fill_tags.sql"
    step.write_text(FILL)
    undo.write_text(UNDO)
    yield "9.0.0"
    platform.ok("migrate", "postgres", "--down", "1")
    step.unlink()
    undo.unlink()


def test_data_is_filled_in_by_a_job_of_the_runtime(platform: Command, filling: str) -> None:
    plan = platform.json("migrate", "postgres", "--plan")
    assert [(s["version"], s["phase"], s["destructive"]) for s in plan["steps"]] == [(filling, "data", False)]
    tried = platform.json("fill", "postgres", filling, "--dry-run")
    assert tried["visited"] == 10
    assert platform.json("migrate", "postgres")["applied"] == [filling]
    assert platform.json("migrate", "postgres", "--plan")["current"] == filling


def test_a_backup_is_proved_and_brought_back_beside_the_live_database(platform: Command) -> None:
    made = platform.json("backup", "postgres", "--reason", "a test")
    assert made["state"] == "verified", made["reason"]
    assert made in platform.json("backups")
    words = ("restore", "postgres", "--backup", made["id"])
    assert platform.run(*words, "--into", "therapeutic_ai", "--confirm", made["id"]).returncode == 2
    platform.ok(*words, "--into", "brought_back", "--confirm", made["id"])
    assert platform.run(*words, "--into", "brought_back", "--confirm", made["id"]).returncode != 0


def test_invented_people_fill_all_databases_and_keep_every_rule(platform: Command) -> None:
    platform.ok("synthesize", "--seed", "1", "--scale", "0.05")
    found = platform.json("check", "--suite", "data")
    assert [f"{r['asset']} {r['check']}: {r['reason']}" for r in found["results"] if not r["passed"]] == []
