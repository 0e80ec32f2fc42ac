"""The aftercare sensor: what turns bad after its promotion goes back within a budget, or a person is called."""

import json

import dagster as dg

from dr_platform.aftercare import attend
from dr_platform.health import looks
from dr_platform.platform import Platform
from dr_platform.resources import (
    History,
    answering,
    back_observation,
    call_observation,
    failing_since,
    told_before,
)


def aftercare_sensor(platform: Platform) -> dg.SensorDefinition:
    compliance = [look for look in looks(platform) if look.check == "hipaa" and look.asset[0] == "services"]

    @dg.sensor(
        name="aftercare",
        target=None,
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Asks for a rollback when a promoted version fails its triggers while the one before is kept warm.",
    )
    @answering
    def aftercare(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        not_compliant = failing_since(History(context.instance).written(compliance))
        attention, told = attend(platform, not_compliant), told_before(context.cursor)
        news = [call for call in attention.calls if call.key not in told]
        for call in news:
            context.log.error("services/%s: a person is needed: %s", call.service, call.why)
        events = [*map(back_observation, attention.went_back), *map(call_observation, news)]
        return dg.SensorResult(
            asset_events=events,
            cursor=json.dumps({call.key: call.service for call in attention.calls}),
            skip_reason=None if events else attention.summary(),
        )

    return aftercare
