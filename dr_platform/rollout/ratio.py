"""Whether a share of failures is more than chance and more than it may be: ratios over two windows,
the letter of a rule, and the moment of a change.

Here: one kind of failure of a candidate beside the same kind of the stable version, as counts. Not
here: which kinds there are and what follows (``guards``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

from dr_platform.rollout.binomial import lower_bound, lower_tail, upper_bound, upper_tail
from dr_platform.rollout.window import Series, Tally


@dataclass(frozen=True)
class ChangeRule:
    """Page's CUSUM test (1954): has there been a moment since which requests fail at ``ratio`` rather
    than at the rate they may?

    It fires once that is ``likelihood`` times as likely and failures fell into ``seconds`` different
    seconds, so that a single hiccup of a busy service is none. A window full of good requests hides
    an outage for 9 s from the ratio over 3 minutes; this sees it in ``seconds``.
    """

    ratio: float = 0.20
    likelihood: float = 1e5
    seconds: int = 3


@dataclass(frozen=True)
class RatioRule:
    """Bad of all above ``threshold`` over ``long_s`` and still so over ``short_s`` (seconds).

    ``floor`` is the rate that is nobody's fault; the stable version's own rate may raise it, bounded
    with ``confidence``. Chance explains what is at least ``alpha`` probable at that rate. The stable
    version itself fails too much when chance at ``floor`` explains it less than ``alpha_stable``.
    ``alpha`` is chosen by simulation (``tests/simulation.py``): looked at each second, less
    than one in a thousand healthy rollouts goes back.
    """

    threshold: float
    long_s: int
    short_s: int
    floor: float = 0.01
    alpha: float = 1e-4
    alpha_stable: float = 0.01
    confidence: float = 0.95
    change: ChangeRule | None = None


@dataclass(frozen=True)
class Pair:
    """Both versions since the candidate's first request within the window, and ``history``: what the
    stable version did in the whole window."""

    candidate: Tally
    candidate_short: Tally
    stable: Tally
    stable_short: Tally
    history: Tally


@dataclass(frozen=True)
class Reading:
    """Whether the guard fires, and how probable the candidate's failures are at the rate ``p0``.

    ``both_above``: chance at the floor explains neither version's failures, so going back is no help.
    """

    fires: bool
    p_value: float
    p0: float
    both_above: bool


def read_ratio(rule: RatioRule, pair: Pair) -> Reading:
    """``E_long > threshold·N_long and E_short > threshold·N_short and
    P[Bin(N_long, p0) >= E_long] < alpha``; the last replaces a minimum number of requests."""
    p0 = baseline(rule, pair.history, pair.stable)
    p_value = upper_tail(pair.candidate.total, pair.candidate.bad, p0)
    above = pair.candidate.above(rule.threshold) and pair.candidate_short.above(rule.threshold)
    both = above and _stable_above(rule, pair) and _unlikely(pair.candidate, rule.floor, rule.alpha)
    return Reading(above and p_value < rule.alpha, p_value, p0, both)


def baseline(rule: RatioRule, history: Tally, same_seconds: Tally) -> float:
    """The failure rate the candidate is allowed: the floor, what the stable version may have judged by
    its history, and what it surely had in the very seconds the candidate is judged by."""
    return _excused(rule, _usual(rule, history), same_seconds)


def _excused(rule: RatioRule, usual: float, same_seconds: Tally) -> float:
    """An outage of the machine hits both versions in the same seconds, whatever they had before."""
    if not same_seconds.above(usual):
        return usual
    return max(usual, lower_bound(same_seconds.total, same_seconds.bad, rule.confidence))


def _usual(rule: RatioRule, history: Tally) -> float:
    """Where few stable requests bound its rate loosely, the documented threshold is enough."""
    if history.total == 0 or lower_tail(history.total, history.bad, rule.floor) <= 1.0 - rule.confidence:
        return rule.floor
    bound = upper_bound(history.total, history.bad, rule.confidence)
    return max(rule.floor, bound if history.above(rule.threshold) else min(bound, rule.threshold))


def _stable_above(rule: RatioRule, pair: Pair) -> bool:
    above = pair.stable.above(rule.threshold) and pair.stable_short.above(rule.threshold)
    return above and _unlikely(pair.stable, rule.floor, rule.alpha_stable)


def _unlikely(seen: Tally, p0: float, alpha: float) -> bool:
    return upper_tail(seen.total, seen.bad, p0) < alpha


def find_change(rule: RatioRule, candidate: Series, stable: Series) -> int | None:
    """For how many seconds the candidate has been failing, if it is; ``None`` if not, or if the stable
    version explains it. Both series are of the same seconds."""
    change = rule.change
    if change is None:
        return None
    usual = _usual(rule, stable.tally())
    start = _likeliest_start(change, usual, candidate)
    since = candidate.since(start)
    if sum(bad > 0 for bad in since.bad) < change.seconds:
        return None
    p0 = _excused(rule, usual, stable.since(start).tally())
    return len(since.total) if log_likelihood(change, p0, since.tally()) >= math.log(change.likelihood) else None


def log_likelihood(change: ChangeRule, p0: float, seen: Tally) -> float:
    """How much likelier (as a logarithm) failures at the rate of a change are than at ``p0``; where
    ``p0`` is no lower, nothing has changed."""
    failed, good = _gains(change, p0)
    return seen.bad * failed + (seen.total - seen.bad) * good


def _gains(change: ChangeRule, p0: float) -> tuple[float, float]:
    """What a failed and what a good request add."""
    if p0 >= change.ratio:
        return 0.0, 0.0
    return math.log(change.ratio / p0), math.log((1.0 - change.ratio) / (1.0 - p0))


def _likeliest_start(change: ChangeRule, p0: float, candidate: Series) -> int:
    failed, good = _gains(change, p0)
    best, best_start, running = 0.0, len(candidate.total), 0.0
    for i in range(len(candidate.total) - 1, -1, -1):
        bad = candidate.bad[i]
        running += bad * failed + (candidate.total[i] - bad) * good
        if running > best:
            best, best_start = running, i
    return best_start


def reads_literally(rule: RatioRule, series: Series) -> bool:
    """Above the threshold at every look for the whole time: in each stretch of ``short_s`` that lies
    within the last ``long_s``. One good stretch, or one without requests, begins the wait anew."""
    if len(series.total) < rule.long_s or not series.tally().above(rule.threshold):
        return False
    bad, total = (tuple(accumulate(column, initial=0)) for column in (series.bad, series.total))
    ends = range(rule.short_s, len(total))
    return all(
        Tally(bad[e] - bad[e - rule.short_s], total[e] - total[e - rule.short_s]).above(rule.threshold) for e in ends
    )


def pair_up(candidate: Series, stable: Series, short: int) -> Pair:
    """Sums of the whole window and of its last ``short`` seconds."""
    start = next((i for i, total in enumerate(candidate.total) if total), len(candidate.total))
    beside = stable.since(start)
    return Pair(candidate.tally(), candidate.tally(short), beside.tally(), beside.tally(short), stable.tally())
