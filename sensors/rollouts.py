"""The rollouts sensor: shows on a service's asset how its rollouts went and ended, whoever asked for them."""

import json

import dagster as dg

from dr_platform.analysis import CHECK, told_since
from dr_platform.delivery import ended_since
from dr_platform.health import looks
from dr_platform.platform import Platform
from dr_platform.resources import (
    ANALYSED,
    analysis_evaluations,
    answering,
    ended_event,
    last_words,
    reached,
    told_before,
)


def rollouts_sensor(platform: Platform) -> dg.SensorDefinition:
    shown = {look.asset[1]: look for look in looks(platform) if look.check == CHECK}

    @dg.sensor(
        name="rollouts",
        target=None,
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Shows ended rollouts on their service, and what the triggers said at each turn as a check.",
    )
    @answering
    def rollouts(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        told = told_before(context.cursor)
        ended, analyses = ended_since(platform, told), told_since(platform, reached(told))
        events = [ended_event(service, outcome) for service, outcome in ended.items()]
        checks = analysis_evaluations(context.instance, shown, analyses)
        last = last_words(context.instance, shown, ended, checks)
        newest = max((analysis.entry for analysis in analyses), default=reached(told))
        telling = {service: outcome.rollout for service, outcome in ended.items()} | {ANALYSED: str(newest)}
        return dg.SensorResult(asset_events=[*events, *checks, *last], cursor=json.dumps(told | telling))

    return rollouts
