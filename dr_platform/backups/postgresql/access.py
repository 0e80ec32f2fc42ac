"""How backups reach a PostgreSQL server: connections without time-outs of the application, and its programs.

Here: where a database is, sessions for reading and loading, running ``pg_dump`` and its like. Not here: what is asked.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg

from dr_platform.backups.postgresql.errors import ToolFailed
from dr_platform.databases.access import CONNECT_TIMEOUT_S, certificate_authorities, is_loopback
from dr_platform.databases.port import AccessDenied, DatabaseMissing, DatabaseUnreachable, Endpoint

CHUNK_BYTES = 1 << 20
SILENCE_S = 600.0
"""A server that gives nothing for this long is taken for gone. A checkpoint or a sort may take minutes."""

READING: Mapping[str, str] = {
    # What the server ends for an application's sake would end the snapshot with it.
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "transaction_timeout": "0",
    # Rows that a policy hides must end a backup, not be missing from it.
    "row_security": "off",
    "search_path": "pg_catalog",
    # Texts of values must not depend on the role's own settings.
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "extra_float_digits": "3",
}

READING_BY_TOOL: Mapping[str, str] = {name: READING[name] for name in READING if name != "transaction_timeout"}
"""A program sends its settings before it knows the server, and one older than 17 refuses that name."""

_PHRASES = (
    "No space left on device",
    "out of memory",
    "permission denied",
    "does not exist",
    "already exists",
    "could not obtain lock",
    "server closed the connection",
    "terminating connection",
    "connection refused",
    "Connection refused",
    "password authentication failed",
    "version mismatch",
    "could not connect",
    "invalid snapshot",
    "checksum verification failed",
    "incorrect checksum",
    "is from different cluster",
    "expected",
)


@dataclass(frozen=True)
class Access:
    """One database, and as whom it is read or loaded. Can be pickled: pieces carry it to other processes."""

    name: str
    """Of the database in the catalog, for messages."""
    host: str
    port: int
    database: str
    username: str
    password: str = field(repr=False)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.host, self.port, self.database)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}/{self.database}"

    def to(self, database: str) -> Access:
        return replace(self, database=database)

    def _parameters(self) -> dict[str, Any]:
        encryption = {"sslmode": "prefer"}
        if not is_loopback(self.host):
            encryption = {"sslmode": "verify-full", "sslrootcert": certificate_authorities() or "system"}
        return {
            "host": self.host,
            "port": self.port,
            "dbname": self.database,
            "user": self.username,
            "password": self.password or None,
            "connect_timeout": int(CONNECT_TIMEOUT_S),
            "application_name": "dr-backup",
            "passfile": "/dev/null/none",
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            **encryption,
        }

    def connect(self, settings: Mapping[str, str] = READING, **parameters: Any) -> PatientConnection:
        """A connection in autocommit with these settings. Raises what the port of databases promises."""
        try:
            connection = PatientConnection.connect(autocommit=True, **{**self._parameters(), **parameters})
        except psycopg.OperationalError as exc:
            raise self._refusal(exc) from None  # its text names the user and the address of the client
        if settings:  # those that this version does not know are left out
            connection.execute(
                "SELECT pg_catalog.set_config(s.name, wanted.value, false) FROM pg_catalog.pg_settings s"
                " JOIN unnest(%s::text[], %s::text[]) AS wanted (name, value) USING (name)",
                (list(settings), list(settings.values())),
            )
        return connection

    def _refusal(self, exc: psycopg.OperationalError) -> AccessDenied | DatabaseMissing | DatabaseUnreachable:
        text = str(exc)
        if "database" in text and "does not exist" in text:
            return DatabaseMissing(self.name, self.endpoint.address, self.database)
        if "authentication" in text or "pg_hba.conf" in text or "permission denied" in text:
            return AccessDenied(self.name, "the backup")
        return DatabaseUnreachable(self.name, self.endpoint.address, _phrase(text) or type(exc).__name__)


class PatientConnection(psycopg.Connection[Any]):
    """A connection that waits long for an answer, and not for ever."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        return super().wait(gen, interval, SILENCE_S if timeout is None else timeout)


@contextlib.contextmanager
def tool_environment(access: Access, settings: Mapping[str, str] | None = None) -> Generator[dict[str, str]]:
    """What a program needs to log in. The password lies in a file of this user that goes again: arguments
    and environments are visible to others."""
    with tempfile.TemporaryDirectory(prefix="drp-pg-") as folder:
        passfile = Path(folder) / "pass"
        fields = (access.host, str(access.port), "*", access.username, access.password)
        passfile.touch(mode=0o600)
        passfile.write_text(
            ":".join(f.replace("\\", "\\\\").replace(":", "\\:") for f in fields) + "\n", encoding="utf-8"
        )
        environment = {
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C",
            "TZ": "UTC",
            "PGPASSFILE": str(passfile),
            "PGHOST": access.host,
            "PGPORT": str(access.port),
            "PGDATABASE": access.database,
            "PGUSER": access.username,
            "PGAPPNAME": "dr-backup",
            "PGCONNECT_TIMEOUT": str(int(CONNECT_TIMEOUT_S)),
        }
        if not is_loopback(access.host):
            environment |= {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": certificate_authorities() or "system"}
        if settings:
            environment["PGOPTIONS"] = " ".join(f"-c {name}={value}" for name, value in settings.items())
        yield environment


def output_of(command: Sequence[str | Path], environment: Mapping[str, str]) -> Iterator[bytes]:
    """What a program writes, in chunks. Raises ``ToolFailed`` at its end where it did not end well."""
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            env=environment,
        ) as tool,
    ):
        assert tool.stdout is not None  # noqa: S101 - for the type alone
        try:
            while chunk := tool.stdout.read(CHUNK_BYTES):
                yield chunk
        except BaseException:  # nobody reads on: the program must not wait for that for ever
            tool.kill()
            raise
        if tool.wait():
            raise ToolFailed(Path(command[0]).name, reason_of(tool.returncode, said))


def reason_of(status: int, said: Any) -> str:
    """What may be told of an end: how, and the first known phrase."""
    said.seek(0)
    phrase = _phrase(said.read(64 << 10).decode(errors="replace"))
    how = f"ended by signal {-status}" if status < 0 else f"code {status}"
    return f"{how}, {phrase}" if phrase else how


def _phrase(text: str) -> str:
    return next((phrase for phrase in _PHRASES if phrase in text), "")


def safe_reason(exc: psycopg.Error) -> str:
    """Type and SQLSTATE, with the server's words where their class never quotes a value."""
    reason = f"{type(exc).__name__} ({exc.sqlstate})"
    if exc.sqlstate and not exc.sqlstate.startswith(("22", "23", "P0")):
        reason += f": {exc.diag.message_primary}"
    return reason
