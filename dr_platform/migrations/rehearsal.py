"""Trying a change on a copy first: how long it takes, what it locks, and whether there is a way back.

Here: the order of trying, the report, and the port to where copies come from. Not here: making a copy. A source may
give one of the live server, or a backup that was restored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from dr_platform.clock import Clock
from dr_platform.databases.port import ManagedDatabase, SchemaStep
from dr_platform.errors import PlatformError
from dr_platform.migrations.drift import Drift, drift
from dr_platform.verdict import Measure, Progress, silent


class Clone(Protocol):
    """A copy that nobody else uses. ``how`` says in words what it was made of."""

    @property
    def db(self) -> ManagedDatabase: ...

    @property
    def how(self) -> str: ...

    def locks_during(self, act: Callable[[], object]) -> tuple[str, ...]:
        """Run ``act`` and say which table locks the runner was seen with, by a second connection; nothing on
        engines without any. What ``act`` raises is raised."""


CloneSource = Callable[[], AbstractContextManager[Clone]]
"""Opens a copy that is gone when its context ends, also after a failure."""


@dataclass(frozen=True)
class Rehearsed:
    """``undone`` is ``None`` where there is no undo file or a newer step could not be taken back; ``left`` is
    what the undo did not restore."""

    version: str
    duration_ms: float
    locks: tuple[str, ...]
    undone: bool | None = None
    left: Drift | None = None
    failure: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "duration_ms": round(self.duration_ms, 3),
            "locks": list(self.locks),
            "undone": self.undone,
            "left_behind": self.left.describe() if self.left else "",
            "failure": self.failure,
        }


@dataclass(frozen=True)
class Rehearsal:
    """``same_after_undo``: whether the schema is what it was before the first step; ``None`` where not every
    step could be taken back."""

    database: str
    how: str
    steps: tuple[Rehearsed, ...]
    same_after_undo: bool | None

    @property
    def passed(self) -> bool:
        return self.same_after_undo is not False and not any(s.failure or s.undone is False for s in self.steps)

    def measurements(self) -> dict[str, Measure]:
        return {"steps": len(self.steps), "duration_ms": round(sum(step.duration_ms for step in self.steps), 3)}

    def describe(self) -> str:
        failed = [f"{step.version}: {step.failure}" for step in self.steps if step.failure]
        if failed:
            return "; ".join(failed)
        left = [f"{s.version} leaves {s.left.describe()}" for s in self.steps if s.left]
        back = {True: "all taken back, schema as before", False: "; ".join(left), None: "not all can be taken back"}
        return f"{len(self.steps)} steps on a copy ({self.how}); {back[self.same_after_undo]}"

    def as_json(self) -> dict[str, Any]:
        return {
            "database": self.database,
            "clone": self.how,
            "passed": self.passed,
            "same_after_undo": self.same_after_undo,
            "steps": [step.as_json() for step in self.steps],
        }


def rehearse(source: CloneSource, steps: Sequence[SchemaStep], clock: Clock, progress: Progress = silent) -> Rehearsal:
    """Apply the steps to a copy one by one, then take them back, newest first, as far as they can be."""
    with source() as clone:
        name = clone.db.database.name
        progress(f"{name}: a copy is there ({clone.how})")
        shapes = [clone.db.shape()]
        tried: list[Rehearsed] = []
        for step in steps:
            tried.append(_forward(clone, step, clock))
            progress(f"{name}: {step.version} {tried[-1].failure or f'took {tried[-1].duration_ms:.0f} ms'}")
            if tried[-1].failure:
                return Rehearsal(name, clone.how, tuple(tried), None)
            shapes.append(clone.db.shape())
        for number in range(len(steps) - 1, -1, -1):
            if steps[number].undo is None:
                break
            tried[number] = _back(clone, steps[number], tried[number], shapes[number])
            if not tried[number].undone:
                break
        whole = tried[0].undone if tried else True
        if any(step.undone is False for step in tried):
            whole = False
        return Rehearsal(name, clone.how, tuple(tried), whole)


def _forward(clone: Clone, step: SchemaStep, clock: Clock) -> Rehearsed:
    started = clock.monotonic()
    try:
        locks = clone.locks_during(lambda: clone.db.apply(step))
    except PlatformError as exc:
        return Rehearsed(step.version, (clock.monotonic() - started) * 1000, (), failure=exc.what)
    return Rehearsed(step.version, (clock.monotonic() - started) * 1000, locks)


def _back(clone: Clone, step: SchemaStep, done: Rehearsed, before: tuple[str, ...]) -> Rehearsed:
    try:
        clone.db.undo(step)
    except PlatformError as exc:
        return Rehearsed(done.version, done.duration_ms, done.locks, undone=False, failure=f"undo: {exc.what}")
    left = drift(before, clone.db.shape())
    return Rehearsed(done.version, done.duration_ms, done.locks, undone=not left, left=left or None)
