"""A masking run over all databases: compare, plant, mask, search, judge, and take back what failed.

Here: the order of things and the report. Not here: any engine, keys and where they are kept, whom a run
is told to.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, assert_never

from dr_platform.catalog import Engine
from dr_platform.clock import Clock
from dr_platform.databases.port import SchemaStep
from dr_platform.masking.canaries import Canaries, search
from dr_platform.masking.classification import Classification, Unclassified, unclassified
from dr_platform.masking.people import Roster, RosterFile
from dr_platform.masking.port import Access, EngineMasking, Gate, Masked, Run
from dr_platform.masking.recipe import Profile, Recipe
from dr_platform.masking.seals import KeyRing
from dr_platform.verdict import Measure, Progress, silent

_ORDER = (Engine.POSTGRESQL, Engine.SCYLLADB, Engine.MONGODB, Engine.REDIS)
"""People first, then what links conversations to them, then whoever refers to both."""


@dataclass(frozen=True)
class Part:
    """One database of a run."""

    source: Access
    target: Access
    known: Classification
    steps: Sequence[SchemaStep]


@dataclass(frozen=True)
class Report:
    """What a run did and what it proved. ``databases`` are the targets by name of the database; they are
    gone unless ``passed``."""

    id: str
    profile: Profile
    key_id: str
    tables: Mapping[str, tuple[Masked, ...]]
    gates: tuple[Gate, ...]
    databases: Mapping[str, str]
    duration_s: float

    @property
    def passed(self) -> bool:
        return bool(self.gates) and all(gate.passed for gate in self.gates)

    @property
    def rows(self) -> int:
        return sum(one.rows for found in self.tables.values() for one in found)

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "profile": self.profile.value,
            "key_id": self.key_id,
            "passed": self.passed,
            "rows": self.rows,
            "duration_s": round(self.duration_s, 3),
            "databases": dict(self.databases) if self.passed else {},
            "tables": {name: [_table(one) for one in found] for name, found in self.tables.items()},
            "gates": [
                {"name": g.name, "passed": g.passed, "detail": g.detail, "counts": dict(g.counts)} for g in self.gates
            ],
        }

    def measurements(self) -> dict[str, Measure]:
        failed = sum(gate.passed is not True for gate in self.gates)
        return {"rows": self.rows, "duration_s": self.duration_s, "gates": len(self.gates), "gates_failed": failed}

    def describe(self) -> str:
        word = "masked" if self.passed else "masked, refused and removed"
        return f"{self.rows} rows of {len(self.tables)} databases {word}"


def _table(one: Masked) -> dict[str, Any]:
    return {
        "name": one.name,
        "rows": one.rows,
        "written": one.written,
        "unopened": one.unopened,
        "unowned": one.unowned,
    }


def engine_of(part: Part, opened: KeyRing, sealing: KeyRing) -> EngineMasking:
    """Connects to source and target; the caller closes it."""
    facts = (part.source, part.target, part.known, part.steps, opened, sealing)
    match part.source.database.engine:
        case Engine.POSTGRESQL:
            from dr_platform.masking.postgresql_run import PostgresMasking

            return PostgresMasking(*facts)
        case Engine.MONGODB:
            from dr_platform.masking.mongodb import MongoMasking

            return MongoMasking(*facts)
        case Engine.SCYLLADB:
            from dr_platform.masking.cql import CqlMasking

            return CqlMasking(*facts)
        case Engine.REDIS:
            from dr_platform.masking.redis_ import RedisMasking

            return RedisMasking(*facts)
        case _:
            assert_never(part.source.database.engine)


@dataclass(frozen=True)
class Order:
    """What is asked for. ``canaries`` are planted into an expendable source only; without them nothing
    is proved about leaks, and the run does not pass."""

    id: str
    recipe: Recipe
    opened: KeyRing = field(repr=False)
    sealing: KeyRing = field(repr=False)
    canaries: Canaries | None = None


@contextlib.contextmanager
def engines(parts: Sequence[Part], order: Order) -> Generator[list[tuple[Part, EngineMasking]]]:
    """All parts in the order in which they are masked, each connected."""
    with contextlib.ExitStack() as stack:
        found = []
        for part in sorted(parts, key=lambda p: _ORDER.index(p.source.database.engine)):
            engine = engine_of(part, order.opened, order.sealing)
            stack.callback(engine.close)
            found.append((part, engine))
        yield found


def refuse(found: Sequence[tuple[Part, EngineMasking]]) -> None:
    """Everything for which the run cannot begin. Writes nothing. Raises ``Unclassified`` with every column
    of every database, then what an engine raises."""
    missing = [name for part, engine in found for name in unclassified(engine.name, engine.schema(), part.known)]
    if missing:
        raise Unclassified(tuple(missing))
    for _, engine in found:
        engine.refuse_problems()


def mask(parts: Sequence[Part], order: Order, clock: Clock, progress: Progress = silent) -> Report:
    """Mask every part into its new target. Whatever is raised, and whenever a gate does not pass, every
    target is removed again; a repetition begins anew."""
    began = clock.monotonic()
    with engines(parts, order) as found, tempfile.TemporaryDirectory(prefix="drp-mask-") as folder:
        refuse(found)
        try:
            tables, gates = _carried_out(found, order, RosterFile.new(Path(folder)), progress)
        except BaseException:
            _discard(found)
            raise
        databases = {engine.name: engine.into for _, engine in found}
        report = Report(
            order.id, order.recipe.profile, order.recipe.key_id, tables, gates, databases, clock.monotonic() - began
        )
        if not report.passed:
            progress("a gate did not pass: every target is removed")
            _discard(found)
        return report


def _discard(found: Sequence[tuple[Part, EngineMasking]]) -> None:
    with contextlib.ExitStack() as stack:  # one that fails must not keep the others
        for _, engine in found:
            stack.callback(engine.discard)


def _carried_out(
    found: Sequence[tuple[Part, EngineMasking]], order: Order, file: RosterFile, progress: Progress
) -> tuple[dict[str, tuple[Masked, ...]], tuple[Gate, ...]]:
    planted = 0
    if order.canaries is not None:
        planted = sum(engine.plant(order.canaries) for _, engine in found)
        progress(f"{planted} canaries planted")
    with contextlib.closing(Roster(file)) as roster:
        for _, engine in found:
            engine.fill(roster)
    run = Run(order.recipe, file, order.opened, order.sealing, progress)
    tables: dict[str, tuple[Masked, ...]] = {}
    for _, engine in found:
        engine.make_target()
        tables[engine.name] = engine.mask(run)
    gates = [gate for _, engine in found for gate in engine.gates(tables[engine.name])]
    gates += [_canary_gate(engine, order.canaries, planted) for _, engine in found]
    return tables, tuple(gates)


def _canary_gate(engine: EngineMasking, canaries: Canaries | None, planted: int) -> Gate:
    name = f"{engine.name}: canaries"
    if canaries is None or not planted:
        return Gate(name, None, "could not look: no canary was planted into the source")
    looked_at, sightings = search(engine.stored_texts(), canaries)
    places = sorted({sighting.place for sighting in sightings})
    counts = {"planted": planted, "values": looked_at, "found": len(sightings)}
    return Gate(name, not sightings, f"found in {', '.join(places)}" if places else "none found", counts)
