"""What happens to a revision that turns bad after its promotion, as a function of values.

Here: what a look adds to the watch, what the watch says, and whether a program goes back or a person
is called. Not here: who looks (``controller``), what a trigger is (``guards``), who carries this out
(``dr_platform.aftercare``).

A program goes back once from each promotion, within the budget of the service and of the fleet, and
only to a revision that answers and is compliant itself. Everything else is for a person, who is
called once; after that nothing is done any more. When the revision before is not kept warm any
longer there is nothing to go back to at once: burn-rate alerts call a person then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from dr_platform.rollout.decide import needs_watch
from dr_platform.rollout.events import reference
from dr_platform.rollout.guards import Evaluation, GuardPolicy, Judgement, Trigger, evaluate, judge
from dr_platform.rollout.guards import Verdict as Judged
from dr_platform.rollout.record import Event, Intent, Record, Watch
from dr_platform.rollout.requests import RolloutRefused, Target, over_budget
from dr_platform.rollout.sampling import Looked
from dr_platform.rollout.window import Evidence, SlotSample
from dr_platform.verdict import Measure

WATCHED_EVERY = timedelta(seconds=3)
"""Between two looks at what was promoted: each is a durable write."""
STALE = timedelta(seconds=30)
"""What was seen longer ago says nothing about now."""
COMPLIANCE_LOOKS = 2
"""So often in a row the compliance test must fail: a database that restarts fails it for a moment."""
TRIGGERS = frozenset({Trigger.HIPAA, Trigger.SECURITY, Trigger.ERRORS, Trigger.HEALTH})
"""The documented rollback triggers. The others compare with a version under traffic, and there is none."""


# What is seen


def is_due(watch: Watch | None, now: datetime) -> bool:
    """Also when the clock was set back meanwhile."""
    return watch is None or not timedelta(0) <= now - watch.looked_at < WATCHED_EVERY


def watched(watch: Watch | None, looked: Looked, now: datetime) -> Watch:
    """The look taken into what was seen before."""
    before = watch or Watch(now, Evidence.empty(now).as_json())
    return replace(
        before,
        looked_at=now,
        evidence=Evidence.from_json(before.evidence).with_sample(looked.sample).as_json(),
        compliant=looked.hipaa,
        not_compliant=before.not_compliant + 1 if looked.hipaa is False else 0,
    )


@dataclass(frozen=True)
class Finding:
    """What the watch of a service says. ``measured`` is of the trigger that decided, ``failing_since``
    the first failure that is remembered."""

    judgement: Judgement
    measured: Mapping[str, Measure] = field(default_factory=dict)
    requests: int = 0
    errors: int = 0
    failing_since: datetime | None = None


def find(watch: Watch, policy: GuardPolicy, alerts: int | None, check: bool | None = None) -> Finding:
    """Judged at the moment of the newest look. ``alerts`` are those since the promotion, ``check`` is
    what the compliance check says of it; ``None`` for what could not be looked at."""
    evidence = Evidence.from_json(watch.evidence)
    compliant = None if watch.compliant is None else watch.not_compliant < COMPLIANCE_LOOKS
    compliant = False if check is False else compliant
    evaluations = evaluate(
        evidence, policy, weight=100, expected_rate=None, now=watch.looked_at, hipaa=compliant, alerts=alerts
    )
    documented = [e for e in evaluations if e.trigger in TRIGGERS]
    judgement = judge(documented)
    seen, since = evidence.candidate_total, _failing_since(evidence)
    return Finding(judgement, _measured(documented, judgement), seen.requests, min(seen.errors, seen.requests), since)


def _measured(evaluations: Iterable[Evaluation], judgement: Judgement) -> dict[str, Measure]:
    return next((e.as_measurements() for e in evaluations if e.trigger is judgement.trigger), {})


def _failing_since(evidence: Evidence) -> datetime | None:
    """A second of it: its look tells what happened since the one before."""
    seen = [b.candidate or SlotSample() for b in evidence.buckets]
    bad = [bool(s.errors or s.probe_failures or s.restarts) for s in seen]
    if evidence.last_at is None or True not in bad:
        return None
    return evidence.last_at - timedelta(seconds=len(bad) - 1 - bad.index(True))


# What is done about it


@dataclass(frozen=True)
class Standing:
    """How the revision to go back to is now; ``None`` for what could not be looked at."""

    answers: bool | None = None
    compliant: bool | None = None


@dataclass(frozen=True)
class Case:
    """All that is known about one promoted service. ``fleet`` are the automatic rollbacks of all
    services, those under way included."""

    record: Record
    finding: Finding
    target: Target
    standing: Standing
    fleet: tuple[datetime, ...] = ()
    suspended: bool = False


@dataclass(frozen=True)
class Leave:
    why: str


@dataclass(frozen=True)
class GoBack:
    """Ask for the revision before."""

    trigger: str
    why: str


@dataclass(frozen=True)
class Call:
    """Call a person, once."""

    trigger: str
    why: str


Action = Leave | GoBack | Call


def unwatched(record: Record, now: datetime) -> str | None:
    """Why nothing can be said about a service, told from its record alone; ``None`` when something can."""
    if record.rollout is not None or record.queued is not None:
        return "a rollout is under way"
    if not needs_watch(record, now):
        return "no revision before is kept to go back to"
    if record.watch is None or now - record.watch.looked_at > STALE:
        return "nobody has looked lately"
    return None


def decide(case: Case, now: datetime) -> Action:
    """Equal arguments give equal actions."""
    record, judgement = case.record, case.finding.judgement
    if (why := unwatched(record, now)) is not None:
        return Leave(why)
    if case.suspended:
        return Leave("is suspended for maintenance")
    if judgement.verdict is not Judged.FAIL:
        return Leave(judgement.why)
    if record.watch is not None and record.watch.paged is not None:
        return Leave("a person was called")
    trigger = judgement.trigger.value if judgement.trigger else "guard"
    against = _against(case, judgement.trigger, now)
    if against is not None:
        return Call(trigger, f"{judgement.why}; not gone back: {against}")
    if case.standing.answers is None:
        return Leave("the revision to go back to could not be asked")
    return GoBack(trigger, judgement.why)


def _against(case: Case, trigger: Trigger | None, now: datetime) -> str | None:
    """What forbids a program to go back, whatever it would look like."""
    watch, target, standing = case.record.watch, case.target, case.standing
    if watch is not None and watch.asked is not None:
        return f"{watch.asked} was to go back and did not get there"
    if target.revision is None:
        return "; ".join(target.against)
    if standing.answers is False:
        return f"{target.revision.version} does not answer either"
    if standing.compliant is False:
        return f"{target.revision.version} fails the compliance test as well; maintenance mode closes the service"
    if trigger is Trigger.HIPAA and standing.compliant is None and standing.answers:
        return f"{target.revision.version} does not say that it is compliant; maintenance mode closes the service"
    return over_budget(case.record.automatic_rollbacks, case.fleet, now)


def automatic_rollbacks(records: Iterable[Record]) -> tuple[datetime, ...]:
    """When a program went back, or asked to, in the whole fleet: what is under way counts as well."""
    return tuple(at for record in records for at in (*record.automatic_rollbacks, *_under_way(record)))


def _under_way(record: Record) -> tuple[datetime, ...]:
    intents = (record.queued, record.rollout.intent if record.rollout else None)
    return tuple(i.requested_at for i in intents if i is not None and i.kind == "rollback" and i.automatic)


# What is written


def asking(record: Record, case: Case, intent: Intent, action: GoBack, now: datetime) -> Record:
    """The record with what the rollback answers, to be saved in the write that asks for it: the
    incident's id is there before anything acts. Raises ``RolloutRefused`` where ``record`` has moved
    on since the case was put together."""
    moved = unwatched(record, now) or ("another revision is stable" if record.stable != case.record.stable else None)
    if moved is not None or record.watch is None or record.epoch != case.record.epoch:
        raise RolloutRefused(record.service, f"not gone back: {moved or 'its record was changed'}", "look again")
    watch = replace(record.watch, asked=intent.id)
    return replace(record, watch=watch).telling(_opened(record, case, intent, action, now))


def calling(record: Record, case: Case, action: Call, now: datetime) -> Record:
    """The record of somebody's call, with its evidence; unchanged where it was made before."""
    if record.stable != case.record.stable or record.watch is None or record.watch.paged is not None:
        return record
    key = f"{record.service}:called:{now.isoformat()}"
    body = {"trigger": action.trigger, "version": record.stable.revision.version if record.stable else ""}
    told = Event(key, "aftercare-escalated", f"services/{record.service}", body)
    return replace(record, watch=replace(record.watch, paged=action.why, paged_at=now)).telling(told)


def _opened(record: Record, case: Case, intent: Intent, action: GoBack, now: datetime) -> Event:
    judgement, since = case.finding.judgement, case.finding.failing_since
    promoted = record.last.ended_at if record.last else now
    body: dict[str, object] = {
        "service": record.service,
        "rollout": intent.id,
        "epoch": record.epoch,
        "strategy": intent.strategy.value,
        "from": reference(record.warm.placement if record.warm else None),
        "to": reference(record.stable),
        "trigger": action.trigger,
        "why": action.why,
        "fired_literal": judgement.fired_literal,
        "fired_guard": judgement.fired_guard,
        "measured": dict(case.finding.measured),
        "first_failure_at": min(since, now).isoformat() if since else None,
        "fired_at": now.isoformat(),
        "weight": 100,
        "requests": case.finding.requests,
        "errors": case.finding.errors,
        "max_weight": 100,
        "exposure_s": round(max(0.0, (now - promoted).total_seconds()), 3),
    }
    return Event(f"{intent.incident}:opened", "incident-opened", str(intent.incident), body)
