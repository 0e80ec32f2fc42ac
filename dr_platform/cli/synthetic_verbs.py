"""The verb that fills databases with invented patients."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Annotated

import typer

from dr_platform.cli.context import JsonOption, console, platform_of, print_json, say
from dr_platform.errors import ExitCode
from dr_platform.identity import current_actor

_MOST_PROCESSES = 16


def synthesize(
    context: typer.Context,
    seed: Annotated[int, typer.Option(help="Another seed makes other people.")] = 1,
    scale: Annotated[float, typer.Option(help="1 is 1,000 patients with about 70,000 messages.")] = 1.0,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Last day on which anything happens.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Remove the synthetic data that is there first; audit events stay.")
    ] = False,
    processes: Annotated[int, typer.Option(min=1, max=_MOST_PROCESSES, help="How many make and load at once.")] = min(
        2, os.cpu_count() or 1
    ),
    as_json: JsonOption = False,
) -> None:
    """Fill the databases with invented patients, the same for the same seed; 0 only when all of it is there."""
    from dr_platform.synthesis import synthesize as carry_out
    from dr_platform.synthetic.plan import LAST_DAY, Existing, Plan

    plan = Plan(seed, scale, until.date() if until else LAST_DAY)
    existing = Existing.REPLACED if replace else Existing.KEPT
    platform = platform_of(context)
    outcome = carry_out(platform, plan, current_actor(), say, existing=existing, processes=processes)
    if as_json:
        print_json(outcome.as_json())
    else:
        console.print(outcome.describe(), markup=False)
    if not outcome.report.finished:
        raise typer.Exit(ExitCode.UNAVAILABLE)


def register(app: typer.Typer) -> None:
    app.command()(synthesize)
