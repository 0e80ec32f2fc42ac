"""PostgreSQL through psycopg 3.

Here: the adapter of ``ManagedDatabase``. Not here: the schema itself, or starting a server.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Sequence
from typing import Any, LiteralString

import psycopg
from psycopg import errors, sql

from dr_platform.catalog import Database
from dr_platform.clock import Clock, SystemClock
from dr_platform.databases.access import (
    ACCESS_CONTROL,
    APPLY_TIMEOUT_S,
    AUDIT,
    AUTHENTICATION,
    CONNECT_TIMEOUT_S,
    INTEGRITY,
    QUERY_TIMEOUT_S,
    TRANSMISSION,
    Answer,
    Login,
    LoginRole,
    Look,
    all_refused,
    certificate_authorities,
    is_loopback,
    listens_on_loopback_only,
    measure,
)
from dr_platform.databases.lease import WAIT_S, wait_for
from dr_platform.databases.port import (
    AccessDenied,
    AppliedStep,
    DatabaseMissing,
    DatabaseUnreachable,
    Endpoint,
    Finding,
    SchemaStep,
    ServerInfo,
)
from dr_platform.databases.postgresql_shape import shape_of
from dr_platform.databases.postgresql_steps import Marked, StepRunner, Watch, read_history, read_shape
from dr_platform.databases.schema import find_applied, find_undoable, text_of, undo_of
from dr_platform.databases.sql_transactions import check_transaction
from dr_platform.verdict import Progress, silent

GROUP_ROLE = "drp_services"
"""Holds what the application may do; the schema's steps make it and grant to it. Logins are put in."""
AUDIT_TABLE = "audit.events"
RUNNER = "dr-platform-schema"
"""By this name a server knows the connection that changes its schema."""

_LOCK = 0x6472705F73636865
"""Key of the advisory lock that a schema runner holds; locks are per database."""
_DEFAULT_LOGINS = (
    Login("postgres", "postgres"),
    Login("postgres", "password"),
    Login("postgres", "admin"),
    Login("admin", "admin"),
    Login("root", "root"),
)


class BoundedConnection(psycopg.Connection[Any]):
    """A connection on which nobody waits longer than ``limit_s`` for an answer, also where the
    server is stopped and its kernel still accepts what is sent."""

    limit_s: float = QUERY_TIMEOUT_S

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        return super().wait(gen, interval, self.limit_s if timeout is None else timeout)


class PostgresDatabase:
    """A ``ManagedDatabase`` on PostgreSQL. Connects at once; a broken connection is replaced by the
    next call. For any number of threads, one statement at a time.

    ``application`` is the application's login; with the role ``admin`` it is let in by
    ``admit_application`` and its privileges are tried by ``findings``.
    """

    def __init__(
        self,
        database: Database,
        endpoint: Endpoint,
        login: Login,
        role: LoginRole = "admin",
        application: Login | None = None,
        *,
        clock: Clock | None = None,
        wait_s: float = WAIT_S,
    ) -> None:
        self.database = database
        self.endpoint = endpoint
        self._login = login
        self._role: LoginRole = role
        self._application = application
        self._clock: Clock = clock or SystemClock()
        self._wait_s = wait_s
        self.watch: Watch | None = None
        """Told while a step of this adapter runs, for those who look at its locks."""
        self.marked: Marked | None = None
        """Told the restore point that was written right before a step; without it none is written."""
        self._lock = threading.RLock()
        self._connection = self._open(login)

    # Connections

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """The open connection, in autocommit; for statements the port has no word for."""
        with self._lock:
            if self._connection.closed:
                self._connection = self._open(self._login)
            return self._connection

    def another(self) -> psycopg.Connection[Any]:
        """One more connection as the same login, in a transaction of its own; the caller closes it."""
        connection = self._open(self._login)
        connection.autocommit = False
        return connection

    def _open(self, login: Login, **parameters: Any) -> BoundedConnection:
        """Connect as ``login``. Raises what the port promises."""
        wanted: dict[str, Any] = {
            "host": self.endpoint.host,
            "port": self.endpoint.port,
            "dbname": self.endpoint.database,
            "user": login.username,
            "password": login.password,
            "connect_timeout": int(CONNECT_TIMEOUT_S),
            "application_name": "dr-platform",
            "passfile": "/dev/null/none",  # a password file of the invoking user must not decide who gets in
            **self._encryption(),
            **parameters,
        }
        try:
            return BoundedConnection.connect(autocommit=True, **wanted)
        except psycopg.OperationalError as exc:
            raise self._refusal(exc) from None  # its text names the user and the address of the client

    def _encryption(self) -> dict[str, str]:
        if is_loopback(self.endpoint.host):
            return {"sslmode": "prefer"}
        return {"sslmode": "verify-full", "sslrootcert": certificate_authorities() or "system"}

    def _refusal(self, exc: psycopg.OperationalError) -> AccessDenied | DatabaseMissing | DatabaseUnreachable:
        """Why there is no connection. libpq hands out no SQLSTATE for one that failed, so its text
        is all there is to tell a refused password from a missing database."""
        text, asked = str(exc), exc.pgconn is not None and (exc.pgconn.used_password or exc.pgconn.needs_password)
        name = self.database.name
        if "database" in text and "does not exist" in text:
            return DatabaseMissing(name, self.endpoint.address, self.endpoint.database)
        if asked or "authentication" in text or "pg_hba.conf" in text or "permission denied" in text:
            return AccessDenied(name, self._role)
        return self._unreachable(exc)

    def _unreachable(self, exc: Exception) -> DatabaseUnreachable:
        text = str(exc)
        known = ("refused", "timeout", "starting up", "shutting down", "too many", "closed the connection", "resolve")
        reason = next((f"connection: {word}" for word in known if word in text), type(exc).__name__)
        return DatabaseUnreachable(self.database.name, self.endpoint.address, reason)

    @contextlib.contextmanager
    def _answering(self, limit_s: float = QUERY_TIMEOUT_S) -> Generator[BoundedConnection]:
        """The connection for one look; driver errors become those of the port."""
        with self._lock:
            connection = self._connection = self._connection if not self._connection.closed else self._open(self._login)
            connection.limit_s = limit_s
            try:
                yield connection
            except errors.InsufficientPrivilege:
                raise AccessDenied(self.database.name, self._role) from None
            except psycopg.OperationalError as exc:
                connection.close()  # what was asked may still be answered: never read it as another answer
                raise self._unreachable(exc) from exc

    def ping(self, timeout_s: float = 2.0) -> float:
        with self._answering(timeout_s) as connection:
            started = self._clock.monotonic()
            connection.execute("SELECT 1").fetchone()
            return (self._clock.monotonic() - started) * 1000

    def close(self) -> None:
        self._connection.close()

    # What it is

    def server(self) -> ServerInfo:
        with self._answering() as connection:
            server, version = _one(connection, "SELECT version()").split()[:2]
            extensions = _one(connection, "SELECT coalesce(array_agg(name::text), '{}') FROM pg_available_extensions")
            encrypts = _setting(connection, "ssl_library") not in (None, "")
        lacks = {
            "vector": "vector" in extensions or "no vector extension: semantic search is not possible",
            "tls": encrypts or "no TLS in this build: connections cannot leave the machine",
            "pg_stat_statements": "pg_stat_statements" in extensions or "no pg_stat_statements: no times per statement",
        }
        able = {name for name, answer in lacks.items() if answer is True}
        reduced = tuple(str(answer) for answer in lacks.values() if answer is not True)
        return ServerInfo(server, version, frozenset({"transactions", "full_text", "skip_locked", *able}), reduced)

    # Schema

    def applied(self) -> Sequence[AppliedStep]:
        with self._answering() as connection:
            return read_history(connection)

    def apply(self, step: SchemaStep, progress: Progress = silent) -> AppliedStep:
        text = text_of(self.database.name, step, ".sql")
        check_transaction(step, text)
        assertions = text_of(self.database.name, step, ".sql", step.verify) if step.verify else None
        with self._alone() as runner:
            if done := find_applied(self.database.name, step, runner.history()):
                return done
            runner.keep_books()
            if self.marked is not None and (point := runner.mark(step, progress)):
                self.marked(step, point)
            return runner.apply(step, text, assertions, progress)

    def undo(self, step: SchemaStep) -> AppliedStep | None:
        script, text = undo_of(self.database.name, step, ".sql")
        check_transaction(script, text)
        with self._alone() as runner:
            record = find_undoable(self.database.name, step, runner.history())
            if record is not None:
                runner.keep_books()
                runner.undo(step, script, text)
            return record

    def verify(self, step: SchemaStep) -> None:
        if step.verify is None:
            return
        text = text_of(self.database.name, step, ".sql", step.verify)
        with self._alone() as runner:
            runner.verify(step, step.verify, text)

    def shape(self) -> tuple[str, ...]:
        with self._answering() as connection, connection.transaction():
            return shape_of(connection)

    def recorded_shape(self) -> tuple[str, ...] | None:
        with self._answering() as connection:
            history = read_history(connection)
            return read_shape(connection, history[-1].version) if history else None

    def adopt(self) -> None:
        history = self.applied()
        if not history or history[-1].fingerprint:
            return
        with self._alone() as runner:
            runner.keep_books()
            runner.adopt(history[-1].version)

    @contextlib.contextmanager
    def _alone(self) -> Generator[StepRunner]:
        """A connection of its own that holds the schema's advisory lock. Closing it, or the end of
        this process, frees the lock; the server looks for that itself while a statement runs."""
        connection = self._open(self._login, application_name=RUNNER)
        try:
            connection.limit_s = APPLY_TIMEOUT_S
            withheld = self._application_names()
            runner = StepRunner(connection, self.database.name, self._clock, withheld, self.watch)
            runner.settle()
            wait_for(
                lambda: bool(_one(connection, "SELECT pg_try_advisory_lock(%s)", _LOCK)),
                self.database.name,
                self._clock,
                self._wait_s,
            )
            yield runner
        except psycopg.OperationalError as exc:
            raise self._unreachable(exc) from exc
        finally:
            connection.close()

    def admit_application(self) -> None:
        """Put the application's login into the group role, and let the group in and read the history."""
        if self._application is None:
            return
        login = self._application.username
        with self._alone() as runner:  # two GRANTs at once fail with "tuple concurrently updated"
            connection = runner.connection
            found = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
            if not {GROUP_ROLE, login} <= found:
                return
            group = sql.Identifier(GROUP_ROLE)
            connection.execute(sql.SQL("GRANT {} TO {}").format(group, sql.Identifier(login)))
            database = sql.Identifier(self.endpoint.database)
            connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, group))
            if read_history(connection):
                connection.execute(sql.SQL("GRANT SELECT ON public.drp_schema_history TO {}").format(group))

    # Findings

    def findings(self) -> Sequence[Finding]:
        """Ask as ``admin``: as ``application`` the password hashes cannot be seen."""
        looks: tuple[Look, ...] = (
            ("anonymous_access_refused", AUTHENTICATION, self._anonymous_refused),
            ("default_credentials_refused", AUTHENTICATION, self._defaults_refused),
            ("password_hashing", AUTHENTICATION, self._password_hashing),
            ("transmission_protected", TRANSMISSION, self._transmission),
            ("application_role_is_limited", ACCESS_CONTROL, self._application_attributes),
            ("application_cannot_change_schema", ACCESS_CONTROL, self._schema_refused),
            ("audit_is_append_only", AUDIT, self._audit_append_only),
            ("audit_chain_is_whole", INTEGRITY, self._audit_chain),
            ("connections_are_logged", AUDIT, self._connections_logged),
            ("data_checksums", INTEGRITY, self._data_checksums),
        )
        return measure(looks)

    def _admits(self, login: Login, **parameters: Any) -> bool:
        try:
            self._open(login, **parameters).close()
        except (AccessDenied, DatabaseMissing):
            return False
        return True

    def _anonymous_refused(self) -> Answer:
        # require_auth=none: libpq gives up as soon as the server asks for any proof of identity.
        names = sorted({"postgres", "anonymous", self._login.username, *self._application_names()})
        admitted = sum(self._admits(Login(name, ""), require_auth="none") for name in names)
        return all_refused("logins without a password", len(names), admitted)

    def _defaults_refused(self) -> Answer:
        guesses = (
            *_DEFAULT_LOGINS,
            *(Login(name, name) for name in (self._login.username, *self._application_names())),
        )
        return all_refused("well-known logins", len(guesses), sum(self._admits(guess) for guess in guesses))

    def _application_names(self) -> tuple[str, ...]:
        return () if self._application is None else (self._application.username,)

    def _password_hashing(self) -> Answer:
        with self._answering() as connection:
            scheme = _setting(connection, "password_encryption")
            try:
                weak = _one(
                    connection,
                    "SELECT count(*) FROM pg_authid WHERE rolcanlogin"
                    " AND rolpassword IS NOT NULL AND rolpassword NOT LIKE 'SCRAM-SHA-256$%%'",
                )
            except errors.InsufficientPrivilege:
                return None, f"new passwords are kept as {scheme}; the stored ones are not visible to {self._role}"
        return scheme == "scram-sha-256" and weak == 0, f"new passwords are kept as {scheme}; {weak} stored otherwise"

    def _transmission(self) -> Answer:
        if is_loopback(self.endpoint.host):
            return listens_on_loopback_only(self.endpoint)
        with self._answering() as connection:
            row = connection.execute("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
        return (True, f"encrypted with {row[1]}") if row and row[0] else (False, "the connection is not encrypted")

    def _application_attributes(self) -> Answer:
        attributes = ("rolsuper", "rolcreaterole", "rolcreatedb", "rolreplication", "rolbypassrls")
        with self._answering() as connection:
            row = connection.execute(
                sql.SQL("SELECT {} FROM pg_roles WHERE rolname = %s").format(
                    sql.SQL(", ").join(map(sql.Identifier, attributes))
                ),
                (self._application_name(),),
            ).fetchone()
        if row is None:
            return None, "the server has no role of the application"
        held = [attribute.removeprefix("rol") for attribute, has in zip(attributes, row, strict=True) if has]
        return not held, f"its role has {', '.join(held)}" if held else "its role has none of the special attributes"

    def _application_name(self) -> str:
        return self._application.username if self._application else self._login.username

    def _schema_refused(self) -> Answer:
        return self._all_refused_to_application(
            "changes of the schema",
            "CREATE TABLE public.drp_probe ()",
            "CREATE TABLE audit.drp_probe ()",
            "ALTER TABLE audit.events ADD COLUMN drp_probe integer",
            "DROP TABLE audit.events",
            "CREATE ROLE drp_probe",
            "DELETE FROM public.drp_schema_history WHERE false",
        )

    def _audit_append_only(self) -> Answer:
        """Tried by the application, and by the owner of the table where that is who we are."""
        # WHERE false: privileges and statement triggers are asked all the same, and no row is touched.
        statements: tuple[LiteralString, ...] = (
            "UPDATE audit.events SET actor = actor WHERE false",
            "DELETE FROM audit.events WHERE false",
            "TRUNCATE audit.events",
        )
        passed, detail = self._all_refused_to_application("changes of the audit table", *statements)
        if not passed or self._role != "admin":
            return passed, detail
        admitted = sum(not self._refused(statement, None) for statement in statements)
        return admitted == 0, f"{detail}; of its owner {len(statements) - admitted} of {len(statements)}"

    def _all_refused_to_application(self, what: str, *statements: LiteralString) -> Answer:
        if self._role == "admin" and self._application is None:
            return None, "the login of the application is not known"
        role = self._application_name() if self._role == "admin" else None
        refused = [self._refused(statement, role) for statement in statements]
        if None in refused:
            return None, f"there is no table {AUDIT_TABLE} yet"
        return all_refused(f"{what} by the application", len(refused), refused.count(False))

    def _refused(self, statement: LiteralString, role: str | None) -> bool | None:
        """Really try it, in a transaction that is rolled back; ``None`` where the table is missing."""
        with self._answering() as connection, connection.transaction(force_rollback=True):
            connection.execute("SET LOCAL lock_timeout = '300ms'")
            if role is not None:
                connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
            try:
                with connection.transaction():
                    connection.execute(statement)
            except errors.InsufficientPrivilege:
                return True
            except (errors.UndefinedTable, errors.InvalidSchemaName):
                return None
            except psycopg.Error as exc:  # whatever else stands in its way, the privilege is there
                if exc.sqlstate is None:
                    raise
            return False

    def _audit_chain(self) -> Answer:
        with self._answering() as connection:
            if _one(connection, "SELECT to_regclass(%s)", AUDIT_TABLE) is None:
                return None, f"there is no table {AUDIT_TABLE} yet"
            broken = _one(connection, "SELECT count(*) FROM audit.broken_links(10000)")
        return broken == 0, f"{broken} broken links among the newest 10,000 events"

    def _connections_logged(self) -> Answer:
        with self._answering() as connection:
            said = {name: _setting(connection, name) for name in ("log_connections", "log_disconnections")}
        off = [name for name, value in said.items() if value in (None, "", "off")]
        return not off, f"{', '.join(off)} off" if off else "connections and disconnections are logged"

    def _data_checksums(self) -> Answer:
        with self._answering() as connection:
            checksums = _setting(connection, "data_checksums")
            failures = _one(connection, "SELECT coalesce(sum(checksum_failures), 0) FROM pg_stat_database")
        return checksums == "on" and failures == 0, f"data checksums {checksums}, {failures} failures"


def _one(connection: psycopg.Connection[Any], query: LiteralString, *parameters: object) -> Any:
    row = connection.execute(query, parameters or None).fetchone()
    return row[0] if row else None


def _setting(connection: psycopg.Connection[Any], name: str) -> str | None:
    """A configuration setting, or ``None`` where this server does not know it."""
    return _one(connection, "SELECT current_setting(%s, true)", name)
