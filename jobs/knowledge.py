"""The job that builds another embedding model's vectors and, where asked for, switches to it."""

import dagster as dg

from dr_platform import knowledge_upkeep
from dr_platform.platform import Platform
from dr_platform.resources import ACTOR_TAG, carried_out, choice

REINDEX_JOB = "reindex_knowledge"


def reindex_job(platform: Platform) -> dg.JobDefinition:
    @dg.op(
        name="build_vectors",
        description="Builds a model's vectors beside those in use; repeating it goes on.",
        config_schema={
            "model": dg.Field(
                choice("EmbeddingModel", platform.catalog.embedders), description="Whose vectors are built."
            )
        },
        pool="knowledge_models",
        retry_policy=dg.RetryPolicy(max_retries=2, delay=10),
    )
    def build_vectors(context: dg.OpExecutionContext) -> str:
        model = context.op_config["model"]
        done = carried_out(lambda: knowledge_upkeep.reindex(platform, model, context.log.info))
        context.add_output_metadata({"summary": done.describe(), **done.measurements()})
        return model

    @dg.op(
        name="use_model",
        description="Where asked for, switches to the model, if the labelled questions find no less with it.",
        config_schema={
            "switch": dg.Field(
                choice("Switch", ("no", "if_no_worse")), default_value="no", description="Whether it is used then."
            )
        },
        pool="knowledge_models",
    )
    def use_model(context: dg.OpExecutionContext, model: str) -> None:
        if context.op_config["switch"] == "no":
            return
        actor = context.run.tags.get(ACTOR_TAG, f"run:{context.run_id}")
        done = carried_out(lambda: knowledge_upkeep.switch(platform, model, actor, context.log.info))
        context.add_output_metadata({"summary": done.describe(), **done.measurements()})

    @dg.job(
        name=REINDEX_JOB,
        description="Builds the vectors of another embedding model beside those in use, and switches if told to.",
        executor_def=dg.in_process_executor,
    )
    def reindex_knowledge() -> None:
        use_model(build_vectors())

    return reindex_knowledge
