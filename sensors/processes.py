"""The processes sensor: shows ends and restarts of processes where people look for them."""

import dagster as dg

from dr_platform.platform import Platform
from dr_platform.resources import process_observation
from dr_platform.runtime.local.events import events_after


def process_sensor(platform: Platform) -> dg.SensorDefinition:
    @dg.sensor(
        name="processes",
        target=None,
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Shows ends and restarts of supervised processes as observations of infrastructure/runtime.",
    )
    def processes(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        events, offset = events_after(platform.state, int(context.cursor or 0))
        return dg.SensorResult(asset_events=[process_observation(e) for e in events], cursor=str(offset))

    return processes
