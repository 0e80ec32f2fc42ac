"""Assets for the managed databases and their schema."""

from collections.abc import Iterator

import dagster as dg

from dr_platform import bring_up
from dr_platform.catalog import Database
from dr_platform.platform import Platform, migrations_digest
from dr_platform.resources import carried_out, materialized

KINDS = {"postgresql": "postgres", "mongodb": "mongodb", "redis": "redis", "scylladb": "scylladb"}


def database_assets(platform: Platform) -> list[dg.AssetsDefinition]:
    return [_servers(platform), *(_schema(platform, database) for database in platform.catalog.databases.values())]


def _servers(platform: Platform) -> dg.AssetsDefinition:
    infrastructure = [dg.AssetKey(["infrastructure", name]) for name in ("runtime", "ports")]

    @dg.multi_asset(
        name="databases",
        specs=[
            dg.AssetSpec(
                key=["databases", database.name],
                deps=infrastructure,
                group_name="databases",
                description=database.description,
                kinds={KINDS[database.engine.value]},
                owners=[database.owner],
                code_version=f"{database.engine.value}:{database.port}",
                tags={"dr-platform/layer": "databases", "dr-platform/data-class": database.data_class.value},
                metadata={"engine": database.engine.value, "port": database.port + platform.port_offset},
            )
            for database in platform.catalog.databases.values()
        ],
        can_subset=True,
        retry_policy=dg.RetryPolicy(max_retries=1, delay=2),
    )
    def databases(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
        names = sorted(key.path[-1] for key in context.selected_asset_keys)
        outcomes = carried_out(lambda: bring_up.start_databases(platform, names, context.log.info))
        for name, outcome in outcomes.items():
            yield materialized(outcome, ["databases", name])

    return databases


def _schema(platform: Platform, database: Database) -> dg.AssetsDefinition:
    @dg.asset(
        key=["schema", database.name],
        deps=[dg.AssetKey(["databases", database.name])],
        group_name="schema",
        description=f"Migrations of {database.title}, applied in order, each once.",
        kinds={KINDS[database.engine.value], "schema"},
        owners=[database.owner],
        code_version=migrations_digest(platform.catalog, database.name),
        tags={"dr-platform/layer": "schema"},
        pool=f"schema_{database.name.replace('-', '_')}",
        retry_policy=dg.RetryPolicy(max_retries=2, delay=2),
    )
    def schema(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        return materialized(carried_out(lambda: bring_up.apply_schema(platform, database.name, context.log.info)))

    return schema
