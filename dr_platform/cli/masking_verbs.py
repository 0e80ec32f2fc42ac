"""``drp mask``: production's data for staging, with nobody in it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.markup import escape

from dr_platform.cli.context import Choice, JsonOption, console, mark, print_json, say
from dr_platform.errors import ExitCode
from dr_platform.masking.port import MaskSource
from dr_platform.masking.recipe import Profile
from dr_platform.masking.run import Report
from dr_platform.platform import Platform


def mask(
    context: typer.Context,
    source: Annotated[
        str, typer.Option("--from", metavar="SOURCE", help="`production-backup`, the id of a backup, or `live`.")
    ],
    into: Annotated[str, typer.Option("--into", metavar="ENVIRONMENT", help="Whose servers get the new databases.")],
    profile: Annotated[Profile, typer.Option(help="What the law asks for.")] = Profile.SAFE_HARBOR,
    only_plan: Annotated[bool, typer.Option("--plan", help="Show what would be done; write nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Mask a copy of an environment's databases into new ones; 0 only if every gate passed."""
    from dr_platform import masked_staging

    choice: Choice = context.obj
    target = Platform.open(into, catalog=choice.catalog, state=choice.state, runtime=choice.runtime)
    with open_source(choice, source, target) as (platform, opened):
        if only_plan:
            _show_plan(masked_staging.plan(platform, opened, target, profile), as_json=as_json)
            return
        report = masked_staging.mask_into(platform, opened, target, profile, say)
    if as_json:
        print_json({**report.as_json(), "switch": list(masked_staging.switch(target, report))})
    else:
        _show(report, masked_staging.switch(target, report))
    if not report.passed:
        raise typer.Exit(ExitCode.FAILED)


@contextmanager
def open_source(choice: Choice, name: str, into: Platform) -> Generator[tuple[Platform, MaskSource]]:
    """The source that a person named, with the platform of its environment. A restored copy is gone at the end."""
    from dr_platform.masked_staging import LIVE, LiveSource, check
    from dr_platform.restored_source import environment_named, restored

    platform = choice.platform()
    if name == LIVE:
        yield platform, LiveSource(platform)
        return
    if (environment := environment_named(platform.catalog, name)) is not None:
        platform = replace(choice, environment=environment).platform()
    check(platform, into)
    with restored(platform, None if environment is not None else name, say) as source:
        yield platform, source


def _show_plan(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    console.print(f"{found['source']} into {found['into']}, profile {found['profile']}", markup=False)
    for name, part in found["databases"].items():
        console.print(f"{name}: into the new database {part['target']}", markup=False)
        console.print(f"  masked: {', '.join(part['masked'])}", markup=False)
        for table, why in part["dropped"].items():
            console.print(f"  dropped: {table} ({why})", markup=False)


def _show(report: Report, switch: Sequence[str]) -> None:
    for gate in report.gates:
        console.print(f"{mark(gate.passed)} {escape(gate.name)}: {escape(gate.detail)}")
    console.print(f"{report.describe()} in {report.duration_s:.1f} s", markup=False)
    if report.passed:
        for name, database in report.databases.items():
            console.print(f"{name}: {database}", markup=False)
        console.print("To switch to them:", markup=False)
        for step in switch:
            console.print(f"  {step}", markup=False)


def register(app: typer.Typer) -> None:
    app.command()(mask)
