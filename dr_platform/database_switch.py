"""A restored database takes the live one's place, bound to a platform: who asked and agreed, how services are after.

Here: the order of confirmation, approval, evidence and act, and the look afterwards. Not here: what may be switched
(``backups.switch``), how an engine does it (``backups``), or bringing a backup back (``backup_desk``).

What is ordered is written before it is done. The server keeps what was done, in the same instant; so a repetition
after any interruption finds it done, or does it, and completes the evidence. As with backups, an evidence log that does
not answer stops nothing that has a reason: it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from dr_platform.backup_desk import BackupDesk, require_approval
from dr_platform.backups.port import Standing
from dr_platform.backups.switch import (
    NOT_OURS,
    STAMP,
    SWITCHED,
    AlreadyDone,
    NotConfirmed,
    Origin,
    ReasonNeeded,
    SwitchPlan,
    SwitchRefused,
    decide,
    origin_of,
    subject_of,
)
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.health import database_verdict, schema_verdict, service_verdict
from dr_platform.platform import Platform
from dr_platform.verdict import Verdict

ASKED = "database-switch-asked"
SWITCH = "switch"
"""What approvals call it, in place of a release."""
NO_REASON = "on demand"
SETTLE_S = 2.0
"""A service looks at its databases once a second; before that it says what it saw last."""
SCHEMA = "schema"
WITHIN_S = 60.0
"""How long services may take to come back before it is said that they did not."""


@dataclass(frozen=True)
class Switched:
    """``seconds`` in which nobody reached the database; ``None`` where an earlier run did it."""

    database: str
    to: str
    before: str
    at: datetime
    seconds: float | None
    verdicts: Mapping[str, Verdict]
    """Of the database, its schema and the services that use it, as they were at the end."""

    @property
    def exit_code(self) -> ExitCode:
        answers = {verdict.passed for verdict in self.verdicts.values()}
        if False in answers:
            return ExitCode.FAILED
        return ExitCode.UNAVAILABLE if None in answers else ExitCode.OK

    @property
    def back(self) -> str:
        return f"drp switch {self.database} --to {self.before}"

    def lines(self) -> tuple[str, ...]:
        took = f" within {self.seconds:.1f} s" if self.seconds is not None else ", by an earlier run"
        told = [f"{self.database}: {self.to} is live since {self.at:%Y-%m-%d %H:%M:%S} UTC{took}"]
        for name, verdict in self.verdicts.items():
            told.append(f"  {_WORDS[verdict.passed]} {name}: {verdict.why}")
        if self.exit_code:
            told.append("a service that does not recover: drp rollout restart SERVICE")
        return (*told, f"what was live is {self.before}; back again: {self.back}")

    def as_json(self) -> dict[str, Any]:
        verdicts = {name: {"passed": found.passed, "why": found.why} for name, found in self.verdicts.items()}
        return {**asdict(self), "at": self.at.isoformat(), "verdicts": verdicts, "back": self.back}


_WORDS = {True: "ok", False: "bad", None: "unknown"}


def users_of(platform: Platform, database: str) -> tuple[str, ...]:
    """The services that use a database themselves."""
    services = platform.catalog.services
    return tuple(sorted(name for name, service in services.items() if database in service.needs.databases))


def looks_after(platform: Platform, database: str) -> dict[str, Verdict]:
    """The database as the application's login finds it, its schema, and every service that uses it; none raises."""
    found = {database: database_verdict(platform, database), SCHEMA: schema_verdict(platform, database)}
    names = users_of(platform, database)
    with ThreadPoolExecutor(max_workers=8) as pool:
        found.update(zip(names, pool.map(lambda name: service_verdict(platform, name), names), strict=True))
    return found


@dataclass(frozen=True)
class SwitchDesk:
    """Switches of one platform, through the engines of its backups. ``look`` says how all is afterwards."""

    backups: BackupDesk
    look: Callable[[Platform, str], Mapping[str, Verdict]] = looks_after
    settle_s: float = SETTLE_S

    @property
    def platform(self) -> Platform:
        return self.backups.platform

    def plan(self, database: str, to: str) -> SwitchPlan | AlreadyDone:
        """Looks at the server and at the evidence. Raises ``UnknownDatabase``, ``NoSwitch``, ``SwitchRefused``."""
        self.backups.require(database)
        switching = self.backups.engine_of(self.platform, database).switching()
        standing = switching.standing(to)
        return decide(
            self.platform.environment.name,
            database,
            to,
            standing,
            self._origin(database, to, standing.target.identity if standing.target else ""),
            users_of(self.platform, database),
            switching.interruption,
            switching.kept_as(to, "MOMENT"),
        )

    def _origin(self, database: str, to: str, identity: str) -> Origin:
        try:
            return origin_of(self.platform.evidence.entries(subject=subject_of(database)), to, identity)
        except PlatformError as exc:
            return Origin("", objection=f"{NOT_OURS.objection}: {exc.what}")

    def switch(self, database: str, to: str, confirmed: str, actor: str, reason: str | None) -> Switched:
        """Carry out what ``plan`` says now, or finish what an earlier run began. Raises ``NotConfirmed``,
        ``ReasonNeeded``, ``ApprovalNeeded``, what ``plan`` raises, and ``NotSwitched``."""
        found = self.plan(database, to)
        if isinstance(found, AlreadyDone):
            return self._finished(database, found, actor)
        if confirmed != to:
            raise NotConfirmed(database, to)
        if found.objections and not reason:
            raise ReasonNeeded(database, found.objections)
        return self._carried_out(found, actor, reason or NO_REASON)

    def _carried_out(self, plan: SwitchPlan, actor: str, reason: str) -> Switched:
        database, to = plan.database, plan.target.name
        require_approval(self.platform, switch_subject(plan), plan.digest, reason)
        order = {"to": to, "from": plan.live.name, "plan": plan.digest, "reason": reason}
        self.backups.note(ASKED, database, actor, {**order, "objections": list(plan.objections)})
        switching = self.backups.engine_of(self.platform, database).switching()
        at = self.platform.clock.now()
        before = switching.kept_as(to, f"{at:{STAMP}}")
        seconds = switching.switch(Standing(plan.live, plan.target), at, self.backups.progress)
        self.backups.note(SWITCHED, database, actor, {**order, "before": before, "seconds": round(seconds, 3)})
        return Switched(database, to, before, at, seconds, self._looked(database))

    def _finished(self, database: str, done: AlreadyDone, actor: str) -> Switched:
        last = done.last
        if not self._is_written(database, last.before):
            body = {"to": last.to, "before": last.before, "at": last.at.isoformat(), "found": "done already"}
            self.backups.note(SWITCHED, database, actor, body)
        return Switched(database, last.to, last.before, last.at, None, self._looked(database))

    def _is_written(self, database: str, before: str) -> bool:
        try:
            entries = self.platform.evidence.entries(kind=SWITCHED, subject=subject_of(database))
            return any(entry.body.get("before") == before for entry in entries)
        except PlatformError:
            return False

    def _looked(self, database: str) -> Mapping[str, Verdict]:
        """As soon as all are good; else as they were at the end of the time. A schema does not change by waiting."""
        clock = self.platform.clock
        give_up = clock.monotonic() + WITHIN_S
        self.backups.progress(f"looking at {database} and the services that use it")
        clock.sleep(self.settle_s)
        while True:
            found = self.look(self.platform, database)
            if all(verdict.passed for name, verdict in found.items() if name != SCHEMA) or clock.monotonic() >= give_up:
                return found
            clock.sleep(self.settle_s)


def switch_subject(plan: SwitchPlan) -> str:
    """What approvals are asked for, from which the plan can be made again."""
    return f"{SWITCH}/{plan.database}/{plan.target.name}"


def switch_digest(platform: Platform, subject: str) -> str | None:
    """The digest of the plan that a request for a switch is about, as it is now; ``None`` for other requests."""
    what, *parts = subject.split("/")
    if what != SWITCH or len(parts) != 2:
        return None
    database, to = parts
    found = SwitchDesk(BackupDesk(platform)).plan(database, to)
    if isinstance(found, AlreadyDone):
        raise SwitchRefused(database, f"{to} is live already", "there is nothing left to agree to")
    return found.digest
