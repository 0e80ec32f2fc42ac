"""What is written down about changes of a schema: who changed it, and the restore points right before its steps.

Here: the words of the evidence log, keeping points, and finding the one before a version. Not here: changing a schema
(``schema_changes``), making a point (the engine's adapter) or bringing a database back to one (``backup_desk``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from dr_platform.catalog import Engine
from dr_platform.databases.port import ManagedDatabase, SchemaStep
from dr_platform.databases.schema import version_key
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.evidence import Entry
from dr_platform.identity import current_actor
from dr_platform.platform import Platform
from dr_platform.verdict import Progress

SUBJECT = "schema/"
MIGRATED = "schema-migrated"
POINT = "schema-restore-point"
BACK = "back"
"""The direction that a body names where steps are taken back."""


class NoPoint(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, database: str, version: str, known: tuple[str, ...]) -> None:
        super().__init__(database, version, known)
        self.what = f"{database}: no restore point before {version[:40]} was written down"
        self.untouched = "every database; nothing was written"
        there = f"there are points before {', '.join(known)}" if known else "there is none before any version"
        self.next_step = f"{there}; or name a moment with --until"


@dataclass(frozen=True)
class Point:
    """A moment right before a step, by its name in the server's log."""

    version: str
    name: str
    at: datetime


def subject_of(database: str) -> str:
    return f"{SUBJECT}{database}"


def keep_points(platform: Platform, database: ManagedDatabase, progress: Progress) -> None:
    """From now on a restore point before each step of this connection. Only PostgreSQL's log has names."""
    if database.database.engine is not Engine.POSTGRESQL:
        return
    from dr_platform.databases.postgresql import PostgresDatabase

    if isinstance(database, PostgresDatabase):
        database.marked = partial(_write_down, platform, database.database.name, progress)


def _write_down(platform: Platform, database: str, progress: Progress, step: SchemaStep, point: str) -> None:
    """The point is in the server's log whether or not it can be written down; its name is told in any case."""
    progress(f"{database}: restore point {point}")
    try:
        body = {"version": step.version, "point": point}
        platform.evidence.append(POINT, subject_of(database), current_actor(), body)
    except PlatformError as exc:
        progress(f"{database}: the restore point was not written down: {exc.what}")


def points(entries: Iterable[Entry]) -> dict[str, Point]:
    """The point before each version, of entries about one schema in their order. A step that was killed and repeated
    has several, of which the first is from before it; what was taken back and applied again has a new one."""
    found: dict[str, Point] = {}
    taken_back = False
    since: set[tuple[int, ...]] = set()
    for entry in entries:
        if entry.kind == MIGRATED and entry.body.get("direction") == BACK:
            taken_back = True
        elif entry.kind == POINT:
            if taken_back:
                taken_back, since = False, set()
            version = str(entry.body["version"])
            if version_key(version) not in since:
                since.add(version_key(version))
                found[version] = Point(version, str(entry.body["point"]), entry.at)
    return found


def point_before(platform: Platform, database: str, version: str) -> Point:
    """Raises ``NoPoint``."""
    found = points(platform.evidence.entries(subject=subject_of(database)))
    if version.replace(".", "").isdecimal():
        for known, point in found.items():
            if version_key(known) == version_key(version):
                return point
    raise NoPoint(database, version, tuple(found))
