"""What is remembered of a service between any two processes: its rollout record.

Here: the record's shape, its text form, and the changes that need no decision. Not here: where it
is kept (``runtime.port``), what is decided from it (``decide``, ``settle``) or who acts (``controller``).

Every deadline is an absolute time, so that whoever takes a rollout over goes on with the same
patience; everything a successor needs to finish or to revert is in here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from dr_platform.catalog.models import Strategy
from dr_platform.errors import PlatformError
from dr_platform.rollout.strategy import Step
from dr_platform.runtime.port import RecordVersion, Revision, Runtime, Slot, StaleRecord, StoredRecord, Weights

KEPT_REVISIONS = 5
"""So many revisions that were stable are remembered as known to be good here."""
KEPT_HOLDS = 20
_CHANGE_TRIES = 20


@dataclass(frozen=True)
class Placement:
    """A revision in a slot."""

    slot: Slot
    revision: Revision


class Phase(StrEnum):
    """Where an open rollout stands. Forward: capacity, smoke tests at weight 0, then shift and bake
    for each step, then scale-down. Backward: capacity, traffic, verification, scale-down."""

    PREPARE = "prepare"
    SMOKE = "smoke"
    SHIFT = "shift"
    BAKE = "bake"
    FINALIZE = "finalize"
    REVERT_CAPACITY = "revert-capacity"
    REVERT_TRAFFIC = "revert-traffic"
    REVERT_VERIFY = "revert-verify"
    REVERT_SCALE = "revert-scale"
    STUCK = "stuck"
    """It could not be reverted: a person is needed. Nothing more is done."""

    @property
    def reverting(self) -> bool:
        return self.value.startswith("revert") or self is Phase.STUCK


Result = Literal["promoted", "rolled_back", "aborted", "refused"]


@dataclass(frozen=True)
class Intent:
    """What somebody asked for. ``automatic`` is true for programs, which may not deploy what is held.

    A rollback is an intent too: to a revision that was stable here before, without bakes, but after
    the same smoke tests and under the same guards.
    """

    id: str
    kind: Literal["deploy", "rollback"]
    revision: Revision
    replicas: int
    strategy: Strategy
    steps: tuple[Step, ...]
    requested_by: str
    requested_at: datetime
    reason: str = ""
    automatic: bool = False
    release: str = ""
    incident: str | None = None
    """The incident that this rollback answers, where it was opened before."""


@dataclass(frozen=True)
class Smoke:
    """What the tests of a candidate at weight 0 said."""

    passed: bool
    why: str
    at: datetime


@dataclass(frozen=True)
class Rollout:
    """An open rollout. ``steps`` were fixed when it began; ``step`` is the index of the current one.

    ``evidence`` is the guard's sliding window (``window.Evidence``), so that judging continues after
    a change of the controller. ``served``, ``failed`` and ``exposed_s`` are the blast radius so far:
    requests answered by the candidate, those of them that failed, and seconds under traffic.
    """

    intent: Intent
    candidate: Placement
    stable: Placement | None
    phase: Phase
    entered_at: datetime
    deadline: datetime
    began_at: datetime
    driver: str
    step: int = 0
    bake_until: datetime | None = None
    extensions: int = 0
    synthetic: bool = False
    paused: str | None = None
    paused_by_person: bool = False
    command: Literal["abort", "promote"] | None = None
    commanded_by: str = ""
    smoke: Smoke | None = None
    evidence: dict[str, Any] | None = None
    max_weight: int = 0
    served: int = 0
    failed: int = 0
    exposed_s: float = 0.0
    first_failure_at: datetime | None = None
    trigger: str | None = None
    why: str = ""
    fired_literal: bool = False
    fired_guard: bool = False
    incident: str | None = None
    reverting_since: datetime | None = None
    restored_at: datetime | None = None

    @property
    def id(self) -> str:
        return self.intent.id

    def entering(self, phase: Phase, now: datetime, deadline: datetime) -> Rollout:
        return replace(self, phase=phase, entered_at=now, deadline=deadline)

    def back_in_time(self, by: timedelta) -> Rollout:
        """The same patience on a clock that was set back."""
        bake_until = self.bake_until - by if self.bake_until else None
        return replace(self, entered_at=self.entered_at - by, deadline=self.deadline - by, bake_until=bake_until)


@dataclass(frozen=True)
class Outcome:
    """How a rollout ended."""

    rollout: str
    kind: Literal["deploy", "rollback"]
    result: Result
    from_version: str | None
    to_version: str
    strategy: Strategy
    reason: str
    began_at: datetime
    ended_at: datetime
    incident: str | None = None
    automatic: bool = False
    served: int = 0
    """Requests that the candidate answered under traffic, and those of them that failed."""
    failed: int = 0
    revision: Revision | None = None
    """What was asked for; ``None`` in records of before this was kept."""
    ended_by: str = ""
    """Who had it taken back; empty where nobody did."""

    @property
    def as_asked(self) -> bool:
        return self.result == ("promoted" if self.kind == "deploy" else "rolled_back")


@dataclass(frozen=True)
class Warm:
    """The revision before the stable one, kept running so that going back takes a moment."""

    placement: Placement
    until: datetime


@dataclass(frozen=True)
class Watch:
    """What was seen of the stable revision since its promotion, while the one before is kept warm.

    ``evidence`` is a ``window.Evidence`` whose candidate is the stable slot and whose stable version is
    the warm one, which is only probed. ``compliant`` is the newest answer to the compliance test and
    ``not_compliant`` how many looks in a row it was false. What was done about it is in here too:
    ``asked`` is the intent that goes back, ``paged`` why a person was called; each happens once.
    """

    looked_at: datetime
    evidence: dict[str, Any]
    compliant: bool | None = None
    not_compliant: int = 0
    asked: str | None = None
    paged: str | None = None
    paged_at: datetime | None = None


@dataclass(frozen=True)
class Life:
    """One run of one replica: a replica of that name that started at another time is another life."""

    replica: str
    started_at: datetime | None


@dataclass(frozen=True)
class Restart:
    """Replicas of the stable revision that are being started anew where they are, one after the other.

    ``old`` are those that ran when it was asked for; whatever else runs there is new. ``current`` is the
    one under way; it and every other has ``each_s`` seconds, until ``deadline``. ``tidied`` is true when
    the slot was told once more, after the last of them, what it shall run.
    """

    id: str
    placement: Placement
    replicas: int
    old: tuple[Life, ...]
    each_s: float
    requested_by: str
    requested_at: datetime
    deadline: datetime
    reason: str = ""
    current: str | None = None
    tidied: bool = False


@dataclass(frozen=True)
class Restarted:
    """How a restart ended; ``done`` is false where replicas were left as they were."""

    restart: str
    version: str
    done: bool
    why: str
    began_at: datetime
    ended_at: datetime


@dataclass(frozen=True)
class Hold:
    """A revision that was rolled back: no program deploys it again, a person may."""

    revision: Revision
    at: datetime
    why: str


@dataclass(frozen=True)
class Deployed:
    """A version that somebody deployed on top of a release; it counts until the next release."""

    version: str
    release: str


@dataclass(frozen=True)
class Event:
    """Something to be copied to the operations database once it answers. ``key`` makes the copy
    idempotent."""

    key: str
    kind: str
    subject: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Record:
    """One service's record. ``stable`` is ``None`` before the first deployment has succeeded.

    ``epoch`` is the fencing token of whoever acts: it rises on takeover only, and every route change
    carries it.
    """

    service: str
    epoch: int = 1
    stable: Placement | None = None
    rollout: Rollout | None = None
    queued: Intent | None = None
    warm: Warm | None = None
    watch: Watch | None = None
    deployed: Deployed | None = None
    last: Outcome | None = None
    restart: Restart | None = None
    restarted: Restarted | None = None
    known_good: tuple[Revision, ...] = ()
    holds: tuple[Hold, ...] = ()
    automatic_rollbacks: tuple[datetime, ...] = ()
    outbox: tuple[Event, ...] = field(default=())

    def with_stable(self, placement: Placement | None) -> Record:
        good = self.known_good
        if placement is not None:
            good = (placement.revision, *(r for r in good if r != placement.revision))[:KEPT_REVISIONS]
        watch = self.watch if placement == self.stable else None
        return replace(self, stable=placement, known_good=good, watch=watch)

    def with_rollout(self, rollout: Rollout | None) -> Record:
        return replace(self, rollout=rollout)

    def keeps_warm(self, slot: Slot, now: datetime) -> bool:
        return self.warm is not None and self.warm.placement.slot is slot and now < self.warm.until

    def without_warm(self) -> Record:
        """Nothing is kept to go back to at once, so that there is nothing to watch for either."""
        return replace(self, warm=None, watch=None)

    def holding(self, revision: Revision, at: datetime, why: str) -> Record:
        kept = [h for h in self.holds if h.revision != revision]
        return replace(self, holds=(Hold(revision, at, why), *kept)[:KEPT_HOLDS])

    def is_held(self, revision: Revision) -> bool:
        return any(hold.revision == revision for hold in self.holds)

    def telling(self, *events: Event) -> Record:
        known = {event.key for event in self.outbox}
        return replace(self, outbox=(*self.outbox, *(e for e in events if e.key not in known)))

    def to_text(self) -> str:
        return _RECORD.dump_json(self).decode()

    @classmethod
    def from_text(cls, text: str) -> Record:
        return _RECORD.validate_json(text)


_RECORD: TypeAdapter[Record] = TypeAdapter(Record)


def stable_weights(rollout: Rollout) -> Weights:
    """Where all traffic goes when the rollout is taken back: nowhere, without a stable revision."""
    return Weights.all_to(rollout.stable.slot) if rollout.stable else Weights(0, 0)


@dataclass(frozen=True)
class Held:
    """A record as it was read, with the version that a change must name."""

    record: Record
    version: RecordVersion | None


class SpoiledRecord(PlatformError):
    def __init__(self, service: str) -> None:
        super().__init__(service)
        self.what = f"{service}: what is remembered of its rollouts cannot be read"
        self.untouched = f"the record, the routes and the replicas of {service}"
        self.next_step = "put it right where the runtime keeps its records: locally `runtime.db` in the state folder"


def read(runtime: Runtime, service: str) -> Held:
    """The stored record, or a new one that no writer has created yet. Raises ``SpoiledRecord``."""
    stored: StoredRecord | None = runtime.read_record(service)
    if stored is None:
        return Held(Record(service), None)
    try:
        return Held(Record.from_text(stored.body), stored.version)
    except ValidationError:
        raise SpoiledRecord(service) from None  # the cause quotes the record


def save(runtime: Runtime, held: Held, record: Record) -> Held:
    """Store ``record`` over the version that was read; raises ``StaleRecord`` when it has moved."""
    return Held(record, runtime.write_record(record.service, record.to_text(), held.version))


def change(runtime: Runtime, service: str, edit: Callable[[Record], Record]) -> Record:
    """Apply ``edit`` to whatever is stored, read anew after each lost race; ``edit`` may raise to
    refuse. Raises ``StaleRecord`` when so many others write that it never has its turn."""
    for _ in range(_CHANGE_TRIES):
        held = read(runtime, service)
        edited = edit(held.record)
        if edited == held.record:
            return edited
        try:
            return save(runtime, held, edited).record
        except StaleRecord:
            continue
    raise StaleRecord(service)
