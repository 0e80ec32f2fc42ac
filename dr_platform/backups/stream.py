"""From raw bytes to sealed parts and back: zstd, then AES-256-GCM in the STREAM construction.

Here: the format of a part. Not here: keys, where parts are stored, and what they mean.

A part is one zstd frame, encrypted in chunks of 1 MiB. The nonce of a chunk is the part's random 7 bytes,
the chunk's number in 4 bytes, and one byte that is 1 for the last chunk alone; the 7 bytes stand in
front of the first chunk. Format version, backup and the part's name are authenticated with every chunk. So
a chunk cannot be altered, left out, moved, or taken from another part, and no part can end early.
Source of the construction: Hoang, Reyhanitabar, Rogaway and Vizár, "Online Authenticated-Encryption and its
Nonce-Reuse Misuse-Resistance", 2015, section 7.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

if TYPE_CHECKING:
    import zstandard

FORMAT = "dr-backup/1"
CODEC = "zstd:2"
CIPHER = "aes256gcm-stream/1MiB"
LEVEL = 2
"""Of rows, text and vectors it gives 1 % more than level 3 in little more than half of its time."""
KEY_BYTES = 32
CHUNK_BYTES = 1 << 20
PREFIX_BYTES = 7
TAG_BYTES = 16
READ_BYTES = 4 << 20
"""The most that is given at once; the port promises it."""
PART_BYTES = 8 << 20
"""About what a part has at most. An object is put by one request from memory, and several processes write."""


@dataclass(frozen=True)
class SealedPart:
    """One object, ready to be stored."""

    index: int
    raw_bytes: int
    sha256: str
    content: bytes = field(repr=False)


class NotWhatWasSealed(Exception):
    """A part that this key, under this name, did not seal."""


def associated(backup_id: str, part: str) -> bytes:
    """What is authenticated with every chunk of a part. None of the three can hold the separator."""
    return b"\0".join(text.encode() for text in (FORMAT, backup_id, part))


def sealed_parts(
    raw: Iterable[bytes],
    key: bytes,
    associated_of: Callable[[int], bytes],
    *,
    part_bytes: int = PART_BYTES,
    random: Callable[[int], bytes] = os.urandom,
) -> Iterator[SealedPart]:
    """The parts of one piece, at least one; ``associated_of`` gives what belongs to the part of a number."""
    source, index, more = iter(raw), 0, True
    while more:
        part = _Part(key, associated_of(index), random(PREFIX_BYTES))
        more = False
        for chunk in source:
            part.add(chunk)
            if part.size >= part_bytes:
                more = True
                break
        if more or part.raw_bytes or not index:
            yield part.sealed(index)
        index += 1


class _Part:
    """A part while it is written."""

    def __init__(self, key: bytes, bound: bytes, prefix: bytes) -> None:
        import zstandard

        self._frame: zstandard.ZstdCompressionObj = zstandard.ZstdCompressor(level=LEVEL).compressobj()
        self._cipher = AESGCM(key)
        self._bound = bound
        self._prefix = prefix
        self._plain = bytearray()
        self._pieces = [prefix]
        self._hash = hashlib.sha256(prefix)
        self.raw_bytes = 0
        self._sealed_bytes = len(prefix)

    @property
    def size(self) -> int:
        """Bytes so far; what zstd still holds back is at most a block of 128 KiB."""
        return self._sealed_bytes + len(self._plain)

    def add(self, raw: bytes) -> None:
        self.raw_bytes += len(raw)
        self._take(self._frame.compress(raw))

    def _take(self, compressed: bytes) -> None:
        self._plain += compressed
        # One byte stays: the last chunk is sealed as the last, and it is not empty.
        while len(self._plain) > CHUNK_BYTES:
            with memoryview(self._plain) as whole, whole[:CHUNK_BYTES] as chunk:
                self._seal(chunk, last=False)
            del self._plain[:CHUNK_BYTES]

    def _seal(self, plain: bytearray | memoryview, *, last: bool) -> None:
        nonce = _nonce(self._prefix, len(self._pieces) - 1, last=last)
        sealed = self._cipher.encrypt(nonce, plain, self._bound)
        self._hash.update(sealed)
        self._pieces.append(sealed)
        self._sealed_bytes += len(sealed)

    def sealed(self, index: int) -> SealedPart:
        self._take(self._frame.flush())
        self._seal(self._plain, last=True)
        content = b"".join(self._pieces)
        self._pieces.clear()
        return SealedPart(index, self.raw_bytes, self._hash.hexdigest(), content)


def _nonce(prefix: bytes, number: int, *, last: bool) -> bytes:
    return prefix + number.to_bytes(4, "big") + (b"\1" if last else b"\0")


def opened(content: bytes, key: bytes, bound: bytes) -> Iterator[bytes]:
    """The raw bytes of a part, at most 4 MiB at once. Raises ``NotWhatWasSealed``, also after some were given."""
    import zstandard

    source = _Opening(content, key, bound)
    try:
        with zstandard.ZstdDecompressor().stream_reader(io.BufferedReader(source, CHUNK_BYTES)) as reader:
            while raw := reader.read(READ_BYTES):
                yield raw
    except zstandard.ZstdError:
        raise NotWhatWasSealed from None
    if not source.ended:
        raise NotWhatWasSealed


class _Opening(io.RawIOBase):
    """The compressed bytes of a part as a file, chunk by chunk, each verified before it is given."""

    def __init__(self, content: bytes, key: bytes, bound: bytes) -> None:
        self._content = memoryview(content)
        self._cipher = AESGCM(key)
        self._bound = bound
        self._at = PREFIX_BYTES
        self._number = 0
        self._left = memoryview(b"")
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self._left and not self.ended:
            self._left = memoryview(self._next())
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size

    def _next(self) -> bytes:
        end = min(self._at + CHUNK_BYTES + TAG_BYTES, len(self._content))
        last = end == len(self._content)
        nonce = _nonce(bytes(self._content[:PREFIX_BYTES]), self._number, last=last)
        if end - self._at <= TAG_BYTES:
            raise NotWhatWasSealed
        try:
            plain = self._cipher.decrypt(nonce, self._content[self._at : end], self._bound)
        except InvalidTag:
            raise NotWhatWasSealed from None
        self._at, self._number, self.ended = end, self._number + 1, last
        return plain
