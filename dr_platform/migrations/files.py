"""Faults of all migration files of a catalog, found without a database.

Here: what ``drp catalog validate`` says of them. Not here: squawk, which is asked by the check ``lint``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dr_platform.catalog import Engine
from dr_platform.catalog.faults import WHOLE_FILE, Fault
from dr_platform.databases.port import SchemaStep
from dr_platform.databases.schema import MalformedMigrations, read_steps
from dr_platform.migrations import lint as rules

_ENGINES = {
    ".sql": Engine.POSTGRESQL,
    ".json": Engine.MONGODB,
    ".redis": Engine.REDIS,
    ".cql": Engine.SCYLLADB,
}


def migration_faults(root: Path) -> tuple[Fault, ...]:
    """Of every database's folder below a catalog, whether or not the rest of the catalog can be read."""
    folders = sorted((root / "databases").glob("*/migrations"))
    return tuple(fault for folder in folders for fault in _of_folder(folder, folder.relative_to(root).as_posix()))


def texts_of(steps: Sequence[SchemaStep]) -> dict[Path, str]:
    """The files of steps and of what takes them back."""
    paths = [path for step in steps for path in (step.path, *([step.undo.path] if step.undo else []))]
    return {path: path.read_text(encoding="utf-8-sig") for path in paths}


def _of_folder(folder: Path, shown: str) -> list[Fault]:
    try:
        steps = read_steps(folder)
    except MalformedMigrations as exc:
        remedy = "correct the file, its folder is read as a whole"
        return [Fault(f"{shown}/{file}", WHOLE_FILE, problem, remedy) for file, problem in exc.faults]
    engines = {_ENGINES[step.path.suffix] for step in steps}
    if len(engines) > 1:
        return [Fault(shown, WHOLE_FILE, "has files of several engines", "keep those of the database's own")]
    found = [fault for engine in engines for fault in rules.lint(engine, steps, texts_of(steps), nobody).faults]
    waivable = "rewrite it, or waive {} with a reason in the file"
    return [
        Fault(f"{shown}/{fault.file}", WHOLE_FILE, fault.message, waivable.format(fault.rule), fault.line or None)
        for fault in found
        if fault.rule != rules.WAIVER  # whether a waiver is used is known only where squawk is asked
    ]


def nobody(paths: Sequence[Path], *, transactional: bool) -> Sequence[rules.Fault]:
    """Stands where squawk is not asked."""
    del paths, transactional
    return ()
