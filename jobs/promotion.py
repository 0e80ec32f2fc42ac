"""The job that deploys a release as a whole. The gate is asked inside it, so that no launchpad passes it."""

import dagster as dg

from dr_platform.platform import Platform
from dr_platform.release_delivery import promote_into
from dr_platform.resources import ACTOR_TAG, PROMOTE_OP, carried_out


class PromotionConfig(dg.Config):
    """What the launchpad asks for."""

    release: str
    environment: str


def promotion_job(platform: Platform) -> dg.JobDefinition:
    @dg.op(name=PROMOTE_OP, description="Asks the gate, then deploys in dependency order or takes back.")
    def promote_release(context: dg.OpExecutionContext, config: PromotionConfig) -> None:
        actor = context.run.tags.get(ACTOR_TAG, f"run:{context.run_id}")
        ended = carried_out(
            lambda: promote_into(platform, config.environment, config.release, actor, context.log.info)
        )  # fmt: skip
        context.add_output_metadata({"outcome": ended.outcome.value, "why": ended.why})

    @dg.job(
        name="promote",
        description="Deploys a release in this environment, if its gate is open; repeating it goes on.",
        executor_def=dg.in_process_executor,
    )
    def promoted() -> None:
        promote_release()

    return promoted
