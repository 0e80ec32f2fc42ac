"""Programs that run once to their end, one of each name at a time.

Here: starting them, joining one that runs, reading results. Not here: the process around a job (``job``).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from dr_platform.clock import Clock
from dr_platform.runtime.local import leftovers
from dr_platform.runtime.local.locks import exclusively
from dr_platform.runtime.port import Job, JobResult

_POLL_S = 0.02
_OUTPUT_BYTES = 64 << 10


class Jobs:
    def __init__(self, folder: Path, environment: Mapping[str, str], clock: Clock) -> None:
        self._folder = folder
        self._environment = environment
        self._clock = clock

    def run(self, job: Job, command: tuple[str, ...]) -> JobResult:
        """Start it, or join the one of that name that runs, and wait for its end."""
        folder = self._folder / job.name
        folder.mkdir(parents=True, exist_ok=True)
        with exclusively(folder / "lock"):
            keeper = _running(folder)
            if keeper is None:
                keeper = self._start(folder, job, command)
        while not (folder / "result.json").exists() and leftovers.still_runs(keeper):
            self._clock.sleep(_POLL_S)
        return _result(folder)

    def _start(self, folder: Path, job: Job, command: tuple[str, ...]) -> leftovers.KnownProcess:
        (folder / "result.json").unlink(missing_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "dr_platform.runtime.local.job", str(folder), str(job.timeout_s), *command],
            env={**self._environment, **job.settings, leftovers.JOB_MARK: job.name},
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        started = leftovers.identify(process.pid) or leftovers.KnownProcess(process.pid, 0.0)
        (folder / "process.json").write_text(json.dumps([started.pid, started.started]), encoding="utf-8")
        return started


def _running(folder: Path) -> leftovers.KnownProcess | None:
    if (folder / "result.json").exists():
        return None
    try:
        pid, started = json.loads((folder / "process.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = leftovers.KnownProcess(int(pid), float(started))
    return known if leftovers.still_runs(known) else None


def _result(folder: Path) -> JobResult:
    """A job whose keeper was killed has no result, and counts as ended without an exit code."""
    output = _tail(folder / "output.log")
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return JobResult(None, output, 0.0)
    return JobResult(result["exit_code"], output, result["duration_s"])


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as output:
            output.seek(max(0, path.stat().st_size - _OUTPUT_BYTES))
            return output.read().decode("utf-8", "replace")
    except OSError:
        return ""
