"""A backup that was brought back for masking: production is read through it, and never itself.

Here: which backups, servers of their own for as long as somebody reads, and access to them. Not here: masking
(``masked_staging``), or how a backup comes back (``backups``).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from dr_platform.backup_desk import BackupDesk
from dr_platform.backups.catalogue import Record, State
from dr_platform.backups.errors import UnknownBackup
from dr_platform.backups.port import Reachable
from dr_platform.catalog import Catalog
from dr_platform.drill import EngineOf, engine_on
from dr_platform.masked_staging import NoRestoredSource
from dr_platform.masking.port import Access
from dr_platform.platform import Platform
from dr_platform.verdict import Progress, silent

_SUFFIX = "-backup"


def environment_named(catalog: Catalog, name: str) -> str | None:
    """``production-backup`` means the environment ``production``; anything else is the id of a backup."""
    environment = name.removesuffix(_SUFFIX)
    return environment if name.endswith(_SUFFIX) and environment in catalog.environments else None


@dataclass(frozen=True)
class RestoredSource:
    """A ``MaskSource``. Nobody else uses its servers, so that canaries may be planted there."""

    records: Sequence[Record]
    reached: Mapping[str, Access]

    @property
    def name(self) -> str:
        return ", ".join(record.id for record in self.records)

    @property
    def expendable(self) -> bool:
        return True

    def access(self) -> Mapping[str, Access]:
        return self.reached


def chosen(platform: Platform, backup_id: str | None) -> tuple[Record, ...]:
    """One backup, or without an id the newest verified one of every database. Raises ``NoRestoredSource``: people
    of one database have things in the others, so that a part of them is no copy of an environment."""
    desk = BackupDesk(platform)
    if backup_id is not None:
        try:
            record = desk.record(backup_id)
        except UnknownBackup:
            raise NoRestoredSource(backup_id, f"{platform.environment.name} has no such backup") from None
        if record.state is not State.VERIFIED:
            raise NoRestoredSource(backup_id, f"it is {record.state}: {record.reason}")
        return (record,)
    found = {name: desk.listing(name).newest_verified() for name in platform.catalog.databases}
    if missing := [name for name, record in found.items() if record is None]:
        name = f"{platform.environment.name}{_SUFFIX}"
        raise NoRestoredSource(name, f"there is no verified backup of {', '.join(missing)}")
    return tuple(record for record in found.values() if record is not None)


@contextmanager
def restored(
    platform: Platform, backup_id: str | None, progress: Progress = silent, engine_of: EngineOf = engine_on
) -> Generator[RestoredSource]:
    """Bring them back into servers of this machine, gone with everything in them at the end. No connection to the
    environment's own databases is made. Raises ``NoRestoredSource``, ``DamagedBackup``, and what an engine refuses."""
    records, reader = chosen(platform, backup_id), BackupDesk(platform).reader
    with ExitStack() as servers:
        reached: dict[str, Access] = {}
        for record in records:
            progress(f"{record.database}: bringing {record.id} back")
            entry = platform.catalog.databases[record.database]
            place = servers.enter_context(engine_of(entry, platform.state, platform.clock).scratch())
            place.restore(reader.chain(record.database, record.id))
            if not isinstance(place, Reachable):
                raise NoRestoredSource(record.id, "its copy cannot be reached by others")
            endpoint, login = place.way_in
            reached[record.database] = Access(entry, endpoint, login)
        yield RestoredSource(records, reached)
