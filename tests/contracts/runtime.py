"""What every ``Runtime`` promises: one test for each promise of the port's docstrings.

An adapter's tests inherit ``RuntimeContract`` and provide the fixture ``harness``.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Protocol

import pytest

from dr_platform.catalog import Service
from dr_platform.runtime.notice import MAX_RETRY_AFTER_S, MAX_TEXT, MAX_TITLE, Notice
from dr_platform.runtime.port import (
    CLOSED,
    Job,
    NoCapacity,
    ProbeResult,
    ReplicaState,
    Revision,
    Runtime,
    RuntimeUnreachable,
    Slot,
    SlotInUse,
    StaleEpoch,
    StaleRecord,
    UnknownService,
    Weights,
    Workload,
)

BLUE, GREEN = Slot.BLUE, Slot.GREEN
ALL_BLUE, ALL_GREEN = Weights(100, 0), Weights(0, 100)
NOTICE = Notice("Back soon", "We are working on it.", 120)
RATE = 100
"""Requests a second of the load that no change may lose one of."""


class RuntimeHarness(Protocol):
    """One adapter with what a test needs besides the port: faults, and a second instance."""

    runtime: Runtime

    def another(self) -> Runtime:
        """A second adapter over the same state, as another process would have it."""

    def make_unready(self, version: str) -> AbstractContextManager[None]: ...

    def make_crashing(self, version: str) -> AbstractContextManager[None]: ...

    def lose_router(self) -> AbstractContextManager[None]: ...

    def kill(self, name: str, slot: Slot) -> None:
        """End the first replica's process without asking."""

    def write_log(self, name: str, slot: Slot, text: str) -> None:
        """Let the first replica write a line."""

    def job(self, script: str) -> tuple[str, ...]:
        """Arguments of a job that runs this Python text."""


_numbers = itertools.count()


def a_service(**changes: object) -> Service:
    number = next(_numbers)
    fields: dict[str, object] = {
        "name": f"svc-{number}",
        "title": "A service",
        "description": "For tests of a runtime.",
        "language": "go",
        "tier": "backend",
        "port": 6000 + number,
        "owner": "team:tests",
        "image": "tests/service",
        "data_class": "none",
        "resources": {"cpu": {"request": 1, "limit": 1}, "memory": {"request": "64 MiB", "limit": "64 MiB"}},
        "probes": {"readiness": {"path": "/health/ready", "initial_delay": "2 s", "period": "1 s"}},
        "request_timeout": "5 s",
        "drain": "5 s",
    }
    return Service.model_validate(fields | changes)


def changed(service: Service, **changes: object) -> Service:
    return Service.model_validate(service.model_dump() | changes)


def a_workload(service: Service, version: str, replicas: int = 1) -> Workload:
    return Workload(service, Revision(version, f"sha256:{version}", "c0"), replicas)


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)


def ready(runtime: Runtime, name: str, slot: Slot) -> int:
    return runtime.observe(name).slots[slot].ready


def deploy(runtime: Runtime, slot: Slot, workload: Workload) -> None:
    """Apply and wait until all replicas are ready."""
    runtime.apply(slot, workload)
    until(lambda: ready(runtime, workload.service.name, slot) == workload.replicas)


def version_of(answer: ProbeResult) -> str:
    return json.loads(answer.body)["version"]


class Asked(Protocol):
    """What a load is sent to: a runtime, or something with less work for each request."""

    def probe(self, name: str, path: str) -> ProbeResult: ...


class Load:
    """Open-loop: a request each 1/``rate`` second, whether earlier ones were answered or not."""

    def __init__(self, asked: Asked, name: str, path: str, rate: float) -> None:
        self._asked, self._name, self._path, self._rate = asked, name, path, rate
        self._futures: list[Future[tuple[float, ProbeResult]]] = []
        self._stop = threading.Event()

    def run(self) -> None:
        with ThreadPoolExecutor(max_workers=64) as pool:
            began = time.monotonic()
            for number in itertools.count():
                if self._stop.wait(max(0.0, began + number / self._rate - time.monotonic())):
                    return
                self._futures.append(pool.submit(self._request))

    def _request(self) -> tuple[float, ProbeResult]:
        sent_at = time.monotonic()
        return sent_at, self._asked.probe(self._name, self._path)

    def stop(self) -> None:
        self._stop.set()

    @property
    def answers(self) -> list[tuple[float, ProbeResult]]:
        """When each request was sent, and what came back; waits for all of them, so ask at the end."""
        return [future.result() for future in list(self._futures)]

    @property
    def sent(self) -> int:
        return len(self._futures)

    def answered(self, count: int) -> bool:
        return sum(future.done() for future in list(self._futures)) >= count

    @property
    def lost(self) -> list[ProbeResult]:
        return [answer for _, answer in self.answers if not answer.ok]


@contextmanager
def load(asked: Asked, name: str, path: str = "/work?wait=0.02", rate: float = RATE) -> Iterator[Load]:
    generator = Load(asked, name, path, rate)
    thread = threading.Thread(target=generator.run)
    thread.start()
    try:
        until(lambda: generator.answered(10))
        yield generator
        so_far = generator.sent
        until(lambda: generator.answered(so_far + 20))
    finally:
        generator.stop()
        thread.join()


class RuntimeContract:
    """No ``Test`` prefix: it runs only through its adapters."""

    @pytest.fixture
    def runtime(self, harness: RuntimeHarness) -> Runtime:
        return harness.runtime

    @pytest.fixture
    def service(self, runtime: Runtime) -> Iterator[Service]:
        """A declared service of its own, taken away afterwards."""
        service = a_service()
        runtime.declare(service)
        yield service
        if service.name not in runtime.declared():
            return
        runtime.route(service.name, CLOSED, runtime.observe(service.name).epoch)
        for slot in Slot:
            runtime.retire(service.name, slot)
        runtime.undeclare(service.name)

    def test_traffic_of_a_declared_service_without_a_deployment_is_answered_503(
        self, runtime: Runtime, service: Service
    ) -> None:
        assert service.name in runtime.declared()
        assert runtime.observe(service.name).weights == CLOSED
        assert runtime.probe(service.name, "/").status == 503

    def test_a_second_declaration_changes_the_timeout_without_losing_a_request(
        self, runtime: Runtime, service: Service
    ) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        runtime.route(service.name, ALL_BLUE, 1)
        assert runtime.probe(service.name, "/?wait=0.5").ok
        with load(runtime, service.name) as requests:
            runtime.declare(changed(service, request_timeout="200 ms"))
        assert requests.lost == []
        assert runtime.probe(service.name, "/?wait=0.5").status == 504
        assert runtime.observe(service.name).weights == ALL_BLUE

    def test_a_second_declaration_changes_the_port(self, runtime: Runtime, service: Service) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        runtime.route(service.name, ALL_BLUE, 1)
        runtime.declare(changed(service, port=service.port + 200))
        assert runtime.probe(service.name, "/").ok

    def test_an_undeclared_service_is_gone_with_its_record(self, runtime: Runtime, service: Service) -> None:
        runtime.write_record(service.name, "{}", None)
        runtime.undeclare(service.name)
        assert service.name not in runtime.declared()
        with pytest.raises(UnknownService):
            runtime.observe(service.name)
        runtime.declare(service)
        assert runtime.read_record(service.name) is None

    def test_a_service_that_runs_something_is_not_undeclared(self, runtime: Runtime, service: Service) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        with pytest.raises(SlotInUse):
            runtime.undeclare(service.name)
        assert ready(runtime, service.name, BLUE) == 1

    def test_a_service_that_was_not_declared_is_unknown_to_every_method(self, runtime: Runtime) -> None:
        stranger = a_service()
        calls: list[Callable[[], object]] = [
            lambda: runtime.undeclare(stranger.name),
            lambda: runtime.apply(BLUE, a_workload(stranger, "1")),
            lambda: runtime.replace(stranger.name, BLUE, []),
            lambda: runtime.retire(stranger.name, BLUE),
            lambda: runtime.fence(stranger.name, 1),
            lambda: runtime.observe(stranger.name),
            lambda: runtime.probe(stranger.name, "/"),
            lambda: runtime.route(stranger.name, ALL_BLUE, 1),
            lambda: runtime.suspend(stranger.name, NOTICE),
            lambda: runtime.resume(stranger.name),
            lambda: runtime.logs(stranger.name),
            lambda: runtime.read_record(stranger.name),
            lambda: runtime.write_record(stranger.name, "{}", None),
        ]
        for call in calls:
            with pytest.raises(UnknownService):
                call()

    def test_an_applied_workload_becomes_ready_and_gets_no_traffic_yet(
        self, runtime: Runtime, service: Service
    ) -> None:
        deploy(runtime, BLUE, a_workload(service, "1", 2))
        blue = runtime.observe(service.name).slots[BLUE]
        assert (blue.revision, blue.desired, blue.ready) == (a_workload(service, "1").revision, 2, 2)
        assert len({replica.address for replica in blue.replicas}) == 2
        assert runtime.probe(service.name, "/").status == 503

    def test_applying_the_same_again_restarts_nothing(self, runtime: Runtime, service: Service) -> None:
        deploy(runtime, BLUE, a_workload(service, "1", 2))
        before = runtime.observe(service.name).slots[BLUE]
        runtime.apply(BLUE, a_workload(service, "1", 2))
        assert runtime.observe(service.name).slots[BLUE] == before

    def test_a_revision_under_traffic_is_not_changed_in_place(self, runtime: Runtime, service: Service) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        runtime.route(service.name, ALL_BLUE, 1)
        with pytest.raises(SlotInUse):
            runtime.apply(BLUE, a_workload(service, "2"))
        assert version_of(runtime.probe(service.name, "/")) == "1"
        assert runtime.observe(service.name).slots[BLUE].revision == a_workload(service, "1").revision

    def test_an_idle_slot_takes_another_revision(self, runtime: Runtime, service: Service) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        runtime.apply(BLUE, a_workload(service, "2"))
        until(lambda: (a := runtime.probe(service.name, "/", BLUE)).ok and version_of(a) == "2")

    def test_scaling_under_load_leaves_the_others_alone_and_loses_no_request(
        self, runtime: Runtime, service: Service
    ) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        runtime.route(service.name, ALL_BLUE, 1)
        first = runtime.observe(service.name).slots[BLUE].replicas[0]
        with load(runtime, service.name, "/?wait=0.2") as requests:
            deploy(runtime, BLUE, a_workload(service, "1", 3))
            sent = requests.sent
            until(lambda: requests.answered(sent + 20))
            runtime.apply(BLUE, a_workload(service, "1", 1))
        assert requests.lost == []
        assert runtime.observe(service.name).slots[BLUE].replicas == (first,)

    def test_replacing_the_last_replica_under_load_starts_it_anew_and_loses_no_request(
        self, runtime: Runtime, service: Service
    ) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        runtime.route(service.name, ALL_BLUE, 1)
        (before,) = runtime.observe(service.name).slots[BLUE].replicas
        with load(runtime, service.name) as requests:
            runtime.replace(service.name, BLUE, [before.name])
            until(lambda: ready(runtime, service.name, BLUE) == 1)
        assert requests.lost == []
        (after,) = runtime.observe(service.name).slots[BLUE].replicas
        assert (after.name, after.started_at) != (before.name, before.started_at)

    def test_replacing_one_of_several_leaves_the_others_and_loses_no_request(
        self, runtime: Runtime, service: Service
    ) -> None:
        deploy(runtime, BLUE, a_workload(service, "1", 3))
        runtime.route(service.name, ALL_BLUE, 1)
        before = runtime.observe(service.name).slots[BLUE].replicas
        with load(runtime, service.name) as requests:
            runtime.replace(service.name, BLUE, [before[1].name])
            until(lambda: ready(runtime, service.name, BLUE) == 3)
        assert requests.lost == []
        after = runtime.observe(service.name).slots[BLUE].replicas
        assert len(set(after) & {before[0], before[2]}) == 2

    def test_replacing_replicas_that_do_not_exist_changes_nothing(self, runtime: Runtime, service: Service) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        before = runtime.observe(service.name).slots[BLUE]
        runtime.replace(service.name, BLUE, ["somebody-else"])
        runtime.replace(service.name, GREEN, ["somebody-else"])
        assert runtime.observe(service.name).slots[BLUE] == before

    def test_a_slot_under_traffic_is_not_retired(self, runtime: Runtime, service: Service) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        runtime.route(service.name, ALL_BLUE, 1)
        with pytest.raises(SlotInUse):
            runtime.retire(service.name, BLUE)
        assert runtime.probe(service.name, "/").ok

    def test_retiring_the_old_slot_ends_its_requests_first_and_loses_none(
        self, runtime: Runtime, service: Service
    ) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        deploy(runtime, GREEN, a_workload(service, "2"))
        runtime.route(service.name, ALL_BLUE, 1)
        with load(runtime, service.name, "/?wait=0.5") as requests:
            runtime.route(service.name, ALL_GREEN, 1)
            runtime.retire(service.name, BLUE)
        assert requests.lost == []
        blue = runtime.observe(service.name).slots[BLUE]
        assert (blue.revision, blue.desired, blue.replicas) == (None, 0, ())
        runtime.retire(service.name, BLUE)

    def test_a_replica_whose_readiness_fails_is_seen_as_unready_and_gets_no_requests(
        self, harness: RuntimeHarness, runtime: Runtime, service: Service
    ) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        runtime.route(service.name, ALL_BLUE, 1)
        with harness.make_unready("1"):
            assert runtime.observe(service.name).slots[BLUE].replicas[0].state is ReplicaState.UNREADY
            until(lambda: runtime.probe(service.name, "/").status == 503)
        until(lambda: runtime.probe(service.name, "/").ok)

    def test_a_replica_that_crashes_at_every_start_is_seen_as_failed(
        self, harness: RuntimeHarness, runtime: Runtime, service: Service
    ) -> None:
        with harness.make_crashing("1"):
            runtime.apply(BLUE, a_workload(service, "1"))
            until(lambda: runtime.observe(service.name).slots[BLUE].replicas[0].state is ReplicaState.FAILED)

    def test_a_killed_replica_comes_back_and_its_end_is_counted(
        self, harness: RuntimeHarness, runtime: Runtime, service: Service
    ) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        harness.kill(service.name, BLUE)
        until(lambda: runtime.observe(service.name).slots[BLUE].replicas[0].restarts == 1)
        until(lambda: ready(runtime, service.name, BLUE) == 1)
        runtime.apply(BLUE, a_workload(service, "2"))
        until(lambda: ready(runtime, service.name, BLUE) == 1)
        assert runtime.observe(service.name).slots[BLUE].replicas[0].restarts == 0

    def test_weights_that_cannot_be_read_are_not_guessed(
        self, harness: RuntimeHarness, runtime: Runtime, service: Service
    ) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        runtime.route(service.name, ALL_BLUE, 1)
        with harness.lose_router():
            seen = runtime.observe(service.name)
            assert seen.weights is None
            assert seen.slots[BLUE].ready == 1
            answer = runtime.probe(service.name, "/")
            assert (answer.status, answer.ok) == (None, False)
            assert answer.reason
        assert runtime.observe(service.name).weights == ALL_BLUE

    def test_the_header_reaches_a_slot_at_weight_0(self, runtime: Runtime, service: Service) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        deploy(runtime, GREEN, a_workload(service, "2"))
        runtime.route(service.name, ALL_BLUE, 1)
        until(lambda: runtime.probe(service.name, "/", GREEN).ok)
        assert version_of(runtime.probe(service.name, "/", GREEN)) == "2"
        assert version_of(runtime.probe(service.name, "/", BLUE)) == "1"
        assert version_of(runtime.probe(service.name, "/")) == "1"

    def test_a_probe_that_takes_too_long_ends_with_a_reason(self, runtime: Runtime, service: Service) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        runtime.route(service.name, ALL_BLUE, 1)
        answer = runtime.probe(service.name, "/?wait=1", timeout_s=0.1)
        assert (answer.status, answer.ok) == (None, False)
        assert "0.1 s" in answer.reason

    def test_no_request_is_lost_and_none_goes_astray_while_weights_flip(
        self, runtime: Runtime, service: Service
    ) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        deploy(runtime, GREEN, a_workload(service, "2"))
        runtime.route(service.name, ALL_BLUE, 1)
        all_to_one: list[tuple[float, float, str]] = []
        with load(runtime, service.name) as requests:
            for flip in range(12):
                weights, version = (ALL_GREEN, "2") if flip % 2 == 0 else (ALL_BLUE, "1")
                runtime.route(service.name, weights, 1)
                since = time.monotonic()
                sent = requests.sent
                until(lambda sent=sent: requests.answered(sent + 5))
                all_to_one.append((since, time.monotonic(), version))
        assert requests.lost == []
        astray = [
            (sent_at, version_of(answer))
            for sent_at, answer in requests.answers
            for since, before, version in all_to_one
            if since < sent_at < before and version_of(answer) != version
        ]
        assert astray == []

    def test_weights_share_the_requests(self, runtime: Runtime, service: Service) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        deploy(runtime, GREEN, a_workload(service, "2"))
        runtime.route(service.name, Weights(75, 25), 1)
        assert runtime.observe(service.name).weights == Weights(75, 25)
        to_green = sum(version_of(runtime.probe(service.name, "/")) == "2" for _ in range(200))
        assert 20 <= to_green <= 85  # 50 expected; 6 standard deviations either way

    def test_a_lower_epoch_is_refused_and_changes_nothing(self, runtime: Runtime, service: Service) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        deploy(runtime, GREEN, a_workload(service, "2"))
        runtime.route(service.name, ALL_BLUE, 5)
        with pytest.raises(StaleEpoch):
            runtime.route(service.name, ALL_GREEN, 4)
        seen = runtime.observe(service.name)
        assert (seen.weights, seen.epoch) == (ALL_BLUE, 5)
        runtime.route(service.name, ALL_GREEN, 5)
        assert runtime.observe(service.name).weights == ALL_GREEN

    def test_once_a_higher_epoch_stands_a_lower_one_changes_neither_slots_nor_weights(
        self, runtime: Runtime, service: Service
    ) -> None:
        deploy(runtime, BLUE, a_workload(service, "1", 2))
        runtime.route(service.name, ALL_BLUE, 1)
        deploy(runtime, GREEN, a_workload(service, "2"))
        runtime.fence(service.name, 2)
        before = runtime.observe(service.name)
        assert (before.weights, before.epoch) == (ALL_BLUE, 2)
        stale: list[Callable[[], object]] = [
            lambda: runtime.apply(BLUE, a_workload(service, "1", 1), 1),
            lambda: runtime.apply(GREEN, a_workload(service, "3"), 1),
            lambda: runtime.retire(service.name, GREEN, 1),
            lambda: runtime.route(service.name, ALL_GREEN, 1),
            lambda: runtime.fence(service.name, 1),
        ]
        for change in stale:
            with pytest.raises(StaleEpoch):
                change()
        assert runtime.observe(service.name) == before
        runtime.fence(service.name, 2)
        runtime.retire(service.name, GREEN, 2)
        assert runtime.observe(service.name).slots[GREEN].revision is None

    @pytest.mark.parametrize("change", ["apply", "retire"])
    def test_a_change_of_a_slot_fences_off_lower_epochs_as_a_route_does(
        self, runtime: Runtime, service: Service, change: str
    ) -> None:
        if change == "apply":
            runtime.apply(BLUE, a_workload(service, "1"), 3)
        else:
            runtime.retire(service.name, BLUE, 3)
        with pytest.raises(StaleEpoch):
            runtime.route(service.name, CLOSED, 2)
        assert runtime.observe(service.name).epoch == 3

    def test_a_slot_without_a_ready_replica_gets_no_traffic(
        self, harness: RuntimeHarness, runtime: Runtime, service: Service
    ) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        runtime.route(service.name, ALL_BLUE, 1)
        with pytest.raises(NoCapacity):
            runtime.route(service.name, Weights(50, 50), 2)
        with harness.make_unready("2"):
            runtime.apply(GREEN, a_workload(service, "2"))
            with pytest.raises(NoCapacity):
                runtime.route(service.name, ALL_GREEN, 2)
        seen = runtime.observe(service.name)
        assert (seen.weights, seen.epoch) == (ALL_BLUE, 1)

    def test_of_two_writers_at_once_the_newer_epoch_wins(
        self, harness: RuntimeHarness, runtime: Runtime, service: Service
    ) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        deploy(runtime, GREEN, a_workload(service, "2"))
        runtime.route(service.name, ALL_BLUE, 1)
        other = harness.another()

        first_written = threading.Event()

        def old_controller() -> int:
            for written in itertools.count():
                try:
                    runtime.route(service.name, (ALL_BLUE, Weights(75, 25))[written % 2], 1)
                except StaleEpoch:
                    return written
                first_written.set()
            raise AssertionError

        with ThreadPoolExecutor(max_workers=1) as pool:
            writing = pool.submit(old_controller)
            assert first_written.wait(20)
            other.route(service.name, ALL_GREEN, 2)
            assert writing.result(timeout=20) > 0
        seen = runtime.observe(service.name)
        assert (seen.weights, seen.epoch) == (ALL_GREEN, 2)

    def test_a_suspended_service_answers_503_with_the_notice_and_serves_again_when_resumed(
        self, runtime: Runtime, service: Service
    ) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        runtime.route(service.name, ALL_BLUE, 1)
        runtime.suspend(service.name, NOTICE)
        for path in ("/", "/work?wait=0", "/healthy", "/v1/health"):
            answer = runtime.probe(service.name, path)
            assert (answer.status, answer.retry_after_s) == (503, 120), path
            assert b"We are working on it." in answer.body
        runtime.resume(service.name)
        assert version_of(runtime.probe(service.name, "/")) == "1"

    def test_operators_and_probes_still_reach_a_suspended_service(self, runtime: Runtime, service: Service) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        deploy(runtime, GREEN, a_workload(service, "2"))
        runtime.route(service.name, ALL_BLUE, 1)
        until(lambda: runtime.probe(service.name, "/", GREEN).ok)
        runtime.suspend(service.name, NOTICE)
        assert version_of(runtime.probe(service.name, "/", BLUE)) == "1"
        assert version_of(runtime.probe(service.name, "/", GREEN)) == "2"
        for path in ("/health", "/health?deep=1", "/health/ready"):
            assert version_of(runtime.probe(service.name, path)) == "1"

    def test_a_suspension_is_told_and_seen_and_changes_nothing_else(
        self, harness: RuntimeHarness, runtime: Runtime, service: Service
    ) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        runtime.route(service.name, ALL_BLUE, 3)
        version = runtime.write_record(service.name, "{}", None)
        before = runtime.observe(service.name)
        assert before.notice is None
        runtime.suspend(service.name, NOTICE)
        seen = harness.another().observe(service.name)
        assert seen.notice == NOTICE
        assert (seen.slots, seen.weights, seen.epoch) == (before.slots, before.weights, before.epoch)
        stored = runtime.read_record(service.name)
        assert stored is not None
        assert stored.version == version
        assert harness.another().suspensions()[service.name] == NOTICE
        runtime.resume(service.name)
        assert runtime.observe(service.name) == before
        assert service.name not in runtime.suspensions()

    def test_deployments_and_declarations_go_on_behind_a_suspension_and_do_not_end_it(
        self, runtime: Runtime, service: Service
    ) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        runtime.route(service.name, ALL_BLUE, 1)
        runtime.suspend(service.name, NOTICE)
        deploy(runtime, GREEN, a_workload(service, "2"))
        runtime.route(service.name, ALL_GREEN, 2)
        runtime.retire(service.name, BLUE)
        runtime.declare(changed(service, request_timeout="3 s"))
        seen = runtime.observe(service.name)
        assert (seen.notice, seen.weights, seen.epoch) == (NOTICE, ALL_GREEN, 2)
        assert runtime.probe(service.name, "/").status == 503
        assert version_of(runtime.probe(service.name, "/health")) == "2"
        runtime.resume(service.name)
        assert version_of(runtime.probe(service.name, "/")) == "2"

    def test_suspending_again_changes_the_notice_and_resuming_again_nothing(
        self, runtime: Runtime, service: Service
    ) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        runtime.route(service.name, ALL_BLUE, 1)
        longest = Notice("\U0001f6e0" * MAX_TITLE, "\"%{}'" * (MAX_TEXT // 5), MAX_RETRY_AFTER_S)
        for notice in (NOTICE, NOTICE, longest):
            runtime.suspend(service.name, notice)
            assert runtime.observe(service.name).notice == notice
            assert runtime.probe(service.name, "/").retry_after_s == notice.retry_after_s
        for _ in range(2):
            runtime.resume(service.name)
            assert runtime.observe(service.name).notice is None
            assert runtime.probe(service.name, "/").ok

    def test_a_service_without_a_deployment_can_be_suspended(self, runtime: Runtime, service: Service) -> None:
        runtime.suspend(service.name, NOTICE)
        seen = runtime.observe(service.name)
        assert (seen.weights, seen.notice) == (CLOSED, NOTICE)
        assert runtime.probe(service.name, "/").retry_after_s == 120
        assert runtime.probe(service.name, "/health").retry_after_s is None

    def test_an_undeclared_service_leaves_no_suspension_behind(self, runtime: Runtime, service: Service) -> None:
        runtime.suspend(service.name, NOTICE)
        runtime.undeclare(service.name)
        assert service.name not in runtime.suspensions()
        runtime.declare(service)
        assert runtime.observe(service.name).notice is None

    def test_suspending_and_resuming_under_load_loses_no_request_but_for_the_notice(
        self, runtime: Runtime, service: Service
    ) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        runtime.route(service.name, ALL_BLUE, 1)
        with load(runtime, service.name, "/?wait=0.2") as requests:
            runtime.suspend(service.name, NOTICE)
            suspended = time.monotonic()
            sent = requests.sent
            until(lambda: requests.answered(sent + 20))
            resuming = time.monotonic()
            runtime.resume(service.name)
            resumed = time.monotonic()
        answers = requests.answers
        assert [a for _, a in answers if not a.ok and a.retry_after_s != 120] == []
        assert [a for at, a in answers if suspended < at < resuming and a.ok] == []
        assert [a for at, a in answers if at > resumed and not a.ok] == []

    def test_a_suspension_that_the_router_cannot_be_told_is_refused(
        self, harness: RuntimeHarness, runtime: Runtime, service: Service
    ) -> None:
        with harness.lose_router(), pytest.raises(RuntimeUnreachable):
            runtime.suspend(service.name, NOTICE)
        assert service.name not in runtime.suspensions()
        assert runtime.observe(service.name).notice is None

    def test_a_job_runs_to_its_end_and_gives_its_exit_code_and_output(
        self, harness: RuntimeHarness, runtime: Runtime
    ) -> None:
        script = "import os,sys; print('x' * 100_000); print(os.environ['COLOUR']); sys.exit(4)"
        result = runtime.run_job(Job("job-exit", harness.job(script), 20.0, {"COLOUR": "teal"}))
        assert result.exit_code == 4
        assert result.output.endswith("teal\n")
        assert len(result.output) == 64 << 10

    def test_a_job_whose_time_is_over_is_ended_without_an_exit_code(
        self, harness: RuntimeHarness, runtime: Runtime
    ) -> None:
        script = "import time; print('begun', flush=True); time.sleep(60)"
        result = runtime.run_job(Job("job-late", harness.job(script), 0.5))
        assert result.exit_code is None
        assert "begun" in result.output
        assert result.duration_s < 20

    def test_a_job_of_the_same_name_is_waited_for_and_not_started_twice(self, harness: RuntimeHarness) -> None:
        script = "import time,uuid; print(uuid.uuid4()); time.sleep(0.5)"
        job = Job("job-once", harness.job(script), 20.0)
        with ThreadPoolExecutor(max_workers=2) as pool:
            first, second = pool.map(lambda runtime: runtime.run_job(job), [harness.runtime, harness.another()])
        assert first == second

    def test_logs_give_the_newest_lines_of_each_replica_oldest_first(
        self, harness: RuntimeHarness, runtime: Runtime, service: Service
    ) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        for text in ("one", "two", "three"):
            harness.write_log(service.name, BLUE, text)
        until(lambda: "three" in [line.text for line in runtime.logs(service.name)])
        assert [line.text for line in runtime.logs(service.name, lines=2)] == ["two", "three"]
        (replica,) = runtime.observe(service.name).slots[BLUE].replicas
        assert {line.replica for line in runtime.logs(service.name)} == {replica.name}

    def test_previous_logs_are_those_before_the_last_start(
        self, harness: RuntimeHarness, runtime: Runtime, service: Service
    ) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        harness.write_log(service.name, BLUE, "last words")
        until(lambda: "last words" in [line.text for line in runtime.logs(service.name)])
        harness.kill(service.name, BLUE)
        until(lambda: runtime.observe(service.name).slots[BLUE].replicas[0].restarts == 1)
        until(lambda: "last words" not in [line.text for line in runtime.logs(service.name)])
        assert "last words" in [line.text for line in runtime.logs(service.name, previous=True)]

    def test_followed_logs_go_on_with_what_is_written(
        self, harness: RuntimeHarness, runtime: Runtime, service: Service
    ) -> None:
        deploy(runtime, BLUE, a_workload(service, "1"))
        lines = runtime.logs(service.name, lines=1, follow=True)
        assert next(lines).text == "serving 1"
        with ThreadPoolExecutor(max_workers=1) as pool:
            coming = pool.submit(lambda: next(lines))
            harness.write_log(service.name, BLUE, "news")
            assert coming.result(timeout=10).text == "news"

    def test_the_second_writer_with_one_version_is_refused_and_changes_nothing(
        self, harness: RuntimeHarness, runtime: Runtime, service: Service
    ) -> None:
        assert runtime.read_record(service.name) is None
        first = runtime.write_record(service.name, "first", None)
        with pytest.raises(StaleRecord):
            runtime.write_record(service.name, "again", None)
        second = harness.another().write_record(service.name, "second", first)
        with pytest.raises(StaleRecord):
            runtime.write_record(service.name, "late", first)
        stored = runtime.read_record(service.name)
        assert stored is not None
        assert (stored.body, stored.version) == ("second", second)

    def test_of_many_writers_at_once_one_wins(self, runtime: Runtime, service: Service) -> None:
        version = runtime.write_record(service.name, "start", None)

        def write(body: str) -> bool:
            try:
                runtime.write_record(service.name, body, version)
            except StaleRecord:
                return False
            return True

        with ThreadPoolExecutor(max_workers=8) as pool:
            assert sum(pool.map(write, map(str, range(8)))) == 1

    def test_a_lease_is_held_by_one_until_it_runs_out(self, harness: RuntimeHarness, runtime: Runtime) -> None:
        name = f"lease-{next(_numbers)}"
        first = runtime.acquire_lease(name, "one", timedelta(seconds=0.3))
        assert first is not None
        assert harness.another().acquire_lease(name, "two", timedelta(seconds=30)) is None
        renewed = runtime.acquire_lease(name, "one", timedelta(seconds=0.3))
        assert renewed is not None
        assert (renewed.transitions, renewed.expires_at >= first.expires_at) == (first.transitions, True)
        until(lambda: runtime.acquire_lease(name, "two", timedelta(seconds=30)))
        taken = runtime.acquire_lease(name, "two", timedelta(seconds=30))
        assert taken is not None
        assert taken.transitions == first.transitions + 1

    def test_a_lease_can_be_read_by_whoever_does_not_hold_it(self, harness: RuntimeHarness, runtime: Runtime) -> None:
        name = f"lease-{next(_numbers)}"
        assert runtime.read_lease(name) is None
        taken = runtime.acquire_lease(name, "one", timedelta(seconds=30))
        assert taken is not None
        assert harness.another().read_lease(name) == taken
        assert runtime.acquire_lease(name, "two", timedelta(seconds=30)) is None  # reading took nothing
        runtime.release_lease(taken)
        given_back = runtime.read_lease(name)
        assert given_back is not None
        assert (given_back.holder, given_back.transitions) == ("", taken.transitions)

    def test_only_its_holder_gives_a_lease_back(self, runtime: Runtime) -> None:
        name = f"lease-{next(_numbers)}"
        first = runtime.acquire_lease(name, "one", timedelta(seconds=30))
        assert first is not None
        runtime.release_lease(first)
        second = runtime.acquire_lease(name, "two", timedelta(seconds=30))
        assert second is not None
        runtime.release_lease(first)
        assert runtime.acquire_lease(name, "three", timedelta(seconds=30)) is None
