"""The intake sensor: starts the promotion of what CI has told of, once its release exists. The gate is asked there."""

import dagster as dg

from dr_platform.intake.decide import turn
from dr_platform.intake.desk import IntakeDesk
from dr_platform.platform import Platform
from dr_platform.release_delivery import created_releases
from dr_platform.resources import answering, intake_request, started_to


def intake_sensor(platform: Platform, job: dg.JobDefinition) -> dg.SensorDefinition:
    @dg.sensor(
        name="intake",
        job=job,
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Starts the job promote for the newest event of CI that deploys here and whose release exists.",
    )
    @answering
    def intake(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        desk, started = IntakeDesk(platform.evidence, platform.environment), started_to(context.cursor)
        found = turn(desk.accepted(started), started, created_releases(platform), platform.clock.now())
        if found.start is None:
            return dg.SensorResult(skip_reason=found.summary(), cursor=context.cursor)
        request = intake_request(found.start, platform.environment.name)
        return dg.SensorResult(run_requests=[request], cursor=str(found.start.sequence))

    return intake
