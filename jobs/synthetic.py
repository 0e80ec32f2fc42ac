"""The job that fills databases with invented patients. Nothing starts it but a person."""

import dagster as dg

from dr_platform.platform import Platform
from dr_platform.resources import carried_out
from dr_platform.synthesis import synthesize
from dr_platform.synthetic.plan import Existing, Plan
from jobs.delivery import ACTOR_TAG


def synthetic_job(platform: Platform) -> dg.JobDefinition:
    @dg.op(
        name="load_synthetic_data",
        description="Makes and loads what is missing; killed, the same run again goes on where it was.",
        config_schema={
            "seed": dg.Field(int, default_value=1, description="Another seed makes other people."),
            "scale": dg.Field(float, default_value=1.0, description="1 is 1,000 patients."),
            "existing": dg.Field(
                dg.Enum("ExistingSyntheticData", [dg.EnumValue(each.value) for each in Existing]),
                default_value=Existing.KEPT.value,
                description="What becomes of other synthetic data: kept, and this run fails; or replaced.",
            ),
            "processes": dg.Field(int, default_value=2, description="How many make and load at once."),
        },
    )
    def load_synthetic_data(context: dg.OpExecutionContext) -> None:
        asked = context.op_config
        outcome = carried_out(
            lambda: synthesize(
                platform,
                Plan(asked["seed"], asked["scale"]),
                context.run.tags.get(ACTOR_TAG, "job:synthesize"),
                context.log.info,
                existing=Existing(asked["existing"]),
                processes=asked["processes"],
            )
        )
        context.add_output_metadata({"summary": outcome.describe(), **outcome.measurements()})

    @dg.job(
        name="synthesize",
        description="Fills the databases with invented patients, in environments for synthetic data alone.",
        executor_def=dg.in_process_executor,
    )
    def synthesized() -> None:
        load_synthetic_data()

    return synthesized
