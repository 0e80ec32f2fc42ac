"""Assets for the backups of the managed databases, one slot a day."""

from datetime import timedelta

import dagster as dg

from assets.databases import KINDS
from dr_platform.backup_desk import BackupDesk, BackupOutcome, kind_of
from dr_platform.backups.policy import BackupPolicy, read_policies
from dr_platform.catalog import Database
from dr_platform.platform import Platform
from dr_platform.recovery import LAYER
from dr_platform.resources import ACTOR_TAG, BACKUP_SLOTS, REASON_TAG, carried_out, materialized


def backup_assets(platform: Platform) -> list[dg.AssetsDefinition]:
    policies = read_policies(platform.catalog.root)
    return [
        _backup(platform, database, policies.get(name, BackupPolicy()))
        for name, database in platform.catalog.databases.items()
    ]


def _backup(platform: Platform, database: Database, policy: BackupPolicy) -> dg.AssetsDefinition:
    name = database.name

    @dg.asset(
        key=[LAYER, name],
        deps=[dg.AssetKey(["schema", name])],
        partitions_def=BACKUP_SLOTS,
        group_name=LAYER,
        description=f"Backups of {database.title}: encrypted, signed, and each proved by a restore.",
        kinds={KINDS[database.engine.value]},
        owners=[database.owner],
        tags={"dr-platform/layer": LAYER, "dr-platform/tier": str(policy.tier)},
        metadata={"rpo_s": policy.rpo, "rto_s": policy.rto},
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(seconds=policy.rpo)),
        pool=f"backup_{name.replace('-', '_')}",
        config_schema={
            "kind": dg.Field(str, default_value="", description="What it is made of; else for disaster recovery."),
            "reason": dg.Field(str, default_value="", description="Why, for the record; else as the run's tag says."),
        },
    )
    def backup(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        asked, tags = context.op_execution_context.op_config, context.run.tags
        reason, actor = asked["reason"] or tags.get(REASON_TAG, "on demand"), tags.get(ACTOR_TAG, "job:backup")
        desk = BackupDesk(platform, context.log.info)
        take = lambda: desk.take(name, kind_of(name, asked["kind"]), reason, actor)  # noqa: E731 - once
        return materialized(BackupOutcome(carried_out(take)))

    return backup
