"""Verbs about promotions: production-ready, request, approve, approvals, void, attest, waive, and the groups
`drp freeze`, `drp hold` and `drp promotion`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from dr_platform.approvals import Allowed, Case, Judgement, Quorum, Refused, Request, judge, person_at_work
from dr_platform.backup_desk import restore_digest
from dr_platform.backups.errors import DamagedBackup, UnknownBackup
from dr_platform.backups.restore import RestoreRefused
from dr_platform.backups.switch import SwitchRefused
from dr_platform.catalog import Environment
from dr_platform.cli.completion import ReleaseArgument
from dr_platform.cli.context import JsonOption, console, platform_of, print_json
from dr_platform.database_switch import switch_digest
from dr_platform.errors import ExitCode, PlatformError, TemporaryFailure
from dr_platform.identity import Person, signed_in_person
from dr_platform.platform import Platform, UnknownEnvironment
from dr_platform.promotion import GateTable, Phase, Risk, Standing, attested_lines
from dr_platform.promotion.table import NEVER_WAIVED
from dr_platform.readiness import (
    UnknownRelease,
    accepted_proofs,
    approval_desk,
    candidate_of,
    export_evidence,
    readiness,
    recorder,
    target_of,
    valid_for,
)
from dr_platform.releases.store import DamagedRelease
from dr_platform.schema_approvals import database_of, digest_now
from dr_platform.schema_changes import UnknownDatabase

ReleaseOption = Annotated[
    str | None, typer.Option("--release", help="A release of the catalog; the environment's own without it.")
]
TargetOption = Annotated[
    str | None, typer.Option("--to", help="The environment to enter; the end of the promotion path without it.")
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for auditors; no secrets, no patient data.")]
AsOption = Annotated[
    str | None,
    typer.Option("--as", help="Act under this name. On the local runtime only: it proves nothing."),
]


class UnknownLine(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, line: str, environment: str, known: tuple[str, ...]) -> None:
        super().__init__(line, environment, known)
        self.what = f"{line}: nobody has to vouch for this in {environment}"
        self.untouched = "everything that is recorded; nothing was added"
        self.next_step = f"choose one of {', '.join(known)}" if known else "nothing is to be done"


class AnotherEnvironment(PlatformError):
    """The plan for a schema depends on what is applied there, which only that environment can tell."""

    exit_code = ExitCode.REFUSED

    def __init__(self, request_id: str, environment: str) -> None:
        super().__init__(request_id, environment)
        self.what = f"{request_id}: it is about a schema of {environment}, which is not the environment you are in"
        self.untouched = "the request and the approvals it has"
        self.next_step = f"repeat it with `drp --env {environment}`"


class NotWaivable(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, row: str, waivable: tuple[str, ...]) -> None:
        super().__init__(row, waivable)
        self.what = f"{row}: no row of the gate that can be waived"
        self.untouched = "everything that is recorded; nothing was added"
        self.next_step = f"choose one of {', '.join(waivable)}"


def _me(platform: Platform, declared: str | None) -> Person:
    return person_at_work(declared, signed_in_person(), accepted_proofs(platform))


def production_ready(
    context: typer.Context,
    release: ReleaseOption = None,
    to: TargetOption = None,
    phase: Annotated[Phase, typer.Option(help="Judge the checklists up to this phase.")] = Phase.BEFORE,
    risk: Annotated[Risk, typer.Option(help="A risky change waits for a maintenance window.")] = Risk.ORDINARY,
    as_json: JsonOption = False,
) -> None:
    """Show the whole gate of an environment; 0 only when every row passes or was waived."""
    platform = platform_of(context)
    table = readiness(platform, release, target_of(platform, to), phase=phase, risk=risk)
    if as_json:
        print_json(table.as_json())
    else:
        show_gate(table)
    if not table.passed:
        raise typer.Exit(ExitCode.UNAVAILABLE if table.unlooked else ExitCode.FAILED)


_COLOURS = {Standing.PASSED: "green", Standing.WAIVED: "magenta", Standing.FAILED: "red"}


def show_gate(table: GateTable) -> None:
    """The whole gate as a table, with what it amounts to."""
    candidate = table.candidate
    # A name is typed after `drp attest` and `drp waive`, so none is cut.
    shown = Table(Column("row", overflow="fold"), "phase", "", "what", "found", box=None)
    for row in table.rows:
        colour = _COLOURS.get(row.answer.standing, "yellow")
        standing = f"[{colour}]{row.answer.standing}[/]"
        shown.add_row(row.name, row.section, standing, escape(row.title), escape(row.answer.message))
    shut = sum(not row.answer.allow for row in table.rows)
    verdict = "may enter" if table.passed else f"may not enter, {shut} of {len(table.rows)} rows are shut:"
    console.print(shown, "")
    console.print(f"release {candidate.release} {verdict} {candidate.environment}", markup=False)
    console.print(f"release digest {candidate.digest}\nplan digest    {candidate.plan_digest}", markup=False)
    if table.ask_again_at is not None:
        console.print(f"ask again at {table.ask_again_at:%Y-%m-%d %H:%M} UTC")
    if table.unlooked:
        console.print("what is unknown could not be looked at: see `drp doctor`; `drp up` starts the platform")
    if table.rehearsal:
        console.print("a rehearsal: on the local runtime declared names count; data is synthetic")


def request(
    context: typer.Context,
    release: ReleaseArgument,
    reason: ReasonOption,
    to: TargetOption = None,
    as_name: AsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask that others approve a release for an environment, by the plan as it is now."""
    platform = platform_of(context)
    target = target_of(platform, to)
    me = _me(platform, as_name)
    candidate = candidate_of(platform, release, target)
    made = approval_desk(platform).request(candidate.release, target.name, candidate.plan_digest, me, reason)
    if as_json:
        print_json(_request_json(Case(made)))
    else:
        needed = target.approvals.required
        console.print(f"{made.id}: {needed} others must approve it with `drp approve {made.id}`", markup=False)


def approve(
    context: typer.Context,
    request_id: Annotated[str, typer.Argument(metavar="REQUEST", help="As `drp approvals` shows it.")],
    reason: ReasonOption,
    as_name: AsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Agree to a request; refused when it is your own, was ended, or its plan has changed meanwhile."""
    platform = platform_of(context)
    desk = approval_desk(platform)
    me = _me(platform, as_name)
    asked = desk.store.read(request_id).request
    target = target_of(platform, asked.environment)
    plan = _plan_now(platform, asked, target)
    given = desk.approve(request_id, me, plan, reason, valid_for=valid_for(target))
    if as_json:
        print_json(asdict(given))
    else:
        until = f"{given.expires_at:%Y-%m-%d %H:%M} UTC"
        console.print(f"{request_id}: approved by {me.name} until {until}", markup=False)


def approvals(
    context: typer.Context,
    to: Annotated[str | None, typer.Option("--to", help="Only requests for this environment.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show requests with their approvals and what they amount to, newest first."""
    platform = platform_of(context)
    cases = approval_desk(platform).store.cases(environment=to)
    judged = [(case, _judged(platform, case)) for case in cases]
    if as_json:
        print_json([{**_request_json(case), **_judgement_json(found)} for case, found in judged])
        return
    shown = Table("request", "release", "environment", "requester", "approved by", "", "reason", box=None)
    for case, found in judged:
        r, names = case.request, ", ".join(a.approver.name for a in case.approvals)
        columns = (r.id, r.release, r.environment, r.requester.name, names or "-", _in_words(found), r.reason)
        shown.add_row(*map(escape, columns))
    console.print(shown if judged else "no requests")


def void(
    context: typer.Context,
    request_id: Annotated[str, typer.Argument(metavar="REQUEST", help="As `drp approvals` shows it.")],
    reason: ReasonOption,
    as_name: AsOption = None,
) -> None:
    """End a request; what was approved by it counts no more."""
    platform = platform_of(context)
    approval_desk(platform).void(request_id, _me(platform, as_name).name, reason)
    console.print(f"{request_id}: voided", markup=False)


def _plan_now(platform: Platform, asked: Request, target: Environment) -> str:
    """The digest of what would be carried out by now: a release, the change of a schema, a restore, a switch."""
    if (database := database_of(asked.release)) is not None:
        if target.name != platform.environment.name:
            raise AnotherEnvironment(asked.id, target.name)
        return digest_now(platform, database)
    found = restore_digest(platform, asked.release) or switch_digest(platform, asked.release)
    return found if found is not None else candidate_of(platform, asked.release, target).plan_digest


def _judged(platform: Platform, case: Case) -> Judgement:
    asked = case.request
    try:
        target = target_of(platform, asked.environment)
        plan = _plan_now(platform, asked, target)
    except (UnknownEnvironment, UnknownRelease, UnknownDatabase):
        return Refused("its release, database or environment is not known any more")
    except (AnotherEnvironment, TemporaryFailure) as exc:
        return Refused(f"could not look: {exc.what}")
    except (DamagedRelease, DamagedBackup, RestoreRefused, SwitchRefused, UnknownBackup) as exc:
        return Refused(exc.what)
    required = Quorum(target.approvals.required, accepted_proofs(platform))
    return judge(asked, case.approvals, plan, platform.clock.now(), required)


def _in_words(found: Judgement) -> str:
    if isinstance(found, Allowed):
        return "allowed" + (f" until {found.until:%Y-%m-%d %H:%M} UTC" if found.until else "")
    if isinstance(found, Refused):
        return f"refused: {found.reason}"
    return f"{found.missing} more must agree" + "".join(f"; {u}" for u in found.uncounted)


def _request_json(case: Case) -> dict[str, Any]:
    return {**asdict(case.request), "approvals": [asdict(a) for a in case.approvals]}


def _judgement_json(found: Judgement) -> dict[str, Any]:
    return {"judgement": type(found).__name__.lower(), **asdict(found)}


def attest(
    context: typer.Context,
    line: Annotated[str, typer.Argument(help="A line that `drp production-ready` shows as not attested.")],
    reason: ReasonOption,
    release: ReleaseOption = None,
    to: TargetOption = None,
    as_name: AsOption = None,
) -> None:
    """Vouch for a line of the checklists, for exactly this release; it expires."""
    platform = platform_of(context)
    target = target_of(platform, to)
    lines = attested_lines(target)
    if line not in lines:
        raise UnknownLine(line, target.name, tuple(lines))
    me, candidate = _me(platform, as_name), candidate_of(platform, release, target)
    entry = recorder(platform).attest(candidate, line, me, reason, lines[line].valid_for)
    until = datetime.fromisoformat(entry.body["expires"])
    told = f"{line}: attested by {me.name} for release {candidate.release} until {until:%Y-%m-%d %H:%M} UTC"
    console.print(told, markup=False)


def waive(
    context: typer.Context,
    row: Annotated[str, typer.Argument(help="A row that `drp production-ready` shows as shut.")],
    reason: ReasonOption,
    days: Annotated[int, typer.Option(min=1, max=90, help="It counts this many days.")] = 7,
    release: ReleaseOption = None,
    to: TargetOption = None,
    as_name: AsOption = None,
) -> None:
    """Let a row stay unmet for a while. It counts when two people have said so, and stays in the table."""
    platform = platform_of(context)
    target = target_of(platform, to)
    table = readiness(platform, release, target, phase=Phase.AFTER)
    waivable = tuple(r.name for r in table.rows if r.name not in NEVER_WAIVED)
    if row not in waivable:
        raise NotWaivable(row, waivable)
    me = _me(platform, as_name)
    recorder(platform).waive(table.candidate, row, me, reason, timedelta(days=days))
    console.print(f"{row}: waived by {me.name} for {days} days; two people are needed", markup=False)


freeze_app = typer.Typer(help="Stop all promotions into an environment, or let them go on.", no_args_is_help=True)


@freeze_app.command(name="on")
def freeze_on(context: typer.Context, reason: ReasonOption, to: TargetOption = None, as_name: AsOption = None) -> None:
    """Let nothing enter an environment until `drp freeze off`."""
    platform = platform_of(context)
    target = target_of(platform, to)
    recorder(platform).freeze(target.name, _me(platform, as_name).name, reason)
    console.print(f"{target.name}: frozen", markup=False)


@freeze_app.command(name="off")
def freeze_off(context: typer.Context, reason: ReasonOption, to: TargetOption = None, as_name: AsOption = None) -> None:
    """End a freeze that a person declared; freezes of the calendar stay."""
    platform = platform_of(context)
    target = target_of(platform, to)
    recorder(platform).thaw(target.name, _me(platform, as_name).name, reason)
    console.print(f"{target.name}: not frozen by anybody; the calendar's freezes stay", markup=False)


@freeze_app.command(name="show")
def freeze_show(context: typer.Context, to: TargetOption = None, as_json: JsonOption = False) -> None:
    """Show whether an environment is frozen, by whom, and its windows."""
    platform = platform_of(context)
    target = target_of(platform, to)
    found = next(row.answer for row in readiness(platform, None, target).rows if row.name == "freeze")
    if as_json:
        windows = target.windows.model_dump(mode="json")
        print_json({"environment": target.name, "frozen": not found.allow, **asdict(found), **windows})
    else:
        console.print(f"{target.name}: {found.message}", markup=False)
        for kind, spans in (("maintenance", target.windows.maintenance), ("freeze", target.windows.freeze)):
            console.print(f"{kind}: {', '.join(spans) or 'none'}", markup=False)
    if found.standing is Standing.UNKNOWN:
        raise typer.Exit(ExitCode.UNAVAILABLE)


hold_app = typer.Typer(help="Keep one release out of an environment, or let it in again.", no_args_is_help=True)


@hold_app.command(name="set")
def hold_set(
    context: typer.Context,
    release: ReleaseArgument,
    reason: ReasonOption,
    to: TargetOption = None,
    as_name: AsOption = None,
) -> None:
    """Keep a release, named by its digest, out of an environment until a person lets it in."""
    platform = platform_of(context)
    candidate = candidate_of(platform, release, target_of(platform, to))
    recorder(platform).hold(candidate, _me(platform, as_name).name, reason)
    console.print(f"release {release} is held out of {candidate.environment}", markup=False)


@hold_app.command(name="clear")
def hold_clear(
    context: typer.Context,
    release: ReleaseArgument,
    reason: ReasonOption,
    to: TargetOption = None,
    as_name: AsOption = None,
) -> None:
    """Let a held release in again."""
    platform = platform_of(context)
    candidate = candidate_of(platform, release, target_of(platform, to))
    recorder(platform).let_in(candidate, _me(platform, as_name).name, reason)
    console.print(f"release {release} is not held out of {candidate.environment} any more", markup=False)


promotion_app = typer.Typer(help="Evidence that crosses from one environment to the next.", no_args_is_help=True)


@promotion_app.command()
def key(context: typer.Context) -> None:
    """Print the public key by which others know this environment's evidence."""
    from dr_platform.promotion.signed import signing_key

    console.print(signing_key(platform_of(context).secrets)["public"])


@promotion_app.command()
def trust(
    context: typer.Context,
    environment: Annotated[str, typer.Argument(help="The environment whose evidence is to be accepted.")],
    public_key: Annotated[str, typer.Argument(metavar="KEY", help="What `drp promotion key` printed there.")],
) -> None:
    """Accept evidence of another environment by its public key, in place of its earlier one."""
    from dr_platform.promotion.signed import trust as accept

    platform = platform_of(context)
    accept(platform.secrets, target_of(platform, environment).name, public_key)
    console.print(f"evidence of {environment} is accepted when signed by this key", markup=False)


@promotion_app.command()
def export(context: typer.Context, release: ReleaseOption = None, as_json: JsonOption = False) -> None:
    """Sign what this environment has found about a release and hand it on to the next one."""
    object_key, evidence = export_evidence(platform_of(context), release)
    if as_json:
        print_json({"key": object_key, **asdict(evidence)})
    else:
        verified = "verified" if evidence.verified_at else "not verified"
        suites = ", ".join(suite.suite for suite in evidence.suites) or "no suites"
        console.print(f"{object_key}: {verified}; {suites}", markup=False)


def register(app: typer.Typer) -> None:
    for verb in (production_ready, request, approve, approvals, void, attest, waive):
        app.command()(verb)
    app.add_typer(freeze_app, name="freeze")
    app.add_typer(hold_app, name="hold")
    app.add_typer(promotion_app, name="promotion")
