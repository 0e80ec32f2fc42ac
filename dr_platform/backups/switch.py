"""Whether a database beside the live one may take its place, and what that means for those who use it.

Here: the plan as a function of what was found, where the target comes from by the evidence log, refusals. Not here:
how an engine switches, who has to approve it, or how services are afterwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from dr_platform.backups.manifest import canonical
from dr_platform.backups.port import LastSwitch, Occupant, Standing
from dr_platform.errors import ExitCode, PlatformError, TemporaryFailure
from dr_platform.evidence import Entry

RESTORED = "backup-restored"
SWITCHED = "database-switched"
MASKED = "masked-database-made"
STAMP = "%Y%m%dt%H%M%Sz"
"""How a moment in UTC stands in the name of a database."""


class NoSwitch(PlatformError):
    """``steps`` are what a person can do instead, in order."""

    exit_code = ExitCode.REFUSED

    def __init__(self, database: str, why: str, steps: tuple[str, ...]) -> None:
        super().__init__(database, why, steps)
        self.steps = steps
        self.what = f"{database}: no restored database can take the live one's place here, {why}"
        self.untouched = "every database; nothing was begun"
        self.next_step = "do it by hand: " + "; ".join(steps)


def by_hand(database: str) -> tuple[str, ...]:
    """What a person does where the engine has no switch."""
    here = f"`database` in databases/{database}/database.yaml"
    return (
        f"give the application's login of {database} the right to read and write the restored one",
        "close the services that write to it: drp maintenance on",
        f"name it in environments/ under `endpoints` as `{database}: host:port/NAME`, on this machine as {here}",
        "let the services read it: drp rollout restart SERVICE for each, then drp maintenance off",
        f"keep the database of before until the next backup of {database} is verified",
    )


class SwitchRefused(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, database: str, why: str, next_step: str) -> None:
        super().__init__(database, why, next_step)
        self.what = f"{database}: not switched, {why}"
        self.untouched = "every database; nothing was begun"
        self.next_step = next_step


class NotConfirmed(SwitchRefused):
    def __init__(self, database: str, to: str) -> None:
        super().__init__(
            database, "it was not confirmed with the name of the database", f"read the plan, then add --confirm {to}"
        )
        self.args = (database, to)


class ReasonNeeded(SwitchRefused):
    def __init__(self, database: str, objections: tuple[str, ...]) -> None:
        super().__init__(
            database, "; ".join(objections), "if it is right all the same, say why with --reason; it is recorded"
        )
        self.args = (database, objections)


class NotSwitched(PlatformError):
    """It was tried, and everything is as it was."""

    def __init__(self, database: str, why: str, next_step: str) -> None:
        super().__init__(database, why, next_step)
        self.what = f"{database}: not switched, {why}"
        self.untouched = "both databases and their names; sessions that were ended can connect again"
        self.next_step = next_step


class SwitchInterrupted(TemporaryFailure):
    """The server went away, perhaps between the commit and its answer."""

    def __init__(self, database: str, why: str) -> None:
        super().__init__(database, why)
        self.what = f"{database}: the server ended the connection during the switch: {why}"
        self.untouched = "both databases with all they hold; the switch was done as a whole or not at all"
        self.next_step = "repeat the same command: it carries it out, or says that it is done"


def subject_of(database: str) -> str:
    """Of entries about what is made of a database: its backups, what is restored from them, and masked ones."""
    return f"backups/{database}"


_SINCE_WHEN = "what was written since"


@dataclass(frozen=True)
class Origin:
    """Where a database beside the live one comes from, by what the evidence log says."""

    what: str
    """For people; empty where nothing is known."""
    lost: str = f"{_SINCE_WHEN} a moment that is not known"
    """What the live database has and this one has not."""
    objection: str = ""
    """Why it may not simply be taken."""


NOT_OURS = Origin("", objection="the evidence log does not say that it was restored here and proved equal")


def origin_of(entries: Iterable[Entry], to: str, identity: str = "") -> Origin:
    """Of entries about the backups of one database, in their order, the last that made ``to`` counts. ``identity`` is
    what the server says of the database that has this name now; without it the name alone is compared."""
    found = NOT_OURS
    for entry in entries:
        body = entry.body
        if entry.kind == RESTORED and body.get("into") == to:
            found = _restored(body, entry.at, identity)
        elif entry.kind == SWITCHED and body.get("before") == to:
            found = Origin(f"was live until {_minute(entry.at)}", f"{_SINCE_WHEN} {_minute(entry.at)}")
        elif entry.kind == MASKED and body.get("into") == to:
            what = f"masked from {body.get('source')} at {_minute(entry.at)}, and every gate passed"
            found = Origin(what, "all of it, the masked data is another environment's")
    return found


def _restored(body: Any, at: datetime, identity: str) -> Origin:
    what, moment = f"restored from {body.get('backup')} at {_minute(at)}", body.get("moment")
    if identity and body.get("identity", identity) != identity:
        return Origin("", objection=f"the one that was {what} is gone, this one was made later under its name")
    if moment:
        objection = f"it was brought to {moment}, where there was nothing to compare it with"
        return Origin(f"{what}, brought to {moment}", f"{_SINCE_WHEN} {moment}", objection)
    lost = f"{_SINCE_WHEN} {body.get('taken', 'a moment that is not known')}"
    if body.get("equal") is not True:
        return Origin(what, lost, "not everything of it could be compared with its source")
    return Origin(f"{what}, equal to its source", lost)


def _minute(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


@dataclass(frozen=True)
class SwitchPlan:
    """What will be done. ``digest`` is what people approve."""

    environment: str
    database: str
    live: Occupant
    target: Occupant
    origin: Origin
    kept_as: str
    interruption: str
    services: tuple[str, ...]
    objections: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of what stays the same until something else is switched: not of sizes, sessions and moments."""
        pair = [[o.name, o.identity, o.migration_version] for o in (self.live, self.target)]
        bound = [self.environment, self.database, pair, self.origin.what, list(self.objections)]
        return "sha256:" + hashlib.sha256(canonical(bound)).hexdigest()

    def lines(self) -> tuple[str, ...]:
        using = ", ".join(self.services) or "no service of the catalog"
        return (
            f"live now: {_described(self.live)}",
            f"goes live: {_described(self.target)}; {self.origin.what or 'nothing is known of where it comes from'}",
            f"lost to everybody who uses it: {self.origin.lost}; it stays in {self.kept_as} alone",
            f"noticed by {using}: {self.interruption}",
            f"what is live now is kept as {self.kept_as}, nothing is dropped",
            f"back again: drp switch {self.database} --to {self.kept_as}",
            *(f"needs --reason: {objection}" for objection in self.objections),
        )

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "digest": self.digest}


def _described(found: Occupant) -> str:
    told = [found.extent, f"schema {found.migration_version or 'none'}"]
    if found.clients is not None:
        told.append(f"{found.clients} sessions")
    if found.backed_up_at:
        told.append(f"newest backup in it begun {_minute(found.backed_up_at)}")
    return f"{found.name} ({', '.join(told)})"


@dataclass(frozen=True)
class AlreadyDone:
    """The database of this name is live: the switch was carried out before."""

    last: LastSwitch


def decide(
    environment: str,
    database: str,
    to: str,
    standing: Standing,
    origin: Origin,
    services: Sequence[str],
    interruption: str,
    kept_as: str,
) -> SwitchPlan | AlreadyDone:
    """Touches nothing. Raises ``SwitchRefused``."""
    live, target, last = standing.live, standing.target, standing.last
    if to == live.name:
        raise SwitchRefused(database, f"{to} is the live one", "name the restored one with --to")
    if target is None and last is not None and last.to == to:
        return AlreadyDone(last)
    if target is None:
        raise SwitchRefused(
            database, f"its server has no database {to}", f"restore it first: drp restore {database} --into {to}"
        )
    differs = ""
    if target.migration_version != live.migration_version:
        here, there = live.migration_version or "none", target.migration_version or "none"
        differs = f"its schema is at {there}, the live one at {here}, which services expect"
    objections = tuple(objection for objection in (origin.objection, differs) if objection)
    return SwitchPlan(
        environment, database, live, target, origin, kept_as, interruption, tuple(services), objections,
    )  # fmt: skip
