"""Assets for the services: the fleet as a whole, and each service on its own."""

import dagster as dg

from dr_platform import bring_up
from dr_platform.catalog import Service
from dr_platform.platform import Platform
from dr_platform.resources import carried_out, materialized

FLEET = dg.AssetKey(["services", "fleet"])
KINDS = {"go": "go", "python": "python", "gpu-host": "gpu", "web": "javascript"}


def service_assets(platform: Platform) -> list[dg.AssetsDefinition]:
    return [_fleet(platform), *(_service(platform, service) for service in platform.catalog.services.values())]


def _fleet(platform: Platform) -> dg.AssetsDefinition:
    schema = [dg.AssetKey(["schema", name]) for name in platform.catalog.databases]

    @dg.asset(
        key=FLEET,
        deps=[dg.AssetKey(["infrastructure", "router"]), dg.AssetKey(["infrastructure", "state"]), *schema],
        group_name="services",
        description="Brings all services to what the release wants, side by side, in waves of their dependencies.",
        kinds={"service"},
        owners=["team:platform"],
        code_version=platform.catalog.release_of(platform.environment).name,
        tags={"dr-platform/layer": "services"},
    )
    def fleet(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        return materialized(carried_out(lambda: bring_up.converge_fleet(platform, context.log.info)))

    return fleet


def _service(platform: Platform, service: Service) -> dg.AssetsDefinition:
    workload = platform.workload(service.name)
    needed = [dg.AssetKey(["services", name]) for name in service.needs.services]
    needed += [dg.AssetKey(["schema", name]) for name in service.needs.databases]

    @dg.asset(
        key=["services", service.name],
        deps=[FLEET, *needed],
        group_name=f"services/{service.tier.value.replace('-', '_')}",
        description=service.description,
        kinds={"service", KINDS[service.language.value]},
        owners=[service.owner],
        code_version=f"{workload.revision.version}:{workload.revision.config_hash}",
        tags={
            "dr-platform/layer": "services",
            "dr-platform/tier": service.tier.value,
            "dr-platform/data-class": service.data_class.value,
        },
        metadata={"port": service.port + platform.port_offset, "version": workload.revision.version},
        pool=f"service_{service.name.replace('-', '_')}",
        retry_policy=dg.RetryPolicy(max_retries=1, delay=2),
    )
    def converged(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        act = lambda: bring_up.converge_service(platform, service.name, context.log.info)  # noqa: E731
        return materialized(carried_out(act))

    return converged
