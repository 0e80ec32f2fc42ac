"""Sections of ``docs/benchmarks.md``: each measurement writes its own, between two markers, and no other."""

from __future__ import annotations

from pathlib import Path

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
HEAD = "# Benchmarks\n"


def marked(name: str, lines: list[str]) -> str:
    return "\n".join([_begin(name), *lines, _end(name)])


def with_section(document: str, name: str, lines: list[str]) -> str:
    """The document with this section in place of the one before, or at its end."""
    begin, end, new = _begin(name), _end(name), marked(name, lines)
    if begin in document and end in document:
        before, rest = document.split(begin, 1)
        return before + new + rest.split(end, 1)[1]
    return f"{document.rstrip()}\n\n{new}\n"


def write_section(name: str, lines: list[str]) -> None:
    document = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.exists() else HEAD
    DOCUMENT.write_text(with_section(document, name, lines), encoding="utf-8")


def _begin(name: str) -> str:
    return f"<!-- {name}: begin -->"


def _end(name: str) -> str:
    return f"<!-- {name}: end -->"
