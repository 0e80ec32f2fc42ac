"""A base backup's tar archive becomes a folder, and every file is compared with the server's list on the way.

Here: writing files. Not here: where the archive comes from.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dr_platform.backups.postgresql.manifest import BackupManifest, ListedFile, differences
from dr_platform.databases.embedded.files import ServerUser

_BLOCK = tarfile.BLOCKSIZE


class NotAsListed(Exception):
    """The archive is not what the server said it is. Its text names files, never content."""


def unpack(archive: Iterator[bytes | memoryview], target: Path, manifest: BackupManifest, user: ServerUser) -> None:
    """Raises ``NotAsListed`` when a file is missing, other than listed, or outside of the folder."""
    found: dict[str, ListedFile] = {}
    stream = _Stream(archive)
    _make(target, user)
    try:
        while (member := _next_member(stream)) is not None:
            if (listed := _write(stream, member, target, user)) is not None:
                found[member.name.removeprefix("./")] = listed
    except tarfile.TarError as exc:
        raise NotAsListed(f"the archive cannot be read ({type(exc).__name__})") from None
    if problems := differences(manifest, found):
        raise NotAsListed(f"{problems[0]}" + (f", and {len(problems) - 1} more" if problems[1:] else ""))


class _Stream:
    """Chunks of which exact numbers of bytes are taken, without a copy."""

    def __init__(self, chunks: Iterator[bytes | memoryview]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def take(self, size: int) -> Iterator[memoryview]:
        while size:
            if self.ended():
                raise tarfile.ReadError("it ends early")
            taken = self._rest[:size]
            self._rest = self._rest[len(taken) :]
            size -= len(taken)
            yield taken

    def ended(self) -> bool:
        """What feeds the stream finds out at its end whether everything came."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return True
            self._rest = memoryview(chunk)
        return False

    def drain(self) -> None:
        while not self.ended():
            self._rest = memoryview(b"")


def _next_member(stream: _Stream) -> tarfile.TarInfo | None:
    """``tarfile`` copies every byte several times; a server writes plain headers, and not always blocks of zeros
    after the last file."""
    if stream.ended():
        return None
    header = b"".join(stream.take(_BLOCK))
    if not header.strip(b"\0"):
        stream.drain()
        return None
    return tarfile.TarInfo.frombuf(header, tarfile.ENCODING, "surrogateescape")


def _write(stream: _Stream, member: tarfile.TarInfo, target: Path, user: ServerUser) -> ListedFile | None:
    path = target / _inside(member.name)
    if member.isdir():
        _make(path, user)
        return None
    if not member.isreg():
        raise NotAsListed(f"{member.name} is neither a file nor a folder")
    digest = hashlib.sha256()
    with path.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        if not user.is_me:
            os.fchown(file.fileno(), user.uid, user.gid)
        for chunk in stream.take(member.size):
            digest.update(chunk)
            file.write(chunk)
    for _ in stream.take(-member.size % _BLOCK):
        pass
    return ListedFile(member.size, digest.hexdigest())


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise NotAsListed("a file lies outside of the folder")
    return path


def _make(folder: Path, user: ServerUser) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    if not user.is_me:
        os.chown(folder, user.uid, user.gid)
