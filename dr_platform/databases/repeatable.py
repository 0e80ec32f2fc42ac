"""Schema steps on servers where a change of the schema is no transaction: one runner at a time by a lease,
commands that can be repeated, and a record that is written once.

Here: the frame that such adapters of ``ManagedDatabase`` share. Not here: their connections, the commands of a
step, or how a server keeps a record; nor PostgreSQL, which has transactions (``postgresql_steps``).
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

from dr_platform.catalog import Database
from dr_platform.clock import Clock, SystemClock
from dr_platform.databases.access import Login, LoginRole
from dr_platform.databases.lease import TTL_S, WAIT_S, Held, LeaseStore, one_at_a_time
from dr_platform.databases.port import AppliedStep, Endpoint, SchemaStep, Script, ServerInfo, fingerprint_of
from dr_platform.databases.schema import MalformedMigrations, find_applied, find_undoable, text_of, undo_of
from dr_platform.verdict import Progress, silent

Command = TypeVar("Command")


class RepeatableSteps(ABC, Generic[Command]):
    """Most of a ``ManagedDatabase``. Connects at once.

    ``application`` is the application's login, whose rights ``findings`` tries; where the engine needs it,
    ``admit_application`` lets it in.
    """

    extension: ClassVar[str]
    """Of the files that hold a step."""
    default_logins: ClassVar[tuple[Login, ...]]
    """With which everybody tries to get in first."""

    def __init__(
        self,
        database: Database,
        endpoint: Endpoint,
        login: Login,
        role: LoginRole = "admin",
        application: Login | None = None,
        *,
        clock: Clock | None = None,
        lease_s: float = TTL_S,
        wait_s: float = WAIT_S,
    ) -> None:
        self.database = database
        self.endpoint = endpoint
        self._login = login
        self._role: LoginRole = role
        self._application = application
        self._clock: Clock = clock or SystemClock()
        self._lease_s = lease_s
        self._wait_s = wait_s
        self._connect()

    @property
    def login(self) -> Login:
        """As whom it is connected."""
        return self._login

    @property
    def _guesses(self) -> tuple[Login, ...]:
        """Logins that must not be let in."""
        known = (self._login, self._application)
        return (*self.default_logins, *(Login(login.username, login.username) for login in known if login))

    # What an adapter brings

    @abstractmethod
    def _connect(self) -> None:
        """Open what every call uses; closed again where the server does not answer."""

    @abstractmethod
    def server(self) -> ServerInfo: ...

    @abstractmethod
    def applied(self) -> Sequence[AppliedStep]: ...

    @abstractmethod
    def shape(self) -> tuple[str, ...]: ...

    @abstractmethod
    def _lease(self) -> LeaseStore: ...

    @abstractmethod
    def _parsed(self, text: str) -> tuple[Command, ...]:
        """A file's commands. Raises ``ValueError`` that names the place."""

    @abstractmethod
    def _run(self, step: SchemaStep, script: SchemaStep | Script, number: int, command: Command, /) -> None:
        """Raises ``MigrationFailed``; what was done already is no error."""

    def _make_books(self) -> None:
        """Make what holds records and lease, where it does not come into being by itself."""

    @abstractmethod
    def _keep(self, record: AppliedStep, shape: tuple[str, ...]) -> bool:
        """Write the record with the shape unless there is one of its version; whether it was written."""

    @abstractmethod
    def _keep_shape(self, record: AppliedStep, shape: tuple[str, ...]) -> None:
        """Add shape and fingerprint to a record."""

    @abstractmethod
    def _kept_shape(self, version: str) -> tuple[str, ...] | None: ...

    @abstractmethod
    def _begin_undo(self, record: AppliedStep) -> None:
        """Note that the step is half taken back from now on."""

    @abstractmethod
    def _forget(self, record: AppliedStep) -> None: ...

    # Steps

    def apply(self, step: SchemaStep, progress: Progress = silent) -> AppliedStep:
        del progress  # steps are short here
        commands = self._commands(step, step, text_of(self.database.name, step, self.extension))
        self._make_books()
        with self._alone() as lease:
            if done := find_applied(self.database.name, step, self.applied()):
                return done
            started = self._clock.monotonic()
            self._run_all(step, step, commands, lease)
            return self._record(step, (self._clock.monotonic() - started) * 1000)

    def undo(self, step: SchemaStep) -> AppliedStep | None:
        script, text = undo_of(self.database.name, step, self.extension)
        commands = self._commands(step, script, text)
        self._make_books()
        with self._alone() as lease:
            record = find_undoable(self.database.name, step, self.applied())
            if record is not None:
                self._begin_undo(record)
                self._run_all(step, script, commands, lease)
                self._forget(record)
            return record

    def verify(self, step: SchemaStep) -> None:
        """Nothing: what must hold after a step is said in SQL."""

    def recorded_shape(self) -> tuple[str, ...] | None:
        history = self.applied()
        return self._kept_shape(history[-1].version) if history else None

    def adopt(self) -> None:
        history = self.applied()
        if not history or history[-1].fingerprint:
            return
        self._make_books()
        with self._alone():
            self._keep_shape(history[-1], self.shape())

    def _alone(self) -> contextlib.AbstractContextManager[Held]:
        name = self.database.name
        return one_at_a_time(self._lease(), name, self._clock, ttl_s=self._lease_s, wait_s=self._wait_s)

    def _commands(self, step: SchemaStep, script: SchemaStep | Script, text: str) -> tuple[Command, ...]:
        try:
            return self._parsed(text)
        except ValueError as exc:
            raise MalformedMigrations(step.path.parent.name, ((script.path.name, str(exc)),)) from None

    def _run_all(self, step: SchemaStep, script: SchemaStep | Script, commands: Sequence[Command], lease: Held) -> None:
        for number, command in enumerate(commands, start=1):
            lease.check()
            self._run(step, script, number, command)

    def _record(self, step: SchemaStep, duration_ms: float) -> AppliedStep:
        at, shape = self._clock.now().isoformat(), self.shape()
        done = AppliedStep(
            step.version, step.description, step.checksum, at, round(duration_ms, 3), fingerprint_of(shape)
        )
        return done if self._keep(done, shape) else find_applied(self.database.name, step, self.applied()) or done
