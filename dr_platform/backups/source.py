"""Which database a backup is of, and what a backup engine says when it cannot go on.

Here: values and errors that the engines share. Not here: anything that talks to a server.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dr_platform.catalog import Database
from dr_platform.databases.access import Login
from dr_platform.databases.port import Endpoint
from dr_platform.errors import ExitCode, PlatformError

HEARTBEAT = "drp_heartbeat"
"""The collection or table that holds the nonce of the latest backup."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")


@dataclass(frozen=True)
class Source:
    """A live database and the login that may read all of it. Can be pickled, so that pieces are read in
    other processes."""

    database: Database
    endpoint: Endpoint
    login: Login

    @property
    def name(self) -> str:
        return self.database.name


class SnapshotFailed(PlatformError):
    """The server did not give everything. ``reason`` quotes no data."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.what = f"{name} could not be read to its end: {reason}"
        self.untouched = f"everything stored in {name}, and every backup before this one"
        self.next_step = f"see `drp logs {name}`, then take the backup again"


class RestoreFailed(PlatformError):
    """What was brought back so far counts for nothing."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.what = f"the backup could not be restored into {address}: {reason}"
        self.untouched = "the live database and the backup"
        self.next_step = "restore an older backup that is verified (`drp backups`), or remove the cause and repeat"


class UnlikeServer(RestoreFailed):
    """A server of another make refused it, which says nothing about the backup."""

    exit_code = ExitCode.UNAVAILABLE

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.next_step = "restore it into a new database of a server like its source"


class TargetRefused(PlatformError):
    """Nothing is restored over what exists."""

    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, target: str, reason: str, remedy: str) -> None:
        super().__init__(name, target, reason, remedy)
        self.what = f"{name}: nothing is restored into {target[:60]!r}: {reason}"
        self.untouched = f"everything stored in {name}"
        self.next_step = remedy


def new_name(source: Source, target: str) -> str:
    """``target`` where it can be the name of a new database beside the live one; whether it exists
    already only the server knows. Raises ``TargetRefused``."""
    if target == source.endpoint.database:
        raise TargetRefused(source.name, target, "it is the live database", "name another one")
    if not _NAME.fullmatch(target):
        why = "it is no name of a database"
        raise TargetRefused(source.name, target, why, "use lower case letters, digits and underscores, 48 at most")
    return target
