"""When what is started by the clock."""

from __future__ import annotations

import dagster as dg

from dr_platform.resources import AT_WORK

RUNNING = dg.DefaultScheduleStatus.RUNNING


_REBUILT = ("bring_up", "teardown")
"""While one of these runs, checks would find what is not yet or no more there."""


def schedule_definitions() -> list[dg.ScheduleDefinition]:
    return [
        dg.ScheduleDefinition(
            name="hourly_checks",
            job_name="hourly_checks",
            cron_schedule="7 * * * *",
            execution_timezone="UTC",
            execution_fn=_unless_rebuilt,
            description="Also checks that are too costly for a sensor.",
            default_status=RUNNING,
        ),
        dg.ScheduleDefinition(
            name="daily_retention",
            job_name="retention",
            cron_schedule="45 4 * * *",
            execution_timezone="UTC",
            description="Keeps Dagster's own tables small.",
            default_status=RUNNING,
        ),
    ]


def _unless_rebuilt(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    for job in _REBUILT:
        if context.instance.get_run_records(dg.RunsFilter(job_name=job, statuses=AT_WORK), limit=1):
            return dg.SkipReason(f"a run of {job} is at work; the next hour has its checks")
    return dg.RunRequest()
