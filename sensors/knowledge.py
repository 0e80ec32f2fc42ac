"""The knowledge sensor: seeds a set again when its source has changed or it was not compared for long. No decisions."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from dr_platform.health import looks
from dr_platform.knowledge_upkeep import due
from dr_platform.platform import Platform
from dr_platform.resources import History, answering, loadless, reseed_request, tried_before, tried_now


def knowledge_sensor(platform: Platform, job: UnresolvedAssetJobDefinition) -> dg.SensorDefinition:
    checks = loadless(look for look in looks(platform) if look.asset[0] == "knowledge")

    @dg.sensor(
        name="knowledge",
        job=job,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Seeds a knowledge set again when its articles change or its freshness runs out, within a budget.",
    )
    @answering
    def knowledge(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        tried = tried_before(context.cursor)
        found = due(platform, tried, History(context.instance).busy)
        for left in found.left:
            context.log.debug("%s: %s", left.name, left.why)
        return dg.SensorResult(
            run_requests=[reseed_request(reseed, checks) for reseed in found.reseeds],
            cursor=tried_now(tried, found.reseeds),
            skip_reason=None if found.reseeds else found.summary(),
        )

    return knowledge
