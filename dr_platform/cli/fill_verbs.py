"""The verb about filling in data: fill."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from dr_platform.cli.completion import DatabaseArgument
from dr_platform.cli.context import JsonOption, console, platform_of, print_json, say
from dr_platform.data_filling import fill_here, try_batch
from dr_platform.schema_changes import steps_of


def fill(
    context: typer.Context,
    database: DatabaseArgument,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A step that fills in data in batches.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Try one batch, and roll it back.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Fill in the data of one batched step; `drp migrate` runs this as a job. Repeating it goes on."""
    platform = platform_of(context)
    steps = steps_of(platform, database)
    if dry_run:
        tried = try_batch(platform, database, version, steps)
        if as_json:
            print_json({**asdict(tried), "rows_per_s": tried.rows_per_s, "left_s": tried.left_s})
        else:
            console.print(f"{database}: {version}, one batch, rolled back: {tried.describe()}", markup=False)
        return
    fill_here(platform, database, version, steps, say)
    if as_json:
        print_json({"database": database, "version": version, "filled": True})
    else:
        console.print(f"{database}: {version} is filled in", markup=False)


def register(app: typer.Typer) -> None:
    app.command()(fill)
