"""How often the rollout guards roll back a healthy candidate, and how soon a broken one.

``python -m tests.simulation`` prints both; ``simulate`` gives one row. What is simulated: requests
arrive at random (Poisson) at a constant rate, each fails independently of the others, both versions
are looked at once at the end of each second, and a fault begins with a second. Real failures come in
bursts, so real false alarms are more frequent than these. Not simulated: health, latency, restarts.

The decision is the shipped ``evaluate``, asked at every look at which it could fail the candidate:
looks that break a condition that is necessary for it are passed over (``_candidates``; that none is
missed is a test).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import numpy as np

from dr_platform.rollout.binomial import upper_tail
from dr_platform.rollout.guards import Evaluation, GuardPolicy, Trigger, Verdict, evaluate
from dr_platform.rollout.ratio import RatioRule, log_likelihood
from dr_platform.rollout.window import SECONDS_KEPT, Evidence, Tally

T0 = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Scenario:
    """Traffic of ``rate`` requests a second to the candidate, which has ``weight`` percent of all.

    The stable version was looked at for ``history_s`` seconds before. For ``healthy_s`` seconds both
    fail at ``healthy``; then, for ``seconds``, the candidate at ``candidate`` and the stable version
    at ``stable``.
    """

    rate: float
    candidate: float
    seconds: int
    healthy_s: int = 0
    healthy: float = 0.01
    stable: float = 0.01
    weight: int = 25
    history_s: int = 60

    @property
    def fault_at(self) -> int:
        return self.history_s + self.healthy_s

    @property
    def stable_rate(self) -> float:
        return self.rate * (100 - self.weight) / self.weight


@dataclass(frozen=True)
class Outcome:
    """``seconds`` from the fault to the verdict, one for each rollout that was failed, by trigger;
    ``early`` counts those failed before the fault began."""

    scenario: Scenario
    rollouts: int
    seconds: dict[Trigger, list[int]]
    early: int
    asked: int

    @property
    def failed(self) -> list[int]:
        return sorted(second for found in self.seconds.values() for second in found)

    @property
    def share(self) -> float:
        return len(self.failed) / self.rollouts

    def quantile(self, share: float) -> float:
        """Seconds within which this share of all rollouts was failed; infinite if fewer were."""
        rank = math.ceil(share * (self.rollouts - self.early))
        return self.failed[rank - 1] if 0 < rank <= len(self.failed) else math.inf


@dataclass(frozen=True)
class Traffic:
    """Rollouts by rows, seconds by columns."""

    requests: np.ndarray
    errors: np.ndarray
    stable_requests: np.ndarray
    stable_errors: np.ndarray


def simulate(scenario: Scenario, rollouts: int, seed: int, policy: GuardPolicy | None = None) -> Outcome:
    """Run so many rollouts, each until it is failed or over."""
    policy = policy or GuardPolicy()
    traffic = draw(scenario, rollouts, np.random.default_rng(seed))
    found: dict[Trigger, list[int]] = {}
    failed: set[int] = set()
    early = asked = 0
    for rollout, second in _candidates(traffic, scenario, policy):
        if rollout in failed:
            continue
        asked += 1
        if worst := first_failure(judged(traffic, scenario, policy, rollout, second)):
            failed.add(rollout)
            if second < scenario.fault_at:
                early += 1
            else:
                found.setdefault(worst.trigger, []).append(second + 1 - scenario.fault_at)
    return Outcome(scenario, rollouts, found, early, asked)


def draw(scenario: Scenario, rollouts: int, random: np.random.Generator) -> Traffic:
    shape = (rollouts, scenario.fault_at + scenario.seconds)
    requests = random.poisson(scenario.rate, shape)
    requests[:, : scenario.history_s] = 0
    stable_requests = random.poisson(scenario.stable_rate, shape)
    errors = random.binomial(requests, _by_second(scenario, scenario.candidate))
    return Traffic(
        requests, errors, stable_requests, random.binomial(stable_requests, _by_second(scenario, scenario.stable))
    )


def _by_second(scenario: Scenario, afterwards: float) -> np.ndarray:
    return np.repeat([scenario.healthy, afterwards], [scenario.fault_at, scenario.seconds])


def first_failure(evaluations: tuple[Evaluation, ...]) -> Evaluation | None:
    return next((e for e in evaluations if e.verdict is Verdict.FAIL), None)


def judged(
    traffic: Traffic, scenario: Scenario, policy: GuardPolicy, rollout: int, second: int
) -> tuple[Evaluation, ...]:
    """What the shipped evaluator says of one rollout after its look at the end of ``second``."""
    began = max(0, second + 1 - SECONDS_KEPT)
    part = (rollout, slice(began, second + 1))
    whole = (rollout, slice(0, second + 1))
    rows = [np.stack((n[part], e[part]), axis=1).tolist() for n, e in _versions(traffic)]
    totals = [[int(n[whole].sum()), int(e[whole].sum())] for n, e in _versions(traffic)]
    now = T0 + timedelta(seconds=second)
    evidence = Evidence.from_json(
        {
            "began_at": T0.isoformat(),
            "last_at": now.isoformat(),
            "candidate": rows[0],
            "stable": rows[1],
            "candidate_total": totals[0],
            "stable_total": totals[1],
            "unreadable": 0,
            "candidate_unreadable": 0,
            "expected_since": min(SECONDS_KEPT, second + 1 - scenario.history_s),
        }
    )
    rate = scenario.rate + scenario.stable_rate
    return evaluate(evidence, policy, weight=scenario.weight, expected_rate=rate, now=now, hipaa=True, alerts=0)


def _versions(traffic: Traffic) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    return (traffic.requests, traffic.errors), (traffic.stable_requests, traffic.stable_errors)


def _candidates(traffic: Traffic, scenario: Scenario, policy: GuardPolicy) -> Iterator[tuple[int, int]]:
    """Rollout and second of each look that may fail, by rollout and then by time."""
    rule = policy.errors
    may_fail = _ratio_may_fire(traffic, rule) | _literal_may_fire(traffic, rule) | _change_may_fire(traffic, rule)
    may_fail |= _silence_may_fire(traffic, scenario, policy)
    may_fail[:, : scenario.history_s] = False  # without a share of the traffic nothing is judged
    for rollout, second in zip(*np.nonzero(may_fail), strict=True):
        yield int(rollout), int(second)


def _sums(counts: np.ndarray, seconds: int) -> np.ndarray:
    """Of the last ``seconds`` at each look."""
    sums = np.cumsum(counts, axis=1)
    sums[:, seconds:] -= sums[:, :-seconds].copy()
    return sums


def _above(traffic: Traffic, rule: RatioRule, seconds: int) -> np.ndarray:
    return _sums(traffic.errors, seconds) > rule.threshold * _sums(traffic.requests, seconds)


def _ratio_may_fire(traffic: Traffic, rule: RatioRule) -> np.ndarray:
    """The guard's own conditions with the least rate that is allowed to the candidate."""
    requests, errors = _sums(traffic.requests, rule.long_s), _sums(traffic.errors, rule.long_s)
    needed = np.array(_needed(int(requests.max()), rule.floor, rule.alpha))
    return _above(traffic, rule, rule.long_s) & _above(traffic, rule, rule.short_s) & (errors >= needed[requests])


@lru_cache(maxsize=8)
def _needed(most: int, floor: float, alpha: float) -> tuple[int, ...]:
    """For each number of requests, the fewest errors that chance does not explain."""
    needed, errors = [], 0
    for requests in range(most + 1):
        while upper_tail(requests, errors, floor) >= alpha:
            errors += 1
        needed.append(errors)
    return tuple(needed)


def _literal_may_fire(traffic: Traffic, rule: RatioRule) -> np.ndarray:
    above = _above(traffic, rule, rule.short_s)
    in_a_row = np.zeros(len(above), dtype=int)
    fires = np.zeros_like(above)
    for second in range(above.shape[1]):
        in_a_row = np.where(above[:, second], in_a_row + 1, 0)
        fires[:, second] = (second + 1 >= rule.long_s) & (in_a_row >= rule.long_s - rule.short_s + 1)
    return fires


def _change_may_fire(traffic: Traffic, rule: RatioRule) -> np.ndarray:
    """The likeliest start among all seconds, not only those of the window."""
    fires = np.zeros(traffic.errors.shape, dtype=bool)
    if rule.change is None:
        return fires
    failed, good = (log_likelihood(rule.change, rule.floor, Tally(bad, 1)) for bad in (1, 0))
    gains = traffic.errors * failed + (traffic.requests - traffic.errors) * good
    likeliest = np.zeros(len(gains))
    for second in range(gains.shape[1]):
        likeliest = np.maximum(0.0, likeliest + gains[:, second])
        fires[:, second] = likeliest >= math.log(rule.change.likelihood) - 1e-9
    return fires


def _silence_may_fire(traffic: Traffic, scenario: Scenario, policy: GuardPolicy) -> np.ndarray:
    """None since the beginning while so many were expected, or none for a longer while."""
    elapsed = np.arange(1, traffic.requests.shape[1] + 1) - scenario.history_s
    never = np.cumsum(traffic.requests, axis=1) == 0
    pause = math.ceil(policy.expected_when_silent / scenario.rate - 1e-9)
    silent = _sums(traffic.requests, pause) == 0
    return (never & (elapsed * scenario.rate >= policy.expected_requests - 1e-9)) | (silent & (elapsed >= pause))


RATES = (0.5, 10.0, 200.0)
FALSE_ALARMS = tuple(
    Scenario(rate, 0.01, seconds, history_s=history_s)
    for history_s in (60, 0)
    for seconds in (20, 300)
    for rate in RATES
)
BOTH_POOR = tuple(Scenario(rate, 0.03, 300, healthy=0.03, stable=0.03) for rate in RATES)
# Left out: 10 % at 0.5 requests/s, where an error comes each 20 s and three in four are found in 300 s.
DETECTIONS = tuple(
    Scenario(rate, ratio, 300, healthy_s)
    for healthy_s in (0, 180)
    for ratio in (1.0, 0.2, 0.1)
    for rate in RATES
    if (rate, ratio) != (0.5, 0.1)
)


def false_alarm_rows(rollouts: int = 10_000, seed: int = 1) -> Iterator[tuple[Outcome, str]]:
    """Fewer rollouts of services that are poor themselves: of those, the evaluator is asked often."""
    for scenario in (*FALSE_ALARMS, *BOTH_POOR):
        outcome = simulate(scenario, rollouts // 10 if scenario in BOTH_POOR else rollouts, seed)
        triggers = ", ".join(f"{trigger} {len(found)}" for trigger, found in sorted(outcome.seconds.items())) or "-"
        cells = (f"{scenario.rate:g}", f"{scenario.candidate:.0%}", scenario.history_s, scenario.seconds)
        yield outcome, _row(*cells, outcome.rollouts, f"{outcome.share:.2%}", triggers)


def detection_rows(rollouts: int = 200, seed: int = 2) -> Iterator[tuple[Outcome, str]]:
    for scenario in DETECTIONS:
        outcome = simulate(scenario, rollouts, seed)
        cells = (f"{scenario.rate:g}", f"{scenario.candidate:.0%}", scenario.healthy_s)
        found = (f"{outcome.quantile(0.5):g}", f"{outcome.quantile(0.95):g}", f"{outcome.share:.1%}")
        yield outcome, _row(*cells, *found)


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    began = time.perf_counter()
    print("Rollouts that went back although the candidate is no worse than the stable version.")
    print(_row("Requests/s", "Errors", "Stable seen before, s", "Rollout, s", "Rollouts", "Went back", "By trigger"))
    print(_row(*["---"] * 7))
    for _, row in false_alarm_rows():
        print(row, flush=True)
    print("\nBroken candidates, 200 each: seconds from the fault to the verdict.")
    print(_row("Requests/s", "Errors", "Healthy before, s", "Median", "95 %", "Found in 300 s"))
    print(_row(*["---"] * 6))
    for _, row in detection_rows():
        print(row, flush=True)
    print(f"\n{time.perf_counter() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
