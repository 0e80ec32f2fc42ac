"""``drp emergency``: the emergency procedure of the deployment guide, from maintenance mode to the post-mortem."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dr_platform.cli.completion import names_of
from dr_platform.cli.context import JsonOption, console, platform_of, print_json, say
from dr_platform.errors import ExitCode
from dr_platform.identity import current_actor

if TYPE_CHECKING:
    from dr_platform.emergency import Call, Handled


def emergency(
    context: typer.Context,
    reason: Annotated[str, typer.Option(help="Why, for the incident; callers do not see it.")],
    service: Annotated[
        str | None, typer.Argument(help="The service that is in trouble.", autocompletion=names_of("service"))
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="The whole platform instead of one service.")] = False,
    security: Annotated[
        bool,
        typer.Option("--security", help="PHI may be exposed: what was promoted last goes back although it looks well."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Suspend, assess, mitigate, tell, verify, open again, draft the post-mortem. Repeated, it goes on."""
    from dr_platform.emergency import handle

    handled = handle(platform_of(context), _call(service, reason, everything=everything, security=security), say)
    if as_json:
        print_json(handled.as_json())
    else:
        _show(handled)
    if not handled.done:
        raise typer.Exit(ExitCode.FAILED)


def _call(service: str | None, reason: str, *, everything: bool, security: bool) -> Call:
    from dr_platform.emergency import EVERYTHING, Call
    from dr_platform.incidents import TriggerKind
    from dr_platform.maintenance import MAX_REASON

    if (service is None) != everything:
        raise typer.BadParameter("name one service, or say --all", param_hint="SERVICE")
    if not reason.strip() or len(reason) > MAX_REASON:
        raise typer.BadParameter(f"a reason has 1 to {MAX_REASON} characters", param_hint="--reason")
    kind = TriggerKind.SECURITY if security else TriggerKind.MANUAL
    return Call(service or EVERYTHING, reason, current_actor(), kind)


def _show(handled: Handled) -> None:
    for name, result in handled.steps:
        console.print(f"{name}: {result}", markup=False, soft_wrap=True)
    if handled.waits:
        console.print(f"waits for a person: {handled.waits}", markup=False, soft_wrap=True)
    console.print(f"incident {handled.incident}: {handled.status}", markup=False)


def register(app: typer.Typer) -> None:
    app.command()(emergency)
