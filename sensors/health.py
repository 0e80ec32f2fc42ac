"""The health sensor: looks at everything every few seconds and reports what changed."""

import json
from collections.abc import Mapping
from datetime import datetime

import dagster as dg

from dr_platform.health import looks
from dr_platform.platform import Platform
from dr_platform.resources import History, check_evaluation, told_before
from dr_platform.watch import SENSOR_BUDGET_S, CheckName, due, look_at_all, looked_again, worth_writing


def health_sensor(platform: Platform) -> dg.SensorDefinition:
    known = looks(platform)

    @dg.sensor(
        name="health",
        target=None,
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Probes services, databases, router, and again what was bad; writes changes, and all every 15 min.",
    )
    def health(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        written = History(context.instance).written(known)
        now, again = platform.clock.now(), _read(context.cursor)
        chosen = due(known, written, now, again)
        news = worth_writing(written, look_at_all(chosen, platform.clock, SENSOR_BUDGET_S), platform.clock.now())
        events = [check_evaluation(look, verdict) for look, verdict in news]
        return dg.SensorResult(asset_events=events, cursor=_written(looked_again(chosen, again, now)))

    return health


def _written(again: Mapping[CheckName, datetime]) -> str:
    return json.dumps({"/".join(name): at.isoformat() for name, at in again.items()})


def _read(cursor: str | None) -> Mapping[CheckName, datetime]:
    told = ((name.split("/"), at) for name, at in told_before(cursor).items())
    return {(layer, name, check): datetime.fromisoformat(at) for (layer, name, check), at in told}
