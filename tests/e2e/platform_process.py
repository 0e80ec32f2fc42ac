"""The platform as a user has it: the `drp` command in a process of its own, and what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ENVIRONMENT = "integration"
"""Bound to the local runtime its ports do not meet those of a developer's own `make up`."""

ATTEMPTS = 2
"""How often the platform under test tries to mend something before it calls a person."""

PERFORMANCE = pytest.StashKey[str]()
"""What the platform said about its own performance, for the end of the test report."""


@dataclass
class Command:
    """`drp` with an environment, a catalog and a state of its own."""

    catalog: Path
    state: Path
    environment: str = ENVIRONMENT

    def argv(self, *words: str) -> list[str]:
        binding = ("--env", self.environment, "--runtime", "local")
        files = ("--catalog", str(self.catalog), "--state", str(self.state))
        return [sys.executable, "-m", "dr_platform.cli", *binding, *files, *words]

    def run(self, *words: str, timeout_s: float = 300.0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*words),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            input=stdin,
            check=False,
            env=clean_environment(),
        )

    def ok(self, *words: str, timeout_s: float = 300.0) -> str:
        done = self.run(*words, timeout_s=timeout_s)
        assert done.returncode == 0, f"drp {' '.join(words)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *words: str) -> Any:
        """The JSON document that a verb prints, whatever its exit code."""
        done = self.run(*words, "--json")
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise AssertionError(f"drp {' '.join(words)}: no JSON\n{done.stdout}\n{done.stderr}") from None


def clean_environment() -> dict[str, str]:
    """This process's environment without settings that would choose another platform."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("DRP_", "DAGSTER_"))}


def await_true(what: str, look: Callable[[], bool], seconds: float, every: float = 0.5) -> float:
    """Look until it is so; returns the seconds it took, fails with ``what`` when they run out."""
    started = time.monotonic()
    while not look():
        if time.monotonic() - started > seconds:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(every)  # between two looks at processes that nobody can be asked to report
    return time.monotonic() - started
