"""Verbs for what CI tells: one event from a file, the server that receives events, and the key they are signed by."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from dr_platform.cli.context import JsonOption, console, platform_of, print_json
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.identity import current_actor


class FileThere(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(path, why)
        self.what = f"{path}: {why}"
        self.untouched = "the file, and the key"
        self.next_step = "name a file that does not exist yet, in a folder that is yours"


def intake(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="The event, as JSON.")],
    github: Annotated[
        Literal["push", "pull_request"] | None,
        typer.Option(help="It is GitHub's event of this kind (GITHUB_EVENT_NAME); else it has the plain form."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Take an event of CI in: what deploys here is deployed once its release exists and its gate is open."""
    from dr_platform.intake.change import Malformed, read_event
    from dr_platform.intake.desk import IntakeDesk
    from dr_platform.intake.server import MAX_BODY

    platform = platform_of(context)
    with file.open("rb") as stream:
        content = stream.read(MAX_BODY * 32 + 1)
    if len(content) > MAX_BODY * 32:  # larger than the largest of GitHub, 25 MB
        raise Malformed("it is too large")
    taken = IntakeDesk(platform.evidence, platform.environment).take(read_event(content, github), current_actor())
    if as_json:
        print_json(taken.as_json())
    else:
        release = f"release {taken.release}, " if taken.release else ""
        console.print(f"{taken.outcome}: {release}{taken.why}", markup=False)


def intake_server(context: typer.Context) -> None:
    """Receive signed events of CI on loopback until stopped; the supervisor runs it where events deploy."""
    from dr_platform.intake.server import serve

    serve(platform_of(context))


def intake_key(
    context: typer.Context,
    to: Annotated[Path, typer.Argument(metavar="FILE", help="A new file, readable by you alone.")],
    as_json: JsonOption = False,
) -> None:
    """Write the key that events are signed with into a file for the sender's own secret store; it is never shown."""
    from dr_platform.intake.server import intake_key as key_of

    key = key_of(platform_of(context).secrets)
    try:
        with os.fdopen(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(key)
    except OSError as exc:
        raise FileThere(to, (exc.strerror or type(exc).__name__).lower()) from None
    if as_json:
        print_json({"file": str(to)})
    else:
        console.print(f"the key is in {to}; remove the file when the sender has it", markup=False)


def register(app: typer.Typer) -> None:
    for verb in (intake, intake_server, intake_key):
        app.command()(verb)
