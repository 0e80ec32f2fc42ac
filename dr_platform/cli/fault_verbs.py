"""``drp fault``: make one version of one service misbehave on the local runtime, to see what happens."""

from __future__ import annotations

from typing import Annotated

import typer

from dr_platform.cli.completion import ServiceArgument
from dr_platform.cli.context import JsonOption, console, platform_of, print_json
from dr_platform.faults import FaultStore, parse_compliance_flags, parse_seconds
from dr_platform.platform import Platform
from dr_platform.runtime.port import UnknownService

app = typer.Typer(help="Misbehaviour on request, local runtime only.", no_args_is_help=True)


def _store(platform: Platform) -> FaultStore:
    return FaultStore(platform.state.faults, runtime=platform.binding.runtime)


@app.command()
def inject(
    context: typer.Context,
    service: ServiceArgument,
    version: Annotated[str, typer.Option(help="The version that shall misbehave, deployed or not.")],
    error_ratio: Annotated[float | None, typer.Option(help="Share of requests answered 500, 0 to 1.")] = None,
    latency_ms: Annotated[float | None, typer.Option(help="Added to every answer.")] = None,
    unready: Annotated[bool, typer.Option("--unready", help="The readiness probe fails.")] = False,
    compliance_flag: Annotated[
        list[str] | None, typer.Option(help="A field of the compliance block, such as encryption_active=false.")
    ] = None,
    after: Annotated[str, typer.Option(help="Begin this long after that version's start, such as 10s.")] = "0s",
    until_restart: Annotated[
        bool, typer.Option("--until-restart", help="End when the process is started anew.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a version misbehave. Health probes and metrics are spared by errors and latency."""
    platform = platform_of(context)
    if service not in platform.catalog.services:
        raise UnknownService(service, tuple(platform.catalog.services))
    fault = _store(platform).inject(
        service,
        version,
        error_ratio=error_ratio,
        latency_ms=latency_ms,
        unready=unready,
        compliance_flags=parse_compliance_flags(compliance_flag or []),
        after_s=parse_seconds(after),
        until_restart=until_restart,
    )
    if as_json:
        print_json(fault.as_json())
    else:
        console.print(f"{fault.id}: {fault.describe()}", markup=False)


@app.command(name="list")
def list_faults(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show all faults that were asked for."""
    faults = _store(platform_of(context)).list()
    if as_json:
        print_json([f.as_json() for f in faults])
        return
    for fault in faults:
        console.print(f"{fault.id}: {fault.describe()}", markup=False)
    if not faults:
        console.print("no faults")


@app.command()
def clear(
    context: typer.Context,
    service: Annotated[str | None, typer.Argument(help="Only this service's faults; all without it.")] = None,
) -> None:
    """End faults; replicas behave again within a second."""
    console.print(f"cleared {_store(platform_of(context)).clear(service)} faults")


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="fault")
