"""A small prompt on a database, the same for all engines: a statement in, a table out."""

from __future__ import annotations

from typing import TextIO

from dr_platform.databases.console import execute
from dr_platform.databases.port import ManagedDatabase
from dr_platform.errors import PlatformError


def converse(database: ManagedDatabase, source: TextIO, sink: TextIO) -> None:
    """Read statements until the input ends; a fault of one statement is shown and the prompt goes on."""
    interactive = source.isatty()
    info = database.server()
    sink.write(f"{info.server} {info.version}, {database.endpoint.database}. One statement a line; end with Ctrl-D.\n")
    while True:
        if interactive:
            sink.write(f"{database.database.name}> ")
            sink.flush()
        line = source.readline()
        if not line or line.strip() in ("\\q", "exit", "quit"):
            return
        if line.strip():
            _answer(database, line.strip(), sink)


def _answer(database: ManagedDatabase, statement: str, sink: TextIO) -> None:
    try:
        table = execute(database, statement)
    except PlatformError as exc:
        sink.write(f"{exc.what}\n")
        return
    if table.columns:
        sink.write("\t".join(table.columns) + "\n")
    for row in table.rows:
        sink.write("\t".join("" if value is None else str(value) for value in row) + "\n")
    sink.write(f"({len(table.rows)} rows)\n")
