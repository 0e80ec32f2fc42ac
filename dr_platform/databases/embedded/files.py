"""Files of a server: private, owned by the user it runs as, replaced as a whole.

Here: ownership, modes and atomic replacement. Not here: what is in the files.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

UNPRIVILEGED = ("postgres", "nobody")
"""Users that exist on most machines and own nothing of the platform; the first one found is used."""


@dataclass(frozen=True)
class ServerUser:
    """The operating system user a server runs as."""

    name: str
    uid: int
    gid: int

    @property
    def is_me(self) -> bool:
        return self.uid == os.geteuid()

    def may_enter(self, folder: Path) -> bool:
        """Can this user pass through ``folder`` and all folders above it?"""
        return all(self._may_pass(p) for p in (folder, *folder.parents) if p.exists())

    def _may_pass(self, folder: Path) -> bool:
        found = folder.stat()
        if found.st_uid == self.uid:
            return bool(found.st_mode & stat.S_IXUSR)
        if found.st_gid == self.gid:
            return bool(found.st_mode & stat.S_IXGRP)
        return bool(found.st_mode & stat.S_IXOTH)


def invoking_user() -> ServerUser:
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:  # a container user without a passwd entry
        name = ""
    return ServerUser(name, uid, os.getegid())


def unprivileged_user() -> ServerUser | None:
    """For root only: somebody else to run a server as that refuses root."""
    for name in UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return ServerUser(entry.pw_name, entry.pw_uid, entry.pw_gid)
    return None


def private_directory(path: Path, owner: ServerUser) -> Path:
    """Make ``path``, for ``owner`` alone."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if (found.st_uid, found.st_gid) != (owner.uid, owner.gid):
        os.chown(path, owner.uid, owner.gid)
    if stat.S_IMODE(found.st_mode) != 0o700:
        path.chmod(0o700)
    return path


def private_file(path: Path, text: str, owner: ServerUser) -> bool:
    """Replace ``path`` as a whole where its text differs; says whether it did."""
    with contextlib.suppress(FileNotFoundError):
        if path.read_text(encoding="utf-8") == text:
            return False
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if not owner.is_me:
                os.fchown(file.fileno(), owner.uid, owner.gid)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
    return True


def make_whole(target: Path, owner: ServerUser, make: Callable[[Path], None]) -> None:
    """Let ``make`` fill a new folder that then becomes ``target``; nothing happens where ``target``
    has content. At no moment is it there and incomplete. What an interrupted attempt left is
    removed; of several callers at once one works and the others wait."""
    lock = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel gives it up when this process ends
        if not has_content(target):
            _make_whole(target, owner, make)
    finally:
        os.close(lock)


def has_content(folder: Path) -> bool:
    return folder.exists() and any(folder.iterdir())


def _make_whole(target: Path, owner: ServerUser, make: Callable[[Path], None]) -> None:
    for leftover in target.parent.glob(f".{target.name}.*.new"):
        shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink()
    draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".new"))
    try:
        make(private_directory(draft, owner))
        draft.rename(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    sync_directory(target.parent)


def sync_directory(path: Path) -> None:
    """Make renames in ``path`` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
