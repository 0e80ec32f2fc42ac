"""Verbs about knowledge and conversations: seed, search, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dr_platform.cli.completion import names_of
from dr_platform.cli.context import JsonOption, console, platform_of, print_json, say
from dr_platform.errors import ExitCode, PlatformError


class UnknownKnowledgeSet(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(name, known)
        self.what = f"{name}: no such knowledge set"
        self.untouched = "every knowledge set"
        self.next_step = f"choose one of {', '.join(known)}"


def seed(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="SET", help="A knowledge set of the catalog.", autocompletion=names_of("knowledge"))
    ],
    source: Annotated[
        Path | None,
        typer.Option(help="Markdown folder, JSONL, CSV or question-and-answer XML; else the set's own articles."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Load a knowledge set; only what changed is embedded again."""
    from dr_platform.bring_up import seed_knowledge

    platform = platform_of(context)
    if name not in platform.catalog.knowledge:
        raise UnknownKnowledgeSet(name, tuple(platform.catalog.knowledge))
    outcome = seed_knowledge(platform, name, say, source.absolute() if source else None)
    if as_json:
        print_json({"set": name, **outcome.measurements()})
    else:
        console.print(f"{name}: {outcome.describe()} in {outcome.duration_s:.1f} s", markup=False)


def search(
    context: typer.Context,
    question: Annotated[str, typer.Argument(help="What a patient would ask.")],
    limit: Annotated[int, typer.Option(min=1, max=10, help="At most this many passages.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Find passages through the search service, best first."""
    from dr_platform.reference_service.client import ServiceClient

    platform = platform_of(context)
    client = ServiceClient(platform.catalog, platform.secrets, platform.port_offset)
    hits = client.search(question, limit)
    if as_json:
        print_json(hits)
        return
    for hit in hits:
        console.print(f"[bold]{hit['title']}[/]  {hit['document']}  {hit['score']:.4f}")
        console.print(f"  {hit['text']}\n", markup=False)
    if not hits:
        console.print("nothing found")


def demo(context: typer.Context) -> None:
    """Talk with the platform: safety check, search, and an answer with its sources, all by the services."""
    from dr_platform.cli.demo import converse

    converse(platform_of(context))


def demo_delivery(context: typer.Context) -> None:
    """Watch a good version promoted by canary, and a bad one caught and reverted by itself, in three minutes."""
    from dr_platform.cli.delivery_demo import run

    run(platform_of(context))


def register(app: typer.Typer) -> None:
    for verb in (seed, search, demo, demo_delivery):
        app.command()(verb)
