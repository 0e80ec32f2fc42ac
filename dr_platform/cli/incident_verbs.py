"""``drp incident``: what went wrong, and what people still have to do about it."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from rich.markup import escape
from rich.table import Table

from dr_platform.cli.context import JsonOption, console, platform_of, print_json
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.identity import current_actor, new_id

if TYPE_CHECKING:
    from dr_platform.incidents import Event, Incident
    from dr_platform.platform import Platform

app = typer.Typer(help="Incidents: records that rollbacks open and people close.", no_args_is_help=True)

Fields = TypeVar("Fields", bound=BaseModel)
IncidentArgument = Annotated[str, typer.Argument(metavar="ID", help="As `drp incident list` shows it.")]
FileOption = Annotated[Path | None, typer.Option("--file", help="YAML file with the same fields; options come first.")]


class IncompleteFile(PlatformError):
    """Names the fields and never what was written into them."""

    exit_code = ExitCode.REFUSED

    def __init__(self, incident: str, problems: tuple[str, ...]) -> None:
        super().__init__(incident, problems)
        self.what = f"{incident}: it cannot be recorded like this: {'; '.join(problems)}"
        self.untouched = "the incident; nothing was written"
        self.next_step = "give what is missing by options or in the file, `--help` names them"


@app.command(name="list")
def list_incidents(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show all incidents, the newest first; times in seconds since the fault."""
    rows = [incident.as_row() for incident in platform_of(context).incidents.list()]
    if as_json:
        print_json(rows)
        return
    if not rows:
        console.print("no incidents")
        return
    table = Table("incident", "service", "trigger", "status", "opened", "detected", "restored", "failed requests")
    for row in rows:
        table.add_row(*("unknown" if value is None else escape(str(value)) for value in row.values()))
    console.print(table)


@app.command()
def show(
    context: typer.Context,
    incident: IncidentArgument,
    as_json: JsonOption = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the report for the review.")] = False,
) -> None:
    """Show one incident with what is still open about it."""
    from dr_platform.incidents.report import report

    found = platform_of(context).incidents.show(incident)
    if as_json:
        print_json(found.as_json())
    elif as_markdown:
        sys.stdout.write(report(found))
    else:
        _summarise(found)


def _summarise(incident: Incident) -> None:
    console.print(f"{incident.id}: {incident.service} in {incident.environment}", markup=False)
    for name, value in incident.as_row().items():
        console.print(f"  {name}: {'unknown' if value is None else value}", markup=False)
    console.print(f"  severity: {incident.severity}", f"  kept until: {incident.retention_until}", sep="\n")
    if incident.breach_assessment:
        console.print(f"  breach assessment: {incident.breach_assessment.conclusion}", markup=False)
    for name, day in vars(incident.notices).items() if incident.notices else ():
        console.print(f"    notice, {name.replace('_', ' ')}: {day or 'none due'}", markup=False)
    for line in incident.timeline:
        console.print(f"  {line.at:%Y-%m-%d %H:%M:%S}  {line.event}  ({line.actor}, {line.source_link})", markup=False)


@app.command()
def acknowledge(context: typer.Context, incident: IncidentArgument, as_json: JsonOption = False) -> None:
    """Say that you have taken notice; the first time counts."""
    from dr_platform.incidents import Acknowledged

    platform = platform_of(context)
    _append(platform, incident, "acknowledged", Acknowledged(at=platform.clock.now()), as_json)


@app.command()
def note(
    context: typer.Context,
    incident: IncidentArgument,
    text: Annotated[str, typer.Argument(help="What happened, without patient data.")],
    at: Annotated[datetime | None, typer.Option(help="When, UTC; else now.")] = None,
    link: Annotated[str | None, typer.Option(help="Where the data is that shows it.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Add a line to the timeline."""
    from dr_platform.incidents import Noted

    platform = platform_of(context)
    happened = at.replace(tzinfo=UTC) if at else platform.clock.now()
    noted = _fields(Noted, incident, {"at": happened, "event": text, "source_link": link})
    _append(platform, incident, new_id("note"), noted, as_json)


@app.command()
def respond(
    context: typer.Context,
    incident: IncidentArgument,
    commander: Annotated[str | None, typer.Option(help="Login of the incident commander.")] = None,
    scribe: Annotated[str | None, typer.Option(help="Login of who writes.")] = None,
    expert: Annotated[list[str] | None, typer.Option(help="Login of a subject-matter expert.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Name who responds; whoever is not named again stays."""
    from dr_platform.incidents import RespondersNamed

    platform = platform_of(context)
    named = _given({"incident_commander": commander, "scribe": scribe, "subject_experts": expert})
    stand = platform.incidents.show(incident).responders.model_dump()
    event = _fields(RespondersNamed, incident, {"responders": {**stand, **named}})
    _append(platform, incident, new_id("responders"), event, as_json)


def _append(platform: Platform, incident: str, key: str, event: Event, as_json: bool) -> None:
    _told(platform.incidents.append(incident, key, event, current_actor()), as_json)


@app.command()
def assess(
    context: typer.Context,
    incident: IncidentArgument,
    conclusion: Annotated[str | None, typer.Option(help="low_probability or breach.")] = None,
    nature: Annotated[str | None, typer.Option(help="Factor 1: nature and extent of the PHI.")] = None,
    person: Annotated[str | None, typer.Option(help="Factor 2: the unauthorised person.")] = None,
    acquired: Annotated[str | None, typer.Option(help="Factor 3: whether it was acquired or viewed.")] = None,
    mitigation: Annotated[str | None, typer.Option(help="Factor 4: how far the risk was mitigated.")] = None,
    exception: Annotated[
        str | None, typer.Option(help="none, good_faith, inadvertent or not_retainable, 164.402(1).")
    ] = None,
    affected: Annotated[int | None, typer.Option(min=0, help="Persons affected; without it, many.")] = None,
    residents: Annotated[int | None, typer.Option(min=0, help="Those of the State that has most of them.")] = None,
    discovered: Annotated[
        datetime | None, typer.Option(help="First day it could be known, UTC; else when the rule fired.")
    ] = None,
    file: FileOption = None,
    signer: Annotated[str | None, typer.Option(help="The assessor; else you.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Sign the breach assessment of 45 CFR 164.402(2); all four factors and a conclusion are needed."""
    from dr_platform.incidents import Assessed

    answers = {"nature_and_extent": nature, "unauthorised_person": person}
    answers |= {"acquired_or_viewed": acquired, "mitigation": mitigation}
    options = {
        "conclusion": conclusion,
        "exception": exception,
        "affected_persons": affected,
        "residents_of_one_state": residents,
        "discovered_at": discovered and discovered.replace(tzinfo=UTC),
    }
    written = _read(incident, file)
    factors = written.get("factors")
    factors = {**(factors if isinstance(factors, dict) else {}), **_given(answers)}
    assessment = _fields(Assessed, incident, {**written, **_given(options), "factors": factors})
    # A new key: a person who signs twice means the second signature to stand.
    ledger, key = platform_of(context).incidents, new_id("assessment")
    _told(ledger.assess(incident, key, assessment, _signature(signer, current_actor())), as_json)


def _signature(signer: str | None, recorder: str) -> str:
    """Nobody signs for somebody else without being named too."""
    return recorder if signer in (None, recorder) else f"{signer}, recorded by {recorder}"


@app.command()
def resolve(
    context: typer.Context,
    incident: IncidentArgument,
    reason: Annotated[str, typer.Option(help="Why everything is as it should be again.")],
    as_json: JsonOption = False,
) -> None:
    """Record that the trouble is over; refused while a breach assessment is not signed."""
    _told(platform_of(context).incidents.resolve(incident, reason, current_actor()), as_json)


@app.command()
def review(
    context: typer.Context,
    incident: IncidentArgument,
    factor: Annotated[list[str] | None, typer.Option(help="A contributing factor; as often as needed.")] = None,
    well: Annotated[list[str] | None, typer.Option(help="What went well.")] = None,
    badly: Annotated[list[str] | None, typer.Option(help="What went badly.")] = None,
    lucky: Annotated[list[str] | None, typer.Option(help="Where we were lucky.")] = None,
    file: FileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Record the review of a resolved incident; action items and messages come from a file."""
    from dr_platform.incidents import Reviewed

    options = {"contributing_factors": factor, "went_well": well, "went_badly": badly, "lucky": lucky}
    found = _fields(Reviewed, incident, {**_read(incident, file), **_given(options)})
    _told(platform_of(context).incidents.review(incident, found, current_actor()), as_json)


@app.command()
def close(context: typer.Context, incident: IncidentArgument, as_json: JsonOption = False) -> None:
    """Close a resolved incident for good; SEV-1 and SEV-2 are reviewed first."""
    _told(platform_of(context).incidents.close(incident, current_actor()), as_json)


def _told(incident: Incident, as_json: bool) -> None:
    if as_json:
        print_json(incident.as_json())
    else:
        console.print(f"{incident.id}: {incident.status}", markup=False)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value not in (None, [])}


def _read(incident: str, file: Path | None) -> dict[str, Any]:
    from dr_platform.catalog.documents import Unreadable, read_document

    if file is None:
        return {}
    try:
        document = read_document(file)
    except Unreadable as exc:
        raise IncompleteFile(incident, (f"{file} {exc.flaw.problem}",)) from None
    if document.flaws:
        raise IncompleteFile(incident, tuple(f"{file}, line {f.line}: {f.problem}" for f in document.flaws))
    return document.data


def _fields(kind: type[Fields], incident: str, values: dict[str, Any]) -> Fields:
    try:
        return kind.model_validate(values)
    except ValidationError as exc:
        # Messages of custom checks and of patterns stay out: some quote what was written.
        problems = (f"{'.'.join(map(str, e['loc'])) or 'the whole'}: {_PROBLEMS.get(e['type'], 'is not valid')}"
                    for e in exc.errors(include_input=False, include_url=False))  # fmt: skip
        raise IncompleteFile(incident, tuple(problems)) from None


_PROBLEMS = {
    "missing": "is missing",
    "extra_forbidden": "is not known",
    "string_too_short": "is empty",
    "string_too_long": "is too long",
    "enum": "is none of the values it may have",
    "timezone_aware": "needs a time zone, such as +00:00",
}


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="incident")
