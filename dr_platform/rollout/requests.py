"""Asking for a rollout, steering it, and following it to its end.

Here: what people, jobs and sensors write into a record, and how they watch what becomes of it. Not
here: acting on it (``controller``) or deciding (``decide``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from dr_platform.clock import Clock
from dr_platform.errors import ExitCode, PlatformError, TemporaryFailure
from dr_platform.rollout import record as records
from dr_platform.rollout.record import Intent, Outcome, Phase, Record, Rollout
from dr_platform.runtime.port import Revision, Runtime, RuntimeUnreachable
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
    said, moved, before = "", clock.monotonic(), None
    while True:
        each_look()
        record = _read(runtime, service, clock)
        if record is not None:
            if record.last is not None and record.last.rollout == intent:
                return record.last
            if record != before:
                before, moved = record, clock.monotonic()
            if (line := describe(record, intent)) != said:
                said = line
                progress(f"{service}: {line}")
            if record.rollout is not None and record.rollout.paused is not None:
                moved = clock.monotonic()
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
