"""Bringing a logical backup into an empty database.

Here: what is looked at before anything is written, and the order: surroundings, tables, rows by many connections,
indexes side by side, the rest. Not here: making the database (``engine``, ``scratch``).
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from dr_platform.backups.port import Facts, Piece, StoredBackup, StoredPiece
from dr_platform.backups.postgresql.access import Access, safe_reason
from dr_platform.backups.postgresql.catalog import Connection, one, verbatim
from dr_platform.backups.postgresql.errors import ExtensionMissing, NotThisBackup, RestoreFailed
from dr_platform.backups.postgresql.logical import (
    FORMATS,
    LARGE_OBJECTS,
    POST_DATA,
    PRE_DATA,
    SEQUENCES,
    SURROUNDINGS,
)
from dr_platform.backups.postgresql.postdata import Entry, plain, take_apart

LOADING: Mapping[str, str] = {
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "transaction_timeout": "0",
    # A crash loses the whole restore anyway: nobody has to wait for the disk with each piece.
    "synchronous_commit": "off",
    "search_path": "pg_catalog",
}
_LISTS = frozenset({"search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"})
BYTES_PER_NEIGHBOURHOOD = 500
"""About what HNSW keeps in memory for each row beside its vector, with m=16."""
T = TypeVar("T")


@dataclass(frozen=True)
class Means:
    """What a load may use of the machine of the server."""

    connections: int = 2
    memory_bytes: int = 1 << 30
    """For building indexes. An HNSW graph that does not fit is built several times slower."""
    index_workers: int = 1
    """Processes beside the leading one that build one index."""


class Pieces:
    """The pieces of a backup by name; a missing one is named."""

    def __init__(self, address: str, pieces: Sequence[StoredPiece | Piece]) -> None:
        self._address = address
        self._pieces = {piece.name: piece for piece in pieces}

    def has(self, name: str) -> bool:
        return name in self._pieces

    def bytes_of(self, name: str) -> bytes:
        if name not in self._pieces:
            raise RestoreFailed(self._address, name, "the backup has no such piece")
        return b"".join(self._pieces[name].read())

    def rows(self) -> list[StoredPiece | Piece]:
        """Large ones first, so that at the end no connection waits long for another."""
        found = [piece for piece in self._pieces.values() if piece.name.startswith("tables/")]
        return sorted(found, key=lambda piece: -piece.size_hint)


def check_target(connection: Connection, address: str, facts: Facts) -> None:
    """Raises before anything is written: a version whose rows do not fit, an extension that is not there."""
    have, need = _major(one(connection, "SHOW server_version")), _major(facts.server_version)
    if have != need:
        raise NotThisBackup(address, f"it is of PostgreSQL {need}, the target runs {have}")
    rows = connection.execute("SELECT name, default_version FROM pg_available_extensions").fetchall()
    available: dict[str, str] = dict(rows)
    missing = tuple(
        f"{name} {version}"
        for name, version in sorted(facts.extensions.items())
        if name not in available or _number(available[name]) < _number(version)
    )
    if missing:
        raise ExtensionMissing(address, missing)


def _major(version: str) -> str:
    return version.split(".", maxsplit=1)[0].split(maxsplit=1)[0]


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def surroundings_of(pieces: Pieces) -> dict[str, Any]:
    return json.loads(pieces.bytes_of(SURROUNDINGS))


def load(target: Access, backup: StoredBackup, means: Means) -> None:
    """Fill an empty database. Raises ``RestoreFailed`` with the step where anything is not as it was."""
    pieces = Pieces(target.address, backup.pieces)
    with target.connect(LOADING) as connection:
        check_target(connection, target.address, backup.facts)
        _step(target, "roles", lambda: _make_roles(connection, surroundings_of(pieces)))
        _step(target, "schema", lambda: _run(connection, pieces.bytes_of(PRE_DATA)))
        _load_rows(target, pieces, backup.facts, means)
        if pieces.has(LARGE_OBJECTS):
            _step(target, "large objects", lambda: _run(connection, pieces.bytes_of(LARGE_OBJECTS)))
        _step(target, "sequences", lambda: _set_sequences(connection, json.loads(pieces.bytes_of(SEQUENCES))))
        _step(target, "views", lambda: _refresh(connection, surroundings_of(pieces)["materialized"]))
        _finish(target, connection, pieces.bytes_of(POST_DATA), means)
        _step(target, "statistics", lambda: connection.execute("ANALYZE"))
        _step(target, "grants", lambda: grant(connection, surroundings_of(pieces), target.database))


def _step(target: Access, step: str, act: Callable[[], T]) -> T:
    try:
        return act()
    except psycopg.Error as exc:
        raise RestoreFailed(target.address, step, safe_reason(exc)) from None


def _run(connection: Connection, script: bytes) -> None:
    connection.execute(plain(script.decode()).encode())
    connection.execute("SET search_path = pg_catalog")  # the script has set one of its own


# Rows


def _load_rows(target: Access, pieces: Pieces, facts: Facts, means: Means) -> None:
    loaded = dict.fromkeys((table.name for table in facts.tables), 0)
    with ThreadPoolExecutor(means.connections, thread_name_prefix="restore") as pool:
        futures = [pool.submit(_load_piece, target, piece) for piece in pieces.rows()]
        for table, rows in _all_of(futures):
            loaded[table] = loaded.get(table, 0) + rows
    for table in facts.tables:
        if facts.exact and loaded[table.name] != table.rows:
            reason = f"{loaded[table.name]} rows came back of {table.rows}"
            raise RestoreFailed(target.address, table.name, reason)


def _all_of(futures: Sequence[Future[T]]) -> Iterator[T]:
    """Results as they come; the first failure stops those that have not begun."""
    try:
        for future in as_completed(futures):
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


def _load_piece(target: Access, piece: StoredPiece | Piece) -> tuple[str, int]:
    table = str(piece.facts["table"])
    try:
        with target.connect(LOADING) as connection, connection.cursor() as cursor:
            with cursor.copy(_copy_statement(piece.facts)) as copy:
                for chunk in ahead(piece.read()):
                    copy.write(chunk)
            return table, cursor.rowcount
    except psycopg.Error as exc:
        raise RestoreFailed(target.address, table, safe_reason(exc)) from None


def _copy_statement(facts: Mapping[str, Any]) -> sql.Composed:
    names = sql.SQL(", ").join(map(sql.Identifier, facts["columns"]))
    columns = sql.SQL(" ({})").format(names) if facts["columns"] else sql.SQL("")
    relation = sql.Identifier(facts["schema"], facts["relation"])
    form = verbatim(FORMATS[facts["format"]])
    return sql.SQL("COPY {}{} FROM STDIN ({})").format(relation, columns, form)


def ahead(chunks: Iterator[bytes], held: int = 4) -> Iterator[bytes]:
    """The same chunks, read by a thread while the one before is used; a failure of the reader is raised here."""
    ready: queue.Queue[bytes | BaseException | None] = queue.Queue(held)
    stop = threading.Event()

    def give(what: bytes | BaseException | None) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(what, timeout=0.2)
                return

    def read() -> None:
        try:
            for chunk in chunks:
                give(chunk)
                if stop.is_set():
                    return
            give(None)
        except BaseException as exc:  # noqa: BLE001 - raised again by the thread that uses the chunks
            give(exc)

    threading.Thread(target=read, name="read-ahead", daemon=True).start()
    try:
        while (chunk := ready.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk
    finally:
        stop.set()


# Indexes, constraints and the rest


def _finish(target: Access, connection: Connection, script: bytes, means: Means) -> None:
    post = take_apart(script.decode())
    graph = max(_graph_bytes(connection).values(), default=0)
    settings = {
        **LOADING,
        "maintenance_work_mem": f"{max(64 << 20, min(graph, means.memory_bytes)) >> 10}kB",
        "max_parallel_maintenance_workers": str(means.index_workers),
        "min_parallel_table_scan_size": "0",
    }
    for entry in post.vectors:  # each uses every core and most of the memory by itself
        _build(target, post.settings, entry, settings)
    share = {**settings, "maintenance_work_mem": f"{(means.memory_bytes // means.connections) >> 10}kB"}
    with ThreadPoolExecutor(means.connections, thread_name_prefix="index") as pool:
        futures = [pool.submit(_build, target, post.settings, entry, share) for entry in post.indexes]
        for _ in _all_of(futures):
            pass
    for entry in post.rest:
        _step(target, f"{entry.type.lower()} {entry.name}", lambda text=entry.text: _run(connection, text.encode()))


def _build(target: Access, preamble: str, entry: Entry, settings: Mapping[str, str]) -> None:
    try:
        with target.connect() as connection:
            connection.execute(preamble.encode())
            for name, value in settings.items():
                connection.execute("SELECT pg_catalog.set_config(%s, %s, false)", (name, value))
            connection.execute(entry.text.encode())
    except psycopg.Error as exc:
        raise RestoreFailed(target.address, f"{entry.type.lower()} {entry.name}", safe_reason(exc)) from None


def _graph_bytes(connection: Connection) -> dict[str, int]:
    """What HNSW needs in memory for each column of vectors, by the rows that are there now."""
    query = """
        SELECT n.nspname, c.relname, a.attname, a.atttypmod FROM pg_attribute a
          JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_type t ON t.oid = a.atttypid
         WHERE c.relkind = 'r' AND t.typname IN ('vector', 'halfvec', 'sparsevec') AND NOT a.attisdropped
    """
    found: dict[str, int] = {}
    for schema, relation, column, dimensions in connection.execute(query).fetchall():
        rows = one(connection, sql.SQL("SELECT count(*) FROM ONLY {}").format(sql.Identifier(schema, relation)))
        found[f"{schema}.{relation}.{column}"] = int(rows or 0) * (max(dimensions, 64) * 4 + BYTES_PER_NEIGHBOURHOOD)
    return found


def _set_sequences(connection: Connection, values: Sequence[Sequence[Any]]) -> None:
    for schema, name, last, called in values:
        relation = sql.Identifier(schema, name).as_string()
        connection.execute("SELECT pg_catalog.setval(%s::regclass, %s, %s)", (relation, last, called))


def _refresh(connection: Connection, views: Sequence[Sequence[str]]) -> None:
    """Views that hold rows, in the order in which they were made. One may read another that was made anew later, so
    what fails is tried again as long as others succeed."""
    waiting = list(views)
    while waiting:
        failed: list[Sequence[str]] = []
        for view in waiting:
            try:
                connection.execute(sql.SQL("REFRESH MATERIALIZED VIEW {}").format(sql.Identifier(*view)))
            except psycopg.errors.ObjectNotInPrerequisiteState:
                failed.append(view)
        if len(failed) == len(waiting):
            connection.execute(sql.SQL("REFRESH MATERIALIZED VIEW {}").format(sql.Identifier(*failed[0])))
        waiting = failed


# Roles and grants


def _make_roles(connection: Connection, around: Mapping[str, Any]) -> None:
    """Roles that the target does not know, without a login: passwords are never in a backup."""
    there = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
    for role in around["roles"]:
        if role not in there:
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))
    made = set(around["roles"]) - there
    for group, member in around["memberships"]:
        if {group, member} & made:
            connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(member)))


def grant(connection: Connection, around: Mapping[str, Any], database: str) -> None:
    """Who may connect, and the database's own settings: last, so that nobody comes in before it is whole."""
    name = sql.Identifier(database)
    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))
    for grantee, privilege, grantable in around["grants"]:
        who = sql.Identifier(grantee) if grantee else sql.SQL("PUBLIC")
        option = sql.SQL(" WITH GRANT OPTION" if grantable and grantee else "")
        connection.execute(sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(verbatim(privilege), name, who, option))
    for role, setting in around["settings"]:
        key, _, value = setting.partition("=")
        scope = sql.SQL("ROLE {} IN DATABASE {}").format(sql.Identifier(role), name) if role else None
        target = scope or sql.SQL("DATABASE {}").format(name)
        connection.execute(sql.SQL("ALTER {} SET {} TO {}").format(target, verbatim(key), _value(key, value)))
    if around["owner"]:
        connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(name, sql.Identifier(around["owner"])))


def _value(key: str, value: str) -> sql.Composable:
    """Lists are stored as they are written, every name quoted where it has to be."""
    return verbatim(value) if key in _LISTS else sql.Literal(value)
