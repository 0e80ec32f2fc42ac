"""How a replica of a service is started on this machine: the reference service's command line."""

from __future__ import annotations

from collections.abc import Mapping

from dr_platform.runtime.local.programs import Program
from dr_platform.runtime.port import Slot, Workload

SETTING_PREFIX = "DRP_SETTING_"


def launch(workload: Workload, slot: Slot, environment: Mapping[str, str], python: str) -> Program:
    """A program whose replicas differ by their port alone. Where it runs (replicas, first port) is
    filled in by the runtime."""
    service = workload.service
    settings = {SETTING_PREFIX + key.upper(): value for key, value in workload.settings.items()}
    return Program(
        name=f"{service.name}-{slot}",
        argv=(
            *(python, "-m", "dr_platform.reference_service"),
            *("--service", service.name, "--slot", slot.value, "--port", "%(process_num)d"),
        ),
        environment={
            **environment,
            **settings,
            "DRP_VERSION": workload.revision.version,
            "DRP_DIGEST": workload.revision.digest,
            "DRP_CONFIG_HASH": workload.revision.config_hash,
        },
        start_s=5.0,
        stop_s=service.drain + 5.0,
        priority=700,
    )
