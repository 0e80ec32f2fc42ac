"""Measure masking: rows per second over patients and messages on two processes, and canaries found.

``measure()`` starts a PostgreSQL server of its own. Tables and sentences are those of the tests.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402 - the path above must be there first
import psycopg  # noqa: E402

from dr_platform.catalog import Engine  # noqa: E402
from dr_platform.databases.access import Login  # noqa: E402
from dr_platform.databases.port import Endpoint  # noqa: E402
from dr_platform.databases.schema import read_steps  # noqa: E402
from dr_platform.masking.canaries import Canaries, search  # noqa: E402
from dr_platform.masking.people import Roster, RosterFile  # noqa: E402
from dr_platform.masking.port import Access, Run  # noqa: E402
from dr_platform.masking.postgresql_run import PostgresMasking  # noqa: E402
from dr_platform.masking.recipe import Profile, Recipe  # noqa: E402
from dr_platform.masking.seals import KeyRing  # noqa: E402
from dr_platform.reference_service.cipher import make_key  # noqa: E402
from tests import masking_data  # noqa: E402
from tests.embedded_programs import a_database  # noqa: E402
from tests.postgres_server import running_postgres  # noqa: E402

PATIENTS, MESSAGES = 100_000, 400_000
WANTED_ROWS_PER_S = 50_000


@dataclass(frozen=True)
class Figures:
    """Times in seconds. ``masking_s`` is everything from the empty target to the last gate's start."""

    rows: int
    roster_s: float
    masking_s: float
    scan_s: float
    gates_s: float
    canaries_planted: int
    canaries_found: int
    values_scanned: int
    gates_failed: tuple[str, ...]
    peak_mib: float
    """Of this process and the largest of its workers together."""
    load: float
    cpu_s: float
    """Processor time of roster, workers and server from the empty target to the loaded one; unlike the
    clock it hardly depends on who else uses the machine."""

    @property
    def rows_per_s(self) -> float:
        return self.rows / (self.roster_s + self.masking_s)


def measure(patients: int = PATIENTS, messages: int = MESSAGES) -> Figures:
    with running_postgres() as server, tempfile.TemporaryDirectory() as scratch:
        url = server.new_database()
        with psycopg.connect(url) as connection:
            connection.execute(masking_data.SCHEMA.encode())
        masking_data.fill(url, patients, messages)
        database, folder = a_database(Engine.POSTGRESQL, "postgres"), Path(scratch)

        def access(name: str) -> Access:
            return Access(database, Endpoint(str(server.folder), 5432, name), Login("tester", ""))

        postmaster = psutil.Process(int((server.data / "postmaster.pid").read_text().split()[0]))
        return _measured(access(url.split("@/")[1].split("?")[0]), access("masked"), folder, postmaster)


def _processor_time(postmaster: psutil.Process) -> float:
    """Of this process, its ended children, and the server."""
    own = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in own) + _of_server(postmaster)


def _of_server(postmaster: psutil.Process) -> float:
    """Of its processes that are there and those that have ended; read again where one ended meanwhile."""
    while True:
        ended = postmaster.cpu_times()
        with contextlib.suppress(psutil.NoSuchProcess):
            there = [child.cpu_times() for child in postmaster.children()]
            if ended == postmaster.cpu_times():
                return ended.children_user + ended.children_system + sum(t.user + t.system for t in there)


def _measured(source: Access, target: Access, folder: Path, postmaster: psutil.Process) -> Figures:
    rings = KeyRing({1: make_key()}), KeyRing({1: make_key()})
    steps = read_steps(masking_data.steps_folder(folder / "migrations"))
    engine = PostgresMasking(source, target, masking_data.classification(), steps, *rings)
    canaries = Canaries.made_from(os.urandom(16))
    planted = engine.plant(canaries)
    file = RosterFile.new(folder)
    load, cpu = os.getloadavg()[0], _processor_time(postmaster)
    began = time.perf_counter()
    with contextlib.closing(Roster(file)) as roster:
        engine.fill(roster)
    filled = time.perf_counter()
    engine.make_target()
    recipe = Recipe(Profile.EXPERT_DETERMINATION, os.urandom(32), date(2026, 11, 26))
    masked = engine.mask(Run(recipe, file, *rings))
    done, cpu = time.perf_counter(), _processor_time(postmaster) - cpu
    looked_at, sightings = search(engine.stored_texts(), canaries)
    scanned = time.perf_counter()
    failed = tuple(gate.name for gate in engine.gates(masked) if gate.passed is not True)
    judged = time.perf_counter()
    usage = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    engine.discard()
    return Figures(
        sum(one.rows for one in masked),
        filled - began,
        done - filled,
        scanned - done,
        judged - scanned,
        planted,
        len(sightings),
        looked_at,
        failed,
        sum(usage),
        load,
        cpu,
    )


def section(figures: Figures) -> list[str]:
    """Lines of Markdown for ``docs/benchmarks.md``."""
    return [
        "## Masking",
        "",
        (
            f"{figures.rows:,} rows (patients with eleven classified columns, and their messages, of which one in six "
            "names somebody), expert determination, two processes beside the server; load average "
            f"{figures.load:.1f} at the start."
        ),
        "",
        "| What | Figure | Promised |",
        "| --- | --- | --- |",
        f"| Rows masked per second, roster included | {figures.rows_per_s:,.0f} | {WANTED_ROWS_PER_S:,} |",
        (
            f"| The same by processor time ({figures.cpu_s:.1f} s of workers and server over two cores) "
            f"| {figures.rows / figures.cpu_s * 2:,.0f} | |"
        ),
        f"| Roster of people | {figures.roster_s:.1f} s | |",
        f"| Masking, new database and anonymity included | {figures.masking_s:.1f} s | |",
        (
            f"| Canaries found among {figures.values_scanned:,} values ({figures.canaries_planted} rows planted) "
            f"| {figures.canaries_found} | 0 |"
        ),
        f"| Search for canaries | {figures.scan_s:.1f} s | |",
        f"| Gates | {figures.gates_s:.1f} s, {len(figures.gates_failed)} failed | 0 failed |",
        f"| Peak memory, this process and its largest worker | {figures.peak_mib:.0f} MiB | flat |",
    ]


def main() -> None:
    sizes = [int(word) for word in sys.argv[1:3]] or [PATIENTS, MESSAGES]
    figures = measure(*sizes)
    print("\n".join(section(figures)))
    for name in figures.gates_failed:
        print(f"failed: {name}")
    kept = figures.rows_per_s >= WANTED_ROWS_PER_S and not figures.canaries_found and not figures.gates_failed
    raise SystemExit(0 if kept else 1)


if __name__ == "__main__":
    main()
