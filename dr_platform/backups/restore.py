"""Bringing a backup back for people: always into a new database, by a plan that is shown and confirmed first.

Here: what may be restored where, the plan, and comparing afterwards. Not here: who has to approve it, or how
an engine restores.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from dr_platform.backups.catalogue import Listing, State
from dr_platform.backups.manifest import CheckResult, canonical
from dr_platform.backups.port import Facts, Kind, Restoration
from dr_platform.backups.proof import compared
from dr_platform.backups.reading import BackupReader
from dr_platform.clock import Clock
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.verdict import Progress, silent

_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,47}")
"""What an engine takes as the name of a database, unquoted; Redis numbers its databases."""


class RestoreRefused(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, database: str, why: str, next_step: str) -> None:
        super().__init__(database, why, next_step)
        self.what = f"{database}: not restored, {why}"
        self.untouched = "every database; nothing was written"
        self.next_step = next_step


class NotConfirmed(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, backup_id: str) -> None:
        super().__init__(backup_id)
        self.what = "the restore was not confirmed with the id of the backup"
        self.untouched = "every database; nothing was written"
        self.next_step = f"read the plan, then repeat with --confirm {backup_id}"


class RestoredOtherwise(PlatformError):
    """The copy is not what the source was; it is gone again."""

    def __init__(self, into: str, why: str) -> None:
        super().__init__(into, why)
        self.what = f"{into}: what was restored is not what was backed up: {why}"
        self.untouched = f"every other database; {into} was removed again"
        self.next_step = "restore another backup, see `drp backups`"


@dataclass(frozen=True)
class RestorePlan:
    """What will be done. ``digest`` is what people approve."""

    environment: str
    database: str
    backup_id: str
    manifest_sha256: str
    kind: Kind
    into: str
    state: State
    reason: str
    created_at: datetime
    chain: tuple[str, ...]
    size_bytes: int
    raw_bytes: int
    moment: str = ""
    """Where it is recovered beyond the backup: a time, or a named restore point."""

    @property
    def digest(self) -> str:
        bound = [
            self.environment,
            self.database,
            self.backup_id,
            self.manifest_sha256,
            self.into,
            self.moment,
            *self.chain,
        ]
        return "sha256:" + hashlib.sha256(canonical(bound)).hexdigest()

    def lines(self) -> tuple[str, ...]:
        return (
            f"restore {self.backup_id} ({self.kind}, {self.state}: {self.reason})",
            f"taken {self.created_at:%Y-%m-%d %H:%M} UTC; what was written to {self.database} since then is not in it",
            f"into the new database {self.into} of {self.environment}; the live one is not touched",
            f"reads {self.size_bytes / 1e6:,.1f} MB of {len(self.chain)} backups, {self.raw_bytes / 1e6:,.1f} unpacked",
            f"then brings it to {self.moment}; what was written after that is not in it"
            if self.moment
            else "then compares rows, fingerprints, schema and migration with what was measured in the source",
        )

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "created_at": self.created_at.isoformat(), "digest": self.digest}


@dataclass(frozen=True)
class Restored:
    plan: RestorePlan
    address: str
    seconds: float
    checks: tuple[CheckResult, ...]

    @property
    def is_equal(self) -> bool:
        """Whether its rows were counted and are those of the source; at a moment of its own nobody had counted."""
        return any(check.name == "rows_equal" and check.passed for check in self.checks)


def plan_restore(
    environment: str,
    live: Sequence[str],
    listing: Listing,
    reader: BackupReader,
    backup_id: str,
    into: str,
    moment: str = "",
) -> RestorePlan:
    """Raises ``RestoreRefused``; ``live`` are the names that applications use."""
    record = listing.find(backup_id)
    database = record.database
    if into in live:
        next_step = "name a database that does not exist with --into; the switch comes after the restore"
        raise RestoreRefused(database, f"{into} is live, and a restore goes into a new database", next_step)
    if not _NAME.fullmatch(into):
        raise RestoreRefused(
            database, "this is no name for a database", "use lower-case letters, digits and underscores with --into"
        )
    if record.state is State.FAILED:
        raise RestoreRefused(database, f"{backup_id} failed: {record.reason}", "choose another one, see `drp backups`")
    chain = reader.manifests(database, backup_id)
    return RestorePlan(
        environment=environment,
        database=database,
        backup_id=backup_id,
        manifest_sha256=record.manifest_sha256,
        kind=chain[-1].kind,
        into=into,
        state=record.state,
        reason=record.reason,
        created_at=record.created_at,
        chain=tuple(manifest.backup_id for manifest in chain),
        size_bytes=sum(manifest.size_bytes for manifest in chain),
        raw_bytes=sum(manifest.raw_bytes for manifest in chain),
        moment=moment,
    )


def carry_out(
    plan: RestorePlan,
    target: AbstractContextManager[Restoration],
    reader: BackupReader,
    clock: Clock,
    confirmed: str | None,
    progress: Progress = silent,
) -> Restored:
    """Restore and compare. Raises ``NotConfirmed``, ``DamagedBackup``, ``RestoredOtherwise``; after each the new
    database is gone again."""
    if confirmed != plan.backup_id:
        raise NotConfirmed(plan.backup_id)
    began = clock.monotonic()
    chain = reader.chain(plan.database, plan.backup_id)
    with target as restoration:
        progress(f"restoring into {restoration.address}")
        restoration.restore(chain)
        progress("restored; comparing with what was measured in the source")
        checks = tuple(_compared(plan, chain[-1].facts, restoration.facts()))
        if bad := next((check for check in checks if check.passed is False), None):
            raise RestoredOtherwise(plan.into, f"{bad.name}: {bad.detail}")
        return Restored(plan, restoration.address, clock.monotonic() - began, checks)


def _compared(plan: RestorePlan, source: Facts, copy: Facts) -> Iterator[CheckResult]:
    """At another moment than the backup's own the source was not measured."""
    for check in compared(source, copy):
        if plan.moment and check.name != "extensions":
            yield CheckResult(name=check.name, passed=None, detail=f"the source was not measured at {plan.moment}")
        else:
            yield check
