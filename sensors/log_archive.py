"""The sensor that hands the databases' log on to the store of backups."""

import dagster as dg

from dr_platform.backup_desk import BackupDesk
from dr_platform.platform import Platform
from dr_platform.resources import answering


def log_archive_sensor(platform: Platform) -> dg.SensorDefinition:
    @dg.sensor(
        name="log_archive",
        target=None,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Encrypts and stores segments of PostgreSQL's log, so that any moment can be brought back.",
    )
    @answering
    def log_archive(_context: dg.SensorEvaluationContext) -> dg.SensorResult:
        stored = BackupDesk(platform).drain_logs()
        return dg.SensorResult(skip_reason=f"{stored} segments stored" if stored else "nothing waits")

    return log_archive
