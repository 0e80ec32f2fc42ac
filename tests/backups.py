"""An engine whose databases are dictionaries of this process, for tests of everything that is not an engine.

Not here: promises of the port (``contracts.backup_engine``).
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from dr_platform.backups.bucket import Bucket
from dr_platform.backups.keys import KeyRing
from dr_platform.backups.pipeline import BackupWriter, Order
from dr_platform.backups.port import Facts, Json, Kind, Probe, StoredBackup, Switching, TableFacts
from dr_platform.backups.reading import BackupReader
from dr_platform.backups.switch import NoSwitch, by_hand
from dr_platform.clock import ManualClock
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.secrets.embedded import EmbeddedSecretStore

START = datetime(2026, 11, 26, tzinfo=UTC)
Rows = dict[str, list[str]]
"""Table to rows."""


class NameTaken(PlatformError):
    exit_code = ExitCode.REFUSED


class ExtensionMissing(PlatformError):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.what = f"the target has no extension {name}"


@dataclass(frozen=True)
class MemoryPiece:
    name: str
    content: bytes
    facts: Mapping[str, Json] = field(default_factory=dict)
    size_hint: int = 0

    def read(self) -> Iterator[bytes]:
        for at in range(0, len(self.content), 4000):
            yield self.content[at : at + 4000]


@dataclass(frozen=True)
class BrokenPiece(MemoryPiece):
    """Gives its content, then fails as a connection does: by an error that cannot be pickled."""

    def read(self) -> Iterator[bytes]:
        yield self.content
        error = ConnectionResetError("row 17 of patients: Ada Lovelace")
        error.handle = open(__file__)  # noqa: SIM115, PTH123 - what drivers attach to their errors
        raise error


@dataclass(frozen=True)
class EndingPiece(MemoryPiece):
    """Ends the process that reads it, as the kernel does when there is no memory left."""

    def read(self) -> Iterator[bytes]:
        yield self.content
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class ToolPiece(MemoryPiece):
    """The output of a program that may be killed half-way."""

    program: str = ""

    def read(self) -> Iterator[bytes]:
        with subprocess.Popen([sys.executable, "-c", self.program], stdout=subprocess.PIPE) as tool:
            assert tool.stdout is not None
            while chunk := tool.stdout.read(1 << 16):
                yield chunk
        if tool.returncode:
            raise ToolEnded(tool.returncode)


class ToolEnded(PlatformError):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.what = f"the dump program ended with {status}"


@dataclass
class MemoryServer:
    """Databases by name; ``extensions`` are what it can offer to them."""

    databases: dict[str, Rows] = field(default_factory=dict)
    extensions: dict[str, str] = field(default_factory=dict)


def facts_of(rows: Rows, extensions: Mapping[str, str], heartbeat: str) -> Facts:
    tables = tuple(
        TableFacts(name, len(found), hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest())
        for name, found in sorted(rows.items())
    )
    schema = hashlib.sha256(",".join(sorted(rows)).encode()).hexdigest()
    return Facts("memory", "1", "live", "1.2.0", schema, tables, "sha256(sorted rows)", True, heartbeat, {}, extensions)


@dataclass
class MemoryRestoration:
    server: MemoryServer
    name: str
    address: str
    heartbeat: str = ""

    def restore(self, chain: Sequence[StoredBackup]) -> None:
        for name in chain[-1].facts.extensions:
            if name not in self.server.extensions:
                raise ExtensionMissing(name)
        for backup in chain:
            for piece in backup.pieces:
                content = json.loads(b"".join(piece.read()))
                self.server.databases[self.name].update(content["rows"])
            self.heartbeat = backup.facts.heartbeat

    def facts(self) -> Facts:
        return facts_of(self.server.databases[self.name], self.server.extensions, self.heartbeat)

    def probes(self) -> Sequence[Probe]:
        return (Probe("rows_readable", True, "every row was read", {"tables": len(self.server.databases[self.name])}),)


@dataclass
class MemorySnapshot:
    frozen: tuple[MemoryPiece, ...]
    measured: Facts

    def pieces(self) -> Sequence[MemoryPiece]:
        return self.frozen

    def facts(self) -> Facts:
        return self.measured


@dataclass
class MemoryEngine:
    """``scratch_server`` is where proofs restore to; ``spoil`` replaces the pieces of the next snapshots."""

    server: MemoryServer
    database: str = "live"
    scratch_server: MemoryServer | None = None
    spoil: tuple[MemoryPiece, ...] = ()
    ended: list[str] = field(default_factory=list)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return (Kind.LOGICAL, Kind.PHYSICAL_INCREMENTAL)

    @contextmanager
    def snapshot(self, kind: Kind, parent: StoredBackup | None = None) -> Generator[MemorySnapshot]:
        rows = dict(self.server.databases[self.database])
        pieces = tuple(
            MemoryPiece(f"tables/{name}", json.dumps({"rows": {name: found}}).encode(), {"table": name}, len(found))
            for name, found in sorted(rows.items())
        )
        yield MemorySnapshot((*pieces, *self.spoil), facts_of(rows, self.server.extensions, "nonce-1"))

    @contextmanager
    def scratch(self) -> Generator[MemoryRestoration]:
        server = self.scratch_server or MemoryServer(extensions=dict(self.server.extensions))
        server.databases["scratch"] = {}
        try:
            yield MemoryRestoration(server, "scratch", "memory: scratch")
        finally:
            self.ended.append("scratch")
            server.databases.pop("scratch", None)

    @contextmanager
    def new_database(self, name: str) -> Generator[MemoryRestoration]:
        if name in self.server.databases:
            raise NameTaken(name)
        self.server.databases[name] = {}
        try:
            yield MemoryRestoration(self.server, name, f"memory: {name}")
        except BaseException:
            del self.server.databases[name]
            raise

    def switching(self) -> Switching:
        raise NoSwitch("live", "because dictionaries have no names", by_hand("live"))


def some_rows(count: int = 200) -> Rows:
    return {
        "patients": [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)],
        "messages": [hashlib.sha256(str(-number).encode()).hexdigest() for number in range(2 * count)],
    }


def memory_engine(rows: Rows | None = None) -> MemoryEngine:
    return MemoryEngine(MemoryServer({"live": rows or some_rows()}, {"vector": "0.8.5"}))


@dataclass(frozen=True)
class Room:
    """A bucket in a folder with its keys, a clock that stands still, and what writes and reads."""

    folder: Path
    bucket: Bucket
    keys: KeyRing
    clock: ManualClock
    writer: BackupWriter
    reader: BackupReader

    def with_writer(self, **changes: object) -> Room:
        return replace(self, writer=replace(self.writer, **changes))  # type: ignore[arg-type]

    def object_files(self, backup_id: str) -> list[Path]:
        return sorted(p for p in (self.folder / "objects/backups").glob(f"*/{backup_id}/parts/**/*") if p.is_file())


def room(folder: Path) -> Room:
    """Everything but an engine."""
    secrets = EmbeddedSecretStore(folder / "secrets")
    keys = KeyRing(secrets)
    keys.make_escrow(folder / "escrow" / "identity.txt")
    bucket = Bucket.of_folder(folder / "objects")
    clock = ManualClock(START)
    writer = BackupWriter(bucket, keys, clock, workers=0, part_bytes=2000)
    return Room(folder, bucket, keys, clock, writer, BackupReader(bucket, keys))


def order(database: str = "live", kind: Kind = Kind.LOGICAL) -> Order:
    return Order("local", database, kind, "a test", "somebody")
