"""``drp catalog``: look at the catalog without touching anything that runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dr_platform.backups.policy import read_policies
from dr_platform.catalog import CatalogError, Fault, load_catalog
from dr_platform.catalog.export import json_schema, kinds, show
from dr_platform.cli.context import Choice, JsonOption, console, print_json
from dr_platform.errors import ExitCode
from dr_platform.masking.classification import read_classifications
from dr_platform.migrations.files import migration_faults
from dr_platform.platform import find_catalog
from dr_platform.quality.model import read_expectations

BESIDE = (read_policies, read_classifications, read_expectations)
"""What reads the files beside those of the catalog itself."""

app = typer.Typer(help="Validate and show the catalog: everything the platform consists of.", no_args_is_help=True)


@app.command()
def validate(
    context: typer.Context,
    path: Annotated[Path | None, typer.Argument(help="Catalog folder; else the chosen one.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check all files and name every fault at once; exit code 2 when there is one."""
    choice: Choice = context.obj
    root = find_catalog(path or choice.catalog)
    faults = [fault for part in (load_catalog, *BESIDE) for fault in _faults(part, root)]
    faults += migration_faults(root)
    if faults:
        if not as_json:
            raise CatalogError(tuple(faults))
        print_json([asdict(fault) for fault in faults])
        raise typer.Exit(ExitCode.REFUSED)
    catalog = load_catalog(root)
    if as_json:
        print_json([])
        return
    console.print(
        f"{root}: {len(catalog.services)} services, {len(catalog.databases)} databases, "
        f"{len(catalog.environments)} environments, {len(catalog.embedders)} embedding models, "
        f"{len(catalog.knowledge)} knowledge sets, "
        f"{len(catalog.releases)} releases, {len(catalog.secret_categories)} secret categories; no faults"
    )


def _faults(read: Callable[[Path], object], root: Path) -> tuple[Fault, ...]:
    try:
        read(root)
    except CatalogError as exc:
        return exc.faults
    return ()


@app.command()
def schema(
    kind: Annotated[str, typer.Argument(help=f"One of {', '.join(kinds())}.")],
) -> None:
    """Print the JSON Schema of one kind of file, for editors."""
    if kind not in kinds():
        sys.stderr.write(
            f"{kind}: no such kind of catalog file\nUntouched: everything.\nNext: choose one of {', '.join(kinds())}.\n"
        )
        raise typer.Exit(ExitCode.REFUSED)
    print_json(json_schema(kind))


@app.command(name="show")
def show_entry(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Name of one entry; everything without it.")] = None,
) -> None:
    """Print the catalog, or one entry with its defaults filled in, as JSON."""
    choice: Choice = context.obj
    catalog = load_catalog(find_catalog(choice.catalog))
    print_json(show(catalog, name))


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="catalog")
