"""Starting and ending what must run before Dagster can: supervisor, system database, orchestrator.

Here: the steps `drp up` takes before it submits a run, and what `drp down` and `drp reset` end. Not
here: the assets of the run itself (``bring_up``).
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from dataclasses import dataclass, field

from dr_platform import log_archive
from dr_platform.bring_up import check_ports
from dr_platform.delivery import controller_program
from dr_platform.errors import PlatformError
from dr_platform.infrastructure import orchestrator
from dr_platform.intake.program import intake_program
from dr_platform.platform import Platform, definitions_digest
from dr_platform.runtime.local.keeper import keeper_program
from dr_platform.verdict import Progress

SYSTEM_START_S = 30.0


@dataclass
class Acquisition:
    """Engines being made ready beside the rest of the start. A failed one is reported by its asset,
    which acquires again and then finds out why."""

    threads: list[threading.Thread] = field(default_factory=list)


def start_foundation(platform: Platform, progress: Progress) -> Acquisition:
    """Run everything that Dagster itself stands on, and Dagster; returns when all are told to run.

    Raises ``PortsBusy`` before anything was started. On a running platform nothing is restarted.
    """
    platform.require_local()
    check_ports(platform)
    platform.state.make()
    supervisor = platform.supervisor
    if not supervisor.running():
        progress("supervisor: starting")
        supervisor.start(platform.process_environment())
    supervisor.put([keeper_program(platform.state)])
    _start_system_database(platform, progress)
    put_orchestrator(platform)
    platform.supervisor.put([controller_program(platform), log_archive.program(platform)])
    if platform.environment.intake is not None:
        platform.supervisor.put([intake_program(platform)])
    progress("dagster and controller: starting")
    return _acquire_engines(platform, progress)


def put_orchestrator(platform: Platform) -> None:
    """Run Dagster with the definitions of this moment: a process that loaded others is restarted."""
    orchestrator.write_configuration(platform.state, platform.system_database.url("dagster"))
    digest = definitions_digest(platform.catalog.root)
    platform.supervisor.put(
        orchestrator.programs(platform.state, platform.process_environment(), platform.port_offset, digest)
    )


def _start_system_database(platform: Platform, progress: Progress) -> None:
    server = platform.system_database
    server.acquire(progress)
    server.prepare()
    platform.supervisor.put([server.program()])
    server.initialise(SYSTEM_START_S)
    progress("operations-db: answers")


def _acquire_engines(platform: Platform, progress: Progress) -> Acquisition:
    acquisition = Acquisition()

    def acquire(name: str) -> None:
        try:
            platform.embedded_server(name).acquire(progress)
        except PlatformError as exc:
            progress(f"{name}: {exc.what}")

    for name in platform.catalog.databases:
        thread = threading.Thread(target=acquire, args=(name,), name=f"acquire-{name}", daemon=True)
        thread.start()
        acquisition.threads.append(thread)
    return acquisition


def stop(platform: Platform, progress: Progress) -> None:
    """End every process of this environment; state stays. Nothing running is no error."""
    platform.require_local()
    platform.supervisor.stop(progress)
    shutil.rmtree(platform.system_database.sockets, ignore_errors=True)
    with contextlib.suppress(OSError):  # a restore that goes on has its sockets there
        platform.state.run.rmdir()


def erase(platform: Platform, progress: Progress) -> None:
    """Remove all state of this environment. The caller has stopped it and has asked."""
    for folder in (platform.state.root, platform.state.run):
        if folder.exists():
            shutil.rmtree(folder)
            progress(f"removed {folder}")
