"""``drp knowledge``: models whose vectors are stored, building another one's beside, switching, retiring; and the
keys of their servers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dr_platform.cli.context import JsonOption, console, platform_of, print_json, say
from dr_platform.identity import current_actor

app = typer.Typer(help="The embedding models of the knowledge store.", no_args_is_help=True)

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="An embedder's name with its version.")]


@app.command()
def models(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show which model is searched, which others have vectors, and which of the catalog have none."""
    from dr_platform import knowledge_upkeep

    found = knowledge_upkeep.models(platform_of(context))
    if as_json:
        print_json([model.as_json() for model in found])
        return
    for model in found:
        missing = f", {model.missing} missing" if model.missing else ""
        told = f"{model.model}  {model.state}  {model.dimensions} numbers  {model.vectors} vectors{missing}"
        console.print(told, markup=False)


@app.command()
def reindex(context: typer.Context, model: ModelArgument, as_json: JsonOption = False) -> None:
    """Build a model's vectors beside those in use; repeating it goes on where it was."""
    from dr_platform import knowledge_upkeep

    done = knowledge_upkeep.reindex(platform_of(context), model, say)
    if as_json:
        print_json({"model": model, **done.measurements()})
    else:
        console.print(done.describe(), markup=False)


@app.command()
def switch(
    context: typer.Context,
    model: ModelArgument,
    reason: Annotated[
        str, typer.Option(help="Switch even where it finds less, for this reason, which is recorded.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Search with another model, if the labelled questions find no less with it."""
    from dr_platform import knowledge_upkeep

    done = knowledge_upkeep.switch(platform_of(context), model, current_actor(), say, chosen=reason)
    if as_json:
        print_json(done.measurements())
    else:
        console.print(done.describe(), markup=False)


@app.command()
def retire(context: typer.Context, model: ModelArgument, as_json: JsonOption = False) -> None:
    """Remove the vectors of a model that is not in use; there is no going back to it but by building anew."""
    from dr_platform import knowledge_upkeep

    removed = knowledge_upkeep.retire(platform_of(context), model, current_actor(), say)
    if as_json:
        print_json({"model": model, "vectors": removed})
    else:
        console.print(f"{model}: {removed} vectors removed", markup=False)


@app.command()
def key(
    context: typer.Context,
    model: ModelArgument,
    file: Annotated[
        Path | None, typer.Option("--from", exists=True, dir_okay=False, help="A file with it; else it is asked for.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put the API key of a model's server into the secret store; the next request uses it."""
    from dr_platform import knowledge_upkeep

    text = file.read_text("utf-8", errors="replace") if file else typer.prompt("key", hide_input=True, err=True)
    version = knowledge_upkeep.store_key(platform_of(context), model, text.strip())
    if as_json:
        print_json({"model": model, "version": version})
    else:
        console.print(f"{model}: its key is kept, version {version}", markup=False)


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="knowledge")
