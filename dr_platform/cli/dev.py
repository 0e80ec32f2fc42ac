"""``drp dev``: what changed on disk is what runs, a few seconds later."""

from __future__ import annotations

from dr_platform.cli.context import Choice
from dr_platform.cli.follow import follow
from dr_platform.clock import Clock, SystemClock
from dr_platform.dagster_client import DagsterClient
from dr_platform.errors import PlatformError
from dr_platform.lifecycle import put_orchestrator
from dr_platform.platform import definitions_digest, find_catalog
from dr_platform.status import urls
from dr_platform.verdict import Progress

LOOK_S = 1.0


def watch(choice: Choice, progress: Progress, clock: Clock | None = None) -> None:
    """Look each second; a change that does not load is reported and leaves everything as it runs."""
    clock = clock or SystemClock()
    root = find_catalog(choice.catalog)
    loaded = definitions_digest(root)
    progress("watching the catalog and the code; stop with Ctrl-C, the platform goes on")
    while True:
        clock.sleep(LOOK_S)
        found = definitions_digest(root)
        if found == loaded:
            continue
        loaded = found
        progress("something changed: reloading")
        try:
            _reload(choice)
        except PlatformError as exc:
            progress(str(exc))


def _reload(choice: Choice) -> None:
    platform = choice.platform()
    put_orchestrator(platform)
    client = DagsterClient(urls(platform)["dagster"])
    client.wait_until_ready(60.0)
    follow(client, client.launch_job("bring_up", "services"))
