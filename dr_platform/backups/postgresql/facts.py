"""What is known of a database at one instant: rows, fingerprints, schema, version.

Here: measuring, the same way in a source's snapshot and in a restored copy. Not here: judging whether two measures
agree.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from dr_platform.backups.port import Facts, TableFacts
from dr_platform.backups.postgresql import catalog
from dr_platform.backups.postgresql.access import Access, output_of, tool_environment
from dr_platform.backups.postgresql.catalog import Column, Connection, Table, one, verbatim
from dr_platform.databases.schema import version_key

ALGORITHM = "count, sum(hash_record_extended(row, 0)); types without a hash by their binary form"
HEARTBEAT = sql.Identifier("public", "drp_backup_heartbeat")
RESTRICT_KEY = "drp"
"""``pg_dump`` guards its text by a random word; a fixed one gives the same bytes for the same schema."""

_NO_HASH = ("42883", "42804")
"""SQLSTATE of a type that cannot be hashed: undefined function, datatype mismatch."""
_COMMENT = re.compile(rb"^(--|\\(un)?restrict\b)")


class Scope(StrEnum):
    EVERYTHING = "everything"
    LOGGED = "logged"
    """What a physical backup has: unlogged tables come back empty."""


def measure(
    access: Access,
    connection: Connection,
    programs: Path,
    *,
    snapshot: str | None = None,
    scope: Scope = Scope.EVERYTHING,
    newer_than: int | None = None,
    position: Mapping[str, str] | None = None,
) -> Facts:
    """The facts of a database. ``connection`` is in a transaction of the snapshot. With ``newer_than``, a transaction
    number, rows are those that were there before it and still are, and nothing is exact."""
    server, version = one(connection, "SELECT version()").split()[:2]
    return Facts(
        server=server,
        server_version=version,
        database=access.database,
        migration_version=migration_version(connection),
        schema_fingerprint=schema_fingerprint(access, programs, snapshot),
        tables=tuple(_tables(connection, scope, newer_than)),
        algorithm=ALGORITHM,
        exact=newer_than is None,
        heartbeat=heartbeat(connection),
        position={**identity(connection), **(position or {})},
        extensions=catalog.extensions(connection),
    )


def identity(connection: Connection) -> dict[str, str]:
    return {
        "system_identifier": str(one(connection, "SELECT system_identifier FROM pg_control_system()")),
        "superuser": str(one(connection, "SELECT rolname FROM pg_roles WHERE oid = 10")),
    }


# Rows


def _tables(connection: Connection, scope: Scope, newer_than: int | None) -> Iterator[TableFacts]:
    connection.execute("SET LOCAL max_parallel_workers_per_gather = 2")
    found = catalog.tables(connection)
    forms = _forms(connection, {column for table in found for column in table.columns})
    for table in found:
        if scope is Scope.LOGGED and not table.logged:
            rows, fingerprint = 0, "0"
        elif newer_than is None:
            rows, fingerprint = _fingerprint(connection, table, forms)
        else:
            rows, fingerprint = _rows_before(connection, table, newer_than), ""
        yield TableFacts(table.name, rows, fingerprint)


def _fingerprint(connection: Connection, table: Table, forms: Mapping[int, sql.SQL]) -> tuple[int, str]:
    values = sql.SQL(", ").join(forms[column.type_oid].format(_in(column)) for column in table.columns)
    query = sql.SQL("SELECT count(*), coalesce(sum(hash_record_extended(ROW({}), 0)), 0)::text FROM ONLY {} AS t")
    row = connection.execute(query.format(values, table.identifier)).fetchone()
    return (int(row[0]), str(row[1])) if row else (0, "0")


def _in(column: Column) -> sql.Composable:
    return sql.Identifier("t", column.name)


def _forms(connection: Connection, columns: set[Column]) -> dict[int, sql.SQL]:
    """How a value of each type is hashed: by itself, else by its binary form, else by its text, which is also for
    values that are numbers of objects."""
    by_text = {column.type_oid for column in columns if not column.binary}
    return {
        oid: verbatim("({})::text") if oid in by_text else _form(connection, oid)
        for oid in {column.type_oid for column in columns}
    }


def _form(connection: Connection, oid: int) -> sql.SQL:
    name, send, kind = connection.execute(
        "SELECT format_type(oid, NULL), CASE WHEN typsend <> 0 THEN typsend::regproc::text END, typtype::text"
        " FROM pg_type WHERE oid = %s",
        (oid,),
    ).fetchone() or ("text", None, "b")
    if kind == "e":  # the server hashes the number of a label, which is another one in every database
        return verbatim(f"{send}({{}})")
    try:
        with connection.transaction():
            # The server looks for the function before it looks whether there is a value.
            connection.execute(f"SELECT hash_record_extended(ROW(NULL::{name}), 0)".encode())
    except psycopg.Error as exc:
        if exc.sqlstate not in _NO_HASH:
            raise
        return verbatim(f"{send}({{}})" if send else "({})::text")
    return sql.SQL("{}")


def _rows_before(connection: Connection, table: Table, transaction: int) -> int:
    """Rows that no later transaction wrote. Whatever was deleted or changed since is not among them, so there
    were at least as many at every moment in between."""
    query = sql.SQL("SELECT count(*) FROM ONLY {} AS t WHERE age(t.xmin) > age(%s::text::xid)")
    return int(one(connection, query.format(table.identifier), str(transaction % (1 << 32))) or 0)


# Schema


def schema_fingerprint(access: Access, programs: Path, snapshot: str | None = None) -> str:
    """SHA-256 over the schema as ``pg_dump`` writes it, without comments and empty lines."""
    digest = hashlib.sha256()
    for line in _lines(dump_schema(access, programs, snapshot=snapshot)):
        if line.strip() and not _COMMENT.match(line):
            digest.update(line)
    return digest.hexdigest()


def dump_schema(
    access: Access, programs: Path, *, snapshot: str | None = None, section: str | None = None
) -> Iterator[bytes]:
    command: list[str | Path] = [programs / "pg_dump", "--schema-only", "--no-tablespaces", "--no-password"]
    command += [f"--restrict-key={RESTRICT_KEY}", "--lock-wait-timeout=60s", "--quote-all-identifiers"]
    command += ["--no-subscriptions"]  # a copy must not begin to draw from its original's partners
    command += [f"--snapshot={snapshot}"] if snapshot else []
    command += [f"--section={section}"] if section else []
    with tool_environment(access) as environment:
        yield from output_of(command, environment)


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line + b"\n"
    if rest:
        yield rest


def migration_version(connection: Connection) -> str:
    if one(connection, "SELECT to_regclass('public.drp_schema_history')") is None:
        return ""
    versions: Sequence[str] = [
        row[0] for row in connection.execute("SELECT version FROM public.drp_schema_history").fetchall()
    ]
    return max(versions, key=version_key, default="")


# Heartbeat


def heartbeat(connection: Connection) -> str:
    if one(connection, "SELECT to_regclass('public.drp_backup_heartbeat')") is None:
        return ""
    return str(one(connection, sql.SQL("SELECT nonce FROM {}").format(HEARTBEAT)) or "")


def beat(connection: Connection, nonce: str) -> None:
    """Write a nonce that the restored copy must have. A standby or a database in which this login may write
    nothing has none."""
    try:
        with connection.transaction():
            _make_heartbeat(connection)
            connection.execute(
                sql.SQL(
                    "INSERT INTO {} AS h (single, nonce, at) VALUES (true, %s, now())"
                    " ON CONFLICT (single) DO UPDATE SET nonce = excluded.nonce, at = excluded.at"
                ).format(HEARTBEAT),
                (nonce,),
            )
    except (psycopg.errors.ReadOnlySqlTransaction, psycopg.errors.InsufficientPrivilege):
        return


def _make_heartbeat(connection: Connection) -> None:
    if one(connection, "SELECT to_regclass('public.drp_backup_heartbeat')") is not None:
        return
    connection.execute(
        sql.SQL(
            "CREATE TABLE {} (single boolean PRIMARY KEY CHECK (single), nonce text NOT NULL, at timestamptz NOT NULL)"
        ).format(HEARTBEAT)
    )
    # Default privileges may have handed the new table to the application's login.
    for grantee in _grantees(connection):
        connection.execute(sql.SQL("REVOKE ALL ON {} FROM {}").format(HEARTBEAT, sql.Identifier(grantee)))


def _grantees(connection: Connection) -> list[Any]:
    query = """
        SELECT DISTINCT pg_get_userbyid(a.grantee) FROM pg_class c, aclexplode(c.relacl) a
         WHERE c.oid = 'public.drp_backup_heartbeat'::regclass AND a.grantee NOT IN (0, c.relowner)
    """
    return [row[0] for row in connection.execute(query).fetchall()]
