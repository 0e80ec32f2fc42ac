"""Smoke: every documented address of a service answers, at its weights and at each of its slots."""

from __future__ import annotations

from collections.abc import Mapping

from dr_platform.catalog import Role, Service
from dr_platform.look import always_answers, health_body
from dr_platform.platform import Platform
from dr_platform.runtime.port import ProbeResult, Slot
from dr_platform.verdict import Measure, Verdict

PROBE_S = 3.0
HEALTH = "/health"
FIELDS = frozenset({"status", "service", "version", "timestamp", "dependencies", "compliance"})
"""Of the health response (second guide, "Health Check Response")."""


def documented_paths(service: Service) -> tuple[str, ...]:
    """What the second guide asks of a service ("Health Check Endpoints", "Readiness vs Liveness")."""
    paths = (HEALTH, service.probes.readiness.path, service.probes.liveness.path)
    return (*paths, "/health/database") if Role.GATEWAY in service.roles else paths


@always_answers
def smoke_verdict(platform: Platform, name: str) -> Verdict:
    """Ask through the router, once by weight and once by the revision header for every filled slot."""
    runtime, service = platform.runtime, platform.catalog.services[name]
    slots = {
        slot: status.revision.version
        for slot, status in runtime.observe(name).slots.items()
        if status.revision is not None and status.ready
    }
    answers = {path: runtime.probe(name, path, timeout_s=PROBE_S) for path in documented_paths(service)}
    by_slot = {slot: runtime.probe(name, HEALTH, slot, PROBE_S) for slot in slots}
    return judge(name, slots, answers, by_slot)


def judge(
    name: str,
    slots: Mapping[Slot, str],
    answers: Mapping[str, ProbeResult],
    by_slot: Mapping[Slot, ProbeResult],
) -> Verdict:
    """``slots`` are the filled ones with the version that runs in each."""
    problems = [f"{path}: {_told(answer)}" for path, answer in answers.items() if not answer.ok]
    problems += _contract(name, frozenset(slots.values()), answers[HEALTH])
    if not slots:
        problems.append("no slot has a ready replica")
    for slot, version in slots.items():
        seen = (health_body(by_slot[slot]) or {}).get("version")
        if seen != version:
            problems.append(f"the revision header does not lead to {version} in {slot}")
    measurements: dict[str, Measure] = {
        "addresses": len(answers),
        "slots": len(slots),
        "slowest_ms": max(answer.latency_ms for answer in answers.values()),
    }
    if problems:
        return Verdict(False, "; ".join(problems), measurements)
    return Verdict(True, f"{len(answers)} addresses and {len(slots)} slots answer as documented", measurements)


def _told(answer: ProbeResult) -> str:
    return answer.reason or f"HTTP {answer.status}"


def _contract(name: str, versions: frozenset[str], answer: ProbeResult) -> list[str]:
    body = health_body(answer)
    if body is None:
        return [] if not answer.ok else [f"{HEALTH}: no health response"]
    problems = []
    if missing := sorted(FIELDS - set(body)):
        problems.append(f"{HEALTH} lacks {', '.join(missing)}")
    if body.get("service") != name:
        problems.append(f"{HEALTH} is answered by another service")
    if body.get("version") not in versions:
        problems.append(f"{HEALTH} is answered by a version that should not run")
    return problems
