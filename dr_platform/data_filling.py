"""Filling in data in batches as a job of the runtime, so that it outlives whoever asked for it.

Here: which steps of a plan run as a job, the job's command, and doing the same in this process. Not here: batches
themselves (``databases.batches``), or which steps are to be applied (``schema_changes``).

On this machine the job is a process, on Kubernetes a Job with the platform's own image. One that is asked
for again while it runs is waited for; one that was killed goes on behind the last batch it committed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from dr_platform.databases.batches import Filled
from dr_platform.databases.port import AppliedStep, ManagedDatabase, SchemaStep
from dr_platform.databases.schema import chosen, migrate, plan, text_of, version_key
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.platform import Platform
from dr_platform.runtime.port import Job, Runtime
from dr_platform.schema_record import keep_points
from dr_platform.verdict import Progress

LONGEST_S = 24 * 3600.0


class FillingStopped(PlatformError):
    def __init__(self, name: str, version: str, why: str) -> None:
        super().__init__(name, version, why)
        self.what = f"{name}: filling in data of {version} ended before its end: {why}"
        self.untouched = "every batch is whole; those that were committed stay"
        self.next_step = f"repeat `drp migrate {name}`: it goes on behind the last batch"


class NotInBatches(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, version: str) -> None:
        super().__init__(name, version)
        self.what = f"{name}: there is no step {version} that fills in data in batches"
        self.untouched = f"{name}"
        self.next_step = f"see `drp migrate {name} --plan`"


def apply_steps(
    runtime: Callable[[], Runtime],
    database: ManagedDatabase,
    steps: Sequence[SchemaStep],
    progress: Progress,
    only: Collection[str] | None,
) -> tuple[AppliedStep, ...]:
    """What ``migrate`` does, but for batched steps, which become jobs of the runtime, which is opened
    for them alone. Others wait until each has ended."""
    name = database.database.name
    missing = chosen(name, plan(name, steps, database.applied()), only)
    if not any(step.batches for step in missing):
        return migrate(database, steps, progress, only=only)
    done: list[AppliedStep] = []
    for step in missing:
        if step.batches is None:
            done += migrate(database, steps, progress, only={step.version})
        else:
            done.append(_as_job(runtime(), database, step, progress))
    database.admit_application()
    return tuple(done)


def _as_job(runtime: Runtime, database: ManagedDatabase, step: SchemaStep, progress: Progress) -> AppliedStep:
    name = database.database.name
    progress(f"{name}: filling in {step.version} {step.description} by the job {_job_name(name, step.version)}")
    result = runtime.run_job(Job(_job_name(name, step.version), ("fill", name, step.version), timeout_s=LONGEST_S))
    for line in result.output.splitlines()[-20:]:
        progress(line)
    recorded = next((r for r in database.applied() if version_key(r.version) == version_key(step.version)), None)
    if recorded is None:
        why = "its time was over, or it was killed" if result.exit_code is None else f"exit code {result.exit_code}"
        raise FillingStopped(name, step.version, why)
    return recorded


def _job_name(name: str, version: str) -> str:
    return f"fill-{name}-{version.replace('.', '-')}"


def fill_here(platform: Platform, name: str, version: str, steps: Sequence[SchemaStep], progress: Progress) -> None:
    """The job's own work: apply this step, which must be the next one."""
    _batched(name, version, steps)
    database = platform.connect(name, "admin")
    keep_points(platform, database, progress)
    try:
        migrate(database, steps, progress, only={version})
    finally:
        database.close()


def try_batch(platform: Platform, name: str, version: str, steps: Sequence[SchemaStep]) -> Filled:
    """One batch, rolled back."""
    from dr_platform.databases.postgresql import PostgresDatabase
    from dr_platform.databases.postgresql_batches import BatchRunner
    from dr_platform.databases.sql_text import statements_of

    step = _batched(name, version, steps)
    database = platform.connect(name, "admin")
    try:
        if not isinstance(database, PostgresDatabase) or step.batches is None:
            raise NotInBatches(name, version)
        runner = BatchRunner(database.connection, step, step.batches, platform.clock)
        return runner.try_one(statements_of(text_of(name, step, ".sql"))[0].text)
    finally:
        database.close()


def _batched(name: str, version: str, steps: Sequence[SchemaStep]) -> SchemaStep:
    for step in steps:
        if step.batches is not None and version_key(step.version) == version_key(version):
            return step
    raise NotInBatches(name, version)
