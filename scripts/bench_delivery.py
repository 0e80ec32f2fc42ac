"""Measure how fast a bad release is taken back and how often a good one is, into ``docs/benchmarks.md``.

The first with real processes and a real router, the second by simulation of the shipped guards. Only
its own section is written.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dr_platform.rollout.record import Phase  # noqa: E402 - the path above must be there first
from dr_platform.rollout.strategy import canary  # noqa: E402
from dr_platform.runtime.local import envoy  # noqa: E402
from dr_platform.runtime.local.records import PortRange  # noqa: E402
from dr_platform.runtime.port import ProbeResult  # noqa: E402
from scripts.report import write_section  # noqa: E402
from tests.contracts.delivery import Delivery, delivered, exposure_s, lost, made_to_fail  # noqa: E402
from tests.contracts.local import LocalHarness  # noqa: E402
from tests.contracts.outage import How, operations_on, rolled_back_without  # noqa: E402
from tests.contracts.runtime import ALL_BLUE, load  # noqa: E402
from tests.postgres_server import running_postgres  # noqa: E402
from tests.simulation import false_alarm_rows  # noqa: E402

RATE = 200
LOOK_S = 1.0
STEPS = canary((25, 100), 2, 2.0)
SHARES = (1.0, 0.2)
MOST_RUNS = 200
AWAY_S = 30.0
PORT_OFFSET = 10_200
PORTS = PortRange(17_200, 600)


@dataclass(frozen=True)
class Run:
    """``seconds`` from the first bad answer to the candidate's last answer, by the client's clock."""

    seconds: float
    injected: int
    lost: int
    sent: int


class Direct:
    """Requests to one port without looking the service up each time."""

    def __init__(self, port: int) -> None:
        self._port = port

    def probe(self, _name: str, path: str) -> ProbeResult:
        return envoy.get(self._port, path, {}, 5.0, time.monotonic)


@contextmanager
def local_runtime() -> Iterator[LocalHarness]:
    with tempfile.TemporaryDirectory(prefix="drp-bench-") as folder:
        harness = LocalHarness(Path(folder), PORT_OFFSET, PORTS)
        try:
            harness.bring_up()
            yield harness
        finally:
            harness.supervisor.stop()


@contextmanager
def platform_under_test() -> Iterator[Delivery]:
    with local_runtime() as harness, delivered(harness) as delivery:
        delivery.output = subprocess.DEVNULL
        # As shipped: one look a second, a lease of 15 s.
        delivery.controller("bench", look_s=LOOK_S, lease_s=15.0)
        yield delivery


def bad_release(delivery: Delivery, share: float, starts_after_s: float) -> Run:
    """One rollout that begins to fail so long after a quarter of the traffic was shifted to it."""
    asked = Direct(delivery.service.port + PORT_OFFSET)
    with load(asked, delivery.name, rate=RATE) as requests:
        intent = delivery.ask(delivery.intent(steps=STEPS))
        delivery.until_in(Phase.BAKE)
        time.sleep(starts_after_s)  # anywhere between two looks, as failures begin
        with delivery.harness.make_failing("2", share):
            outcome = delivery.outcome(intent, timeout_s=120.0)
    if outcome.result != "rolled_back" or delivery.weights != ALL_BLUE:
        raise SystemExit(f"a release with {share:.0%} errors ended {outcome.result}: {outcome.reason}")
    injected = sum(made_to_fail(answer) for answer in requests.lost)
    return Run(exposure_s(requests, "2"), injected, len(lost(requests)), requests.sent)


def measured(runs: int, seed: int = 1) -> dict[float, list[Run]]:
    chance = random.Random(seed)  # noqa: S311 - when failures begin, no secret
    results: dict[float, list[Run]] = {share: [] for share in SHARES}
    with platform_under_test() as delivery:
        for share, found in results.items():
            for number in range(1, runs + 1):
                found.append(run := bad_release(delivery, share, chance.uniform(0.0, LOOK_S)))
                print(f"{share:.0%} errors, {number} of {runs}: {run.seconds:.2f} s, {run.lost} lost", flush=True)
    return results


def rank(values: list[float], share: float) -> float:
    """Nearest rank: a value that was measured."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def restoration_table(results: dict[float, list[Run]]) -> list[str]:
    rows = [
        "| Errors | Runs | Median, s | 95 %, s | Longest, s | Failed as told, median | Lost apart from them |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for share, runs in results.items():
        seconds = [run.seconds for run in runs]
        times = f"{statistics.median(seconds):.1f} | {rank(seconds, 0.95):.1f} | {max(seconds):.1f}"
        injected = f"{statistics.median(run.injected for run in runs):.0f}"
        missed = f"{sum(run.lost for run in runs)} of {sum(run.sent for run in runs)}"
        rows.append(f"| {share:.0%} | {len(runs)} | {times} | {injected} | {missed} |")
    return rows


def outage_table(away_s: float) -> list[str]:
    """One rollback each while the operations database is stopped and while it hangs, for at least so long."""
    rows = [
        "| Operations database | Away, s | First bad answer to last, s | Failed as told | Lost apart from them |",
        "| --- | --- | --- | --- | --- |",
    ]
    with local_runtime() as harness, running_postgres() as server:
        for how in get_args(How):
            with delivered(harness) as delivery, operations_on(server) as operations:
                delivery.output = subprocess.DEVNULL
                seen = rolled_back_without(delivery, operations, how, away_s)
            row = f"| {how} | {seen.away_s:.0f} | {seen.exposed_s:.1f} | {seen.injected} | 0 of {seen.sent} |"
            print(row, flush=True)
            rows.append(row)
    return rows


def false_alarm_table(rollouts: int) -> list[str]:
    heads = ("Requests/s", "Errors", "Stable seen before, s", "Rollout, s", "Went back", "By trigger")
    rows = [f"| {' | '.join(heads)} |", "| --- | --- | --- | --- | --- | --- |"]
    for _, row in false_alarm_rows(rollouts):
        print(row, flush=True)
        rows.append(row)
    return rows


def section(restored: list[str], outages: list[str], alarms: list[str], simulated: int) -> list[str]:
    made = (
        f"Made by `make bench-delivery` on {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"load average {os.getloadavg()[1]:.1f} at the end."
    )
    how = (
        f"{made} A canary of 25 and 100 % with 2 s each, {RATE} requests/s in an open loop, one look a second. "
        "The candidate begins to fail within a second after the shift to 25 %. Measured by the client: from the "
        "first bad answer to the last answer of the candidate."
    )
    simulation = (
        f"Simulated, {simulated:,} rollouts each, in which both versions fail equally often and independently. "
        "Real failures come in bursts, so real false alarms are more frequent."
    )
    back = ["## How fast a bad release is taken back", "", how, "", *restored, ""]
    without = (
        "A bad version arrives while nothing can be written down; the controller is killed, its successor dies while "
        "it tells what had waited. Afterwards every event stands in the evidence log once and the chain is whole."
    )
    away = ["## A rollback while the operations database is away", "", without, "", *outages, ""]
    healthy = ["## How often a healthy release is taken back", "", simulation, "", *alarms]
    return [*back, *away, *healthy]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40, help=f"bad releases for each error rate, 1 to {MOST_RUNS}")
    parser.add_argument("--simulated", type=int, default=10_000, help="simulated healthy releases for each row")
    asked = parser.parse_args()
    if not 1 <= asked.runs <= MOST_RUNS or asked.simulated < 1:
        parser.error(f"--runs must be 1 to {MOST_RUNS}, --simulated at least 1")
    restored = restoration_table(measured(asked.runs))
    print("\n".join(restored), flush=True)
    outages = outage_table(AWAY_S)
    alarms = false_alarm_table(asked.simulated)
    write_section("delivery", section(restored, outages, alarms, asked.simulated))
    print("written: docs/benchmarks.md")


if __name__ == "__main__":
    main()
