"""Segments of the log in the object store: compressed, encrypted, and bound to the server that wrote them.

Here: how one segment is sealed, named and opened. Not here: when it is stored (``wal.drain``) or asked for
(``wal.serve``).

    wal/<database>/<system identifier>/<segment>   one line of JSON with the wrapped key, then the sealed bytes
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime

from dr_platform.backups import stream
from dr_platform.backups.bucket import Bucket
from dr_platform.backups.errors import Damage, DamagedBackup
from dr_platform.backups.keys import KeyRing, WrappedKey
from dr_platform.backups.postgresql.errors import ArchiveConflict
from dr_platform.objects import AlreadyExists, NoSuchObject

ROOT = "wal"


@dataclass(frozen=True)
class ArchivedSegment:
    segment: str
    size_bytes: int
    stored_at: datetime


@dataclass(frozen=True)
class WalArchive:
    """The log of one server (``system_identifier``) of one database of the catalog."""

    bucket: Bucket
    keys: KeyRing
    database: str
    system_identifier: str

    @property
    def folder(self) -> str:
        return f"{ROOT}/{self.database}/{self.system_identifier}"

    def store(self, segment: str, content: bytes, at: datetime) -> None:
        """Durable when it returns. Raises ``ArchiveConflict`` where another content is stored under this name."""
        name = self._key(segment)
        key, wrapped = self.keys.new(name)
        # A segment is 16 MiB, up to 1 GiB if its server was made so: always one part.
        (part,) = stream.sealed_parts([content], key, lambda _: _bound(name), part_bytes=len(content) * 2 + (64 << 20))
        head = {
            "schema": stream.FORMAT,
            "segment": segment,
            "at": at.isoformat(),
            "raw_bytes": len(content),
            "raw_sha256": hashlib.sha256(content).hexdigest(),
            "data_key": asdict(wrapped),
        }
        try:
            self.bucket.objects.put(name, json.dumps(head, sort_keys=True).encode() + b"\n" + part.content)
        except AlreadyExists:
            if b"".join(self.read(segment) or ()) != content:
                raise ArchiveConflict(segment) from None

    def read(self, segment: str) -> Iterator[bytes] | None:
        """Raises ``DamagedBackup`` where it is not what was stored, before a byte is given."""
        name = self._key(segment)
        try:
            stored = self.bucket.objects.get(name)
        except NoSuchObject:
            return None
        return iter((self._opened(name, stored),))

    def _opened(self, name: str, stored: bytes) -> bytes:
        head, _, sealed = stored.partition(b"\n")
        try:
            told = json.loads(head)
            key = self.keys.open(name, WrappedKey(**told["data_key"]))
            content = b"".join(stream.opened(sealed, key, _bound(name)))
        except (ValueError, KeyError, TypeError, stream.NotWhatWasSealed):
            raise DamagedBackup(name, Damage.PART_ALTERED, "the segment is not what was archived") from None
        return content

    def segments(self) -> tuple[ArchivedSegment, ...]:
        """What is stored, in the order of the log."""
        return tuple(
            ArchivedSegment(info.key.rpartition("/")[2], info.size_bytes, info.modified_at)
            for info in self.bucket.objects.list(self.folder)
        )

    def _key(self, segment: str) -> str:
        return f"{self.folder}/{segment}"


def _bound(name: str) -> bytes:
    """What a segment's encryption is bound to: it opens under no other name and for no other server."""
    return stream.associated(name, "segment")
