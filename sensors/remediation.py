"""The remediation sensor: materialises what stays unhealthy, within a budget, then calls a person."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from dr_platform.platform import Platform
from dr_platform.remediation import Policy, remediable
from dr_platform.remedy import carry_out
from dr_platform.resources import Conditions, attempt_request, escalation


def remediation_sensor(platform: Platform, job: UnresolvedAssetJobDefinition) -> dg.SensorDefinition:
    targets = remediable(platform.catalog)

    @dg.sensor(
        name="remediation",
        job=job,
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Materialises unhealthy services, databases and the router; three attempts, then one call for a person.",
    )
    def remediation(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        conditions = Conditions(context.instance).of(targets)
        remedies = carry_out(platform, conditions, Policy())
        return dg.SensorResult(
            run_requests=[attempt_request(remedy) for remedy in remedies.attempts],
            asset_events=[escalation(remedy) for remedy in remedies.escalations],
            skip_reason=None if remedies.attempts else remedies.summary(),
        )

    return remediation
