"""PostgreSQL: binary COPY of all tables of a block in one transaction, with its record of progress."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from dr_platform.databases.postgresql import BoundedConnection
from dr_platform.synthetic.draws import HIGHEST, LOWEST
from dr_platform.synthetic.loading.port import Counts, LoadFailed, LoadRefused
from dr_platform.synthetic.rows import Block
from dr_platform.synthetic.sealing import Sealer

PROFILE_SERVICE = "user-subscription"
"""Of the catalog's services the one that keeps what is known of a person, as records."""
REMOVED_TABLES = (
    ("identity.emergency_access", ("requester_id", "patient_id", "reviewed_by")),
    ("identity.relationships", ("patient_id", "other_id")),
    ("consent.consents", ("account_id",)),
    ("billing.subscriptions", ("account_id",)),
    ("billing.usage", ("account_id",)),
    ("identity.sessions", ("account_id",)),
    ("identity.account_roles", ("account_id", "granted_by")),
    ("identity.accounts", ("id",)),
)
"""In the order in which rows are removed, with the columns that name an account. Not here:
``audit.events``, from which nobody can take anything."""
_ALL = sql.SQL("true")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ANSWER_S = 120.0
"""A block behind another one's chain of audit events, on a machine that does much else."""
_REMOVED_AT_ONCE = 20_000

Make = Callable[[Block, Sealer], Iterator[tuple[Any, ...]]]


@dataclass(frozen=True)
class Table:
    name: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: Make


def moment(ms: int | None) -> datetime | None:
    return None if ms is None else _EPOCH + timedelta(milliseconds=ms)


def _accounts(block: Block, sealer: Sealer) -> Iterator[tuple[Any, ...]]:
    for person, kind, _, created in block.accounts:
        at = moment(created)
        sealed = sealer.seal(person.email, "identity.accounts", "email", person.id)
        name = sealer.seal(person.name, "identity.accounts", "display_name", person.id)
        # Without a password nobody can sign in as somebody who does not exist.
        yield UUID(person.id), kind, sealed, sealer.index(person.email, "account"), name, sealer.version, at, at


def _roles(block: Block, _sealer: Sealer) -> Iterator[tuple[Any, ...]]:
    for person, _, role, created in block.accounts:
        yield UUID(person.id), role, moment(created)


def _sessions(block: Block, _sealer: Sealer) -> Iterator[tuple[Any, ...]]:
    for s in block.sessions:
        times = (moment(s.created_ms), moment(s.expires_ms), moment(s.revoked_ms))
        yield (UUID(s.id), UUID(s.account), s.token_hash, *times)


def _consents(block: Block, sealer: Sealer) -> Iterator[tuple[Any, ...]]:
    for c in block.consents:
        evidence = sealer.optional(c.evidence, "consent.consents", "evidence", c.id)
        times = (moment(c.granted_ms), moment(c.withdrawn_ms))
        yield (UUID(c.id), UUID(c.account), c.purpose, c.policy_version, *times, evidence)


def _relationships(block: Block, sealer: Sealer) -> Iterator[tuple[Any, ...]]:
    for r in block.relationships:
        note = sealer.optional(r.note, "identity.relationships", "note", r.id)
        yield UUID(r.id), UUID(r.patient), UUID(r.other), r.kind, note, moment(r.started_ms), moment(r.ended_ms)


def _emergencies(block: Block, sealer: Sealer) -> Iterator[tuple[Any, ...]]:
    for e in block.emergencies:
        reason = sealer.seal(e.reason, "identity.emergency_access", "reason", e.id)
        reviewer = UUID(e.reviewer) if e.reviewer else None
        reviewed = moment(e.expires_ms) if e.reviewer else None
        times = (moment(e.granted_ms), moment(e.expires_ms))
        yield (UUID(e.id), UUID(e.requester), UUID(e.patient), reason, *times, reviewer, reviewed)


def _subscriptions(block: Block, _sealer: Sealer) -> Iterator[tuple[Any, ...]]:
    for s in block.subscriptions:
        times = (moment(s.started_ms), moment(s.renews_ms), moment(s.ended_ms))
        yield (UUID(s.id), UUID(s.account), s.plan, s.status, *times)


def _usage(block: Block, _sealer: Sealer) -> Iterator[tuple[Any, ...]]:
    for u in block.usage:
        yield UUID(u.account), u.metric, u.units, moment(u.at_ms), UUID(u.report)


def _profiles(block: Block, sealer: Sealer) -> Iterator[tuple[Any, ...]]:
    for p in block.profiles:
        body = sealer.seal(p.body, f"{PROFILE_SERVICE}.records", "body", p.id)
        at = moment(p.created_ms)
        yield PROFILE_SERVICE, UUID(p.id), "profile", body, at, at


def _audit(block: Block, sealer: Sealer) -> Iterator[tuple[Any, ...]]:
    for e in block.audit:
        detail = sealer.optional(e.detail, "audit.events", "detail", e.request_id)
        yield e.actor, e.action, e.resource, e.outcome, e.service, e.request_id, detail


def _table(name: str, columns: str, make: Make) -> Table:
    """``columns`` as ``name type, name type``."""
    pairs = [column.split() for column in columns.split(",")]
    return Table(name, tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs), make)


TABLES = (
    _table(
        "identity.accounts",
        "id uuid, kind text, email_ciphertext bytea, email_blind_index bytea, display_name_ciphertext bytea,"
        "key_version int4, created_at timestamptz, updated_at timestamptz",
        _accounts,
    ),
    _table("identity.account_roles", "account_id uuid, role text, granted_at timestamptz", _roles),
    _table(
        "identity.sessions",
        "id uuid, account_id uuid, token_hash bytea, created_at timestamptz, expires_at timestamptz,"
        "revoked_at timestamptz",
        _sessions,
    ),
    _table(
        "consent.consents",
        "id uuid, account_id uuid, purpose text, policy_version text, granted_at timestamptz,"
        "withdrawn_at timestamptz, evidence_ciphertext bytea",
        _consents,
    ),
    _table(
        "identity.relationships",
        "id uuid, patient_id uuid, other_id uuid, kind text, note_ciphertext bytea, started_at timestamptz,"
        "ended_at timestamptz",
        _relationships,
    ),
    _table(
        "identity.emergency_access",
        "id uuid, requester_id uuid, patient_id uuid, reason_ciphertext bytea, granted_at timestamptz,"
        "expires_at timestamptz, reviewed_by uuid, reviewed_at timestamptz",
        _emergencies,
    ),
    _table(
        "billing.subscriptions",
        "id uuid, account_id uuid, plan text, status text, started_at timestamptz, renews_at timestamptz,"
        "ended_at timestamptz",
        _subscriptions,
    ),
    _table("billing.usage", "account_id uuid, metric text, units int8, at timestamptz, report_id uuid", _usage),
    _table(
        "work.records",
        "service text, id uuid, kind text, body_ciphertext bytea, created_at timestamptz, updated_at timestamptz",
        _profiles,
    ),
    # Last: its trigger holds the chain's head, for which services wait, until the transaction ends.
    _table(
        "audit.events",
        "actor text, action text, resource text, outcome text, service text, request_id text, detail_ciphertext bytea",
        _audit,
    ),
)


def copy_rows(
    connection: psycopg.Connection[Any],
    table: str,
    columns: Sequence[str],
    types: Sequence[str],
    rows: Iterable[Sequence[Any]],
) -> int:
    """Rows into a table by binary COPY; how many. The server checks and fires as for any insert."""
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        sql.Identifier(*table.split(".")), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    count = 0
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(types)
        for row in rows:
            copy.write_row(row)
            count += 1
    return count


class PostgresLoader:
    """``record`` writes the progress of the block in the same transaction, first of all, and returns
    false where another process has it: then nothing is loaded."""

    def __init__(self, name: str, connection: BoundedConnection, sealer: Sealer) -> None:
        self._name = name
        self._connection = connection
        self._sealer = sealer
        connection.limit_s = _ANSWER_S

    def load_once(self, block: Block, record: Callable[[psycopg.Connection[Any], Counts], bool]) -> Counts | None:
        """The rows per table, or ``None`` where the block was loaded before."""
        try:
            with self._connection.transaction():
                # A crash may lose the last blocks together with their records, which repeats them.
                self._connection.execute("SET LOCAL synchronous_commit = off")
                counts = {table.name: len(rows) for table, rows in _with_rows(block)}
                if not record(self._connection, counts):
                    return None
                for table, _ in _with_rows(block):
                    made = table.rows(block, self._sealer)
                    copy_rows(self._connection, table.name, table.columns, table.types, made)
            # Each audit event leaves an old version of the chain's head, and each reads past all of them:
            # without this the events of the twelfth block take twice as long as those of the first.
            self._connection.execute("VACUUM (SKIP_LOCKED, TRUNCATE off) audit.head")
        except psycopg.Error as exc:
            raise _failure(self._name, exc) from None  # its text quotes rows
        return counts


def _failure(name: str, exc: psycopg.Error) -> LoadFailed | LoadRefused:
    kind = LoadFailed if isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError) else LoadRefused
    return kind(name, f"{type(exc).__name__} ({exc.sqlstate})")


def _with_rows(block: Block) -> Iterator[tuple[Table, Sequence[Any]]]:
    parts = (
        block.accounts,
        block.accounts,
        block.sessions,
        block.consents,
        block.relationships,
        block.emergencies,
        block.subscriptions,
        block.usage,
        block.profiles,
        block.audit,
    )
    return ((table, rows) for table, rows in zip(TABLES, parts, strict=True) if rows)


def accounts(connection: psycopg.Connection[Any], after: str, limit: int) -> tuple[str, ...]:
    """Identifiers of synthetic accounts behind ``after``, in order."""
    rows = connection.execute(
        "SELECT id::text FROM identity.accounts WHERE id > %s AND id <= %s ORDER BY id LIMIT %s",
        (after, HIGHEST, limit),
    ).fetchall()
    return tuple(row[0] for row in rows)


def remove(name: str, connection: psycopg.Connection[Any]) -> int:
    """Take away every row that names a synthetic account, in transactions of bounded size; how many.
    Audit events stay: nobody can take them away."""
    try:
        removed = _remove_from(connection, "work.records", ("id",), sql.SQL("service = {}").format(PROFILE_SERVICE))
        return removed + sum(_remove_from(connection, table, columns) for table, columns in REMOVED_TABLES)
    except psycopg.Error as exc:
        raise _failure(name, exc) from None


def _remove_from(
    connection: psycopg.Connection[Any], table: str, columns: Sequence[str], further: sql.Composable = _ALL
) -> int:
    own = sql.SQL(" OR ").join(
        sql.SQL("{} BETWEEN {} AND {}").format(sql.Identifier(column), LOWEST, HIGHEST) for column in columns
    )
    statement = sql.SQL(
        "DELETE FROM {table}"
        " WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} WHERE {further} AND ({own}) LIMIT {limit}))"
    ).format(table=sql.Identifier(*table.split(".")), further=further, own=own, limit=_REMOVED_AT_ONCE)
    removed = 0
    while count := connection.execute(statement).rowcount:
        removed += count
    return removed
