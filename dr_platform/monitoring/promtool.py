"""Asking Prometheus' own ``promtool`` what it thinks of generated files.

Here: running it and what its answer means. Not here: the files (``folder``).
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from dr_platform.verdict import Verdict

TIMEOUT_S = 120.0
_KUBERNETES = "scrape_configs:\n- job_name: pods\n  kubernetes_sd_configs:\n  - role: pod\n"


def find() -> str | None:
    return shutil.which("promtool")


def verdicts(promtool: str | None, folder: Path, *, runtime: str) -> dict[str, Verdict]:
    """What it says of an exported folder's rules and configuration."""
    if promtool is None:
        missing = Verdict.unknown("promtool is not on the PATH; install Prometheus (Debian: package prometheus)")
        return {"rules": missing, "configuration": missing}
    rules = sorted(map(str, (folder / "rules").glob("*.yaml")))
    return {
        "rules": _ask(promtool, "rules", rules),
        "configuration": _configuration(promtool, folder, runtime),
    }


def knows_kubernetes(promtool: str) -> bool:
    """Whether it was built with service discovery for Kubernetes; Debian's is not."""
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe.yaml"
        probe.write_text(_KUBERNETES, encoding="utf-8")
        return _ask(promtool, "config", [str(probe)]).passed is True


def _configuration(promtool: str, folder: Path, runtime: str) -> Verdict:
    if runtime == "kubernetes" and not knows_kubernetes(promtool):
        return Verdict.unknown("this promtool was built without service discovery for Kubernetes")
    return _ask(promtool, "config", [str(folder / "prometheus.yaml")])


def _ask(promtool: str, kind: str, files: list[str]) -> Verdict:
    if not files:
        return Verdict(False, "there are no files")
    try:
        done = subprocess.run(
            [promtool, "check", kind, *files], capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return Verdict.unknown(f"promtool: {type(exc).__name__}")
    if done.returncode == 0:
        return Verdict(True, f"promtool accepts {len(files)} files" if len(files) > 1 else "promtool accepts it")
    said = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    problems = [line for line in said if not line.startswith(("Checking", "SUCCESS"))]
    return Verdict(False, "; ".join(problems[:5]) or f"promtool ended with {done.returncode}")
