"""Exact probabilities of counts: how likely so many failures among so many requests are by chance.

Here: tails of the binomial distribution and the Clopper-Pearson bound. Not here: which probability is
small enough to act on (``guards``).
"""

from __future__ import annotations

import math
from functools import lru_cache

_NEGLIGIBLE = 1e-17
"""A term this small against the sum so far changes no digit of it, nor does any later one."""


def upper_tail(trials: int, at_least: int, p: float) -> float:
    """P[X >= at_least] for X ~ Bin(trials, p), to about ten digits; below 1e-308 it is 0."""
    if at_least <= 0 or p >= 1.0:
        return 1.0
    if at_least > trials or p <= 0.0:
        return 0.0
    if at_least > trials * p:
        return min(1.0, _sum_upwards(trials, at_least, p))
    return max(0.0, 1.0 - _sum_upwards(trials, trials - at_least + 1, 1.0 - p))


def lower_tail(trials: int, at_most: int, p: float) -> float:
    """P[X <= at_most] for X ~ Bin(trials, p): as many successes are the other outcome's failures."""
    return upper_tail(trials, trials - at_most, 1.0 - p)


def _sum_upwards(trials: int, first: int, p: float) -> float:
    """Sum of the terms from ``first``, which must lie above the mean, so that each is below the last."""
    term = math.exp(
        math.lgamma(trials + 1)
        - math.lgamma(first + 1)
        - math.lgamma(trials - first + 1)
        + first * math.log(p)
        + (trials - first) * math.log1p(-p)
    )
    total, odds = term, p / (1.0 - p)
    for k in range(first, trials):
        term *= (trials - k) / (k + 1) * odds
        total += term
        if term <= total * _NEGLIGIBLE:
            break
    return total


@lru_cache(maxsize=4096)
def upper_bound(trials: int, failures: int, confidence: float = 0.95) -> float:
    """The failure rate that so few failures speak against with this (one-sided) confidence, after
    Clopper and Pearson (1934). Without trials nothing is known: 1."""
    if failures >= trials:
        return 1.0
    doubt = 1.0 - confidence
    if failures == 0:
        return 1.0 - doubt ** (1.0 / trials)
    low, high = failures / trials, 1.0
    f_low, f_high = _excess(trials, failures, low, doubt), -math.inf
    guess = _wilson(trials, failures)
    for _ in range(60):
        f = _excess(trials, failures, guess, doubt)
        if f > 0.0:
            low, f_low = guess, f
        else:
            high, f_high = guess, f
        if high - low <= 1e-9 * high:
            break
        guess = _between(low, f_low, high, f_high)
    return high


def lower_bound(trials: int, failures: int, confidence: float = 0.95) -> float:
    """The failure rate that so many failures speak against from below. Without trials it is 0."""
    return 1.0 - upper_bound(trials, trials - failures, confidence)


def _excess(trials: int, failures: int, p: float, doubt: float) -> float:
    tail = lower_tail(trials, failures, p)
    return math.log(tail / doubt) if tail > 0.0 else -math.inf


def _wilson(trials: int, failures: int) -> float:
    """Wilson's bound: close to the exact one, and where the search for that begins."""
    z = 1.645
    rate = failures / trials
    spread = z * math.sqrt(rate * (1.0 - rate) / trials + z * z / (4.0 * trials * trials))
    return min(1.0 - 1e-12, (rate + z * z / (2.0 * trials) + spread) / (1.0 + z * z / trials))


def _between(low: float, f_low: float, high: float, f_high: float) -> float:
    """Where the line through both ends crosses zero, kept off the ends so that both move."""
    if math.isinf(f_high):
        return (low + high) / 2.0
    share = f_low / (f_low - f_high)
    return low + (high - low) * min(0.999, max(0.001, share))
