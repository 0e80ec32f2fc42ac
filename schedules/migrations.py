"""When approved changes of schemas begin."""

from __future__ import annotations

import dagster as dg

from dr_platform.platform import Platform
from dr_platform.resources import migration_requests


def migration_schedule(platform: Platform, job: dg.JobDefinition) -> dg.ScheduleDefinition:
    @dg.schedule(
        name="migrations",
        job=job,
        cron_schedule="*/5 * * * *",
        execution_timezone="UTC",
        description="Starts changes of schemas that were approved, once the maintenance window is open.",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    def migrations(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        return migration_requests(platform, context.log.warning)

    return migrations
