"""Jobs over the platform's assets, and the two that keep house."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from dr_platform.health import looks
from dr_platform.platform import Platform
from dr_platform.recovery import LAYER
from dr_platform.remediation import remediable
from dr_platform.remedy import restart
from dr_platform.resources import (
    REMEDIATION_JOB,
    RESTART_JOB,
    RESTART_OP,
    SEED_JOB,
    carried_out,
    cheap,
    choice,
    loadless,
    purge_runs,
    selection_of,
)
from dr_platform.retention import KEEP, trim_events
from dr_platform.teardown import teardown

# A step costs a twentieth of a second in the run's own process and seconds in one of its own.
IN_PROCESS = dg.in_process_executor
KNOWLEDGE = dg.AssetSelection.groups("knowledge")


def asset_jobs(platform: Platform) -> list[UnresolvedAssetJobDefinition]:
    every = looks(platform)
    # Backups are made by jobs of their own: one for each slot, and none because something was brought up.
    made = dg.AssetSelection.all().without_checks() - dg.AssetSelection.groups(LAYER)
    checked = made | selection_of(cheap(every))
    return [
        _asset_job("bring_up", checked, "Brings the whole platform up and runs every check; repeating it is harmless."),
        _asset_job(REMEDIATION_JOB, checked, "What the remediation sensor starts: one asset and its checks."),
        _asset_job("health", selection_of(every), "Runs every check and changes nothing."),
        _asset_job("hourly_checks", selection_of(loadless(every)), "Runs every check that puts no load on anything."),
        _asset_job(SEED_JOB, KNOWLEDGE, "Loads what changed of the knowledge sets, and looks at them."),
    ]


def _asset_job(name: str, selection: dg.AssetSelection, description: str) -> UnresolvedAssetJobDefinition:
    return dg.define_asset_job(name, selection=selection, description=description, executor_def=IN_PROCESS)


def op_jobs(platform: Platform) -> list[dg.JobDefinition]:
    @dg.op(name="end_platform", description="Closes and empties every service, then ends router and databases.")
    def end_platform(context: dg.OpExecutionContext) -> None:
        carried_out(lambda: teardown(platform, context.log.info))

    @dg.job(
        name="teardown",
        description="Ends services, router and databases in reverse order; Dagster itself goes on until `drp down`.",
        executor_def=IN_PROCESS,
    )
    def ended() -> None:
        end_platform()

    @dg.op(name="purge_history", description="Removes runs and events that are past their retention.")
    def purge_history(context: dg.OpExecutionContext) -> None:
        older_than = platform.clock.now() - KEEP
        platform.evidence.append("history-purge", "dagster", "job:retention", {"older_than": older_than.isoformat()})
        runs = purge_runs(context.instance, older_than)
        events = trim_events(platform.system_database.url("dagster"), older_than)
        context.add_output_metadata({"runs_purged": runs, "events_purged": events})

    @dg.job(
        name="retention",
        description="Removes old runs from Dagster's own tables; the evidence log is not touched.",
        executor_def=IN_PROCESS,
    )
    def purged() -> None:
        purge_history()

    return [ended, purged, _restart(platform)]


def _restart(platform: Platform) -> dg.JobDefinition:
    parts = choice("Part", sorted({name for _, name in remediable(platform.catalog)}))

    @dg.op(
        name=RESTART_OP,
        description="Starts the processes of one part anew, one replica after the other.",
        config_schema={
            "layer": dg.Field(choice("Layer", ("services", "databases", "infrastructure")), description="Of the part."),
            "part": dg.Field(parts, description="A service or database of the catalog, or router."),
        },
    )
    def started_anew(context: dg.OpExecutionContext) -> None:
        target = (context.op_config["layer"], context.op_config["part"])
        done = carried_out(lambda: restart(platform, target, context.log.info))
        context.add_output_metadata({"summary": done})

    @dg.job(
        name=RESTART_JOB,
        description="Restarts a service, a database or the router; what the remediation sensor starts by its policy.",
        executor_def=IN_PROCESS,
    )
    def restarted() -> None:
        started_anew()

    return restarted
