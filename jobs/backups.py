"""Jobs that take backups, each followed by its checks, and the one that removes what no policy keeps."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from dr_platform.backup_desk import BackupDesk
from dr_platform.platform import Platform
from dr_platform.recovery import LAYER, recovery_looks
from dr_platform.resources import PRUNE_JOB, backup_job_name, carried_out, selection_of


def backup_jobs(platform: Platform) -> list[UnresolvedAssetJobDefinition]:
    return [_backup_job(platform, name) for name in platform.catalog.databases]


def _backup_job(platform: Platform, name: str) -> UnresolvedAssetJobDefinition:
    asset = dg.AssetSelection.assets(dg.AssetKey([LAYER, name])).without_checks()
    checks = selection_of(look for look in recovery_looks(platform) if look.asset == (LAYER, name))
    return dg.define_asset_job(
        backup_job_name(name),
        selection=asset | checks,
        description=f"Takes a backup of {name}, restores it where nobody sees it, and judges both.",
        executor_def=dg.in_process_executor,
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
