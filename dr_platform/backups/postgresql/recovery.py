"""A physical backup becomes a running server again: unpacked, verified, combined, recovered to a moment.

Here: the order of these steps, and what is told when one fails. Not here: the server's own life (``scratch``), or
where the log comes from (``wal``).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dr_platform.backups.port import Kind, StoredBackup
from dr_platform.backups.postgresql.errors import NotThisBackup, RestoreFailed, TargetNotReached
from dr_platform.backups.postgresql.lanes import BrokenLanes, merged
from dr_platform.backups.postgresql.load import ahead
from dr_platform.backups.postgresql.manifest import BackupManifest, BadManifest, read_manifest
from dr_platform.backups.postgresql.physical import BASE, MANIFEST
from dr_platform.backups.postgresql.scratch import RECOVERY_S, ScratchServer
from dr_platform.backups.postgresql.unpack import NotAsListed, unpack
from dr_platform.backups.postgresql.wal import FETCH_COMMAND, WalReader, serve
from dr_platform.databases.embedded import postgresql_files
from dr_platform.databases.embedded.port import EngineUnavailable

_COMBINE_S = 3600.0
_TOO_EARLY = "recovery ended before configured recovery target was reached"


@dataclass(frozen=True)
class AtTime:
    """The state after the last transaction that was committed at or before a moment."""

    time: datetime

    def settings(self) -> dict[str, str]:
        return {"recovery_target_time": self.time.isoformat()}

    def __str__(self) -> str:
        return self.time.isoformat()


@dataclass(frozen=True)
class BeforeTime:
    """The state before the first transaction that was committed at or after a moment, such as the one that the
    schema's history names for a migration."""

    time: datetime

    def settings(self) -> dict[str, str]:
        return {"recovery_target_time": self.time.isoformat(), "recovery_target_inclusive": "off"}

    def __str__(self) -> str:
        return f"right before {self.time.isoformat()}"


@dataclass(frozen=True)
class AtPoint:
    """A named restore point, such as the one made before each migration."""

    name: str

    def settings(self) -> dict[str, str]:
        return {"recovery_target_name": self.name}

    def __str__(self) -> str:
        return f"the restore point {self.name}"


@dataclass(frozen=True)
class AtLsn:
    lsn: str

    def settings(self) -> dict[str, str]:
        return {"recovery_target_lsn": self.lsn}

    def __str__(self) -> str:
        return f"position {self.lsn} of the log"


@dataclass(frozen=True)
class Latest:
    """As far as the archive reaches."""

    def settings(self) -> dict[str, str]:
        return {}

    def __str__(self) -> str:
        return "the end of the archive"


Moment = AtTime | BeforeTime | AtPoint | AtLsn | Latest


@dataclass(frozen=True)
class Recovery:
    """To which moment, by which archive."""

    moment: Moment
    archive: WalReader


def recover(
    server: ScratchServer, chain: Sequence[StoredBackup], memory_bytes: int, to: Recovery | None = None
) -> None:
    """Start the server on the last backup of the chain, which ends where the backup ended unless ``to`` says further.
    Raises ``RestoreFailed``, ``NotThisBackup`` or ``TargetNotReached``."""
    _check_chain(server.address, chain)
    folders = [_unpacked(server, backup, number) for number, backup in enumerate(chain)]
    _combine(server, folders)
    server.superuser = chain[-1].facts.position["superuser"]
    if to is None:
        server.configure(memory_bytes)
        server.start(RECOVERY_S)
    else:
        _recover_further(server, memory_bytes, to)


def _check_chain(address: str, chain: Sequence[StoredBackup]) -> None:
    kinds = [backup.kind for backup in chain]
    expected = [Kind.PHYSICAL_FULL, *[Kind.PHYSICAL_INCREMENTAL] * (len(chain) - 1)]
    if kinds != expected:
        raise NotThisBackup(address, "it does not begin with a full physical backup, followed by incremental ones")


def _unpacked(server: ScratchServer, backup: StoredBackup, number: int) -> Path:
    folder = server.folder / f"backup-{number}"
    pieces = {piece.name: piece for piece in backup.pieces}
    lanes = [pieces[name] for name in sorted(pieces) if name.startswith(f"{BASE}/")]
    try:
        content = b"".join(pieces[MANIFEST].read())
        stream = merged([ahead(lane.read(), held=2) for lane in lanes])
        unpack(stream, folder, _listed(content), server.user)
    except (BrokenLanes, NotAsListed, BadManifest) as exc:
        raise RestoreFailed(server.address, f"unpacking {backup.id}", str(exc)) from None
    except KeyError:
        raise RestoreFailed(server.address, f"unpacking {backup.id}", "it has no list of its files") from None
    (folder / MANIFEST).write_bytes(content)
    if not server.user.is_me:
        shutil.chown(folder / MANIFEST, server.user.uid, server.user.gid)
    return folder


def _listed(content: bytes) -> BackupManifest:
    return read_manifest(content)


def _combine(server: ScratchServer, folders: Sequence[Path]) -> None:
    if len(folders) == 1:
        folders[0].rename(server.data)
        return
    # The parts go at once afterwards, so files that are whole are linked, not copied.
    command = [server.programs / "pg_combinebackup", "--no-sync", "--link", "--no-manifest", "-o", server.data]
    try:
        postgresql_files.run([*command, *folders], server.user, timeout_s=_COMBINE_S)
    except EngineUnavailable as exc:
        raise RestoreFailed(server.address, "combining the incremental backups", exc.why) from None
    with ThreadPoolExecutor(len(folders)) as pool:
        list(pool.map(lambda folder: shutil.rmtree(folder, ignore_errors=True), folders))


def _recover_further(server: ScratchServer, memory_bytes: int, to: Recovery) -> None:
    settings = {
        **to.moment.settings(),
        "restore_command": FETCH_COMMAND,
        "recovery_target_action": "promote",
        "recovery_target_timeline": "latest",
    }
    server.configure(memory_bytes, settings)
    (server.data / "recovery.signal").touch(mode=0o600)
    if not server.user.is_me:
        shutil.chown(server.data / "recovery.signal", server.user.uid, server.user.gid)
    with ExitStack() as stack:
        stack.enter_context(serve(to.archive, server.folder, server.user, server.clock))
        try:
            server.start(RECOVERY_S)
        except RestoreFailed:
            if _TOO_EARLY in (reason := server.last_words()):
                raise TargetNotReached(str(to.moment), "the archive ends before it") from None
            raise TargetNotReached(str(to.moment), reason) from None
