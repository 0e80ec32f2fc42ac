"""Whether what was promised about recovery holds: one verdict per database and question.

Here: looking at backups as they lie in the store, and judging. Not here: taking or proving one.

Texts hold names, counts and times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from dr_platform.backup_desk import REMOVED, TAKEN, BackupDesk
from dr_platform.backups.catalogue import UNPROVED, Listing, Record, State
from dr_platform.backups.policy import BackupPolicy
from dr_platform.backups.switch import subject_of
from dr_platform.drill import DRILLED, SUBJECT
from dr_platform.errors import PlatformError
from dr_platform.evidence import Entry
from dr_platform.look import Cost, Look, always_answers
from dr_platform.platform import Platform
from dr_platform.verdict import Measure, Verdict

LAYER = "backups"


def recovery_looks(platform: Platform) -> Iterator[Look]:
    """None in an environment that is removed as a whole: what is in it can be made again."""
    if platform.environment.ephemeral:
        return
    for name in platform.catalog.databases:
        for check, text, verdict in (
            ("verified", "The newest backup was restored and is equal to its source.", verified_verdict),
            ("fresh", "The newest verified backup is younger than the promise (RPO).", fresh_verdict),
            ("restorable", "Every part and key of the newest verified backup is there.", restorable_verdict),
            (
                "expiry",
                "What may go is planned without doubt about the clock, and nothing is left over.",
                expiry_verdict,
            ),
            ("drill", "A rehearsal of a disaster brought it back, not long ago.", drill_verdict),
        ):
            yield Look(
                (LAYER, name), check, text, partial(verdict, platform, name), cost=Cost.THOROUGH, blocking=True
            )  # fmt: skip


@always_answers
def verified_verdict(platform: Platform, database: str) -> Verdict:
    """The newest backup, and that the store has not lost one that the evidence log knows."""
    desk = BackupDesk(platform)
    listing = desk.listing(database)
    if not listing.records:
        return Verdict(False, f"there is no backup of {database} yet: `drp backup {database}`")
    now, grace = platform.clock.now(), desk.policy(database).rto
    settled = [r for r in listing.records if not _being_proved(r, grace, now)]
    newest = settled[0] if settled else listing.records[0]
    if lost := _lost(platform, database, listing):
        return Verdict(False, f"backup {lost} was taken and is not in the store as it was written", _figures(newest))
    if newest.state is not State.VERIFIED:
        return Verdict(False, f"{newest.id} is {newest.state}: {newest.reason}", _figures(newest))
    return Verdict(True, f"{newest.id}: {newest.reason}", _figures(newest))


def _being_proved(record: Record, grace_s: float, now: datetime) -> bool:
    """A backup that has just been taken; its proof gets the time that a restore may take."""
    took = (now - record.created_at).total_seconds()
    return record.state is State.UNVERIFIED and record.reason == UNPROVED and took < record.duration_s + grace_s


def _lost(platform: Platform, database: str, listing: Listing) -> str | None:
    """The newest backup that was written down and is gone, or has another manifest by now: a store that was
    set back to an earlier day looks whole by itself."""
    subject = subject_of(database)
    try:
        taken = [entry.body for entry in platform.evidence.entries(kind=TAKEN, subject=subject)]
        removed = {name for e in platform.evidence.entries(kind=REMOVED, subject=subject) for name in e.body["backups"]}
    except PlatformError:
        return None  # the log's own check is red; a disaster must not hide that backups are whole
    known = {record.id: record.manifest_sha256 for record in listing.records}
    for body in reversed(taken):
        if body["backup"] not in removed:
            return None if known.get(body["backup"]) == body["manifest"] else str(body["backup"])
    return None


@always_answers
def fresh_verdict(platform: Platform, database: str) -> Verdict:
    desk = BackupDesk(platform)
    return judge_freshness(desk.listing(database), desk.policy(database).rpo, platform.clock.now())


def judge_freshness(listing: Listing, rpo_s: float, now: datetime) -> Verdict:
    """Only what is verified counts. A backup out of the future means that a clock is wrong."""
    newest = listing.newest_verified()
    limit = {"rpo_s": rpo_s}
    if newest is None:
        return Verdict(False, "no verified backup", limit)
    age = (now - newest.created_at).total_seconds()
    figures: dict[str, Measure] = {"age_s": round(age, 1), **limit}
    if age < -_SKEW_S:
        return Verdict(False, f"{newest.id} is from a time that has not come: compare the clocks", figures)
    told = f"{newest.id} is {age / 3600:.1f} h old, {rpo_s / 3600:g} h are promised"
    return Verdict(age <= rpo_s, told, figures)


_SKEW_S = 300.0
_DAY_S = 86400.0


@always_answers
def restorable_verdict(platform: Platform, database: str) -> Verdict:
    desk = BackupDesk(platform)
    newest = desk.listing(database).newest_verified()
    if newest is None:
        return Verdict(False, "no verified backup")
    chain = desk.reader.manifests(database, newest.id)
    for manifest in chain:
        desk.keys.open(manifest.backup_id, manifest.data_key)
        if odd := desk.reader.missing_parts(manifest):
            return Verdict(False, f"{manifest.backup_id}: {len(odd)} parts are not there in their size: {odd[0]}")
    if unknown := [r for r in desk.keys.recipients() if r not in chain[-1].data_key.escrow]:
        return Verdict(False, f"{newest.id} does not open with the escrow identity of {unknown[0][:12]}…")
    rto, took = desk.policy(database).rto, newest.proof_s or 0.0
    told = f"{len(chain)} backups with all parts and keys; the restore with its proof took {took:.1f} s"
    return Verdict(took <= rto, told, {"proof_s": round(took, 3), "rto_s": rto, **_figures(newest)})


@always_answers
def expiry_verdict(platform: Platform, database: str) -> Verdict:
    plan = BackupDesk(platform).plan_prune(database)
    figures: dict[str, Measure] = {"kept": len(plan.kept), "due": len(plan.expired), "size_bytes": plan.size_bytes}
    if plan.refused:
        return Verdict(False, plan.refused, figures)
    return Verdict(True, f"{len(plan.kept)} stay, {len(plan.expired)} may go", figures)


@always_answers
def drill_verdict(platform: Platform, database: str) -> Verdict:
    policy, now = BackupDesk(platform).policy(database), platform.clock.now()
    drills = [entry for entry in platform.evidence.entries(kind=DRILLED, subject=SUBJECT) if _of(entry, database)]
    if drills:
        return judge_drill(_of(drills[-1], database), drills[-1].at, policy, now)
    first = next(iter(platform.evidence.entries(kind=TAKEN, subject=subject_of(database))), None)
    return judge_undrilled(first.at if first else None, policy, now)


def judge_undrilled(first_backup: datetime | None, policy: BackupPolicy, now: datetime) -> Verdict:
    """Where no drill was ever run: from the first backup on there is as much time for one as each counts."""
    if first_backup is None:
        return Verdict(False, "no drill was ever run here, and there is no backup to run one with")
    due = first_backup + timedelta(seconds=policy.drill.age)
    told = f"no drill was ever run here, the first is due by {due:%Y-%m-%d}: `drp drill`"
    return Verdict(now <= due, told, {"undrilled_s": round((now - first_backup).total_seconds(), 1)})


def _of(entry: Entry, database: str) -> dict[str, Any]:
    found = (each for each in entry.body["databases"] if each["database"] == database)
    return next(found, {})


def judge_drill(found: Mapping[str, Any], at: datetime, policy: BackupPolicy, now: datetime) -> Verdict:
    """What the newest drill said of a database, as long as it counts."""
    age = (now - at).total_seconds()
    figures: dict[str, Measure] = {"drill_age_s": round(age, 1), "restore_s": found["restore_s"], "rto_s": policy.rto}
    if found["lost_s"] is not None:
        figures |= {"lost_s": found["lost_s"], "rpo_s": policy.rpo}
    told = f"the drill of {at:%Y-%m-%d %H:%M} UTC: {found['state']} after {found['restore_s']:.1f} s"
    if found["passed"] is not True:
        return Verdict(found["passed"], f"{told}; {found['reason']}", figures)
    if age > policy.drill.age:
        days = policy.drill.age / _DAY_S
        return Verdict(False, f"{told}, and it counts {days:g} days: `drp drill`", figures)
    return Verdict(True, told, figures)


def _figures(record: Record) -> dict[str, Measure]:
    found: dict[str, Measure] = {"size_bytes": record.size_bytes, "raw_bytes": record.raw_bytes}
    found["duration_s"] = round(record.duration_s, 3)
    return found if record.proof_s is None else {**found, "proof_s": round(record.proof_s, 3)}
