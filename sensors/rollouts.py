"""The rollouts sensor: shows on a service's asset how its rollouts ended, whoever asked for them."""

import json

import dagster as dg

from dr_platform.delivery import ended_since
from dr_platform.platform import Platform
from dr_platform.resources import answering, ended_event, told_before


def rollouts_sensor(platform: Platform) -> dg.SensorDefinition:
    @dg.sensor(
        name="rollouts",
        target=None,
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Shows ended rollouts on their service: materialised where another version is stable now.",
    )
    @answering
    def rollouts(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        told = told_before(context.cursor)
        ended = ended_since(platform, told)
        return dg.SensorResult(
            asset_events=[ended_event(service, outcome) for service, outcome in ended.items()],
            cursor=json.dumps(told | {service: outcome.rollout for service, outcome in ended.items()}),
        )

    return rollouts
