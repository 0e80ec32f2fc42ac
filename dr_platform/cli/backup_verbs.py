"""``drp backup``, ``drp backups`` and ``drp restore``: take, list, keep and bring back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from dr_platform.backup_desk import BackupDesk, moment_of
from dr_platform.backups.catalogue import Record, State
from dr_platform.backups.errors import BackupFailed
from dr_platform.backups.keys import NoRecipient
from dr_platform.backups.port import Kind
from dr_platform.backups.restore import RestorePlan
from dr_platform.backups.retention import Plan
from dr_platform.cli.completion import DatabaseArgument
from dr_platform.cli.context import JsonOption, console, platform_of, print_json, say
from dr_platform.errors import ExitCode
from dr_platform.identity import current_actor

app = typer.Typer(help="Backups: list, prove, hold and remove them, and their keys.", invoke_without_command=True)
keys_app = typer.Typer(help="The keys that open and sign backups.", no_args_is_help=True)

ReasonOption = Annotated[str, typer.Option(help="Why, for the record.")]
BackupArgument = Annotated[str, typer.Argument(metavar="BACKUP", help="As `drp backups` shows it.")]
DatabaseOption = Annotated[str | None, typer.Option("--database", help="Of this database alone.")]
_COLOURS = {State.VERIFIED: "green", State.UNVERIFIED: "yellow", State.FAILED: "red"}


def _desk(context: typer.Context) -> BackupDesk:
    return BackupDesk(platform_of(context), say)


def backup(
    context: typer.Context,
    database: DatabaseArgument,
    kind: Annotated[Kind | None, typer.Option(help="What it is made of; else the one for disaster recovery.")] = None,
    reason: ReasonOption = "on demand",
    as_json: JsonOption = False,
) -> None:
    """Take a backup and prove it by a restore; 0 only when it is verified."""
    desk = _desk(context)
    try:
        record = desk.take(database, kind, reason, current_actor())
    except BackupFailed as exc:
        if as_json:
            print_json(_failed(desk, database, exc))
        raise
    if as_json:
        print_json(record.as_json())
    else:
        _show((record,))
    if record.state is not State.VERIFIED:
        raise typer.Exit(ExitCode.FAILED)


def _failed(desk: BackupDesk, database: str, exc: BackupFailed) -> dict[str, Any]:
    """As it is listed; a store that took no note of the failure leaves what is known here."""
    found = [record for record in desk.records(database) if record.id == exc.backup_id]
    if found:
        return found[0].as_json()
    now = desk.platform.clock.now()
    reason = f"{exc.cause}: {exc.detail}"
    return Record(exc.backup_id, database, None, State.FAILED, reason, now).as_json()


@app.callback()
def backups(context: typer.Context, database: DatabaseOption = None, as_json: JsonOption = False) -> None:
    """List backups, newest first, each with the state that its proof gave it."""
    if context.invoked_subcommand is not None:
        return
    desk = _desk(context)
    if database is not None:
        desk.require(database)
    records = desk.records(database)
    if as_json:
        print_json([record.as_json() for record in records])
    else:
        _show(records)


def _show(records: tuple[Record, ...]) -> None:
    table = Table("backup", "kind", "state", "taken", "stored", "raw", "took", "proof", "reason", box=None)
    for r in records:
        colour = _COLOURS[r.state]
        proof = "-" if r.proof_s is None else f"{r.proof_s:.1f} s"
        held = " (held)" if r.held else ""
        table.add_row(
            escape(r.id), r.kind or "-", f"[{colour}]{r.state}[/]{held}", f"{r.created_at:%Y-%m-%d %H:%M}",
            f"{r.size_bytes / 1e6:,.1f} MB", f"{r.raw_bytes / 1e6:,.1f} MB", f"{r.duration_s:.1f} s", proof,
            escape(r.reason),
        )  # fmt: skip
    console.print(table if records else "there is no backup yet")


@app.command()
def prove(context: typer.Context, backup_id: BackupArgument, as_json: JsonOption = False) -> None:
    """Restore a backup into a scratch server again and compare it; 0 only when it is verified."""
    proof = _desk(context).prove(backup_id, current_actor())
    if as_json:
        print_json(proof.model_dump(mode="json", by_alias=True))
    else:
        table = Table("check", "answer", "what was found", box=None)
        for check in proof.checks:
            table.add_row(check.name, {True: "ok", False: "bad", None: "not tried"}[check.passed], escape(check.detail))
        console.print(table)
        console.print(f"{backup_id}: {proof.state}; {proof.reason}", markup=False)
    if proof.state != "verified":
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def prune(
    context: typer.Context,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be removed, and remove nothing.")] = False,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove what no policy keeps: days, weeks, months and years, legal holds and parents stay."""
    desk = _desk(context)
    names = [database] if database else sorted(desk.platform.catalog.databases)
    if plan:
        planned = [desk.plan_prune(name) for name in names]
        if as_json:
            print_json([{**asdict(found), "size_bytes": found.size_bytes} for found in planned])
        else:
            _show_plans(planned)
        return
    pruned = [desk.prune(name, current_actor()) for name in names]
    if as_json:
        print_json([asdict(found) for found in pruned])
        return
    for found in pruned:
        freed = f"{len(found.removed)} backups, {found.objects} objects, {found.size_bytes / 1e6:,.1f} MB removed"
        console.print(f"{found.database}: {freed}; {found.left} stay", markup=False)


def _show_plans(plans: list[Plan]) -> None:
    table = Table("database", "backup", "", "why", box=None)
    for found in plans:
        if found.refused:
            table.add_row(found.database, "-", "[red]refused[/]", escape(found.refused))
        for kept in found.kept:
            table.add_row(found.database, escape(kept.id), "stays", escape(", ".join(kept.reasons)))
        for expired in found.expired:
            table.add_row(found.database, escape(expired.id), "[yellow]goes[/]", escape(expired.why))
    console.print(table if table.row_count else "there is no backup yet")


@app.command()
def hold(context: typer.Context, backup_id: BackupArgument, reason: ReasonOption, as_json: JsonOption = False) -> None:
    """Keep a backup whatever the policy says, until the hold is lifted."""
    _show_one(_desk(context).hold(backup_id, current_actor(), reason), as_json)


@app.command()
def lift(context: typer.Context, backup_id: BackupArgument, reason: ReasonOption, as_json: JsonOption = False) -> None:
    """End a hold; the policy decides again."""
    _show_one(_desk(context).lift(backup_id, current_actor(), reason), as_json)


def _show_one(record: Record, as_json: bool) -> None:
    if as_json:
        print_json({**record.as_json(), "held": record.held})
    else:
        _show((record,))


@keys_app.command(name="init")
def init_keys(
    context: typer.Context,
    identity: Annotated[Path, typer.Option(help="A new file for the escrow identity; keep it off this machine.")],
    as_json: JsonOption = False,
) -> None:
    """Make the escrow identity, once: whoever holds its file can open every backup from now on."""
    recipient = _desk(context).keys.make_escrow(identity)
    if as_json:
        print_json({"recipient": recipient, "identity": str(identity.absolute())})
    else:
        console.print(f"{recipient}\nits identity is in {identity} and nowhere else", markup=False)


@keys_app.command(name="show")
def show_keys(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show the escrow recipient and the public key of signatures; never anything that opens a backup."""
    keys = _desk(context).keys
    recipients = keys.recipients()
    if not recipients:
        raise NoRecipient
    public = keys.public_key()
    if as_json:
        print_json({"recipients": list(recipients), "signer": public})
    else:
        console.print("\n".join([*(f"escrow recipient {r}" for r in recipients), f"signer {public}"]), markup=False)


@keys_app.command(name="rotate")
def rotate_keys(context: typer.Context, as_json: JsonOption = False) -> None:
    """Wrap data keys with a new key of the secret store from now on; earlier backups stay readable."""
    version = _desk(context).keys.rotate()
    if as_json:
        print_json({"version": version})
    else:
        console.print(f"version {version} wraps data keys from now on", markup=False)


def restore(
    context: typer.Context,
    database: DatabaseArgument,
    backup_id: Annotated[str, typer.Option("--backup", help="As `drp backups` shows it.")],
    into: Annotated[str, typer.Option("--into", help="A new database; it must not exist.")],
    until: Annotated[
        str | None, typer.Option("--until", help="Bring a physical backup to this time, such as 2026-11-26T14:05:00Z.")
    ] = None,
    point: Annotated[str | None, typer.Option("--point", help="Bring it to a named restore point.")] = None,
    before: Annotated[
        str | None, typer.Option("--before", help="Bring it to right before this version of its schema.")
    ] = None,
    confirm: Annotated[
        str | None, typer.Option("--confirm", help="The backup's id, once you have read the plan.")
    ] = None,
    reason: ReasonOption = "on demand",
    as_json: JsonOption = False,
) -> None:
    """Show the plan of a restore; with the backup's id as confirmation, restore into a new database and compare."""
    desk = _desk(context)
    moment = _moment(until, point, before)
    if before is not None:
        moment = desk.point_before(database, before, backup_id)
    plan = desk.plan_restore(database, backup_id, into, moment)
    if confirm is None:
        _show_plan(plan, as_json)
        raise typer.Exit(ExitCode.REFUSED)
    restored = desk.restore(plan, confirm, current_actor(), reason)
    offer = desk.offer(plan)
    if as_json:
        checks = [check.model_dump(mode="json") for check in restored.checks]
        shown = {"address": restored.address, "seconds": round(restored.seconds, 3), "checks": checks}
        print_json({**plan.as_json(), **shown, "switch": offer.command, "next": offer.steps})
        return
    proved = "equal to its source" if restored.is_equal else f"at {moment} there was nothing to compare it with"
    console.print(f"{into}: restored at {restored.address} in {restored.seconds:.1f} s, {proved}", markup=False)
    for number, step in enumerate(offer.steps, 1):
        console.print(f"  {number}. {step}", markup=False)


def _moment(until: str | None, point: str | None, before: str | None) -> str:
    if sum(given is not None for given in (until, point, before)) > 1:
        raise typer.BadParameter("name a time, a restore point or a version, one of them", param_hint="--until")
    if until is not None and moment_of(until) is None:
        raise typer.BadParameter("write a time such as 2026-11-26T14:05:00Z", param_hint="--until")
    if point is not None and (moment_of(point) is not None or "/" in point):
        raise typer.BadParameter("a restore point has a name without slashes, and no time", param_hint="--point")
    return until or point or ""


def _show_plan(plan: RestorePlan, as_json: bool) -> None:
    if as_json:
        print_json({**plan.as_json(), "confirmed": False})
        return
    for line in plan.lines():
        console.print(line, markup=False)
    console.print(f"Nothing was done. To go on, repeat with --confirm {plan.backup_id}", markup=False)


def register(root: typer.Typer) -> None:
    root.command()(backup)
    root.command()(restore)
    root.add_typer(app, name="backups")
    root.add_typer(keys_app, name="backup-keys")
