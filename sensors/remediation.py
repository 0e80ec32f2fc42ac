"""The remediation sensor: does what the policy says about what keeps failing, within a budget, then calls a person."""

from collections.abc import Sequence

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from dr_platform.health import looks
from dr_platform.platform import Platform
from dr_platform.remediation import Policies, remediable
from dr_platform.remedy import carry_out
from dr_platform.resources import (
    History,
    answering,
    attempt_request,
    escalation,
    findings_of,
    remedied_observation,
)


def remediation_sensor(
    platform: Platform, jobs: Sequence[dg.JobDefinition | UnresolvedAssetJobDefinition]
) -> dg.SensorDefinition:
    targets, policies = remediable(platform.catalog), Policies(platform.environment.remediation)
    watched = [look for look in looks(platform) if look.asset in targets]

    @dg.sensor(
        name="remediation",
        jobs=jobs,
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Mends what keeps failing as `remediation` of the environment says, then calls a person once.",
    )
    @answering
    def remediation(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        found = findings_of(History(context.instance), watched, policies, targets, platform.clock.now())
        remedies = carry_out(platform, found, policies)
        for remedy in remedies.escalations:
            context.log.error("%s: a person is needed: %s", remedy.subject, remedy.why)
        events = [*map(escalation, remedies.escalations), *map(remedied_observation, remedies.went_back)]
        return dg.SensorResult(
            run_requests=[attempt_request(remedy, watched) for remedy in remedies.attempts],
            asset_events=events,
            skip_reason=None if remedies.attempts or events else remedies.summary(),
        )

    return remediation
