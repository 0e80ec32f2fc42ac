"""Guards misbehaviour on request: whom it hits, when it begins and ends, and what input is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.clock import ManualClock
from dr_platform.faults import (
    GOOD,
    LOOK_S,
    Fault,
    FaultsRefused,
    FaultStore,
    FaultView,
    InvalidFault,
    Replica,
    UnreadableFault,
    combine,
    fails,
    parse_compliance_flags,
    parse_seconds,
)

pytestmark = pytest.mark.unit


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> FaultStore:
    numbers = iter(range(1000))
    return FaultStore(tmp_path / "faults", runtime="local", clock=clock, make_id=lambda _prefix: f"f{next(numbers)}")


@pytest.fixture
def start(tmp_path: Path, clock: ManualClock) -> Callable[..., FaultView]:
    """Start a process of a replica: each call is a process of its own."""
    numbers = iter(range(1000))

    def make(place: str = "blue-9001", version: str = "1.0", replicas: int = 1) -> FaultView:
        replica = Replica("billing", version, place, f"process-{next(numbers)}", replicas)
        return FaultView(tmp_path / "faults", replica, clock)

    return make


def a_fault(**fields: object) -> Fault:
    known = Fault("f", "billing", "1.0", ManualClock().now(), error_ratio=0.1)
    return replace(known, **fields)  # type: ignore[arg-type]


def test_a_running_replica_misbehaves_within_a_second_and_behaves_again_after_clear(
    store: FaultStore, start: Callable[..., FaultView], clock: ManualClock
) -> None:
    view = start()
    assert view.now() == GOOD
    store.inject("billing", "1.0", error_ratio=0.2, latency_ms=500)
    clock.sleep(LOOK_S)
    assert (view.now().error_ratio, view.now().latency_ms) == (0.2, 500)
    assert store.clear("billing") == 1
    clock.sleep(LOOK_S)
    assert view.now() == GOOD
    assert LOOK_S < 1


def test_a_version_that_is_deployed_later_misbehaves_from_its_start(
    store: FaultStore, start: Callable[..., FaultView]
) -> None:
    store.inject("billing", "2.0", unready=True)
    assert start(version="2.0").now().unready
    assert start(version="1.0").now() == GOOD


def test_another_service_is_left_alone(store: FaultStore, start: Callable[..., FaultView]) -> None:
    store.inject("consent", "1.0", unready=True)
    assert start().now() == GOOD


def test_a_delay_counts_from_the_start_of_each_process(
    store: FaultStore, start: Callable[..., FaultView], clock: ManualClock
) -> None:
    store.inject("billing", "1.0", unready=True, after_s=10)
    first = start()
    clock.sleep(9.9)
    assert not first.now().unready
    clock.sleep(0.1)
    assert first.now().unready
    assert not start().now().unready


def test_until_restart_ends_with_the_process_and_no_later_one_meets_it(
    store: FaultStore, start: Callable[..., FaultView], clock: ManualClock
) -> None:
    running = start()
    store.inject("billing", "1.0", unready=True, until_restart=True)
    clock.sleep(LOOK_S)
    assert running.now().unready
    clock.sleep(60)
    assert running.now().unready
    assert not start().now().unready
    assert not start(place="blue-9002").now().unready  # its successor may stand at another place


def test_until_restart_before_the_deployment_hits_each_replica_once(
    store: FaultStore, start: Callable[..., FaultView]
) -> None:
    store.inject("billing", "1.0", unready=True, until_restart=True)
    first, second = start("blue-1", replicas=2), start("blue-2", replicas=2)
    assert first.now().unready
    assert second.now().unready
    assert not start("blue-1", replicas=2).now().unready
    assert first.now().unready  # its own process was not started anew
    assert not start("blue-3", replicas=2).now().unready


def test_a_restart_does_not_end_other_faults(store: FaultStore, start: Callable[..., FaultView]) -> None:
    store.inject("billing", "1.0", unready=True)
    assert start().now().unready
    assert start().now().unready


def test_a_file_that_is_no_fault_breaks_no_service_and_is_named_to_people(
    store: FaultStore, start: Callable[..., FaultView], tmp_path: Path
) -> None:
    store.inject("billing", "1.0", unready=True)
    (tmp_path / "faults" / "broken.json").write_text("{")
    assert start().now().unready
    with pytest.raises(UnreadableFault, match=r"broken\.json"):
        store.list()
    store.clear()
    assert store.list() == ()


def test_what_is_listed_is_what_was_injected_oldest_first(store: FaultStore, clock: ManualClock) -> None:
    first = store.inject("billing", "1.0", compliance_flags={"encryption_active": False}, after_s=3, until_restart=True)
    clock.sleep(1)
    second = store.inject("consent", "1.0", error_ratio=1)
    assert store.list() == (first, second)
    assert store.clear("consent") == 1
    assert store.list() == (first,)


def test_a_fault_survives_the_way_through_its_file() -> None:
    fault = a_fault(compliance_flags={"encryption_active": False}, until_restart=True, latency_ms=3.5)
    assert Fault.from_json(json.loads(json.dumps(fault.as_json()))) == fault


def test_files_are_for_their_owner_alone(store: FaultStore, tmp_path: Path) -> None:
    store.inject("billing", "1.0", unready=True)
    assert (tmp_path / "faults").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("runtime", ["kubernetes", "memory", ""])
def test_faults_are_refused_off_the_local_runtime(tmp_path: Path, runtime: str) -> None:
    with pytest.raises(FaultsRefused, match="--runtime local"):
        FaultStore(tmp_path / "faults", runtime=runtime).inject("billing", "1.0", unready=True)
    assert not (tmp_path / "faults").exists()


@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        pytest.param({}, "--error-ratio", id="nothing to do"),
        pytest.param({"error_ratio": 1.01}, "0.2", id="more than all"),
        pytest.param({"error_ratio": -0.1}, "0.2", id="less than none"),
        pytest.param({"error_ratio": float("nan")}, "0.2", id="not a number"),
        pytest.param({"latency_ms": -1}, "600000", id="back in time"),
        pytest.param({"latency_ms": float("inf")}, "600000", id="for ever"),
        pytest.param({"unready": True, "after_s": -1}, "24h", id="before its start"),
        pytest.param({"compliance_flags": {"encrypted": False}}, "encryption_active", id="unknown flag"),
    ],
)
def test_wrong_input_is_refused_with_the_remedy_and_adds_nothing(
    store: FaultStore, fields: dict[str, object], remedy: str
) -> None:
    with pytest.raises(InvalidFault, match=remedy):
        store.inject("billing", "1.0", **fields)  # type: ignore[arg-type]
    assert store.list() == ()


@pytest.mark.parametrize(("service", "version"), [("../x", "1"), ("Billing", "1"), ("billing", ""), ("billing", "a b")])
def test_names_that_could_be_paths_are_refused(store: FaultStore, service: str, version: str) -> None:
    with pytest.raises(InvalidFault):
        store.inject(service, version, unready=True)


@pytest.mark.parametrize(("text", "seconds"), [("10s", 10), ("0s", 0), ("500 ms", 0.5), ("2min", 120), ("1.5 h", 5400)])
def test_times_are_read(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["10", "s", "-1s", "1d", "", "1s2", "1e3s"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(InvalidFault, match="10s"):
        parse_seconds(text)


def test_flags_are_read_and_others_refused() -> None:
    assert parse_compliance_flags(["encryption_active=false", "hipaa_audit_enabled=true"]) == {
        "encryption_active": False,
        "hipaa_audit_enabled": True,
    }
    for text in ("encryption_active", "encryption_active=no"):
        with pytest.raises(InvalidFault, match="=false"):
            parse_compliance_flags([text])


def test_of_several_faults_the_worst_of_each_counts() -> None:
    together = combine(
        [
            a_fault(error_ratio=0.1, latency_ms=5, compliance_flags={"encryption_active": True}),
            a_fault(error_ratio=0.3, unready=True, compliance_flags={"encryption_active": False}),
        ]
    )
    assert (together.error_ratio, together.latency_ms, together.unready) == (0.3, 5, True)
    assert together.compliance_flags == {"encryption_active": False}


@given(ratio=st.floats(0, 1), first=st.integers(0, 10_000), length=st.integers(20, 500))
def test_any_run_of_requests_holds_the_asked_share_of_failures(ratio: float, first: int, length: int) -> None:
    failed = sum(fails(count, ratio) for count in range(first, first + length))
    assert abs(failed - ratio * length) < 4


@given(period=st.integers(2, 20), ratio=st.sampled_from([0.1, 0.2, 0.5]))
def test_requests_that_repeat_in_a_pattern_are_hit_evenly(period: int, ratio: float) -> None:
    for offset in range(period):
        hit = [fails(count, ratio) for count in range(offset, 200 * period, period)]
        assert 0.5 * ratio < sum(hit) / len(hit) < 1.5 * ratio


def test_none_and_all_are_exact() -> None:
    assert not any(fails(count, 0.0) for count in range(1000))
    assert all(fails(count, 1.0) for count in range(1000))
