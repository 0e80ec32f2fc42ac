"""``drp archive-log``: the databases' logs on their way into the store of backups."""

from __future__ import annotations

import signal
import threading
from dataclasses import asdict
from typing import Annotated

import typer

from dr_platform import log_archive
from dr_platform.cli.context import JsonOption, console, platform_of, print_json, say


def archive_log(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Store what waits now, say what is left, and end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Archive the write-ahead log of PostgreSQL until stopped; the supervisor runs it."""
    platform = platform_of(context)
    if not once:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        log_archive.keep_drained(platform, stop, say)
        return
    for database, spool in log_archive.spools(platform):
        log_archive.drain(platform, database, spool)
    found = log_archive.behind(platform)
    if as_json:
        print_json([asdict(one) for one in found])
        return
    for one in found:
        console.print(f"{one.database}: {one.segments} segments wait, newest archived {one.archived}", markup=False)


def register(app: typer.Typer) -> None:
    app.command(name="archive-log")(archive_log)
