"""Ending the platform's parts in reverse order, as a job; Dagster and what it stands on go on."""

from __future__ import annotations

from dr_platform.platform import Platform
from dr_platform.rollout.converge import remove_services
from dr_platform.verdict import Progress


def teardown(platform: Platform, progress: Progress) -> None:
    """Close and empty every service, last wave first, then end router and databases. Data stays."""
    runtime = platform.local_runtime
    declared = runtime.declared()
    platform.supervisor.remove(["traffic"])
    for wave in reversed(platform.catalog.waves):
        remove_services(runtime, declared & set(wave), progress)
    remove_services(runtime, runtime.declared(), progress)
    runtime.stop_router()
    progress("router: ended")
    platform.supervisor.remove(list(platform.catalog.databases))
    progress("databases: ended")
