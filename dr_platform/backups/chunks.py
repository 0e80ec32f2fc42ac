"""Bytes in chunks of a size that the pipeline takes.

Here: joining the small and cutting the large. Not here: what the bytes are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

CHUNK_BYTES = 1 << 20
"""Large enough that a chunk costs next to nothing, small enough that memory stays flat."""


def chunked(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in chunks of ``CHUNK_BYTES`` at most, none of them empty."""
    kept = bytearray()
    for part in parts:
        kept += part
        while len(kept) >= CHUNK_BYTES:
            yield bytes(kept[:CHUNK_BYTES])
            del kept[:CHUNK_BYTES]
    if kept:
        yield bytes(kept)


class Cut(ValueError):
    """A stream ended in the middle of a record."""


class Reader:
    """Exact numbers of bytes out of a stream of chunks."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._kept = bytearray()

    def ended(self) -> bool:
        return not self._fill(1)

    def take(self, size: int) -> bytes:
        """Raises ``Cut`` where fewer are left."""
        if not self._fill(size):
            raise Cut(f"{size} bytes wanted, {len(self._kept)} left")
        taken = bytes(self._kept[:size])
        del self._kept[:size]
        return taken

    def _fill(self, size: int) -> bool:
        while len(self._kept) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._kept += chunk
        return True
