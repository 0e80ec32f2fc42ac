"""When a disaster is rehearsed: as the catalog says for each database; those of one moment together."""

from __future__ import annotations

import dagster as dg

from dr_platform.backup_store import policy_of
from dr_platform.platform import Platform
from dr_platform.resources import ACTOR_TAG, DRILL_JOB, DRILL_OP
from schedules.platform import RUNNING


def drill_schedules(platform: Platform) -> list[dg.ScheduleDefinition]:
    together: dict[str, list[str]] = {}
    for name in platform.catalog.databases:
        together.setdefault(policy_of(platform, name).drill.schedule, []).append(name)
    alone = len(together) == 1
    return [
        dg.ScheduleDefinition(
            name=DRILL_JOB if alone else f"{DRILL_JOB}_{'_'.join(names).replace('-', '_')}",
            job_name=DRILL_JOB,
            cron_schedule=cron,
            execution_timezone="UTC",
            run_config={"ops": {DRILL_OP: {"config": {"databases": [] if alone else names}}}},
            tags={ACTOR_TAG: "schedule"},
            description=f"Rehearses a disaster: {', '.join(names)} come back from the bucket.",
            default_status=RUNNING,
        )
        for cron, names in together.items()
    ]
