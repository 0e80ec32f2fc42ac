"""ScyllaDB, or Apache Cassandra, through scylla-driver.

A ``.cql`` step is a list of statements that end with ``;``. There are no transactions over schema
changes, so each statement must be repeatable: ``CREATE … IF NOT EXISTS``, ``DROP … IF EXISTS``,
``ALTER TABLE … ADD`` and ``… DROP`` (a column that is there, or gone, already is no error) or ``… WITH``,
``INSERT``, ``UPDATE`` and ``DELETE`` with fixed values, ``GRANT``, ``REVOKE``. A step that stopped half-way is
finished by running it again.

Here: the adapter of ``ManagedDatabase``. Not here: the tables themselves, or starting a server.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from cassandra import (
    AuthenticationFailed,
    ConsistencyLevel,
    DriverException,
    InvalidRequest,
    OperationTimedOut,
    RequestExecutionException,
    RequestValidationException,
    Unauthorized,
)
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
from cassandra.policies import (
    ConstantReconnectionPolicy,
    DCAwareRoundRobinPolicy,
    TokenAwarePolicy,
    WhiteListRoundRobinPolicy,
)

from dr_platform.databases.access import (
    ACCESS_CONTROL,
    AUTHENTICATION,
    CONNECT_TIMEOUT_S,
    QUERY_TIMEOUT_S,
    TRANSMISSION,
    Answer,
    Login,
    Look,
    all_refused,
    is_loopback,
    measure,
    tls_context,
    transmission,
)
from dr_platform.databases.lease import LeaseStore
from dr_platform.databases.port import (
    AccessDenied,
    AppliedStep,
    DatabaseMissing,
    DatabaseUnreachable,
    Finding,
    SchemaStep,
    Script,
    ServerInfo,
    fingerprint_of,
)
from dr_platform.databases.repeatable import RepeatableSteps
from dr_platform.databases.schema import MigrationFailed, version_key
from dr_platform.errors import TemporaryFailure

if TYPE_CHECKING:
    from cassandra.cluster import Session

HISTORY = "drp_schema_history"
LOCK = "drp_schema_lock"
_SCOPE = "schema"
"""The one partition of the history, and the one row of the lock."""

_STATEMENT_TIMEOUT_S = 60.0
"""A schema change waits for all nodes to agree."""
_DEFAULT_LOGINS = (
    Login("cassandra", "cassandra"),
    Login("cassandra", "password"),
    Login("scylla", "scylla"),
    Login("admin", "admin"),
)

_TOKEN = re.compile(
    r"""(?P<skipped>--[^\n]*|//[^\n]*|/\*.*?\*/)
      | (?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*"|\$\$.*?\$\$)
      | (?P<open>/\*|['"]|\$\$)
      | (?P<end>;)
      | (?P<other>[^-/'"$;]+|.)""",
    re.DOTALL | re.VERBOSE,
)
_REPEATABLE = re.compile(
    r"""CREATE\s+(?:CUSTOM\s+)?(?:TABLE|INDEX|TYPE|MATERIALIZED\s+VIEW|ROLE)\s+IF\s+NOT\s+EXISTS\b
      | DROP\s+(?:TABLE|INDEX|TYPE|MATERIALIZED\s+VIEW|ROLE)\s+IF\s+EXISTS\b
      | ALTER\s+TABLE\s+\S+\s+(?:ADD|DROP|WITH)\b
      | (?:INSERT\s+INTO|UPDATE|DELETE)\b (?!.*\b(?:now|uuid|current_\w+)\s*\() (?!.*=\s*\w+\s*[+-])
      | (?:GRANT|REVOKE)\b""",
    re.DOTALL | re.VERBOSE | re.IGNORECASE,
)
_ADDED = re.compile(
    r"ALTER\s+TABLE\s+(?:\w+\.)?(?P<table>\w+)\s+ADD\s+\(?(?P<columns>[^()]+)\)?$", re.DOTALL | re.IGNORECASE
)
_DROPPED = re.compile(
    r"ALTER\s+TABLE\s+(?:\w+\.)?(?P<table>\w+)\s+DROP\s+\(?(?P<columns>[^()]+)\)?$", re.DOTALL | re.IGNORECASE
)
_SCHEMA_CHANGE = re.compile(r"(?:CREATE|ALTER|DROP)\s", re.IGNORECASE)
_LOOK_S = 0.1


class SchemaNotAgreed(TemporaryFailure):
    def __init__(self, name: str, versions: int) -> None:
        super().__init__(name, versions)
        self.what = f"{name}: the nodes have not agreed on the schema, they hold {versions} versions of it"
        self.untouched = "the rest of the step; it is not recorded"
        self.next_step = "see which node is down or cut off, then repeat: the step is finished by its repetition"


def statements_of(text: str) -> tuple[str, ...]:
    """The statements of a ``.cql`` file without comments. Semicolons inside quotes are no ends.
    Raises ``ValueError`` that names the line."""
    statements: list[str] = []
    current: list[str] = []
    for match in _TOKEN.finditer(text):
        if match["open"]:
            raise ValueError(f"line {_line(text, match)}: {match['open']} is never closed")
        if match["end"]:
            statements.append(_repeatable("".join(current).strip(), _line(text, match)))
            current = []
        else:
            current.append(" " if match["skipped"] else match[0])
    if "".join(current).strip():
        raise ValueError("the last statement does not end with ;")
    return tuple(statements)


def _line(text: str, match: re.Match[str]) -> int:
    return text.count("\n", 0, match.start()) + 1


def _repeatable(statement: str, line: int) -> str:
    if _REPEATABLE.match(statement):
        return statement
    shown = " ".join(statement.split()[:3])
    raise ValueError(
        f"line {line}: {shown} … cannot be repeated: see the rules for .cql files (IF NOT EXISTS, fixed values)"
    )


def added_columns(statement: str) -> tuple[str, frozenset[str]] | None:
    """Table and names of the columns that an ``ALTER TABLE … ADD`` brings, else ``None``."""
    match = _ADDED.match(statement)
    if match is None:
        return None
    columns = re.split(r",(?![^<]*>)", match["columns"])  # a comma inside map<text, int> separates no columns
    return match["table"].lower(), frozenset(column.split()[0].lower() for column in columns)


def dropped_columns(statement: str) -> tuple[str, frozenset[str]] | None:
    """Table and names of the columns that an ``ALTER TABLE … DROP`` takes away, else ``None``."""
    match = _DROPPED.match(statement)
    if match is None:
        return None
    return match["table"].lower(), frozenset(column.strip().lower() for column in match["columns"].split(","))


class CqlDatabase(RepeatableSteps[str]):
    """A ``ManagedDatabase`` on ScyllaDB or Cassandra. Connects at once and again by itself; for any
    number of threads. ``close`` ends the driver's threads.

    With the role ``admin`` the application is let in by ``admit_application``.
    """

    extension = ".cql"
    default_logins = _DEFAULT_LOGINS

    def _connect(self) -> None:
        self._cluster = self._prepare(self._login)
        try:
            self._session = self._open(self._cluster)
        except Exception:
            self._cluster.shutdown()
            raise

    @property
    def session(self) -> Session:
        """The driver's session in the catalog's keyspace, for statements the port has no word for."""
        return self._session

    def _prepare(self, login: Login | None) -> Cluster:
        # The driver logs every refused connection; whoever asked is told by the error.
        logging.getLogger("cassandra").setLevel(logging.CRITICAL)
        host = self.endpoint.host
        near = WhiteListRoundRobinPolicy([host]) if is_loopback(host) else TokenAwarePolicy(DCAwareRoundRobinPolicy())
        profile = ExecutionProfile(
            load_balancing_policy=near,
            request_timeout=QUERY_TIMEOUT_S,
            consistency_level=ConsistencyLevel.LOCAL_QUORUM,
        )
        return Cluster(
            [host],
            port=self.endpoint.port,
            protocol_version=4,  # the newest that both servers speak
            auth_provider=PlainTextAuthProvider(login.username, login.password) if login else None,
            ssl_context=tls_context(self.endpoint),
            execution_profiles={EXEC_PROFILE_DEFAULT: profile},
            connect_timeout=CONNECT_TIMEOUT_S,
            control_connection_timeout=CONNECT_TIMEOUT_S,
            reconnection_policy=ConstantReconnectionPolicy(1.0, max_attempts=None),
            executor_threads=2,
        )

    def _open(self, cluster: Cluster) -> Session:
        with self._errors():
            session = cluster.connect()
            try:
                session.set_keyspace(self.endpoint.database)
            except InvalidRequest:
                raise DatabaseMissing(self.database.name, self.endpoint.address, self.endpoint.database) from None
            return session

    @contextlib.contextmanager
    def _errors(self) -> Generator[None]:
        """Driver errors become those of the port."""
        try:
            yield
        except Unauthorized:
            raise AccessDenied(self.database.name, self._role) from None
        except NoHostAvailable as exc:
            causes = list(exc.errors.values()) if isinstance(exc.errors, dict) else []
            if any(isinstance(cause, AuthenticationFailed) for cause in causes):
                raise AccessDenied(self.database.name, self._role) from None
            reason = type(causes[0]).__name__ if causes else "no node answers"
            raise DatabaseUnreachable(self.database.name, self.endpoint.address, reason) from exc
        except RequestValidationException:
            raise
        except (OperationTimedOut, RequestExecutionException, DriverException, OSError) as exc:
            reason = "no answer in time" if isinstance(exc, OperationTimedOut) else type(exc).__name__
            raise DatabaseUnreachable(self.database.name, self.endpoint.address, reason) from exc

    def _ask(self, statement: str, *parameters: object, timeout_s: float = QUERY_TIMEOUT_S) -> Any:
        with self._errors():
            return self._session.execute(statement, parameters or None, timeout=timeout_s)

    def ping(self, timeout_s: float = 2.0) -> float:
        started = self._clock.monotonic()
        self._ask("SELECT key FROM system.local", timeout_s=timeout_s)
        return (self._clock.monotonic() - started) * 1000

    def close(self) -> None:
        self._cluster.shutdown()

    # What it is

    def server(self) -> ServerInfo:
        release = self._ask("SELECT release_version FROM system.local").one().release_version
        able = {"lightweight_transactions", "ttl", "counters"}
        reduced = []
        if self._is_scylla():
            scylla = self._ask("SELECT version FROM system.versions WHERE key = 'local'").one()
            server, version = "ScyllaDB", scylla.version if scylla else release
            able |= {"per_partition_rate_limit", "service_levels", "change_data_capture"}
        else:
            server, version = "Apache Cassandra", release
            able |= {"vector_search"} if int(release.split(".")[0]) >= 5 else set()
            reduced.append("Apache Cassandra: no tablets, no rate limits per partition, no service levels of ScyllaDB")
        if self._ask("SELECT count(*) FROM system.peers").one()[0] == 0:
            reduced.append("one node: no replicas, no second datacenter")
        return ServerInfo(server, version, frozenset(able), tuple(reduced))

    def _is_scylla(self) -> bool:
        return self._has_table("versions", "system")

    def _has_table(self, table: str, keyspace: str) -> bool:
        query = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s AND table_name = %s"
        return self._ask(query, keyspace, table).one() is not None

    # Schema

    def applied(self) -> Sequence[AppliedStep]:
        if not self._has_table(HISTORY, self.endpoint.database):
            return ()
        self._settle(HISTORY)
        rows = self._ask(f"SELECT * FROM {HISTORY} WHERE scope = %s", _SCOPE)  # noqa: S608 - a constant
        steps = [
            AppliedStep(
                row.version,
                row.description,
                row.checksum,
                row.applied_at,
                row.duration_ms,
                getattr(row, "fingerprint", None) or "",  # of a table that an older platform made
                getattr(row, "undoing", None) or False,
            )
            for row in rows
        ]
        return tuple(sorted(steps, key=lambda step: version_key(step.version)))

    def shape(self) -> tuple[str, ...]:
        keyspace = self.endpoint.database
        lines: list[str] = []
        for kind, table, names in (
            ("table", "tables", ("table_name", "comment", "default_time_to_live")),
            ("column", "columns", ("table_name", "column_name", "type", "kind", "position", "clustering_order")),
            ("index", "indexes", ("table_name", "index_name", "kind", "options")),
            ("type", "types", ("type_name", "field_names", "field_types")),
            ("view", "views", ("view_name", "base_table_name", "where_clause")),
        ):
            rows = self._ask(f"SELECT * FROM system_schema.{table} WHERE keyspace_name = %s", keyspace)  # noqa: S608 - constants
            lines += [
                " ".join([kind, *(_shown(getattr(row, name, "")) for name in names)])
                for row in rows
                if not getattr(row, names[0]).startswith("drp_")
            ]
        return tuple(sorted(lines))

    def _kept_shape(self, version: str) -> tuple[str, ...] | None:
        query = f"SELECT * FROM {HISTORY} WHERE scope = %s AND version = %s"  # noqa: S608 - a constant
        kept = getattr(self._ask(query, _SCOPE, version).one(), "shape", None)
        return None if kept is None else tuple(kept.split("\n"))

    def _lease(self) -> LeaseStore:
        return _CqlLease(self._ask)

    def _parsed(self, text: str) -> tuple[str, ...]:
        return statements_of(text)

    def _await_agreement(self) -> None:
        """Until every node holds the same schema: the next statement may reach another one."""
        give_up = self._clock.monotonic() + _STATEMENT_TIMEOUT_S
        while True:
            versions = {row.schema_version for row in self._ask("SELECT schema_version FROM system.local")}
            # A node that is down tells nothing; it learns the schema before it serves again.
            versions |= {row.schema_version for row in self._ask("SELECT schema_version FROM system.peers")} - {None}
            if len(versions) == 1:
                return
            if self._clock.monotonic() >= give_up:
                raise SchemaNotAgreed(self.database.name, len(versions))
            self._clock.sleep(_LOOK_S)

    def _make_books(self) -> None:
        later = "fingerprint text, shape text, undoing boolean"
        columns = f"description text, checksum text, applied_at text, duration_ms double, {later}"
        for table, shape in (
            (HISTORY, f"scope text, version text, {columns}, PRIMARY KEY (scope, version)"),
            (LOCK, "name text PRIMARY KEY, owner text"),
        ):
            if not self._has_table(table, self.endpoint.database):
                self._ask(f"CREATE TABLE IF NOT EXISTS {table} ({shape})", timeout_s=_STATEMENT_TIMEOUT_S)
            self._settle(table)
        for column in later.split(", "):
            if not {column.split()[0]} <= self._columns(HISTORY):
                with contextlib.suppress(InvalidRequest):  # another runner was first
                    self._ask(f"ALTER TABLE {HISTORY} ADD {column}", timeout_s=_STATEMENT_TIMEOUT_S)

    def _columns(self, table: str) -> frozenset[str]:
        query = "SELECT column_name FROM system_schema.columns WHERE keyspace_name = %s AND table_name = %s"
        return frozenset(row.column_name for row in self._ask(query, self.endpoint.database, table))

    def _settle(self, table: str) -> None:
        """Wait until a listed table can be used. Where another runner is making it at this moment it
        is listed first, and Cassandra answers with errors of several kinds until it is whole."""
        give_up = self._clock.monotonic() + QUERY_TIMEOUT_S
        while True:
            try:
                self._ask(f"SELECT * FROM {table} LIMIT 1")  # noqa: S608 - two constants
            except (InvalidRequest, DatabaseUnreachable):
                if self._clock.monotonic() >= give_up:
                    raise
                self._clock.sleep(0.1)
            else:
                return

    def _run(self, step: SchemaStep, script: SchemaStep | Script, number: int, command: str) -> None:
        self._try(step, script, number, command)
        if _SCHEMA_CHANGE.match(command):
            self._await_agreement()

    def _try(self, step: SchemaStep, script: SchemaStep | Script, number: int, statement: str) -> None:
        try:
            self._ask(statement, timeout_s=_STATEMENT_TIMEOUT_S)
        except RequestValidationException as exc:
            if self._was_done(statement):
                return
            left = "the statements before it stay applied; repeating them changes nothing"
            where = f"{script.path.name} statement {number}"
            raise MigrationFailed(self.database.name, step.version, where, str(exc), left) from None

    def _was_done(self, statement: str) -> bool:
        """Whether the columns are there, or gone, already: this step was stopped after it had changed them."""
        if (added := added_columns(statement)) is not None:
            return added[1] <= self._columns(added[0])
        if (dropped := dropped_columns(statement)) is not None:
            left = self._columns(dropped[0])
            return bool(left) and not dropped[1] & left
        return False

    def _keep(self, record: AppliedStep, shape: tuple[str, ...]) -> bool:
        return self._ask(
            f"INSERT INTO {HISTORY}"  # noqa: S608 - a constant
            " (scope, version, description, checksum, applied_at, duration_ms, fingerprint, shape)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) IF NOT EXISTS",
            _SCOPE,
            record.version,
            record.description,
            record.checksum,
            record.applied_at,
            record.duration_ms,
            record.fingerprint,
            "\n".join(shape),
        ).was_applied

    def _keep_shape(self, record: AppliedStep, shape: tuple[str, ...]) -> None:
        kept = f"UPDATE {HISTORY} SET fingerprint = %s, shape = %s WHERE scope = %s AND version = %s IF EXISTS"  # noqa: S608 - a constant
        self._ask(kept, fingerprint_of(shape), "\n".join(shape), _SCOPE, record.version)

    def _begin_undo(self, record: AppliedStep) -> None:
        begun = f"UPDATE {HISTORY} SET undoing = true WHERE scope = %s AND version = %s IF EXISTS"  # noqa: S608 - a constant
        self._ask(begun, _SCOPE, record.version)

    def _forget(self, record: AppliedStep) -> None:
        ended = f"DELETE FROM {HISTORY} WHERE scope = %s AND version = %s IF EXISTS"  # noqa: S608 - a constant
        self._ask(ended, _SCOPE, record.version)

    def admit_application(self) -> None:
        """Let the application read and write rows of the keyspace; it may change nothing else."""
        if self._application is None:
            return
        login = self._application.username.replace('"', '""')
        for right in ("SELECT", "MODIFY"):
            # A login that does not exist yet is let in when it is made.
            with contextlib.suppress(InvalidRequest):
                self._ask(f'GRANT {right} ON KEYSPACE {self.endpoint.database} TO "{login}"')

    # Findings

    def findings(self) -> Sequence[Finding]:
        """Ask as ``admin``: as ``application`` password hashes and settings cannot be seen."""
        looks: tuple[Look, ...] = (
            ("anonymous_access_refused", AUTHENTICATION, self._anonymous_refused),
            ("default_credentials_refused", AUTHENTICATION, self._defaults_refused),
            ("password_hashing", AUTHENTICATION, self._password_hashing),
            ("transmission_protected", TRANSMISSION, lambda: transmission(self.endpoint)),
            ("permissions_are_enforced", ACCESS_CONTROL, self._authorizer),
            ("application_cannot_change_schema", ACCESS_CONTROL, self._application_limited),
        )
        return measure(looks)

    @contextlib.contextmanager
    def _as(self, login: Login | None) -> Generator[Session]:
        cluster = self._prepare(login)
        try:
            with self._errors():
                yield cluster.connect()
        finally:
            cluster.shutdown()

    def _admits(self, login: Login | None) -> bool:
        try:
            with self._as(login):
                return True
        except AccessDenied:
            return False

    def _anonymous_refused(self) -> Answer:
        return all_refused("logins without credentials", 1, int(self._admits(None)))

    def _defaults_refused(self) -> Answer:
        with ThreadPoolExecutor(max_workers=len(self._guesses), thread_name_prefix="guess") as pool:
            admitted = sum(pool.map(self._admits, self._guesses))
        return all_refused("well-known logins", len(self._guesses), admitted)

    def _password_hashing(self) -> Answer:
        keyspace = "system" if self._has_table("roles", "system") else "system_auth"
        rows = self._ask(f"SELECT salted_hash FROM {keyspace}.roles")  # noqa: S608 - two constants
        hashes = [row.salted_hash for row in rows if row.salted_hash]
        strong = [kept for kept in hashes if kept.startswith(("$2", "$6$"))]  # bcrypt, SHA-512 crypt
        return len(strong) == len(
            hashes
        ), f"{len(strong)} of {len(hashes)} passwords are kept as bcrypt or SHA-512 crypt"

    def _authorizer(self) -> Answer:
        source = "system.config" if self._is_scylla() else "system_views.settings"
        said = {
            name: self._ask(f"SELECT value FROM {source} WHERE name = %s", name).one()  # noqa: S608 - two constants
            for name in ("authenticator", "authorizer")
        }
        if None in said.values():
            return None, f"{source} does not tell the authenticator and the authorizer"
        open_to_all = [name for name, row in said.items() if "AllowAll" in str(row.value)]
        return (
            not open_to_all,
            f"{', '.join(open_to_all)} lets everybody in" if open_to_all else "logins and permissions are checked",
        )

    def _application_limited(self) -> Answer:
        """Try as the application. Each of these changes nothing also where it is allowed, because
        what it would make is there already."""
        login = self._application or (self._login if self._role == "application" else None)
        if login is None:
            return None, "the login of the application is not known"
        if not self._has_table(HISTORY, self.endpoint.database):
            return None, "there is no schema yet"
        table = f"{self.endpoint.database}.{HISTORY}"
        tries = (
            f"CREATE TABLE IF NOT EXISTS {table} (scope text PRIMARY KEY)",
            f"ALTER TABLE {table} ADD version text",
            (
                f"CREATE KEYSPACE IF NOT EXISTS {self.endpoint.database}"
                " WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 1}"
            ),
            f'CREATE ROLE IF NOT EXISTS "{login.username}"',
        )
        with self._as(login) as session:
            admitted = sum(_allows(session, statement) for statement in tries)
        return all_refused("changes of schema and roles by the application", len(tries), admitted)


def _shown(value: Any) -> str:
    """A property as text that is equal for equal values, whatever order a map comes in."""
    return str(sorted(dict(value).items())) if hasattr(value, "items") else str(value)


def _allows(session: Session, statement: str) -> bool:
    try:
        session.execute(statement)
    except Unauthorized:
        return False
    except RequestValidationException:  # understood and allowed, but already there
        return True
    return True


class _CqlLease:
    """A row with a time to live, changed by lightweight transactions only."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        self._ask = ask

    def take(self, owner: str, ttl_s: float) -> bool:
        query = f"INSERT INTO {LOCK} (name, owner) VALUES (%s, %s) IF NOT EXISTS USING TTL %s"  # noqa: S608 - a constant
        return self._ask(query, _SCOPE, owner, max(1, int(ttl_s))).was_applied

    def renew(self, owner: str, ttl_s: float) -> bool:
        query = f"UPDATE {LOCK} USING TTL %s SET owner = %s WHERE name = %s IF owner = %s"  # noqa: S608 - a constant
        return self._ask(query, max(1, int(ttl_s)), owner, _SCOPE, owner).was_applied

    def give_up(self, owner: str) -> None:
        self._ask(f"DELETE FROM {LOCK} WHERE name = %s IF owner = %s", _SCOPE, owner)  # noqa: S608 - a constant
