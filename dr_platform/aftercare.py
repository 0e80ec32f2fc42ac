"""Watching over what was promoted, bound to a platform: what is known is put together, and what is
decided is written into the record.

Here: reading, probing the revision to go back to, asking. Not here: the decision
(``rollout.aftercare``) or who is shown it (``sensors``). One service's trouble stops no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dr_platform import delivery
from dr_platform.errors import PlatformError
from dr_platform.identity import new_id
from dr_platform.incidents import incident_id
from dr_platform.platform import Platform
from dr_platform.rollout import record as records
from dr_platform.rollout.aftercare import (
    Call,
    Case,
    Finding,
    GoBack,
    Leave,
    Standing,
    asking,
    automatic_rollbacks,
    calling,
    decide,
    find,
    unwatched,
)
from dr_platform.rollout.guards import GuardPolicy
from dr_platform.rollout.guards import Verdict as Judged
from dr_platform.rollout.record import Intent, Record, Warm, Watch
from dr_platform.rollout.requests import Target, ask, target_of
from dr_platform.rollout.sampling import HEALTH, compliant

ACTOR = "sensor:aftercare"
LOOKS = 3
"""The revision to go back to is asked so often: one lost answer proves nothing."""
_PROBE_S = 2.0


@dataclass(frozen=True)
class WentBack:
    """What was asked for. The controller does it."""

    service: str
    intent: Intent
    why: str


@dataclass(frozen=True)
class Called:
    """A call for a person, as long as its revision is watched. ``key`` tells one call from another."""

    service: str
    why: str
    key: str


@dataclass(frozen=True)
class Attention:
    """What one round over all services came to."""

    went_back: tuple[WentBack, ...]
    calls: tuple[Called, ...]
    waiting: Mapping[str, str]

    def summary(self) -> str:
        return "; ".join(f"{service}: {why}" for service, why in self.waiting.items()) or "nothing is watched"


def attend(platform: Platform) -> Attention:
    """One round over all services. Raises ``PlatformError`` when not even the records can be read."""
    went_back: list[WentBack] = []
    waiting: dict[str, str] = {}
    suspended = platform.runtime.suspensions()
    for record in delivery.fleet_records(platform):
        if record.watch is None:
            continue
        try:
            asked = _attend(platform, record.service, record.service in suspended)
        except PlatformError as exc:
            waiting[record.service] = exc.what
            continue
        if isinstance(asked, WentBack):
            went_back.append(asked)
        elif asked is not None:
            waiting[record.service] = asked.why
    return Attention(tuple(went_back), tuple(_calls(delivery.fleet_records(platform))), waiting)


def _attend(platform: Platform, service: str, suspended: bool) -> WentBack | Leave | None:
    """``None``: a person is called. The records are read anew for each service, so that the budget of
    the fleet holds within one round too."""
    fleet = delivery.fleet_records(platform)
    record = next(r for r in fleet if r.service == service)
    now = platform.clock.now()
    if (why := unwatched(record, now)) is not None or record.watch is None or record.warm is None:
        return Leave(why or "nothing is watched")
    case = _case(platform, record, record.watch, record.warm, fleet, suspended)
    match decide(case, now):
        case Leave() as left:
            return left
        case Call() as call:
            records.change(platform.runtime, service, lambda held: calling(held, case, call, now))
            return None
        case GoBack() as action:
            return _go_back(platform, case, record.warm, action)


def _case(
    platform: Platform, record: Record, watch: Watch, warm: Warm, fleet: Iterable[Record], suspended: bool
) -> Case:
    finding = _finding(platform, record, watch)
    bad = finding.judgement.verdict is Judged.FAIL
    target = _target(platform, record, warm)
    standing = _standing(platform, record.service, warm) if bad and target.revision else Standing()
    return Case(record, finding, target, standing, automatic_rollbacks(fleet), suspended)


def _finding(platform: Platform, record: Record, watch: Watch) -> Finding:
    alerts = None
    if record.stable is not None and record.last is not None:
        version, since = record.stable.revision.version, record.last.began_at
        alerts = delivery.alerts_about(platform, record.service, version, since)
    return find(watch, GuardPolicy(), alerts)


def _target(platform: Platform, record: Record, warm: Warm) -> Target:
    """The revision that is kept warm and no other: only it takes the traffic at once."""
    service, kept = delivery.service_of(platform, record.service), warm.placement.revision
    found = target_of(record, kept.version, lambda revision: delivery.unusable(platform, service, revision))
    if found.revision not in (None, kept):
        return Target(None, (f"{kept.version} is kept warm with another configuration",))
    return found


def _standing(platform: Platform, name: str, warm: Warm) -> Standing:
    service, slot = delivery.service_of(platform, name), warm.placement.slot
    if platform.runtime.observe(name).weights is None:
        return Standing()  # the router cannot be read: whatever comes through it says nothing
    path = service.probes.readiness.path
    answers = any(platform.runtime.probe(name, path, slot, _PROBE_S).ok for _ in range(LOOKS))
    return Standing(answers, compliant(platform.runtime.probe(name, HEALTH, slot, _PROBE_S)))


def _go_back(platform: Platform, case: Case, warm: Warm, action: GoBack) -> WentBack:
    """The incident's id is in the intent, and its opening in the outbox, before anything acts."""
    name, now = case.record.service, platform.clock.now()
    intent_id = new_id("ro")
    intent = delivery.rollback(
        platform,
        name,
        requested_by=ACTOR,
        to=warm.placement.revision.version,
        reason=action.why,
        automatic=True,
        incident=incident_id(intent_id, case.record.epoch),
        intent_id=intent_id,
    )
    ask(platform.runtime, name, intent, lambda held: asking(held, case, intent, action, now))
    return WentBack(name, intent, action.why)


def _calls(found: Iterable[Record]) -> Iterable[Called]:
    for record in found:
        watch = record.watch
        if watch is not None and watch.paged is not None and watch.paged_at is not None:
            yield Called(record.service, watch.paged, f"{record.service}:{watch.paged_at.isoformat()}")
