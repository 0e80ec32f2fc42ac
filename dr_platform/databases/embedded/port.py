"""The port to a database server that this machine runs itself.

Here: the promises, and why a server cannot be had or does not answer. Not here: the servers
(``postgresql``, ``redis_``, ``mongodb``, ``cql``), or how clients use them (``databases.connect``).
"""

from __future__ import annotations

from typing import Protocol

from dr_platform.databases.port import Endpoint
from dr_platform.errors import ExitCode, PlatformError, TemporaryFailure
from dr_platform.runtime.local.programs import Program
from dr_platform.verdict import Progress


class EmbeddedServer(Protocol):
    """One server of the catalog, run on loopback by a supervisor.

    The order is ``acquire``, ``prepare``, start ``program``, ``initialise``. Every step may be
    repeated at any time, also after it was killed half-way, and a repetition changes nothing that
    is as it should be. Files are for the server's user alone.
    """

    @property
    def name(self) -> str:
        """Name of the program and of the folder below ``state.data``."""
        ...

    def acquire(self, progress: Progress) -> None:
        """Get the server's own files into reach: instant once done on this machine. Of several
        callers at once one works, the others wait. Raises ``EngineUnavailable``."""

    def missing(self) -> str:
        """What ``acquire`` would still have to do, empty when there is nothing. Quick: it builds and
        fetches nothing. Raises ``EngineUnavailable`` where it is known already that it cannot."""
        ...

    def prepare(self) -> None:
        """Make the data folder, configuration and credentials. Safe while the server runs."""

    def program(self) -> Program:
        """What to supervise. Equal as long as nothing changed; no secret is in it."""
        ...

    def initialise(self, within_s: float) -> None:
        """Wait until the server answers, then make the database, its accounts and nothing else
        that could log in. Raises ``ServerNotReady`` after ``within_s`` seconds."""

    def endpoint(self) -> Endpoint: ...


class EngineUnavailable(PlatformError):
    """The server's files cannot be had, or cannot run, on this machine."""

    exit_code = ExitCode.UNAVAILABLE

    def __init__(self, engine: str, why: str, remedy: str) -> None:
        super().__init__(engine, why, remedy)
        self.engine = engine
        self.why = why
        self.remedy = remedy
        self.what = f"{engine} cannot run on this machine: {why}"
        self.untouched = "the other databases, and everything stored in this one"
        self.next_step = remedy


class ServerNotReady(TemporaryFailure):
    """The server was started and did not get ready in time."""

    def __init__(self, name: str, within_s: float, reason: str) -> None:
        super().__init__(name, within_s, reason)
        self.what = f"{name} was not ready within {within_s:.0f} s: {reason}"
        self.untouched = f"everything stored in {name}"
        self.next_step = f"see `drp logs {name}`; repeat `drp up` when the cause is removed"
