"""The job that rehearses a disaster. What it brings back is gone at its end."""

from pathlib import Path

import dagster as dg

from dr_platform.drill import DisasterDrill, identity_of
from dr_platform.platform import Platform
from dr_platform.resources import ACTOR_TAG, DRILL_JOB, DRILL_OP, carried_out


def drill_job(platform: Platform) -> dg.JobDefinition:
    @dg.op(
        name=DRILL_OP,
        description="From the bucket and the escrow identity alone; repeated after an interruption it goes on.",
        config_schema={
            "databases": dg.Field([str], default_value=[], description="These alone; else all of the catalog."),
            "identity": dg.Field(str, default_value="", description="File with the escrow identity."),
        },
        pool="drill",
    )
    def bring_back_everything(context: dg.OpExecutionContext) -> None:
        asked, actor = context.op_config, context.run.tags.get(ACTOR_TAG, "job:drill")
        named = Path(asked["identity"]) if asked["identity"] else None
        found = carried_out(
            lambda: DisasterDrill(platform, identity_of(platform, named), context.log.info).run(
                actor, asked["databases"]
            )
        )
        report = dg.MetadataValue.md(found.markdown())
        context.add_output_metadata({"summary": found.describe(), "report": report, **found.measurements()})
        if found.passed is not True:
            raise dg.Failure(found.describe(), metadata={"report": report}, allow_retries=False)

    @dg.job(
        name=DRILL_JOB,
        description="Brings every database back from its bucket, compares it, and measures RTO and RPO.",
        executor_def=dg.in_process_executor,
    )
    def drill() -> None:
        bring_back_everything()

    return drill
