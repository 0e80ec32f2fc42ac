"""The remediation sensor: materialises what stays unhealthy, within a budget, then calls a person."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from dr_platform.health import looks
from dr_platform.platform import Platform
from dr_platform.remediation import Policy, remediable
from dr_platform.remedy import carry_out
from dr_platform.resources import History, attempt_request, conditions_of, escalation


def remediation_sensor(platform: Platform, job: UnresolvedAssetJobDefinition) -> dg.SensorDefinition:
    targets, policy = remediable(platform.catalog), Policy.of(platform.environment.remediation)
    watched = [look for look in looks(platform) if look.asset in targets]

    @dg.sensor(
        name="remediation",
        job=job,
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Materialises what stays unhealthy; {policy.attempts} attempts, then one call for a person.",
    )
    def remediation(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        history = History(context.instance)
        trails = history.trails(targets, platform.clock.now(), policy.window)
        remedies = carry_out(platform, conditions_of(history.written(watched)), trails, policy)
        for remedy in remedies.escalations:
            context.log.error("%s: a person is needed: %s", "/".join(remedy.target), remedy.why)
        return dg.SensorResult(
            run_requests=[attempt_request(remedy, watched) for remedy in remedies.attempts],
            asset_events=[escalation(remedy) for remedy in remedies.escalations],
            skip_reason=None if remedies.attempts or remedies.escalations else remedies.summary(),
        )

    return remediation
