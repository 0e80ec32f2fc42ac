"""What a change of a schema would do, said before it does anything.

Here: the plan as a value, its digest, the JSON of it. Not here: reading files or histories, or whether the plan may
be carried out (``lint``, ``gates``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from dr_platform.catalog import Engine
from dr_platform.databases.port import AppliedStep, SchemaStep
from dr_platform.databases.schema import MalformedMigrations, plan, undoing, version_key
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.migrations.effects import Effects, effects_of


class Direction(StrEnum):
    FORWARD = "forward"
    BACK = "back"


class UnknownVersion(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, version: str, known: tuple[str, ...]) -> None:
        super().__init__(name, version, known)
        self.what = f"{name}: there is no migration {version}"
        self.untouched = f"the schema of {name}"
        self.next_step = f"choose one of {', '.join(known)}" if known else "nothing is to be done"


@dataclass(frozen=True)
class PlannedStep:
    """``phase`` is the step's own, or ``undo`` where it is taken back."""

    step: SchemaStep
    phase: str
    effects: Effects

    def as_json(self) -> dict[str, Any]:
        return {
            "version": self.step.version,
            "description": self.step.description,
            "phase": self.phase,
            "locks": list(self.effects.locks),
            "destructive": self.effects.destructive,
        }


@dataclass(frozen=True)
class Plan:
    """``current`` and ``target`` are versions, ``None`` for an empty schema."""

    database: str
    direction: Direction
    current: str | None
    target: str | None
    steps: tuple[PlannedStep, ...]

    @property
    def destructive(self) -> bool:
        return any(planned.effects.destructive for planned in self.steps)

    def as_json(self) -> dict[str, Any]:
        return {"current": self.current, "target": self.target, "steps": [step.as_json() for step in self.steps]}

    def digest(self, environment: str) -> str:
        """Identifies exactly this change in an environment: another file, order or starting point is another."""
        steps = [[p.step.version, p.phase, p.step.checksum, *_undo_of(p)] for p in self.steps]
        told = json.dumps([environment, self.database, self.direction, self.current, self.target, steps])
        return "sha256:" + hashlib.sha256(told.encode()).hexdigest()


def _undo_of(planned: PlannedStep) -> tuple[str, ...]:
    return (planned.step.undo.checksum,) if planned.phase == "undo" and planned.step.undo else ()


def plan_forward(
    name: str,
    engine: Engine,
    steps: Sequence[SchemaStep],
    applied: Sequence[AppliedStep],
    texts: Mapping[Path, str],
    to: str | None = None,
) -> Plan:
    """Up to version ``to``, that included; without one, to the last. ``texts`` holds the files. Raises what
    ``databases.schema.plan`` raises."""
    missing = plan(name, steps, applied)
    if to is not None:
        missing = tuple(step for step in missing if version_key(step.version) <= version_key(to))
    current = _newest(applied)
    target = missing[-1].version if missing else current
    planned = tuple(PlannedStep(s, s.phase.value, _effects(name, engine, s.path, texts)) for s in missing)
    return Plan(name, Direction.FORWARD, current, target, planned)


def plan_back(
    name: str,
    engine: Engine,
    steps: Sequence[SchemaStep],
    applied: Sequence[AppliedStep],
    texts: Mapping[Path, str],
    count: int,
) -> Plan:
    """The newest ``count`` steps, newest first. Raises what ``undoing`` raises."""
    chosen = undoing(name, steps, applied, count)
    left = [record for record in applied if version_key(record.version) not in {version_key(s.version) for s in chosen}]
    planned = tuple(
        PlannedStep(step, "undo", _effects(name, engine, step.undo.path, texts)) for step in chosen if step.undo
    )
    return Plan(name, Direction.BACK, _newest(applied), _newest(left), planned)


def plan_to(
    name: str,
    engine: Engine,
    steps: Sequence[SchemaStep],
    applied: Sequence[AppliedStep],
    texts: Mapping[Path, str],
    version: str,
) -> Plan:
    """Forwards or back, so that ``version`` is the newest. Raises ``UnknownVersion``."""
    known = [step.version for step in steps]
    key = version_key(version)
    if key not in {version_key(each) for each in known}:
        raise UnknownVersion(name, version, tuple(known))
    newer = sum(version_key(record.version) > key for record in applied)
    if newer:
        return plan_back(name, engine, steps, applied, texts, newer)
    return plan_forward(name, engine, steps, applied, texts, version)


def _newest(applied: Sequence[AppliedStep]) -> str | None:
    return max((record.version for record in applied), key=version_key, default=None)


def _effects(name: str, engine: Engine, path: Path, texts: Mapping[Path, str]) -> Effects:
    try:
        return effects_of(engine, texts[path])
    except ValueError as exc:
        raise MalformedMigrations(name, ((path.name, str(exc)),)) from None
