"""The verbs of backups where nothing runs: what they print, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from dr_platform.backup_desk import UnknownDatabase, moment_of
from dr_platform.backups.errors import UnknownBackup
from dr_platform.backups.keys import EscrowExists, IdentityNotWritten, NoRecipient
from dr_platform.cli.app import app

pytestmark = pytest.mark.unit


def drp(state: Path, *words: object) -> Result:
    return CliRunner().invoke(app, ["--state", str(state), *map(str, words)])


def test_no_backup_is_an_empty_list_and_no_failure(tmp_path: Path) -> None:
    done = drp(tmp_path, "backups", "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (0, [])


@pytest.mark.parametrize(
    ("words", "error"),
    [
        pytest.param(("backup", "oracle"), UnknownDatabase, id="unknown database"),
        pytest.param(("backups", "--database", "oracle"), UnknownDatabase, id="list of an unknown database"),
        pytest.param(("restore", "redis", "--backup", "b-1", "--into", "7"), UnknownBackup, id="unknown backup"),
        pytest.param(("backups", "prove", "b-1"), UnknownBackup, id="proof of an unknown backup"),
        pytest.param(("backup-keys", "show"), NoRecipient, id="no recipient yet"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_to_do(tmp_path: Path, words: tuple[str, ...], error: type) -> None:
    done = drp(tmp_path, *words)
    assert isinstance(done.exception, error)
    assert done.exception.exit_code == 2  # type: ignore[union-attr]


def test_the_escrow_identity_is_made_once_for_its_owner_alone_and_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "kept" / "identity.txt"
    made = drp(tmp_path / "state", "backup-keys", "init", "--identity", file, "--json")
    assert made.exit_code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    secret = next(line for line in file.read_text().splitlines() if line.startswith("AGE-SECRET-KEY-"))
    shown = drp(tmp_path / "state", "backup-keys", "show", "--json")
    assert json.loads(shown.stdout)["recipients"] == [json.loads(made.stdout)["recipient"]]
    assert secret not in made.output + shown.output
    stored = b"".join(p.read_bytes() for p in (tmp_path / "state").rglob("*") if p.is_file())
    assert secret.encode() not in stored
    again = drp(tmp_path / "state", "backup-keys", "init", "--identity", tmp_path / "other.txt")
    assert isinstance(again.exception, EscrowExists)
    assert not (tmp_path / "other.txt").exists()


def test_an_identity_never_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "identity.txt").write_text("something else")
    done = drp(tmp_path / "state", "backup-keys", "init", "--identity", tmp_path / "identity.txt")
    assert isinstance(done.exception, IdentityNotWritten)
    assert (tmp_path / "identity.txt").read_text() == "something else"


@pytest.mark.parametrize(
    "words", [("--until", "yesterday"), ("--point", "2026-11-26"), ("--until", "2026-11-26T10:00:00Z", "--point", "a")]
)
def test_a_moment_is_a_time_or_a_name_and_not_both(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = drp(tmp_path, "restore", "postgres", "--backup", "b-1", "--into", "copy", *words)
    assert done.exit_code == 2
    assert done.exception is None or isinstance(done.exception, SystemExit)


def test_a_time_without_a_zone_is_utc() -> None:
    assert moment_of("2026-11-26T10:00:00") == moment_of("2026-11-26T10:00:00Z")
    assert moment_of("before-1.2.0") is None
