"""A rollback while the operations database is away: stopped, or hung with its connections open.

Here: taking it away, and one rollout that must end all the same. Not here: what is promised
(``test_rollout_outage``) or measured (``scripts/bench_delivery``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import psutil
from sqlalchemy import Engine

from dr_platform.clock import SystemClock
from dr_platform.evidence import PostgresEvidenceLog
from dr_platform.incidents import IncidentLedger, Status
from dr_platform.operations import operations_engine, upgrade
from dr_platform.rollout.events import ANALYSIS
from tests.contracts.delivery import Delivery, exposure_s, lost
from tests.contracts.runtime import ALL_GREEN, load, until
from tests.postgres_server import PostgresServer

How = Literal["stopped", "hung"]
SHORT_S = 0.7
TOLD = ("rollout-began", "incident-opened", "incident-restored", "rollout-ended")


@dataclass(frozen=True)
class Operations:
    """A new operations database on a server that can be taken away."""

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


@contextmanager
def operations_on(server: PostgresServer) -> Iterator[Operations]:
    upgrade(url := server.new_database())
    engine = operations_engine(url)
    try:
        yield Operations(server, url, engine)
    finally:
        engine.dispose()


@dataclass(frozen=True)
class Outage:
    """Seconds: for how long it was away, and from the first bad answer to the candidate's last."""

    away_s: float
    exposed_s: float
    injected: int
    sent: int


def waiting(delivery: Delivery) -> list[str]:
    """What is still to be told, besides what the triggers saw at each turn, of which there may be more or less."""
    return [event.kind for event in delivery.record.outbox if event.kind != ANALYSIS]


def rolled_back_without(delivery: Delivery, operations: Operations, how: How, at_least_s: float = 0.0) -> Outage:
    """A bad version arrives while nothing can be told, controllers change meanwhile, and one dies while it tells what
    had waited. Asserts that traffic went back, nothing but the injected failures was lost, and all was told once."""
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
        while (away_s := time.monotonic() - began) < at_least_s:  # how long it is away is what is asked for
            time.sleep(0.2)
    record = delivery.record
    assert record.last is not None
    assert (record.last.result, delivery.weights) == ("rolled_back", ALL_GREEN)
    assert lost(requests) == []
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
    return Outage(away_s, exposure_s(requests, "2"), len(requests.lost), requests.sent)
