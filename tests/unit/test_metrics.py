"""Counters become windows, and windows become error ratios and percentiles."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.metrics.envoy import parse
from dr_platform.metrics.port import Counters, Histogram, Window, between, percentile, subtract, total, was_reset
from dr_platform.runtime.port import Slot

pytestmark = pytest.mark.unit

T0 = datetime(2026, 1, 1, tzinfo=UTC)
EARLIER = Counters(T0, 100, 5, 1, Histogram((10.0, 100.0, 1000.0), (50, 90, 100)), 2, 2)
LATER = Counters(T0 + timedelta(seconds=10), 150, 15, 2, Histogram((10.0, 100.0, 1000.0), (60, 140, 150)), 2, 1)


def test_a_window_holds_what_happened_between_two_looks() -> None:
    window = between(EARLIER, LATER)
    assert window is not None
    assert (window.seconds, window.requests, window.errors, window.timeouts) == (10.0, 50, 10, 1)
    assert (window.rate, window.error_ratio) == (5.0, 0.2)
    assert window.latency == Histogram((10.0, 100.0, 1000.0), (10, 50, 50))


def test_without_requests_there_is_no_error_ratio_and_no_percentile() -> None:
    window = between(EARLIER, replace(EARLIER, at=T0 + timedelta(seconds=1)))
    assert window is not None
    assert (window.requests, window.error_ratio, window.p95_ms) == (0, None, None)


@pytest.mark.parametrize(
    "later",
    [
        pytest.param(replace(LATER, requests=99), id="fewer requests"),
        pytest.param(replace(LATER, timeouts=0), id="fewer timeouts"),
    ],
)
def test_a_counter_that_fell_was_reset_and_gives_no_window(later: Counters) -> None:
    assert was_reset(EARLIER, later)
    assert between(EARLIER, later) is None


@pytest.mark.parametrize(
    "latency",
    [
        pytest.param(Histogram((10.0, 100.0, 1000.0), (1, 2, 3)), id="smaller"),
        pytest.param(Histogram((10.0, 100.0, 1000.0), (40, 140, 150)), id="larger, but other requests"),
        pytest.param(Histogram(), id="nothing yet"),
    ],
)
def test_a_histogram_that_began_anew_counts_alone_while_the_counters_go_on(latency: Histogram) -> None:
    window = between(EARLIER, replace(LATER, latency=latency))
    assert window is not None
    assert (window.requests, window.errors, window.latency) == (50, 10, latency)


def test_errors_that_began_anew_count_alone_while_the_requests_go_on() -> None:
    window = between(EARLIER, replace(LATER, errors=3))
    assert window is not None
    assert (window.requests, window.errors) == (50, 3)


def test_windows_add_up() -> None:
    window = between(EARLIER, LATER)
    assert window is not None
    idle = Window(2.0, 0, 0, 0, Histogram())
    assert total([window, idle, window]) == Window(22.0, 100, 20, 2, Histogram((10.0, 100.0, 1000.0), (20, 100, 100)))
    assert total([]) == Window(0, 0, 0, 0, Histogram())


def test_looks_in_the_wrong_order_give_no_window() -> None:
    assert between(replace(EARLIER, at=LATER.at + timedelta(seconds=1)), LATER) is None


@pytest.mark.parametrize(
    ("histogram", "share", "expected"),
    [
        pytest.param(Histogram((10.0, 20.0), (0, 100)), 0.95, 19.5, id="inside the second bucket"),
        pytest.param(Histogram((10.0, 20.0), (100, 100)), 0.5, 5.0, id="the first bucket begins at 0"),
        pytest.param(Histogram((10.0, 20.0, 30.0), (95, 95, 100)), 0.95, 10.0, id="exactly on a bound"),
        pytest.param(Histogram((10.0, 20.0, 30.0), (90, 90, 100)), 0.95, 25.0, id="over an empty bucket"),
        pytest.param(Histogram((10.0,), (1,)), 1.0, 10.0, id="everything"),
        pytest.param(Histogram((10.0,), (0,)), 0.95, None, id="nothing"),
        pytest.param(Histogram(), 0.95, None, id="no buckets"),
    ],
)
def test_percentile(histogram: Histogram, share: float, expected: float | None) -> None:
    assert percentile(histogram, share) == pytest.approx(expected)


@given(st.lists(st.floats(0.001, 999), min_size=1, max_size=300))
def test_a_percentile_lies_in_the_bucket_of_the_true_one(latencies: list[float]) -> None:
    bounds = (1.0, 5.0, 20.0, 100.0, 500.0, 1000.0)
    counts = tuple(sum(latency <= bound for latency in latencies) for bound in bounds)
    true = sorted(latencies)[max(0, -(-95 * len(latencies) // 100) - 1)]
    found = percentile(Histogram(bounds, counts), 0.95)
    upper = next(bound for bound in bounds if true <= bound)
    lower = max((bound for bound in bounds if bound < upper), default=0.0)
    assert found is not None
    assert lower <= found <= upper


def test_buckets_that_are_new_count_from_nothing() -> None:
    assert subtract(Histogram((10.0,), (3,)), Histogram((10.0, 20.0), (5, 9))) == Histogram((10.0, 20.0), (2, 9))


def test_a_scrape_is_taken_apart_by_service_and_slot() -> None:
    stats = [
        {"name": "cluster.chat-history--blue.membership_healthy", "value": 1},
        {"name": "cluster.chat-history--blue.membership_total", "value": 2},
        {"name": "cluster.chat-history--blue.upstream_rq_5xx", "value": 4},
        {"name": "cluster.chat-history--blue.upstream_rq_completed", "value": 40},
        {"name": "cluster.chat-history--green.membership_total", "value": 0},
        {"name": "server.live", "value": 1},
        {
            "histograms": [
                {
                    "name": "cluster.chat-history--blue.upstream_rq_time",
                    "buckets": [
                        {"upper_bound": 6e5, "interval": 1, "cumulative": 40},
                        {"upper_bound": 10, "interval": 1, "cumulative": 30},
                    ],
                }
            ]
        },
    ]
    latency = Histogram((10.0, 600_000.0), (30, 40))
    assert parse(stats, T0) == {
        "chat-history": {
            Slot.BLUE: Counters(T0, 40, 4, 0, latency, 2, 1),
            Slot.GREEN: Counters(T0, 0, 0, 0, Histogram(), 0, 0),
        }
    }
