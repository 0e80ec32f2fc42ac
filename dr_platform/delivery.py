"""Delivery bound to a platform: what is asked for, how patient, how a candidate is tested, who is told.

Here: putting the rollout's parts together from a catalog and its environment. Not here: any decision
(``rollout``) or how a verb looks (``cli``).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Literal

from dr_platform.catalog import Service
from dr_platform.catalog.models import Strategy
from dr_platform.chronicle import tell
from dr_platform.evidence import Entry
from dr_platform.identity import new_id
from dr_platform.platform import Platform
from dr_platform.rollout import record as records
from dr_platform.rollout.aside import Start, on_a_thread
from dr_platform.rollout.controller import LEASE, Controller, Settings
from dr_platform.rollout.decide import Patience
from dr_platform.rollout.guards import GuardPolicy
from dr_platform.rollout.record import Intent, Outcome, Record, Restart, Rollout, Smoke
from dr_platform.rollout.requests import RolloutRefused, Wanted, ask, follow, knows, last_try, target_of
from dr_platform.rollout.requests import restart as ask_restart
from dr_platform.rollout.sampling import HEALTH, compliant
from dr_platform.rollout.strategy import (
    GRADUAL_WEIGHTS,
    IMMEDIATE_WEIGHTS,
    canary,
    first_deployment,
    rollback_steps,
    steps_of,
)
from dr_platform.rollout.takeover import Earlier, StoodIn, Wait, lapse
from dr_platform.rollout.takeover import Start as StartRun
from dr_platform.rollout.takeover import decide as decide_takeover
from dr_platform.rollout.takeover import stand_in as stand_in_with
from dr_platform.runtime.local.programs import Program
from dr_platform.runtime.port import ProbeResult, Revision, UnknownService
from dr_platform.verdict import Measure, Progress, silent

CONTROLLER = "controller"
FOLLOW_LIMIT_S = 120.0
"""Without any movement for so long nobody acts: longer than a replica may take to become ready."""
STAND_IN_S = 900.0
"""A run that stands in for the controller ends after this; while it is needed another follows."""
SMOKE_LOOKS = 3
"""Each path is asked so often: one answer of luck proves nothing."""
_SMOKE_S = 5.0
SECURITY_ALERT = "security-alert"
"""Kind of the evidence entries that a scanner writes; subject: the service; body: version, fingerprint."""


# What is asked for


def service_of(platform: Platform, name: str) -> Service:
    if name not in platform.catalog.services:
        raise UnknownService(name, tuple(platform.catalog.services))
    return platform.catalog.services[name]


def strategy_of(platform: Platform, name: str) -> Strategy:
    """The service's own in this environment, else the environment's default."""
    override = platform.environment.services.get(name)
    return (override.strategy if override else None) or platform.environment.strategies[0]


def deployment(
    platform: Platform,
    name: str,
    version: str,
    *,
    requested_by: str,
    strategy: Strategy | None = None,
    reason: str = "",
    automatic: bool = False,
    intent_id: str | None = None,
) -> Intent:
    """Ask for a version of a service. Raises ``RolloutRefused`` for what this environment rules out."""
    service_of(platform, name)
    chosen = strategy or strategy_of(platform, name)
    allowed = platform.environment.strategies
    if chosen not in allowed and chosen is not strategy_of(platform, name):
        words = ", ".join(allowed)
        raise RolloutRefused(name, f"{chosen} is not allowed in {platform.environment.name}", f"choose one of {words}")
    workload = platform.workload(name, version)
    if workload.replicas == 0:
        raise RolloutRefused(name, f"it has no replicas in {platform.environment.name}", "raise `replicas` in its file")
    first = records.read(platform.runtime, name).record.stable is None
    bake = platform.environment.bake
    steps = first_deployment(workload.replicas, bake) if first else steps_of(chosen, workload.replicas, bake)
    return Intent(
        id=intent_id or new_id("ro"),
        kind="deploy",
        revision=workload.revision,
        replicas=workload.replicas,
        strategy=chosen,
        steps=steps,
        requested_by=requested_by,
        requested_at=platform.clock.now(),
        reason=reason,
        automatic=automatic,
        release=platform.catalog.release_of(platform.environment).name,
    )


def rollback(
    platform: Platform,
    name: str,
    *,
    requested_by: str,
    to: str | None = None,
    pace: Literal["immediate", "gradual"] = "immediate",
    reason: str = "",
    automatic: bool = False,
    incident: str | None = None,
    intent_id: str | None = None,
) -> Intent:
    """Ask to go back to a revision that was stable here before. Raises ``RolloutRefused`` with
    everything that speaks against it."""
    service = service_of(platform, name)
    record = records.read(platform.runtime, name).record
    target = target_of(record, to, lambda revision: unusable(platform, service, revision))
    if target.revision is None:
        raise RolloutRefused(name, "; ".join(target.against), f"deploy a version: `drp deploy {name} --version …`")
    replicas = platform.workload(name).replicas
    steps = rollback_steps(IMMEDIATE_WEIGHTS, replicas) if pace == "immediate" else canary(GRADUAL_WEIGHTS, replicas, 0)
    strategy = strategy_of(platform, name)
    if strategy is Strategy.RECREATE and record.warm is not None and record.warm.placement.revision == target.revision:
        # It was deployed beside its successor and still runs: traffic goes back without a moment of nobody.
        strategy = Strategy.BLUE_GREEN
    return Intent(
        id=intent_id or new_id("ro"),
        kind="rollback",
        revision=target.revision,
        replicas=replicas,
        strategy=strategy,
        steps=steps if strategy is not Strategy.RECREATE else rollback_steps(IMMEDIATE_WEIGHTS, replicas),
        requested_by=requested_by,
        requested_at=platform.clock.now(),
        reason=reason or f"rollback asked for by {requested_by}",
        automatic=automatic,
        release=platform.catalog.release_of(platform.environment).name,
        incident=incident,
    )


def unusable(platform: Platform, service: Service, revision: Revision) -> str | None:
    """What a revision needs and this machine does not have any more."""
    now = platform.workload(service.name, revision.version).revision
    if now.config_hash != revision.config_hash:
        return "its configuration is not there any more"
    if now.digest != revision.digest:
        return "its image is not there any more"
    return None


def retry(
    platform: Platform, name: str, *, requested_by: str, reason: str = "", intent_id: str | None = None
) -> Intent:
    """Ask once more for what the last rollout did not bring, with the same revision and strategy. Raises
    ``RolloutRefused`` where it ended as asked, or where that revision is not there any more."""
    service = service_of(platform, name)
    last, revision = last_try(records.read(platform.runtime, name).record)
    if (against := unusable(platform, service, revision)) is not None:
        raise RolloutRefused(name, f"{revision.version}: {against}", f"deploy it as it is now: `drp deploy {name} …`")
    why = reason or f"retry of {last.rollout}"
    if last.kind == "rollback":
        return rollback(platform, name, requested_by=requested_by, to=revision.version, reason=why, intent_id=intent_id)
    return deployment(
        platform,
        name,
        revision.version,
        requested_by=requested_by,
        strategy=last.strategy,
        reason=why,
        intent_id=intent_id,
    )


def restart(platform: Platform, name: str, *, requested_by: str, reason: str = "") -> Restart:
    """Ask that the stable revision's replicas are started anew where they are. Raises ``RolloutRefused``."""
    service = service_of(platform, name)
    if strategy_of(platform, name) is Strategy.RECREATE and platform.replicas_of(service) < 2:
        # The last replica that serves ends only when its successor serves beside it.
        step = f"end its process, which `drp diagnose {name}` names: it is started anew, and callers wait for it"
        raise RolloutRefused(name, "its only replica cannot be started anew beside itself", step)
    each_s = platform.environment.service_start + service.drain
    wanted = Wanted(new_id("rs"), each_s, requested_by, platform.clock.now(), reason)
    return ask_restart(platform.runtime, name, wanted)


# The controller


def controller(platform: Platform, progress: Progress = silent, aside: Start = on_a_thread) -> Controller:
    """The controller of this environment; a new driver each time it is made."""
    driver = new_id("ctl")
    return Controller(
        runtime=platform.runtime,
        traffic=platform.traffic,
        services=lambda: _declared(platform),
        settings=Settings(
            patience=lambda _service: patience(platform),
            guard=lambda _service: GuardPolicy(),
            settings=platform.settings_of,
        ),
        smoke=lambda service, rollout: smoke(platform, service, rollout),
        alerts=lambda service, rollout: alerts(platform, service, rollout),
        tell=lambda event: tell(platform, event, f"controller:{driver}"),
        clock=platform.clock,
        driver=driver,
        progress=progress,
        aside=aside,
    )


def _declared(platform: Platform) -> Iterable[Service]:
    declared = platform.runtime.declared()
    return [service for name, service in platform.catalog.services.items() if name in declared]


def patience(platform: Platform) -> Patience:
    return Patience(
        start=timedelta(seconds=platform.environment.service_start),
        keep_warm=timedelta(seconds=platform.environment.keep_previous),
    )


def controller_program(platform: Platform) -> Program:
    """``drp controller`` under the supervisor. It is restarted with the definitions it acts by."""
    from dr_platform.platform import definitions_digest

    argv = (sys.executable, "-m", "dr_platform.cli", "controller")
    environment = {**platform.process_environment(), "DRP_DEFINITIONS": definitions_digest(platform.catalog.root)}
    return Program(CONTROLLER, argv, environment, start_s=2.0, stop_s=10.0, priority=330)


# Testing a candidate at weight 0


def smoke(platform: Platform, service: Service, rollout: Rollout) -> Smoke | None:
    """Ask the candidate through the header route: ready, the right version, compliant. It fails when
    most looks do; ``None`` while the looks differ or it has not measured its own compliance yet."""
    faults = [_smoke_fault(platform, service, rollout) for _ in range(SMOKE_LOOKS)]
    wrong = [fault for fault in faults if fault]
    if len(wrong) * 2 > SMOKE_LOOKS:
        return Smoke(False, wrong[0], platform.clock.now())
    if faults != [""] * SMOKE_LOOKS:
        return None
    return Smoke(True, f"{SMOKE_LOOKS} looks at readiness, version and compliance", platform.clock.now())


def _smoke_fault(platform: Platform, service: Service, rollout: Rollout) -> str | None:
    """What is wrong, empty for nothing, ``None`` when it may be so for the moment only."""
    slot, version = rollout.candidate.slot, rollout.candidate.revision.version
    if not platform.runtime.probe(service.name, service.probes.readiness.path, slot, _SMOKE_S).ok:
        return None
    health = platform.runtime.probe(service.name, HEALTH, slot, _SMOKE_S)
    if not health.ok:
        return f"{HEALTH} answered {health.status or health.reason}"
    if (told := _version_in(health)) != version:
        return f"{HEALTH} says version {told or 'nothing'} and not {version}"
    return "" if compliant(health) is True else None


def _version_in(answer: ProbeResult) -> str | None:
    try:
        return str(json.loads(answer.body)["version"])
    except (ValueError, KeyError, TypeError):
        return None


def alerts(platform: Platform, service: Service, rollout: Rollout) -> int | None:
    """Distinct fingerprints of security alerts about the candidate's version since the rollout began."""
    found = security_alerts(platform, service.name)
    return None if found is None else distinct(found, rollout.candidate.revision.version, rollout.began_at)


def security_alerts(platform: Platform, service: str | None = None) -> tuple[Entry, ...] | None:
    """What scanners wrote about a service, or about all; ``None``: could not look."""
    from dr_platform.operations import OperationsUnavailable

    try:
        return tuple(platform.evidence.entries(kind=SECURITY_ALERT, subject=service))
    except OperationsUnavailable:
        return None


def distinct(alerts: Iterable[Entry], version: str, since: datetime) -> int:
    """Fingerprints of those about a version since then, each counted once."""
    return len({e.body.get("fingerprint") for e in alerts if e.at >= since and e.body.get("version") == version})


# Following, for whoever was started for it


def carried_through(
    platform: Platform, name: str, intent_id: str, make: Callable[[], Intent], progress: Progress = silent
) -> Outcome:
    """Ask, and follow to the end. Whoever was killed on the way and says the same again finds what was
    asked for and follows that."""
    service_of(platform, name)
    if not knows(records.read(platform.runtime, name).record, intent_id):
        ask(platform.runtime, name, make())
    return follow(platform.runtime, name, intent_id, platform.clock, FOLLOW_LIMIT_S, progress)


def figures(outcome: Outcome) -> dict[str, Measure]:
    """How a rollout ended; ``error_ratio`` is of the candidate's requests, where it had any."""
    found: dict[str, Measure] = {
        "outcome": outcome.result,
        "rollout": outcome.rollout,
        "kind": outcome.kind,
        "from": outcome.from_version or "",
        "to": outcome.to_version,
        "strategy": outcome.strategy.value,
        "reason": outcome.reason,
        "automatic": outcome.automatic,
        "incident": outcome.incident or "",
        "duration_s": round((outcome.ended_at - outcome.began_at).total_seconds(), 3),
        "requests": outcome.served,
        "errors": outcome.failed,
    }
    return found | ({"error_ratio": round(outcome.failed / outcome.served, 6)} if outcome.served else {})


def ended_since(platform: Platform, told: Mapping[str, str]) -> dict[str, Outcome]:
    """The last rollout of each service whose end was not told yet; ``told`` is by service. Of several
    that ended between two looks the last is shown here; the evidence log has all."""
    lasts = {record.service: record.last for record in fleet_records(platform)}
    return {name: last for name, last in lasts.items() if last is not None and told.get(name) != last.rollout}


def stand_in(platform: Platform, progress: Progress = silent) -> StoodIn:
    """Do the work of a controller that has gone, until another one does it."""
    return stand_in_with(controller(platform, progress), platform.environment.look, STAND_IN_S)


def takeover(platform: Platform, earlier: Callable[[str], Earlier]) -> StartRun | Wait:
    """Whether a run has to stand in; ``earlier`` tells of the runs about a lapse of the lease."""
    lease = platform.runtime.read_lease(LEASE)
    return decide_takeover(fleet_records(platform), lease, earlier(lapse(lease)), platform.clock.now())


def fleet_records(platform: Platform) -> list[Record]:
    """The records of all declared services."""
    return [records.read(platform.runtime, name).record for name in sorted(platform.runtime.declared())]
