"""The job that carries out the emergency procedure; killed, the next run of the same scope goes on."""

import dagster as dg

from dr_platform.emergency import EVERYTHING, Call, handle
from dr_platform.incidents import TriggerKind
from dr_platform.platform import Platform
from dr_platform.resources import ACTOR_TAG, carried_out, choice, require_handled


def emergency_job(platform: Platform) -> dg.JobDefinition:
    scopes = choice("Scope", (EVERYTHING, *sorted(platform.catalog.services)))
    kinds = choice("Emergency", (TriggerKind.MANUAL, TriggerKind.SECURITY))

    @dg.op(
        name="handle_emergency",
        description="Maintenance on, assess, mitigate, communicate, verify, maintenance off, post-mortem draft.",
        config_schema={
            "scope": dg.Field(scopes, description=f"A service of the catalog, or {EVERYTHING}."),
            "reason": dg.Field(str, description="Why, for the incident."),
            "kind": dg.Field(
                kinds, default_value=TriggerKind.MANUAL.value, description="security: PHI may be exposed."
            ),
        },
    )
    def handle_emergency(context: dg.OpExecutionContext) -> None:
        asked = context.op_config
        actor = context.run.tags.get(ACTOR_TAG, "job:emergency")
        call = Call(asked["scope"], asked["reason"], actor, TriggerKind(asked["kind"]))
        context.add_output_metadata(require_handled(carried_out(lambda: handle(platform, call, context.log.info))))

    @dg.job(
        name="emergency",
        description="The emergency procedure for one service or all; a run of the same scope goes on where one ended.",
        executor_def=dg.in_process_executor,
    )
    def emergency() -> None:
        handle_emergency()

    return emergency
