"""Jobs that change which version of a service runs, and the one that stands in for the controller."""

import dagster as dg

from dr_platform import delivery
from dr_platform.catalog.models import Strategy
from dr_platform.platform import Platform
from dr_platform.resources import ACTOR_TAG, TEND_JOB, by_a_program, carried_out, choice, intent_of, require

REASON = dg.Field(str, default_value="", description="Why, for the record.")


def delivery_jobs(platform: Platform) -> list[dg.JobDefinition]:
    services = choice("Service", sorted(platform.catalog.services))
    return [_deploy(platform, services), _rollback(platform, services), _tend(platform)]


def _deploy(platform: Platform, services: dg.Enum) -> dg.JobDefinition:
    strategies = choice("Strategy", Strategy)

    @dg.op(
        name="deploy_version",
        description="Asks for a version and follows it; killing this run stops nothing.",
        config_schema={
            "service": dg.Field(services, description="A service of the catalog."),
            "version": dg.Field(str, description="The version that shall run."),
            "strategy": dg.Field(strategies, is_required=False, description="Instead of the environment's own."),
            "reason": REASON,
        },
    )
    def deploy_version(context: dg.OpExecutionContext) -> None:
        asked, intent_id = context.op_config, intent_of(context.run)
        make = lambda: delivery.deployment(  # noqa: E731 - made only where it was not asked for before
            platform,
            asked["service"],
            asked["version"],
            requested_by=context.run.tags.get(ACTOR_TAG, "job:deploy"),
            strategy=Strategy(asked["strategy"]) if "strategy" in asked else None,
            reason=asked["reason"],
            automatic=by_a_program(context.run),
            intent_id=intent_id,
        )
        progress = context.log.info
        outcome = carried_out(lambda: delivery.carried_through(platform, asked["service"], intent_id, make, progress))
        context.add_output_metadata(require(outcome, "promoted"))

    @dg.job(
        name="deploy",
        description="Deploys a version of a service: watched, and taken back by itself when it does harm.",
        executor_def=dg.in_process_executor,
    )
    def deploy() -> None:
        deploy_version()

    return deploy


def _rollback(platform: Platform, services: dg.Enum) -> dg.JobDefinition:
    paces = choice("Pace", ("immediate", "gradual"))

    @dg.op(
        name="go_back",
        description="Asks for a version that was stable here and follows it; killing this run stops nothing.",
        config_schema={
            "service": dg.Field(services, description="A service of the catalog."),
            "version": dg.Field(str, is_required=False, description="One that was stable here; else the newest other."),
            "pace": dg.Field(paces, default_value="immediate", description="At once, or 25, 50, 100 percent."),
            "reason": REASON,
        },
    )
    def go_back(context: dg.OpExecutionContext) -> None:
        asked, intent_id = context.op_config, intent_of(context.run)
        make = lambda: delivery.rollback(  # noqa: E731 - made only where it was not asked for before
            platform,
            asked["service"],
            requested_by=context.run.tags.get(ACTOR_TAG, "job:rollback"),
            to=asked.get("version"),
            pace=asked["pace"],
            reason=asked["reason"],
            intent_id=intent_id,
        )
        progress = context.log.info
        outcome = carried_out(lambda: delivery.carried_through(platform, asked["service"], intent_id, make, progress))
        context.add_output_metadata(require(outcome, "rolled_back"))

    @dg.job(
        name="rollback",
        description="Takes a service back to a version that was stable here.",
        executor_def=dg.in_process_executor,
    )
    def rollback() -> None:
        go_back()

    return rollback


def _tend(platform: Platform) -> dg.JobDefinition:
    @dg.op(name="stand_in", description="Does the controller's work until it is back or nothing is open.")
    def stand_in(context: dg.OpExecutionContext) -> None:
        stood_in = carried_out(lambda: delivery.stand_in(platform, context.log.info))
        context.add_output_metadata({"done": stood_in.done, "why": stood_in.why, "ticks": stood_in.ticks})

    @dg.job(
        name=TEND_JOB,
        description="Acts on open rollouts in the place of a controller that has gone; started by a sensor.",
        executor_def=dg.in_process_executor,
    )
    def tend() -> None:
        stand_in()

    return tend
