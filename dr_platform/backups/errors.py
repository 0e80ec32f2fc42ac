"""What can go wrong with a backup, each with the reason that a person has to know.

Here: failures of taking, reading and keeping backups. Not here: failures of an engine's own tools, which
the engine names itself.
"""

from __future__ import annotations

from enum import StrEnum

from dr_platform.errors import ExitCode, PlatformError


class Cause(StrEnum):
    """Why a backup was not completed. Kept apart because each asks for another remedy."""

    TOOL_FAILED = "tool failed"
    """A program or the database's connection ended before everything was read."""
    NOTHING_READ = "nothing read"
    """A piece without a single byte: the mark of a dump whose first stage failed."""
    STORE_FULL = "store full"
    STORE_UNAVAILABLE = "store unavailable"
    MACHINE_FULL = "no space on this machine"
    WORKER_ENDED = "worker ended"
    """A process of ours was killed, mostly for want of memory."""
    DEFECT = "defect"


_REMEDIES = {
    Cause.TOOL_FAILED: "see the server's log and whether it can be reached, then take it again",
    Cause.NOTHING_READ: "see the server's log for why it gave nothing, then take it again",
    Cause.STORE_FULL: "make room with `drp backups prune --plan`, or enlarge the store, then take it again",
    Cause.STORE_UNAVAILABLE: "see whether the store can be reached and its credentials are valid, then take it again",
    Cause.MACHINE_FULL: "make room on this machine, then take it again",
    Cause.WORKER_ENDED: "see the kernel's log for a process out of memory, then take it again",
    Cause.DEFECT: "report it with the place in the log; take it again",
}


class BackupFailed(PlatformError):
    """A backup was begun and is not there."""

    def __init__(self, backup_id: str, cause: Cause, detail: str) -> None:
        super().__init__(backup_id, cause, detail)
        self.backup_id = backup_id
        self.cause = cause
        self.detail = detail
        self.what = f"backup {backup_id} failed: {cause}: {detail}"
        self.untouched = "the database, and every backup before this one"
        self.next_step = _REMEDIES[cause]


class PieceFailed(PlatformError):
    """A piece of a snapshot that was not stored whole; raised in the process that reads it."""

    def __init__(self, piece: str, cause: Cause, detail: str) -> None:
        super().__init__(piece, cause, detail)
        self.piece = piece
        self.cause = cause
        self.detail = detail
        self.what = f"{piece}: {cause}: {detail}"
        self.untouched = "the database, and every backup before this one"
        self.next_step = _REMEDIES[cause]


class Damage(StrEnum):
    """In which way a stored backup is not what was written."""

    PART_MISSING = "part missing"
    PART_TRUNCATED = "part truncated"
    PART_ALTERED = "part altered"
    PARTS_SWAPPED = "parts swapped"
    WRONG_KEY = "wrong key"
    KEY_LOST = "key lost"
    MANIFEST_ALTERED = "manifest altered"
    MANIFEST_REPLAYED = "manifest replayed"
    """A sound manifest in the place of another one."""
    MANIFEST_MISSING = "manifest missing"
    RECORD_ALTERED = "record altered"
    """A proof or a hold that nobody with our key wrote for this backup."""
    PARENT_MISSING = "parent missing"


class DamagedBackup(PlatformError):
    """Never retried: what is stored does not become another thing."""

    def __init__(self, backup_id: str, damage: Damage, detail: str) -> None:
        super().__init__(backup_id, damage, detail)
        self.backup_id = backup_id
        self.damage = damage
        self.detail = detail
        self.what = f"backup {backup_id} cannot be used: {damage}: {detail}"
        self.untouched = "the database, and every other backup"
        self.next_step = "take a new one with `drp backup`, and see `drp backups` for another one that is verified"


class UnknownBackup(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, backup_id: str) -> None:
        super().__init__(backup_id)
        self.what = f"{backup_id[:80]!r}: no such backup"
        self.untouched = "every database and every backup"
        self.next_step = "list them with `drp backups`"


class NoEscrow(PlatformError):
    """Data that only the secret store can open is lost together with it."""

    exit_code = ExitCode.REFUSED

    def __init__(self, environment: str) -> None:
        super().__init__(environment)
        self.what = f"no escrow key can open the backups of {environment}, so none is taken"
        self.untouched = "the database; nothing was begun"
        self.next_step = "make one and keep its file off this machine: `drp backup-keys init --identity FILE`"
