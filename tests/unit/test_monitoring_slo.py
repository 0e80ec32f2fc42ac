"""A window of traffic against what a service promises: good, bad, or could not look."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.catalog import Slo
from dr_platform.metrics.port import Histogram, Window
from dr_platform.monitoring.slo import LEAST_FOR_P95, slo_verdicts

pytestmark = pytest.mark.unit

SLO = Slo.model_validate({"error_ratio": "1 %", "latency_p95": "100 ms"})


def window(requests: int, errors: int, fast: int, slow: int = 0) -> Window:
    """``fast`` requests took at most 100 ms, ``slow`` ones up to 500 ms."""
    return Window(60.0, requests, errors, 0, Histogram((100.0, 500.0), (fast, fast + slow)))


@pytest.mark.parametrize(
    ("seen", "errors", "latency"),
    [
        pytest.param(window(1000, 0, 1000), True, True, id="nothing fails and all is fast"),
        pytest.param(window(1000, 9, 1000), True, True, id="fewer errors than promised"),
        pytest.param(window(1000, 10, 1000), False, True, id="as many as must not be reached"),
        pytest.param(window(1000, 1000, 1000), False, True, id="a total outage"),
        pytest.param(window(1000, 0, 940, 60), True, False, id="six in a hundred are slow"),
        pytest.param(window(1000, 0, 960, 40), True, True, id="four in a hundred are slow"),
        pytest.param(window(0, 0, 0), None, None, id="no traffic shows nothing"),
        pytest.param(window(30, 1, 30), None, True, id="one failure among few may be chance"),
        pytest.param(window(30, 2, 30), False, True, id="two are not"),
        pytest.param(window(100, 1, 100), False, True, id="nor is one among as many as are allowed one"),
        pytest.param(window(19, 0, 0, 19), True, None, id="too few for a percentile"),
        pytest.param(window(50, 0, 0), True, None, id="requests that were not timed"),
        pytest.param(None, None, None, id="counters that began anew"),
    ],
)
def test_verdicts(seen: Window | None, errors: bool | None, latency: bool | None) -> None:
    verdicts = slo_verdicts(seen, SLO)
    assert {name: verdict.passed for name, verdict in verdicts.items()} == {
        "error_ratio": errors,
        "latency_p95": latency,
    }
    assert all(v.why.startswith("could not look") for v in verdicts.values() if v.passed is None)


def test_a_promise_that_was_not_made_is_not_judged() -> None:
    assert set(slo_verdicts(window(1000, 0, 1000), Slo())) == {"error_ratio"}


@pytest.mark.parametrize("errors", [0, 3])
def test_an_objective_of_no_errors_at_all_can_be_kept_and_broken(errors: int) -> None:
    slo = Slo.model_validate({"error_ratio": "0 %"})
    assert slo_verdicts(window(100, errors, 100), slo)["error_ratio"].passed is (errors == 0)


@given(requests=st.integers(1, 10_000), share=st.floats(0, 1), fast=st.integers(0, 1000), slow=st.integers(0, 1000))
def test_more_errors_and_slower_answers_are_never_better(requests: int, share: float, fast: int, slow: int) -> None:
    errors = int(share * (requests - 1))
    better = slo_verdicts(window(requests, errors, fast + 1, slow), SLO)
    worse = slo_verdicts(window(requests, errors + 1, fast, slow + 1), SLO)
    for name, verdict in worse.items():
        assert not (better[name].passed is False and verdict.passed is True)


@given(fast=st.integers(0, 1000), slow=st.integers(0, 1000))
def test_what_is_good_is_good_by_its_own_measurement(fast: int, slow: int) -> None:
    verdict = slo_verdicts(window(1000, 0, fast, slow), SLO)["latency_p95"]
    if verdict.passed is None:
        assert fast + slow < LEAST_FOR_P95
    else:
        assert verdict.passed == (float(verdict.measurements["latency_p95_ms"]) <= 100)
