"""Checks of all assets, grouped so that one step evaluates many side by side."""

from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter

import dagster as dg

from dr_platform.health import looks
from dr_platform.look import Look
from dr_platform.platform import Platform
from dr_platform.resources import check_result, key_of, shown_on_asset
from dr_platform.watch import RUN_BUDGET_S, look_at_all


def check_definitions(platform: Platform) -> list[dg.AssetChecksDefinition]:
    step = attrgetter("step")
    ordered = sorted(looks(platform), key=step)
    return [_group(platform, name, list(members)) for name, members in groupby(ordered, key=step)]


def _group(platform: Platform, name: str, members: list[Look]) -> dg.AssetChecksDefinition:
    by_key = {key_of(look): look for look in members}

    @dg.multi_asset_check(
        name=name,
        specs=[
            dg.AssetCheckSpec(
                look.check,
                asset=key.asset_key,
                description=look.description,
                blocking=look.blocking,
                additional_deps=[dg.AssetKey(list(asset)) for asset in look.after],
            )
            for key, look in by_key.items()
        ],
        can_subset=True,
    )
    def checks(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        selected = [by_key[key] for key in context.selected_asset_check_keys]
        for look, verdict in look_at_all(selected, platform.clock, RUN_BUDGET_S):
            if verdict.report:
                context.op_execution_context.log_event(shown_on_asset(look, verdict))
            yield check_result(look, verdict)

    return checks
