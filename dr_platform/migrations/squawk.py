"""Asking squawk, a linter of PostgreSQL migrations, what it thinks of files.

Here: running it and reading its report. Not here: which of its rules block anything (``lint``).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dr_platform.errors import TemporaryFailure
from dr_platform.migrations.lint import Fault

SERVER_VERSION = "16.0"
"""What files are judged for where no server is asked; right before they run they are judged for the server's own."""
_TIMEOUT_S = 30.0


class SquawkUnavailable(TemporaryFailure):
    """It could not look, which is no permission."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.what = f"migrations could not be judged, squawk {reason}"
        self.untouched = "every schema"
        self.next_step = "install it with the platform's other packages (squawk-cli), then repeat"


@dataclass(frozen=True)
class SquawkProgram:
    """``server_version`` as the server gives it, such as ``16.4``: rules differ between versions."""

    server_version: str = SERVER_VERSION

    def __call__(self, paths: Sequence[Path], *, transactional: bool) -> Sequence[Fault]:
        command = [_program(), "--reporter", "json", "--pg-version", self.server_version]
        command += ["--assume-in-transaction"] if transactional else []
        # The configuration of whoever stands in a folder must not decide what blocks.
        command += ["--config", "/dev/null", *map(str, paths)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise SquawkUnavailable(f"did not run: {type(exc).__name__}") from None
        return _read(done.stdout, done.returncode)


def _program() -> str:
    beside = Path(sys.executable).parent / "squawk"
    found = str(beside) if beside.is_file() else shutil.which("squawk")
    if found is None:
        raise SquawkUnavailable("is not installed")
    return found


def _read(report: str, code: int) -> tuple[Fault, ...]:
    """Exit code 1 tells that there are findings; anything else than 0 and 1 that it could not look."""
    try:
        found = json.loads(report or "[]")
        faults = tuple(
            Fault(Path(f["file"]).name, int(f["line"]) + 1, str(f["rule_name"]), _one_line(f)) for f in found
        )
    except (ValueError, KeyError, TypeError):
        raise SquawkUnavailable("answered in a form that is not known") from None
    if code not in (0, 1) or (code == 1 and not faults):
        raise SquawkUnavailable(f"ended with {code}")
    return faults


def _one_line(found: dict[str, str]) -> str:
    return " ".join(f"{found.get('message', '')}. {found.get('help') or ''}".replace("..", ".").split())
