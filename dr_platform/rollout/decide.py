"""What comes next for an open rollout, as a function of values.

Here: every transition, forward and backward. Not here: what a signal says (``guards``), who acts
(``controller``), or how a service without a rollout is kept as wanted (``settle``).

``decide`` is asked again and again, and touches nothing. Of two things to do the record comes first:
a change of phase is saved before anything of the new phase is done, so whoever reads the record
after a stop knows what may have been done. Order: capacity, traffic, verification, scale-down; abort
outranks promote; no timer outranks a check; no data is no success.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from dr_platform.catalog.models import Strategy
from dr_platform.incidents import incident_id
from dr_platform.rollout import events, restart
from dr_platform.rollout.events import Cause
from dr_platform.rollout.guards import Evaluation, Judgement
from dr_platform.rollout.guards import Verdict as Judged
from dr_platform.rollout.record import (
    Deployed,
    Intent,
    Phase,
    Placement,
    Record,
    Restart,
    Result,
    Rollout,
    Warm,
    stable_weights,
)
from dr_platform.rollout.restart import StartAnew, Tidy
from dr_platform.rollout.settle import Retire, Route
from dr_platform.runtime.port import CLOSED, Observed, ReplicaState, Revision, Slot, SlotStatus, Weights

KEPT_ROLLBACK_TIMES = 10
CLOCK_SLACK = timedelta(seconds=2)
"""The clocks of two machines that take over from each other may differ so much."""
PERSONS = frozenset({"manual", "superseded"})
"""Triggers that say nothing against the candidate."""


@dataclass(frozen=True)
class Patience:
    """How long each part may take before the rollout is taken back or handed to a person."""

    start: timedelta
    """A replica must be ready this long after it was asked for."""
    shift: timedelta = timedelta(seconds=60)
    smoke: timedelta = timedelta(seconds=60)
    revert: timedelta = timedelta(seconds=120)
    extensions: int = 3
    """A bake without enough requests is prolonged this often, then a person decides."""
    extension: timedelta = timedelta(seconds=5)
    """At least so long; otherwise as long as the bake itself."""
    keep_warm: timedelta = timedelta(hours=24)


@dataclass(frozen=True)
class Signals:
    """What was measured for this look. ``judgement`` is ``None`` before anything could be judged,
    ``stable_answers`` when it was not asked or could not be."""

    judgement: Judgement | None = None
    enough: bool = False
    stable_answers: bool | None = None
    measured: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """What the trigger that decided had counted, with its threshold."""
    evaluations: tuple[Evaluation, ...] = ()
    """What each trigger said, for those who look back at the decision."""


@dataclass(frozen=True)
class Save:
    """Store the record; ``why`` is for whoever follows."""

    record: Record
    why: str


@dataclass(frozen=True)
class Apply:
    slot: Slot
    revision: Revision
    replicas: int


@dataclass(frozen=True)
class RunSmoke:
    """Test the candidate through the header route and save what came of it."""

    slot: Slot


@dataclass(frozen=True)
class Wait:
    until: datetime
    why: str


@dataclass(frozen=True)
class Rest:
    """There is nothing to do until somebody asks for something."""


@dataclass(frozen=True)
class Fence:
    """Nothing of a lower epoch than the record's changes the service any more."""


Action = Save | Apply | Route | Retire | RunSmoke | StartAnew | Tidy | Fence | Wait | Rest


def needs_look(record: Record, now: datetime) -> bool:
    """Whether ``decide`` would do anything but rest, told from the record alone."""
    due = record.warm is not None and now >= record.warm.until
    return any(asked is not None for asked in (record.rollout, record.queued, record.restart)) or due


def needs_watch(record: Record, now: datetime) -> bool:
    """Whether there is something that could be gone back to at once, and nothing else is under way."""
    if record.stable is None or record.rollout is not None or record.queued is not None:
        return False
    return record.keeps_warm(record.stable.slot.other, now)


def decide(
    record: Record, observed: Observed, signals: Signals, now: datetime, patience: Patience, driver: str = ""
) -> Action:
    """The next single action. Equal arguments give equal actions."""
    rollout = record.rollout
    if rollout is None:
        return _idle(record, observed, now, patience, driver)
    if rollout.driver != driver:
        return Save(take_over(record, driver), f"taken over by {driver}")
    if observed.epoch < record.epoch:
        return Fence()
    if now < rollout.entered_at - CLOCK_SLACK:
        return _save(record, rollout.back_in_time(rollout.entered_at - now), "the clock was set back")
    if rollout.phase is Phase.STUCK:
        if rollout.command == "abort":  # a person saw to it, and lets it try once more
            again = rollout.entering(Phase.REVERT_CAPACITY, now, now + patience.revert)
            return _save(record, replace(again, command=None), f"tried again for {rollout.commanded_by}")
        return _wait(now, rollout.why)
    if observed.weights is None:
        return _wait(now, "the router cannot be read")
    if rollout.phase.reverting:
        return _revert(record, rollout, observed, observed.weights, signals, now)
    if (cause := _cause_to_revert(record, rollout, signals)) is not None:
        if rollout.intent.kind == "rollback" and not cause.person:
            return _hold_rollback(record, rollout, cause, now)
        return _begin_revert(record, rollout, cause, now, patience)
    if rollout.paused is not None and rollout.command != "promote":
        return _wait(now, rollout.paused)
    return _forward(record, rollout, observed, observed.weights, signals, now, patience)


def take_over(record: Record, driver: str) -> Record:
    """Another controller acts from now on: what the former one still sends is refused by its epoch."""
    if record.rollout is None:
        return record
    return replace(record, epoch=record.epoch + 1, rollout=replace(record.rollout, driver=driver))


# Between rollouts


def _idle(record: Record, observed: Observed, now: datetime, patience: Patience, driver: str) -> Action:
    if record.queued is not None:
        return Save(begin(record, record.queued, now, patience, driver), "begun")
    if record.restart is not None:
        return _restart(record, record.restart, observed, now)
    if observed.weights is None or record.stable is None:
        return Rest()
    slot = record.stable.slot.other
    if record.keeps_warm(slot, now):
        return Rest()
    if record.warm is not None and observed.slots[slot].revision is not None and observed.weights.of(slot) == 0:
        return Retire(slot)
    return Save(record.without_warm(), "the revision before is not kept any longer") if record.warm else Rest()


def _restart(record: Record, asked: Restart, observed: Observed, now: datetime) -> Action:
    match restart.decide(record, asked, observed, now):
        case restart.Change(changed, why):
            return Save(changed, why)
        case restart.Await(until, why):
            return _wait(until, why)
        case StartAnew() | Tidy() as act:
            return act


def begin(record: Record, intent: Intent, now: datetime, patience: Patience, driver: str) -> Record:
    """Open a rollout for the intent; what is stable already is not deployed again."""
    emptied = replace(restart.superseded(record, now), queued=None)
    before = record.stable.revision.version if record.stable else None
    if record.stable is not None and record.stable.revision == intent.revision:
        return replace(emptied, last=events.outcome_of(intent, before, "promoted", "it is stable already", now, now))
    if intent.automatic and intent.kind == "deploy" and record.is_held(intent.revision):
        why = "it was rolled back before; only a person may deploy it again"
        return replace(emptied, last=events.outcome_of(intent, before, "refused", why, now, now))
    slot = record.stable.slot.other if record.stable else Slot.BLUE
    rollout = Rollout(
        intent=intent,
        candidate=Placement(slot, intent.revision),
        stable=record.stable,
        phase=Phase.PREPARE,
        entered_at=now,
        deadline=now + patience.start,
        began_at=now,
        driver=driver,
        incident=intent.incident,
        trigger=None,
    )
    body = {"from": before or "", "to": intent.revision.version, "strategy": intent.strategy.value}
    return replace(emptied, rollout=rollout).telling(events.event(rollout, "rollout-began", body))


# Forward


def _forward(
    record: Record,
    rollout: Rollout,
    observed: Observed,
    weights: Weights,
    signals: Signals,
    now: datetime,
    patience: Patience,
) -> Action:
    status = observed.slots[rollout.candidate.slot]
    match rollout.phase:
        case Phase.PREPARE:
            return _prepare(record, rollout, observed, weights, status, now, patience)
        case Phase.SMOKE:
            return _smoke(record, rollout, now, patience)
        case Phase.SHIFT:
            return _shift(record, rollout, weights, status, now, patience)
        case Phase.BAKE:
            return _bake(record, rollout, weights, signals, now, patience)
        case _:
            return Save(_promoted(record, rollout, now, patience), "promoted")


def _prepare(
    record: Record,
    rollout: Rollout,
    observed: Observed,
    weights: Weights,
    status: SlotStatus,
    now: datetime,
    patience: Patience,
) -> Action:
    slot, wanted = rollout.candidate.slot, rollout.intent.steps[0].replicas
    if now >= rollout.deadline:
        cause = Cause("capacity", _not_ready(status, wanted))
        return _begin_revert(record, rollout, cause, now, patience)
    if status.revision not in (None, rollout.candidate.revision):
        if weights.of(slot):
            return _wait(now, f"the {slot} slot carries traffic of another revision")
        return Retire(slot)
    if rollout.intent.strategy is Strategy.RECREATE and rollout.stable is not None:
        # It cannot run twice: the old one goes before the new one comes.
        if weights != CLOSED:
            return Route(CLOSED)
        if observed.slots[rollout.stable.slot].revision is not None:
            return Retire(rollout.stable.slot)
    if status.revision is None or status.desired < wanted:
        return Apply(slot, rollout.candidate.revision, wanted)
    if any(r.state is ReplicaState.FAILED for r in status.replicas):
        return _begin_revert(record, rollout, Cause("restarts", _not_ready(status, wanted)), now, patience)
    if status.ready < wanted:
        return _wait(rollout.deadline, _not_ready(status, wanted))
    return _save(record, rollout.entering(Phase.SMOKE, now, now + patience.smoke), "ready")


def _smoke(record: Record, rollout: Rollout, now: datetime, patience: Patience) -> Action:
    if rollout.smoke is None:
        if now >= rollout.deadline:
            cause = Cause("smoke", "its smoke tests came to no result: it does not say that it is compliant")
            return _begin_revert(record, rollout, cause, now, patience)
        return RunSmoke(rollout.candidate.slot)
    if not rollout.smoke.passed:
        return _begin_revert(record, rollout, Cause("smoke", rollout.smoke.why), now, patience)
    return _save(record, rollout.entering(Phase.SHIFT, now, now + patience.shift), "smoke tests passed")


def _shift(
    record: Record, rollout: Rollout, weights: Weights, status: SlotStatus, now: datetime, patience: Patience
) -> Action:
    step, slot = rollout.intent.steps[rollout.step], rollout.candidate.slot
    target = _weights(slot, step.weight)
    if now >= rollout.deadline:
        why = f"{step.weight} % could not be reached: {_not_ready(status, step.replicas)}"
        return _begin_revert(record, rollout, Cause("capacity", why), now, patience)
    if status.revision != rollout.candidate.revision or status.desired < step.replicas:
        return Apply(slot, rollout.candidate.revision, step.replicas)
    if status.ready < step.replicas:
        return _wait(rollout.deadline, _not_ready(status, step.replicas))
    if rollout.max_weight < step.weight:
        # Before the traffic itself: whoever takes over must know that there may have been some.
        return _save(record, replace(rollout, max_weight=step.weight), f"shifting to {step.weight} %")
    if weights != target:
        return Route(target)
    baking = rollout.entering(Phase.BAKE, now, now + timedelta(seconds=step.bake_s) + patience.shift)
    until = now + timedelta(seconds=step.bake_s)
    return _save(record, replace(baking, bake_until=until, extensions=0), f"{step.weight} % in use")


def _bake(
    record: Record, rollout: Rollout, weights: Weights, signals: Signals, now: datetime, patience: Patience
) -> Action:
    steps, judgement = rollout.intent.steps, signals.judgement
    if weights != _weights(rollout.candidate.slot, steps[rollout.step].weight):
        return _save(record, rollout.entering(Phase.SHIFT, now, now + patience.shift), "the weights drifted")
    if rollout.bake_until is not None and now < rollout.bake_until and rollout.command != "promote":
        return _wait(rollout.bake_until, f"watching at {steps[rollout.step].weight} %")
    # A person's promotion shortens the time and vouches for missing requests, never for failed checks.
    if rollout.intent.kind == "deploy" and rollout.command != "promote":
        if judgement is None or judgement.verdict is not Judged.PASS:
            why = judgement.why if judgement is not None else "nothing could be judged yet"
            return _extend(record, rollout, why, now, patience)
        if not signals.enough:
            return _extend(record, rollout, "not enough requests to judge by", now, patience)
    if rollout.step + 1 == len(steps):
        return _save(record, rollout.entering(Phase.FINALIZE, now, now + patience.shift), "watched to the end")
    following = len(steps) - 1 if rollout.command == "promote" else rollout.step + 1
    shifting = replace(rollout.entering(Phase.SHIFT, now, now + patience.start), step=following, paused=None)
    return _save(record, shifting, f"on to {steps[following].weight} %")


def _extend(record: Record, rollout: Rollout, why: str, now: datetime, patience: Patience) -> Action:
    """More time and requests of our own first, then a person; never a pass for want of data."""
    if rollout.extensions >= patience.extensions:
        return _save(record, replace(rollout, paused=f"{why}: promote or abort it"), "a person is needed")
    longer = max(patience.extension, timedelta(seconds=rollout.intent.steps[rollout.step].bake_s))
    prolonged = replace(rollout, extensions=rollout.extensions + 1, synthetic=True, bake_until=now + longer)
    return _save(record, prolonged, f"{why}: watching longer, with requests of our own")


def _promoted(record: Record, rollout: Rollout, now: datetime, patience: Patience) -> Record:
    """The end of the way forward, in one change."""
    intent, before = rollout.intent, rollout.stable
    going_back = intent.kind == "rollback"
    result: Result = "rolled_back" if going_back else "promoted"
    outcome = events.outcome(rollout, result, intent.reason or "watched to the end", now)
    keeps = before is not None and not going_back and intent.strategy in (Strategy.BLUE_GREEN, Strategy.CANARY)
    # Whatever is not kept warm is emptied at once; an end in the past says so.
    until = now + patience.keep_warm if keeps else now
    ended = replace(
        record.with_stable(rollout.candidate),
        rollout=None,
        last=outcome,
        warm=Warm(before, until) if before is not None else None,
        deployed=Deployed(intent.revision.version, intent.release),
        holds=tuple(hold for hold in record.holds if hold.revision != intent.revision),
    )
    if going_back and before is not None:
        ended = ended.holding(before.revision, now, intent.reason or "rolled back")
        if intent.automatic:
            times = (now, *record.automatic_rollbacks)[:KEPT_ROLLBACK_TIMES]
            ended = replace(ended, automatic_rollbacks=times)
    told = [events.ended(rollout, outcome)]
    if rollout.incident is not None:
        told.insert(0, events.incident_restored(rollout, now))
    return ended.telling(*told)


# Backward


def _cause_to_revert(record: Record, rollout: Rollout, signals: Signals) -> Cause | None:
    """Evaluated in every phase before the end, pauses included. A command to abort comes first."""
    if rollout.command == "abort":
        return Cause("manual", f"aborted by {rollout.commanded_by}", person=True)
    judgement = signals.judgement
    if judgement is not None and judgement.verdict is Judged.FAIL:
        trigger = judgement.trigger.value if judgement.trigger else "guard"
        literal, guard = judgement.fired_literal, judgement.fired_guard
        return Cause(trigger, judgement.why, fired_literal=literal, fired_guard=guard, measured=signals.measured)
    if record.queued is not None:
        return Cause("superseded", f"version {record.queued.revision.version} was asked for meanwhile", person=True)
    return None


def _hold_rollback(record: Record, rollout: Rollout, cause: Cause, now: datetime) -> Action:
    """A rollback is never rolled back: what it came from was bad as well."""
    if rollout.paused is not None:
        return _wait(now, rollout.paused)
    why = f"the revision to go back to fails as well ({cause.why}): a person is needed"
    return _save(record, replace(rollout, paused=why), why)


def _begin_revert(record: Record, rollout: Rollout, cause: Cause, now: datetime, patience: Patience) -> Action:
    """Saved, with the incident's id, before anything is done about it."""
    exposed = rollout.max_weight > 0
    incident = rollout.incident or (incident_id(rollout.id, record.epoch) if exposed and not cause.person else None)
    reverting = replace(
        rollout.entering(Phase.REVERT_CAPACITY, now, now + patience.revert),
        trigger=cause.trigger,
        why=cause.why,
        fired_literal=cause.fired_literal,
        fired_guard=cause.fired_guard,
        incident=incident,
        reverting_since=now,
        paused=None,
        synthetic=False,
    )
    saved = record.with_rollout(reverting)
    if incident is not None and not cause.person:
        saved = saved.telling(events.incident_opened(saved, reverting, cause, now))
    return Save(saved, f"taken back: {cause.why}")


def _revert(
    record: Record, rollout: Rollout, observed: Observed, weights: Weights, signals: Signals, now: datetime
) -> Action:
    target = stable_weights(rollout)
    if now >= rollout.deadline and rollout.phase is not Phase.REVERT_SCALE:
        stuck = rollout.entering(Phase.STUCK, now, rollout.deadline)
        stuck = replace(stuck, why=f"{rollout.why}; it could not be taken back in time: a person is needed")
        return Save(
            record.with_rollout(stuck).telling(events.event(rollout, "rollout-stuck", {"why": stuck.why})), stuck.why
        )
    match rollout.phase:
        case Phase.REVERT_CAPACITY:
            return _make_capacity(record, rollout, observed, weights, now)
        case Phase.REVERT_TRAFFIC:
            if weights != target:
                return Route(target)
            verifying = replace(_phase(rollout, Phase.REVERT_VERIFY, now), restored_at=now)
            return _save(record, verifying, "traffic is back")
        case Phase.REVERT_VERIFY:
            if weights != target:
                return _save(record, _phase(rollout, Phase.REVERT_TRAFFIC, now), "the weights drifted")
            if rollout.stable is not None and signals.stable_answers is not True:
                return _wait(rollout.deadline, "the stable revision does not answer yet")
            return _save(record, _phase(rollout, Phase.REVERT_SCALE, now), "verified")
        case _:
            if weights.of(rollout.candidate.slot):
                return _save(record, _phase(rollout, Phase.REVERT_TRAFFIC, now), "the weights drifted")
            if observed.slots[rollout.candidate.slot].revision is not None:
                return Retire(rollout.candidate.slot)
            return Save(_taken_back(record, rollout, now), "taken back")


def _make_capacity(record: Record, rollout: Rollout, observed: Observed, weights: Weights, now: datetime) -> Action:
    """Traffic goes only where something is ready to take it."""
    stable = rollout.stable
    if stable is None:
        return _save(record, _phase(rollout, Phase.REVERT_TRAFFIC, now), "there is nothing to go back to")
    status = observed.slots[stable.slot]
    if status.revision == stable.revision and status.ready > 0:
        return _save(record, _phase(rollout, Phase.REVERT_TRAFFIC, now), "the stable revision is ready")
    if rollout.intent.strategy is Strategy.RECREATE:
        # It cannot run twice in this direction either.
        if weights != CLOSED:
            return Route(CLOSED)
        if observed.slots[rollout.candidate.slot].revision is not None:
            return Retire(rollout.candidate.slot)
    if status.revision is None:
        return Apply(stable.slot, stable.revision, rollout.intent.replicas)
    return _wait(rollout.deadline, _not_ready(status, rollout.intent.replicas))


def _taken_back(record: Record, rollout: Rollout, now: datetime) -> Record:
    by_person = rollout.trigger in PERSONS
    result: Result = "rolled_back" if rollout.max_weight > 0 and not by_person else "aborted"
    outcome = events.outcome(rollout, result, rollout.why, now)
    ended = replace(record, rollout=None, last=outcome)
    if not by_person:
        ended = ended.holding(rollout.candidate.revision, now, rollout.why)
    if record.warm is not None and record.warm.placement.slot is rollout.candidate.slot:
        ended = ended.without_warm()
    told = [events.ended(rollout, outcome)]
    # A way back that was itself taken back leaves the traffic where the trouble is.
    if rollout.incident is not None and not by_person and rollout.intent.kind == "deploy":
        told.insert(0, events.incident_restored(rollout, now))
    return ended.telling(*told)


# Small words


def _save(record: Record, rollout: Rollout, why: str) -> Save:
    return Save(record.with_rollout(rollout), why)


def _phase(rollout: Rollout, phase: Phase, now: datetime) -> Rollout:
    """The deadline of a way back is one for all of it."""
    return rollout.entering(phase, now, rollout.deadline)


def _wait(until: datetime, why: str) -> Wait:
    return Wait(until, why)


def _weights(slot: Slot, percent: int) -> Weights:
    return Weights(percent, 100 - percent) if slot is Slot.BLUE else Weights(100 - percent, percent)


def _not_ready(status: SlotStatus, wanted: int) -> str:
    reasons = sorted({r.reason for r in status.replicas if r.state is not ReplicaState.READY and r.reason})
    return f"{status.ready} of {wanted} replicas ready" + (f": {'; '.join(reasons)}" if reasons else "")
