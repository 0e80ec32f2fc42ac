"""Runs one job to its end: ``python -m dr_platform.runtime.local.job FOLDER SECONDS COMMAND…``.

Here: the process that outlives whoever asked for the job, so that its time limit holds and its
result is kept. Not here: who waits for it (``jobs``).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_GRACE_S = 5.0


def main(folder: Path, timeout_s: float, command: list[str]) -> None:
    began = time.monotonic()
    with (folder / "output.log").open("wb") as output:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as exc:
            output.write(f"{command[0]}: {exc.strerror}\n".encode())
            exit_code: int | None = 127
        else:
            exit_code = _wait(process, timeout_s)
    result = {"exit_code": exit_code, "duration_s": round(time.monotonic() - began, 3)}
    temporary = folder / "result.new"
    temporary.write_text(json.dumps(result), encoding="utf-8")
    temporary.replace(folder / "result.json")


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> int | None:
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        pass
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
            break
    return None


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
