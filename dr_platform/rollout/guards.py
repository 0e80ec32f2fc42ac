"""When a rollout must go back, when it may go on, and when nobody can say: the triggers as functions.

Here: every rollback trigger, read to the letter and by a guard that is faster, and what they say
together. Not here: what is counted (``window``), what is done about a verdict, whether the version to
return to may run.

The letter of "errors above 5 % for 3 minutes" needs three minutes of every outage and misses one that
pauses. The guard reads it as a ratio over three minutes that chance does not explain. Both are
evaluated and either may fire.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from operator import attrgetter

from dr_platform.rollout.binomial import lower_tail
from dr_platform.rollout.ratio import (
    ChangeRule,
    Pair,
    RatioRule,
    Reading,
    find_change,
    pair_up,
    read_ratio,
    reads_literally,
)
from dr_platform.rollout.window import Evidence, Series, SlotSample
from dr_platform.verdict import Measure


class Trigger(StrEnum):
    """What a rollback may be for. Of several that fire, the first here names the incident."""

    HIPAA = "hipaa"
    SECURITY = "security"
    ERRORS = "errors"
    HEALTH = "health"
    RESTARTS = "restarts"
    LATENCY = "latency"
    SATURATION = "saturation"
    NO_DATA = "no-data"


class Verdict(StrEnum):
    PASS = "pass"  # noqa: S105 - a verdict
    FAIL = "fail"
    PENDING = "pending"
    """Too early, or not looked yet: look again."""
    INCONCLUSIVE = "inconclusive"
    """Looking again will not tell: hold, and call a person."""


# With this alpha an error rate of 20 % at 10 requests a second is found in 5 s (95 % of times), and less than one
# in a thousand healthy rollouts goes back; both simulated.
_ERRORS = RatioRule(0.05, long_s=180, short_s=30, alpha=3e-4, change=ChangeRule())
_HEALTH = RatioRule(0.10, long_s=300, short_s=60)
_LATENCY = RatioRule(0.10, long_s=180, short_s=30, floor=0.05)
_SATURATION = RatioRule(0.05, long_s=180, short_s=30)


@dataclass(frozen=True)
class GuardPolicy:
    """Thresholds of every trigger.

    ``errors`` (5 % for 3 minutes), ``health`` (10 % for 5 minutes), ``alerts`` and the HIPAA test are
    the documented rollback triggers. The short windows follow the multi-window alerts of the Google
    SRE workbook (chapter 5). ``latency``: a promise at the 95th percentile allows 5 % slow requests,
    so twice that breaks it. ``saturation``: requests that ran into the time limit; utilisation itself
    is not sampled.

    ``expected_requests``: without any of 7 expected requests, P[0] = e^-7 < 0.001.
    ``expected_when_silent`` is higher because every pause is another chance to be wrong.
    ``unreadable_looks`` in a row are no answer; ``candidate_unreadable_looks`` while the stable
    version is read are the candidate's fault. ``claim`` is what must be shown before a promotion,
    with ``confidence``: absence of failures is not evidence.
    """

    errors: RatioRule = _ERRORS
    health: RatioRule = _HEALTH
    latency: RatioRule = _LATENCY
    saturation: RatioRule = _SATURATION
    confidence: float = 0.95
    restarts: int = 3
    restarts_in_all: int = 5
    alerts: int = 1
    initial_delay_s: int = 10
    expected_requests: float = 7.0
    expected_when_silent: float = 20.0
    unreadable_looks: int = 5
    candidate_unreadable_looks: int = 2
    stale_s: int = 5
    claim: float = 0.05


@dataclass(frozen=True)
class Evaluation:
    """One trigger's answer with everything it was derived from; no identifiers, no payloads.

    ``fired_literal`` is the documented rule to the letter, ``fired_guard`` the faster reading. Either
    fires without failing the candidate where the stable version does no better.
    """

    trigger: Trigger
    verdict: Verdict
    why: str
    threshold: float
    fired_literal: bool = False
    fired_guard: bool = False
    samples: Mapping[str, int | float] = field(default_factory=dict)

    def as_measurements(self) -> dict[str, Measure]:
        return {
            "trigger": str(self.trigger),
            "verdict": str(self.verdict),
            "fired_literal": self.fired_literal,
            "fired_guard": self.fired_guard,
            "threshold": self.threshold,
            **self.samples,
        }


@dataclass(frozen=True)
class Judgement:
    """What all triggers say together. ``trigger`` is ``None`` when all passed."""

    verdict: Verdict
    trigger: Trigger | None
    why: str
    fired_literal: bool = False
    fired_guard: bool = False


def judge(evaluations: Iterable[Evaluation]) -> Judgement:
    """The worst verdict wins: fail, inconclusive, pending, pass. Without any evaluation nothing was
    shown, which is inconclusive; only a pass of every trigger passes."""
    evaluations = tuple(evaluations)
    literal, guard = any(e.fired_literal for e in evaluations), any(e.fired_guard for e in evaluations)
    for verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PENDING):
        if found := sorted((e for e in evaluations if e.verdict is verdict), key=lambda e: _RANK[e.trigger]):
            why = "; ".join(f"{e.trigger}: {e.why}" for e in found)
            return Judgement(verdict, found[0].trigger, why, literal, guard)
    if not evaluations:
        return Judgement(Verdict.INCONCLUSIVE, None, "nothing was evaluated")
    return Judgement(Verdict.PASS, None, "no trigger fired", literal, guard)


_RANK = {trigger: rank for rank, trigger in enumerate(Trigger)}


def evaluate(
    evidence: Evidence,
    policy: GuardPolicy,
    *,
    weight: int,
    expected_rate: float | None,
    now: datetime,
    hipaa: bool | None,
    alerts: int | None,
) -> tuple[Evaluation, ...]:
    """Every trigger, in the order of ``Trigger``.

    ``weight`` is the candidate's percent of the requests, ``expected_rate`` the requests a second to
    both versions together (``None``: judged by the stable version's alone). ``hipaa`` is the newest
    result of the compliance test against the candidate, ``alerts`` the distinct security alerts about
    it; ``None`` for what could not be looked at.
    """
    # Windows end at the newest look as long as that is fresh: judging may cross into the next second.
    looked = evidence.last_at if evidence.last_at and evidence.age(now) <= policy.stale_s else now
    return (
        _hipaa(hipaa),
        _security(alerts, policy),
        _ratio(Trigger.ERRORS, policy.errors, evidence, looked),
        _ratio(Trigger.HEALTH, policy.health, evidence, looked),
        _restarts(evidence, policy, looked),
        _ratio(Trigger.LATENCY, policy.latency, evidence, looked),
        _ratio(Trigger.SATURATION, policy.saturation, evidence, looked),
        _no_data(evidence, policy, weight, expected_rate, now),
    )


# --- deterministic triggers ---------------------------------------------------------------------


def _hipaa(passed: bool | None) -> Evaluation:
    if passed is None:
        return Evaluation(Trigger.HIPAA, Verdict.PENDING, "the compliance test has no result yet", 0)
    if passed:
        return Evaluation(Trigger.HIPAA, Verdict.PASS, "the compliance test passed", 0)
    return Evaluation(Trigger.HIPAA, Verdict.FAIL, "the compliance test failed", 0, True, True, {"failures": 1})


def _security(alerts: int | None, policy: GuardPolicy) -> Evaluation:
    if alerts is None:
        return Evaluation(Trigger.SECURITY, Verdict.PENDING, "security alerts could not be read", policy.alerts)
    fired = alerts >= policy.alerts
    verdict = Verdict.FAIL if fired else Verdict.PASS
    why = f"{alerts} security alerts, {policy.alerts} roll back"
    return Evaluation(Trigger.SECURITY, verdict, why, policy.alerts, fired, fired, {"alerts": alerts})


def _restarts(evidence: Evidence, policy: GuardPolicy, now: datetime) -> Evaluation:
    """Counted since the rollout began too: a replica that crashes each few minutes never has many
    restarts in one window, while its readiness comes and goes."""
    buckets = evidence.last(policy.health.long_s, now)
    recent = sum(b.candidate.restarts for b in buckets if b.candidate)
    stable = sum(b.stable.restarts for b in buckets if b.stable)
    in_all, stable_in_all = evidence.candidate_total.restarts, evidence.stable_total.restarts
    samples = {"restarts": recent, "restarts_in_all": in_all, "stable_restarts": stable}
    fired = recent >= policy.restarts or in_all >= policy.restarts_in_all
    excused = stable >= policy.restarts or stable_in_all >= policy.restarts_in_all
    why = f"{recent} restarts in {policy.health.long_s} s, {in_all} since it began"
    if fired and excused:
        why += f"; the stable version restarts as well ({stable}, {stable_in_all})"
        return Evaluation(Trigger.RESTARTS, Verdict.INCONCLUSIVE, why, policy.restarts, False, True, samples)
    if fired:
        return Evaluation(Trigger.RESTARTS, Verdict.FAIL, why, policy.restarts, False, True, samples)
    if not any(b.candidate for b in buckets):
        return Evaluation(Trigger.RESTARTS, Verdict.PENDING, "not looked at yet", policy.restarts, samples=samples)
    return Evaluation(Trigger.RESTARTS, Verdict.PASS, why, policy.restarts, samples=samples)


# --- ratios -------------------------------------------------------------------------------------

_Count = Callable[[SlotSample], int]


_REQUESTS: _Count = attrgetter("requests")

# A restart is the failure of a probe that would have been due.
_COUNTS: Mapping[Trigger, tuple[_Count, _Count, str]] = {
    Trigger.ERRORS: (attrgetter("errors"), _REQUESTS, "requests failed"),
    Trigger.LATENCY: (attrgetter("slow"), _REQUESTS, "requests were too slow"),
    Trigger.SATURATION: (attrgetter("timeouts"), _REQUESTS, "requests ran out of time"),
    Trigger.HEALTH: (
        lambda s: s.probe_failures + s.restarts,
        lambda s: s.probes + s.restarts,
        "probes failed",
    ),
}


def _ratio(trigger: Trigger, rule: RatioRule, evidence: Evidence, now: datetime) -> Evaluation:
    bad, total, failed = _COUNTS[trigger]
    buckets = evidence.last(rule.long_s, now)
    candidate = Series.of([b.candidate for b in buckets], bad, total)
    stable = Series.of([b.stable for b in buckets], bad, total)
    short = len(evidence.last(rule.short_s, now))
    literal = reads_literally(rule, candidate)
    pair = pair_up(candidate, stable, short)
    reading = read_ratio(rule, pair)
    change = find_change(rule, candidate, stable)
    guard = reading.fires or change is not None
    samples = _samples(pair, reading) | ({"failing_for_s": change} if change is not None else {})
    seen = f"{pair.candidate.bad} of {pair.candidate.total} {failed} in {rule.long_s} s"
    if change is not None and not reading.fires:
        recent = candidate.tally(change)
        seen = f"{recent.bad} of {recent.total} {failed} in {change} s"
    verdict, why = _verdict(rule, pair, reading, seen, fired=guard or literal)
    return Evaluation(trigger, verdict, why, rule.threshold, literal, guard, samples)


def _verdict(rule: RatioRule, pair: Pair, reading: Reading, seen: str, *, fired: bool) -> tuple[Verdict, str]:
    if reading.both_above:
        stable = f"{pair.stable.bad} of {pair.stable.total}"
        return Verdict.INCONCLUSIVE, f"{seen}, but of the stable version {stable}: going back cannot help"
    if fired:
        return Verdict.FAIL, f"{seen}, {rule.threshold:.0%} roll back"
    if pair.candidate.total == 0:
        return Verdict.PENDING, "nothing was counted yet"
    if pair.candidate_short.above(rule.threshold):
        return Verdict.PENDING, f"{seen}: above {rule.threshold:.0%} lately, which may still be chance"
    return Verdict.PASS, seen


def _samples(pair: Pair, reading: Reading) -> dict[str, int | float]:
    tallies = {
        "": pair.candidate,
        "short_": pair.candidate_short,
        "stable_": pair.stable,
        "stable_short_": pair.stable_short,
    }
    samples: dict[str, int | float] = {}
    for name, tally in tallies.items():
        samples |= {f"{name}bad": tally.bad, f"{name}total": tally.total}
        if tally.ratio is not None:
            samples[f"{name}ratio"] = round(tally.ratio, 6)
    return samples | {"p_value": reading.p_value, "p0": round(reading.p0, 6)}


# --- no data ------------------------------------------------------------------------------------


def _no_data(
    evidence: Evidence, policy: GuardPolicy, weight: int, expected_rate: float | None, now: datetime
) -> Evaluation:
    silence = _silence(evidence, policy, weight, expected_rate, now)
    samples: dict[str, int | float] = {
        "requests": silence.requests,
        "silent_s": silence.seconds,
        "expected_requests": round(silence.expected, 3),
        "unreadable_looks": evidence.unreadable,
        "last_look_s": evidence.age(now),
    }
    verdict, why = _unreadable(evidence, policy, now) or _silent(silence, policy, weight)
    fired = verdict is Verdict.FAIL
    return Evaluation(Trigger.NO_DATA, verdict, why, policy.expected_requests, False, fired, samples)


def _unreadable(evidence: Evidence, policy: GuardPolicy, now: datetime) -> tuple[Verdict, str] | None:
    looks = evidence.unreadable
    if evidence.last_at is None:
        return Verdict.PENDING, "not looked yet"
    if evidence.candidate_unreadable >= policy.candidate_unreadable_looks:
        return Verdict.FAIL, f"the candidate could not be read in {looks} looks, while the stable version could"
    if looks >= policy.unreadable_looks:
        if _pods_fail(evidence, policy, now):
            return Verdict.FAIL, f"{looks} looks in a row read nothing, after replicas of the candidate had failed"
        return Verdict.INCONCLUSIVE, f"{looks} looks in a row read nothing"
    if looks:
        return Verdict.PENDING, "the last look read nothing"
    if (age := evidence.age(now)) > policy.stale_s:
        return Verdict.PENDING, f"the last look is {age} s old"
    return None


def _pods_fail(evidence: Evidence, policy: GuardPolicy, now: datetime) -> bool:
    bad, total, _ = _COUNTS[Trigger.HEALTH]
    lately = evidence.last(policy.health.short_s, now)
    return Series.of([b.candidate for b in lately], bad, total).tally().above(policy.health.threshold)


@dataclass(frozen=True)
class _Silence:
    """Seconds since the candidate's last request, or since its share was set, and what would have
    come in them. ``requests`` are those of the error window, ``arrived`` says if any did since then."""

    seconds: int
    expected: float
    requests: int
    arrived: bool
    since_shift: int


def _silence(
    evidence: Evidence, policy: GuardPolicy, weight: int, expected_rate: float | None, now: datetime
) -> _Silence:
    since_shift = evidence.buckets[-evidence.expected_since :] if evidence.expected_since else ()
    seconds = stable = 0
    arrived = False
    for bucket in reversed(since_shift):
        if bucket.candidate is None:
            continue
        if bucket.candidate.requests:
            arrived = True
            break
        seconds += 1
        stable += bucket.stable.requests if bucket.stable else 0
    lately = evidence.last(policy.errors.long_s, now)
    requests = sum(b.candidate.requests for b in lately if b.candidate)
    expected = _expected(seconds, stable, weight, expected_rate)
    return _Silence(seconds, expected, requests, arrived, len(since_shift))


def _expected(seconds: int, stable_requests: int, weight: int, rate: float | None) -> float:
    """Requests the candidate should have had. The known rate may be old; where the stable version
    gets requests too, those it really got say how many there were."""
    by_rate = math.inf if rate is None else rate * weight / 100.0 * seconds
    if weight < 100:
        return min(by_rate, stable_requests * weight / (100.0 - weight))
    return 0.0 if rate is None else by_rate


def _silent(silence: _Silence, policy: GuardPolicy, weight: int) -> tuple[Verdict, str]:
    needed = policy.expected_when_silent if silence.arrived else policy.expected_requests
    if silence.seconds and silence.expected >= needed:
        why = f"no request for {silence.seconds} s while {silence.expected:.0f} were expected"
        return Verdict.FAIL, f"{why}: the route does not reach the candidate"
    if silence.requests and (silence.arrived or weight == 0):
        return Verdict.PASS, f"{silence.requests} requests in {policy.errors.long_s} s"
    if weight == 0:
        return Verdict.PENDING, "the candidate has no share of the traffic yet"
    if silence.since_shift < policy.initial_delay_s:
        return Verdict.PENDING, "its share of the traffic was only just set"
    return Verdict.INCONCLUSIVE, "too little traffic to tell; send requests of your own or wait longer"


# --- promotion ----------------------------------------------------------------------------------


def enough_to_promote(evidence: Evidence, policy: GuardPolicy) -> bool:
    """Whether what the candidate did since it began shows its error rate below ``policy.claim``."""
    seen = evidence.candidate_total
    errors = min(seen.errors, seen.requests)
    return lower_tail(seen.requests, errors, policy.claim) <= 1.0 - policy.confidence


def requests_needed(policy: GuardPolicy, claim: float) -> int:
    """Requests without a single error that show an error rate below ``claim`` (59 for 5 %, 299 for
    1 %, with 95 % confidence)."""
    return math.ceil(math.log(1.0 - policy.confidence) / math.log1p(-claim))
