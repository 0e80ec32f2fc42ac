"""PostgreSQL as a ``BackupEngine``.

Here: which kind is taken how, and where backups go. Not here: any of the work itself.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace

import psycopg
from psycopg import sql

from dr_platform.backups.port import Facts, Kind, Probe, Snapshot, StoredBackup
from dr_platform.backups.postgresql import probes
from dr_platform.backups.postgresql.access import Access
from dr_platform.backups.postgresql.errors import NameTaken, NotThisBackup, SourceRefused
from dr_platform.backups.postgresql.facts import measure
from dr_platform.backups.postgresql.load import LOADING, Means, Pieces, check_target, load, surroundings_of
from dr_platform.backups.postgresql.logical import logical_snapshot
from dr_platform.backups.postgresql.physical import physical_snapshot, possible_kinds
from dr_platform.backups.postgresql.recovery import Recovery, recover
from dr_platform.backups.postgresql.scratch import ScratchServer, Site, scratch_server
from dr_platform.backups.postgresql.switch import PostgresSwitching
from dr_platform.clock import Clock, SystemClock
from dr_platform.databases.access import Login, is_loopback
from dr_platform.databases.port import Endpoint

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_CARRIED = "carried"


@dataclass(frozen=True)
class PostgresBackups:
    """Backups of one database. The login is the administrator's: it owns the schema, and for physical kinds it may
    replicate. ``means`` is what restores into the live server may use of it."""

    access: Access
    site: Site
    clock: Clock = field(default_factory=SystemClock)
    means: Means = field(default_factory=Means)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        with self.access.connect() as connection:
            full, incremental = possible_kinds(connection)
        physical = (Kind.PHYSICAL_FULL,) if full else ()
        return (*physical, *((Kind.PHYSICAL_INCREMENTAL,) if incremental else ()), Kind.LOGICAL)

    def snapshot(self, kind: Kind, parent: StoredBackup | None = None) -> AbstractContextManager[Snapshot]:
        programs = self.site.programs()
        match kind:
            case Kind.LOGICAL:
                return logical_snapshot(self.access, programs)
            case Kind.PHYSICAL_FULL:
                return physical_snapshot(self.access, programs)
            case Kind.PHYSICAL_INCREMENTAL if parent is not None:
                return physical_snapshot(self.access, programs, parent)
        why = "an incremental backup needs its parent" if kind is Kind.PHYSICAL_INCREMENTAL else f"it has no {kind}"
        raise SourceRefused(self.access.name, why, "choose one of the kinds that the database has")

    @contextlib.contextmanager
    def scratch(self, to: Recovery | None = None) -> Generator[ScratchRestoration]:
        """With ``to``, physical backups are recovered further, to a moment after their end."""
        with scratch_server(self.site, self.clock) as server:
            yield ScratchRestoration(self.access.database, server, self.site, to)

    @contextlib.contextmanager
    def new_database(self, name: str, to: Recovery | None = None) -> Generator[NewDatabase]:
        """Physical backups, also recovered to a moment, go by way of a scratch server: its database is carried over."""
        self._create(name)
        try:
            yield NewDatabase(self, self.access.to(name), to)
        except BaseException:
            self._drop(name)
            raise

    def switching(self) -> PostgresSwitching:
        return PostgresSwitching(self.access, self.clock)

    def _create(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise NotThisBackup(self.access.endpoint.address, "a database's name has small letters, digits and _")
        database = sql.Identifier(name)
        with self.access.connect(LOADING) as connection:
            try:
                connection.execute(
                    sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' {}").format(
                        database, _locale_of(connection)
                    )
                )
            except psycopg.errors.DuplicateDatabase:
                raise NameTaken(self.access.endpoint.address, name) from None
            connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))

    def _drop(self, name: str) -> None:
        with self.access.connect(LOADING) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def postgres_backups(
    name: str, endpoint: Endpoint, admin: Login, site: Site, clock: Clock | None = None
) -> PostgresBackups:
    """The engine of a database of the catalog."""
    access = Access(name, endpoint.host, endpoint.port, endpoint.database, admin.username, admin.password)
    memory = site.memory if is_loopback(endpoint.host) else Means().memory_bytes
    return PostgresBackups(access, site, clock or SystemClock(), Means(memory_bytes=memory))


def _locale_of(connection: psycopg.Connection) -> sql.Composable:
    """Sorting as the live database does: text indexes depend on it."""
    row = connection.execute(
        "SELECT datlocprovider::text, datcollate, datctype, datlocale FROM pg_database"
        " WHERE datname = current_database()"
    ).fetchone() or ("c", "C", "C", None)
    return locale_clause(*row)


def locale_clause(provider: str, collate: str, ctype: str, locale: str | None) -> sql.Composable:
    libc = sql.SQL("LC_COLLATE {} LC_CTYPE {}").format(collate, ctype)
    match provider:
        case "b":
            return sql.SQL("LOCALE_PROVIDER builtin BUILTIN_LOCALE {} {}").format(locale, libc)
        case "i":
            return sql.SQL("LOCALE_PROVIDER icu ICU_LOCALE {} {}").format(locale, libc)
        case _:
            return sql.SQL("LOCALE_PROVIDER libc {}").format(libc)


def facts_of(access: Access, site: Site) -> Facts:
    """Of a database that nobody else writes to."""
    with access.connect() as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return measure(access, connection, site.programs())


@dataclass
class ScratchRestoration:
    """See ``Restoration``. ``access`` is how its database is read afterwards."""

    database: str
    server: ScratchServer
    site: Site
    to: Recovery | None = None
    _physical: bool = False

    @property
    def address(self) -> str:
        return f"{self.server.address} ({self.database})"

    @property
    def access(self) -> Access:
        return self.server.access(self.database)

    @property
    def way_in(self) -> tuple[Endpoint, Login]:
        access = self.access
        return access.endpoint, Login(access.username, access.password)

    def restore(self, chain: Sequence[StoredBackup]) -> None:
        self.database = chain[-1].facts.database
        if chain[-1].kind is Kind.LOGICAL:
            self._restore_logical(chain[-1])
        else:
            recover(self.server, chain, self.site.memory, self.to)
            self._physical = True

    def _restore_logical(self, backup: StoredBackup) -> None:
        if self.to is not None:
            raise NotThisBackup(self.address, "a logical backup knows no moment but its own")
        around = surroundings_of(Pieces(self.address, backup.pieces))
        self.server.make(["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"])
        memory = self.site.memory
        self.server.configure(memory, {"wal_level": "minimal", "max_wal_size": "16GB"})
        self.server.start()
        with self.server.access().connect(LOADING) as connection:
            check_target(connection, self.address, backup.facts)
            place = around["locale"]
            clause = locale_clause(place["provider"], place["collate"], place["ctype"], place["name"])
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} {}").format(
                    sql.Identifier(self.database), around["encoding"], clause
                )
            )
        load(self.access, backup, Means(memory_bytes=memory // 2))

    def facts(self) -> Facts:
        return facts_of(self.access, self.site)

    def probes(self) -> Sequence[Probe]:
        return (*self._checksums(), *probes.probe(self.access))

    def _checksums(self) -> Sequence[Probe]:
        """Pages that were written anew by a logical restore say nothing about the backup."""
        if not self._physical:
            return ()
        self.server.stop()
        found = probes.checksums(self.server.programs, self.server.data, self.server.user)
        self.server.start()
        return (found,)


@dataclass
class NewDatabase:
    """See ``Restoration``: a database beside the live one."""

    engine: PostgresBackups
    access: Access
    to: Recovery | None = None

    @property
    def address(self) -> str:
        return self.access.address

    def restore(self, chain: Sequence[StoredBackup]) -> None:
        if chain[-1].kind is Kind.LOGICAL and self.to is None:
            load(self.access, chain[-1], self.engine.means)
            return
        with ExitStack() as stack:
            scratch = stack.enter_context(self.engine.scratch(self.to))
            scratch.restore(chain)
            self._carry(scratch.access)

    def _carry(self, source: Access) -> None:
        """From server to server, with nothing stored in between."""
        with logical_snapshot(source, self.engine.site.programs(), None) as snapshot:
            pieces = tuple(snapshot.pieces())
            load(self.access, StoredBackup(_CARRIED, Kind.LOGICAL, snapshot.facts(), pieces), self.engine.means)

    def facts(self) -> Facts:
        return replace(facts_of(self.access, self.engine.site), database=self.access.database)

    def probes(self) -> Sequence[Probe]:
        return probes.probe(self.access)
