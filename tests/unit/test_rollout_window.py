"""Guards that what a rollout has seen is counted once, forgotten in time, and survives restarts and clocks."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dr_platform.rollout.window import SECONDS_KEPT, Bucket, Evidence, Sample, Series, SlotSample, Tally

pytestmark = pytest.mark.unit

T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)
counts = st.integers(0, 99_999)
slot_samples = st.builds(SlotSample, counts, counts, counts, counts, counts, counts, counts)
known_or_not = st.none() | slot_samples
moments = st.floats(-1_000, 10_000, allow_nan=False).map(lambda s: T0 + timedelta(seconds=s))
sample_lists = st.lists(st.builds(Sample, moments, known_or_not, known_or_not), max_size=40)


def collected(samples: list[Sample]) -> Evidence:
    evidence = Evidence.empty(T0)
    for sample in samples:
        evidence = evidence.with_sample(sample)
    return evidence


def look(second: float, requests: int = 1, errors: int = 0) -> Sample:
    return Sample(T0 + timedelta(seconds=second), SlotSample(requests, errors), SlotSample(3))


def requests(evidence: Evidence) -> list[int | None]:
    return [bucket.candidate and bucket.candidate.requests for bucket in evidence.buckets]


@given(sample_lists)
def test_evidence_survives_its_text_form(samples: list[Sample]) -> None:
    evidence = collected(samples)
    assert Evidence.from_json(json.loads(json.dumps(evidence.as_json()))) == evidence


@given(sample_lists)
def test_whatever_the_clock_does_totals_hold_every_sample_and_the_window_stays_bounded(samples: list[Sample]) -> None:
    evidence = collected(samples)
    assert len(evidence.buckets) <= SECONDS_KEPT
    assert evidence.candidate_total.requests == sum(s.candidate.requests for s in samples if s.candidate)
    assert evidence.stable_total.errors == sum(s.stable.errors for s in samples if s.stable)
    kept = sum(b.candidate.requests for b in evidence.buckets if b.candidate)
    assert kept <= evidence.candidate_total.requests


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80))
@settings(max_examples=50)
def test_a_forward_clock_keeps_every_sample_of_the_window_in_order(gaps: list[int]) -> None:
    second, expected = 0, {}
    evidence = Evidence.empty(T0)
    for number, gap in enumerate(gaps):
        second += gap
        expected[second] = expected.get(second, 0) + number
        evidence = evidence.with_sample(look(second, requests=number))
    first = min(expected)
    assert requests(evidence) == [expected.get(s) for s in range(first, second + 1)]


def test_full_evidence_of_a_busy_service_stays_below_32_kib() -> None:
    busy = SlotSample(99_999, 99_999, 99_999, 99_999, 9, 9, 9)
    evidence = collected([Sample(T0 + timedelta(seconds=s), busy, busy) for s in range(2 * SECONDS_KEPT)])
    assert len(evidence.buckets) == SECONDS_KEPT
    assert len(json.dumps(evidence.as_json())) < 32 * 1024


def test_two_looks_within_one_second_share_a_bucket() -> None:
    evidence = collected([look(0.1), look(0.9, requests=2)])
    assert requests(evidence) == [3]


def test_a_second_without_a_look_is_unknown_and_not_zero() -> None:
    evidence = collected([look(0), look(3)])
    assert evidence.buckets[1:3] == (Bucket(), Bucket())


def test_a_clock_that_jumps_back_lets_one_second_pass_and_loses_nothing() -> None:
    evidence = collected([look(100), look(101), look(40), look(41)])
    assert requests(evidence) == [1, 1, 1, 1]
    assert evidence.age(T0) == 0


def test_after_a_clock_was_ahead_for_a_while_old_failures_still_leave_the_window() -> None:
    ahead = [look(3_600, errors=1)]
    evidence = collected([*ahead, *[look(s) for s in range(SECONDS_KEPT)]])
    assert sum(b.candidate.errors for b in evidence.buckets if b.candidate) == 0
    assert evidence.candidate_total.errors == 1


def test_a_gap_longer_than_the_window_begins_it_anew() -> None:
    assert requests(collected([look(0), look(SECONDS_KEPT + 5)])) == [1]


def test_looks_that_read_nothing_are_counted_until_one_reads_again() -> None:
    blind = [Sample(T0 + timedelta(seconds=s), None, None) for s in range(3)]
    one_side = Sample(T0 + timedelta(seconds=3), None, SlotSample(1))
    evidence = collected([*blind, one_side])
    assert (evidence.unreadable, evidence.candidate_unreadable) == (4, 1)
    assert (evidence.with_sample(look(4)).unreadable, evidence.with_sample(look(4)).candidate_unreadable) == (0, 0)


def test_windows_end_at_the_moment_of_judging_and_not_at_the_last_look() -> None:
    evidence = collected([look(s) for s in range(10)])
    assert len(evidence.last(5, T0 + timedelta(seconds=9))) == 5
    assert len(evidence.last(5, T0 + timedelta(seconds=11))) == 3
    assert evidence.last(5, T0 + timedelta(seconds=60)) == ()


def test_a_reset_forgets_everything_and_a_shift_only_what_was_expected() -> None:
    evidence = collected([look(s) for s in range(10)])
    assert evidence.reset(T0) == Evidence.empty(T0)
    shifted = evidence.shifted()
    assert (shifted.expected_since, shifted.buckets) == (0, evidence.buckets)


def test_a_count_that_fell_is_refused() -> None:
    with pytest.raises(ValueError, match="reset"):
        SlotSample(requests=-1)


def test_more_failures_than_requests_read_a_moment_apart_do_not_break_the_ratio() -> None:
    series = Series.of([SlotSample(requests=1, errors=3)], lambda s: s.errors, lambda s: s.requests)
    assert series.tally() == Tally(3, 3)
