"""The looks of the suites beyond health, for whatever the catalog has. Not here: any verdict."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial

from dr_platform.catalog import Role, Service
from dr_platform.look import Cost, Look, always_answers
from dr_platform.platform import Platform
from dr_platform.validation import ai, hipaa, integration, performance, security, smoke
from dr_platform.validation.data import data_looks
from dr_platform.verdict import Verdict


def validation_looks(platform: Platform) -> tuple[Look, ...]:
    chance = random.Random()  # noqa: S311 - load and questions, not secrets
    load = performance.Load(lambda: performance.measure(platform, chance), platform.clock)
    found = list(_infrastructure(platform))
    for service in platform.catalog.services.values():
        found += _of_every_service(platform, service, load)
    for role in Role:
        if (service := platform.catalog.with_role(role)) is not None:
            found += [_thorough(service.name, *row) for row in _by_role(platform, role, service, chance)]
    found += data_looks(platform)
    return tuple(found)


def _infrastructure(platform: Platform) -> Iterator[Look]:
    for name, check, text, verdict in (
        ("runtime", "listeners", "Every process listens on loopback alone.", security.listeners_verdict),
        ("state", "secret_files", "Secrets are readable for their owner alone.", security.secret_files_verdict),
    ):
        yield Look(("infrastructure", name), check, text, partial(verdict, platform), cost=Cost.THOROUGH)


def _of_every_service(platform: Platform, service: Service, load: performance.Load) -> Iterator[Look]:
    name = service.name
    yield _thorough(
        name,
        "smoke",
        "Every documented address answers, by weight and by the revision header.",
        partial(smoke.smoke_verdict, platform, name),
    )
    yield _thorough(
        name,
        "access",
        "Wrong tokens are refused, a good one is admitted.",
        _later(lambda: security.access_verdict(platform.client, platform.secrets, name, platform.clock)),
    )
    yield Look(
        ("services", name),
        "performance",
        f"Keeps its promises under {performance.RATE:g} requests a second to all services.",
        partial(performance.performance_verdict, load, service),
        severe=False,
        cost=Cost.LOAD,
    )


Row = tuple[str, str, Callable[[], Verdict]]


def _by_role(platform: Platform, role: Role, service: Service, chance: random.Random) -> Iterator[Row]:
    match role:
        case Role.GATEWAY:
            act = _later(lambda: integration.conversation_verdict(platform.client, chance))
            yield "conversation", "A question is checked, answered with sources, stored and read back.", act
        case Role.BACKGROUND_TASKS:
            act = _later(lambda: integration.queue_verdict(platform.client, platform.clock))
            yield "queue", "A task goes through the queue to a worker.", act
        case Role.AI_GATEWAY:
            yield "crisis", "Every kind of crisis is escalated.", _later(lambda: ai.crisis_verdict(platform.client))
            yield "refusal", "What no article answers is declined.", _later(lambda: ai.refusal_verdict(platform.client))
        case Role.CONTENT_SAFETY:
            act = _later(lambda: hipaa.identifiers_verdict(platform.client))
            yield "identifiers", "Identifiers of patients are found and replaced (45 CFR 164.514).", act
        case Role.AUDIT_LOG if (gateway := platform.catalog.with_role(Role.GATEWAY)) is not None:
            act = _later(lambda: hipaa.audit_verdict(platform.client, gateway.name, platform.clock))
            yield "audit", "Every access leaves a trace; the chain is whole (45 CFR 164.312(b)).", act
        case Role.AUTHENTICATION:
            act = _later(lambda: security.default_credentials_verdict(platform.client, service.name))
            yield "default_credentials", "Well-known logins are refused.", act
        case _ if role in ai.TIMED and service.slo.latency_p95 is not None:
            act = _later(lambda: _latency(platform, role, service.slo.latency_p95 or 0.0, chance))
            yield "latency", "Answers what no cache knows within the promised time.", act


def _latency(platform: Platform, role: Role, limit_s: float, chance: random.Random) -> Verdict:
    from dr_platform.reference_service.traffic import read_questions

    questions = read_questions(platform.catalog.root)
    return ai.latency_verdict(platform.client, role, questions, limit_s, chance, platform.clock)


def _later(look: Callable[[], Verdict]) -> Callable[[], Verdict]:
    """The client reads secrets when it is first made, and that may fail too."""
    return always_answers(look)


def _thorough(name: str, check: str, description: str, verdict: Callable[[], Verdict]) -> Look:
    return Look(("services", name), check, description, verdict, cost=Cost.THOROUGH)
