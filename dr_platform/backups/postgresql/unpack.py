"""A base backup's tar archive becomes a folder, and every file is compared with the server's list on the way.

Here: writing files. Not here: where the archive comes from.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dr_platform.backups.postgresql.manifest import BackupManifest, ListedFile, differences
from dr_platform.databases.embedded.files import ServerUser

_COPY_BYTES = 1 << 20


class NotAsListed(Exception):
    """The archive is not what the server said it is. Its text names files, never content."""


def unpack(archive: Iterator[bytes], target: Path, manifest: BackupManifest, user: ServerUser) -> None:
    """Raises ``NotAsListed`` when a file is missing, other than listed, or outside of the folder."""
    found: dict[str, ListedFile] = {}
    _make(target, user)
    try:
        with tarfile.open(fileobj=_Stream(archive), mode="r|", bufsize=_COPY_BYTES) as tar:
            for member in tar:
                if (listed := _write(tar, member, target, user)) is not None:
                    found[member.name.removeprefix("./")] = listed
    except tarfile.TarError as exc:
        raise NotAsListed(f"the archive cannot be read ({type(exc).__name__})") from None
    if problems := differences(manifest, found):
        raise NotAsListed(f"{problems[0]}" + (f", and {len(problems) - 1} more" if problems[1:] else ""))


class _Stream(io.RawIOBase):
    """Chunks as a file that can be read once."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        held: list[bytes | memoryview] = []
        while size:
            if not self._rest:
                chunk = next(self._chunks, None)
                if chunk is None:
                    break
                self._rest = memoryview(chunk)
            taken = self._rest[:size] if size > 0 else self._rest
            self._rest = self._rest[len(taken) :]
            size -= len(taken) if size > 0 else 0
            held.append(taken)
        return b"".join(held)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, user: ServerUser) -> ListedFile | None:
    path = target / _inside(member.name)
    if member.isdir():
        _make(path, user)
        return None
    if not member.isreg():
        raise NotAsListed(f"{member.name} is neither a file nor a folder")
    source = tar.extractfile(member)
    if source is None:
        raise NotAsListed(f"{member.name} has no content")
    digest = hashlib.sha256()
    with path.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        if not user.is_me:
            os.fchown(file.fileno(), user.uid, user.gid)
        while chunk := source.read(_COPY_BYTES):
            digest.update(chunk)
            file.write(chunk)
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
