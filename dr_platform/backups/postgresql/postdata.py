"""The statements that end a logical restore, in an order that uses every core.

Here: taking ``pg_dump``'s text apart, as values. Not here: running it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_HEADER = re.compile(r"^--\n-- Name: (?P<name>.*); Type: (?P<type>[A-Z ]+); Schema: .*; Owner: .*\n--\n", re.MULTILINE)
_RESTRICT = re.compile(r"^\\(un)?restrict .*\n", re.MULTILINE)
_INDEX_TYPES = ("INDEX", "CONSTRAINT")
_VECTOR = re.compile(r"USING \"?(hnsw|ivfflat)\"? ")


@dataclass(frozen=True)
class Entry:
    name: str
    type: str
    text: str

    @property
    def is_vector_index(self) -> bool:
        return self.type == "INDEX" and _VECTOR.search(self.text) is not None


@dataclass(frozen=True)
class PostData:
    """``settings`` come first on every connection. ``vectors`` and ``indexes`` depend on rows alone and are built
    side by side; ``rest`` keeps its order and comes last."""

    settings: str
    vectors: tuple[Entry, ...]
    indexes: tuple[Entry, ...]
    rest: tuple[Entry, ...]


def plain(text: str) -> str:
    """Without the lines that only ``psql`` understands."""
    return _RESTRICT.sub("", text)


def take_apart(text: str) -> PostData:
    text = plain(text)
    headers = list(_HEADER.finditer(text))
    starts = [header.start() for header in headers] + [len(text)]
    entries = [
        Entry(header["name"], header["type"], text[header.end() : end])
        for header, end in zip(headers, starts[1:], strict=True)
    ]
    building = [entry for entry in entries if entry.type in _INDEX_TYPES]
    return PostData(
        settings=text[: starts[0]],
        vectors=tuple(entry for entry in building if entry.is_vector_index),
        indexes=tuple(entry for entry in building if not entry.is_vector_index),
        rest=tuple(entry for entry in entries if entry.type not in _INDEX_TYPES),
    )
