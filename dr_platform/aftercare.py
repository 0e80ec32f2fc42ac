"""Watching over what was promoted, bound to a platform: what is known is put together, and what is
decided is written into the record.

Here: reading, probing the revision to go back to, asking. Not here: the decision
(``rollout.aftercare``) or who is shown it (``sensors``). One service's trouble stops no other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType

from dr_platform import delivery
from dr_platform.errors import PlatformError
from dr_platform.evidence import Entry
from dr_platform.health import PROTECTED, REFUSALS
from dr_platform.identity import new_id
from dr_platform.incidents import incident_id
from dr_platform.platform import Platform
from dr_platform.rollout import record as records
from dr_platform.rollout.aftercare import (
    Call,
    Case,
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
from dr_platform.rollout.record import Intent, Phase, Record, Warm, Watch
from dr_platform.rollout.requests import Target, ask, target_of
from dr_platform.rollout.sampling import HEALTH, compliant

ACTOR = "sensor:aftercare"
LOOKS = 3
"""The revision to go back to is asked so often: one lost answer proves nothing."""
ROUND_S = 20.0
"""No service is begun with after this; a sensor's tick has a minute."""
_PROBE_S = 2.0


@dataclass(frozen=True)
class WentBack:
    """What was asked for. The controller does it."""

    service: str
    intent: Intent
    why: str


@dataclass(frozen=True)
class Called:
    """A call for a person, for as long as its reason lasts. ``key`` tells one call from another."""

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


@dataclass(frozen=True)
class Round:
    """What is read once for all services. ``alerts`` are the entries of security scanners, ``None``:
    could not look. ``not_compliant`` tells of services whose compliance check fails, since when."""

    platform: Platform
    suspended: Collection[str]
    alerts: tuple[Entry, ...] | None
    not_compliant: Mapping[str, datetime]

    def alerts_about(self, record: Record) -> int | None:
        if self.alerts is None or record.stable is None or record.last is None:
            return None
        about = [entry for entry in self.alerts if entry.subject == record.service]
        return delivery.distinct(about, record.stable.revision.version, record.last.began_at)

    def fails_check(self, record: Record) -> bool:
        """Since its promotion: what was written before was about another version."""
        since = self.not_compliant.get(record.service)
        return since is not None and (record.last is None or since >= record.last.ended_at)


def attend(platform: Platform, not_compliant: Mapping[str, datetime] = MappingProxyType({})) -> Attention:
    """One round over all services, bounded in time. Raises ``PlatformError`` when not even the records
    can be read."""
    fleet = delivery.fleet_records(platform)
    watched = [record.service for record in fleet if record.watch is not None]
    suspended = platform.runtime.suspensions()
    alerts = delivery.security_alerts(platform) if watched else None
    this, until = Round(platform, suspended, alerts, not_compliant), platform.clock.monotonic() + ROUND_S
    went_back: list[WentBack] = []
    waiting: dict[str, str] = {}
    for service in watched:
        found = _attended(this, service) if platform.clock.monotonic() < until else Leave("no time in this round")
        if isinstance(found, WentBack):
            went_back.append(found)
        elif found is not None:
            waiting[service] = found.why
    return Attention(tuple(went_back), tuple(_calls(delivery.fleet_records(platform))), waiting)


def _attended(this: Round, service: str) -> WentBack | Leave | None:
    try:
        return _attend(this, service)
    except PlatformError as exc:
        return Leave(exc.what)


def _attend(this: Round, service: str) -> WentBack | Leave | None:
    """``None``: a person is called. The records are read anew for each service, so that the budget of
    the fleet holds within one round too."""
    platform = this.platform
    fleet = delivery.fleet_records(platform)
    record = next(r for r in fleet if r.service == service)
    now = platform.clock.now()
    if (why := unwatched(record, now)) is not None or record.watch is None or record.warm is None:
        return Leave(why or "nothing is watched")
    case = _case(this, record, record.watch, record.warm, fleet)
    match decide(case, now):
        case Leave() as left:
            return left
        case Call() as call:
            records.change(platform.runtime, service, lambda held: calling(held, case, call, now))
            return None
        case GoBack() as action:
            return _go_back(platform, case, record.warm, action)


def _case(this: Round, record: Record, watch: Watch, warm: Warm, fleet: Iterable[Record]) -> Case:
    fails = this.fails_check(record)
    finding = find(watch, GuardPolicy(), this.alerts_about(record), check=False if fails else None)
    target, standing = _target(this.platform, record, warm), Standing()
    if finding.judgement.verdict is Judged.FAIL and target.revision is not None:
        standing = _standing(this.platform, record.service, warm)
        standing = _as_checked(this.platform, record.service, warm, standing) if fails else standing
    return Case(record, finding, target, standing, automatic_rollbacks(fleet), record.service in this.suspended)


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


def _as_checked(platform: Platform, name: str, warm: Warm, standing: Standing) -> Standing:
    """The check also asks without a token; the revision to go back to must refuse that as well."""
    status = platform.runtime.probe(name, PROTECTED, warm.placement.slot, _PROBE_S).status
    if status is None:
        return replace(standing, compliant=None if standing.compliant else standing.compliant)
    return standing if status in REFUSALS else replace(standing, compliant=False)


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


def _calls(found: Iterable[Record]) -> Iterator[Called]:
    """Also for open rollouts that wait for a person without one having paused them."""
    for record in found:
        watch, rollout = record.watch, record.rollout
        if watch is not None and watch.paged is not None and watch.paged_at is not None:
            yield Called(record.service, watch.paged, f"{record.service}:{watch.paged_at.isoformat()}")
        if rollout is not None and rollout.phase is Phase.STUCK:
            yield Called(record.service, rollout.why, f"{rollout.id}:stuck")
        elif rollout is not None and rollout.paused is not None and not rollout.paused_by_person:
            yield Called(record.service, rollout.paused, f"{rollout.id}:paused")
