"""Pieces that lie in a private file while the snapshot is open.

A server without snapshots shows another state at every look. What is to be read twice, and measured as it
was read, is therefore written down once, in a folder for this user alone that goes with the snapshot.

Here: such pieces, and a snapshot of them. Not here: the folder (``scratch_server``), or what an engine writes into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dr_platform.backups.chunks import CHUNK_BYTES
from dr_platform.backups.port import Facts, Json, Piece


@dataclass(frozen=True)
class SpooledPiece:
    """A ``Piece``."""

    name: str
    path: Path
    facts: Mapping[str, Json] = field(default_factory=dict)

    @property
    def size_hint(self) -> int:
        return self.path.stat().st_size

    def read(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk


@dataclass(frozen=True)
class SpooledSnapshot:
    """What was read, and measured, when the snapshot was opened."""

    read: tuple[SpooledPiece, ...]
    measured: Facts

    def pieces(self) -> Sequence[Piece]:
        return self.read

    def facts(self) -> Facts:
        return self.measured


def spool(name: str, facts: Mapping[str, Json], parts: Iterable[bytes], path: Path) -> SpooledPiece:
    """Write everything into the new file ``path``."""
    with path.open("xb", CHUNK_BYTES) as file:
        path.chmod(0o600)
        file.writelines(parts)
    return SpooledPiece(name, path, facts)
