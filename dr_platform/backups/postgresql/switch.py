"""Two databases of one PostgreSQL server exchange names, in one transaction.

Renaming holds a lock on a database that keeps new connections waiting, and asks for its sessions to be gone. So they
are ended while the lock is waited for and held, and until the commit nobody outside sees anything: there is no state
in which connections are refused that a killed process could leave behind. A process that is stopped half-way is let
go by the server after a few seconds.

Here: looking, and the exchange. Not here: whether it should be done (``backups.switch``).
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

from dr_platform.backups.port import LastSwitch, Occupant, Standing
from dr_platform.backups.postgresql.access import Access, safe_reason
from dr_platform.backups.postgresql.catalog import Connection, one, surroundings
from dr_platform.backups.postgresql.facts import HEARTBEAT, migration_version
from dr_platform.backups.postgresql.load import grant
from dr_platform.backups.switch import STAMP, NotSwitched, SwitchInterrupted
from dr_platform.clock import Clock
from dr_platform.databases.port import DatabaseMissing
from dr_platform.verdict import Progress

KEEPER = "postgres"
"""Renaming a database is asked for from another one."""
ATTEMPTS = 2
_LONGEST_NAME = 63
_AGAIN_S = 0.02
_BOUNDS: Mapping[str, str] = {
    "search_path": "pg_catalog",
    "lock_timeout": "3s",
    # The server itself waits five seconds at most for sessions to end, for each of the two.
    "statement_timeout": "10s",
    # While we hold the locks nobody connects: who stands still has to let go.
    "idle_in_transaction_session_timeout": "3s",
    "transaction_timeout": "15s",
    "synchronous_commit": "on",
}
_HELD = (psycopg.errors.ObjectInUse, psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled)
_MOVED = (psycopg.errors.InvalidCatalogName, psycopg.errors.DuplicateDatabase)
_KEY = "drp_switch"
"""In the comment of a database that a switch made live."""


@dataclass(frozen=True)
class PostgresSwitching:
    """See ``Switching``. ``access`` is that of the live database, as its owner."""

    access: Access
    clock: Clock

    @property
    def interruption(self) -> str:
        return (
            "every open session is ended once and can connect again at once; new ones wait for the exchange,"
            " mostly below a second and never more than 16"
        )

    def standing(self, to: str) -> Standing:
        live, last = self._occupant(self.access.database)
        try:
            target, _ = self._occupant(to)
        except DatabaseMissing:
            return Standing(live, None, last)
        return Standing(live, target, last)

    def kept_as(self, to: str, moment: str) -> str:
        del to
        ending = f"_before_{moment}"
        return self.access.database[: _LONGEST_NAME - len(ending)] + ending

    def _occupant(self, name: str) -> tuple[Occupant, LastSwitch | None]:
        with self.access.to(name).connect(_BOUNDS) as connection:
            row = connection.execute(
                "SELECT oid::text, pg_size_pretty(pg_database_size(oid)), shobj_description(oid, 'pg_database'),"
                " (SELECT count(*) FROM pg_stat_activity WHERE datid = d.oid AND pid <> pg_backend_pid()"
                " AND backend_type = 'client backend')"
                " FROM pg_database d WHERE datname = current_database()"
            ).fetchone()
            identity, extent, comment, clients = row or ("", "", None, 0)
            version, beat = migration_version(connection), _beat(connection)
        return Occupant(name, identity, extent, version, clients, beat), _last(comment)

    def switch(self, standing: Standing, at: datetime, progress: Progress) -> float:
        if standing.target is None:
            raise ValueError("there is nothing to switch to")
        exchange = Exchange(self.access, standing.live, standing.target, at, self.clock, progress)
        held = ""
        for _ in range(ATTEMPTS):
            try:
                return exchange.carry_out(self.kept_as(standing.target.name, f"{at:{STAMP}}"))
            except _HELD as exc:
                held = safe_reason(exc)
                progress(f"{self.access.name}: the server did not let go of both databases: {held}")
            except _MOVED as exc:
                raise _changed(self.access.name, safe_reason(exc)) from None
            except psycopg.OperationalError as exc:
                raise SwitchInterrupted(self.access.name, safe_reason(exc)) from None
            except psycopg.Error as exc:
                raise NotSwitched(self.access.name, safe_reason(exc), _LOGIN) from None
        why = f"others hold on to the databases ({held} after {ATTEMPTS} attempts)"
        raise NotSwitched(self.access.name, why, "end those sessions or prepared transactions, then repeat")


_LOGIN = "see the reason; the administrator's login must own both databases and may create some"


def _changed(name: str, why: str) -> NotSwitched:
    return NotSwitched(name, f"the databases are not what the plan was made for: {why}", "read the plan anew")


@dataclass(frozen=True)
class Exchange:
    access: Access
    live: Occupant
    target: Occupant
    at: datetime
    clock: Clock
    progress: Progress

    def carry_out(self, before: str) -> float:
        with self.access.connect(_BOUNDS) as reading:
            around = surroundings(reading)
        with self.access.to(KEEPER).connect(_BOUNDS) as connection:
            with connection.transaction():
                self._make_alike(connection, around)
                self.progress(f"{self.target.name} has owner, grants and settings of {self.live.name}")
                began = self.clock.monotonic()
                with self._ushered():
                    self._rename(connection, before)
                self._describe(connection, before)
                self._check(connection, before)
                self.progress("both are renamed for nobody but us; the commit follows")
            taken = self.clock.monotonic() - began
            self.progress(f"{self.target.name} is live as {self.live.name}; what was live is {before}")
            return taken

    def _make_alike(self, connection: Connection, around: Mapping[str, Any]) -> None:
        name = sql.Identifier(self.target.name)
        for (role,) in connection.execute(_SET_ROLES, (self.target.name,)).fetchall():
            scope = sql.SQL("ROLE {} IN DATABASE {}").format(sql.Identifier(role), name) if role else None
            connection.execute(sql.SQL("ALTER {} RESET ALL").format(scope or sql.SQL("DATABASE {}").format(name)))
        for (role,) in connection.execute(_GRANTEES, (self.target.name,)).fetchall():
            connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM {} CASCADE").format(name, sql.Identifier(role)))
        grant(connection, around, self.target.name)
        limit = one(connection, "SELECT datconnlimit FROM pg_database WHERE datname = %s", self.live.name)
        connection.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(name, sql.Literal(limit)))

    def _rename(self, connection: Connection, before: str) -> None:
        for name, new in ((self.live.name, before), (self.target.name, self.live.name)):
            self.progress(f"{name} becomes {new}")
            connection.execute(
                sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(name), sql.Identifier(new))
            )

    def _describe(self, connection: Connection, before: str) -> None:
        """What the next look is told, by the server and with the same commit."""
        kept = {"to": self.target.name, "before": before, "at": self.at.isoformat()}
        comment = sql.Literal(json.dumps({_KEY: kept}))
        connection.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(self.live.name), comment))

    def _check(self, connection: Connection, before: str) -> None:
        """That those were exchanged that the plan names: another run may have come first."""
        rows = connection.execute(
            "SELECT datname, oid::text FROM pg_database WHERE datname IN (%s, %s)", (self.live.name, before)
        ).fetchall()
        if dict(rows) != {self.live.name: self.target.identity, before: self.live.identity}:
            raise _changed(self.access.name, "somebody else exchanged them meanwhile")

    @contextlib.contextmanager
    def _ushered(self) -> Generator[None]:
        """While this is open, sessions of both databases are ended as they are found. It closes before the commit:
        whoever comes after that comes to stay."""
        done = threading.Event()
        with self.access.to(KEEPER).connect(_BOUNDS) as connection:
            identities = [self.live.identity, self.target.identity]
            usher = threading.Thread(target=_end_sessions, args=(connection, identities, done), name="usher")
            usher.start()
            try:
                yield
            finally:
                done.set()
                usher.join()


def _end_sessions(connection: Connection, identities: Sequence[str], done: threading.Event) -> None:
    with contextlib.suppress(psycopg.Error):  # then the renaming fails too, and says why
        while not done.is_set():
            found = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE datid::text = ANY(%s)", (list(identities),)
            ).fetchall()
            for (pid,) in found:
                with contextlib.suppress(psycopg.errors.InsufficientPrivilege):  # of a superuser; the others still go
                    connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
            done.wait(_AGAIN_S)


def _beat(connection: Connection) -> datetime | None:
    if one(connection, "SELECT to_regclass('public.drp_backup_heartbeat')") is None:
        return None
    return one(connection, sql.SQL("SELECT at FROM {}").format(HEARTBEAT))


def _last(comment: str | None) -> LastSwitch | None:
    """People may write another comment; then nothing is known."""
    try:
        kept = json.loads(comment or "")[_KEY]
        return LastSwitch(kept["to"], kept["before"], datetime.fromisoformat(kept["at"]))
    except (ValueError, KeyError, TypeError):
        return None


_SET_ROLES = """
    SELECT coalesce(r.rolname, '') FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole
     WHERE s.setdatabase = (SELECT oid FROM pg_database WHERE datname = %s)
"""
_GRANTEES = """
    SELECT DISTINCT r.rolname FROM pg_database d, aclexplode(d.datacl) a JOIN pg_roles r ON r.oid = a.grantee
     WHERE d.datname = %s
"""
