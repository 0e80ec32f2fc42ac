"""When backups are taken: as the catalog says for each database."""

from __future__ import annotations

import dagster as dg

from dr_platform.backup_desk import DAILY
from dr_platform.backups.policy import BackupPolicy, read_policies
from dr_platform.platform import Platform
from dr_platform.resources import PRUNE_JOB, backup_job_name, backup_request
from schedules.platform import RUNNING


def backup_schedules(platform: Platform) -> list[dg.ScheduleDefinition]:
    """None where the environment is removed as a whole: what is in it can be made again."""
    if platform.environment.ephemeral:
        return []
    policies = read_policies(platform.catalog.root)
    found = [
        _schedule(name, kind, cron)
        for name in platform.catalog.databases
        for kind, cron in (policies.get(name, BackupPolicy()).schedules or {"": DAILY}).items()
    ]
    prune = dg.ScheduleDefinition(
        name="daily_backups_prune",
        job_name=PRUNE_JOB,
        cron_schedule="15 5 * * *",
        execution_timezone="UTC",
        description="After the night's backups: what no policy keeps goes.",
        default_status=RUNNING,
    )
    return [*found, prune]


def _schedule(name: str, kind: str, cron: str) -> dg.ScheduleDefinition:
    words = "_".join(part for part in (backup_job_name(name), str(kind).replace("-", "_")) if part)

    def request(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        return backup_request(name, str(kind), "schedule", context.scheduled_execution_time)

    return dg.ScheduleDefinition(
        name=words,
        job_name=backup_job_name(name),
        cron_schedule=cron,
        execution_timezone="UTC",
        execution_fn=request,
        description=f"Takes the {kind or 'daily'} backup of {name}.",
        default_status=RUNNING,
    )
