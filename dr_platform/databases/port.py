"""The port to a managed database: what every engine must be able to say and do.

Here: values, promises, errors. Not here: the engines (``postgresql``, ``mongodb``, ``redis_``,
``cql``) or how embedded servers are started (``embedded``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from dr_platform.catalog import Database
from dr_platform.databases.batches import Batches
from dr_platform.errors import ExitCode, PlatformError, TemporaryFailure
from dr_platform.verdict import Progress, silent


@dataclass(frozen=True)
class Endpoint:
    host: str
    port: int
    database: str

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class ServerInfo:
    """Which server really answers. ``reduced`` tells in words what this server cannot do that the
    engine of the catalog could; ``capabilities`` are names such as ``transactions``."""

    server: str
    version: str
    capabilities: frozenset[str] = frozenset()
    reduced: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One security property, measured at the server itself. ``passed`` is ``None`` where it could
    not be measured, which does not pass."""

    name: str
    passed: bool | None
    detail: str
    clause: str = ""


class Phase(StrEnum):
    """When a step applies, as seen from the deployment of the services that use the schema."""

    EXPAND = "expand"
    """Before it: only adds, so that the version before still runs."""
    DATA = "data"
    """After it: fills in what the new version reads; the version before still runs."""
    CONTRACT = "contract"
    """Last: takes away what only the version before used, which cannot return from then on."""


@dataclass(frozen=True)
class Script:
    """A file beside a step: what takes it back (``U…``), or what must hold after it (``T…``)."""

    path: Path
    checksum: str
    transactional: bool = True


@dataclass(frozen=True)
class SchemaStep:
    """One migration file: ``V1_2_0__add_new_column.sql`` has version ``1.2.0``.

    ``transactional`` is false where its statements must run outside of a transaction, one by one, or in
    ``batches``."""

    version: str
    description: str
    path: Path
    checksum: str
    phase: Phase = Phase.EXPAND
    transactional: bool = True
    undo: Script | None = None
    verify: Script | None = None
    batches: Batches | None = None


@dataclass(frozen=True)
class AppliedStep:
    """``fingerprint`` is that of the schema right after the step; empty for steps older than it.
    ``undoing``: taking it back has begun and not ended."""

    version: str
    description: str
    checksum: str
    applied_at: str
    duration_ms: float
    fingerprint: str = ""
    undoing: bool = False


def fingerprint_of(shape: Sequence[str]) -> str:
    """Identifies a schema by what ``ManagedDatabase.shape`` says of it."""
    return hashlib.sha256("\n".join(shape).encode()).hexdigest()


class ManagedDatabase(Protocol):
    """One database of the catalog, through its server. Methods are bounded by ``timeout_s`` or by
    the adapter's connect timeout, and raise ``DatabaseUnreachable`` when the server does not answer
    in time and ``AccessDenied`` when it refuses the credentials."""

    database: Database
    endpoint: Endpoint

    def ping(self, timeout_s: float = 2.0) -> float:
        """Milliseconds for one simple query on an open connection."""

    def server(self) -> ServerInfo: ...

    def findings(self) -> Sequence[Finding]:
        """Security properties measured at the server: anonymous and default access refused,
        reachable from loopback only, least privilege of the application's role, …"""

    def applied(self) -> Sequence[AppliedStep]:
        """The schema history, oldest first; empty where nothing was ever applied."""

    def apply(self, step: SchemaStep, progress: Progress = silent) -> AppliedStep:
        """Apply one file, try what must hold after it, and record it with the schema's shape. One runner
        at a time: a second waits. A step that stopped half-way is finished by a repetition."""

    def undo(self, step: SchemaStep) -> AppliedStep | None:
        """Take back the newest applied step by its ``U`` file and forget its record, which is returned;
        ``None`` where it is not applied. One runner at a time, as with ``apply``; one that stopped half-way is
        finished by a repetition. Raises ``MissingUndo``, ``EditedMigration``, and ``NotNewest`` where
        something newer is applied."""

    def verify(self, step: SchemaStep) -> None:
        """Try what the step's ``T`` file says must hold, and change nothing; nothing where it has none."""

    def shape(self) -> tuple[str, ...]:
        """The live schema as sorted lines, one for an object or a property of one. Left out is what is
        the platform's own (names that start with ``drp_``) and what its loader builds. Equal schemas give
        equal lines, in whatever order they were made."""

    def recorded_shape(self) -> tuple[str, ...] | None:
        """What ``shape`` said right after the newest step; ``None`` where that was not kept."""

    def adopt(self) -> None:
        """Where the newest step was applied before shapes were kept, take the schema as it is for it. A
        second call changes nothing."""

    def admit_application(self) -> None:
        """Let the application's login use what the schema grants, as far as the engine needs more
        than the statements of the schema itself; a second call changes nothing. Role ``admin``."""

    def close(self) -> None: ...


class DatabaseUnreachable(TemporaryFailure):
    def __init__(self, name: str, address: str, reason: str) -> None:
        super().__init__(name, address, reason)
        self.what = f"{name} does not answer at {address}: {reason}"
        self.untouched = f"everything stored in {name}"
        self.next_step = f"see `drp logs {name}` and `drp doctor`; an embedded server is started by `drp up`"


class AccessDenied(PlatformError):
    def __init__(self, name: str, role: str) -> None:
        super().__init__(name, role)
        self.what = f"{name} refused the credentials of {role}"
        self.untouched = f"everything stored in {name}"
        self.next_step = f"compare the secret databases/{name}/{role} with the server's own accounts"


class DatabaseMissing(PlatformError):
    def __init__(self, name: str, address: str, database: str) -> None:
        super().__init__(name, address, database)
        self.what = f"{name} answers at {address}, but has no database {database}"
        self.untouched = f"everything stored in {name}"
        self.next_step = f"`drp up` creates it on an embedded server; elsewhere create {database} there first"


class EditedMigration(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, version: str) -> None:
        super().__init__(name, version)
        self.what = f"{name}: migration {version} was edited after it had been applied"
        self.untouched = f"the schema of {name}"
        self.next_step = "restore the file as it was applied and put the change into a new version"


class UnfinishedUndo(PlatformError):
    """A step that is half taken back is neither applied nor not."""

    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, version: str) -> None:
        super().__init__(name, version)
        self.what = f"{name}: taking migration {version} back was begun and not ended"
        self.untouched = f"the schema of {name}, as that left it"
        self.next_step = f"end it with `drp migrate {name} --down 1`, then go on"


class MissingUndo(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, version: str, description: str) -> None:
        super().__init__(name, version, description)
        file = f"U{version.replace('.', '_')}__{description.replace(' ', '_')}"
        self.what = f"{name}: migration {version} cannot be taken back, there is no {file} beside it"
        self.untouched = f"the schema of {name}"
        self.next_step = f"write {file} where an undo is sensible, else mend it with a new version or a restore"


class NotNewest(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, version: str, newest: str) -> None:
        super().__init__(name, version, newest)
        self.what = f"{name}: migration {version} cannot be taken back while the newer {newest} is applied"
        self.untouched = f"the schema of {name}"
        self.next_step = f"take {newest} back first, or name {version} with `drp migrate {name} --to`"


class OutOfOrderMigration(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, version: str, newest: str) -> None:
        super().__init__(name, version, newest)
        self.what = f"{name}: migration {version} is not applied, but the newer {newest} is"
        self.untouched = f"the schema of {name}"
        self.next_step = f"give the file a version above {newest}"
