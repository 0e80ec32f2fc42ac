"""The incidents sensor: shows open incidents as soon as one changes."""

import dagster as dg

from dr_platform import open_incidents
from dr_platform.health import looks
from dr_platform.platform import Platform
from dr_platform.resources import answering, check_evaluation, incidents_metadata

ASSET = ("compliance", "incidents")


def incidents_sensor(platform: Platform) -> dg.SensorDefinition:
    watched = [look for look in looks(platform) if look.asset == ASSET]

    @dg.sensor(
        name="incidents",
        target=None,
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Shows open incidents and their checks under compliance/incidents whenever one has changed.",
    )
    @answering
    def incidents(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        found = open_incidents.look(platform.incidents)
        if found.state == context.cursor:
            return dg.SensorResult(skip_reason=found.describe(), cursor=context.cursor)
        shown = dg.AssetMaterialization(dg.AssetKey(list(ASSET)), metadata=incidents_metadata(found))
        checked = [check_evaluation(look, look.verdict()) for look in watched]
        return dg.SensorResult(asset_events=[shown, *checked], cursor=found.state)

    return incidents
