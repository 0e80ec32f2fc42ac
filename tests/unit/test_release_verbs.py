"""Guards `drp release` as a person meets it, without anything running."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from dr_platform.catalog import load_catalog
from dr_platform.cli.app import app
from dr_platform.errors import PlatformError
from tests.catalogs import SHIPPED

pytestmark = pytest.mark.unit


def release(tmp_path: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["--catalog", str(SHIPPED), "--state", str(tmp_path), "release", *words])


def document(tmp_path: Path, *words: str) -> Any:
    done = release(tmp_path, *words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refusal(done: Result) -> str:
    """What the error boundary of the command line would print."""
    assert isinstance(done.exception, PlatformError), done.output
    return str(done.exception)


def test_a_release_of_the_catalog_holds_every_service_and_database(tmp_path: Path) -> None:
    made = document(tmp_path, "create", "3.0")
    catalog = load_catalog(SHIPPED)
    assert made["services"].keys() == catalog.services.keys()
    assert made["databases"].keys() == catalog.databases.keys()
    assert all(made["databases"].values())
    assert made["environment"] == "local"
    assert document(tmp_path, "show", "3.0") == made
    assert document(tmp_path, "create", "3.0") == made


def test_a_variant_differs_in_what_was_set_and_in_nothing_else(tmp_path: Path) -> None:
    release(tmp_path, "create", "3.0")
    release(tmp_path, "create", "3.0-fix", "--set", "billing=1.0.1", "--description", "a fix [urgent]")
    change = document(tmp_path, "diff", "3.0", "3.0-fix")
    assert change["services"].keys() == {"billing"}
    assert change["services"]["billing"]["changed"] == ["version"]
    assert change["databases"] == {}
    assert "1.0.1" in release(tmp_path, "diff", "3.0", "3.0-fix").stdout
    assert "deploy the same" in release(tmp_path, "diff", "3.0", "3.0").stdout
    assert "a fix [urgent]" in release(tmp_path, "list").stdout
    assert "a fix [urgent]" in release(tmp_path, "show", "3.0-fix").stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["create", "3.0", "--set", "billing=2.0.0"], "3.0 is a release of the catalog"),
        (["create", "3.1", "--set", "biling=2.0.0"], "biling"),
        (["create", "3.1", "--set", "billing=two words"], "services.billing: is not written"),
        (["create", "../3.1"], "name: is not written"),
        (["show", "3.1"], "no release of this name was created"),
        (["diff", "3.0", "3.1"], "no release of this name was created"),
    ],
)
def test_a_users_mistake_ends_in_a_refusal_and_stores_nothing(tmp_path: Path, words: list[str], told: str) -> None:
    assert told in refusal(release(tmp_path, *words))
    assert document(tmp_path, "list") == []


@pytest.mark.parametrize("pairs", [["billing"], ["billing=1", "billing=2"]])
def test_a_version_is_set_once_for_a_service(tmp_path: Path, pairs: list[str]) -> None:
    done = release(tmp_path, "create", "3.1", *(word for pair in pairs for word in ("--set", pair)))
    assert done.exit_code == 2
    assert document(tmp_path, "list") == []


def test_another_content_does_not_take_the_name(tmp_path: Path) -> None:
    made = document(tmp_path, "create", "3.1", "--set", "billing=1.0.1")
    assert "exists already" in refusal(release(tmp_path, "create", "3.1", "--set", "billing=1.0.2"))
    assert document(tmp_path, "show", "3.1") == made


def test_a_damaged_release_is_listed_as_damaged_and_fails_the_verb(tmp_path: Path) -> None:
    release(tmp_path, "create", "3.0")
    release(tmp_path, "create", "3.1")
    (stored,) = tmp_path.rglob("releases/3.0.json")
    stored.write_text(stored.read_text().replace('"1.0.0"', '"6.6.6"', 1))
    done = release(tmp_path, "list", "--json")
    assert done.exit_code == 1
    assert [(row["name"], bool(row["digest"])) for row in json.loads(done.stdout)] == [("3.0", False), ("3.1", True)]
    assert "cannot be trusted" in refusal(release(tmp_path, "show", "3.0"))
