"""Bringing back a backup whose pieces are rows of one table or collection each, besides one that describes
them all.

Here: the frame that engines share which read a database table by table. Not here: the rows, the description,
or where the empty database comes from; nor engines that keep a server's own format.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from dr_platform.backups.chunks import Cut
from dr_platform.backups.port import Facts, Kind, Probe, StoredBackup, StoredPiece, TableFacts
from dr_platform.backups.source import RestoreFailed, UnlikeServer
from dr_platform.backups.tally import Tally
from dr_platform.databases.access import Login
from dr_platform.databases.port import Endpoint
from dr_platform.databases.repeatable import RepeatableSteps

Target = TypeVar("Target", bound=RepeatableSteps[Any])


def measured(
    live: RepeatableSteps[Any],
    algorithm: str,
    heartbeat: str,
    schema_fingerprint: str,
    tallies: Mapping[str, Tally],
    position: Mapping[str, str],
) -> Facts:
    """Facts of a database as it was read: what the server says of itself, and a tally of rows by table."""
    info, applied = live.server(), live.applied()
    return Facts(
        server=info.server,
        server_version=info.version,
        database=live.endpoint.database,
        migration_version=applied[-1].version if applied else "",
        schema_fingerprint=schema_fingerprint,
        tables=tuple(TableFacts(name, tally.rows, tally.fingerprint) for name, tally in sorted(tallies.items())),
        algorithm=algorithm,
        heartbeat=heartbeat,
        position=position,
    )


@dataclass
class PiecewiseRestoration(ABC, Generic[Target]):
    """``open_target`` gives the empty database, when there is something to put into it."""

    kind: ClassVar[Kind]
    described_by: ClassVar[str]
    """Name of the piece that describes the others."""
    cut: ClassVar[str] = "a piece is not whole"
    failures: ClassVar[tuple[type[Exception], ...]]
    """With which the driver says that the server did not take something."""

    place: str
    open_target: Callable[[], Target]
    _target: Target | None = None
    _backup: StoredBackup | None = None

    @property
    def address(self) -> str:
        return self._target.endpoint.address if self._target else self.place

    @property
    def target(self) -> Target:
        if self._target is None:
            raise RestoreFailed(self.place, "nothing was restored yet")
        return self._target

    @property
    def way_in(self) -> tuple[Endpoint, Login]:
        return self.target.endpoint, self.target.login

    def restore(self, chain: Sequence[StoredBackup]) -> None:
        pieces = {piece.name: piece for piece in chain[-1].pieces} if chain else {}
        if not chain or chain[-1].kind is not self.kind or self.described_by not in pieces:
            raise RestoreFailed(self.place, f"it is no backup of kind {self.kind} with its {self.described_by}")
        description = b"".join(pieces.pop(self.described_by).read())
        self._require_all(chain[-1])
        self._backup = chain[-1]
        self._target = self.open_target()
        with self._refusals():
            self._bring_back(chain[-1], description, pieces.values())

    @abstractmethod
    def _require_all(self, backup: StoredBackup) -> None:
        """Raise ``RestoreFailed`` where a piece is missing; said before a server is started for it."""

    @abstractmethod
    def _bring_back(self, backup: StoredBackup, description: bytes, pieces: Collection[StoredPiece]) -> None: ...

    @abstractmethod
    def facts(self) -> Facts: ...

    @abstractmethod
    def probes(self) -> Sequence[Probe]: ...

    @contextlib.contextmanager
    def _refusals(self) -> Generator[None]:
        try:
            yield
        except Cut as exc:
            raise RestoreFailed(self.address, f"{self.cut}: {exc}") from None
        except self.failures as exc:
            code = getattr(exc, "code", None)
            why = "the server did not take it: " + type(exc).__name__ + (f" (code {code})" if code else "")
            raise (RestoreFailed if self._is_like_its_source() else UnlikeServer)(self.address, why) from exc

    def _is_like_its_source(self) -> bool:
        return self._backup is None or self._backup.facts.server == self.target.server().server
