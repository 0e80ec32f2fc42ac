"""The sensor that asks for backups which are overdue. No decisions."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from dr_platform.backup_desk import wanted_backups
from dr_platform.backup_upkeep import Waiting, upkeep
from dr_platform.platform import Platform
from dr_platform.resources import answering, backup_job_name, backup_request


def backups_sensor(platform: Platform, jobs: Sequence[UnresolvedAssetJobDefinition]) -> dg.SensorDefinition:
    @dg.sensor(
        name="backups",
        jobs=list(jobs),
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Asks for a backup where the newest verified one is older than was promised; one at a time.",
    )
    @answering
    def backups(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        now = platform.clock.now()
        chosen, waiting = upkeep(wanted_backups(platform), _read(context.cursor), now)
        cursor = _written(waiting)
        if chosen is None:
            return dg.SensorResult(cursor=cursor, skip_reason=f"{len(waiting)} overdue, none to be asked for now")
        key = f"{chosen.name}:{now.isoformat()}"
        asked = backup_request(chosen.name, "", "overdue", now, run_key=key, job_name=backup_job_name(chosen.name))
        return dg.SensorResult(run_requests=[asked], cursor=cursor)

    return backups


def _written(waiting: Mapping[str, Waiting]) -> str:
    return json.dumps({n: [w.since.isoformat(), w.asked and w.asked.isoformat()] for n, w in waiting.items()})


def _read(cursor: str | None) -> Mapping[str, Waiting]:
    told = json.loads(cursor) if cursor else {}
    return {
        name: Waiting(datetime.fromisoformat(since), datetime.fromisoformat(asked) if asked else None)
        for name, (since, asked) in told.items()
    }
