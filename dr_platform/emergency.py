"""The emergency procedure of the deployment guide as one act: maintenance mode, assess, mitigate, communicate,
resolve, post-mortem draft.

Here: the order of the steps, what is mitigated how, and going on after a stop. Not here: how a service is
suspended (``maintenance``), looked at (``health``) or taken back (``delivery``, the controller).

Every step is written into the incident as an action right after it was taken, under a key of its own, and a
step that stands there is not taken again. One that was taken and not written is: every step compares what is with
what is wanted, so that this changes nothing. Whoever repeats the command, or starts the job anew, goes on with
the emergency of the same scope that was not finished, whoever had begun it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any, assert_never

from dr_platform import delivery, maintenance
from dr_platform.errors import PlatformError, TemporaryFailure
from dr_platform.evidence import RefusedEvidence
from dr_platform.health import looks, service_verdict
from dr_platform.incidents import (
    Action,
    ActionTaken,
    BreachNotAssessed,
    BrokenIncident,
    Decision,
    Detection,
    Incident,
    Opened,
    StateAtFire,
    Status,
    TriggerKind,
)
from dr_platform.incidents.draft import review_draft
from dr_platform.look import Look
from dr_platform.maintenance import TEXT, TITLE, Order
from dr_platform.objects import AlreadyExists, local_objects
from dr_platform.operations import OperationsUnavailable
from dr_platform.platform import Platform
from dr_platform.release_delivery import running_release, webhook
from dr_platform.remediation import HEALTHY, below
from dr_platform.rollout import record as records
from dr_platform.rollout.record import Outcome, Phase, Record
from dr_platform.rollout.requests import RolloutRefused, follow, steer
from dr_platform.runtime.notice import Notice
from dr_platform.runtime.port import UnknownService
from dr_platform.verdict import Progress, Verdict, silent
from dr_platform.watch import is_cadenced, look_at_all

TRIGGER = "emergency"
EVERYTHING = "ALL"
"""The scope of an emergency of the whole platform; names of services are in lower case."""
RETRY_AFTER_S = 1800
ASSESS_S = 20.0
VERIFY_FOR = timedelta(seconds=60)
"""A service that has just gone back needs a moment to say that it is well."""
REPEATED = timedelta(minutes=10)
"""The same call within this time after its end is a repetition, and changes nothing."""
TELLING_S = 10.0
"""So long a controller may take to write what it has done into the incident."""
_LOOK_EVERY_S = 2.0
_LABEL = 300


class Step(StrEnum):
    """In this order; the names are those of the actions in the incident."""

    SUSPEND = "maintenance-on"
    ASSESS = "assess"
    MITIGATE = "mitigate"
    COMMUNICATE = "communicate"
    REOPEN = "maintenance-off"
    RESOLVE = "resolve"
    DRAFT = "post-mortem-draft"


class NotWell(PlatformError):
    """Callers are kept out until it is: maintenance mode is not ended over something unhealthy."""

    def __init__(self, incident: str, ill: Mapping[str, str], repeat: str) -> None:
        super().__init__(incident, ill, repeat)
        self.what = f"{incident}: not resolved: " + "; ".join(f"{name}: {why}" for name, why in ill.items())
        self.untouched = "maintenance mode, which stays on, and the incident, which stays open"
        self.next_step = f"mend what is named, then {repeat}: it goes on from here"


class Unrecorded(TemporaryFailure):
    """The evidence log is part of the trouble: callers are kept out all the same."""

    def __init__(self, scope: str, suspended: tuple[str, ...], problems: tuple[str, ...], repeat: str) -> None:
        super().__init__(scope, suspended, problems, repeat)
        self.what = (
            f"{scope}: no incident could be opened, the evidence log does not answer; "
            f"suspended: {', '.join(suspended) or 'nothing'}" + "".join(f"; {problem}" for problem in problems)
        )
        self.untouched = "every version that runs; nothing was taken back"
        self.next_step = f"bring the operations database up (`drp doctor`), then {repeat}: it goes on from here"


@dataclass(frozen=True)
class Call:
    """Who calls the emergency, about what, and why. ``scope`` is a service or ``EVERYTHING``. A security
    emergency takes back what was promoted last although it looks healthy, and opens a breach assessment."""

    scope: str
    reason: str
    actor: str
    kind: TriggerKind = TriggerKind.MANUAL

    @property
    def repeat(self) -> str:
        return "`drp emergency --all`" if self.scope == EVERYTHING else f"`drp emergency {self.scope}`"


@dataclass(frozen=True)
class Handled:
    """What became of an emergency. ``waits`` says what only a person can add; it is empty at the end."""

    incident: str
    status: Status
    steps: tuple[tuple[str, str], ...]
    waits: str = ""

    @property
    def done(self) -> bool:
        return not self.waits

    def as_json(self) -> dict[str, Any]:
        steps = [{"step": name, "result": result} for name, result in self.steps]
        return {"incident": self.incident, "status": self.status.value, "steps": steps, "waits": self.waits or None}


def handle(platform: Platform, call: Call, progress: Progress = silent) -> Handled:
    """Take the steps that were not taken yet. Raises ``UnknownService`` and ``RefusedEvidence`` before anything
    is changed, ``NotWell`` where it cannot be resolved, ``Unrecorded`` while there is no evidence log, and
    ``NobodyActs`` where no controller takes a service back; repeated, it goes on."""
    order = Order(call.actor, call.reason)
    targets = scope_of(platform, call.scope)
    try:
        incident = _opened(platform, call)
    except OperationsUnavailable:
        raise _unrecorded(platform, call, order) from None
    procedure = _Procedure(platform, call, order, targets, incident, progress)
    return procedure.run()


def scope_of(platform: Platform, scope: str) -> tuple[str, ...]:
    """The services that are meant. Raises ``UnknownService`` also for what was never brought up."""
    declared = platform.runtime.declared()
    for name in _kept_out(platform, scope):
        if name not in declared:
            raise UnknownService(name, tuple(sorted(declared)))
    return tuple(sorted(declared)) if scope == EVERYTHING else (scope,)


def _kept_out(platform: Platform, scope: str) -> tuple[str, ...]:
    """Where callers are turned away: at the service itself, else at all doors."""
    return maintenance.every_public(platform.catalog) if scope == EVERYTHING else (scope,)


def _unrecorded(platform: Platform, call: Call, order: Order) -> Unrecorded:
    changes = maintenance.begin(
        platform.runtime, platform.evidence, _kept_out(platform, call.scope), _notice(), order
    )  # fmt: skip
    suspended = tuple(change.service for change in changes if change.done)
    problems = tuple(problem for change in changes if not change.done for problem in change.problems)
    return Unrecorded(call.scope, suspended, problems, call.repeat)


def _notice() -> Notice:
    return Notice(TITLE, TEXT, RETRY_AFTER_S)


# The incident


def same_call(incidents: Iterable[Incident], environment: str, call: Call, now: datetime) -> Incident | None:
    """The emergency that a call goes on with: the one of its scope that was not brought to its end, else one
    that has just ended and was called for the same reason, by somebody who did not live to see it."""
    place = (TRIGGER, environment, call.scope)
    about = [i for i in incidents if (i.detection.trigger, i.environment, i.service) == place]
    if open_ := [i for i in about if i.status is not Status.CLOSED and next_step(i) is not None]:
        return open_[0]
    return next((i for i in about if i.detection.rule == call.reason and now - i.written_at < REPEATED), None)


def next_step(incident: Incident) -> Step | None:
    """The first step that is not in the record."""
    taken = {action.name for action in incident.actions}
    return next((step for step in Step if step not in taken), None)


def _opened(platform: Platform, call: Call) -> Incident:
    environment, prefix = platform.environment.name, f"inc-emergency-{call.scope}-"
    opened = {entry.subject for entry in platform.evidence.entries(kind=Opened.KIND)}
    earlier = sorted(s for s in opened if s.startswith(prefix) and s.removeprefix(prefix).isdecimal())
    if (found := same_call(_readable(platform, earlier), environment, call, platform.clock.now())) is not None:
        return found
    # Two that call at once count the same, so that they open one incident.
    incident = f"{prefix}{len(earlier) + 1}"
    opening = Opened(
        service=call.scope,
        environment=environment,
        detection=Detection(trigger=TRIGGER, kind=call.kind, rule=call.reason, fired_at=platform.clock.now()),
        state_at_fire=_state(platform, call.scope),
        decision=Decision(mode="maintenance", automatic=False, break_glass_reason=call.reason),
    )
    return platform.incidents.open(incident, opening, call.actor)


def _readable(platform: Platform, subjects: Iterable[str]) -> Iterator[Incident]:
    """A record that somebody has spoiled keeps nobody from calling an emergency."""
    for subject in subjects:
        with suppress(BrokenIncident):
            yield platform.incidents.show(subject)


def _state(platform: Platform, scope: str) -> StateAtFire:
    """Only of one service: the state of all is what ``assess`` finds."""
    if scope == EVERYTHING:
        return StateAtFire()
    with suppress(PlatformError):  # the record of an emergency does not wait for what may be its cause
        observed = platform.runtime.observe(scope)
        weights = {slot.value: observed.weights.of(slot) for slot in observed.slots} if observed.weights else {}
        replicas = {slot.value: status.ready for slot, status in observed.slots.items()}
        return StateAtFire(weights=weights, replicas=replicas)
    return StateAtFire()


# What is done about a service


@dataclass(frozen=True)
class GoBack:
    """Ask for the version before."""


@dataclass(frozen=True)
class TakeBack:
    """Abort the open rollout, which is the last change, and wait until it has gone."""

    rollout: str


@dataclass(frozen=True)
class Await:
    """What is under way leads back already."""

    rollout: str


@dataclass(frozen=True)
class Leave:
    why: str


Mitigation = GoBack | TakeBack | Await | Leave


def mitigation(record: Record, healthy: bool | None, kind: TriggerKind) -> Mitigation:
    """What to do about one service. Equal arguments give equal answers. What changed last is taken back,
    where it can be the cause; a service that could not be looked at is not changed in the dark."""
    rollout = record.rollout
    if rollout is not None and rollout.phase is Phase.STUCK:
        return Leave(f"its last rollout is stuck half-way, see `drp rollout show {record.service}`")
    if rollout is not None:
        back = rollout.phase.reverting or rollout.intent.kind == "rollback"
        return Await(rollout.id) if back else TakeBack(rollout.id)
    if record.queued is not None and record.queued.kind == "rollback":
        return Await(record.queued.id)
    if not kind.presumes_breach and healthy is not False:
        return Leave("healthy by its checks" if healthy else "could not be looked at, and is not changed in the dark")
    last = record.last
    if last is None or last.kind != "deploy" or last.result != "promoted":
        return Leave("no deployment was its last change, so that going back would mend nothing")
    return GoBack()


# The procedure


@dataclass
class _Procedure:
    platform: Platform
    call: Call
    order: Order
    targets: tuple[str, ...]
    incident: Incident
    progress: Progress

    def run(self) -> Handled:
        acts: Mapping[Step, Callable[[], None]] = {
            Step.SUSPEND: self._suspend,
            Step.ASSESS: self._assess,
            Step.MITIGATE: self._mitigate,
            Step.COMMUNICATE: self._communicate,
            Step.REOPEN: self._reopen,
            Step.RESOLVE: self._resolve,
            Step.DRAFT: self._draft,
        }
        waits = ""
        for step in Step:
            if self._taken(step) is None:
                self.progress(f"{self.incident.id}: {step.value}")
                try:
                    acts[step]()
                except BreachNotAssessed as exc:  # a signature is a person's; everything else goes on
                    waits = f"{exc.what}; {exc.next_step}"
        steps = tuple((a.name, a.result) for a in self.incident.actions if a.name in set(Step))
        return Handled(self.incident.id, self.incident.status, steps, waits)

    def _taken(self, step: Step) -> Action | None:
        return next((action for action in self.incident.actions if action.name == step), None)

    def _write(
        self,
        step: str,
        about: str,
        result: str,
        *,
        before: Mapping[str, str] = MappingProxyType({}),
        after: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        now = self.platform.clock.now()
        action = Action(at=now, name=step, object=about, result=_label(result), before=before, after=after)
        key = step if about == self.call.scope else f"{step}:{about}"
        self.incident = self.platform.incidents.append(
            self.incident.id, key, ActionTaken(action=action), self.call.actor
        )  # fmt: skip

    def _suspend(self) -> None:
        wanted = _kept_out(self.platform, self.call.scope)
        before = {name: "suspended" if self._ordered_before(name) else "open" for name in wanted}
        changes = maintenance.begin(self.platform.runtime, self.platform.evidence, wanted, _notice(), self.order)
        after = {change.service: "suspended" if change.done else "not seen to be" for change in changes}
        failed = [name for name, state in after.items() if state != "suspended"]
        result = f"{len(after) - len(failed)} of {len(after)} suspended"
        result += f"; could not suspend {', '.join(failed)}" if failed else ""
        self._write(Step.SUSPEND, self.call.scope, result, before=before, after=after)

    def _ordered_before(self, name: str) -> bool:
        """Whether somebody had it suspended when the emergency began, and so will end that. What is suspended
        now says nothing: after a stop, it was us."""
        orders = ("maintenance-on", "maintenance-off")
        entries = (e for e in self.platform.evidence.entries(subject=name) if e.kind in orders)
        kinds = [entry.kind for entry in entries if entry.at < self.incident.opened_at]
        return kinds[-1:] == ["maintenance-on"]

    def _assess(self) -> None:
        found = look_at_all(_about(self.platform, self.targets, self.call.scope), self.platform.clock, ASSESS_S)
        state = {"/".join(look.asset): _label(_said(verdict)) for look, verdict in found}
        changed = {f"changed {name}": _label(last_change(self._record(name))) for name in self.targets}
        bad = sum(verdict.passed is False for _, verdict in found)
        blind = sum(verdict.passed is None for _, verdict in found)
        result = f"{bad} of {len(found)} unhealthy, {blind} could not be looked at; release {self._release()}"
        try:
            self._write(Step.ASSESS, self.call.scope, result, after={**state, **changed})
        except RefusedEvidence:  # something quotes what the log does not take; the counts hold nothing
            self._write(Step.ASSESS, self.call.scope, result)

    def _record(self, name: str) -> Record:
        return records.read(self.platform.runtime, name).record

    def _release(self) -> str:
        try:
            return running_release(self.platform)
        except PlatformError:
            return "unknown"

    def _mitigate(self) -> None:
        health = {name: verdict.passed for name, verdict in self._health().items()}
        results = {name: self._mitigated(name, health[name]) for name in self.targets}
        back = [name for name, result in results.items() if result.startswith("went back")]
        left = [f"{name}: {result}" for name, result in results.items() if name not in back]
        told = f"{len(back)} went back" + (f": {', '.join(back)}" if back else "")
        if left:
            told += f"; {left[0]}" if len(self.targets) == 1 else f"; {len(left)} left as they are"
        self._write(Step.MITIGATE, self.call.scope, told, after={name: _label(r) for name, r in results.items()})

    def _mitigated(self, name: str, healthy: bool | None) -> str:
        step = f"{Step.MITIGATE.value} {name}"
        known = next((action.result for action in self.incident.actions if action.name == step), None)
        if known is not None:
            return known
        result = self._act(name, healthy)
        self._await_telling(name)
        self._write(step, name, result)
        return result

    def _await_telling(self, name: str) -> None:
        """What the controller tells of a rollback belongs before the draft; nothing waits for it for long."""
        clock = self.platform.clock
        until = clock.monotonic() + TELLING_S
        while any(e.subject == self.incident.id for e in self._record(name).outbox) and clock.monotonic() < until:
            clock.sleep(1.0)
        self.incident = self.platform.incidents.show(self.incident.id)

    def _act(self, name: str, healthy: bool | None) -> str:
        intent_id = f"ro-{self.incident.id}-{name}"
        if delivery.knows(self._record(name), intent_id):
            return self._gone_back(name, intent_id)  # asked for before a stop
        match mitigation(self._record(name), healthy, self.call.kind):
            case GoBack():
                return self._gone_back(name, intent_id)
            case TakeBack(rollout):
                steer(self.platform.runtime, name, "abort", self.call.actor)
                return _ended(self._followed(name, rollout))
            case Await(rollout):
                return _ended(self._followed(name, rollout))
            case Leave(why):
                return f"not gone back: {why}"
            case other:
                assert_never(other)

    def _gone_back(self, name: str, intent_id: str) -> str:
        make = lambda: delivery.rollback(  # noqa: E731 - made only where it was not asked for before
            self.platform,
            name,
            requested_by=self.call.actor,
            reason=f"emergency: {self.call.reason}",
            incident=self.incident.id,
            intent_id=intent_id,
        )
        try:
            return _ended(delivery.carried_through(self.platform, name, intent_id, make, self.progress))
        except RolloutRefused as exc:
            return f"not gone back: {exc.what}"

    def _followed(self, name: str, rollout: str) -> Outcome:
        limit = delivery.FOLLOW_LIMIT_S
        return follow(self.platform.runtime, name, rollout, self.platform.clock, limit, self.progress)

    def _communicate(self) -> None:
        mitigated = self._taken(Step.MITIGATE)
        said = f"under way; {mitigated.result}" if mitigated else "under way"
        self._write(Step.COMMUNICATE, self.call.scope, self._told("communicate", said))

    def _told(self, occasion: str, said: str) -> str:
        hook = webhook(self.platform)
        if hook is None:
            return "no tracker is set up (secret webhooks/release-tracker): tell stakeholders yourself"
        incident, environment = self.incident.id, self.platform.environment.name
        statement = Statement(
            f"{incident}:{occasion}", incident, environment, self.call.scope, said, self.platform.clock.now()
        )  # fmt: skip
        told = hook.notify(statement)
        return "the tracker was told" if told.delivered else f"the tracker could not be told: {told.why}"

    def _reopen(self) -> None:
        """Only what is well is opened, and only what this emergency had closed."""
        if ill := self._ill():
            raise NotWell(self.incident.id, ill, self.call.repeat)
        suspended = self._taken(Step.SUSPEND)
        ours = {name for name, state in suspended.before.items() if state == "open"} if suspended else set()
        changes = maintenance.end(self.platform.runtime, self.platform.evidence, self.order, ours)
        if shut := {change.service: "; ".join(change.problems) for change in changes if not change.done}:
            raise NotWell(self.incident.id, shut, self.call.repeat)
        still = sorted(set(self.platform.runtime.suspensions()) & set(_kept_out(self.platform, self.call.scope)))
        kept = f"; {', '.join(still)} had been suspended before and stay so" if still else ""
        self._write(Step.REOPEN, self.call.scope, f"verified: all well; {len(ours)} open again{kept}")

    def _ill(self) -> dict[str, str]:
        clock = self.platform.clock
        until = clock.monotonic() + VERIFY_FOR.total_seconds()
        while ill := {name: _said(verdict) for name, verdict in self._health().items() if verdict.passed is not True}:
            if clock.monotonic() >= until:
                return ill
            self.progress(f"{self.incident.id}: waits for {', '.join(ill)}")
            clock.sleep(_LOOK_EVERY_S)
        return {}

    def _health(self) -> dict[str, Verdict]:
        with ThreadPoolExecutor(max_workers=8) as pool:
            verdicts = pool.map(lambda name: service_verdict(self.platform, name), self.targets)
            return dict(zip(self.targets, verdicts, strict=True))

    def _resolve(self) -> None:
        reason = f"verified by the health of {', '.join(self.targets[:5])}" + (" and others" * (len(self.targets) > 5))
        self.incident = self.platform.incidents.resolve(self.incident.id, reason, self.call.actor)
        self._write(Step.RESOLVE, self.call.scope, f"resolved; {self._told('resolved', 'resolved')}")

    def _draft(self) -> None:
        key, text = f"incidents/{self.incident.id}/review-draft.yaml", review_draft(self.incident)
        objects = local_objects(self.platform.state.objects)
        try:
            objects.put(key, text.encode())
        except AlreadyExists:  # made before a stop
            text = objects.get(key).decode()
        digest = hashlib.sha256(text.encode()).hexdigest()
        path = self.platform.state.objects / key
        self._write(Step.DRAFT, self.call.scope, f"complete {path}", after={"object": key, "sha256": digest})


@dataclass(frozen=True)
class Statement:
    """What stakeholders are told: names, counts and times, nothing of patients."""

    id: str
    incident: str
    environment: str
    scope: str
    said: str
    at: datetime

    def as_document(self) -> dict[str, Any]:
        return {**vars(self), "at": self.at.isoformat()}


def _about(platform: Platform, targets: Iterable[str], scope: str) -> list[Look]:
    """The diagnostic health checks: of everything, else of the service and of what it stands on."""
    assets = {("services", name) for name in targets}
    assets |= {asset for name in targets for asset in below(platform.catalog, ("services", name))}
    cheap = [look for look in looks(platform) if look.check == HEALTHY and is_cadenced(look)]
    return [look for look in cheap if scope == EVERYTHING or look.asset in assets]


def last_change(record: Record) -> str:
    """What changed a service last, in words."""
    if (rollout := record.rollout) is not None:
        return f"{rollout.intent.revision.version} is under way since {rollout.began_at:%Y-%m-%d %H:%M:%S} UTC"
    if (last := record.last) is None:
        return "nothing was deployed since it was brought up"
    return f"{last.to_version} {last.result.replace('_', ' ')} {last.ended_at:%Y-%m-%d %H:%M:%S} UTC"


def _ended(outcome: Outcome) -> str:
    if outcome.result in ("rolled_back", "aborted"):
        kept = outcome.to_version if outcome.kind == "rollback" else outcome.from_version
        return f"went back to {kept or 'nothing'}"
    return f"not gone back: {outcome.to_version} {outcome.result}: {outcome.reason}"


def _said(verdict: Verdict) -> str:
    word = {True: "good", False: "bad", None: "could not look"}[verdict.passed]
    return f"{word}: {verdict.why}"


def _label(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LABEL else f"{line[: _LABEL - 1]}…"
