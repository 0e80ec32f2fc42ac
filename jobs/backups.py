"""Jobs that take backups, each followed by its checks, and the one that removes what no policy keeps."""

from collections.abc import Collection

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from dr_platform.backup_desk import BACKUP_JOB, BackupDesk
from dr_platform.platform import Platform
from dr_platform.recovery import LAYER, recovery_looks
from dr_platform.resources import PRUNE_JOB, backup_job_name, carried_out, selection_of


def backup_jobs(platform: Platform) -> list[UnresolvedAssetJobDefinition]:
    """One for each database, and one for several together."""
    told = "restores it where nobody sees it, and judges both"
    return [
        _backup_job(platform, BACKUP_JOB, platform.catalog.databases, f"Takes a backup of each database, {told}."),
        *(
            _backup_job(platform, backup_job_name(name), [name], f"Takes a backup of {name}, {told}.")
            for name in platform.catalog.databases
        ),
    ]


def _backup_job(
    platform: Platform, job: str, databases: Collection[str], description: str
) -> UnresolvedAssetJobDefinition:
    keys = [(LAYER, name) for name in databases]
    made = dg.AssetSelection.assets(*(dg.AssetKey(key) for key in keys)).without_checks()
    checks = selection_of(look for look in recovery_looks(platform) if look.asset in keys)
    return dg.define_asset_job(
        job, selection=made | checks, description=description, executor_def=dg.in_process_executor
    )


def prune_job(platform: Platform) -> dg.JobDefinition:
    @dg.op(name="prune_backups", description="Plans, removes, counts, and lists again; a doubt about a clock stops it.")
    def prune_backups(context: dg.OpExecutionContext) -> None:
        desk = BackupDesk(platform, context.log.info)
        pruned = [carried_out(lambda name=name: desk.prune(name, "job:prune")) for name in platform.catalog.databases]
        for found in pruned:
            context.log.info("%s: %d removed, %d stay", found.database, len(found.removed), found.left)
        removed = [backup for found in pruned for backup in found.removed]
        size = sum(found.size_bytes for found in pruned)
        context.add_output_metadata({"removed": len(removed), "size_bytes": size, "backups": ", ".join(removed)})

    @dg.job(
        name=PRUNE_JOB,
        description="Removes backups that no policy keeps, and what was left of unfinished ones.",
        executor_def=dg.in_process_executor,
    )
    def prune() -> None:
        prune_backups()

    return prune
