"""Guards the triggers of a rollback: each fires when it must, on the right version, never by chance."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dr_platform.rollout.guards import (
    Evaluation,
    GuardPolicy,
    Judgement,
    Trigger,
    Verdict,
    enough_to_promote,
    evaluate,
    judge,
    requests_needed,
)
from dr_platform.rollout.window import Evidence, Sample, SlotSample
from tests.simulation import Scenario, _candidates, draw, first_failure, judged, simulate

pytestmark = pytest.mark.unit

T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)
POLICY = GuardPolicy()
FINE = SlotSample(requests=10, probes=2)
STABLE = SlotSample(requests=30, probes=2)
PASS, FAIL, PENDING, INCONCLUSIVE = Verdict.PASS, Verdict.FAIL, Verdict.PENDING, Verdict.INCONCLUSIVE


def seen(*stretches: tuple[int, SlotSample | None, SlotSample | None], began: int = 0) -> Evidence:
    """Evidence of looks once a second: for so many seconds, this of the candidate and of the stable version."""
    evidence, second = Evidence.empty(T0), began
    for seconds, candidate, stable in stretches:
        for _ in range(seconds):
            evidence = evidence.with_sample(Sample(T0 + timedelta(seconds=second), candidate, stable))
            second += 1
    return evidence


def failing(errors: int, requests: int = 10) -> SlotSample:
    return SlotSample(requests=requests, errors=errors, probes=2)


def all_of(
    evidence: Evidence,
    *,
    policy: GuardPolicy = POLICY,
    weight: int = 25,
    rate: float | None = 40.0,
    now: datetime | None = None,
    hipaa: bool | None = True,
    alerts: int | None = 0,
) -> dict[Trigger, Evaluation]:
    now = now or evidence.last_at or T0
    found = evaluate(evidence, policy, weight=weight, expected_rate=rate, now=now, hipaa=hipaa, alerts=alerts)
    return {evaluation.trigger: evaluation for evaluation in found}


def judged_of(evidence: Evidence, **signals: object) -> Judgement:
    return judge(all_of(evidence, **signals).values())  # type: ignore[arg-type]


# --- the documented error rule -----------------------------------------------------------------


def test_every_trigger_is_evaluated_each_time() -> None:
    assert list(all_of(Evidence.empty(T0))) == list(Trigger)


def test_a_healthy_candidate_passes_every_trigger() -> None:
    assert judged_of(seen((60, FINE, STABLE))).verdict is PASS


def test_a_total_outage_is_found_in_one_second_at_ten_requests_a_second() -> None:
    errors = all_of(seen((1, failing(10), STABLE)))[Trigger.ERRORS]
    assert (errors.verdict, errors.fired_guard, errors.fired_literal) == (FAIL, True, False)


def test_the_letter_of_the_rule_fires_only_after_three_minutes_above_five_percent() -> None:
    policy = replace(POLICY, errors=replace(POLICY.errors, alpha=0.0, change=None))
    before = all_of(seen((179, failing(1), STABLE)), policy=policy)[Trigger.ERRORS]
    after = all_of(seen((180, failing(1), STABLE)), policy=policy)[Trigger.ERRORS]
    assert (before.fired_literal, after.fired_literal, after.fired_guard) == (False, True, False)
    assert (before.verdict, after.verdict) == (PENDING, FAIL)


def test_judging_a_moment_after_the_look_reads_the_same_window() -> None:
    evidence = seen((180, failing(1), STABLE))
    assert all_of(evidence, now=T0 + timedelta(seconds=181))[Trigger.ERRORS].fired_literal


def test_one_good_stretch_begins_the_wait_of_the_letter_anew_but_not_that_of_the_guard() -> None:
    errors = all_of(seen((130, failing(5), STABLE), (35, FINE, STABLE), (30, failing(5), STABLE)))[Trigger.ERRORS]
    assert (errors.fired_literal, errors.fired_guard) == (False, True)


def test_exactly_five_percent_is_not_above_it() -> None:
    errors = all_of(seen((300, failing(1, requests=20), STABLE)))[Trigger.ERRORS]
    assert (errors.verdict, errors.fired_literal, errors.fired_guard) == (PASS, False, False)


def test_errors_that_have_stopped_for_the_short_window_do_not_roll_back() -> None:
    policy = replace(POLICY, errors=replace(POLICY.errors, change=None))
    errors = all_of(seen((30, failing(5), STABLE), (31, FINE, STABLE)), policy=policy)[Trigger.ERRORS]
    assert errors.samples["ratio"] > POLICY.errors.threshold
    assert errors.verdict is PASS


def test_one_error_of_one_request_is_chance_and_waits() -> None:
    assert all_of(seen((1, failing(1, requests=1), STABLE)))[Trigger.ERRORS].verdict is PENDING


def test_an_outage_after_minutes_of_health_is_found_in_three_seconds() -> None:
    healthy = (170, failing(0), STABLE)
    two, three = (all_of(seen(healthy, (n, failing(10), STABLE)))[Trigger.ERRORS] for n in (2, 3))
    assert (two.fired_guard, three.fired_guard) == (False, True)
    assert (three.verdict, three.samples["failing_for_s"]) == (FAIL, 3)


def test_single_blips_of_a_busy_service_do_not_roll_back_argo_4792() -> None:
    evidence = seen((170, SlotSample(200), STABLE), (1, SlotSample(200, 200), STABLE), (5, SlotSample(200), STABLE))
    assert all_of(evidence)[Trigger.ERRORS].fired_guard is False


# --- the stable version beside it --------------------------------------------------------------


def test_where_the_stable_version_fails_as_well_going_back_cannot_help() -> None:
    errors = all_of(seen((20, failing(5), SlotSample(30, 6))))[Trigger.ERRORS]
    assert errors.verdict is INCONCLUSIVE
    assert "going back cannot help" in errors.why


def test_a_fast_letter_is_not_needed_for_that_either() -> None:
    errors = all_of(seen((200, failing(5), SlotSample(30, 6))))[Trigger.ERRORS]
    assert (errors.verdict, errors.fired_literal) == (INCONCLUSIVE, True)


def test_one_failed_request_of_few_does_not_excuse_a_broken_candidate() -> None:
    errors = all_of(seen((2, failing(10), SlotSample(10, 0)), (1, failing(10), SlotSample(1, 1))))[Trigger.ERRORS]
    assert errors.verdict is FAIL


def test_an_outage_of_the_machine_is_not_the_candidates_though_the_stable_version_has_a_good_history() -> None:
    evidence = seen((170, SlotSample(0), STABLE), (1, failing(10), SlotSample(30, 30)))
    assert all_of(evidence)[Trigger.ERRORS].verdict is INCONCLUSIVE
    later = seen((170, FINE, STABLE), (5, failing(10), SlotSample(30, 30)))
    assert all_of(later)[Trigger.ERRORS].fired_guard is False


def test_with_all_traffic_on_the_candidate_it_is_judged_alone() -> None:
    errors = all_of(seen((3, failing(10), SlotSample())), weight=100)[Trigger.ERRORS]
    assert (errors.verdict, errors.samples["p0"]) == (FAIL, POLICY.errors.floor)


def test_a_history_of_some_errors_raises_what_the_candidate_may_have() -> None:
    history = SlotSample(100, 3)
    assert all_of(seen((100, FINE, history)))[Trigger.ERRORS].samples["p0"] > 0.03


def test_a_stable_version_with_little_traffic_allows_no_more_than_the_documented_threshold() -> None:
    errors = all_of(seen((1, failing(6), SlotSample(10))), weight=50)[Trigger.ERRORS]
    assert (errors.samples["p0"], errors.verdict) == (POLICY.errors.threshold, FAIL)


# --- health, restarts, latency, saturation -----------------------------------------------------


def test_one_dead_replica_of_three_fires_after_a_third_of_five_minutes() -> None:
    fine, one_dead = SlotSample(10, probes=3), SlotSample(10, probes=3, probe_failures=1)
    fired = [
        n
        for n in range(80, 100)
        if all_of(seen((210, fine, STABLE), (n, one_dead, STABLE)))[Trigger.HEALTH].fired_guard
    ]
    assert fired[0] == 91


def test_one_dead_replica_of_twenty_never_fires() -> None:
    assert all_of(seen((300, SlotSample(10, probes=20, probe_failures=1), STABLE)))[Trigger.HEALTH].verdict is PASS


def test_health_reads_literally_after_five_minutes() -> None:
    bad = SlotSample(10, probes=4, probe_failures=1)
    before, after = (all_of(seen((n, bad, STABLE)))[Trigger.HEALTH] for n in (299, 300))
    assert (before.fired_literal, after.fired_literal) == (False, True)


def test_a_restart_counts_as_a_failed_probe() -> None:
    health = all_of(seen((1, SlotSample(10, probes=2, restarts=1), STABLE)))[Trigger.HEALTH]
    assert (health.samples["bad"], health.samples["total"]) == (1, 3)


def test_trap_11_a_replica_that_crashes_every_few_minutes_fails_although_it_is_ready_between_argo_3765() -> None:
    crash = (1, SlotSample(10, probes=2, restarts=1), STABLE)
    calm = (290, FINE, STABLE)
    evidence = seen(*[crash, calm] * POLICY.restarts_in_all)
    restarts = all_of(evidence)[Trigger.RESTARTS]
    assert restarts.samples["restarts"] < POLICY.restarts
    assert restarts.verdict is FAIL


def test_restarts_of_both_versions_are_not_the_candidates() -> None:
    crashing = SlotSample(10, probes=2, restarts=1)
    assert all_of(seen((3, crashing, crashing)))[Trigger.RESTARTS].verdict is INCONCLUSIVE


@pytest.mark.parametrize(
    ("trigger", "bad"),
    [
        pytest.param(Trigger.LATENCY, SlotSample(10, slow=10), id="slower than promised"),
        pytest.param(Trigger.SATURATION, SlotSample(10, errors=10, timeouts=10), id="out of time"),
    ],
)
def test_slow_answers_roll_back_only_if_the_stable_version_is_faster(trigger: Trigger, bad: SlotSample) -> None:
    assert all_of(seen((10, bad, STABLE)))[trigger].verdict is FAIL
    assert all_of(seen((10, bad, bad)))[trigger].verdict is INCONCLUSIVE


def test_five_percent_slow_requests_keep_a_promise_at_the_95th_percentile() -> None:
    assert all_of(seen((300, SlotSample(20, slow=1), STABLE)))[Trigger.LATENCY].verdict is PASS


# --- HIPAA, security ---------------------------------------------------------------------------


@pytest.mark.parametrize(("hipaa", "verdict"), [(True, PASS), (False, FAIL), (None, PENDING)])
def test_a_failed_compliance_test_rolls_back_at_once_and_none_never_passes(
    hipaa: bool | None, verdict: Verdict
) -> None:
    evidence = seen((60, FINE, STABLE))
    assert all_of(evidence, hipaa=hipaa)[Trigger.HIPAA].verdict is verdict
    assert judged_of(evidence, hipaa=hipaa).verdict is verdict


@pytest.mark.parametrize(("alerts", "verdict"), [(0, PASS), (1, PASS), (2, FAIL), (3, FAIL), (None, PENDING)])
def test_alerts_roll_back_from_their_threshold_on(alerts: int | None, verdict: Verdict) -> None:
    found = all_of(seen((60, FINE, STABLE)), policy=replace(POLICY, alerts=2), alerts=alerts)[Trigger.SECURITY]
    assert (found.verdict, found.fired_literal) == (verdict, verdict is FAIL)


# --- no data -----------------------------------------------------------------------------------

SILENT = SlotSample(probes=2)


@pytest.mark.parametrize(
    ("evidence", "signals", "verdict"),
    [
        pytest.param(Evidence.empty(T0), {}, PENDING, id="not looked yet"),
        pytest.param(seen((60, SILENT, STABLE)), {"weight": 0}, PENDING, id="no share and no requests of our own"),
        pytest.param(seen((60, FINE, STABLE)), {"weight": 0}, PASS, id="no share, but requests of our own"),
        pytest.param(seen((5, SILENT, SlotSample(1))), {"rate": 1.0}, PENDING, id="only just began"),
        pytest.param(seen((11, SILENT, SlotSample(1))), {"rate": 1.2}, INCONCLUSIVE, id="fewer than 7 expected"),
        pytest.param(seen((28, SILENT, SlotSample(1))), {"rate": 1.2}, FAIL, id="more than 7 expected"),
        pytest.param(seen((60, SILENT, SlotSample())), {}, INCONCLUSIVE, id="nobody gets any traffic"),
        pytest.param(seen((5, SILENT, SlotSample())), {"weight": 100}, FAIL, id="all traffic and none arrives"),
        pytest.param(seen((9, FINE, STABLE), (1, SILENT, STABLE)), {}, PASS, id="one quiet second"),
        pytest.param(seen((9, FINE, STABLE), (3, SILENT, STABLE)), {}, FAIL, id="traffic stopped arriving"),
        pytest.param(seen((9, FINE, STABLE), (4, None, None)), {}, PENDING, id="metrics out, retried"),
        pytest.param(seen((9, FINE, STABLE), (5, None, None)), {}, INCONCLUSIVE, id="metrics out for 5 looks"),
        pytest.param(
            seen((2, replace(FINE, probe_failures=2), STABLE), (5, None, None)), {}, FAIL, id="and its replicas fail"
        ),
        pytest.param(seen((9, FINE, STABLE), (1, None, STABLE)), {}, PENDING, id="candidate unreadable once"),
        pytest.param(seen((9, FINE, STABLE), (2, None, STABLE)), {}, FAIL, id="candidate alone unreadable twice"),
        pytest.param(
            seen((9, FINE, STABLE)), {"now": T0 + timedelta(seconds=30)}, PENDING, id="the last look is long ago"
        ),
    ],
)
def test_each_way_of_having_no_data_has_its_own_answer(
    evidence: Evidence, signals: dict[str, object], verdict: Verdict
) -> None:
    assert all_of(evidence, **signals)[Trigger.NO_DATA].verdict is verdict  # type: ignore[arg-type]


def test_after_a_shift_expected_traffic_is_counted_from_the_shift() -> None:
    quiet = seen((100, SILENT, STABLE))
    assert all_of(quiet)[Trigger.NO_DATA].verdict is FAIL
    assert all_of(quiet.shifted())[Trigger.NO_DATA].verdict is PENDING


# --- traps that other tools fell into ----------------------------------------------------------


@pytest.mark.parametrize("late", [timedelta(), timedelta(hours=1)])
def test_traps_1_and_2_neither_an_early_end_nor_a_timer_makes_a_pass(late: timedelta) -> None:
    assert judged_of(Evidence.empty(T0), now=T0 + late).verdict is PENDING
    assert judged_of(seen((60, FINE, STABLE)), now=T0 + timedelta(minutes=1) + late).verdict is (
        PASS if not late else PENDING
    )


def test_trap_4_no_traffic_a_broken_scrape_and_a_broken_route_are_told_apart_argo_1466_flagger_1035() -> None:
    reasons = {
        all_of(evidence)[Trigger.NO_DATA].why
        for evidence in (
            seen((60, SILENT, SlotSample())),
            seen((60, None, None)),
            seen((60, SILENT, STABLE)),
        )
    }
    assert len(reasons) == 3


def test_trap_5_a_trigger_without_an_answer_is_never_left_out_of_the_judgement() -> None:
    assert judge(()).verdict is INCONCLUSIVE
    passing = [e for e in all_of(seen((60, FINE, STABLE))).values() if e.trigger is not Trigger.HEALTH]
    blind = Evaluation(Trigger.HEALTH, PENDING, "not looked yet", 0.1)
    assert judge([*passing, blind]).verdict is PENDING


def test_trap_6_samples_that_are_all_alike_decide_by_what_they_are() -> None:
    assert all_of(seen((60, failing(10), SlotSample(30, 0))))[Trigger.ERRORS].verdict is FAIL
    assert all_of(seen((60, SILENT, SlotSample())))[Trigger.ERRORS].verdict is PENDING


@pytest.mark.parametrize("rate", [0.5, 10.0])
def test_trap_7_looking_each_second_rolls_back_less_than_one_in_a_thousand_healthy_candidates(rate: float) -> None:
    outcome = simulate(Scenario(rate, 0.01, seconds=60, history_s=0), rollouts=1_000, seed=7)
    assert len(outcome.seconds.get(Trigger.ERRORS, [])) <= 1


def test_trap_8_a_broken_candidate_with_five_percent_of_the_traffic_is_not_diluted() -> None:
    evidence = seen((3, failing(5, requests=5), SlotSample(95, 0, probes=2)))
    assert judged_of(evidence, weight=5, rate=100.0).trigger is Trigger.ERRORS


def test_trap_12_an_evaluation_keeps_all_it_was_derived_from() -> None:
    kept = all_of(seen((3, failing(10), STABLE)))[Trigger.ERRORS].as_measurements()
    assert {"bad", "total", "ratio", "stable_bad", "stable_total", "p_value", "p0", "threshold", "verdict"} <= set(kept)
    assert (kept["bad"], kept["total"], kept["stable_total"]) == (30, 30, 90)


# --- judging -----------------------------------------------------------------------------------


def test_the_worst_verdict_wins_and_the_first_trigger_names_it() -> None:
    def said(trigger: Trigger, verdict: Verdict) -> Evaluation:
        return Evaluation(trigger, verdict, f"{trigger} {verdict}", 1.0)

    everything = [
        said(Trigger.ERRORS, PASS),
        said(Trigger.HEALTH, PENDING),
        said(Trigger.LATENCY, INCONCLUSIVE),
        said(Trigger.NO_DATA, FAIL),
        said(Trigger.SECURITY, FAIL),
    ]
    assert (judge(everything).verdict, judge(everything).trigger) == (FAIL, Trigger.SECURITY)
    assert judge(everything[:3]).verdict is INCONCLUSIVE
    assert judge(everything[:2]).verdict is PENDING
    assert judge(everything[:1]) == Judgement(PASS, None, "no trigger fired")


# --- promotion ---------------------------------------------------------------------------------


def test_absence_of_failures_is_not_evidence_before_59_requests() -> None:
    assert (requests_needed(POLICY, 0.05), requests_needed(POLICY, 0.01)) == (59, 299)
    one_short, enough = (seen((1, SlotSample(n), STABLE)) for n in (58, 59))
    assert (enough_to_promote(one_short, POLICY), enough_to_promote(enough, POLICY)) == (False, True)


def test_errors_ask_for_more_requests_before_a_promotion() -> None:
    assert not enough_to_promote(seen((1, SlotSample(92, 1), STABLE)), POLICY)
    assert enough_to_promote(seen((1, SlotSample(93, 1), STABLE)), POLICY)
    assert not enough_to_promote(Evidence.empty(T0), POLICY)


# --- properties --------------------------------------------------------------------------------

per_second = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 60), st.integers(0, 60))
traffic = st.lists(per_second, min_size=1, max_size=60)


def of_traffic(rows: list[tuple[int, int, int, int]], more: int = 0, at: int = 0) -> Evidence:
    evidence = Evidence.empty(T0)
    for second, (requests, errors, stable, stable_errors) in enumerate(rows):
        wrong = min(requests, errors + (more if second == at % len(rows) else 0))
        candidate = SlotSample(requests, wrong, probes=2)
        beside = SlotSample(stable, min(stable, stable_errors), probes=2)
        evidence = evidence.with_sample(Sample(T0 + timedelta(seconds=second), candidate, beside))
    return evidence


@given(traffic, st.integers(1, 40), st.integers(0, 59))
def test_more_errors_never_turn_a_fail_into_a_pass(rows: list[tuple[int, int, int, int]], more: int, at: int) -> None:
    before = all_of(of_traffic(rows))[Trigger.ERRORS]
    after = all_of(of_traffic(rows, more, at))[Trigger.ERRORS]
    assert not (before.verdict in (FAIL, INCONCLUSIVE) and after.verdict is PASS)


@given(traffic, st.booleans() | st.none(), st.none() | st.integers(0, 3), st.integers(0, 100))
def test_every_evaluation_can_be_written_down_and_only_passes_pass(
    rows: list[tuple[int, int, int, int]], hipaa: bool | None, alerts: int | None, weight: int
) -> None:
    found = all_of(of_traffic(rows), hipaa=hipaa, alerts=alerts, weight=weight).values()
    for evaluation in found:
        kept = evaluation.as_measurements()
        assert json.loads(json.dumps(kept, allow_nan=False)) == kept
        if evaluation.verdict is FAIL:
            assert evaluation.fired_guard or evaluation.fired_literal
    assert (judge(found).verdict is PASS) == all(e.verdict is PASS for e in found)


@given(traffic)
@settings(max_examples=40)
def test_judging_goes_on_the_same_after_a_restart(rows: list[tuple[int, int, int, int]]) -> None:
    evidence = of_traffic(rows)
    assert all_of(Evidence.from_json(json.loads(json.dumps(evidence.as_json())))) == all_of(evidence)


# --- the simulation speaks for the evaluator ---------------------------------------------------


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(0.5, 0.2, 60, history_s=0),
        Scenario(3.0, 0.1, 60, healthy_s=20, history_s=10),
        Scenario(10.0, 0.03, 60, healthy=0.03, stable=0.03),
        Scenario(2.0, 0.15, 200, history_s=0, stable=0.04),
    ],
    ids=str,
)
def test_the_simulation_passes_over_no_look_at_which_the_evaluator_fails_the_candidate(scenario: Scenario) -> None:
    rollouts = 4
    drawn = draw(scenario, rollouts, np.random.default_rng(11))
    asked = set(_candidates(drawn, scenario, POLICY))
    for rollout in range(rollouts):
        for second in range(scenario.history_s, drawn.requests.shape[1]):
            if first_failure(judged(drawn, scenario, POLICY, rollout, second)):
                assert (rollout, second) in asked


def test_a_simulated_outage_is_found_within_the_promised_time() -> None:
    outage = simulate(Scenario(10.0, 1.0, 20), rollouts=200, seed=3)
    fifth = simulate(Scenario(10.0, 0.2, 30, history_s=180), rollouts=1_000, seed=3)
    assert outage.quantile(0.95) == 1
    assert fifth.quantile(0.95) <= 5
