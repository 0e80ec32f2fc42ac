"""Whether a window of traffic kept what the service promises: good, bad, or could not look.

Here: judging one window. Not here: alerts over longer times (``rules``), where windows come from
(``dr_platform.metrics``), and the judgement of a rollout, which asks for more evidence.
"""

from __future__ import annotations

from dr_platform.catalog import Slo
from dr_platform.metrics.port import Window
from dr_platform.verdict import Verdict

LEAST_FOR_P95 = 20
"""Of fewer requests the slowest one alone decides the 95th percentile."""


def slo_verdicts(window: Window | None, slo: Slo) -> dict[str, Verdict]:
    """A verdict for each promise that traffic can show: ``error_ratio``, and ``latency_p95`` where
    there is such a promise. ``None`` stands for a window that could not be read."""
    verdicts = {"error_ratio": _errors(window, slo.error_ratio)}
    if slo.latency_p95 is not None:
        verdicts["latency_p95"] = _latency(window, slo.latency_p95)
    return verdicts


def _errors(window: Window | None, objective: float) -> Verdict:
    if window is None:
        return Verdict.unknown("the counters began anew within the window")
    ratio = window.error_ratio
    if ratio is None:
        return Verdict.unknown(f"no requests in {window.seconds:.0f} s")
    measured = {"error_ratio": ratio, "requests": window.requests, "objective_error_ratio": objective}
    told = f"{window.errors} of {window.requests} requests failed, the objective is below {objective:.2%}"
    if window.errors == 1 and window.requests * objective < 1:
        # One is always too many among so few, even for a service that keeps its promise.
        return Verdict(None, f"could not look: {told}; one failure among so few may be chance", measured)
    return Verdict(ratio < objective or window.errors == 0, told, measured)


def _latency(window: Window | None, objective_s: float) -> Verdict:
    if window is None:
        return Verdict.unknown("the counters began anew within the window")
    p95 = window.p95_ms
    if p95 is None or window.latency.total < LEAST_FOR_P95:
        return Verdict.unknown(f"{window.latency.total} timed requests, {LEAST_FOR_P95} are needed")
    objective_ms = objective_s * 1000
    measured = {"latency_p95_ms": p95, "requests": window.latency.total, "objective_latency_p95_ms": objective_ms}
    return Verdict(
        p95 <= objective_ms, f"95 of 100 took up to {p95:.0f} ms, the objective is {objective_ms:g} ms", measured
    )
