"""The disaster drill of a platform: from nothing but the bucket and the escrow identity, all databases come back.

Here: an empty machine's state, the keys that are left, order by tier, going on after an interruption, and what is
written down. Not here: how one database comes back (``backups.drill``), or how a verb or a job looks.

Neither the secret store nor a server of the platform is asked: engines get a folder that was empty, and a login that
opens nothing. The evidence log is told afterwards.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import TypeAdapter

from dr_platform.backup_desk import engine_at, identity_file
from dr_platform.backup_store import bucket_of, policy_of
from dr_platform.backups import scratch_server
from dr_platform.backups.bucket import Bucket
from dr_platform.backups.catalogue import Catalogue, Listing, Record
from dr_platform.backups.drill import Attempt, Drill, Returned, State, bring_back
from dr_platform.backups.keys import EscrowKeys, NoIdentity
from dr_platform.backups.port import BackupEngine, Kind
from dr_platform.backups.reading import BackupReader
from dr_platform.backups.recovery_kit import signers
from dr_platform.backups.source import Source
from dr_platform.catalog import Database, DataClass
from dr_platform.clock import Clock
from dr_platform.databases.access import Login
from dr_platform.databases.port import Endpoint
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.platform import Platform
from dr_platform.schema_changes import UnknownDatabase
from dr_platform.state import StateDirectory, locate_state
from dr_platform.verdict import Progress, silent

DRILLED = "drill-ended"
SUBJECT = "backups/drill"
IDENTITY = "DRP_ESCROW_IDENTITY"
"""Names the file with the escrow identity where nobody sits at the command."""
RESUMED_WITHIN = timedelta(hours=24)
"""What an interrupted drill brought back counts this long for the one that goes on."""
_NOBODY = Login("nobody", "")
_NOWHERE = "127.0.0.1"

_JOURNAL = TypeAdapter(list[Returned])
EngineOf = Callable[[Database, StateDirectory, Clock], BackupEngine]


class DrillRuns(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self) -> None:
        super().__init__()
        self.what = "a drill of this environment is running already"
        self.untouched = "that drill, every backup and every database"
        self.next_step = "wait for its end"


class NotCleared(PlatformError):
    """Copies of patients' data must not be left behind."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.what = f"{folder} could not be removed after the drill"
        self.untouched = "every backup and every database"
        self.next_step = f"find out who holds files in {folder}, then remove it"


def engine_on(entry: Database, machine: StateDirectory, clock: Clock) -> BackupEngine:
    """The engine of a database on a machine where its server is gone."""
    return engine_at(Source(entry, Endpoint(_NOWHERE, 0, entry.database), _NOBODY), machine, clock)


def identity_of(platform: Platform, named: Path | None) -> Path:
    """The file that somebody named, here or by ``DRP_ESCROW_IDENTITY``; on synthetic data the environment's own.
    Raises ``NoIdentity``."""
    if named is not None:
        return named
    if configured := os.environ.get(IDENTITY):
        return Path(configured)
    if platform.binding.data_class is not DataClass.SYNTHETIC:
        raise NoIdentity(platform.environment.name, "people keep the escrow identity, and nobody named its file")
    return identity_file(platform)


@dataclass(frozen=True)
class DisasterDrill:
    """``signer`` is the public key that must have signed, in hex; without it those in the bucket may have."""

    platform: Platform
    identity: Path
    progress: Progress = silent
    signer: str = ""
    engine_of: EngineOf = engine_on

    def run(self, actor: str, databases: Collection[str] = ()) -> Drill:
        """Bring these back, without any named all. Raises ``UnknownDatabase``, ``NoIdentity``, ``DrillRuns`` and
        ``NotCleared``; what is wrong with a backup is in the result."""
        names = self._in_order(databases)
        bucket, clock = bucket_of(self.platform), self.platform.clock
        keys = EscrowKeys.of_file(self.identity, (self.signer,) if self.signer else signers(bucket))
        with _alone(self.folder), _empty_machine(self.folder) as machine:
            started_at, began = clock.now(), clock.monotonic()
            rescue = _Rescue(self.platform, bucket, BackupReader(bucket, keys), Catalogue(bucket, keys), started_at)
            returned = tuple(self._each(names, rescue, machine))
            drill = Drill(self.platform.environment.name, started_at, clock.monotonic() - began, returned)
        self._note(actor, drill)
        self._journal.unlink(missing_ok=True)
        return drill

    @property
    def folder(self) -> Path:
        return self.platform.state.root / "drill"

    @property
    def _journal(self) -> Path:
        return self.folder / "journal.json"

    def _in_order(self, databases: Collection[str]) -> Sequence[str]:
        known = self.platform.catalog.databases
        if unknown := next((name for name in databases if name not in known), None):
            raise UnknownDatabase(unknown, tuple(known))
        return sorted(databases or known, key=lambda name: (policy_of(self.platform, name).tier, name))

    def _each(self, names: Sequence[str], rescue: _Rescue, machine: StateDirectory) -> Iterator[Returned]:
        before, done = {each.database: each for each in self._left_off()}, list[Returned]()
        for number, name in enumerate(names, 1):
            listing = rescue.catalogue.listing(name)
            newest, again = listing.newest_verified(), before.get(name)
            if again is not None and newest is not None and again.backup == newest.id:
                self.progress(f"{name}: was back at {again.at:%Y-%m-%d %H:%M} UTC, before the drill was interrupted")
            else:
                self.progress(f"{name}: {number} of {len(names)}, from {newest.id if newest else 'no backup'}")
                entry = self.platform.catalog.databases[name]
                again = rescue.bring(name, listing, self.engine_of(entry, machine, self.platform.clock))
                attempt = again.attempt
                self.progress(f"{name}: {attempt.state} after {attempt.restore_s:.1f} s; {attempt.reason}")
            done.append(again)
            self._journal.write_text(json.dumps([each.as_json() for each in done]), encoding="utf-8")
            yield again

    def _left_off(self) -> Iterator[Returned]:
        """What an interrupted drill had brought back; a failure is tried again."""
        try:
            told = _JOURNAL.validate_json(self._journal.read_bytes())
        except (OSError, ValueError):  # none, or half of one
            return
        oldest = self.platform.clock.now() - RESUMED_WITHIN
        yield from (each for each in told if each.attempt.state is State.EQUAL and each.at > oldest)

    def _note(self, actor: str, drill: Drill) -> None:
        databases = [
            {
                "database": each.database,
                "backup": each.backup,
                "state": each.attempt.state,
                "passed": each.passed,
                "restore_s": round(each.attempt.restore_s, 3),
                "lost_s": each.lost_s,
                "reason": each.attempt.reason,
            }
            for each in drill.returned
        ]
        body = {"passed": drill.passed, "rto_s": round(drill.rto_s, 3), "rpo_s": drill.rpo_s, "databases": databases}
        try:
            self.platform.evidence.append(DRILLED, SUBJECT, actor, body)
        except PlatformError as exc:
            self.progress(f"not written down: {exc.what}")


@dataclass(frozen=True)
class _Rescue:
    """What is left after the disaster, and when it was."""

    platform: Platform
    bucket: Bucket
    reader: BackupReader
    catalogue: Catalogue
    at: datetime

    def bring(self, name: str, listing: Listing, engine: BackupEngine) -> Returned:
        policy, newest, clock = policy_of(self.platform, name), listing.newest_verified(), self.platform.clock
        if newest is None:
            attempt = Attempt(State.FAILED, _why_none(listing))
            return Returned(name, policy.tier, attempt, clock.now(), policy.rto, policy.rpo)
        attempt = bring_back(self.reader, name, newest.id, engine, policy.budget.limit_s, clock)
        return Returned(
            database=name,
            tier=policy.tier,
            attempt=attempt,
            at=clock.now(),
            rto_s=policy.rto,
            rpo_s=policy.rpo,
            backup=newest.id,
            kind=str(newest.kind),
            size_bytes=newest.size_bytes,
            raw_bytes=newest.raw_bytes,
            backup_age_s=_age(newest.created_at, self.at),
            log_age_s=self._log_age(name, listing),
        )

    def _log_age(self, name: str, listing: Listing) -> float | None:
        """Of the newest archived part of the log. Without a verified physical backup a log leads nowhere."""
        base: Record | None = listing.newest_verified((Kind.PHYSICAL_FULL, Kind.PHYSICAL_INCREMENTAL))
        if base is None:
            return None
        newest = max((info.modified_at for info in self.bucket.objects.list(f"wal/{name}")), default=None)
        return None if newest is None or newest < base.created_at else _age(newest, self.at)


def _age(moment: datetime, at: datetime) -> float:
    return round(max(0.0, (at - moment).total_seconds()), 1)


def _why_none(listing: Listing) -> str:
    if not listing.records:
        return "there is no backup of it in the bucket"
    newest = listing.records[0]
    return f"no verified backup: {newest.id} is {newest.state}: {newest.reason}"


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)  # a database server of another user must get to its own folder below it
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DrillRuns from None
        yield


@contextmanager
def _empty_machine(folder: Path) -> Generator[StateDirectory]:
    """A state directory without anything in it, gone at the end; what a killed drill left goes first."""
    machine = locate_state("machine", folder)
    _clear(machine)
    try:
        yield machine.make()
    finally:
        _clear(machine)


def _clear(machine: StateDirectory) -> None:
    from dr_platform.backups.postgresql import scratch

    scratch.sweep(scratch.Site(machine))
    scratch_server.sweep(machine.root / "backup-work")
    for folder in (machine.root, machine.run):
        shutil.rmtree(folder, ignore_errors=True)
    if machine.root.exists():
        raise NotCleared(str(machine.root))
