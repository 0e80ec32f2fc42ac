"""Asking for a rollout, steering it, and following it to its end.

Here: what people, jobs and sensors write into a record, and how they watch what becomes of it. Not
here: acting on it (``controller``) or deciding (``decide``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from dr_platform.clock import Clock
from dr_platform.errors import ExitCode, PlatformError, TemporaryFailure
from dr_platform.rollout import record as records
from dr_platform.rollout.events import outcome_of
from dr_platform.rollout.record import (
    Intent,
    Life,
    Outcome,
    Phase,
    Placement,
    Record,
    Restart,
    Restarted,
    Rollout,
)
from dr_platform.runtime.port import Revision, Runtime, RuntimeUnreachable, SlotStatus
from dr_platform.verdict import Progress, silent

SERVICE_PERIOD = timedelta(minutes=30)
FLEET_PERIOD = timedelta(hours=1)
SERVICE_ROLLBACKS = 1
FLEET_ROLLBACKS = 3
"""Automatic rollbacks after promotion; what is above them needs a person."""
FOLLOW_S = 0.25
_AWAY_S = 60.0


class RolloutRefused(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, service: str, why: str, next_step: str) -> None:
        super().__init__(service, why, next_step)
        self.what = f"{service}: {why}"
        self.untouched = f"the traffic and both slots of {service}"
        self.next_step = next_step


class NobodyActs(TemporaryFailure):
    def __init__(self, service: str, seconds: float) -> None:
        super().__init__(service, seconds)
        self.what = f"{service}: its rollout did not move for {seconds:.0f} s; is the controller running?"
        self.untouched = "the request itself: it stays in the record and is carried on when a controller runs"
        self.next_step = "see `drp logs controller` and `drp rollout show`"


def knows(record: Record, intent: str) -> bool:
    """Whether it was asked for already: it waits, is under way, or was the last to end."""
    known = (
        record.queued and record.queued.id,
        record.rollout and record.rollout.id,
        record.last and record.last.rollout,
    )
    return intent in known


def _as_it_is(record: Record) -> Record:
    return record


def ask(runtime: Runtime, service: str, intent: Intent, first: Callable[[Record], Record] = _as_it_is) -> Record:
    """Write the intent for the controller. One that waits already is replaced; an open rollout is
    taken back first and this one follows it. ``first`` changes the record in the same write, or raises
    to refuse."""

    def edit(record: Record) -> Record:
        if knows(record, intent.id):
            return record  # asked already, perhaps answered: a follower that was started anew asks again
        if record.rollout is not None and record.rollout.phase is Phase.STUCK:
            raise RolloutRefused(
                service,
                "its last rollout is stuck half-way",
                f"see `drp rollout show {service}`, then `drp abort {service}`",
            )
        return replace(first(record), queued=intent)

    return records.change(runtime, service, edit)


def steer(
    runtime: Runtime, service: str, command: Literal["pause", "resume", "promote", "abort"], actor: str
) -> Record:
    """Pause, resume, promote or abort the open rollout. Abort outranks promote: the latter does not
    replace it."""

    def edit(record: Record) -> Record:
        rollout = record.rollout
        if rollout is None:
            raise RolloutRefused(service, "no rollout is open", f"see `drp rollout show {service}`")
        if rollout.phase.reverting and rollout.phase is not Phase.STUCK:
            raise RolloutRefused(service, "it is being taken back already", f"follow it: `drp rollout show {service}`")
        return record.with_rollout(_steered(rollout, command, actor))

    return records.change(runtime, service, edit)


def _steered(rollout: Rollout, command: str, actor: str) -> Rollout:
    match command:
        case "pause":
            return replace(rollout, paused=f"paused by {actor}", paused_by_person=True)
        case "resume":
            # What was waited for begins anew: no bake ends during a pause.
            return replace(rollout, paused=None, paused_by_person=False, extensions=0)
        case "promote":
            return rollout if rollout.command == "abort" else replace(rollout, command="promote", commanded_by=actor)
        case _:
            return replace(rollout, command="abort", commanded_by=actor)


def call_off(runtime: Runtime, service: str, intent: str, actor: str, now: datetime) -> Record:
    """End what was asked for under this identifier, wherever it stands: not begun it never begins, open
    it is taken back. What has ended, or is being taken back, stays as it is."""

    def edit(record: Record) -> Record:
        queued, rollout = record.queued, record.rollout
        if queued is not None and queued.id == intent:
            before = record.stable.revision.version if record.stable else None
            last = outcome_of(queued, before, "aborted", f"called off by {actor}", now, now)
            return replace(record, queued=None, last=replace(last, ended_by=actor))
        if rollout is None or rollout.id != intent or rollout.phase.reverting:
            return record
        return record.with_rollout(_steered(rollout, "abort", actor))

    return records.change(runtime, service, edit)


# Once more


def last_try(record: Record) -> tuple[Outcome, Revision]:
    """The rollout that did not end as asked, with its revision, to be asked for again. Raises
    ``RolloutRefused`` where there is none."""
    service, last = record.service, record.last
    if record.rollout is not None or record.queued is not None:
        raise RolloutRefused(service, "a rollout is open", f"follow it: `drp rollout show {service}`")
    if last is None or last.as_asked:
        why = "there was no rollout yet" if last is None else f"{last.to_version} was {last.result}, as asked"
        raise RolloutRefused(service, why, f"deploy a version: `drp deploy {service} --version …`")
    if last.revision is None:
        why = "its last rollout was written by an earlier version of this program, without its revision"
        raise RolloutRefused(service, why, f"deploy it: `drp deploy {service} --version {last.to_version}`")
    return last, last.revision


def restart(runtime: Runtime, service: str, wanted: Wanted) -> Restart:
    """Ask that the replicas of the stable revision are started anew, one after the other. Raises
    ``RolloutRefused`` while a rollout is open or another restart is under way."""
    observed = runtime.observe(service)

    def edit(record: Record) -> Record:
        if wanted.id in (record.restart and record.restart.id, record.restarted and record.restarted.restart):
            return record
        stable = _restartable(record)
        return replace(record, restart=wanted.of(stable, observed.slots[stable.slot]))

    made = records.change(runtime, service, edit).restart
    if made is None:
        raise RolloutRefused(service, "that restart has ended", f"see `drp rollout show {service}`")
    return made


def _restartable(record: Record) -> Placement:
    service, show = record.service, f"`drp rollout show {record.service}`"
    if record.rollout is not None or record.queued is not None:
        raise RolloutRefused(service, "a rollout is open", f"restart it when that has ended: {show}")
    if record.restart is not None:
        raise RolloutRefused(service, f"restart {record.restart.id} is under way", f"follow it: {show}")
    if record.stable is None:
        raise RolloutRefused(service, "nothing is stable here", f"deploy a version: `drp deploy {service} --version …`")
    return record.stable


@dataclass(frozen=True)
class Wanted:
    """A restart that is asked for; each replica has ``each_s`` seconds, its requests' end included."""

    id: str
    each_s: float
    by: str
    at: datetime
    reason: str = ""

    def of(self, placement: Placement, status: SlotStatus) -> Restart:
        return Restart(
            id=self.id,
            placement=placement,
            replicas=status.desired,
            old=tuple(Life(replica.name, replica.started_at) for replica in status.replicas),
            each_s=self.each_s,
            requested_by=self.by,
            requested_at=self.at,
            deadline=self.at + timedelta(seconds=self.each_s),
            reason=self.reason,
        )


# Going back


@dataclass(frozen=True)
class Target:
    """A revision to go back to, and what speaks against it; empty when nothing does."""

    revision: Revision | None
    against: tuple[str, ...]


def target_of(record: Record, version: str | None, usable: Callable[[Revision], str | None]) -> Target:
    """The newest other revision that was stable here, or the one of that version. ``usable`` tells
    what else speaks against a revision: its configuration is gone, a schema does not fit."""
    current = record.stable.revision if record.stable else None
    known = [r for r in record.known_good if r != current and version in (None, r.version)]
    if not known:
        missing = f"version {version} was never stable here" if version else "no other revision was stable here before"
        return Target(None, (missing,))
    refused: list[str] = []
    for revision in known:
        against = _against(record, revision, usable)
        if not against:
            return Target(revision, ())
        refused += against
    return Target(None, tuple(refused))


def _against(record: Record, revision: Revision, usable: Callable[[Revision], str | None]) -> list[str]:
    against = []
    if record.is_held(revision):
        against.append(f"{revision.version} was rolled back itself")
    if (reason := usable(revision)) is not None:
        against.append(f"{revision.version}: {reason}")
    return against


def over_budget(own: Iterable[datetime], fleet: Iterable[datetime], now: datetime) -> str | None:
    """Why no automatic rollback may be made now: ``own`` are those of the service, ``fleet`` of all."""
    lately = [at for at in own if now - at < SERVICE_PERIOD]
    if len(lately) >= SERVICE_ROLLBACKS:
        return f"it was rolled back {len(lately)} time within {SERVICE_PERIOD.seconds // 60} min"
    everywhere = [at for at in fleet if now - at < FLEET_PERIOD]
    if len(everywhere) >= FLEET_ROLLBACKS:
        return f"{len(everywhere)} services were rolled back within an hour"
    return None


# Following


def follow(
    runtime: Runtime,
    service: str,
    intent: str,
    clock: Clock,
    timeout_s: float,
    progress: Progress = silent,
    *,
    each_look: Callable[[], object] = lambda: None,
) -> Outcome:
    """Watch until the rollout of this intent has ended. Stopping to watch stops nothing, and an error
    of ``each_look`` stops it. Raises ``NobodyActs`` when the record does not change for ``timeout_s``:
    during a watch of any length its evidence changes with each look."""
    follower = Follower(runtime, service, intent, clock, timeout_s, progress)
    while True:
        each_look()
        if (outcome := follower.look()) is not None:
            return outcome
        clock.sleep(FOLLOW_S)


@dataclass
class Follower:
    """Watches one rollout, look by look, for whoever watches several at once."""

    runtime: Runtime
    service: str
    intent: str
    clock: Clock
    timeout_s: float
    progress: Progress = silent
    going_back: bool = field(init=False, default=False)
    """Whether it was being taken back at the last look: it will not end as asked."""
    _said: str = field(init=False, default="")
    _before: Record | None = field(init=False, default=None)
    _moved: float = field(init=False)

    def __post_init__(self) -> None:
        self._moved = self.clock.monotonic()

    def look(self) -> Outcome | None:
        """How it ended; ``None`` while it has not. Raises ``NobodyActs`` as ``follow`` does."""
        record = _read(self.runtime, self.service, self.clock)
        if record is not None:
            if record.last is not None and record.last.rollout == self.intent:
                return record.last
            self._note(record)
        if self.clock.monotonic() - self._moved > self.timeout_s:
            raise NobodyActs(self.service, self.timeout_s)
        return None

    def _note(self, record: Record) -> None:
        rollout = record.rollout
        waits = rollout is not None and rollout.paused is not None
        self.going_back = rollout is not None and rollout.id == self.intent and rollout.phase.reverting
        if record != self._before or waits:
            self._before, self._moved = record, self.clock.monotonic()
        if (line := describe(record, self.intent)) != self._said:
            self._said = line
            self.progress(f"{self.service}: {line}")


def follow_restart(
    runtime: Runtime, restart: Restart, service: str, clock: Clock, timeout_s: float, progress: Progress = silent
) -> Restarted:
    """Watch until a restart has ended. Raises ``NobodyActs`` as ``follow`` does."""
    said, before, moved = "", restart, clock.monotonic()
    while True:
        record = _read(runtime, service, clock)
        if record is not None and record.restarted is not None and record.restarted.restart == restart.id:
            return record.restarted
        now = record.restart if record is not None else None
        if now is not None and now != before:
            before, moved = now, clock.monotonic()
        if now is not None and now.current is not None and now.current != said:
            said = now.current
            progress(f"{service}: {said} is started anew")
        if clock.monotonic() - moved > timeout_s:
            raise NobodyActs(service, timeout_s)
        clock.sleep(FOLLOW_S)


def _read(runtime: Runtime, service: str, clock: Clock) -> Record | None:
    """``None`` while the runtime is away; the rollout goes on without us."""
    try:
        return records.read(runtime, service).record
    except RuntimeUnreachable:
        clock.sleep(FOLLOW_S)
        return None


def describe(record: Record, intent: str) -> str:
    """Where a rollout stands, in a line."""
    rollout = record.rollout
    if record.queued is not None and record.queued.id == intent:
        return "waits for the controller" if rollout is None else f"waits until {rollout.id} has ended"
    if rollout is None or rollout.id != intent:
        return "was replaced by a later request"
    steps = rollout.intent.steps
    at = f" {steps[rollout.step].weight} % (step {rollout.step + 1} of {len(steps)})"
    shown = at if rollout.phase in (Phase.SHIFT, Phase.BAKE) else ""
    extra = f"; {rollout.paused}" if rollout.paused else "; more time to judge" if rollout.extensions else ""
    why = f": {rollout.why}" if rollout.phase.reverting else ""
    return f"{rollout.intent.revision.version} {rollout.phase.value}{shown}{why}{extra}"
