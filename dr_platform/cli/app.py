"""The root of the command line: global options, the error boundary, and where each verb lives."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dr_platform.cli.completion import names_of
from dr_platform.cli.context import Choice, repeatable
from dr_platform.errors import PlatformError

VERBS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "Platform": {
        "platform_verbs": (
            "up", "dev", "down", "reset", "status", "health", "doctor", "top", "materialize", "check",
        ),
        "service_verbs": ("logs", "diagnose", "connect"),
        "maintenance_verbs": ("maintenance",),
        "catalog_verbs": ("catalog",),
        "monitoring_verbs": ("monitoring",),
    },
    "Delivery": {
        "rollout_verbs": ("deploy", "rollback", "pause", "resume", "abort", "rollout", "controller"),
        "release_verbs": ("promote", "release"),
        "promotion_verbs": (
            "production-ready", "request", "approve", "approvals", "void", "attest", "waive", "freeze", "hold",
            "promotion",
        ),
        "fault_verbs": ("fault",),
    },
    "Incidents": {
        "emergency_verbs": ("emergency",),
        "incident_verbs": ("incident",),
        "intake_verbs": ("intake", "intake-server", "intake-key"),
    },
    "Databases": {
        "migration_verbs": ("migrate",),
        "backup_verbs": ("backup", "backups", "restore", "backup-keys"),
        "switch_verbs": ("switch",),
        "drill_verbs": ("drill",),
        "masking_verbs": ("mask",),
        "fill_verbs": ("fill",),
        "synthetic_verbs": ("synthesize",),
        "log_verbs": ("archive-log",),
    },
    "Knowledge, and what to try": {
        "data_verbs": ("seed", "search", "demo", "demo-delivery"),
        "knowledge_verbs": ("knowledge",),
    },
}  # fmt: skip
"""Under which heading of the help, and in which module, each verb is. Only the module of the verb that is asked for
is imported: to import all takes four times as long as to import that of ``drp status``."""


class Verbs(TyperGroup):
    """The verbs of all modules, each imported when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - as the base class names it
        return [verb for modules in VERBS.values() for verbs in modules.values() for verb in verbs]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        known = cmd_name in self.list_commands(ctx)
        for heading, modules in VERBS.items():
            for module, verbs in modules.items():
                # Who mistyped is told the name that is nearest, of all there are.
                if cmd_name in verbs or not known:
                    self._import(heading, module, verbs)
        return self.commands.get(cmd_name)

    def _import(self, heading: str, module: str, verbs: tuple[str, ...]) -> None:
        if verbs[0] in self.commands:
            return
        root = typer.Typer(context_settings=_CONTEXT)
        root.callback()(options)  # with one verb alone there would be no group
        import_module(f"dr_platform.cli.{module}").register(root)
        for verb in (*root.registered_commands, *root.registered_groups):
            verb.rich_help_panel = heading
        self.commands.update(typer.main.get_group(root).commands)


_CONTEXT = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    name="drp",
    cls=Verbs,
    help="Runs a healthcare platform on this machine: services, databases, knowledge, checks and remediation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=_CONTEXT,
)


@app.callback()
def options(
    context: typer.Context,
    env: Annotated[
        str | None,
        typer.Option(
            "--env",
            help="Environment of the catalog; DRP_ENVIRONMENT, else local.",
            autocompletion=names_of("environment"),
        ),
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
    repeatable.of(context.obj, Verbs().list_commands(context))
    context.call_on_close(repeatable.ended)


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
