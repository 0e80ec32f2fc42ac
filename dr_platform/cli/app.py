"""The root of the command line: global options, the error boundary, and where each verb lives."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from dr_platform.cli import (
    backup_verbs,
    catalog_verbs,
    data_verbs,
    drill_verbs,
    emergency_verbs,
    fault_verbs,
    fill_verbs,
    incident_verbs,
    intake_verbs,
    knowledge_verbs,
    log_verbs,
    maintenance_verbs,
    masking_verbs,
    migration_verbs,
    monitoring_verbs,
    platform_verbs,
    promotion_verbs,
    release_verbs,
    rollout_verbs,
    service_verbs,
    switch_verbs,
    synthetic_verbs,
)
from dr_platform.cli.context import Choice, repeatable
from dr_platform.errors import PlatformError

app = typer.Typer(
    name="drp",
    help="Runs a healthcare platform on this machine: services, databases, knowledge, checks and remediation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    context: typer.Context,
    env: Annotated[
        str | None, typer.Option("--env", help="Environment of the catalog; DRP_ENVIRONMENT, else local.")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option("--runtime", help="`local` runs any environment embedded on this machine.")
    ] = None,
    catalog: Annotated[
        Path | None, typer.Option("--catalog", help="Catalog folder; DRP_CATALOG, else ./catalog.")
    ] = None,
    state: Annotated[Path | None, typer.Option("--state", help="Where state is kept; DRP_STATE, else ./.drp.")] = None,
) -> None:
    if runtime not in (None, "local", "kubernetes"):
        raise typer.BadParameter("choose local or kubernetes", param_hint="--runtime")
    context.obj = Choice(env, runtime, catalog, state)
    if isinstance(context.command, TyperGroup):
        repeatable.of(context.obj, context.command.commands)


platform_verbs.register(app)
service_verbs.register(app)
data_verbs.register(app)
migration_verbs.register(app)
fill_verbs.register(app)
synthetic_verbs.register(app)
log_verbs.register(app)
masking_verbs.register(app)
rollout_verbs.register(app)
app.add_typer(maintenance_verbs.app, name="maintenance")
emergency_verbs.register(app)
promotion_verbs.register(app)
app.add_typer(fault_verbs.app, name="fault")
app.add_typer(incident_verbs.app, name="incident")
app.add_typer(catalog_verbs.app, name="catalog")
release_verbs.register(app)
intake_verbs.register(app)
backup_verbs.register(app)
switch_verbs.register(app)
drill_verbs.register(app)
app.add_typer(knowledge_verbs.app, name="knowledge")
app.add_typer(monitoring_verbs.app, name="monitoring")


def run() -> None:
    """Run the command line; never shows a traceback for an expected failure."""
    try:
        app()
    except PlatformError as exc:
        sys.stderr.write(f"{repeatable.text(str(exc))}\n")
        raise SystemExit(int(exc.exit_code)) from None
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped by you. What had begun goes on or can be repeated safely.\n")
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of a pipe has gone, as with `drp logs … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
