"""How a schema step runs on PostgreSQL: by Alembic, on a connection that holds the schema's lock.

Alembic walks the versions and keeps its own table (``drp_schema_revision``); what a revision does is the text
of the step's file. The history row, Alembic's row and the step itself are one transaction, so that none is
ever there without the others. A file that must not run in a transaction is run statement by statement before
it: each is repeatable, and what a killed one left behind (an invalid index) is removed first.

Here: revisions, books, settings, repetition. Not here: connections, or what a step's files are called.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import sqlalchemy
from alembic.runtime.migration import MigrationContext
from alembic.script.base import Script as Revision
from alembic.script.base import ScriptDirectory
from psycopg import errors, sql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from dr_platform.clock import Clock
from dr_platform.databases.access import APPLY_TIMEOUT_S
from dr_platform.databases.batches import Batches
from dr_platform.databases.port import AppliedStep, SchemaStep, Script, fingerprint_of
from dr_platform.databases.postgresql_batches import BatchRunner
from dr_platform.databases.postgresql_shape import shape_of
from dr_platform.databases.schema import MigrationFailed, version_key
from dr_platform.databases.sql_text import Statement, statements_of
from dr_platform.databases.sql_transactions import INDEX
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.identity import new_id
from dr_platform.verdict import Progress, silent

HISTORY = "drp_schema_history"
REVISION = "drp_schema_revision"
"""Alembic's table: the newest version alone."""

LOCK_TIMEOUT_MS = 30
"""A statement that waits for a table lock stalls everybody behind it, so it gives way early and tries again
(measured behind a reader of 3 s: 2.7 s of stall without, 35 ms with)."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
LOCK_PATIENCE_S = 60.0
_IDLE_MS = 60_000

_DATA_ERRORS = ("22", "23", "P0")
"""SQLSTATE classes whose messages quote stored values: data exception, constraint, raised by code."""

_SETTINGS = "; ".join(
    f"SET {setting} = '{value}'"
    for setting, value in {
        "client_connection_check_interval": "1s",
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
        "idle_in_transaction_session_timeout": f"{_IDLE_MS}ms",
        "statement_timeout": f"{APPLY_TIMEOUT_S - 5:g}s",  # the server gives up before we do
        "lock_timeout": f"{LOCK_TIMEOUT_MS}ms",
    }.items()
).encode()

Connection = psycopg.Connection[Any]
Watch = Callable[[int], None]
"""Takes the process id of the server that runs a step: when it begins, and when all its locks are still held."""

Marked = Callable[[SchemaStep, str], None]
"""Takes the name of the restore point right before a step."""
_POINT_LENGTH = 54
"""Characters of a point's name before its identifier; the server takes 63 in all."""


class BooksDisagree(PlatformError):
    """The two tables are only ever written together, so somebody else wrote one of them."""

    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, history: str, revision: str) -> None:
        super().__init__(name, history, revision)
        self.what = f"{name}: the history ends with {history or 'nothing'}, but {REVISION} says {revision or 'nothing'}"
        self.untouched = f"the schema of {name}"
        self.next_step = f"find out who changed one of them, then make {REVISION} say what {HISTORY} does"


def read_history(connection: Connection) -> tuple[AppliedStep, ...]:
    """The records, oldest first, whether or not they have the columns that came later."""
    columns = _columns(connection, HISTORY)
    if not columns:
        return ()
    later = sql.SQL("fingerprint, undoing") if "undoing" in columns else sql.SQL("'', false")
    query = sql.SQL("SELECT version, description, checksum, applied_at, duration_ms, {} FROM public.{}")
    rows = connection.execute(query.format(later, sql.Identifier(HISTORY))).fetchall()
    steps = [
        AppliedStep(v, d, c, at.isoformat(), ms, print_ or "", undoing) for v, d, c, at, ms, print_, undoing in rows
    ]
    return tuple(sorted(steps, key=lambda step: version_key(step.version)))


def read_shape(connection: Connection, version: str) -> tuple[str, ...] | None:
    if "shape" not in _columns(connection, HISTORY):
        return None
    row = connection.execute("SELECT shape FROM public.drp_schema_history WHERE version = %s", (version,)).fetchone()
    return tuple(row[0].split("\n")) if row and row[0] is not None else None


def _columns(connection: Connection, table: str) -> frozenset[str]:
    query = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
    return frozenset(row[0] for row in connection.execute(query, (f"public.{table}",)).fetchall())


class StepRunner:
    """Runs steps of one database on ``connection``, which is in autocommit and holds the schema's lock.
    ``withheld`` are logins that must not write the books."""

    def __init__(
        self,
        connection: Connection,
        name: str,
        clock: Clock,
        withheld: Sequence[str] = (),
        watch: Watch | None = None,
    ) -> None:
        self._connection = connection
        self._name = name
        self._clock = clock
        self._withheld = withheld
        self._watch = watch or (lambda _pid: None)

    @property
    def connection(self) -> Connection:
        return self._connection

    def history(self) -> tuple[AppliedStep, ...]:
        return read_history(self._connection)

    # Books

    def keep_books(self) -> None:
        """Make the tables, or give those of an older platform what they lack. Raises ``BooksDisagree``."""
        missing = {"fingerprint", "shape", "undoing"} - _columns(self._connection, HISTORY)
        if missing or not _columns(self._connection, REVISION):
            with self._connection.transaction():
                self._make_books()
        history = read_history(self._connection)
        newest = history[-1].version if history else ""
        stands = self._connection.execute("SELECT version_num FROM public.drp_schema_revision").fetchall()
        if [row[0] for row in stands] != ([newest] if newest else []):
            raise BooksDisagree(self._name, newest, ", ".join(row[0] for row in stands))

    def _make_books(self) -> None:
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS public.drp_schema_history (version text PRIMARY KEY, description text NOT NULL,"
            " checksum text NOT NULL, applied_at timestamptz NOT NULL, duration_ms double precision NOT NULL)"
        )
        for column in ("fingerprint text", "shape text", "undoing boolean NOT NULL DEFAULT false"):
            self._connection.execute(f"ALTER TABLE public.drp_schema_history ADD COLUMN IF NOT EXISTS {column}")
        if not _columns(self._connection, REVISION):
            self._connection.execute(
                "CREATE TABLE public.drp_schema_revision (version_num varchar(255) NOT NULL,"
                " CONSTRAINT drp_schema_revision_pkc PRIMARY KEY (version_num))"
            )
            if history := read_history(self._connection):  # of a platform that had no Alembic underneath
                self._connection.execute("INSERT INTO public.drp_schema_revision VALUES (%s)", (history[-1].version,))
        # Default privileges may have handed new tables to the application's login.
        for login in self._withheld:
            if self._connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (login,)).fetchone():
                self._connection.execute(
                    sql.SQL(
                        "REVOKE INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER"
                        " ON public.drp_schema_history, public.drp_schema_revision FROM {}"
                    ).format(sql.Identifier(login))
                )

    def adopt(self, version: str) -> str:
        """Keep the shape as it is for a version that has none; returns its fingerprint."""
        with self._connection.transaction():
            shape = shape_of(self._connection)
            self._connection.execute(
                "UPDATE public.drp_schema_history SET fingerprint = %s, shape = %s"
                " WHERE version = %s AND fingerprint IS NULL",
                (fingerprint_of(shape), "\n".join(shape), version),
            )
        return fingerprint_of(shape)

    # Steps

    def mark(self, step: SchemaStep, progress: Progress) -> str | None:
        """Write a restore point into the log and return its name, which nobody used before: recovery stops at the
        first of a name. ``None`` for an empty schema, which has nothing to lose, and where the server has no such log
        or lets nobody but its superuser write into it."""
        if not self.history():
            return None
        name = new_id(f"before-{self._name}-{step.version}"[:_POINT_LENGTH])
        try:
            self._connection.execute("SELECT pg_create_restore_point(%s)", (name,))
        except (errors.InsufficientPrivilege, errors.ObjectNotInPrerequisiteState) as exc:
            progress(f"{self._name}: no restore point before {step.version}: {type(exc).__name__}")
            return None
        return name

    def apply(self, step: SchemaStep, text: str, assertions: str | None, progress: Progress = silent) -> AppliedStep:
        started = self._clock.monotonic()
        recorded: list[AppliedStep] = []

        def upgrade(context: MigrationContext) -> None:
            self._execute(context, step, text, progress)
            if assertions is not None and step.verify is not None:
                self._assert_holds(step, step.verify, assertions)
            duration_ms = round((self._clock.monotonic() - started) * 1000, 3)
            recorded.append(self._record(step, self._clock.now(), duration_ms))

        before = [done.version for done in read_history(self._connection)]
        self._repeatedly(step, step, text, lambda: self._walk(before, step.version, upgrade, step.path))
        # After the commit, because it takes a while and the step's locks are held until then. A runner that is
        # killed here leaves it to the next one's ``adopt``.
        return replace(recorded[-1], fingerprint=self.adopt(step.version))

    def undo(self, step: SchemaStep, script: Script, text: str) -> None:
        version = step.version

        def downgrade(context: MigrationContext) -> None:
            self._execute(context, script, text)
            self._as_runner(
                sql.SQL("DELETE FROM public.drp_schema_history WHERE version = {}").format(sql.Literal(version))
            )
            self._watch(self._connection.info.backend_pid)

        if not script.transactional:
            self._connection.execute(
                "UPDATE public.drp_schema_history SET undoing = true WHERE version = %s", (version,)
            )
        before = [done.version for done in read_history(self._connection)]
        self._repeatedly(step, script, text, lambda: self._walk(before, "-1", downgrade, script.path))

    def _walk(self, before: Sequence[str], target: str, act: Callable[[MigrationContext], None], path: Path) -> None:
        """One revision up, or with ``-1`` one down, as ``alembic upgrade`` and ``alembic downgrade`` do it."""
        down = target == "-1"
        versions = list(before) if down else [*before, target]
        with self._alembic() as bound:
            context: MigrationContext

            def steps(heads: Any, _context: Any) -> Any:
                chain = _Chain(versions, lambda: act(context), path)
                return chain._downgrade_revs(target, heads) if down else chain._upgrade_revs(target, heads)  # noqa: SLF001 - what Alembic's own commands call

            context = MigrationContext.configure(
                bound,
                opts={
                    "fn": steps,
                    "version_table": REVISION,
                    "version_table_schema": "public",
                    "transaction_per_migration": True,
                },
            )
            context.run_migrations()

    @contextmanager
    def _alembic(self) -> Generator[sqlalchemy.Connection]:
        """Our connection as Alembic takes it; it comes back as it was, without a transaction."""
        self._connection.autocommit = False
        engine = sqlalchemy.create_engine(
            "postgresql+psycopg://", creator=lambda: self._connection, poolclass=StaticPool, use_native_hstore=False
        )
        try:
            with engine.connect() as bound:
                yield bound
        except DBAPIError as exc:
            raise exc.orig or exc from None
        finally:
            if not self._connection.closed:
                self._connection.rollback()
                self._connection.autocommit = True

    def _execute(
        self, context: MigrationContext, script: SchemaStep | Script, text: str, progress: Progress = silent
    ) -> None:
        self._watch(self._connection.info.backend_pid)
        if isinstance(script, SchemaStep) and script.batches is not None:
            with context.autocommit_block():
                self._in_batches(script, script.batches, text, progress)
        elif script.transactional:
            # Bytes without parameters: the file goes to the server as it is, in one message.
            self._connection.execute(text.encode())
        else:
            with context.autocommit_block():
                self._one_by_one(statements_of(text))

    def _as_runner(self, change: sql.Composed) -> None:
        """Write a book without the path, the role and the limits that a step may have set. One message: until
        the commit others wait for the step's locks."""
        before = b"RESET ROLE; RESET search_path; " + _SETTINGS + b"; "
        self._connection.execute(before + change.as_bytes(self._connection))

    def _in_batches(self, step: SchemaStep, batches: Batches, text: str, progress: Progress) -> None:
        """Others wait for a row at most as long as a batch takes, and a batch for theirs without end."""
        self._connection.execute("SET lock_timeout = 0")
        name = f"{self._name}: {step.version} {step.description}"
        runner = BatchRunner(self._connection, step, batches, self._clock)
        runner.run(statements_of(text)[0].text, lambda filled: progress(f"{name}: {filled.describe()}"))

    def _one_by_one(self, statements: Sequence[Statement]) -> None:
        # These locks stand in nobody's way, and a limit would end an index build that waits for a long reader.
        self._connection.execute("SET lock_timeout = 0")
        for statement in statements:
            if index := INDEX.match(statement.code):
                self._drop_invalid(index["index"], index["table"])
            self._connection.execute(statement.text.encode())

    def _drop_invalid(self, index: str, table: str) -> None:
        """``IF NOT EXISTS`` would take what a killed build left behind for the index."""
        found = self._connection.execute(
            "SELECT n.nspname, c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
            " JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE i.indrelid = to_regclass(%s) AND c.relname = (parse_ident(%s))[1] AND NOT i.indisvalid",
            (table, index),
        ).fetchone()
        if found is not None:
            self._connection.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier(*found)))

    def _record(self, step: SchemaStep, at: datetime, duration_ms: float) -> AppliedStep:
        fields = (step.version, step.description, step.checksum, at, duration_ms)
        self._as_runner(
            sql.SQL(
                "INSERT INTO public.drp_schema_history (version, description, checksum, applied_at, duration_ms)"
                " VALUES ({})"
            ).format(sql.SQL(", ").join(map(sql.Literal, fields)))
        )
        self._watch(self._connection.info.backend_pid)
        return AppliedStep(step.version, step.description, step.checksum, at.isoformat(), duration_ms)

    def verify(self, step: SchemaStep, script: Script, text: str) -> None:
        """The same outside of a step."""
        try:
            self._assert_holds(step, script, text)
        except psycopg.Error as exc:
            if exc.sqlstate is None:
                raise
            raise self._failed(step, script, text, exc) from None

    def _assert_holds(self, step: SchemaStep, script: Script, text: str) -> None:
        """Run the queries read-only, in a savepoint that is rolled back. Raises ``MigrationFailed``."""
        with self._connection.transaction(force_rollback=True):
            self._connection.execute("SET LOCAL transaction_read_only = on")
            cursor = self._connection.execute(text.encode())
            number = 0
            while True:
                if cursor.description is not None:
                    number += 1
                    rows = cursor.fetchall()
                    if not rows or not all(value is True for row in rows for value in row):
                        where = f"{script.path.name} query {number}"
                        raise MigrationFailed(self._name, step.version, where, "it is not true", _left(step))
                if not cursor.nextset():
                    return

    # Repetition

    def settle(self) -> None:
        """What the session is held to; a step's own ``SET`` must not outlive it."""
        self._connection.execute(_SETTINGS)

    def _repeatedly(
        self, step: SchemaStep, script: SchemaStep | Script, text: str, attempt: Callable[[], None]
    ) -> None:
        """Repeat while a lock is not to be had, with growing pauses in which others get through."""
        started, pause = self._clock.monotonic(), FIRST_PAUSE_S
        while True:
            self.settle()
            try:
                return attempt()
            except (errors.LockNotAvailable, errors.DeadlockDetected) as exc:
                if self._clock.monotonic() - started > LOCK_PATIENCE_S:
                    raise self._failed(step, script, text, exc) from None
                self._clock.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_S)
            except psycopg.Error as exc:
                if exc.sqlstate is None:  # no answer of the server at all
                    raise
                raise self._failed(step, script, text, exc) from None

    def _failed(self, step: SchemaStep, script: SchemaStep | Script, text: str, exc: psycopg.Error) -> MigrationFailed:
        position = exc.diag.statement_position
        where = script.path.name
        if position and position.isdigit() and script.transactional:
            where += f" line {text.count(chr(10), 0, int(position) - 1) + 1}"
        reason = f"{type(exc).__name__} ({exc.sqlstate})"
        if exc.sqlstate and not exc.sqlstate.startswith(_DATA_ERRORS):
            reason += f": {exc.diag.message_primary}"
        return MigrationFailed(self._name, step.version, where, reason, _left(script))


def _left(script: SchemaStep | Script) -> str:
    if script.transactional:
        return "everything: the step was rolled back"
    return "what the server refused; the statements before it stay, and repeating them changes nothing"


class _Chain(ScriptDirectory):
    """Versions in their order as Alembic's revisions, made from files and records instead of modules. The
    last one does something; what came before it is only known."""

    def __init__(self, versions: Sequence[str], act: Callable[[], None], path: Path) -> None:
        self._versions = tuple(versions)
        self._act = act
        self._path = path
        super().__init__(str(Path(__file__).parent))

    def _load_revisions(self) -> Iterator[Revision]:
        before = None
        for version in self._versions:
            module: Any = ModuleType(f"drp_step_{version}")
            module.revision, module.down_revision = version, before
            module.upgrade = module.downgrade = self._act
            yield Revision(module, version, str(self._path))
            before = version
