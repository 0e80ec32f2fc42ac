"""How a replica of a service is started on this machine: the reference service's command line."""

from __future__ import annotations

from collections.abc import Mapping

from dr_platform.runtime.local.programs import Program
from dr_platform.runtime.local.runtime import Launch
from dr_platform.runtime.port import Slot, Workload

SETTING_PREFIX = "DRP_SETTING_"


def launch(workload: Workload, slot: Slot, environment: Mapping[str, str], python: str) -> Launch:
    """A command line whose replicas differ by their port alone."""
    settings = {SETTING_PREFIX + key.upper(): value for key, value in workload.settings.items()}
    return Launch(
        argv=(
            *(python, "-m", "dr_platform.reference_service", "--service", workload.service.name),
            *("--slot", slot.value, "--port", "%(process_num)d"),
        ),
        environment={
            **environment,
            **settings,
            "DRP_VERSION": workload.revision.version,
            "DRP_DIGEST": workload.revision.digest,
            "DRP_CONFIG_HASH": workload.revision.config_hash,
        },
    )


def traffic_program(environment: Mapping[str, str], python: str, rate: float) -> Program:
    """The load generator, ``rate`` requests a second in the mean."""
    return Program(
        name="traffic",
        argv=(python, "-m", "dr_platform.reference_service.traffic", "--rate", f"{rate:g}"),
        environment=environment,
        priority=900,
    )
