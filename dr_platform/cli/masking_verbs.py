"""``drp mask``: production's data for staging, with nobody in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.markup import escape

from dr_platform.cli.context import Choice, JsonOption, console, mark, print_json, say
from dr_platform.errors import ExitCode
from dr_platform.masking.recipe import Profile
from dr_platform.masking.run import Report


def mask(
    context: typer.Context,
    source: Annotated[str, typer.Option("--from", metavar="SOURCE", help="`live`, where all data is synthetic.")],
    into: Annotated[str, typer.Option("--into", metavar="ENVIRONMENT", help="Whose servers get the new databases.")],
    profile: Annotated[Profile, typer.Option(help="What the law asks for.")] = Profile.SAFE_HARBOR,
    only_plan: Annotated[bool, typer.Option("--plan", help="Show what would be done; write nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Mask a copy of an environment's databases into new ones; 0 only if every gate passed."""
    from dr_platform import masked_staging
    from dr_platform.platform import Platform

    choice: Choice = context.obj
    platform = choice.platform()
    target = Platform.open(into, catalog=choice.catalog, state=choice.state, runtime=choice.runtime)
    opened = open_source(platform, source)
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


def open_source(platform: Any, name: str) -> Any:
    """The source that a person named."""
    from dr_platform.masked_staging import LIVE, LiveSource, NoRestoredSource

    if name != LIVE:
        raise NoRestoredSource(name, "nothing here brings a backup back")
    return LiveSource(platform)


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
