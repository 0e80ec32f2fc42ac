"""Changing a database's schema: planned, judged, rehearsed, carried out, and compared afterwards.

Here: what joins the decisions of ``migrations`` with an environment's databases. Not here: the decisions, who agreed
to a change (``schema_approvals``), or data that is filled in batch by batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from dr_platform.backup_store import backup_age, newest_backup
from dr_platform.catalog import Engine
from dr_platform.data_filling import apply_steps
from dr_platform.databases.port import AppliedStep, ManagedDatabase, SchemaStep
from dr_platform.databases.schema import chosen, plan, read_steps, revert
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.migrations.drift import drift
from dr_platform.migrations.files import texts_of
from dr_platform.migrations.gates import require_backup
from dr_platform.migrations.lint import Judged, LintRefused, Squawk, lint
from dr_platform.migrations.planning import Direction, Plan, plan_back, plan_forward, plan_to
from dr_platform.migrations.rehearsal import CloneSource, Rehearsal, rehearse
from dr_platform.migrations.squawk import SquawkProgram
from dr_platform.platform import Platform
from dr_platform.schema_record import keep_points
from dr_platform.verdict import Measure, Progress, Verdict, silent


class UnknownDatabase(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(name, known)
        self.what = f"{name}: no such database in the catalog"
        self.untouched = "every database"
        self.next_step = f"choose one of {', '.join(known)}"


class PlanChanged(PlatformError):
    """Somebody else changed the schema, or a file, after the plan was shown."""

    exit_code = ExitCode.REFUSED

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.what = f"{name}: its schema or its files were changed after the plan was made"
        self.untouched = f"the schema of {name}"
        self.next_step = f"look at `drp migrate {name} --plan` again"


NewestBackup = Callable[[Platform, str], datetime | None]
"""When the newest verified backup of a database was taken; ``None`` where there is none."""


@dataclass(frozen=True)
class Safeguards:
    """What a change is held to. Backups are asked for where data is real, and where the environment says so."""

    newest_backup: NewestBackup = newest_backup
    backup_age: timedelta | None = None
    """Instead of what ``backup.yaml`` promises."""
    squawk: Squawk | None = None
    """Instead of the program, judged for the server's own version."""


@dataclass(frozen=True)
class Target:
    """Where to: to ``version``, else ``back`` steps back, else to the newest there is."""

    version: str | None = None
    back: int = 0


NEWEST = Target()


@dataclass(frozen=True)
class Changed:
    """What was applied or taken back, and the newest version there is now."""

    records: tuple[AppliedStep, ...]
    current: str


def steps_of(platform: Platform, name: str) -> tuple[SchemaStep, ...]:
    """Raises ``UnknownDatabase`` and ``MalformedMigrations``."""
    if name not in platform.catalog.databases:
        raise UnknownDatabase(name, tuple(platform.catalog.databases))
    return read_steps(platform.catalog.database_folder(name) / "migrations")


@contextlib.contextmanager
def _opened(platform: Platform, name: str) -> Generator[ManagedDatabase]:
    database = platform.connect(name, "admin")
    try:
        yield database
    finally:
        database.close()


def plan_change(platform: Platform, name: str, target: Target = NEWEST) -> Plan:
    """What would be done, from the live history and the catalog's files. Touches nothing."""
    steps = steps_of(platform, name)
    with _opened(platform, name) as database:
        applied = database.applied()
    return _plan(platform, name, steps, applied, target)


def _plan(
    platform: Platform, name: str, steps: Sequence[SchemaStep], applied: Sequence[AppliedStep], target: Target
) -> Plan:
    engine, texts = platform.catalog.databases[name].engine, texts_of(steps)
    if target.version is not None:
        return plan_to(name, engine, steps, applied, texts, target.version)
    if target.back:
        return plan_back(name, engine, steps, applied, texts, target.back)
    return plan_forward(name, engine, steps, applied, texts)


def bring_forward(
    platform: Platform,
    name: str,
    progress: Progress = silent,
    *,
    only: Collection[str] | None = None,
    safeguards: Safeguards | None = None,
) -> Changed:
    """Apply what is missing, of it those versions ``only``. Everything is judged before the first write."""
    steps = steps_of(platform, name)
    with _opened(platform, name) as database:
        applied = database.applied()
        missing = chosen(name, plan(name, steps, applied), only)
        _guard(platform, database, missing, applied, safeguards or Safeguards())
        keep_points(platform, database, progress)
        done = apply_steps(lambda: platform.runtime, database, steps, progress, only)
        return Changed(done, _newest(database))


def carry_out(
    platform: Platform, change: Plan, progress: Progress = silent, safeguards: Safeguards | None = None
) -> Changed:
    """Do exactly what a plan says. Raises ``PlanChanged`` where that is not what is to be done any more."""
    name, held = change.database, safeguards or Safeguards()
    steps = steps_of(platform, name)
    with _opened(platform, name) as database:
        applied = database.applied()
        if change.direction is Direction.BACK:
            now = _plan(platform, name, steps, applied, Target(back=len(change.steps)))
        else:
            now = _plan(platform, name, steps, applied, Target(version=change.target))
        environment = platform.environment.name
        if now.digest(environment) != change.digest(environment):
            raise PlanChanged(name)
        planned = tuple(each.step for each in now.steps)
        if change.direction is Direction.BACK:
            _require_backup(platform, name, applied if planned else (), held)
            return Changed(revert(database, planned, progress), _newest(database))
        _guard(platform, database, planned, applied, held)
        keep_points(platform, database, progress)
        done = apply_steps(lambda: platform.runtime, database, steps, progress, {step.version for step in planned})
        return Changed(done, _newest(database))


def _newest(database: ManagedDatabase) -> str:
    applied = database.applied()
    return applied[-1].version if applied else "none"


def _guard(
    platform: Platform,
    database: ManagedDatabase,
    steps: Sequence[SchemaStep],
    applied: Sequence[AppliedStep],
    safeguards: Safeguards,
) -> None:
    """Lint, then the backup: what is wrong with a file is cheaper to find."""
    if not steps:
        return
    name = database.database.name
    squawk = safeguards.squawk or SquawkProgram(database.server().version)
    judged = lint(database.database.engine, steps, texts_of(steps), squawk)
    if judged.faults:
        raise LintRefused(name, tuple(map(str, judged.faults)))
    _require_backup(platform, name, applied, safeguards)


def _require_backup(platform: Platform, name: str, applied: Sequence[AppliedStep], safeguards: Safeguards) -> None:
    """Embedded databases hold synthetic data, whatever the environment; it may ask for a backup all the same."""
    if applied and (platform.binding.runtime != "local" or platform.environment.backup_before_change == "always"):
        limit = safeguards.backup_age or backup_age(platform, name)
        require_backup(name, applied, safeguards.newest_backup(platform, name), platform.clock.now(), limit)


def rehearse_change(
    platform: Platform, change: Plan, progress: Progress = silent, source: CloneSource | None = None
) -> Rehearsal:
    """Try the steps of a plan on a copy: the live server's own, or one that ``source`` gives. Raises
    ``NoForwardPlan`` for one that goes back."""
    from dr_platform.databases.clones import clone

    name = change.database
    steps = steps_of(platform, name)
    planned = [each.step for each in change.steps]
    if change.direction is Direction.BACK:
        raise NoForwardPlan(name)
    if source is not None:
        return rehearse(source, planned, platform.clock, progress)
    with _opened(platform, name) as database:
        connect = platform.connect_elsewhere
        return rehearse(
            lambda: clone(database, lambda at: connect(name, at), steps), planned, platform.clock, progress
        )  # fmt: skip


class NoForwardPlan(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.what = f"{name}: a rehearsal tries steps that are not applied yet, and takes them back itself"
        self.untouched = f"the schema of {name}"
        self.next_step = f"rehearse before you apply: `drp migrate {name} --rehearse`"


# Looks


def lint_verdict(platform: Platform, name: str, squawk: Squawk | None = None) -> Verdict:
    """All files of a database are well-formed, and their steps harm nobody while they run."""
    steps = steps_of(platform, name)
    engine = platform.catalog.databases[name].engine
    judged = lint(engine, steps, texts_of(steps), squawk or SquawkProgram())
    return _judgement(judged, len(steps), engine)


def _judgement(judged: Judged, files: int, engine: Engine) -> Verdict:
    measurements: dict[str, Measure] = {
        "files": files,
        "faults": len(judged.faults),
        "waived": len(judged.waived),
        "advice": len(judged.advice),
    }
    if judged.faults:
        return Verdict(False, "; ".join(map(str, judged.faults)), measurements)
    waived = "".join(f"; waived: {fault.rule} in {fault.file} ({reason})" for fault, reason in judged.waived)
    read_by = "squawk and our own rules" if engine is Engine.POSTGRESQL else "our own rules"
    return Verdict(True, f"{files} steps pass {read_by}{waived}", measurements)


def drift_verdict(platform: Platform, name: str) -> Verdict:
    """The live schema is what the newest applied migration left."""
    with _opened(platform, name) as database:
        applied = database.applied()
        if not applied and not steps_of(platform, name):
            return Verdict(True, "there are no migrations, so nothing can have drifted", {"properties": 0})
        if not applied:
            return Verdict(None, "no migration is applied, so there is nothing to compare with")
        recorded, live = database.recorded_shape(), database.shape()
    version = applied[-1].version
    measurements: dict[str, Measure] = {"schema_version": version, "properties": len(live)}
    if applied[-1].undoing:
        return Verdict(False, f"taking {version} back was begun and not ended", measurements)
    if recorded is None:
        return Verdict(None, f"{version} was applied before shapes were kept; the next run keeps it", measurements)
    found = drift(recorded, live)
    measurements |= {"added": len(found.added), "removed": len(found.removed)}
    if found:
        return Verdict(False, f"not what {version} left: {found.describe()}", measurements)
    return Verdict(True, f"{len(live)} properties as {version} left them", measurements)
