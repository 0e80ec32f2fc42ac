"""The failed-runs sensor: every failed or cancelled run leaves an entry in the evidence log."""

import dagster as dg

from dr_platform.platform import Platform


def run_sensors(platform: Platform) -> list[dg.SensorDefinition]:
    return [
        _ended(platform, "failed_runs", dg.DagsterRunStatus.FAILURE),
        _ended(platform, "cancelled_runs", dg.DagsterRunStatus.CANCELED),
    ]


def _ended(platform: Platform, name: str, status: dg.DagsterRunStatus) -> dg.SensorDefinition:
    @dg.run_status_sensor(
        name=name,
        run_status=status,
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Writes runs that ended with {status.value} into the evidence log.",
    )
    def noted(context: dg.RunStatusSensorContext) -> None:
        run = context.dagster_run
        body = {"job": run.job_name, "status": status.value}
        platform.evidence.append("run-ended", run.run_id, "sensor:runs", body)

    return noted
