"""The health sensor: looks at everything every few seconds and reports what changed."""

import dagster as dg

from dr_platform.health import looks
from dr_platform.platform import Platform
from dr_platform.resources import History, check_evaluation
from dr_platform.watch import SENSOR_BUDGET_S, due, look_at_all, worth_writing


def health_sensor(platform: Platform) -> dg.SensorDefinition:
    known = looks(platform)

    @dg.sensor(
        name="health",
        target=None,
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Probes services, databases and router; writes check results that changed, and all every 15 min.",
    )
    def health(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        written = History(context.instance).written(known)
        looked = look_at_all(due(known, written), platform.clock, SENSOR_BUDGET_S)
        news = worth_writing(written, looked, platform.clock.now())
        return dg.SensorResult(asset_events=[check_evaluation(look, verdict) for look, verdict in news])

    return health
