"""The controller sensor: starts a run that stands in when open rollouts are left alone."""

from functools import partial

import dagster as dg

from dr_platform.delivery import takeover
from dr_platform.platform import Platform
from dr_platform.resources import answering, earlier_runs, stand_in_request
from dr_platform.rollout.takeover import Start


def controller_sensor(platform: Platform, job: dg.JobDefinition) -> dg.SensorDefinition:
    @dg.sensor(
        name="controller",
        job=job,
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Starts a run in the controller's place when its lease has lapsed while a candidate has traffic.",
    )
    @answering
    def controller(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        found = takeover(platform, partial(earlier_runs, context.instance))
        if isinstance(found, Start):
            context.log.warning(found.why)
            return dg.SensorResult(run_requests=[stand_in_request(found)])
        return dg.SensorResult(skip_reason=found.why)

    return controller
