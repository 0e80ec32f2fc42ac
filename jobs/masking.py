"""The job that masks a copy of this environment's data into another environment."""

from typing import Literal

import dagster as dg

from dr_platform.masked_staging import LiveSource, mask_into
from dr_platform.masking.recipe import Profile
from dr_platform.platform import Platform
from dr_platform.resources import carried_out


class MaskingConfig(dg.Config):
    """What the launchpad asks for."""

    into: str = "staging"
    profile: Literal["safe_harbor", "expert_determination"] = "safe_harbor"


def masking_job(platform: Platform) -> dg.JobDefinition:
    @dg.op(
        name="mask_databases",
        description="Masks into new databases; every gate is an expectation of the run.",
        out=dg.Out(dg.Nothing),
    )
    def mask_databases(context: dg.OpExecutionContext, config: MaskingConfig) -> None:
        into = Platform.open(
            config.into,
            catalog=platform.catalog.root,
            state=platform.state.root.parent,
            runtime=platform.binding.runtime,
        )
        report = carried_out(
            lambda: mask_into(platform, LiveSource(platform), into, Profile(config.profile), context.log.info)
        )
        context.add_output_metadata({"summary": report.describe(), **report.measurements(), **dict(report.databases)})
        for gate in report.gates:
            context.log_event(
                dg.ExpectationResult(success=gate.passed is True, label=gate.name, description=gate.detail)
            )
        if not report.passed:
            raise dg.Failure(description=report.describe(), allow_retries=False)

    @dg.job(
        name="mask",
        description="Masks this environment's databases into new ones of another; a failed gate removes them.",
        executor_def=dg.in_process_executor,
    )
    def masked() -> None:
        mask_databases()

    return masked
