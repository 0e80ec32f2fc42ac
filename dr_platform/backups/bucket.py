"""Where backups lie in an object store, and how another process finds the same store.

Here: the names of objects. Not here: what is in them.

    backups/<database>/<backup>/manifest.json       written last; without it there is no backup
                               /parts/<piece>/00000 …
                               /proofs/<time>-<id>.json
                               /holds/<time>-<id>.json
                               /failed.json         in place of a manifest
    backups/recovery/…                              the stand-alone decryptor, public keys
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from dr_platform.errors import PlatformError
from dr_platform.objects import ObjectStore, open_objects

ROOT = "backups"
RECOVERY = f"{ROOT}/recovery"
_SEGMENT = 120
_CLOCK = f"{ROOT}/clock"
NO_DATABASE = frozenset({"recovery", "clock"})
"""Folders beside those of databases."""


@dataclass(frozen=True)
class Bucket:
    """A store by its address, see ``open_objects``. Can be pickled; it holds no credentials."""

    url: str

    @classmethod
    def of_folder(cls, folder: Path) -> Bucket:
        return cls(folder.absolute().as_uri())

    @cached_property
    def objects(self) -> ObjectStore:
        return open_objects(self.url)

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.url}

    def time(self, marker: str) -> datetime | None:
        """What time it is by the clock of the store. ``marker`` is a name that nobody else uses."""
        key = f"{_CLOCK}/{marker}"
        self.objects.put(key, b"what time is it")
        try:
            found = self.objects.head(key)
        finally:
            with suppress(PlatformError):  # a store that locks objects keeps it; it holds nothing
                self.objects.delete(key)
        return found.modified_at if found else None

    def location(self, database: str, backup_id: str) -> str:
        """A URI for people; of the local store it is a folder that can be read."""
        return f"{self.url.rstrip('/')}/{folder_of(database, backup_id)}"


def database_folder(database: str) -> str:
    return f"{ROOT}/{database}"


def folder_of(database: str, backup_id: str) -> str:
    return f"{ROOT}/{database}/{backup_id}"


def manifest_key(database: str, backup_id: str) -> str:
    return f"{folder_of(database, backup_id)}/manifest.json"


def failure_key(database: str, backup_id: str) -> str:
    return f"{folder_of(database, backup_id)}/failed.json"


def proofs_folder(database: str, backup_id: str) -> str:
    return f"{folder_of(database, backup_id)}/proofs"


def holds_folder(database: str, backup_id: str) -> str:
    return f"{folder_of(database, backup_id)}/holds"


def segment_of(name: str) -> str:
    """The name of a table or collection, whatever it is, as one segment of the name of a piece. Two names never give
    the same one."""
    plain = quote(name, safe="").replace("~", "=7E").replace("%", "=")  # neither stands in a key; `=` is escaped too
    if len(plain) <= _SEGMENT and plain.strip("."):
        return plain
    return f"{plain[: _SEGMENT // 3].replace('.', '=2E')}={hashlib.sha256(name.encode()).hexdigest()[:32]}"


def part_path(piece: str, index: int) -> str:
    """Of a part, within the folder of its backup; also what its encryption is bound to."""
    return f"parts/{piece}/{index:05d}"
