"""What every verb needs: the chosen platform, and ways to print."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console

from dr_platform.platform import Platform

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]

PIPED_WIDTH = 180
"""Columns of tables that nobody sees on a terminal: nothing is cut."""


def _width(stream: TextIO) -> int | None:
    return None if stream.isatty() else PIPED_WIDTH


console = Console(highlight=False, width=_width(sys.stdout))
messages = Console(stderr=True, highlight=False, width=_width(sys.stderr))


@dataclass(frozen=True)
class Choice:
    """The global options as they were given."""

    environment: str | None = None
    runtime: str | None = None
    catalog: Path | None = None
    state: Path | None = None

    def platform(self) -> Platform:
        """Open the platform; raises what is wrong with the catalog or the names."""
        return Platform.open(self.environment, catalog=self.catalog, state=self.state, runtime=self.runtime)


def platform_of(context: typer.Context) -> Platform:
    choice: Choice = context.obj
    return choice.platform()


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, sort_keys=False, default=str) + "\n")


def say(line: str) -> None:
    """A line of progress, on standard error so that output can be piped."""
    messages.print(line, markup=False, soft_wrap=True)


def mark(good: bool | None) -> str:
    """A verdict as a coloured word, readable without colours too."""
    if good is None:
        return "[yellow]unknown[/]"
    return "[green]ok[/]" if good else "[red]bad[/]"
