"""One running platform for all end-to-end tests: bringing it up is the longest part of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dr_platform.platform import find_catalog
from tests.e2e.platform_process import ATTEMPTS, ENVIRONMENT, PERFORMANCE, Command


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The second guide reads it after a deployment: ``make test | grep "Performance:"``."""
    if line := config.stash.get(PERFORMANCE, ""):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def platform() -> Iterator[Command]:
    root = Path(tempfile.mkdtemp(prefix="drp-e2e-"))
    root.chmod(0o755)
    shutil.copytree(find_catalog(), root / "catalog")
    with (root / "catalog" / "environments" / f"{ENVIRONMENT}.yaml").open("a", encoding="utf-8") as file:
        file.write(f"\nremediation: {{attempts: {ATTEMPTS}, failing_for: 5 s, first_pause: 3 s, well_for: 20 s}}\n")
        file.write("service_start: 18 s\n")
    command = Command(root / "catalog", root / "state")
    try:
        command.ok("up", timeout_s=600)
        yield command
    finally:
        ended = command.run("reset", "--yes", timeout_s=120)
        left = left_of(root / "state")
        shutil.rmtree(root, ignore_errors=True)
    assert ended.returncode == 0, ended.stderr
    assert left == []


def left_of(state: Path) -> list[str]:
    """Files of a reset state, and processes that carry its marker."""
    files = [str(path) for path in (state / ENVIRONMENT).rglob("*")]
    marker = f"DRP_STATE_ROOT={state}/".encode()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker in environ.read_bytes():
                files.append(f"process {environ.parent.name}")
        except OSError:
            continue  # ended between two looks, or another user's
    return files
