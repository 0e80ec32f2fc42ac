"""The controller keeps its promises with real processes, a real router, real traffic and real kills."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from dr_platform.clock import SystemClock
from dr_platform.rollout.record import Phase
from dr_platform.rollout.requests import Wanted, follow, restart
from dr_platform.rollout.strategy import IMMEDIATE_WEIGHTS, rollback_steps
from dr_platform.runtime.local.records import PortRange
from dr_platform.runtime.port import ProbeResult, Slot, Weights
from tests.contracts.delivery import Delivery, delivered, exposure_s, lost, made_to_fail
from tests.contracts.local import LocalHarness, local_runtime
from tests.contracts.runtime import ALL_BLUE, ALL_GREEN, a_workload, deploy, load, until

pytestmark = pytest.mark.contract

PORT_OFFSET = 8_200
PORTS = PortRange(15_200, 600)
SHORT_S = 0.7
"""Leases of controllers that a successor waits for."""
LONG_S = 15.0
"""Leases that must not lapse on a busy machine while another controller waits: it would act by right."""
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def local() -> Iterator[LocalHarness]:
    with local_runtime(PORT_OFFSET, PORTS) as harness:
        yield harness


@pytest.fixture
def delivery(local: LocalHarness) -> Iterator[Delivery]:
    with delivered(local) as delivery:
        yield delivery


def complete(weights: Weights | None) -> bool:
    return weights is not None and weights.blue + weights.green == 100


def test_of_two_controllers_one_acts_and_promotes_a_good_canary_without_losing_a_request(delivery: Delivery) -> None:
    for driver in ("a", "b"):
        delivery.controller(driver, lease_s=LONG_S)
    until(lambda: len({line["driver"] for line in delivery.journal()}) == 2)
    with load(delivery.runtime, delivery.name) as requests:
        outcome = delivery.outcome(delivery.ask(delivery.intent()))
    assert outcome.result == "promoted"
    assert delivery.weights == ALL_GREEN
    assert requests.lost == []
    assert len(delivery.acted()) == 1
    assert delivery.record.epoch == 1
    assert delivery.told("incident-opened") == []
    print(f"\npromoted under load, {requests.sent} requests, none lost")


@pytest.mark.parametrize("share", [1.0, 0.2])
def test_a_candidate_that_fails_is_taken_back_within_seconds_and_only_its_own_failures_are_lost(
    delivery: Delivery, share: float
) -> None:
    delivery.controller("a")
    with delivery.harness.make_failing("2", share), load(delivery.runtime, delivery.name) as requests:
        outcome = delivery.outcome(delivery.ask(delivery.intent()))
    assert outcome.result == "rolled_back"
    assert delivery.weights == ALL_BLUE
    assert lost(requests) == []
    assert len(delivery.told("incident-opened")) == 1
    assert len(delivery.told("incident-restored")) == 1
    injected = sum(made_to_fail(answer) for answer in requests.lost)
    seconds = exposure_s(requests, "2")
    print(f"\n{share:.0%} errors: {seconds:.2f} s to restored, {injected} of {requests.sent} failed as told, none lost")
    assert 0 < seconds < 15


FORWARD = (Phase.PREPARE, Phase.SMOKE, Phase.SHIFT, Phase.BAKE)
BACKWARD = (Phase.REVERT_CAPACITY, Phase.REVERT_TRAFFIC, Phase.REVERT_VERIFY, Phase.REVERT_SCALE)


def killed_in(delivery: Delivery, phase: Phase, **orders: float) -> None:
    """A controller takes the rollout to this phase, and is gone."""
    process = delivery.controller(phase.value, dies_in=phase.value, lease_s=SHORT_S, **orders)
    until(process.killed, 40.0)
    assert complete(delivery.weights)


def test_killed_in_every_phase_of_a_bad_rollout_the_last_successor_takes_it_back_with_one_incident(
    delivery: Delivery,
) -> None:
    with delivery.harness.make_failing("2", 1.0), load(delivery.runtime, delivery.name) as requests:
        intent = delivery.ask(delivery.intent())
        for phase in (*FORWARD, *BACKWARD):
            killed_in(delivery, phase)
            rollout = delivery.record.rollout
            assert rollout is not None
            assert rollout.phase is phase
        delivery.controller("last", lease_s=SHORT_S)
        outcome = delivery.outcome(intent)
    assert outcome.result == "rolled_back"
    assert delivery.weights == ALL_BLUE
    assert delivery.record.epoch == 1 + len((*FORWARD, *BACKWARD))
    assert len(delivery.told("incident-opened")) == 1
    assert len(delivery.told("incident-restored")) == 1
    assert len(delivery.told("rollout-ended")) == 1
    assert lost(requests) == []


def test_killed_in_the_midst_of_every_phase_of_a_good_rollout_the_last_successor_promotes_it(
    delivery: Delivery,
) -> None:
    with load(delivery.runtime, delivery.name) as requests:
        intent = delivery.ask(delivery.intent())
        for phase in FORWARD:
            killed_in(delivery, phase, dies_after_s=0.04)
        delivery.controller("last", lease_s=SHORT_S)
        outcome = delivery.outcome(intent)
    assert outcome.result == "promoted"
    assert delivery.weights == ALL_GREEN
    assert delivery.record.epoch > 1
    assert delivery.told("incident-opened") == []
    assert requests.lost == []


def test_a_controller_that_was_stopped_until_its_lease_lapsed_changes_nothing_when_it_goes_on(
    delivery: Delivery,
) -> None:
    old = delivery.controller("old", stops_in=Phase.BAKE.value, lease_s=SHORT_S)
    with load(delivery.runtime, delivery.name) as requests:
        intent = delivery.ask(delivery.intent())
        until(lambda: of(delivery, old.orders.driver, "stopped"))
        new = delivery.controller("new", lease_s=LONG_S)
        until(lambda: delivery.record.epoch == 2)
        before = len(of(delivery, old.orders.driver))
        old.send(signal.SIGCONT)
        outcome = delivery.outcome(intent)
        until(lambda: len(of(delivery, old.orders.driver)) > before + 2)
    assert outcome.result == "promoted"
    assert requests.lost == []
    since = of(delivery, old.orders.driver)[before:]
    assert {line["what"] for line in since} <= {"lease", "refused"}
    assert not any(line.get("got") for line in since)
    assert new.orders.driver in delivery.acted()


@pytest.mark.parametrize("change", ["route", "apply"])
def test_a_change_of_a_controller_that_was_stopped_after_its_decision_is_refused(
    delivery: Delivery, change: str
) -> None:
    old = delivery.controller("old", stops_before=change, lease_s=SHORT_S)
    with load(delivery.runtime, delivery.name) as requests:
        intent = delivery.ask(delivery.intent())
        until(lambda: of(delivery, old.orders.driver, "stopped"))
        delivery.controller("new", lease_s=LONG_S)
        outcome = delivery.outcome(intent)
        old.send(signal.SIGCONT)
        until(lambda: any(line["change"] == change for line in of(delivery, old.orders.driver, "refused")))
    assert outcome.result == "promoted"
    assert delivery.weights == ALL_GREEN
    assert delivery.record.epoch == 2
    refused = {(line["change"], line["why"]) for line in of(delivery, old.orders.driver, "refused")}
    # Beside it, what it had told and wanted to note as told: somebody else has noted it.
    assert refused - {("write_record", "StaleRecord")} == {(change, "StaleEpoch")}
    # A late `apply` of the first step would have left one replica under all of the traffic.
    assert delivery.runtime.observe(delivery.name).slots[Slot.GREEN].ready == 2
    assert requests.lost == []


def of(delivery: Delivery, driver: str, what: str | None = None) -> list[dict[str, object]]:
    return delivery.journal(lambda line: line["driver"] == driver and what in (None, line["what"]))


def test_a_router_that_is_killed_during_a_bake_leaves_a_rollout_that_comes_to_an_end(delivery: Delivery) -> None:
    delivery.controller("a")
    with load(delivery.runtime, delivery.name) as requests:
        intent = delivery.ask(delivery.intent())
        delivery.until_in(Phase.BAKE)
        os.kill(delivery.harness.pid("router"), signal.SIGKILL)
        outcome = delivery.outcome(intent)
    assert outcome.result in ("promoted", "rolled_back")
    assert delivery.weights == (ALL_GREEN if outcome.result == "promoted" else ALL_BLUE)
    stable = delivery.record.stable
    assert stable is not None
    assert stable.revision.version == ("2" if outcome.result == "promoted" else "1")
    print(f"\nrouter killed: {outcome.result} ({outcome.reason}), {len(requests.lost)} of {requests.sent} lost")


def test_a_killed_follower_changes_nothing_and_a_rollback_to_the_warm_version_loses_no_request(
    delivery: Delivery,
) -> None:
    delivery.controller("a")
    with load(delivery.runtime, delivery.name) as requests:
        intent, follows = delivery.intent(), SPAWN.Event()
        arguments = (delivery.harness.folder, delivery.name, intent.id, follows)
        follower = SPAWN.Process(target=followed, args=arguments)
        follower.start()
        until(follows.is_set)
        delivery.ask(intent)
        delivery.until_in(Phase.BAKE)
        follower.kill()
        follower.join()
        assert follower.exitcode == -signal.SIGKILL
        assert delivery.outcome(intent).result == "promoted"
        assert delivery.weights == ALL_GREEN
        steps = rollback_steps(IMMEDIATE_WEIGHTS, 1)
        back = delivery.ask(delivery.intent("1", steps, kind="rollback", replicas=1))
        outcome = delivery.outcome(back)
    assert outcome.result == "rolled_back"
    assert delivery.weights == ALL_BLUE
    assert requests.lost == []
    seconds = (outcome.ended_at - outcome.began_at).total_seconds()
    print(f"\nrollback to the warm version: {seconds:.2f} s, {requests.sent} requests, none lost")


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_restart_whose_controller_is_killed_starts_every_replica_anew_and_loses_no_request(
    delivery: Delivery, replicas: int
) -> None:
    deploy(delivery.runtime, Slot.BLUE, a_workload(delivery.service, "1", replicas))
    before = {process_of(answer) for answer in asked_directly(delivery)}
    with load(delivery.runtime, delivery.name) as requests:
        first = delivery.controller("a", lease_s=SHORT_S)
        made = restart(delivery.runtime, delivery.name, Wanted("rs-1", 30.0, "olga", SystemClock().now()))
        assert len(made.old) == replicas
        until(lambda: (now := delivery.record.restart) is not None and now.current is not None)
        first.kill()
        delivery.controller("b", lease_s=SHORT_S)
        until(lambda: delivery.record.restarted is not None, 60.0)
        assert requests.sent > 0
    how = delivery.record.restarted
    assert how is not None
    assert (how.done, how.why) == (True, f"done: {replicas} replicas")
    assert requests.lost == []
    status = delivery.runtime.observe(delivery.name).slots[Slot.BLUE]
    assert (status.desired, status.ready, delivery.weights) == (replicas, replicas, ALL_BLUE)
    until(lambda: len({process_of(answer) for answer in asked_directly(delivery)}) == replicas)
    assert not {process_of(answer) for answer in asked_directly(delivery)} & before
    assert delivery.told("restart-ended") == ["rs-1:restart-ended"]
    seconds = (how.ended_at - how.began_at).total_seconds()
    print(f"\nrestart of {replicas} with a killed controller: {seconds:.1f} s, {requests.sent} requests, none lost")


def asked_directly(delivery: Delivery) -> list[ProbeResult]:
    return [delivery.runtime.probe(delivery.name, "/") for _ in range(20)]


def process_of(answer: ProbeResult) -> int:
    return json.loads(answer.body)["pid"]


def followed(folder: Path, name: str, intent: str, follows: Event) -> None:
    runtime = LocalHarness(folder, PORT_OFFSET, PORTS).runtime
    follow(runtime, name, intent, SystemClock(), 60.0, lambda _line: follows.set())
