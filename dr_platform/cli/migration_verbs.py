"""The verb about schemas: migrate."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Column, Table

from dr_platform.approvals import person_at_work
from dr_platform.cli.completion import DatabaseArgument
from dr_platform.cli.context import JsonOption, console, platform_of, print_json, say
from dr_platform.cli.promotion_verbs import AsOption
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.identity import current_actor, signed_in_person
from dr_platform.migrations.planning import Direction, Plan
from dr_platform.migrations.rehearsal import Rehearsal
from dr_platform.platform import Platform
from dr_platform.readiness import accepted_proofs
from dr_platform.schema_approvals import ask, record_and_carry_out, require_approval
from dr_platform.schema_changes import Target, plan_change, rehearse_change


class Destructive(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, losses: tuple[str, ...]) -> None:
        super().__init__(name, losses)
        self.what = f"{name}: this destroys {', '.join(losses)}"
        self.untouched = f"the schema of {name}"
        self.next_step = "see `--plan`; repeat with --yes if that is what you want"


class Contradiction(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.what = why
        self.untouched = "every schema"
        self.next_step = "see `drp migrate --help`"


def migrate(
    context: typer.Context,
    database: DatabaseArgument,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be done, and do nothing.")] = False,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Try it on a copy: times, locks, and the way back.")
    ] = False,
    to: Annotated[str | None, typer.Option("--to", help="Up, or back, to this version.")] = None,
    down: Annotated[int, typer.Option("--down", min=0, help="Take this many steps back by their U files.")] = 0,
    yes: Annotated[bool, typer.Option("--yes", help="Also what destroys data.")] = False,
    request: Annotated[bool, typer.Option("--request", help="Ask that others agree to exactly this plan.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why, for auditors; no secrets, no patient data.")] = "",
    as_name: AsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a schema to its newest version, or back; judged first, and with a verified backup where data is real."""
    if to is not None and down:
        raise Contradiction("--to and --down say two different things")
    if request and not reason:
        raise Contradiction("--request needs a --reason")
    platform = platform_of(context)
    change = plan_change(platform, database, Target(to, down))
    if plan:
        _show_plan(change, as_json=as_json)
    elif rehearse:
        _show_rehearsal(rehearse_change(platform, change, say), as_json=as_json)
    elif request:
        _ask(platform, change, reason, as_name, as_json=as_json)
    else:
        _carry_out(platform, change, destroy=yes, as_json=as_json)


def _carry_out(platform: Platform, change: Plan, *, destroy: bool, as_json: bool) -> None:
    if change.steps:
        losses = tuple(loss for planned in change.steps for loss in planned.effects.losses)
        if losses and not destroy:
            raise Destructive(change.database, losses)
        require_approval(platform, change)
        changed = record_and_carry_out(platform, change, current_actor(), say)
        versions, current = [record.version for record in changed.records], changed.current
    else:
        versions, current = [], change.current or "none"
    word = "taken_back" if change.direction is Direction.BACK else "applied"
    if as_json:
        print_json({"database": change.database, "current": current, word: versions})
    else:
        done = ", ".join(versions) or "nothing"
        console.print(f"{change.database}: schema {current}; {word.replace('_', ' ')} now: {done}", markup=False)


def _show_plan(change: Plan, *, as_json: bool) -> None:
    if as_json:
        print_json(change.as_json())
        return
    console.print(
        f"{change.database}: from {change.current or 'an empty schema'} to {change.target or 'an empty schema'}",
        markup=False,
    )
    shown = Table("version", "description", "phase", Column("locks", overflow="fold"), "destroys", box=None)
    for planned in change.steps:
        effects = planned.effects
        locks = [*effects.locks, *(f"reads or rewrites {table} whole" for table in effects.rewrites)]
        shown.add_row(
            planned.step.version,
            planned.step.description,
            planned.phase,
            "\n".join(locks) or "-",
            "\n".join(effects.losses) or "-",
        )
    console.print(shown if change.steps else "nothing is to be done")


def _show_rehearsal(found: Rehearsal, *, as_json: bool) -> None:
    if as_json:
        print_json(found.as_json())
    else:
        shown = Table("version", "ms", Column("locks", overflow="fold"), "taken back", box=None)
        words = {True: "schema as before", False: "not as before", None: "no"}
        for step in found.steps:
            back = step.failure or (step.left.describe() if step.left else words[step.undone])
            shown.add_row(step.version, f"{step.duration_ms:.0f}", "\n".join(step.locks) or "-", back)
        console.print(shown)
        console.print(found.describe(), markup=False)
    if not found.passed:
        raise typer.Exit(ExitCode.FAILED)


def _ask(platform: Platform, change: Plan, reason: str, as_name: str | None, *, as_json: bool) -> None:
    person = person_at_work(as_name, signed_in_person(), accepted_proofs(platform))
    made = ask(platform, change, person, reason)
    needed = platform.environment.approvals.required
    if as_json:
        print_json({"request": made.id, "database": change.database, "plan": made.plan_digest, "needed": needed})
    else:
        console.print(f"{made.id}: {needed} others must approve it with `drp approve {made.id}`", markup=False)


def register(app: typer.Typer) -> None:
    app.command()(migrate)
