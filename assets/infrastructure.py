"""Assets for what everything stands on: supervisor, ports, router, operations database."""

from collections.abc import Callable, Sequence

import dagster as dg

from dr_platform import bring_up
from dr_platform.platform import Platform
from dr_platform.resources import Outcome, carried_out, materialized
from dr_platform.verdict import Progress

LAYER = "infrastructure"
OWNER = "team:platform"


def infrastructure_assets(platform: Platform) -> list[dg.AssetsDefinition]:
    return [
        _asset(
            "runtime",
            (),
            "supervisord and its keeper, which watch each other and keep every process of this machine alive.",
            {"supervisord"},
            lambda _progress: bring_up.describe_runtime(platform),
        ),
        _asset(
            "ports",
            ("runtime",),
            "Every documented port on loopback is this platform's or free.",
            {"network"},
            lambda _progress: bring_up.check_ports(platform),
        ),
        _asset(
            "state",
            ("runtime",),
            "The operations database with the append-only, hash-chained evidence log.",
            {"postgres"},
            lambda progress: bring_up.upgrade_operations(platform, progress),
        ),
        _asset(
            "router",
            ("runtime", "ports"),
            "Envoy: the permanent address of every service, weights between its slots, measurements.",
            {"envoy"},
            lambda progress: bring_up.start_router(platform, progress),
        ),
    ]


def _asset(
    name: str, deps: Sequence[str], description: str, kinds: set[str], act: Callable[[Progress], Outcome]
) -> dg.AssetsDefinition:
    @dg.asset(
        key=[LAYER, name],
        deps=[dg.AssetKey([LAYER, dep]) for dep in deps],
        group_name=LAYER,
        description=description,
        kinds=kinds,
        owners=[OWNER],
        tags={"dr-platform/layer": LAYER},
        retry_policy=dg.RetryPolicy(max_retries=2, delay=2),
    )
    def asset(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        return materialized(carried_out(lambda: act(context.log.info)))

    return asset
