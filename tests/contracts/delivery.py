"""A service under load on the local runtime, and controllers as processes that act on it.

Here: asking, watching, and what was seen by the load's own clock. Not here: what is promised
(``test_rollout_local``) or measured (``scripts/bench_delivery``).
"""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dr_platform.catalog import Service
from dr_platform.catalog.models import Strategy
from dr_platform.rollout import record as records
from dr_platform.rollout.record import Intent, Outcome, Phase, Placement, Record
from dr_platform.rollout.requests import ask
from dr_platform.rollout.strategy import Step, canary
from dr_platform.runtime.local.runtime import LocalRuntime
from dr_platform.runtime.port import CLOSED, ProbeResult, Revision, Slot, Weights
from tests.contracts.controller_process import Orders
from tests.contracts.local import LocalHarness
from tests.contracts.runtime import ALL_BLUE, Load, a_service, a_workload, deploy, until

ROOT = Path(__file__).resolve().parents[2]
STEPS = canary((50, 100), 2, 1.5)
_numbers = itertools.count(1)


def intent_of(id_: str, version: str, steps: tuple[Step, ...] = STEPS, **changes: object) -> Intent:
    fields: dict[str, object] = {
        "id": id_,
        "kind": "deploy",
        "revision": Revision(version, f"sha256:{version}", "c0"),
        "replicas": 2,
        "strategy": Strategy.CANARY,
        "steps": steps,
        "requested_by": "somebody",
        "requested_at": datetime.now(UTC),
    }
    return Intent(**(fields | changes))  # ty: ignore[invalid-argument-type]


@dataclass
class Process:
    """A controller as the test sees it."""

    orders: Orders
    popen: subprocess.Popen[bytes]

    def send(self, number: int) -> None:
        self.popen.send_signal(number)

    def killed(self) -> bool:
        return self.popen.poll() == -signal.SIGKILL

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.popen.wait()

    def end(self) -> None:
        """In order, whether it was stopped or is gone."""
        if self.popen.poll() is None:
            self.send(signal.SIGCONT)
            self.send(signal.SIGTERM)
        self.popen.wait(30)


@dataclass
class Delivery:
    """One declared service whose version 1 takes all traffic from the blue slot."""

    harness: LocalHarness
    service: Service = field(default_factory=a_service)
    output: int | None = None
    """Where controllers say what they do, as ``subprocess`` takes it; ``None``: where the caller does."""
    _processes: list[Process] = field(default_factory=list)

    @property
    def runtime(self) -> LocalRuntime:
        return self.harness.runtime

    @property
    def name(self) -> str:
        return self.service.name

    def begin(self) -> None:
        self.runtime.declare(self.service)
        deploy(self.runtime, Slot.BLUE, workload := a_workload(self.service, "1"))
        self.runtime.route(self.name, ALL_BLUE, 1)
        placement = Placement(Slot.BLUE, workload.revision)
        records.change(self.runtime, self.name, lambda record: record.with_stable(placement))

    def end(self) -> None:
        for process in self._processes:
            process.end()
        self.runtime.route(self.name, CLOSED, self.runtime.observe(self.name).epoch)
        for slot in Slot:
            self.runtime.retire(self.name, slot)
        self.runtime.undeclare(self.name)

    def controller(self, driver: str, **orders: Any) -> Process:
        ports = self.harness.ports
        name = f"{driver}-{self.name}"
        given = Orders(str(self.harness.folder), self.harness.port_offset, ports.first, ports.size, name, **orders)
        popen = subprocess.Popen(given.argv(), cwd=ROOT, stdout=self.output)
        process = Process(given, popen)
        self._processes.append(process)
        return process

    def intent(self, version: str = "2", steps: tuple[Step, ...] = STEPS, **changes: object) -> Intent:
        return intent_of(f"ro-{self.name}-{next(_numbers)}", version, steps, **changes)

    def ask(self, intent: Intent) -> Intent:
        ask(self.runtime, self.name, intent)
        return intent

    @property
    def record(self) -> Record:
        return records.read(self.runtime, self.name).record

    @property
    def weights(self) -> Weights | None:
        return self.runtime.observe(self.name).weights

    def until_in(self, *phases: Phase, step: int = 0, timeout_s: float = 30.0) -> None:
        def there() -> bool:
            rollout = self.record.rollout
            return rollout is not None and rollout.phase in phases and rollout.step >= step

        until(there, timeout_s)

    def outcome(self, intent: Intent, timeout_s: float = 60.0) -> Outcome:
        """How it ended, once everything was told."""
        return self.ended(intent.id, timeout_s)

    def ended(self, intent: str, timeout_s: float = 60.0) -> Outcome:
        def ended() -> bool:
            record = self.record
            return record.last is not None and record.last.rollout == intent and record.outbox == ()

        until(ended, timeout_s)
        last = self.record.last
        assert last is not None
        return last

    def journal(self, condition: Callable[[dict[str, Any]], bool] = lambda _line: True) -> list[dict[str, Any]]:
        """What this service's controllers did, oldest first."""
        lines = _lines(self.harness, "journal")
        return [line for line in lines if line["driver"].endswith(f"-{self.name}") and condition(line)]

    def acted(self) -> set[str]:
        """Drivers that changed anything."""
        return {
            line["driver"] for line in self.journal(lambda line: line["what"] not in ("lease", "refused", "stopped"))
        }

    def told(self, kind: str) -> list[str]:
        """Keys of this kind, each once: to whom it is told, the same key is the same event."""
        return told(self.harness, f"-{self.name}", kind)


def told(harness: LocalHarness, drivers: str, kind: str) -> list[str]:
    """The same, of all drivers whose names end so."""
    found = (line for line in _lines(harness, "told") if line["driver"].endswith(drivers))
    return sorted({line["key"] for line in found if line["kind"] == kind})


def _lines(harness: LocalHarness, file: str) -> list[dict[str, Any]]:
    path = harness.folder / file
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    # The last line may be half-written by a process that was killed.
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


@contextmanager
def delivered(harness: LocalHarness) -> Iterator[Delivery]:
    delivery = Delivery(harness)
    try:
        delivery.begin()
        yield delivery
    finally:
        delivery.end()


# What the load saw


def made_to_fail(answer: ProbeResult) -> bool:
    return b"made_to_fail" in answer.body


def lost(load: Load) -> list[ProbeResult]:
    """Failed requests other than those that a version was told to fail."""
    return [answer for answer in load.lost if not made_to_fail(answer)]


def answered_by(answer: ProbeResult) -> str | None:
    try:
        return str(json.loads(answer.body)["version"])
    except (ValueError, KeyError, TypeError):
        return None


def exposure_s(load: Load, version: str) -> float:
    """From the first failed answer of a version to its last answer of any kind, as the client saw them."""
    answers = [(sent + answer.latency_ms / 1000, answer) for sent, answer in load.answers]
    first = min(at for at, answer in answers if made_to_fail(answer))
    return max(at for at, answer in answers if answered_by(answer) == version) - first
