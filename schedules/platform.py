"""When what is started by the clock."""

from __future__ import annotations

import dagster as dg

RUNNING = dg.DefaultScheduleStatus.RUNNING


def schedule_definitions() -> list[dg.ScheduleDefinition]:
    return [
        _schedule("hourly_checks", "hourly_checks", "7 * * * *", "Also checks that are too costly for a sensor."),
        _schedule("daily_retention", "retention", "45 4 * * *", "Keeps Dagster's own tables small."),
    ]


def _schedule(name: str, job: str, cron: str, description: str) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name=name,
        job_name=job,
        cron_schedule=cron,
        execution_timezone="UTC",
        description=description,
        default_status=RUNNING,
    )
