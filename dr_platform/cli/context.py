"""What every verb needs: the chosen platform, and ways to print."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console, ConsoleRenderable, RenderHook
from rich.text import Text

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

    @property
    def typed(self) -> str:
        """The options as words of a command, empty where none was given."""
        given = (
            ("--env", self.environment),
            ("--runtime", self.runtime),
            ("--catalog", self.catalog),
            ("--state", self.state),
        )
        return shlex.join(word for name, value in given if value is not None for word in (name, str(value)))

    def platform(self) -> Platform:
        """Open the platform; raises what is wrong with the catalog or the names."""
        return Platform.open(self.environment, catalog=self.catalog, state=self.state, runtime=self.runtime)


class Repeatable(RenderHook):
    """Commands in what is printed carry the global options that this command was given: copied as they stand, they
    speak of the same platform. Whoever is told to roll back in staging must not roll back elsewhere."""

    def __init__(self) -> None:
        self._command: re.Pattern[str] | None = None
        self._options = ""
        self._is_running = False

    def of(self, choice: Choice, verbs: Collection[str]) -> None:
        """``verbs`` tell a command from a sentence about ``drp``."""
        self._options, self._is_running = choice.typed, True
        self._command = re.compile(rf"(?<![\w-])drp(?= (?:{'|'.join(map(re.escape, verbs))})\b)")

    def ended(self) -> None:
        """What is printed from now on is another command's. The reason why this one failed is still its own."""
        self._is_running = False

    def text(self, text: str) -> str:
        return text if not self._options or self._command is None else self._command.sub(self._typed, text)

    def _typed(self, _: re.Match[str]) -> str:
        return f"drp {self._options}"

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [self._styled(one) if isinstance(one, Text) else one for one in renderables]

    def _styled(self, text: Text) -> Text:
        if not self._is_running or not self._options or self._command is None:
            return text
        ends = [found.end() for found in self._command.finditer(text.plain)]
        done = text.blank_copy()
        for start, end in pairwise((0, *ends)):
            done.append_text(text[start:end]).append(f" {self._options}")
        return done.append_text(text[ends[-1] if ends else 0 :])


repeatable = Repeatable()
for _console in (console, messages):
    _console.push_render_hook(repeatable)


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
