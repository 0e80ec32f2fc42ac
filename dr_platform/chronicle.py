"""What rollouts tell, written into the evidence log and the incidents.

Here: translating a record's events, each copied once whoever repeats it. Not here: what is worth
telling (``rollout.decide``) or what an incident is (``incidents``).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from dr_platform.errors import TemporaryFailure
from dr_platform.evidence import StaleSubject
from dr_platform.incidents import (
    Action,
    ActionTaken,
    BlastRadius,
    Decision,
    Detection,
    Opened,
    Release,
    RevisionReference,
    RuleEvidence,
    StateAtFire,
    TriggerKind,
)
from dr_platform.platform import Platform
from dr_platform.rollout.record import Event

_TRIES = 20


class Outpaced(TemporaryFailure):
    def __init__(self, subject: str) -> None:
        super().__init__(subject)
        self.what = f"{subject}: others wrote about it each time that it was read"
        self.untouched = "the evidence log; the event waits in the record"
        self.next_step = "nothing: it is told again at the next look"


def tell(platform: Platform, event: Event, actor: str) -> None:
    """Copy one event. Raises ``OperationsUnavailable`` while the database does not answer; the same
    event may then be told again, by anybody."""
    match event.kind:
        case "incident-opened":
            platform.incidents.open(event.subject, opening(event.body, platform.environment.name), actor)
        case "incident-restored":
            _restored(platform, event, actor)
        case _:
            _once(platform, event, actor)


def opening(body: Mapping[str, Any], environment: str) -> Opened:
    """An incident as it was when its rule fired."""
    stable, candidate = body["from"], body["to"]
    weight = int(body["weight"])
    weights = {candidate["slot"]: weight} | ({stable["slot"]: 100 - weight} if stable else {})
    return Opened(
        service=body["service"],
        environment=environment,
        release=Release(from_revision=_revision(stable), to_revision=_revision(candidate), rollout_id=body["rollout"]),
        detection=Detection(
            trigger=body["trigger"],
            kind=kind_of(body),
            rule=body["why"],
            first_bad_sample_at=_moment(body["first_failure_at"]),
            fired_at=datetime.fromisoformat(body["fired_at"]),
        ),
        evidence=(RuleEvidence(query=_counted(body["measured"]), verdict="fail"),) if body["measured"] else (),
        state_at_fire=StateAtFire(weights=weights, controller_epoch=body["epoch"]),
        decision=Decision(mode="immediate", automatic=True),
        blast_radius=_radius(body),
    )


def kind_of(body: Mapping[str, Any]) -> TriggerKind:
    """Which sort of rule fired; where both readings did, the guard was the one that acted."""
    match body["trigger"]:
        case "hipaa":
            return TriggerKind.HIPAA
        case "security":
            return TriggerKind.SECURITY
        case "no-data":
            return TriggerKind.NO_DATA
        case _:
            return TriggerKind.LITERAL if body["fired_literal"] and not body["fired_guard"] else TriggerKind.GUARD


def _restored(platform: Platform, event: Event, actor: str) -> None:
    body, at = event.body, datetime.fromisoformat(event.body["restored_at"])
    moved = Action(
        at=at,
        name="route",
        object=f"the {body['candidate']} slot",
        before={"weight": body["weight"]},
        after={"weight": 0},
        result="seen in use, and the stable revision answers",
    )
    platform.incidents.append(event.subject, "traffic-moved", ActionTaken(action=moved), actor)
    platform.incidents.mitigate(event.subject, at, actor, _radius(body) if "requests" in body else None)


def _once(platform: Platform, event: Event, actor: str) -> None:
    """Also where two tell it at the same moment, as one does that was stopped before it wrote."""
    log = platform.evidence
    for _ in range(_TRIES):
        read_to = log.head().sequence
        known = (entry.body.get("key") for entry in log.entries(kind=event.kind, subject=event.subject))
        if event.key in known:
            return
        with suppress(StaleSubject):
            log.append(event.kind, event.subject, actor, {**event.body, "key": event.key}, read_to=read_to)
            return
    raise Outpaced(event.subject)


def _revision(reference: Mapping[str, str] | None) -> RevisionReference | None:
    if reference is None:
        return None
    version, digest, config_hash = (reference[name] for name in ("version", "digest", "config_hash"))
    return RevisionReference(version=version, digest=digest, config_hash=config_hash)


def _radius(body: Mapping[str, Any]) -> BlastRadius:
    return BlastRadius(
        requests_served=body["requests"],
        requests_failed=body["errors"],
        max_weight=body["max_weight"],
        exposure_seconds=body["exposure_s"],
    )


def _counted(measured: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in measured.items())


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
