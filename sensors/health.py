"""The health sensor: looks at everything every few seconds and reports what changed."""

import dagster as dg

from dr_platform.health import looks
from dr_platform.platform import Platform
from dr_platform.resources import check_evaluation, look_at_all
from dr_platform.watch import Seen, is_cadenced, worth_reporting


def health_sensor(platform: Platform) -> dg.SensorDefinition:
    watched = [look for look in looks(platform) if is_cadenced(look)]

    @dg.sensor(
        name="health",
        target=None,
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Probes services, databases and router; writes check results when they change and every 15 minutes.",
    )
    def health(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        seen = Seen.from_text(context.cursor)
        verdicts = tuple(look_at_all(watched))
        changed, seen = worth_reporting(seen, verdicts, platform.clock.now())
        return dg.SensorResult(
            asset_events=[check_evaluation(look, verdict) for look, verdict in changed], cursor=seen.to_text()
        )

    return health
