"""Why a backup of PostgreSQL cannot be taken or brought back.

Here: failures that only this engine knows. Not here: those of the pipeline, or of a connection.
"""

from __future__ import annotations

from dr_platform.errors import ExitCode, PlatformError


class SourceRefused(PlatformError):
    """The source cannot give this kind of backup as it is configured or used."""

    def __init__(self, name: str, why: str, remedy: str) -> None:
        super().__init__(name, why, remedy)
        self.what = f"{name}: {why}"
        self.untouched = "the database, and every backup before this one"
        self.next_step = remedy


class ToolFailed(PlatformError):
    """A program of PostgreSQL did not end well. Its words may quote rows, so only known phrases are kept."""

    def __init__(self, tool: str, reason: str) -> None:
        super().__init__(tool, reason)
        self.reason = reason
        self.what = f"{tool} failed: {reason}"
        self.untouched = "the database it read from, and every stored backup"
        self.next_step = "see the server's log for the reason, then repeat"


class ExtensionMissing(PlatformError):
    """Found before anything is written to the target."""

    exit_code = ExitCode.REFUSED

    def __init__(self, address: str, missing: tuple[str, ...]) -> None:
        super().__init__(address, missing)
        self.missing = missing
        self.what = f"the target at {address} lacks what the backup needs: extension {', '.join(missing)}"
        self.untouched = "the target; nothing was written to it"
        self.next_step = "install the extension on the target's server, or choose another server, then repeat"


class NotThisBackup(PlatformError):
    """The target cannot take this backup, whatever is tried."""

    exit_code = ExitCode.REFUSED

    def __init__(self, address: str, why: str) -> None:
        super().__init__(address, why)
        self.what = f"the backup cannot be brought back to {address}: {why}"
        self.untouched = "the target; nothing was written to it"
        self.next_step = "choose a backup, or a target, that fits; `drp backups` lists what there is"


class RestoreFailed(PlatformError):
    """The target has part of the backup at most, and must not be used."""

    def __init__(self, address: str, step: str, reason: str) -> None:
        super().__init__(address, step, reason)
        self.what = f"restore to {address} stopped at {step}: {reason}"
        self.untouched = "the source and every stored backup; what was restored in part is not used"
        self.next_step = "see the reason, then restore again into a new database or from another backup"


class NameTaken(PlatformError):
    """A restore never goes into a database that is there."""

    exit_code = ExitCode.REFUSED

    def __init__(self, address: str, database: str) -> None:
        super().__init__(address, database)
        self.what = f"{address} has a database {database} already"
        self.untouched = f"everything stored in {database}"
        self.next_step = "choose the name of a database that does not exist"


class TargetNotReached(PlatformError):
    """The archive ends before the moment that was asked for."""

    def __init__(self, target: str, reason: str) -> None:
        super().__init__(target, reason)
        self.what = f"the database could not be brought to {target}: {reason}"
        self.untouched = "the live database, every backup and the archive"
        self.next_step = "choose a moment that the archive covers, or another backup to start from"


class ArchiveConflict(PlatformError):
    """Two histories under one name; never overwritten, never retried."""

    def __init__(self, segment: str) -> None:
        super().__init__(segment)
        self.what = f"the archive holds another file under the name {segment}"
        self.untouched = "the archived file, and the one that waits to be archived"
        self.next_step = "see which server wrote them; a copy of a server must never archive to its original's place"
