"""``drp switch``: a restored database goes live in place of the one that is."""

from __future__ import annotations

from typing import Annotated

import typer

from dr_platform.backup_desk import BackupDesk
from dr_platform.backups.switch import AlreadyDone, SwitchPlan
from dr_platform.cli.completion import DatabaseArgument
from dr_platform.cli.context import JsonOption, console, platform_of, print_json, say
from dr_platform.database_switch import SwitchDesk
from dr_platform.errors import ExitCode
from dr_platform.identity import current_actor


def switch(
    context: typer.Context,
    database: DatabaseArgument,
    to: Annotated[str, typer.Option("--to", help="What `drp restore` made, or what an earlier switch kept.")],
    confirm: Annotated[
        str | None, typer.Option("--confirm", help="The same name again, once you have read the plan.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why, for the record; needed where the plan says so.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what going live with a restored database means; with its name as confirmation, do it and look at services.

    What was live is kept. A repetition finds it done, or finishes it.
    """
    desk = SwitchDesk(BackupDesk(platform_of(context), say))
    if confirm is None:
        _show_plan(desk.plan(database, to), to, as_json=as_json)
        raise typer.Exit(ExitCode.REFUSED)
    done = desk.switch(database, to, confirm, current_actor(), reason)
    if as_json:
        print_json(done.as_json())
    else:
        for line in done.lines():
            console.print(line, markup=False, soft_wrap=True)
    if done.exit_code:
        raise typer.Exit(done.exit_code)


def _show_plan(plan: SwitchPlan | AlreadyDone, to: str, *, as_json: bool) -> None:
    if isinstance(plan, AlreadyDone):
        last = plan.last
        if as_json:
            print_json({"done": True, "to": last.to, "before": last.before, "at": last.at.isoformat()})
        else:
            done = f"{last.to} is live since {last.at:%Y-%m-%d %H:%M:%S} UTC, what was live is {last.before}"
            console.print(f"{done}. Look at its services with --confirm {to}", markup=False, soft_wrap=True)
        return
    if as_json:
        print_json({**plan.as_json(), "confirmed": False})
        return
    for line in plan.lines():
        console.print(line, markup=False, soft_wrap=True)
    reason = " and --reason" if plan.objections else ""
    console.print(f"Nothing was done. To go on, repeat with --confirm {to}{reason}", markup=False, soft_wrap=True)


def register(root: typer.Typer) -> None:
    root.command()(switch)
