"""Guards that probabilities of counts are exact, since a rollback is decided by them."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.rollout.binomial import lower_tail, upper_bound, upper_tail

pytestmark = pytest.mark.unit

trials = st.integers(0, 120)
rates = st.sampled_from([0.001, 0.01, 0.05, 0.1, 0.37, 0.5, 0.9])


def summed(n: int, at_least: int, p: float) -> float:
    exact = Fraction(p)
    return float(sum(math.comb(n, k) * exact**k * (1 - exact) ** (n - k) for k in range(max(0, at_least), n + 1)))


@given(n=trials, k=st.integers(-1, 121), p=rates)
def test_the_tail_is_the_sum_of_its_terms(n: int, k: int, p: float) -> None:
    assert upper_tail(n, k, p) == pytest.approx(summed(n, k, p), rel=1e-9, abs=1e-14)


@given(n=trials, k=st.integers(0, 120), p=rates)
def test_both_tails_share_all_outcomes(n: int, k: int, p: float) -> None:
    assert lower_tail(n, k, p) + upper_tail(n, k + 1, p) == pytest.approx(1.0)


def test_a_tail_of_many_requests_agrees_with_its_recurrence() -> None:
    n, p = 36_000, 0.01
    term, total = (1 - p) ** n, 0.0
    for k in range(n + 1):
        total += term if k >= 420 else 0.0
        term *= (n - k) / (k + 1) * p / (1 - p)
    assert upper_tail(n, 420, p) == pytest.approx(total, rel=1e-6)


def test_a_tail_too_small_for_a_number_is_zero_and_no_error() -> None:
    assert upper_tail(36_000, 36_000, 0.01) == 0.0
    assert lower_tail(36_000, 0, 0.9) == 0.0


@given(n=st.integers(1, 40_000), share=st.floats(0.0, 1.0))
def test_the_bound_leaves_just_the_doubt_it_was_asked_for(n: int, share: float) -> None:
    failures = int(share * n)
    bound = upper_bound(n, failures)
    assert failures / n <= bound <= 1.0
    if failures < n:
        assert lower_tail(n, failures, bound) == pytest.approx(0.05, rel=1e-3)


@pytest.mark.parametrize(
    ("n", "failures", "published"),
    [
        pytest.param(10, 1, 0.3942, id="one of ten"),
        pytest.param(59, 0, 0.0495, id="none of 59 shows less than 5 %"),
        pytest.param(299, 0, 0.00997, id="none of 299 shows less than 1 %"),
        pytest.param(0, 0, 1.0, id="nothing shows nothing"),
        pytest.param(3, 3, 1.0, id="all failed"),
    ],
)
def test_known_bounds_of_clopper_and_pearson(n: int, failures: int, published: float) -> None:
    assert upper_bound(n, failures) == pytest.approx(published, abs=1e-4)


@given(n=st.integers(1, 2_000), failures=st.integers(0, 1_999))
def test_more_failures_never_lower_the_bound(n: int, failures: int) -> None:
    failures = min(failures, n - 1)
    assert upper_bound(n, failures + 1) > upper_bound(n, failures) - 1e-9
