"""Assets for what the law asks to be known."""

import dagster as dg

from dr_platform import open_incidents
from dr_platform.platform import Platform
from dr_platform.resources import carried_out, incidents_metadata


def compliance_assets(platform: Platform) -> list[dg.AssetsDefinition]:
    @dg.asset(
        key=["compliance", "incidents"],
        deps=[dg.AssetKey(["infrastructure", "state"])],
        group_name="compliance",
        description="Incidents that are not closed, with their breach assessments and notices.",
        kinds={"postgres"},
        owners=["team:platform"],
        tags={"dr-platform/layer": "compliance"},
        retry_policy=dg.RetryPolicy(max_retries=2, delay=2),
    )
    def incidents() -> dg.MaterializeResult:
        found = carried_out(lambda: open_incidents.look(platform.incidents))
        return dg.MaterializeResult(metadata=incidents_metadata(found))

    return [incidents]
