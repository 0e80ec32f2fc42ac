"""Assets for the knowledge sets."""

from datetime import timedelta

import dagster as dg

from dr_platform import bring_up
from dr_platform.catalog import KnowledgeSet
from dr_platform.platform import Platform
from dr_platform.resources import carried_out, materialized


def knowledge_assets(platform: Platform) -> list[dg.AssetsDefinition]:
    return [_knowledge(platform, knowledge_set) for knowledge_set in platform.catalog.knowledge.values()]


def _knowledge(platform: Platform, knowledge_set: KnowledgeSet) -> dg.AssetsDefinition:
    name = knowledge_set.name

    @dg.asset(
        key=["knowledge", name],
        deps=[dg.AssetKey(["schema", platform.knowledge_database.name])],
        group_name="knowledge",
        description=knowledge_set.description,
        kinds={"postgres", "embedding"},
        owners=[knowledge_set.owner],
        tags={"dr-platform/layer": "knowledge"},
        metadata={"license": knowledge_set.license, "freshness_days": knowledge_set.freshness_days},
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=knowledge_set.freshness_days)),
        pool=f"knowledge_{name.replace('-', '_')}",
        retry_policy=dg.RetryPolicy(max_retries=2, delay=2),
    )
    def seeded(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        return materialized(carried_out(lambda: bring_up.seed_knowledge(platform, name, context.log.info)))

    return seeded
