"""What the emergency procedure rests on: a service that callers do not reach goes back, by a real router."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dr_platform.maintenance import TEXT, TITLE
from dr_platform.rollout.strategy import IMMEDIATE_WEIGHTS, rollback_steps
from dr_platform.runtime.local.records import PortRange
from dr_platform.runtime.notice import Notice
from tests.contracts.delivery import Delivery, delivered
from tests.contracts.local import local_runtime
from tests.contracts.runtime import ALL_BLUE, ALL_GREEN, until

pytestmark = pytest.mark.contract


@pytest.fixture(scope="module")
def delivery() -> Iterator[Delivery]:
    with local_runtime(6_400, PortRange(13_400, 300)) as harness, delivered(harness) as delivery:
        yield delivery


def test_a_suspended_service_goes_back_is_probed_meanwhile_and_serves_again_when_it_is_opened(
    delivery: Delivery,
) -> None:
    runtime, name = delivery.runtime, delivery.name
    delivery.controller("a", lease_s=15.0)
    steps = rollback_steps(IMMEDIATE_WEIGHTS, 1)  # one step without a watch: nobody asks for anything here
    promoted = delivery.outcome(delivery.ask(delivery.intent("2", steps, kind="rollback", replicas=1)), 120.0)
    assert (promoted.result, delivery.weights) == ("rolled_back", ALL_GREEN)
    runtime.suspend(name, Notice(TITLE, TEXT, 60))
    assert runtime.probe(name, "/v1/anything").status == 503
    back = delivery.ask(delivery.intent("1", steps, kind="rollback", replicas=1))
    outcome = delivery.outcome(back, 120.0)
    assert (outcome.result, delivery.weights) == ("rolled_back", ALL_BLUE)
    assert runtime.probe(name, "/v1/anything").status == 503  # going back opens nothing
    assert runtime.probe(name, "/health").ok
    runtime.resume(name)
    until(lambda: runtime.probe(name, "/health").ok)
    assert runtime.suspensions() == {}
    answer = runtime.probe(name, "/v1/anything")
    assert b"maintenance" not in answer.body
