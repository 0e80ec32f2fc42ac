"""A small prompt on a database, the same for all engines: a statement in, a table out."""

from __future__ import annotations

from typing import Any, TextIO

from dr_platform.errors import PlatformError


def converse(database: Any, source: TextIO, sink: TextIO) -> None:
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


def _answer(database: Any, statement: str, sink: TextIO) -> None:
    try:
        columns, rows = database.execute(statement)
    except PlatformError as exc:
        sink.write(f"{exc.what}\n")
        return
    if columns:
        sink.write("\t".join(columns) + "\n")
    for row in rows:
        sink.write("\t".join("" if value is None else str(value) for value in row) + "\n")
    sink.write(f"({len(rows)} rows)\n")
