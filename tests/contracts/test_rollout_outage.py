"""A rollout comes to its end while what it is not made of is away: the operations database, stopped or hung,
and Dagster, its run killed and its database deleted. Real servers, real processes, real traffic."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dr_platform.chronicle import tell
from dr_platform.clock import SystemClock
from dr_platform.rollout.record import Event, Phase
from dr_platform.runtime.local.records import PortRange
from tests.contracts.controller_process import operations as books_of
from tests.contracts.dagster_run import Arguments
from tests.contracts.delivery import ROOT, Delivery, delivered, lost
from tests.contracts.local import LocalHarness, local_runtime
from tests.contracts.outage import SHORT_S, How, Operations, operations_on, rolled_back_without
from tests.contracts.runtime import ALL_BLUE, ALL_GREEN, load
from tests.postgres_server import PostgresServer, running_postgres

pytestmark = pytest.mark.contract

PORT_OFFSET = 9_100
PORTS = PortRange(16_000, 400)


@pytest.fixture(scope="module")
def local() -> Iterator[LocalHarness]:
    with local_runtime(PORT_OFFSET, PORTS) as harness:
        yield harness


@pytest.fixture
def delivery(local: LocalHarness) -> Iterator[Delivery]:
    with delivered(local) as delivery:
        yield delivery


# The operations database


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def operations(server: PostgresServer) -> Iterator[Operations]:
    with operations_on(server) as operations:
        yield operations


@pytest.mark.parametrize("how", ["stopped", "hung"])
def test_an_operations_database_that_is_away_delays_no_rollback_and_learns_of_it_once_when_it_is_back(
    delivery: Delivery, operations: Operations, how: How
) -> None:
    seen = rolled_back_without(delivery, operations, how)
    assert seen.exposed_s < 15
    print(f"\n{how} for {seen.away_s:.1f} s: traffic back after {seen.exposed_s:.2f} s, nothing lost, told once")


def test_the_same_told_by_many_at_once_is_written_once(operations: Operations) -> None:
    books = books_of(operations.url, SystemClock())
    events = [Event(f"ro-{n}:rollout-ended", "rollout-ended", "services/one", {"result": "promoted"}) for n in range(4)]
    with ThreadPoolExecutor(max_workers=8) as pool:
        told = [pool.submit(tell, books, event, f"controller:{n}") for event in events for n in range(4)]  # ty: ignore[invalid-argument-type]
        assert [future.exception() for future in told] == [None] * len(told)
    keys = [entry.body["key"] for entry in operations.evidence.entries(subject="services/one")]
    assert sorted(map(str, keys)) == [event.key for event in events]


# Dagster


@dataclass(frozen=True)
class Run:
    home: Path
    popen: subprocess.Popen[bytes]

    def destroy(self) -> None:
        """The process at once, then all that Dagster has stored."""
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait()
        shutil.rmtree(self.home)


@contextmanager
def a_run(delivery: Delivery, intent: str) -> Iterator[Run]:
    with tempfile.TemporaryDirectory(prefix="drp-home-", ignore_cleanup_errors=True) as home:
        harness = delivery.harness
        given = Arguments(
            home,
            str(harness.folder),
            harness.port_offset,
            harness.ports.first,
            harness.ports.size,
            delivery.name,
            intent,
            "2",
        )
        run = Run(Path(home), subprocess.Popen(given.argv(), cwd=ROOT, stderr=subprocess.DEVNULL))
        try:
            yield run
        finally:
            if run.popen.poll() is None:
                run.popen.kill()
                run.popen.wait()


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["a good version is promoted", "a bad one is taken back"])
def test_without_the_run_that_asked_and_without_dagster_s_database_the_record_is_enough(
    delivery: Delivery, share: float
) -> None:
    intent = f"ro-{delivery.name}-run"
    delivery.controller("a", lease_s=SHORT_S)
    with load(delivery.runtime, delivery.name) as requests, a_run(delivery, intent) as run:
        delivery.until_in(Phase.BAKE, timeout_s=60.0)
        assert list(run.home.rglob("*.db")), "Dagster knows of the run"
        if share:
            with delivery.harness.make_failing("2", share):
                run.destroy()
                outcome = delivery.ended(intent)
        else:
            run.destroy()
            outcome = delivery.ended(intent)
    assert not run.home.exists()
    assert run.popen.returncode == -signal.SIGKILL
    assert outcome.result == ("rolled_back" if share else "promoted")
    assert delivery.weights == (ALL_BLUE if share else ALL_GREEN)
    assert lost(requests) == []
    assert len(delivery.told("incident-opened")) == (1 if share else 0)
