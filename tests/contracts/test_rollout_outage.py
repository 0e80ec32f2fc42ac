"""A rollout comes to its end while what it is not made of is away: the operations database, stopped or hung,
and Dagster, its run killed and its database deleted. Real servers, real processes, real traffic."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine

from dr_platform.chronicle import tell
from dr_platform.clock import SystemClock
from dr_platform.evidence import PostgresEvidenceLog
from dr_platform.incidents import IncidentLedger, Status
from dr_platform.operations import operations_engine, upgrade
from dr_platform.rollout.events import ANALYSIS
from dr_platform.rollout.record import Event, Phase
from dr_platform.runtime.local.records import PortRange
from tests.contracts.controller_process import operations as books_of
from tests.contracts.dagster_run import Arguments
from tests.contracts.delivery import ROOT, Delivery, delivered, exposure_s, lost
from tests.contracts.local import LocalHarness
from tests.contracts.runtime import ALL_BLUE, ALL_GREEN, load, until
from tests.postgres_server import PostgresServer, running_postgres

pytestmark = pytest.mark.contract

PORT_OFFSET = 9_100
PORTS = PortRange(16_000, 400)
SHORT_S = 0.7
TOLD = ("rollout-began", "incident-opened", "incident-restored", "rollout-ended")


@pytest.fixture(scope="module")
def local() -> Iterator[LocalHarness]:
    with tempfile.TemporaryDirectory(prefix="drp-t-") as folder:
        harness = LocalHarness(Path(folder), PORT_OFFSET, PORTS)
        try:
            harness.bring_up()
            yield harness
        finally:
            harness.supervisor.stop()


@pytest.fixture
def delivery(local: LocalHarness) -> Iterator[Delivery]:
    with delivered(local) as delivery:
        yield delivery


# The operations database


@dataclass(frozen=True)
class Operations:
    server: PostgresServer
    url: str
    engine: Engine

    @property
    def evidence(self) -> PostgresEvidenceLog:
        return PostgresEvidenceLog(self.engine)

    @property
    def incidents(self) -> IncidentLedger:
        return IncidentLedger(self.evidence, SystemClock())

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self.server.stop()
        try:
            yield
        finally:
            self.server.start()

    @contextmanager
    def hung(self) -> Iterator[None]:
        """It takes connections and answers nothing: every process of it is stopped by a signal."""
        main = psutil.Process(int((self.server.data / "postmaster.pid").read_text().split()[0]))
        processes = [main, *main.children(recursive=True)]
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def operations(server: PostgresServer) -> Iterator[Operations]:
    upgrade(url := server.new_database())
    engine = operations_engine(url)
    yield Operations(server, url, engine)
    engine.dispose()


def waiting(delivery: Delivery) -> list[str]:
    """What is still to be told, besides what the triggers saw at each turn, of which there may be more or less."""
    return [event.kind for event in delivery.record.outbox if event.kind != ANALYSIS]


@pytest.mark.parametrize("how", ["stopped", "hung"])
def test_an_operations_database_that_is_away_delays_no_rollback_and_learns_of_it_once_when_it_is_back(
    delivery: Delivery, operations: Operations, how: str
) -> None:
    first = delivery.controller("a", lease_s=SHORT_S, operations=operations.url)
    # It has told something before: a connection that is open when the server goes is the hard case.
    assert delivery.outcome(delivery.ask(delivery.intent("3"))).result == "promoted"
    known = {entry.kind for entry in operations.evidence.entries()}
    assert known == {"rollout-began", ANALYSIS, "rollout-ended"}
    away = operations.stopped if how == "stopped" else operations.hung
    with delivery.harness.make_failing("2", 1.0), load(delivery.runtime, delivery.name) as requests, away():
        began = time.monotonic()
        intent = delivery.ask(delivery.intent("2"))
        until(lambda: (last := delivery.record.last) is not None and last.rollout == intent.id, 60.0)
        assert tuple(waiting(delivery)) == TOLD
        # Whoever acts in the meantime loses nothing of what is still to be told.
        first.kill()
        second = delivery.controller("b", lease_s=SHORT_S, operations=operations.url, dies_telling="incident-opened")
        until(lambda: any(line["driver"] == second.orders.driver for line in delivery.journal()))
        assert tuple(waiting(delivery)) == TOLD
        away_s = time.monotonic() - began
    record = delivery.record
    assert record.last is not None
    assert (record.last.result, delivery.weights) == ("rolled_back", ALL_GREEN)
    assert lost(requests) == []
    exposed_s = exposure_s(requests, "2")
    assert exposed_s < 15
    until(second.killed, 40.0)  # it told of the incident and could not note that any more
    delivery.controller("c", lease_s=SHORT_S, operations=operations.url)
    until(lambda: delivery.record.outbox == (), 40.0)
    entries = list(operations.evidence.entries())
    for kind in ("rollout-began", "rollout-ended"):
        assert [entry.subject for entry in entries if entry.kind == kind and entry.subject == intent.id] == [intent.id]
    (incident,) = operations.incidents.list()
    assert (incident.id, incident.status) == (record.last.incident, Status.MITIGATED)
    assert incident.blast_radius.requests_served == record.last.served > 0
    assert len([entry for entry in entries if entry.subject == incident.id]) == 3, "opened, traffic moved, mitigated"
    assert operations.evidence.verify() is None
    print(f"\n{how} for {away_s:.1f} s: traffic back after {exposed_s:.2f} s, nothing lost, told once")


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
