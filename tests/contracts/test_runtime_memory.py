"""The runtime in memory keeps the port's promises."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dr_platform.clock import SystemClock
from dr_platform.runtime.memory import MemoryRuntime
from dr_platform.runtime.port import (
    Job,
    JobResult,
    RouteNotVerified,
    Runtime,
    RuntimeUnreachable,
    Slot,
    SuspensionNotVerified,
)
from tests.contracts.runtime import ALL_BLUE, ALL_GREEN, NOTICE, RuntimeContract, a_service, a_workload, deploy

pytestmark = pytest.mark.contract


def run(job: Job) -> JobResult:
    """Jobs are real even here: what a job prints is its own affair."""
    try:
        done = subprocess.run(
            [sys.executable, *job.arguments],
            env=dict(job.settings),
            stdout=subprocess.PIPE,
            text=True,
            timeout=job.timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        return JobResult(None, (exc.stdout or b"").decode(), job.timeout_s)
    return JobResult(done.returncode, done.stdout, 0.0)


class MemoryHarness:
    def __init__(self) -> None:
        self.runtime = MemoryRuntime(SystemClock(), run)

    def another(self) -> Runtime:
        return self.runtime

    @contextmanager
    def make_unready(self, version: str) -> Iterator[None]:
        self.runtime.faults.unready_versions.add(version)
        yield
        self.runtime.faults.unready_versions.remove(version)

    @contextmanager
    def make_crashing(self, version: str) -> Iterator[None]:
        self.runtime.faults.crashing_versions.add(version)
        yield
        self.runtime.faults.crashing_versions.remove(version)

    @contextmanager
    def lose_router(self) -> Iterator[None]:
        self.runtime.faults.router_unreachable = True
        yield
        self.runtime.faults.router_unreachable = False

    def kill(self, name: str, slot: Slot) -> None:
        self.runtime.crash(name, slot, self._first(name, slot))

    def write_log(self, name: str, slot: Slot, text: str) -> None:
        self.runtime.write_log(self._first(name, slot), text)

    def job(self, script: str) -> tuple[str, ...]:
        return ("-c", script)

    def _first(self, name: str, slot: Slot) -> str:
        return self.runtime.observe(name).slots[slot].replicas[0].name


class TestMemoryRuntime(RuntimeContract):
    @pytest.fixture
    def harness(self) -> MemoryHarness:
        return MemoryHarness()


def test_every_call_to_a_lost_runtime_says_so() -> None:
    runtime = MemoryRuntime(SystemClock())
    runtime.declare(service := a_service())
    runtime.faults.runtime_unreachable = True
    with pytest.raises(RuntimeUnreachable):
        runtime.observe(service.name)
    with pytest.raises(RuntimeUnreachable):
        runtime.read_record(service.name)


def test_a_route_that_is_told_but_not_taken_is_reported_and_seen() -> None:
    runtime = MemoryRuntime(SystemClock())
    runtime.declare(service := a_service())
    deploy(runtime, Slot.BLUE, a_workload(service, "1"))
    deploy(runtime, Slot.GREEN, a_workload(service, "2"))
    runtime.route(service.name, ALL_BLUE, 1)
    runtime.faults.routes_ignored = True
    with pytest.raises(RouteNotVerified):
        runtime.route(service.name, ALL_GREEN, 1)
    assert runtime.observe(service.name).weights == ALL_BLUE


def test_a_suspension_that_is_told_but_not_taken_is_reported_and_seen() -> None:
    runtime = MemoryRuntime(SystemClock())
    runtime.declare(service := a_service())
    runtime.faults.routes_ignored = True
    with pytest.raises(SuspensionNotVerified):
        runtime.suspend(service.name, NOTICE)
    assert runtime.observe(service.name).notice is None
    assert runtime.suspensions() == {service.name: NOTICE}
