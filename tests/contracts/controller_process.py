"""A controller in a process of its own, over the runtime that a test brought up: what kills it is real.

``python -m tests.contracts.controller_process ORDERS`` with ``Orders`` as JSON. What it changes, and
every answer about its lease, is a line in ``journal``; what it has told is a line in ``told``: both are
shared by all controllers of a test. Dagster cannot be imported here: a controller needs none.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dr_platform import chronicle, delivery
from dr_platform.catalog import Service
from dr_platform.clock import Clock, SystemClock
from dr_platform.evidence import PostgresEvidenceLog
from dr_platform.incidents import IncidentLedger
from dr_platform.metrics.envoy import EnvoyTraffic
from dr_platform.operations import operations_engine
from dr_platform.rollout.controller import Controller, Settings
from dr_platform.rollout.decide import Patience
from dr_platform.rollout.guards import GuardPolicy
from dr_platform.rollout.record import Event, Phase, Record, Rollout
from dr_platform.runtime.local.records import LocalRecords, PortRange
from dr_platform.runtime.local.runtime import LocalRuntime
from tests.contracts.local import LocalHarness

CHANGES = ("apply", "route", "retire", "replace", "fence", "write_record")


@dataclass(frozen=True)
class Orders:
    """``dies_in``: it sends itself SIGKILL ``dies_after_s`` after it has saved a record of that phase.
    ``stops_in``, ``stops_before``: it sends itself SIGSTOP once, after it has saved a record of that
    phase, or between its decision and that change. It does so itself because one that is stopped from
    outside may hold a lock of the records, which nobody else can then change. ``operations`` is the address
    of an operations database that is told, too; ``dies_telling``: it is killed right after it told that."""

    folder: str
    port_offset: int
    first_port: int
    ports: int
    driver: str
    look_s: float = 0.25
    lease_s: float = 2.0
    keep_warm_s: float = 60.0
    dies_in: str | None = None
    dies_after_s: float = 0.0
    stops_in: str | None = None
    stops_before: str | None = None
    operations: str | None = None
    dies_telling: str | None = None

    def argv(self) -> list[str]:
        return [sys.executable, "-m", "tests.contracts.controller_process", json.dumps(asdict(self))]


class Lines:
    """A file of JSON lines that several processes write to."""

    def __init__(self, path: Path, driver: str) -> None:
        self._path, self._driver = path, driver

    def add(self, **fields: Any) -> None:
        line = json.dumps({"driver": self._driver, "at": time.monotonic(), **fields}) + "\n"
        with self._path.open("a", encoding="utf-8") as output:
            output.write(line)


class Watched:
    """The runtime, with a journal of what was changed through it."""

    def __init__(self, runtime: LocalRuntime, orders: Orders, journal: Lines) -> None:
        self._runtime, self._orders, self._journal = runtime, orders, journal
        self._stops = orders.stops_in is not None or orders.stops_before is not None

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._runtime, name)
        return self._change(name, method) if name in CHANGES else method

    def acquire_lease(self, *args: Any) -> Any:
        lease = self._runtime.acquire_lease(*args)
        self._journal.add(what="lease", got=lease is not None)
        return lease

    def _change(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any) -> Any:
            if name == self._orders.stops_before:
                self._stop_once()
            try:
                result = method(*args)
            except Exception as exc:
                self._journal.add(what="refused", change=name, why=type(exc).__name__)
                raise
            self._journal.add(what=name)
            if name == "write_record" and (rollout := Record.from_text(args[1]).rollout) is not None:
                self._saved(rollout.phase)
            return result

        return change

    def _saved(self, phase: Phase) -> None:
        if phase == self._orders.stops_in:
            self._stop_once()
        if phase != self._orders.dies_in:
            return
        if self._orders.dies_after_s:
            threading.Timer(self._orders.dies_after_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    def _stop_once(self) -> None:
        if self._stops:
            self._stops = False
            self._journal.add(what="stopped")
            os.kill(os.getpid(), signal.SIGSTOP)


def operations(url: str, clock: Clock) -> SimpleNamespace:
    """All that telling and scanners' alerts need of a platform."""
    evidence = PostgresEvidenceLog(operations_engine(url))
    incidents = IncidentLedger(evidence, clock)
    return SimpleNamespace(evidence=evidence, incidents=incidents, environment=SimpleNamespace(name="local"))


def main() -> None:
    orders = Orders(**json.loads(sys.argv[1]))
    ports = PortRange(orders.first_port, orders.ports)
    harness = LocalHarness(Path(orders.folder), orders.port_offset, ports)
    clock = SystemClock()
    runtime = Watched(harness.runtime, orders, Lines(harness.folder / "journal", orders.driver))
    told = Lines(harness.folder / "told", orders.driver)
    known = LocalRecords(harness.state.runtime_database, clock, ports)
    patience = Patience(
        start=timedelta(seconds=20),
        extension=timedelta(seconds=1),
        keep_warm=timedelta(seconds=orders.keep_warm_s),
    )
    asked = SimpleNamespace(runtime=runtime, clock=clock)  # all that the smoke tests need of a platform

    books = operations(orders.operations, clock) if orders.operations else None

    def tell(event: Event) -> None:
        if books is not None:
            chronicle.tell(books, event, f"controller:{orders.driver}")  # ty: ignore[invalid-argument-type]
        told.add(key=event.key, kind=event.kind, subject=event.subject, body=event.body)
        if event.kind == orders.dies_telling:
            os.kill(os.getpid(), signal.SIGKILL)

    def alerts(service: Service, rollout: Rollout) -> int | None:
        return delivery.alerts(books, service, rollout) if books is not None else 0  # ty: ignore[invalid-argument-type]

    controller = Controller(
        runtime=runtime,  # ty: ignore[invalid-argument-type]
        traffic=EnvoyTraffic(harness.runtime.router.admin, clock.now),
        services=lambda: [declared.service for declared in known.all().values()],
        settings=Settings(lambda _s: patience, lambda _s: GuardPolicy(), lambda _s: {}),
        smoke=lambda service, rollout: delivery.smoke(asked, service, rollout),  # ty: ignore[invalid-argument-type]
        alerts=alerts,
        tell=tell,
        clock=clock,
        driver=orders.driver,
        progress=lambda line: print(f"{orders.driver}: {line}", flush=True),
        lease_ttl=timedelta(seconds=orders.lease_s),
    )
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    controller.run(stop, orders.look_s)


if __name__ == "__main__":
    if "dagster" in sys.modules:
        sys.exit("a controller needs no Dagster, and has imported it")
    sys.modules["dagster"] = None  # ty: ignore[invalid-assignment] - an import of it fails from here on
    main()
