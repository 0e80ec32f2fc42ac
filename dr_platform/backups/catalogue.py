"""What backups there are, read from the bucket alone, and in which state each is.

Here: listing, and folding manifests, failures, proofs and holds into one record. Not here: whether a backup
is proved (``proof``) or how long it stays (``retention``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from dr_platform.backups import bucket as layout
from dr_platform.backups.bucket import Bucket
from dr_platform.backups.errors import Damage, DamagedBackup, UnknownBackup
from dr_platform.backups.keys import BackupKeys
from dr_platform.backups.manifest import Failure, Hold, Manifest, Proof, digest, read
from dr_platform.backups.port import Kind
from dr_platform.objects import ObjectInfo

UNPROVED = "not restored yet"


class State(StrEnum):
    VERIFIED = "verified"
    """It was restored, and the copy said the same as the source."""
    UNVERIFIED = "unverified"
    """It is complete, and nobody has restored it; also where a restore could not be tried."""
    FAILED = "failed"
    """It was not completed, was damaged, or its restored copy was something else."""


@dataclass(frozen=True)
class Record:
    """One backup. Sizes and times are 0 where it has no manifest that can be read."""

    id: str
    database: str
    kind: Kind | None
    state: State
    reason: str
    created_at: datetime
    """When its data was read, by its manifest; by the store where there is none that can be read."""
    size_bytes: int = 0
    raw_bytes: int = 0
    duration_s: float = 0.0
    proof_s: float | None = None
    proved_at: datetime | None = None
    parent: str | None = None
    held: bool = False
    manifest_sha256: str = ""
    location: str = ""
    why: str = ""
    """Why it was taken, and by whom."""

    @property
    def complete(self) -> bool:
        """It has a manifest of ours, whatever its proof said."""
        return bool(self.manifest_sha256)

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "database": self.database,
            "kind": self.kind,
            "state": self.state,
            "reason": self.reason,
            "created_at": self.created_at.isoformat(),
            "size_bytes": self.size_bytes,
            "raw_bytes": self.raw_bytes,
            "duration_s": round(self.duration_s, 3),
            "proof_s": None if self.proof_s is None else round(self.proof_s, 3),
            "location": self.location,
        }


@dataclass(frozen=True)
class Unfinished:
    """A folder with neither manifest nor failure: a backup that runs, or one whose process is gone."""

    id: str
    database: str
    newest_at: datetime
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Listing:
    """Newest first."""

    records: tuple[Record, ...]
    unfinished: tuple[Unfinished, ...] = ()

    def find(self, backup_id: str) -> Record:
        """Raises ``UnknownBackup``."""
        found = next((record for record in self.records if record.id == backup_id), None)
        if found is None:
            raise UnknownBackup(backup_id)
        return found

    def newest_verified(self, kinds: Iterable[Kind] | None = None) -> Record | None:
        wanted = None if kinds is None else set(kinds)
        verified = (r for r in self.records if r.state is State.VERIFIED and (wanted is None or r.kind in wanted))
        return next(verified, None)


@dataclass(frozen=True)
class Catalogue:
    """The backups of one bucket."""

    bucket: Bucket
    keys: BackupKeys

    def databases(self) -> tuple[str, ...]:
        """Those that have a backup, also ones that the catalog does not know any more."""
        names = {info.key.split("/")[1] for info in self.bucket.objects.list(layout.ROOT)}
        return tuple(sorted(names - layout.NO_DATABASE))

    def listing(self, database: str) -> Listing:
        folders: dict[str, list[ObjectInfo]] = {}
        for info in self.bucket.objects.list(layout.database_folder(database)):
            segments = info.key.split("/")
            if len(segments) > 3:
                folders.setdefault(segments[2], []).append(info)
        found = [self._read(database, name, objects) for name, objects in sorted(folders.items())]
        records = _with_broken_chains(r for r in found if isinstance(r, Record))
        ordered = sorted(records, key=lambda r: (r.created_at, r.id), reverse=True)
        return Listing(tuple(ordered), tuple(u for u in found if isinstance(u, Unfinished)))

    def _read(self, database: str, backup_id: str, objects: Sequence[ObjectInfo]) -> Record | Unfinished:
        keys = {info.key for info in objects}
        if (key := layout.manifest_key(database, backup_id)) in keys:
            return self._complete(database, backup_id, objects, key)
        if (key := layout.failure_key(database, backup_id)) in keys:
            return self._failed(database, backup_id, objects, key)
        records = (layout.proofs_folder(database, backup_id), layout.holds_folder(database, backup_id))
        if any(found.rpartition("/")[0] in records for found in keys):
            detail = "manifest missing: it was proved once, and its manifest is gone"
            return self._damaged(database, backup_id, objects, detail)
        newest = max(info.modified_at for info in objects)
        return Unfinished(backup_id, database, newest, tuple(sorted(keys)))

    def _complete(self, database: str, backup_id: str, objects: Sequence[ObjectInfo], key: str) -> Record:
        try:
            content = self.bucket.objects.get(key)
            manifest = read(content, Manifest, self.keys, backup_id)
            sha256 = digest(content)
            proofs = self._records(layout.proofs_folder(database, backup_id), objects, Proof, backup_id, sha256)
            holds = self._records(layout.holds_folder(database, backup_id), objects, Hold, backup_id, sha256)
        except DamagedBackup as exc:
            return self._damaged(database, backup_id, objects, f"{exc.damage}: {exc.detail}")
        record = Record(
            id=backup_id,
            database=database,
            kind=manifest.kind,
            state=State.UNVERIFIED,
            reason=UNPROVED,
            created_at=manifest.started_at,
            size_bytes=manifest.size_bytes,
            raw_bytes=manifest.raw_bytes,
            duration_s=manifest.duration_s,
            parent=manifest.parent.id if manifest.parent else None,
            held=_held(holds),
            manifest_sha256=sha256,
            location=self.bucket.location(database, backup_id),
            why=f"{manifest.reason} ({manifest.actor})",
        )
        if manifest.database != database:
            replayed = f"manifest replayed: it belongs to {manifest.database}"
            return replace(record, state=State.FAILED, reason=replayed, manifest_sha256="")
        return _proved(record, proofs)

    def _records(
        self, folder: str, objects: Sequence[ObjectInfo], model: type[R], backup_id: str, sha256: str
    ) -> tuple[R, ...]:
        """In the order of their own times. One that was written for another manifest makes the backup suspect."""
        found = []
        for info in objects:
            if info.key.startswith(folder + "/"):
                record = read(self.bucket.objects.get(info.key), model, self.keys, backup_id)
                if record.manifest_sha256 != sha256:
                    raise _another_manifest(backup_id, info.key)
                found.append(record)
        return tuple(sorted(found, key=lambda r: r.at))

    def _failed(self, database: str, backup_id: str, objects: Sequence[ObjectInfo], key: str) -> Record:
        try:
            failure = read(self.bucket.objects.get(key), Failure, self.keys, backup_id)
        except DamagedBackup as exc:
            return self._damaged(database, backup_id, objects, f"{exc.damage}: {exc.detail}")
        return Record(
            id=backup_id,
            database=database,
            kind=failure.kind,
            state=State.FAILED,
            reason=f"{failure.cause}: {failure.detail}",
            created_at=failure.started_at,
            duration_s=(failure.finished_at - failure.started_at).total_seconds(),
            location=self.bucket.location(database, backup_id),
            why=f"{failure.reason} ({failure.actor})",
        )

    def _damaged(self, database: str, backup_id: str, objects: Sequence[ObjectInfo], reason: str) -> Record:
        written = min(info.modified_at for info in objects)
        location = self.bucket.location(database, backup_id)
        # A hold that nobody can read any more still holds.
        held = any(info.key.startswith(layout.holds_folder(database, backup_id) + "/") for info in objects)
        return Record(backup_id, database, None, State.FAILED, reason, written, held=held, location=location)


R = TypeVar("R", Proof, Hold)


def _another_manifest(backup_id: str, key: str) -> DamagedBackup:
    name = key.rpartition("/")[2]
    return DamagedBackup(backup_id, Damage.MANIFEST_REPLAYED, f"{name} was written for another manifest")


def _held(holds: Sequence[Hold]) -> bool:
    return bool(holds) and holds[-1].held


def _proved(record: Record, proofs: Iterable[Proof]) -> Record:
    """The newest proof with an answer decides; one that could not look changes nothing but the reason."""
    for proof in proofs:
        if proof.state != "unknown":
            state = State.VERIFIED if proof.state == "verified" else State.FAILED
            record = replace(
                record, state=state, reason=proof.reason, proof_s=proof.seconds, proved_at=proof.at
            )  # fmt: skip
        elif record.state is State.UNVERIFIED:
            record = replace(record, reason=proof.reason)
    return record


def _with_broken_chains(records: Iterable[Record]) -> Iterator[Record]:
    """An incremental backup is worth what its parents are."""
    known = {record.id: record for record in records}
    for record in known.values():
        yield replace(record, **_broken(record, known))


def _broken(record: Record, known: dict[str, Record]) -> dict[str, Any]:
    seen = {record.id}
    at = record
    while at.parent is not None:
        parent = known.get(at.parent)
        if parent is None or not parent.complete or at.parent in seen:
            return {"state": State.FAILED, "reason": f"parent missing: {at.parent}"}
        if parent.state is State.FAILED:
            return {"state": State.FAILED, "reason": f"its parent {parent.id} failed: {parent.reason}"}
        seen.add(parent.id)
        at = parent
    return {}
