"""The port between the backup pipeline and the engines.

Here: what an engine must be able to say, give and take back, as values and promises. Not here: how
bytes are compressed, encrypted, described and stored (the pipeline), when backups are taken, or how
long they stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable

from dr_platform.databases.access import Login
from dr_platform.databases.port import Endpoint
from dr_platform.verdict import Progress

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]


class Kind(StrEnum):
    """What a backup is made of."""

    LOGICAL = "logical"
    """Schema and rows at one instant; fits another server of the same major version."""
    PHYSICAL_FULL = "physical-full"
    """The server's files with the log that makes them whole."""
    PHYSICAL_INCREMENTAL = "physical-incr"
    """Blocks changed since another physical backup, its parent."""
    BSON = "bson"
    RDB = "rdb"
    CQL = "cql"


@dataclass(frozen=True)
class TableFacts:
    """One table, collection or key space: how many rows, and a fingerprint over all of them that does
    not depend on their order."""

    name: str
    rows: int
    fingerprint: str


@dataclass(frozen=True)
class Facts:
    """What is known of the data in a backup, measured in the snapshot itself. The same measure of a
    restored copy must say the same; ``exact`` is false where the source went on changing between snapshot and
    measure, so that counts are lower bounds and fingerprints are not compared."""

    server: str
    server_version: str
    database: str
    migration_version: str
    """The newest applied migration; empty where none was."""
    schema_fingerprint: str
    tables: tuple[TableFacts, ...]
    algorithm: str
    """How fingerprints were computed."""
    exact: bool = True
    heartbeat: str = ""
    """A nonce written into the source before the snapshot; the restored copy must have it."""
    position: Mapping[str, str] = field(default_factory=dict)
    """Engine's own coordinates: system identifier, timeline, positions in the log."""
    extensions: Mapping[str, str] = field(default_factory=dict)
    """Name to version of what the server must have to take the data back."""


class Piece(Protocol):
    """A part of a snapshot that is read by itself, also in another process (pieces can be pickled; they
    carry what they need to connect). Reading one twice inside the snapshot gives the same bytes."""

    @property
    def name(self) -> str:
        """Unique within the backup: key segments such as ``tables/public.patients/0003``."""

    @property
    def facts(self) -> Mapping[str, Json]:
        """What the restore has to know of it: table, range, rows. Never a value of a row."""

    @property
    def size_hint(self) -> int:
        """About how many bytes it has, so that large ones are begun first; 0 where unknown."""

    def read(self) -> Iterator[bytes]:
        """Raw bytes in chunks of at most 4 MiB. Raises where not every byte could be had: a tool that ends
        with a failure, a connection that breaks. Never ends early in silence."""


class Snapshot(Protocol):
    """One consistent instant of a database, for as long as its context is open."""

    def pieces(self) -> Sequence[Piece]: ...

    def facts(self) -> Facts:
        """Measured in the snapshot. Called after every piece was read."""


class StoredPiece(Protocol):
    """A piece as it comes back: verified against its manifest, decrypted and decompressed. Can be
    pickled."""

    @property
    def name(self) -> str: ...

    @property
    def facts(self) -> Mapping[str, Json]: ...

    @property
    def size_hint(self) -> int: ...

    def read(self) -> Iterator[bytes]:
        """Raises where it is not, byte by byte, what was written. What was given before is then void."""


@dataclass(frozen=True)
class StoredBackup:
    """A backup out of the store. Pieces are in the order of their names."""

    id: str
    kind: Kind
    facts: Facts
    pieces: tuple[StoredPiece, ...]


@dataclass(frozen=True)
class Probe:
    """One thing that was tried on the restored copy. ``passed`` is ``None`` where it could not be tried."""

    name: str
    passed: bool | None
    detail: str
    measurements: Mapping[str, float] = field(default_factory=dict)


class Restoration(Protocol):
    """A place into which a backup is brought back: empty at first, and never the source."""

    @property
    def address(self) -> str:
        """For people: host, port and database, or a socket; no credentials."""

    def restore(self, chain: Sequence[StoredBackup]) -> None:
        """Bring back the last backup of the chain; a physical incremental comes with all its parents,
        the full one first. Raises a ``PlatformError`` with the reason where anything is missing."""

    def facts(self) -> Facts:
        """Of what was restored, measured with the algorithm of the source's snapshot."""

    def probes(self) -> Sequence[Probe]:
        """What else the engine can prove: checksums of pages, validity and recall of vector indexes,
        constraints that hold."""


@runtime_checkable
class Reachable(Protocol):
    """A copy in a server of our own that others may read while it is there."""

    @property
    def way_in(self) -> tuple[Endpoint, Login]:
        """Where it answers and as whom, once something was restored."""


@dataclass(frozen=True)
class Occupant:
    """One of two databases of a server, as a look found it. ``identity`` stays with it under every name."""

    name: str
    identity: str
    extent: str
    """How large it is, for people."""
    migration_version: str
    """The newest applied migration; empty where none was."""
    clients: int | None = None
    """Sessions that a switch would end; ``None`` where it ends none."""
    backed_up_at: datetime | None = None
    """When the newest backup of what is in it began, by the heartbeat in it."""


@dataclass(frozen=True)
class LastSwitch:
    """What made a database the live one: the name it had until then, the name of the one before it since then."""

    to: str
    before: str
    at: datetime


@dataclass(frozen=True)
class Standing:
    """The live database, the one that may take its place, and how the live one came to it. The server itself keeps
    ``last``, written in the same instant as the switch, so that it is true after any interruption."""

    live: Occupant
    target: Occupant | None
    last: LastSwitch | None = None


class Switching(Protocol):
    """Gives another database of the same server the live one's name. Both are kept, whole, under names that no
    switch gave before, so that the same command repeated never goes back by mistake."""

    @property
    def interruption(self) -> str:
        """What whoever uses the live database notices, and for how long."""

    def standing(self, to: str) -> Standing:
        """Look, and change nothing. ``target`` is ``None`` where nothing has that name."""

    def kept_as(self, to: str, moment: str) -> str:
        """The name of the database that is live now, after a switch at this moment."""

    def switch(self, standing: Standing, at: datetime, progress: Progress) -> float:
        """All of it or nothing, in one instant for everybody who looks, whatever is killed meanwhile. Seconds in which
        nobody reached either. Bounded in time and attempts. Raises ``NotSwitched`` where the two are not any more what
        ``standing`` says, or others hold on to them; then everything is as it was."""


class BackupEngine(Protocol):
    """One database of the catalog, as far as backups are concerned."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What the server allows, the kind for disaster recovery first."""

    def snapshot(self, kind: Kind, parent: StoredBackup | None = None) -> AbstractContextManager[Snapshot]:
        """An incremental kind needs its parent."""

    def scratch(self) -> AbstractContextManager[Restoration]:
        """A server of our own on this machine, reached by nobody else, gone with everything in it when
        the context ends, also after a failure. Its credentials are generated."""

    def new_database(self, name: str) -> AbstractContextManager[Restoration]:
        """A new database beside the live one, which stays when the context ends without an error and is
        removed after an error. A name that exists, the live one above all, is refused before anything is written."""

    def switching(self) -> Switching:
        """How a restored database takes the live one's place. Raises ``NoSwitch`` where the engine, or this server
        of it, has no way to do that in one instant."""
