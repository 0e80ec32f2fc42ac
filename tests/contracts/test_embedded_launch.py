"""What happens right before each start of a server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dr_platform.databases.embedded import launch
from dr_platform.databases.embedded.launch import forget_stale_process
from dr_platform.secrets.embedded import EmbeddedSecretStore

pytestmark = pytest.mark.contract


def start(*arguments: str, state: Path) -> subprocess.CompletedProcess[str]:
    environment = {"DRP_STATE_ROOT": str(state), "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run([*launch.COMMAND, *arguments], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("text", ["", "not a number\n", "-\n", "999999999\n/data\n"])
def test_a_process_file_that_names_no_running_process_is_removed(tmp_path: Path, text: str) -> None:
    file = tmp_path / "server.pid"
    file.write_text(text)
    forget_stale_process(file, "/usr/bin/server")
    assert not file.exists()


def test_a_process_file_whose_number_now_belongs_to_another_program_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "server.pid"
    file.write_text(f"{os.getpid()}\n")
    forget_stale_process(file, "/usr/bin/server")
    assert not file.exists()


def test_the_process_file_of_a_running_server_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "server.pid"
    file.write_text(f"{os.getpid()}\n")
    forget_stale_process(file, sys.executable)
    assert file.exists()


def test_secrets_reach_the_program_by_its_environment_alone(tmp_path: Path) -> None:
    store = EmbeddedSecretStore(tmp_path / "secrets")
    store.write("databases/store/admin", {"password": "not-in-argv"}, category="database-credentials", expected=None)
    show = "import os, sys; print(os.environ['SERVER_PASSWORD'], sys.argv)"
    finished = start(
        "--secret", "SERVER_PASSWORD=databases/store/admin#password", "--", sys.executable, "-c", show, state=tmp_path
    )
    assert finished.stdout == "not-in-argv ['-c']\n"


def test_a_secret_that_does_not_exist_ends_the_start_and_is_named(tmp_path: Path) -> None:
    EmbeddedSecretStore(tmp_path / "secrets").write("other", {"a": "b"}, category="c", expected=None)
    finished = start("--secret", "P=databases/store/admin#password", "--", sys.executable, state=tmp_path)
    assert finished.returncode == 1
    assert "databases/store/admin" in finished.stderr


def test_files_of_the_program_are_private_and_its_folder_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "sockets"
    write = f"open({str(folder / 'file')!r}, 'w')"
    assert start("--directory", str(folder), "--", sys.executable, "-c", write, state=tmp_path).returncode == 0
    assert (folder.stat().st_mode & 0o777, (folder / "file").stat().st_mode & 0o777) == (0o700, 0o600)
