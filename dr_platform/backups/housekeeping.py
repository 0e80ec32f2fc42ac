"""Carrying out a retention plan, and setting or lifting a legal hold.

Here: deleting in an order that an interruption cannot turn into a lie. Not here: what may go (``retention``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dr_platform.backups import bucket as layout
from dr_platform.backups.bucket import Bucket
from dr_platform.backups.catalogue import Catalogue, Record
from dr_platform.backups.keys import KeyRing
from dr_platform.backups.manifest import Hold, written
from dr_platform.backups.retention import Keep, Plan, plan
from dr_platform.clock import Clock
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.identity import new_id


class PruneRefused(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, database: str, why: str) -> None:
        super().__init__(database, why)
        self.what = f"no backup of {database} is removed: {why}"
        self.untouched = "every backup"
        self.next_step = "correct the clock that is wrong, then see `drp backups prune --plan`"


class NotRemoved(PlatformError):
    """A store that says that it deleted and still lists, as one with object lock does."""

    def __init__(self, database: str, left: tuple[str, ...]) -> None:
        super().__init__(database, left)
        self.what = f"{len(left)} backups of {database} are still there after their removal: {', '.join(left[:5])}"
        self.untouched = "every backup that the plan keeps"
        self.next_step = "see whether the store locks objects, and until when"


class NothingToHold(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, backup_id: str) -> None:
        super().__init__(backup_id)
        self.what = f"backup {backup_id} has no manifest, so nothing of it can be held"
        self.untouched = "every backup"
        self.next_step = "choose one that `drp backups` does not show as failed"


@dataclass(frozen=True)
class Pruned:
    """What was removed, counted, and how many backups are listed now."""

    database: str
    removed: tuple[str, ...]
    objects: int
    size_bytes: int
    left: int


@dataclass(frozen=True)
class Housekeeper:
    bucket: Bucket
    keys: KeyRing
    clock: Clock
    identify: Callable[[str], str] = new_id

    @property
    def _catalogue(self) -> Catalogue:
        return Catalogue(self.bucket, self.keys)

    def plan(self, database: str, keep: Keep) -> Plan:
        listing = self._catalogue.listing(database)
        store_now = self.bucket.time(self.identify("clock"))
        return plan(database, listing.records, listing.unfinished, keep, self.clock.now(), store_now)

    def prune(self, database: str, keep: Keep) -> Pruned:
        """Plan anew and carry it out. Raises ``PruneRefused`` and ``NotRemoved``."""
        planned = self.plan(database, keep)
        if planned.refused:
            raise PruneRefused(database, planned.refused)
        objects = sum(self._remove(database, expired.id) for expired in planned.expired)
        removed = tuple(expired.id for expired in planned.expired)
        listing = self._catalogue.listing(database)
        here = {record.id for record in listing.records} | {found.id for found in listing.unfinished}
        if left := tuple(name for name in removed if name in here):
            raise NotRemoved(database, left)
        return Pruned(database, removed, objects, planned.size_bytes, len(listing.records))

    def _remove(self, database: str, backup_id: str) -> int:
        """Its proofs first: what is left by an interruption is never taken for a verified backup."""
        count = 0
        for key in self._in_order(database, backup_id):
            self.bucket.objects.delete(key)
            count += 1
        return count

    def _in_order(self, database: str, backup_id: str) -> Iterator[str]:
        folder = layout.folder_of(database, backup_id)
        keys = [info.key for info in self.bucket.objects.list(folder)]
        parts = [key for key in keys if key.startswith(f"{folder}/parts/")]
        last = (layout.manifest_key(database, backup_id), layout.failure_key(database, backup_id))
        yield from (key for key in keys if key not in parts and key not in last)
        yield from (key for key in last if key in keys)
        yield from parts

    def hold(self, record: Record, actor: str, reason: str) -> Hold:
        """Keep a backup whatever the policy says, until the hold is lifted."""
        return self._write(record, actor, reason, held=True)

    def lift(self, record: Record, actor: str, reason: str) -> Hold:
        return self._write(record, actor, reason, held=False)

    def _write(self, record: Record, actor: str, reason: str, *, held: bool) -> Hold:
        if not record.complete:
            raise NothingToHold(record.id)
        now = self.clock.now()
        hold = Hold(
            backup_id=record.id,
            manifest_sha256=record.manifest_sha256,
            at=now,
            actor=actor,
            held=held,
            reason=reason,
        )
        name = self.identify(f"{now:%Y%m%dT%H%M%SZ}")
        key = f"{layout.holds_folder(record.database, record.id)}/{name}.json"
        self.bucket.objects.put(key, written(hold, self.keys))
        return hold
