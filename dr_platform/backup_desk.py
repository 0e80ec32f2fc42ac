"""Backups bound to a platform: which engine and store serve it, who asked, and what is written down.

Here: taking with its proof, listing, keeping house and restoring, each with its entries in the evidence log. Not
here: how any of it works (``backups``), what it means for health (``recovery``), or how a verb or a job looks.

A backup does not wait for the evidence log: it is taken above all when much else is down. What could not be
written down is told to whoever waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from dr_platform import schema_record
from dr_platform.approvals import Allowed, Quorum, judge
from dr_platform.backup_store import bucket_of, policy_of
from dr_platform.backup_upkeep import Wanted
from dr_platform.backups import restore as restoring
from dr_platform.backups.bucket import Bucket
from dr_platform.backups.catalogue import Catalogue, Listing, Record
from dr_platform.backups.errors import BackupFailed, DamagedBackup, NoEscrow
from dr_platform.backups.housekeeping import Housekeeper, Pruned
from dr_platform.backups.keys import KeyRing
from dr_platform.backups.manifest import Manifest, Proof
from dr_platform.backups.pipeline import WORKERS, BackupWriter, Order
from dr_platform.backups.policy import BackupPolicy
from dr_platform.backups.port import BackupEngine, Kind, Restoration, StoredBackup
from dr_platform.backups.proof import Prover
from dr_platform.backups.reading import BackupReader
from dr_platform.backups.recovery_kit import plant
from dr_platform.backups.restore import Restored, RestorePlan
from dr_platform.backups.retention import Plan
from dr_platform.backups.source import Source
from dr_platform.backups.switch import RESTORED, NoSwitch, subject_of
from dr_platform.catalog import Database, DataClass, Engine
from dr_platform.clock import Clock
from dr_platform.databases.access import read_login
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.evidence import RefusedEvidence
from dr_platform.identity import Person, signed_in_person
from dr_platform.identity import Proof as IdentityProof
from dr_platform.log_recovery import DatabaseLog, NoLog, has_log, needed_for
from dr_platform.platform import Platform
from dr_platform.readiness import accepted_proofs, approval_desk
from dr_platform.schema_changes import UnknownDatabase
from dr_platform.state import StateDirectory
from dr_platform.verdict import Measure, Progress, silent

if TYPE_CHECKING:
    from dr_platform.backups.postgresql.engine import PostgresBackups

BACKUP_JOB = "backups"
"""The job of the graph that takes backups of several databases."""
ASKED = "backup-asked"
TAKEN = "backup-taken"
FAILED = "backup-failed"
PROVED = "backup-proved"
REMOVED = "backups-removed"
LOG_REMOVED = "log-segments-removed"
HELD = "backup-held"
DAILY = "15 1 * * *"
"""When a database whose policy names no schedule is backed up, in UTC."""
RESTORE = "restore"
"""What approvals call the restore of a backup, in place of a release."""


class NoSuchKind(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, database: str, kind: str, offered: tuple[str, ...]) -> None:
        super().__init__(database, kind, offered)
        self.what = f"{database} has no backups of the kind {kind[:40]!r}"
        self.untouched = "the database; nothing was begun"
        self.next_step = f"choose one of {', '.join(offered)} with --kind"


class ApprovalNeeded(PlatformError):
    """Somebody else has to agree first. ``request_id`` names what they agree to."""

    exit_code = ExitCode.REFUSED

    def __init__(self, request_id: str, needed: int) -> None:
        super().__init__(request_id, needed)
        self.what = f"{needed} others must approve this, by exactly this plan"
        self.untouched = "every database; nothing was written"
        self.next_step = f"let them run `drp approve {request_id}`, then repeat the same command"


class PointBeforeBackup(PlatformError):
    """The log leads forward from a backup, never back."""

    exit_code = ExitCode.REFUSED

    def __init__(self, point: str, backup_id: str, older: str | None) -> None:
        super().__init__(point, backup_id, older)
        self.what = f"{backup_id} was taken after the restore point {point}"
        self.untouched = "every database; nothing was written"
        self.next_step = (
            f"name the physical backup from before it: --backup {older}"
            if older
            else "there is no verified physical backup from before it; restore a backup of that time as it is"
        )


class NobodyToHoldTo(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self) -> None:
        super().__init__()
        self.what = "it is not known who asks for this, so nobody can approve it for them"
        self.untouched = "every database; nothing was written"
        self.next_step = "log in with an account of your own and repeat"


def backup_engine(platform: Platform, database: str) -> BackupEngine:
    """The engine that backs up one database of the catalog; nothing is connected yet."""
    entry = platform.catalog.databases[database]
    admin = read_login(database, "admin", platform.secrets)
    return engine_at(Source(entry, platform.endpoint(entry), admin), platform.state, platform.clock)


def engine_at(source: Source, state: StateDirectory, clock: Clock) -> BackupEngine:
    """The engine of a database at some place, whose working folders and scratch servers are below ``state``."""
    work = state.root / "backup-work"
    match source.database.engine:
        case Engine.REDIS:
            from dr_platform.backups.redis_ import RedisBackups

            return RedisBackups(source, work, clock)
        case Engine.MONGODB:
            from dr_platform.backups.mongodb import MongoBackups

            return MongoBackups(source, work, clock)
        case Engine.POSTGRESQL:
            from dr_platform.backups.postgresql.engine import postgres_backups
            from dr_platform.backups.postgresql.scratch import Site

            return postgres_backups(source.name, source.endpoint, source.login, Site(state), clock)
        case Engine.SCYLLADB:
            from dr_platform.backups.cql import CqlBackups

            return CqlBackups(source, work, clock)
        case _:
            assert_never(source.database.engine)


def postgres_engine(platform: Platform, entry: Database) -> PostgresBackups:
    from dr_platform.backups.postgresql.engine import postgres_backups
    from dr_platform.backups.postgresql.scratch import Site

    admin = read_login(entry.name, "admin", platform.secrets)
    return postgres_backups(entry.name, platform.endpoint(entry), admin, Site(platform.state), platform.clock)


def wanted_backups(platform: Platform) -> tuple[Wanted, ...]:
    """What every database is promised, and what it has. None in an environment that is removed as a whole: what
    is in it can be made again."""
    if platform.environment.ephemeral:
        return ()
    desk = BackupDesk(platform)
    found = []
    for name in platform.catalog.databases:
        policy, newest = desk.policy(name), desk.listing(name).newest_verified()
        rpo = timedelta(seconds=policy.rpo)
        found.append(Wanted(name, policy.tier, rpo, newest.created_at if newest else None))
    return tuple(found)


def slot_of(at: datetime) -> str:
    """The partition of the assets of backups that a backup of this moment belongs to: its day in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d}"


def kind_of(database: str, text: str) -> Kind | None:
    """``None`` for no text. Raises ``NoSuchKind``."""
    if text and text not in set(Kind):
        raise NoSuchKind(database, text, tuple(Kind))
    return Kind(text) if text else None


@dataclass(frozen=True)
class BackupOutcome:
    """A backup as the graph shows it."""

    record: Record

    def measurements(self) -> dict[str, Measure]:
        record = self.record
        sizes = {"size_bytes": record.size_bytes, "raw_bytes": record.raw_bytes}
        times = {"duration_s": round(record.duration_s, 3), "proof_s": round(record.proof_s or 0.0, 3)}
        told = {"backup": record.id, "kind": str(record.kind), "state": str(record.state), "location": record.location}
        return {**told, **sizes, **times}

    def describe(self) -> str:
        return f"{self.record.id}: {self.record.state}; {self.record.reason}"


def identity_file(platform: Platform) -> Path:
    """Where the escrow identity is written where no operator named a file: synthetic data only."""
    return platform.state.root / "escrow" / "identity.txt"


@dataclass(frozen=True)
class Offer:
    """What may follow a restore. ``command`` is ``None`` where the engine has no switch; then ``steps`` do without."""

    command: str | None
    steps: tuple[str, ...]


@dataclass(frozen=True)
class BackupDesk:
    """Everything about backups of one platform. ``workers`` of 0 reads in this process."""

    platform: Platform
    progress: Progress = silent
    engine_of: Callable[[Platform, str], BackupEngine] = backup_engine
    workers: int = WORKERS

    @cached_property
    def bucket(self) -> Bucket:
        return bucket_of(self.platform)

    @cached_property
    def keys(self) -> KeyRing:
        return KeyRing(self.platform.secrets)

    @cached_property
    def reader(self) -> BackupReader:
        return BackupReader(self.bucket, self.keys)

    @cached_property
    def catalogue(self) -> Catalogue:
        return Catalogue(self.bucket, self.keys)

    @property
    def _house(self) -> Housekeeper:
        return Housekeeper(self.bucket, self.keys, self.platform.clock)

    def policy(self, database: str) -> BackupPolicy:
        """Raises ``UnknownDatabase``."""
        self.require(database)
        return policy_of(self.platform, database)

    def require(self, database: str) -> None:
        if database not in self.platform.catalog.databases:
            raise UnknownDatabase(database, tuple(self.platform.catalog.databases))

    # Listing

    def listing(self, database: str) -> Listing:
        self.require(database)
        return self.catalogue.listing(database)

    def records(self, database: str | None = None) -> tuple[Record, ...]:
        """Newest first, of one database or of all, with those that the catalog has no more."""
        known = {*self.platform.catalog.databases, *self.catalogue.databases()}
        names = sorted(known) if database is None else [database]
        found = [record for name in names for record in self.catalogue.listing(name).records]
        return tuple(sorted(found, key=lambda record: (record.created_at, record.id), reverse=True))

    def record(self, backup_id: str) -> Record:
        return Listing(self.records()).find(backup_id)

    # Taking and proving

    def take(self, database: str, kind: Kind | None, reason: str, actor: str) -> Record:
        """A backup with its proof. Raises ``BackupFailed``; a backup whose proof found fault is returned with
        that state."""
        self.require(database)
        engine = self.engine_of(self.platform, database)
        wanted = self._kind(database, kind, engine)
        self.ensure_escrow()
        # Before anything is read: a reason that may not be written down is refused here.
        self.note(ASKED, database, actor, {"kind": wanted, "reason": reason})
        plant(self.bucket, self.keys)
        manifest = self._taken(database, wanted, engine, reason, actor)
        with suppress(DamagedBackup):  # the listing tells it with its reason
            self._prove(database, manifest.backup_id, engine, actor)
        return self.listing(database).find(manifest.backup_id)

    def _kind(self, database: str, kind: Kind | None, engine: BackupEngine) -> Kind:
        try:
            offered = engine.kinds
        except PlatformError:
            if kind is None:
                raise
            return kind  # a server that does not answer fails the backup, which leaves a note of it
        if kind is None:
            return offered[0]
        if kind not in offered:
            raise NoSuchKind(database, kind, tuple(offered))
        return kind

    def _taken(self, database: str, kind: Kind, engine: BackupEngine, reason: str, actor: str) -> Manifest:
        kind, parent = self._with_parent(database, kind)
        platform = self.platform
        writer = BackupWriter(self.bucket, self.keys, platform.clock, self.workers, progress=self.progress)
        self.progress(f"{database}: a {kind} backup begins")
        try:
            manifest = writer.take(Order(platform.environment.name, database, kind, reason, actor), engine, parent)
        except BackupFailed as exc:
            self.note(FAILED, database, actor, {"backup": exc.backup_id, "kind": kind, "cause": exc.cause})
            raise
        counts = {"size_bytes": manifest.size_bytes, "raw_bytes": manifest.raw_bytes}
        record = self.listing(database).find(manifest.backup_id)
        body = {"backup": manifest.backup_id, "kind": kind, "manifest": record.manifest_sha256, **counts}
        self.note(TAKEN, database, actor, body)
        self.progress(f"{manifest.backup_id}: stored after {manifest.duration_s:.1f} s; the proof begins")
        return manifest

    def _with_parent(self, database: str, kind: Kind) -> tuple[Kind, StoredBackup | None]:
        """An incremental backup continues the newest verified physical one. Without one it is a full one."""
        if kind is not Kind.PHYSICAL_INCREMENTAL:
            return kind, None
        physical = (Kind.PHYSICAL_FULL, Kind.PHYSICAL_INCREMENTAL)
        newest = self.listing(database).newest_verified(physical)
        if newest is None:
            self.progress(f"{database}: no verified physical backup to continue, so that this one is full")
            return Kind.PHYSICAL_FULL, None
        return kind, self.reader.chain(database, newest.id)[-1]

    def prove(self, backup_id: str, actor: str) -> Proof:
        """Restore a backup again and compare it anew."""
        database = self.record(backup_id).database
        self.require(database)
        return self._prove(database, backup_id, self.engine_of(self.platform, database), actor)

    def _prove(self, database: str, backup_id: str, engine: BackupEngine, actor: str) -> Proof:
        prover = Prover(self.reader, self.platform.clock)
        proof = prover.prove(database, backup_id, engine, self.policy(database).budget, actor)
        failing = [check.name for check in proof.checks if check.passed is False]
        body = {"backup": backup_id, "state": proof.state, "seconds": round(proof.seconds, 3), "failing": failing}
        self.note(PROVED, database, actor, body)
        self.progress(f"{backup_id}: {proof.state} after {proof.seconds:.1f} s; {proof.reason}")
        return proof

    # Keys

    def ensure_escrow(self) -> None:
        """On synthetic data an escrow identity is made where nobody has made one, so that its way is always
        walked; elsewhere a person must have. Raises ``NoEscrow``."""
        if self.keys.recipients():
            return
        if self.platform.binding.data_class is not DataClass.SYNTHETIC:
            raise NoEscrow(self.platform.environment.name)
        file = identity_file(self.platform)
        self.keys.make_escrow(file)
        self.progress(f"made an escrow identity in {file}; keep a copy off this machine")

    # Keeping house

    def plan_prune(self, database: str) -> Plan:
        return self._house.plan(database, self.policy(database).retention.keep)

    def prune(self, database: str, actor: str) -> Pruned:
        """Remove what the policy does not keep. Raises ``PruneRefused`` and ``NotRemoved``."""
        pruned = self._house.prune(database, self.policy(database).retention.keep)
        if pruned.removed:
            counts = {"objects": pruned.objects, "size_bytes": pruned.size_bytes, "left": pruned.left}
            self.note(REMOVED, database, actor, {"backups": list(pruned.removed), **counts})
        if has_log(self.platform, database) and (segments := self._expire_log(database)):
            self.note(LOG_REMOVED, database, actor, {"segments": segments})
        return pruned

    def hold(self, backup_id: str, actor: str, reason: str) -> Record:
        return self._held(backup_id, actor, reason, self._house.hold)

    def lift(self, backup_id: str, actor: str, reason: str) -> Record:
        return self._held(backup_id, actor, reason, self._house.lift)

    def _held(self, backup_id: str, actor: str, reason: str, act: Callable[[Record, str, str], Any]) -> Record:
        record = self.record(backup_id)
        act(record, actor, reason)
        changed = self.record(backup_id)
        self.note(HELD, record.database, actor, {"backup": backup_id, "held": changed.held, "reason": reason})
        return changed

    # Restoring

    def plan_restore(self, database: str, backup_id: str, into: str, moment: str = "") -> RestorePlan:
        """``moment`` is a time in ISO 8601 or the name of a restore point, to which the log brings a physical backup.
        Raises ``RestoreRefused``, ``UnknownBackup``, ``DamagedBackup``, ``NoLog``."""
        entry = self.platform.catalog.databases
        self.require(database)
        if moment and not has_log(self.platform, database):
            raise NoLog(database)
        live = tuple({entry[database].database, *(other.database for other in entry.values())})
        environment = self.platform.environment.name
        return restoring.plan_restore(environment, live, self.listing(database), self.reader, backup_id, into, moment)

    def point_before(self, database: str, version: str, backup_id: str) -> str:
        """The restore point right before a migration, as the ``moment`` of a plan. Raises ``NoPoint``, and
        ``PointBeforeBackup`` where this backup cannot be brought to it."""
        self.require(database)
        point, listing = schema_record.point_before(self.platform, database, version), self.listing(database)
        if _ended_before(listing.find(backup_id), point.at):
            return point.name
        physical = (Kind.PHYSICAL_FULL, Kind.PHYSICAL_INCREMENTAL)
        fitting = Listing(tuple(record for record in listing.records if _ended_before(record, point.at)))
        older = fitting.newest_verified(physical)
        raise PointBeforeBackup(point.name, backup_id, older.id if older else None)

    def restore(self, plan: RestorePlan, confirmed: str | None, actor: str, reason: str) -> Restored:
        """Carry a plan out. Raises ``NotConfirmed``, ``ApprovalNeeded``, and what the engine refuses."""
        if confirmed != plan.backup_id:
            raise restoring.NotConfirmed(plan.backup_id)
        require_approval(self.platform, restore_subject(plan), plan.digest, reason)
        target = self._target(plan)
        restored = restoring.carry_out(plan, target, self.reader, self.platform.clock, confirmed, self.progress)
        body = {"backup": plan.backup_id, "into": plan.into, "plan": plan.digest, "reason": reason}
        told = {"taken": f"{plan.created_at:%Y-%m-%d %H:%M} UTC", "moment": plan.moment, "equal": restored.is_equal}
        made = {**self._identity_of(plan), "seconds": round(restored.seconds, 3)}
        self.note(RESTORED, plan.database, actor, {**body, **told, **made})
        return restored

    def _identity_of(self, plan: RestorePlan) -> Mapping[str, str]:
        """By which a switch knows again what was restored; empty where the engine has no switch, or does not answer."""
        try:
            target = self.engine_of(self.platform, plan.database).switching().standing(plan.into).target
        except PlatformError:
            return {}
        return {"identity": target.identity} if target else {}

    def offer(self, plan: RestorePlan) -> Offer:
        """How what was restored goes live. That is a person's: applications lose what was written since the backup."""
        database, command = plan.database, f"drp switch {plan.database} --to {plan.into}"
        look = f"look at it: drp connect {database}, then choose {plan.into}"
        try:
            self.engine_of(self.platform, database).switching()
        except NoSwitch as exc:
            return Offer(None, (look, *exc.steps))
        keep = f"keep the database of before until the next backup of {database} is verified"
        return Offer(command, (look, f"see what going live with it means, then confirm it: {command}", keep))

    def _target(self, plan: RestorePlan) -> AbstractContextManager[Restoration]:
        if not plan.moment:
            return self.engine_of(self.platform, plan.database).new_database(plan.into)
        log = self.log_of(plan.database)
        log.flush()
        position = self.reader.manifest(plan.database, plan.backup_id)[0].facts.position
        until = moment_of(plan.moment)
        return log.engine.new_database(plan.into, log.recovery(position, until, plan.moment))

    def log_of(self, database: str) -> DatabaseLog:
        """Raises ``NoLog``."""
        if not has_log(self.platform, database):
            raise NoLog(database)
        engine = postgres_engine(self.platform, self.platform.catalog.databases[database])
        return DatabaseLog(self.platform, self.bucket, self.keys, database, engine)

    def _expire_log(self, database: str) -> int:
        window = timedelta(seconds=self.policy(database).log)
        needed = needed_for(self.listing(database).records, window, self.platform.clock.now())
        positions = [self.reader.manifest(database, record.id)[0].facts.position for record in needed]
        return self.log_of(database).expire(positions)

    # The log

    def note(self, kind: str, database: str, actor: str, body: Mapping[str, Any]) -> None:
        """Write down what was done; what could not be is told. Raises ``RefusedEvidence``."""
        try:
            self.platform.evidence.append(kind, subject_of(database), actor, body)
        except RefusedEvidence:
            raise
        except PlatformError as exc:
            self.progress(f"not written down: {exc.what}")


def require_approval(platform: Platform, subject: str, digest: str, reason: str) -> None:
    """As many as a release needs where this runs; none on this machine, where data is synthetic. Raises
    ``ApprovalNeeded`` with the request that waits, and ``NobodyToHoldTo``."""
    environment = platform.environment
    needed = environment.approvals.required
    if not needed:
        return
    desk = approval_desk(platform)
    cases = desk.store.cases(environment=environment.name, release=subject)
    quorum, now = Quorum(needed, accepted_proofs(platform)), platform.clock.now()
    if any(isinstance(judge(c.request, c.approvals, digest, now, quorum), Allowed) for c in cases):
        return
    waiting = next((c.request for c in cases if not c.request.voided and c.request.plan_digest == digest), None)
    if waiting is None:
        waiting = desk.request(subject, environment.name, digest, _requester(platform), reason)
    raise ApprovalNeeded(waiting.id, needed)


def _requester(platform: Platform) -> Person:
    if (person := signed_in_person()) is not None:
        return person
    if IdentityProof.DECLARED not in accepted_proofs(platform):
        raise NobodyToHoldTo
    return Person("root", IdentityProof.DECLARED)


def _ended_before(record: Record, moment: datetime) -> bool:
    return record.created_at + timedelta(seconds=record.duration_s) < moment


def restore_subject(plan: RestorePlan) -> str:
    """What approvals are asked for, from which the plan can be made again."""
    return "/".join(part for part in (RESTORE, plan.database, plan.backup_id, plan.into, plan.moment) if part)


def restore_digest(platform: Platform, subject: str) -> str | None:
    """The digest of the plan that a request for a restore is about, as it is now; ``None`` for other requests."""
    what, *parts = subject.split("/")
    if what != RESTORE or len(parts) not in (3, 4):
        return None
    return BackupDesk(platform).plan_restore(*parts).digest


def moment_of(text: str) -> datetime | None:
    """The time that is meant, in UTC where it names no zone; ``None`` for the name of a restore point."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
