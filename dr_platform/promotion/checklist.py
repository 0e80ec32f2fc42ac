"""The guides' checklists as data: every line is proved by suites, by the rollout, or by a person.

Here: the lines of both deployment guides, in their order, and what proves each. Not here: judging
(``gates``), or what else an environment's own file demands (``table``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import Literal

from dr_platform.catalog import ComplianceLevel, Environment


class Phase(StrEnum):
    """Before a deployment, during it, after it."""

    BEFORE = "before"
    DURING = "during"
    AFTER = "after"


@dataclass(frozen=True)
class Suites:
    """Suites that must have passed: before a deployment in the environment before, then in this one.
    None named: all that the environment demands."""

    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verified:
    """The release runs in this environment and was watched to the end of its rollout."""


@dataclass(frozen=True)
class Attested:
    """A person vouches for it, and is taken at their word this long."""

    valid_for: timedelta = timedelta(days=7)


QUARTER = Attested(timedelta(days=90))
"""For exercises that are repeated a few times a year."""


@dataclass(frozen=True)
class Line:
    """``id`` is what a person types; ``guide`` says in which of the two guides the line stands."""

    id: str
    title: str
    phase: Phase
    guide: Literal["first", "second", "catalog"]
    proof: Suites | Verified | Attested


_B, _D, _A = Phase.BEFORE, Phase.DURING, Phase.AFTER

CHECKLIST: tuple[Line, ...] = (
    Line("code-review", "Code review completed", _B, "first", Attested()),
    Line("ci-tests", "All tests passing in CI", _B, "first", Suites()),
    Line("security-scan", "Security scan completed", _B, "first", Suites(("security",))),
    Line("migrations-tested", "Database migration scripts tested", _B, "first", Suites(("data",))),
    Line("rollback-plan", "Rollback plan documented", _B, "first", Attested()),
    Line("dashboards-updated", "Monitoring dashboards updated", _B, "first", Attested()),
    Line("alert-rules", "Alert rules configured", _B, "first", Attested()),
    Line("documentation", "Documentation updated", _B, "first", Attested()),
    Line("hipaa-tests", "HIPAA compliance tests pass 100%", _B, "second", Suites(("hipaa",))),
    Line("penetration-test", "Security penetration testing completed", _B, "second", QUARTER),
    Line("benchmarks", "Performance benchmarks meet SLA requirements", _B, "second", Suites(("performance",))),
    Line("recovery-tests", "Backup and recovery procedures pass their suite", _B, "second", Suites(("recovery",))),
    Line("backup-recovery", "Backup and recovery procedures tested", _B, "second", QUARTER),
    Line("incident-response", "Incident response procedures validated", _B, "second", QUARTER),
    Line("change-approval", "Change approval documentation completed", _B, "second", Attested()),
    Line("stakeholders", "Stakeholders notified of the deployment", _D, "first", Attested()),
    Line("migrations-applied", "Apply database migrations", _D, "first", Suites(("data",))),
    Line("components-deployed", "Deploy application components", _D, "first", Verified()),
    Line("service-health", "Verify service health", _D, "first", Suites(("health",))),
    Line("smoke-tests", "Run smoke tests", _D, "first", Suites(("smoke",))),
    Line("dashboards-checked", "Check monitoring dashboards", _D, "first", Attested()),
    Line("integrations", "Verify external integrations", _D, "first", Suites(("integration",))),
    Line("performance", "Monitor application performance", _A, "first", Suites(("performance",))),
    Line("error-rates", "Check error rates", _A, "first", Suites(("performance",))),
    Line("user-experience", "Verify user experience", _A, "first", Attested()),
    Line("changelog", "Document deployment in changelog", _A, "first", Attested()),
    Line("tracking", "Update deployment status in tracking system", _A, "first", Attested()),
    Line("review", "Conduct post-deployment review", _A, "first", Attested()),
    Line("hipaa-verified", "HIPAA compliance verification (100% required)", _A, "second", Suites(("hipaa",))),
    Line("ai-validated", "AI quality and performance validation", _A, "second", Suites(("ai",))),
    Line("security-validated", "Security audit validation", _A, "second", Suites(("security",))),
    Line("system-integration", "Full system integration testing", _A, "second", Suites()),
)
"""Service health and benchmarks of the second guide's validation after a deployment are the lines
`service-health` and `performance`; its "production readiness check" is the table as a whole."""

_ORDER = tuple(Phase)


def lines_of(environment: Environment, phase: Phase) -> tuple[Line, ...]:
    """The lines up to and including a phase. Both guides' checklists bind the environment that is held
    to all of HIPAA; others have what their own file demands. A demanded sentence that is no line of a
    guide is a line of its own; one that is counts from before the deployment on."""
    full = CHECKLIST if environment.compliance is ComplianceLevel.HIPAA else ()
    chosen = [line for line in full if _ORDER.index(line.phase) <= _ORDER.index(phase)]
    known = {line.id for line in chosen}
    demanded = [line for line in _demanded(environment.entry.attestations) if line.id not in known]
    return (*chosen, *demanded)


def _demanded(sentences: Iterable[str]) -> Iterator[Line]:
    by_title = {line.title: line for line in CHECKLIST if isinstance(line.proof, Attested)}
    for sentence in sentences:
        known = by_title.get(sentence)
        yield (
            replace(known, phase=Phase.BEFORE)
            if known
            else Line(_slug(sentence), sentence, Phase.BEFORE, "catalog", Attested())
        )


def attested_lines(environment: Environment) -> dict[str, Attested]:
    """Everything that a person may attest for an environment, by what they type."""
    return {line.id: line.proof for line in lines_of(environment, Phase.AFTER) if isinstance(line.proof, Attested)}


def _slug(sentence: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", sentence.lower()).strip("-")[:60]
