"""PostgreSQL's text taken apart: where statements end, and what in them is no code.

Here: quotes, comments and semicolons. Not here: what a statement does (``migrations.effects``), or running it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""(?P<line_comment>--[^\n]*)
      | (?P<block>/\*)
      | (?P<string>[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*')
      | (?P<name>"(?:[^"]|"")*")
      | (?P<dollar>\$(?P<tag>[A-Za-z_]\w*)?\$(?P<body>.*?)\$(?(tag)(?P=tag))\$)
      | (?P<end>;)
      | (?P<word>[A-Za-z_]\w*(?:\$\w*)*)
      | (?P<other>.)""",
    re.DOTALL | re.VERBOSE,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")


@dataclass(frozen=True)
class Statement:
    """``text`` is without comments; ``code`` also without the contents of strings, with ``bodies`` that stood
    between dollar quotes. ``line`` is where it begins in the file, counted from 1."""

    text: str
    code: str
    line: int
    bodies: tuple[str, ...] = ()


def statements_of(text: str) -> tuple[Statement, ...]:
    """The statements of a file. What is never closed belongs to the last one; the server refuses it."""
    found: list[Statement] = []
    whole: list[str] = []
    code: list[str] = []
    bodies: list[str] = []
    start, at = None, 0

    def finish() -> None:
        nonlocal start
        if start is not None:
            line = text.count("\n", 0, start) + 1
            found.append(Statement("".join(whole).strip(), " ".join("".join(code).split()), line, tuple(bodies)))
        for part in (whole, code, bodies):
            part.clear()
        start = None

    while match := _TOKEN.match(text, at):
        at = _end_of_comment(text, match.end()) if match["block"] else match.end()
        if match["line_comment"] or match["block"]:
            whole.append(" ")
            code.append(" ")
            continue
        if match["end"] and not _in_atomic_body("".join(code)):
            finish()
            continue
        if start is None and not match[0].isspace():
            start = match.start()
        whole.append(match[0])
        code.append("''" if match["string"] else "$$" if match["dollar"] else match[0])
        if match["dollar"]:
            bodies.append(match["body"])
    finish()
    return tuple(found)


def _end_of_comment(text: str, at: int) -> int:
    """Comments nest here, other than in other dialects."""
    depth = 1
    while depth and (edge := _COMMENT_EDGE.search(text, at)):
        depth += 1 if edge[0] == "/*" else -1
        at = edge.end()
    return at if depth == 0 else len(text)


def _in_atomic_body(code: str) -> bool:
    """Whether a semicolon here separates the statements of a function's body."""
    return bool(re.search(r"\bBEGIN\s+ATOMIC\b", code, re.IGNORECASE)) and not re.search(
        r"\bEND\s*$", code, re.IGNORECASE
    )
