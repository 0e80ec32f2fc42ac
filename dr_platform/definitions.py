"""The code location: one platform, and everything that Dagster knows of it.

Here: putting definitions together. Not here: any of them.
"""

from __future__ import annotations

import dagster as dg

from assets.backups import backup_assets
from assets.checks import check_definitions
from assets.compliance import compliance_assets
from assets.databases import database_assets
from assets.infrastructure import infrastructure_assets
from assets.knowledge import knowledge_assets
from assets.services import service_assets
from dr_platform.platform import Platform
from dr_platform.resources import REMEDIATION_JOB, RESTART_JOB, SEED_JOB, TEND_JOB
from jobs.backups import backup_jobs, prune_job
from jobs.delivery import delivery_jobs
from jobs.drill import drill_job
from jobs.emergency import emergency_job
from jobs.knowledge import reindex_job
from jobs.masking import masking_job
from jobs.migrations import migration_job
from jobs.platform import asset_jobs, op_jobs
from jobs.promotion import promotion_job
from jobs.synthetic import synthetic_job
from schedules.backups import backup_schedules
from schedules.drill import drill_schedules
from schedules.migrations import migration_schedule
from schedules.platform import schedule_definitions
from sensors.aftercare import aftercare_sensor
from sensors.backups import backups_sensor
from sensors.controller import controller_sensor
from sensors.health import health_sensor
from sensors.incidents import incidents_sensor
from sensors.intake import intake_sensor
from sensors.knowledge import knowledge_sensor
from sensors.processes import process_sensor
from sensors.remediation import remediation_sensor
from sensors.rollouts import rollouts_sensor
from sensors.runs import run_sensors


def build_definitions(platform: Platform) -> dg.Definitions:
    """All definitions of one environment; opens no connection."""
    jobs = asset_jobs(platform)
    keeping = op_jobs(platform)
    remedial = [job for job in (*jobs, *keeping) if job.name in (REMEDIATION_JOB, RESTART_JOB)]
    deliveries, promote = delivery_jobs(platform), promotion_job(platform)
    tend = next(job for job in deliveries if job.name == TEND_JOB)
    migrate, backups = migration_job(platform), backup_jobs(platform)
    return dg.Definitions(
        assets=[
            *infrastructure_assets(platform),
            *database_assets(platform),
            *service_assets(platform),
            *knowledge_assets(platform),
            *backup_assets(platform),
            *compliance_assets(platform),
        ],
        asset_checks=check_definitions(platform),
        jobs=[
            *jobs,
            *keeping,
            *deliveries,
            promote,
            migrate,
            reindex_job(platform),
            emergency_job(platform),
            synthetic_job(platform),
            masking_job(platform),
            *backups,
            prune_job(platform),
            drill_job(platform),
        ],
        schedules=[
            *schedule_definitions(),
            migration_schedule(platform, migrate),
            *backup_schedules(platform),
            *drill_schedules(platform),
        ],
        sensors=[
            health_sensor(platform),
            remediation_sensor(platform, remedial),
            aftercare_sensor(platform),
            backups_sensor(platform, backups),
            controller_sensor(platform, tend),
            rollouts_sensor(platform),
            intake_sensor(platform, promote),
            incidents_sensor(platform),
            knowledge_sensor(platform, next(job for job in jobs if job.name == SEED_JOB)),
            process_sensor(platform),
            *run_sensors(platform),
        ],
    )


defs = build_definitions(Platform.open())
