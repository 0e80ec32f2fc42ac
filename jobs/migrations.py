"""The job that carries out an approved change of a schema. Approval and window are asked inside it."""

import dagster as dg

from dr_platform.platform import Platform
from dr_platform.resources import carried_out, choice
from dr_platform.schema_approvals import run_approved

MIGRATE_JOB = "migrate"


def migration_job(platform: Platform) -> dg.JobDefinition:
    databases = choice("Database", sorted(platform.catalog.databases))

    @dg.op(
        name="migrate_schema",
        description="Asks for approval and window, then applies what is missing; repeating it goes on.",
        config_schema={"database": dg.Field(databases, description="A database of the catalog.")},
        pool="schema_changes",
    )
    def migrate_schema(context: dg.OpExecutionContext) -> None:
        actor = context.run.tags.get("dr-platform/actor", f"run:{context.run_id}")
        database = context.op_config["database"]
        changed = carried_out(lambda: run_approved(platform, database, actor, context.log.info))
        applied = ", ".join(record.version for record in changed.records) or "nothing"
        context.add_output_metadata({"schema_version": changed.current, "applied": applied})

    @dg.job(
        name=MIGRATE_JOB,
        description="Changes a schema as it was approved, in the maintenance window; the schedule starts it by itself.",
        executor_def=dg.in_process_executor,
    )
    def migrate() -> None:
        migrate_schema()

    return migrate
