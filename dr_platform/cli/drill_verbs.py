"""``drp drill``: from the bucket and the escrow identity alone, everything comes back, and the time is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from dr_platform.backups.drill import Drill
from dr_platform.cli.completion import names_of
from dr_platform.cli.context import JsonOption, console, mark, platform_of, print_json, say
from dr_platform.drill import DisasterDrill, identity_of
from dr_platform.errors import ExitCode
from dr_platform.identity import current_actor


def drill(
    context: typer.Context,
    databases: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATABASE]...", help="These alone; else all of the catalog.", autocompletion=names_of("database")
        ),
    ] = None,
    identity: Annotated[
        Path | None,
        typer.Option(help="File with the escrow identity; DRP_ESCROW_IDENTITY, else that of synthetic data."),
    ] = None,
    signer: Annotated[str, typer.Option(help="Public key that must have signed, as you wrote it down.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Rehearse a disaster: bring every database back into a server of its own; 0 only if all are equal and in time."""
    platform = platform_of(context)
    file = identity_of(platform, identity)
    found = DisasterDrill(platform, file, say, signer).run(current_actor(), databases or ())
    if as_json:
        print_json(found.as_json())
    else:
        _show(found)
    if found.passed is not True:
        raise typer.Exit(ExitCode.FAILED)


def _show(found: Drill) -> None:
    table = Table("", "tier", "database", "backup", "rows", "back after", "would have lost", "answer", box=None)
    for each in found.returned:
        lost = "-" if each.lost_s is None else f"{each.lost_s:,.0f} s"
        broken = "".join(f", {name} broken" for name in each.broken)
        table.add_row(
            mark(each.passed), str(each.tier), each.database, each.backup or "-", f"{each.attempt.rows:,}",
            f"{each.attempt.restore_s:.1f} s", lost, escape(f"{each.attempt.state}{broken}: {each.attempt.reason}"),
        )  # fmt: skip
    console.print(table)
    console.print(f"{found.describe()}; the drill took {found.seconds:.1f} s", markup=False)


def register(app: typer.Typer) -> None:
    app.command()(drill)
