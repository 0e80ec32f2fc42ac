"""Reading a backup back: what is given was verified first, byte by byte.

Here: from a manifest to the pieces that an engine restores. Not here: whether what they restore is what was
in the database (``proof``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pydantic import JsonValue

from dr_platform.backups import bucket as layout
from dr_platform.backups import stream
from dr_platform.backups.bucket import Bucket
from dr_platform.backups.errors import Damage, DamagedBackup, UnknownBackup
from dr_platform.backups.keys import BackupKeys
from dr_platform.backups.manifest import Manifest, Part, PieceEntry, digest, read
from dr_platform.backups.port import StoredBackup
from dr_platform.objects import NoSuchObject

_VERIFYING = 2
"""Pieces that are verified at once; each holds one part in memory."""


@dataclass(frozen=True)
class StoredFile:
    """A ``StoredPiece`` in a bucket. ``known`` names the part of every digest in the backup, so that parts in
    each other's place are told as such."""

    bucket: Bucket
    backup_id: str
    folder: str
    entry: PieceEntry
    known: Mapping[str, str]
    key: bytes = field(repr=False)

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def facts(self) -> Mapping[str, JsonValue]:
        return self.entry.facts

    @property
    def size_hint(self) -> int:
        return self.entry.raw_bytes

    def read(self) -> Iterator[bytes]:
        for part in self.entry.parts:
            yield from self._opened(part)

    def _opened(self, part: Part) -> Iterator[bytes]:
        content = self._verified(part)
        size = 0
        try:
            for raw in stream.opened(content, self.key, stream.associated(self.backup_id, part.path)):
                size += len(raw)
                yield raw
        except stream.NotWhatWasSealed:
            # The digest is right, so these are the bytes that were written.
            detail = f"{part.path} does not open with the backup's data key"
            raise DamagedBackup(self.backup_id, Damage.WRONG_KEY, detail) from None
        if size != part.raw_bytes:
            detail = f"{part.path} gives {size} bytes, {part.raw_bytes} were read"
            raise DamagedBackup(self.backup_id, Damage.PART_ALTERED, detail)

    def verify(self) -> None:
        """That every part is there and is what was written. Needs no key: digests are over ciphertext."""
        for part in self.entry.parts:
            self._verified(part)

    def _verified(self, part: Part) -> bytes:
        try:
            content = self.bucket.objects.get(f"{self.folder}/{part.path}")
        except NoSuchObject:
            raise DamagedBackup(self.backup_id, Damage.PART_MISSING, part.path) from None
        found = hashlib.sha256(content).hexdigest()
        if found != part.sha256:
            raise DamagedBackup(self.backup_id, *self._damage(part, found, len(content)))
        return content

    def _damage(self, part: Part, found: str, size: int) -> tuple[Damage, str]:
        if other := self.known.get(found):
            return Damage.PARTS_SWAPPED, f"{part.path} holds what was written as {other}"
        if size < part.bytes:
            return Damage.PART_TRUNCATED, f"{part.path} has {size} of {part.bytes} bytes"
        return Damage.PART_ALTERED, f"{part.path} is not what was written"


@dataclass(frozen=True)
class BackupReader:
    bucket: Bucket
    keys: BackupKeys

    def manifest(self, database: str, backup_id: str) -> tuple[Manifest, str]:
        """What was signed, and its digest. Raises ``UnknownBackup`` or ``DamagedBackup``."""
        try:
            content = self.bucket.objects.get(layout.manifest_key(database, backup_id))
        except NoSuchObject:
            raise UnknownBackup(backup_id) from None
        manifest = read(content, Manifest, self.keys, backup_id)
        if manifest.database != database:
            raise DamagedBackup(backup_id, Damage.MANIFEST_REPLAYED, "it belongs to another database")
        return manifest, digest(content)

    def open(self, manifest: Manifest) -> StoredBackup:
        """Raises ``DamagedBackup`` where the data key cannot be had; reads no part yet."""
        key = self.keys.open(manifest.backup_id, manifest.data_key)
        pieces = tuple(self._piece(manifest, entry, key) for entry in manifest.pieces)
        return StoredBackup(manifest.backup_id, manifest.kind, manifest.facts, pieces)

    def missing_parts(self, manifest: Manifest) -> tuple[str, ...]:
        """Parts that are not there in their size; costs no read of them."""
        folder = layout.folder_of(manifest.database, manifest.backup_id)
        sizes = {info.key: info.size_bytes for info in self.bucket.objects.list(f"{folder}/parts")}
        return tuple(part.path for part in manifest.parts if sizes.get(f"{folder}/{part.path}") != part.bytes)

    def verify_parts(self, manifest: Manifest) -> int:
        """Every part is there and unaltered; returns how many bytes were read. Raises ``DamagedBackup``."""
        with ThreadPoolExecutor(_VERIFYING, thread_name_prefix="verify") as pool:
            for _ in pool.map(lambda entry: self._piece(manifest, entry, b"").verify(), manifest.pieces):
                pass
        return manifest.size_bytes

    def _piece(self, manifest: Manifest, entry: PieceEntry, key: bytes) -> StoredFile:
        folder = layout.folder_of(manifest.database, manifest.backup_id)
        known = {part.sha256: part.path for part in manifest.parts}
        return StoredFile(self.bucket, manifest.backup_id, folder, entry, known, key)

    def manifests(self, database: str, backup_id: str) -> tuple[Manifest, ...]:
        """A backup with all that it continues, the full one first."""
        manifest, _ = self.manifest(database, backup_id)
        chain = [manifest]
        while (parent := chain[-1].parent) is not None:
            chain.append(self._continued(database, chain[-1].backup_id, parent.id, parent.manifest_sha256))
        return tuple(reversed(chain))

    def _continued(self, database: str, child: str, parent_id: str, sha256: str) -> Manifest:
        try:
            parent, found = self.manifest(database, parent_id)
        except UnknownBackup:
            raise DamagedBackup(child, Damage.PARENT_MISSING, parent_id) from None
        if found != sha256:
            raise DamagedBackup(child, Damage.MANIFEST_REPLAYED, f"its parent {parent_id} is another one by now")
        return parent

    def chain(self, database: str, backup_id: str) -> tuple[StoredBackup, ...]:
        return tuple(self.open(manifest) for manifest in self.manifests(database, backup_id))
