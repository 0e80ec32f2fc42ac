"""When what is started by the clock."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg

from dr_platform.resources import AT_WORK

RUNNING = dg.DefaultScheduleStatus.RUNNING


_REBUILT = ("bring_up", "teardown")
"""While one of these runs, checks would find what is not yet or no more there."""


def schedule_definitions() -> list[dg.ScheduleDefinition]:
    costly = "Also checks that are too costly for a sensor."
    return [
        _schedule("hourly_checks", "hourly_checks", "7 * * * *", costly, _unless_rebuilt),
        _schedule("daily_retention", "retention", "45 4 * * *", "Keeps Dagster's own tables small."),
    ]


def _schedule(
    name: str,
    job: str,
    cron: str,
    description: str,
    execution_fn: Callable[[dg.ScheduleEvaluationContext], dg.RunRequest | dg.SkipReason] | None = None,
) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name=name,
        job_name=job,
        cron_schedule=cron,
        execution_timezone="UTC",
        execution_fn=execution_fn,
        description=description,
        default_status=RUNNING,
    )


def _unless_rebuilt(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    for job in _REBUILT:
        if context.instance.get_run_records(dg.RunsFilter(job_name=job, statuses=AT_WORK), limit=1):
            return dg.SkipReason(f"a run of {job} is at work; the next hour has its checks")
    return dg.RunRequest()
