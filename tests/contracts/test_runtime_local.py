"""The runtime of one machine keeps the port's promises, with real processes and a real router."""

from __future__ import annotations

import http.client
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import pairwise

import pytest

from dr_platform.catalog import Service
from dr_platform.clock import SystemClock
from dr_platform.metrics.envoy import EnvoyTraffic
from dr_platform.metrics.port import MetricsUnavailable, between, total
from dr_platform.runtime.local.ports import PortsBusy
from dr_platform.runtime.local.records import Declared, LocalRecords, PortRange
from dr_platform.runtime.local.router import Router, RouteRejected
from dr_platform.runtime.local.runtime import LocalRuntime
from dr_platform.runtime.notice import document, page
from dr_platform.runtime.port import ProbeResult, Slot, SuspensionNotVerified, Weights
from tests.contracts.local import LocalHarness, local_runtime
from tests.contracts.runtime import (
    ALL_BLUE,
    ALL_GREEN,
    NOTICE,
    RuntimeContract,
    a_service,
    a_workload,
    changed,
    deploy,
    load,
    until,
    version_of,
)

pytestmark = pytest.mark.contract

# Below 32768, where the kernel's ports for outgoing connections begin: one of those may be in use.
PORT_OFFSET = 24_600
PORTS = PortRange(31_600, 1_100)


class RejectingRouter(Router):
    """Writes a table for one service that names a cluster which does not exist."""

    def __init__(self, router: Router, name: str) -> None:
        self.__dict__.update(router.__dict__)
        self._records = BrokenRecords(router._records, name)


class BrokenRecords:
    def __init__(self, records: LocalRecords, name: str) -> None:
        self._records, self._name = records, name

    def all(self) -> dict[str, Declared]:
        known = self._records.all()
        broken = known[self._name]
        # Envoy refuses a table of which no weight is above 0, and this one has only an unknown slot.
        known[self._name] = replace(broken, route=replace(broken.route, weights=_NoWeights(0, 0), sequence=99))
        return known


class _NoWeights(Weights):
    def __eq__(self, other: object) -> bool:
        return isinstance(other, _NoWeights)

    __hash__ = Weights.__hash__


def asked(service: Service, method: str, accept: str | None) -> tuple[int, dict[str, str], str]:
    """One request through the router: status, headers by lower-case name, body."""
    with closing(http.client.HTTPConnection("127.0.0.1", service.port + PORT_OFFSET, timeout=5)) as connection:
        connection.request(method, "/", headers={"Accept": accept} if accept else {})
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode()


@pytest.fixture(scope="module")
def local() -> Iterator[LocalHarness]:
    with local_runtime(PORT_OFFSET, PORTS) as harness:
        yield harness


class TestLocalRuntime(RuntimeContract):
    @pytest.fixture
    def harness(self, local: LocalHarness) -> LocalHarness:
        return local

    @pytest.fixture
    def runtime(self, local: LocalHarness) -> LocalRuntime:
        return local.runtime

    def test_a_killed_router_comes_back_with_the_same_weights(self, local: LocalHarness) -> None:
        runtime = local.runtime
        runtime.declare(service := a_service())
        deploy(runtime, Slot.BLUE, a_workload(service, "1"))
        deploy(runtime, Slot.GREEN, a_workload(service, "2"))
        runtime.route(service.name, Weights(40, 60), 1)
        before = local.pid("router")
        os.kill(before, signal.SIGKILL)
        until(lambda: runtime.observe(service.name).weights == Weights(40, 60) and local.pid("router") != before)
        until(lambda: runtime.probe(service.name, "/").ok)
        runtime.route(service.name, ALL_GREEN, 1)
        assert version_of(runtime.probe(service.name, "/")) == "2"

    def test_a_route_change_right_after_the_router_was_killed_waits_for_it(self, local: LocalHarness) -> None:
        runtime = local.runtime
        runtime.declare(service := a_service())
        deploy(runtime, Slot.BLUE, a_workload(service, "1"))
        os.kill(local.pid("router"), signal.SIGKILL)
        runtime.route(service.name, ALL_BLUE, 1)
        assert runtime.probe(service.name, "/").ok

    def test_a_port_that_somebody_holds_is_named_with_its_holder_and_nothing_is_declared(
        self, local: LocalHarness
    ) -> None:
        service = a_service()
        with socket.create_server(("127.0.0.1", service.port + PORT_OFFSET)), pytest.raises(PortsBusy) as refused:
            local.runtime.declare(service)
        assert f"needs {service.port + PORT_OFFSET}, held by " in refused.value.what
        assert f"(pid {os.getpid()})" in refused.value.what
        assert service.name not in local.runtime.declared()

    def test_a_replica_does_not_take_a_port_that_somebody_holds(self, local: LocalHarness) -> None:
        runtime = local.runtime
        runtime.declare(service := a_service())
        deploy(runtime, Slot.BLUE, a_workload(service, "1"))
        (replica,) = runtime.observe(service.name).slots[Slot.BLUE].replicas
        runtime.retire(service.name, Slot.BLUE)
        with socket.create_server(("127.0.0.1", int(replica.address.partition(":")[2]))):
            deploy(runtime, Slot.BLUE, a_workload(service, "1"))
        (other,) = runtime.observe(service.name).slots[Slot.BLUE].replicas
        assert other.address != replica.address

    def test_starting_the_router_again_restarts_nothing(self, local: LocalHarness) -> None:
        before = local.pid("router")
        local.runtime.start_router()
        assert local.pid("router") == before

    def test_a_second_process_sees_what_the_first_one_did(self, local: LocalHarness) -> None:
        local.runtime.declare(service := a_service())
        deploy(local.runtime, Slot.BLUE, a_workload(service, "1", 2))
        assert local.another().observe(service.name).slots[Slot.BLUE].ready == 2

    def test_many_services_are_deployed_at_once(self, local: LocalHarness) -> None:
        runtime = local.runtime

        def bring_up(service: Service) -> bool:
            runtime.declare(service)
            deploy(runtime, Slot.BLUE, a_workload(service, "1"))
            runtime.route(service.name, ALL_BLUE, 1)
            return runtime.probe(service.name, "/").ok

        with ThreadPoolExecutor(max_workers=12) as pool:
            assert all(pool.map(bring_up, [a_service() for _ in range(12)]))

    def test_a_connection_that_is_kept_open_survives_every_change(self, local: LocalHarness) -> None:
        runtime = local.runtime
        runtime.declare(service := a_service())
        deploy(runtime, Slot.BLUE, a_workload(service, "1"))
        deploy(runtime, Slot.GREEN, a_workload(service, "2"))
        runtime.route(service.name, ALL_BLUE, 1)
        with closing(http.client.HTTPConnection("127.0.0.1", service.port + PORT_OFFSET, timeout=5)) as connection:

            def version() -> str:
                connection.request("GET", "/")
                return version_of(ProbeResult(200, connection.getresponse().read()))

            assert version() == "1"
            socket_before = connection.sock
            runtime.route(service.name, ALL_GREEN, 1)
            assert version() == "2"
            runtime.retire(service.name, Slot.BLUE)
            runtime.declare(changed(service, request_timeout="3 s"))
            assert version() == "2"
            assert connection.sock is socket_before

    def test_routes_that_the_router_rejects_leave_the_former_ones_in_use_and_on_disk(self, local: LocalHarness) -> None:
        runtime = local.runtime
        runtime.declare(service := a_service())
        deploy(runtime, Slot.BLUE, a_workload(service, "1"))
        runtime.route(service.name, ALL_BLUE, 1)
        file = local.state.router / "routes" / f"{service.name}.json"
        good = file.read_text()
        rejecting = RejectingRouter(runtime.router, service.name)
        with pytest.raises(RouteRejected):
            rejecting.converge(service.name)
        assert file.read_text() == good
        assert runtime.observe(service.name).weights == ALL_BLUE
        assert runtime.probe(service.name, "/").ok

    def test_a_notice_is_json_for_programs_and_a_page_for_everybody_else(self, local: LocalHarness) -> None:
        local.runtime.declare(service := a_service())
        local.runtime.suspend(service.name, NOTICE)
        for accept, media_type in (
            ("application/json", "application/json"),
            ("text/plain, Application/JSON;q=0.9", "application/json"),
            ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8"),
            ("text/html, application/json;q=0.5", "text/html; charset=utf-8"),
            ("*/*", "text/html; charset=utf-8"),
            (None, "text/html; charset=utf-8"),
        ):
            for method in ("GET", "POST"):
                status, headers, body = asked(service, method, accept)
                assert (status, headers["content-type"], headers["retry-after"]) == (503, media_type, "120"), accept
                assert headers["cache-control"] == "no-store"
                expected = page(NOTICE) if media_type.startswith("text") else document(service.name, NOTICE)
                assert body == expected

    def test_a_suspension_survives_the_end_of_the_router_and_of_the_supervisor(self, local: LocalHarness) -> None:
        runtime = local.runtime
        runtime.declare(service := a_service())
        deploy(runtime, Slot.BLUE, workload := a_workload(service, "1"))
        runtime.route(service.name, ALL_BLUE, 1)
        runtime.suspend(service.name, NOTICE)
        before = local.pid("router")
        os.kill(before, signal.SIGKILL)
        until(lambda: runtime.observe(service.name).notice == NOTICE and local.pid("router") != before)
        until(lambda: runtime.probe(service.name, "/").retry_after_s == 120)
        local.supervisor.stop()
        local.bring_up()
        assert runtime.observe(service.name).notice == NOTICE
        assert runtime.probe(service.name, "/").retry_after_s == 120
        deploy(runtime, Slot.BLUE, workload)
        runtime.resume(service.name)
        until(lambda: runtime.probe(service.name, "/").ok)

    def test_a_notice_that_the_router_rejects_is_taken_back(self, local: LocalHarness) -> None:
        runtime = local.another()
        runtime.declare(service := a_service())
        runtime.router = RejectingRouter(runtime.router, service.name)
        with pytest.raises(SuspensionNotVerified):
            runtime.suspend(service.name, NOTICE)
        assert local.runtime.suspensions().get(service.name) is None
        assert local.runtime.observe(service.name).notice is None

    def test_traffic_is_counted_for_each_slot_and_scaling_does_not_reset_it(self, local: LocalHarness) -> None:
        runtime = local.runtime
        traffic = EnvoyTraffic(runtime.router.admin, SystemClock().now)
        runtime.declare(service := a_service(request_timeout="300 ms"))
        deploy(runtime, Slot.BLUE, a_workload(service, "1"))
        deploy(runtime, Slot.GREEN, a_workload(service, "2"))
        runtime.route(service.name, ALL_BLUE, 1)
        until(lambda: runtime.probe(service.name, "/", Slot.GREEN).ok)
        looks = [traffic.read(service.name)]
        for _ in range(20):
            runtime.probe(service.name, "/?wait=0.06")
        for _ in range(5):
            runtime.probe(service.name, "/fail")
        runtime.probe(service.name, "/?wait=1")
        runtime.probe(service.name, "/", Slot.GREEN)
        looks.append(traffic.read(service.name))
        deploy(runtime, Slot.BLUE, a_workload(service, "1", 2))
        for _ in range(10):
            runtime.probe(service.name, "/?wait=0.06")
        until(lambda: traffic.read(service.name)[Slot.BLUE].latency.total >= 10)
        after = traffic.read_all()[service.name]
        windows = [between(a[Slot.BLUE], b[Slot.BLUE]) for a, b in pairwise([*looks, after])]
        blue = total(window for window in windows if window)
        assert (blue.requests, blue.errors, blue.timeouts) == (36, 6, 1)
        assert blue.p95_ms is not None
        assert 50 < blue.p95_ms <= 300
        assert after[Slot.GREEN].requests - looks[0][Slot.GREEN].requests == 1
        assert (after[Slot.BLUE].healthy, after[Slot.BLUE].members) == (2, 2)

    def test_counters_after_a_restart_of_the_router_give_no_window(self, local: LocalHarness) -> None:
        runtime = local.runtime
        traffic = EnvoyTraffic(runtime.router.admin, SystemClock().now)
        runtime.declare(service := a_service())
        deploy(runtime, Slot.BLUE, a_workload(service, "1"))
        runtime.route(service.name, ALL_BLUE, 1)
        for _ in range(5):
            assert runtime.probe(service.name, "/").ok
        before = traffic.read(service.name)[Slot.BLUE]
        with local.lose_router(), pytest.raises(MetricsUnavailable):
            traffic.read(service.name)
        assert between(before, traffic.read(service.name)[Slot.BLUE]) is None

    def test_load_is_carried_on_while_other_services_come_and_go(self, local: LocalHarness) -> None:
        runtime = local.runtime
        runtime.declare(service := a_service())
        deploy(runtime, Slot.BLUE, a_workload(service, "1"))
        runtime.route(service.name, ALL_BLUE, 1)
        with load(runtime, service.name) as requests:
            for _ in range(3):
                runtime.declare(other := a_service())
                runtime.undeclare(other.name)
        assert requests.lost == []

    def test_a_supervisor_that_was_stopped_has_to_be_told_again(self, local: LocalHarness) -> None:
        local.runtime.declare(service := a_service())
        deploy(local.runtime, Slot.BLUE, workload := a_workload(service, "1", 2))
        local.runtime.route(service.name, ALL_BLUE, 1)
        local.supervisor.stop()
        local.bring_up()
        assert local.runtime.observe(service.name).slots[Slot.BLUE].desired == 0
        deploy(local.runtime, Slot.BLUE, workload)
        until(lambda: local.runtime.probe(service.name, "/").ok)
