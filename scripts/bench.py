"""Measure what the README promises and write ``docs/benchmarks.md``.

Everything is measured on the machine at hand, in one go, and printed with the peer it is compared
with; absolute times are this machine's.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.report import write_section  # noqa: E402 - the path above must be there first
from tests.catalogs import generated  # noqa: E402 - the path above must be there first
from tests.e2e.platform_process import Command  # noqa: E402

LOAD = """
import sys, time
from pathlib import Path
from dr_platform.definitions import build_definitions
from dr_platform.platform import Platform
began = time.perf_counter()
opened = Platform.open(catalog=Path(sys.argv[1]))
loaded = time.perf_counter()
definitions = build_definitions(opened)
definitions.resolve_asset_graph()
print(loaded - began, time.perf_counter() - loaded)
"""


def timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def definitions_table() -> list[str]:
    """Catalog and definitions for 10 to 1,000 services, medians of three fresh interpreters."""
    rows = ["| Services | Catalog, s | Definitions and graph, s | Together, s |", "| --- | --- | --- | --- |"]
    for services in (10, 100, 1000):
        folder = Path(tempfile.mkdtemp(prefix="drp-bench-"))
        try:
            catalog_root = generated(folder, services)
            runs = [_load(catalog_root) for _ in range(3)]
        finally:
            shutil.rmtree(folder)
        catalog, definitions = (statistics.median(column) for column in zip(*runs, strict=True))
        rows.append(f"| {services} | {catalog:.2f} | {definitions:.2f} | {catalog + definitions:.2f} |")
        print(rows[-1], flush=True)
    return rows


def _load(catalog: Path) -> tuple[float, float]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(catalog)], capture_output=True, text=True, check=True, env=environment
    )
    first, second = done.stdout.split()[-2:]
    return float(first), float(second)


def platform_table() -> list[str]:
    """A whole platform: first start on empty state with engines there, repeated, memory, end."""
    folder = Path(tempfile.mkdtemp(prefix="drp-bench-"))
    folder.chmod(0o755)
    command = Command(ROOT / "catalog", folder / "state", "local")
    rows = ["| What | Figure | Promised |", "| --- | --- | --- |"]

    def row(what: str, figure: str, promised: str) -> None:
        rows.append(f"| {what} | {figure} | {promised} |")
        print(rows[-1], flush=True)

    try:
        row(
            "`drp up` on empty state, engines in the cache, first backups proved",
            f"{timed(lambda: command.ok('up')):.0f} s",
            "90 s",
        )
        again = [timed(lambda: command.ok("up")) for _ in range(3)]
        row("`drp up` again, median of three", f"{statistics.median(again):.0f} s", "20 s")
        processes = command.json("top")
        total = sum(p["pss_bytes"] for p in processes)
        row(f"Summed PSS of {len(processes)} processes", f"{total / 2**30:.2f} GiB", "4 GiB")
        status = [timed(lambda: command.ok("status", "--json")) for _ in range(5)]
        row("`drp status`, median of five", f"{statistics.median(status):.1f} s", "")
        row("`drp down`", f"{timed(lambda: command.ok('down')):.0f} s", "")
        row("`drp up` on kept state", f"{timed(lambda: command.ok('up')):.0f} s", "90 s")
    finally:
        command.run("down")
        shutil.rmtree(folder, ignore_errors=True)
    return rows


def main() -> None:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    print("Definitions", flush=True)
    definitions = definitions_table()
    print("Platform", flush=True)
    whole = platform_table()
    made = (
        f"Made by `make bench` on {os.cpu_count()} cores ({cpu}), Python {platform.python_version()}, "
        f"load average {os.getloadavg()[1]:.1f} at the end. Absolute times are this machine's."
    )
    lines = [
        made,
        "",
        "## A platform of 22 services and 4 databases on one machine",
        "",
        *whole,
        "",
        "## How catalog and definitions grow",
        "",
        "The promise is 5 s for 1,000 services. Imports are not counted.",
        "",
        *definitions,
        "",
        "Retrieval quality is measured by the checks of the knowledge assets; see [knowledge](knowledge.md).",
    ]
    write_section("platform", lines)
    print(json.dumps({"written": "docs/benchmarks.md"}))


if __name__ == "__main__":
    main()
