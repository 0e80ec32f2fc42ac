"""Suites: selections of checks by what they prove, with the names that the catalog's gates use.

Here: which check belongs to which suites, and the line that sums up performance. Not here: any check.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from dr_platform.catalog.models import Suite
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.look import Look
from dr_platform.quality.model import Dimension
from dr_platform.verdict import Measure

SUITES: tuple[Suite, ...] = get_args(Suite)

_BY_CHECK: Mapping[str, frozenset[Suite]] = {
    "healthy": frozenset({"health"}),
    "analysis": frozenset({"health"}),
    "hipaa": frozenset({"hipaa", "security"}),
    "lint": frozenset({"data"}),
    "drift": frozenset({"data"}),
    "retrieval": frozenset({"ai"}),
    **dict.fromkeys(("duplicates", "language", "phi", "staleness"), frozenset[Suite]({"data", "ai"})),
    "smoke": frozenset({"smoke"}),
    "conversation": frozenset({"integration"}),
    "queue": frozenset({"integration"}),
    "latency": frozenset({"ai", "performance"}),
    "crisis": frozenset({"ai"}),
    "refusal": frozenset({"ai"}),
    "access": frozenset({"security", "hipaa"}),
    "default_credentials": frozenset({"security", "hipaa"}),
    "listeners": frozenset({"security"}),
    "secret_files": frozenset({"security", "hipaa"}),
    "identifiers": frozenset({"hipaa", "ai"}),
    "audit": frozenset({"hipaa", "integration"}),
    "assessed": frozenset({"hipaa"}),
    "performance": frozenset({"performance"}),
    **{dimension.value: frozenset({"data"}) for dimension in Dimension},
    "verified": frozenset({"recovery"}),
    "fresh": frozenset({"recovery"}),
    "restorable": frozenset({"recovery"}),
    "expiry": frozenset({"recovery"}),
    "drill": frozenset({"recovery"}),
}
_BY_HEALTH_OF: Mapping[str, frozenset[Suite]] = {
    "databases": frozenset({"performance"}),  # judged by the latency that the catalog promises
    "schema": frozenset({"data"}),
    "knowledge": frozenset({"data"}),
}
EVIDENCE = ("infrastructure", "state")
_OF_EVIDENCE: frozenset[Suite] = frozenset({"hipaa", "data"})
"""Whole evidence is what an auditor asks for first (45 CFR 164.312(b))."""


def suites_of(look: Look) -> frozenset[Suite]:
    """The suites that a check belongs to; none for a check that nobody has assigned."""
    found = _BY_CHECK.get(look.check, frozenset())
    if look.check != "healthy":
        return found
    return found | _BY_HEALTH_OF.get(look.asset[0], frozenset()) | (_OF_EVIDENCE if look.asset == EVIDENCE else found)


class UnknownSuite(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(name, known)
        self.what = f"{name}: no check belongs to such a suite"
        self.untouched = "everything; no run was started"
        self.next_step = f"choose one of {', '.join(known)}"


class NothingToCheck(PlatformError):
    """No check is not the same as no failure."""

    exit_code = ExitCode.REFUSED

    def __init__(self, suite: str | None, selection: str, layers: tuple[str, ...]) -> None:
        super().__init__(suite, selection, layers)
        self.what = f"{selection}: no {'check' if suite is None else f'check of the suite {suite}'} belongs to it"
        self.untouched = "everything; no run was started"
        self.next_step = f"name an asset such as services/api-gateway, or a layer: {', '.join(layers)}"


def select(looks: Iterable[Look], suite: str | None, selection: str | None) -> tuple[Look, ...]:
    """The looks of a suite (all without one) at an asset or a layer (everywhere without one), never none.

    Raises ``UnknownSuite``, and ``NothingToCheck`` where suite and selection have nothing in common.
    """
    every = tuple(looks)
    of_suite = tuple(look for look in every if suite is None or suite in suites_of(look))
    if suite is not None and not of_suite:
        raise UnknownSuite(suite, tuple(s for s in SUITES if any(s in suites_of(look) for look in every)))
    wanted = tuple(selection.strip("/").split("/")) if selection else ()
    found = tuple(look for look in of_suite if look.asset[: len(wanted)] == wanted)
    if not found:
        raise NothingToCheck(suite, selection or "this catalog", tuple(sorted({look.asset[0] for look in of_suite})))
    return found


@dataclass(frozen=True)
class Result:
    """The answer of one check in a run. ``asset`` is a path such as ``services/billing``."""

    asset: str
    check: str
    passed: bool
    reason: str
    measurements: Mapping[str, Measure] = field(default_factory=dict)

    def as_json(self) -> dict[str, str | bool]:
        return {"asset": self.asset, "check": self.check, "passed": self.passed, "reason": self.reason}


def complete(results: Iterable[Result], expected: Iterable[Look]) -> tuple[Result, ...]:
    """Every expected check with its answer, in a steady order; one without an answer has not passed."""
    found = {(result.asset, result.check): result for result in results}
    for look in expected:
        name = ("/".join(look.asset), look.check)
        found.setdefault(name, Result(*name, passed=False, reason="could not look: the run gave no answer"))
    return tuple(found[name] for name in sorted(found))


def performance_line(results: Iterable[Result], looks: Iterable[Look]) -> str:
    """The line that the second guide greps for after a deployment (``grep "Performance:"``)."""
    promising = {("/".join(look.asset), look.check) for look in looks if "performance" in suites_of(look)}
    judged = [result for result in results if (result.asset, result.check) in promising]
    if not judged:
        return "Performance: not measured by these checks; `drp check --suite performance` does"
    broken = [f"{_short(result)}: {result.reason}" for result in judged if not result.passed]
    told = [f"{len(judged) - len(broken)} of {len(judged)} promises kept", *(_figures(judged)), *broken]
    return f"Performance: {'; '.join(told)}"


def _figures(judged: Sequence[Result]) -> list[str]:
    """Measured against promised, where a promise is about latency."""
    return [
        f"{_short(result)} {name.removesuffix('_ms')} {result.measurements[name]:g} of {limit:g} ms"
        for result in judged
        if isinstance(limit := result.measurements.get("limit_ms"), int | float)
        for name in ("p95_ms", "latency_ms")
        if isinstance(result.measurements.get(name), int | float) and result.passed
    ]


def _short(result: Result) -> str:
    name = result.asset.partition("/")[2]
    return name if result.check in ("healthy", "performance") else f"{name} {result.check}"
