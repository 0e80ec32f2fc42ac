"""Guards the order in which a service is brought to what is wanted: capacity, traffic, memory, scale-down."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dr_platform.catalog import load_catalog
from dr_platform.platform import find_catalog
from dr_platform.rollout.record import Placement, Record
from dr_platform.rollout.settle import (
    PATIENCE,
    Apply,
    Remember,
    Replace,
    Retire,
    Route,
    Settled,
    Wait,
    decide,
)
from dr_platform.runtime.port import (
    CLOSED,
    Observed,
    Replica,
    ReplicaState,
    Revision,
    Slot,
    SlotStatus,
    Weights,
    Workload,
)

pytestmark = pytest.mark.unit

BLUE, GREEN = Slot.BLUE, Slot.GREEN
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
V1, V2 = Revision("1", "d", "c"), Revision("2", "d", "c")
SERVICE = next(iter(load_catalog(find_catalog()).services.values()))
EMPTY = SlotStatus()


def wanting(revision: Revision, replicas: int = 2) -> Workload:
    return Workload(SERVICE, revision, replicas)


def running(revision: Revision, *states: ReplicaState, desired: int = 2, age: timedelta = PATIENCE * 2) -> SlotStatus:
    replicas = tuple(Replica(f"r{i}", s, "127.0.0.1:1", started_at=NOW - age) for i, s in enumerate(states))
    return SlotStatus(revision, desired, replicas)


READY, UNREADY, FAILED = ReplicaState.READY, ReplicaState.UNREADY, ReplicaState.FAILED
TWO_V1, TWO_V2 = running(V1, READY, READY), running(V2, READY, READY)
STABLE_BLUE = Record("svc", stable=Placement(BLUE, V1))


def seen(blue: SlotStatus, green: SlotStatus, weights: Weights | None) -> Observed:
    return Observed("svc", {BLUE: blue, GREEN: green}, weights)


@pytest.mark.parametrize(
    ("record", "observed", "wanted", "expected"),
    [
        pytest.param(Record("svc"), seen(EMPTY, EMPTY, CLOSED), wanting(V1), Apply(BLUE), id="a first deployment fills blue"),
        pytest.param(Record("svc"), seen(TWO_V1, EMPTY, CLOSED), wanting(V1), Route(Weights(100, 0)), id="traffic comes after capacity"),
        pytest.param(Record("svc"), seen(TWO_V1, EMPTY, Weights(100, 0)), wanting(V1), Remember(Placement(BLUE, V1)), id="stable is remembered once it has traffic"),
        pytest.param(STABLE_BLUE, seen(TWO_V1, EMPTY, Weights(100, 0)), wanting(V1), Settled(), id="nothing to do"),
        pytest.param(STABLE_BLUE, seen(TWO_V1, EMPTY, Weights(100, 0)), wanting(V2), Apply(GREEN), id="another revision goes into the free slot"),
        pytest.param(STABLE_BLUE, seen(TWO_V1, TWO_V2, Weights(100, 0)), wanting(V2), Route(Weights(0, 100)), id="then it gets the traffic"),
        pytest.param(STABLE_BLUE, seen(TWO_V1, TWO_V2, Weights(0, 100)), wanting(V2), Remember(Placement(GREEN, V2)), id="then it is remembered"),
        pytest.param(Record("svc", stable=Placement(GREEN, V2)), seen(TWO_V1, TWO_V2, Weights(0, 100)), wanting(V2), Retire(BLUE), id="and the old slot is emptied last"),
        pytest.param(STABLE_BLUE, seen(TWO_V1, EMPTY, None), wanting(V2), Wait("the router cannot be read"), id="a blind look changes nothing"),
        pytest.param(STABLE_BLUE, seen(TWO_V1, EMPTY, Weights(100, 0)), wanting(V1, 3), Apply(BLUE), id="more replicas of the same revision"),
        pytest.param(STABLE_BLUE, seen(running(V1, READY, UNREADY), EMPTY, Weights(100, 0)), wanting(V1), Replace(BLUE, ("r1",)), id="an old unready replica is started anew"),
        pytest.param(STABLE_BLUE, seen(running(V1, READY, FAILED, age=timedelta(0)), EMPTY, Weights(100, 0)), wanting(V1), Replace(BLUE, ("r1",)), id="a failed one at once"),
        pytest.param(STABLE_BLUE, seen(TWO_V1, EMPTY, Weights(100, 0)), wanting(V1, 0), Route(CLOSED), id="no replicas wanted closes first"),
        pytest.param(STABLE_BLUE, seen(TWO_V1, EMPTY, CLOSED), wanting(V1, 0), Retire(BLUE), id="and empties then"),
        pytest.param(STABLE_BLUE, seen(EMPTY, EMPTY, CLOSED), wanting(V1, 0), Remember(None), id="and forgets last"),
        pytest.param(STABLE_BLUE, seen(TWO_V1, running(Revision("3", "d", "c"), READY, READY), Weights(100, 0)), wanting(V2), Retire(GREEN), id="a leftover candidate makes room"),
    ],
)  # fmt: skip
def test_decide(record: Record, observed: Observed, wanted: Workload, expected: object) -> None:
    assert decide(record, observed, wanted, NOW) == expected


def test_a_young_unready_replica_is_given_time() -> None:
    observed = seen(running(V1, READY, UNREADY, age=PATIENCE / 2), EMPTY, Weights(100, 0))
    assert isinstance(decide(STABLE_BLUE, observed, wanting(V1), NOW), Wait)


def test_a_replica_is_started_anew_only_once_per_convergence() -> None:
    observed = seen(running(V1, READY, UNREADY), EMPTY, Weights(100, 0))
    assert isinstance(decide(STABLE_BLUE, observed, wanting(V1), NOW, frozenset({"r1"})), Wait)


def test_a_record_survives_its_text_form() -> None:
    for record in (Record("svc"), STABLE_BLUE, replace(STABLE_BLUE, epoch=7)):
        assert Record.from_text(record.to_text()) == record


revisions = st.sampled_from([V1, V2, Revision("3", "d", "c")])
slots = st.builds(
    running, revisions, st.just(READY), st.sampled_from([READY, UNREADY, FAILED, ReplicaState.STARTING])
) | st.just(EMPTY)
observations = st.builds(
    seen, slots, slots, st.sampled_from([CLOSED, Weights(100, 0), Weights(0, 100), Weights(25, 75), None])
)
known = st.builds(
    Record, st.just("svc"), st.just(1), st.builds(Placement, st.sampled_from(Slot), revisions) | st.none()
)


@settings(max_examples=500)
@given(known, observations, revisions)
def test_no_action_takes_capacity_from_under_traffic(record: Record, observed: Observed, revision: Revision) -> None:
    action = decide(record, observed, wanting(revision), NOW)
    match action:
        case Retire(slot) | Apply(slot) if observed.slots[slot].revision not in (None, revision):
            assert observed.weights is not None
            assert observed.weights.of(slot) == 0
        case Route(weights) if weights != CLOSED:
            for slot in Slot:
                if weights.of(slot):
                    assert observed.slots[slot].ready > 0
        case _:
            pass
