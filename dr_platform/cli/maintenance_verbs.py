"""``drp maintenance``: answer callers with a notice while somebody works on the platform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from dr_platform.catalog.quantities import parse_duration, text_duration
from dr_platform.cli.context import JsonOption, console, mark, messages, platform_of, print_json
from dr_platform.errors import ExitCode
from dr_platform.identity import current_actor
from dr_platform.maintenance import TEXT, TITLE, Change, Order, Suspension, begin, end, entry, every_public
from dr_platform.maintenance import show as look
from dr_platform.runtime.notice import Notice

app = typer.Typer(help="Answer callers with a notice while somebody works on the platform.", no_args_is_help=True)


@app.command()
def on(
    context: typer.Context,
    reason: Annotated[str, typer.Option(help="Why, for the evidence log; callers do not see it.")],
    wait: Annotated[str, typer.Option("--for", help="How long callers are asked to wait, at most 24 h.")] = "30min",
    everything: Annotated[
        bool, typer.Option("--all", help="Every public service instead of the gateway alone.")
    ] = False,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = TITLE,
    text: Annotated[str, typer.Option(help="What callers read below it.")] = TEXT,
    as_json: JsonOption = False,
) -> None:
    """Answer 503 with a page at the gateway, until switched off; operators and probes still get through."""
    platform = platform_of(context)
    notice, order = _notice(title, text, wait), _order(reason)
    services = every_public(platform.catalog) if everything else entry(platform.catalog)
    _report(begin(platform.runtime, platform.evidence, services, notice, order), "suspended", as_json=as_json)


@app.command()
def off(
    context: typer.Context,
    reason: Annotated[str, typer.Option(help="Why, for the evidence log.")] = "maintenance is over",
    as_json: JsonOption = False,
) -> None:
    """Let callers through again, at every service that was suspended."""
    platform = platform_of(context)
    changes = end(platform.runtime, platform.evidence, _order(reason))
    _report(changes, "open again", as_json=as_json)
    if not changes and not as_json:
        console.print("no service was suspended")


@app.command()
def show(context: typer.Context, as_json: JsonOption = False) -> None:
    """What is suspended, with its notice, and whether the router does so."""
    found = look(platform_of(context).runtime)
    if as_json:
        print_json([_row(suspension) for suspension in found])
    else:
        _show(found)
    if any(suspension.in_use is False for suspension in found):
        raise typer.Exit(ExitCode.FAILED)
    if any(suspension.in_use is None for suspension in found):
        raise typer.Exit(ExitCode.UNAVAILABLE)


def _row(suspension: Suspension) -> dict[str, object]:
    return {"service": suspension.service, **asdict(suspension.notice), "in_use": suspension.in_use}


def _show(found: Sequence[Suspension]) -> None:
    for suspension in found:
        notice = suspension.notice
        console.print(f"{suspension.service}: suspended, as told to the router: {mark(suspension.in_use)}")
        console.print(f"  {notice.title} (come back in {text_duration(notice.retry_after_s)})", markup=False)
        for line in notice.text.splitlines():
            console.print(f"  {line}", markup=False, soft_wrap=True)
    if not found:
        console.print("no service is suspended")


def _report(changes: Sequence[Change], became: str, *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(change) for change in changes])
    for change in changes:
        if not as_json:
            console.print(f"{change.service}: {became if change.done else 'not changed, or not seen to be'}")
        for problem in change.problems:
            messages.print(f"{change.service}: {problem}", markup=False, soft_wrap=True)
    if codes := [change.exit_code for change in changes if change.exit_code]:
        raise typer.Exit(min(codes))


def _notice(title: str, text: str, wait: str) -> Notice:
    try:
        seconds = parse_duration(wait)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--for") from None
    try:
        return Notice(title, text, round(seconds))
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from None


def _order(reason: str) -> Order:
    try:
        return Order(current_actor(), reason)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--reason") from None


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="maintenance")
