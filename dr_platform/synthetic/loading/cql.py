"""ScyllaDB and Cassandra: many prepared statements at once, sent to a node that owns the partition.

Messages go in unlogged batches of one partition, the only ones that cost a server less than their
statements alone. Every statement may be repeated: keys and values are fixed.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Generator, Iterator, Sequence
from datetime import date
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

from cassandra import DriverException, InvalidRequest, RequestExecutionException
from cassandra.cluster import NoHostAvailable
from cassandra.concurrent import execute_concurrent, execute_concurrent_with_args
from cassandra.query import BatchStatement, BatchType

from dr_platform.reference_service.roles.chat_history import stable_id
from dr_platform.synthetic.loading.port import Counts, LoadFailed, LoadRefused
from dr_platform.synthetic.loading.postgresql import moment
from dr_platform.synthetic.rows import Block, Conversation, Message
from dr_platform.synthetic.sealing import Sealer
from dr_platform.synthetic.texts import day_of

if TYPE_CHECKING:
    from cassandra.cluster import Session

CONCURRENT = 64
"""Requests on the way at once; more only makes the server queue them."""
_BATCH_ROWS, _BATCH_BYTES = 24, 16_000
"""Cassandra warns from 5 kB on and refuses from 50 kB on; ScyllaDB from 128 kB on."""
_GREGORIAN = 0x01B21DD213814000
"""100 ns between the beginning of the Gregorian calendar and 1970, see RFC 9562, 5.1."""
NODE = 0x035EED
"""The upper half of the node of every synthetic time-based identifier; 03 marks it as no real card."""

Write = tuple[Any, Any]
Row = tuple[date, uuid.UUID, tuple[Any, ...], bool]


def message_id(message: Message) -> uuid.UUID:
    """Version 1, as ``messages_by_conversation`` is ordered by its time."""
    ticks = message.at_ms * 10_000 + _GREGORIAN
    sequence, node = message.sequence >> 24, NODE << 24 | message.sequence & 0xFFFFFF
    return uuid.UUID(
        fields=(
            ticks & 0xFFFFFFFF,
            ticks >> 32 & 0xFFFF,
            ticks >> 48 & 0x0FFF | 0x1000,
            sequence >> 8 & 0x3F | 0x80,
            sequence & 0xFF,
            node,
        )
    )


class CqlLoader:
    def __init__(self, name: str, session: Session, sealer: Sealer) -> None:
        self._name = name
        self._session = session
        self._sealer = sealer

    @cached_property
    def _listed(self) -> Any:
        return self._prepare(
            "INSERT INTO conversations_by_account"
            " (account_id, started_at, conversation_id, title_ciphertext, key_version, status)"
            " VALUES (?, ?, ?, ?, ?, ?)"
        )

    @cached_property
    def _owned(self) -> Any:
        return self._prepare(
            "INSERT INTO conversations (conversation_id, account_id, started_at, status, days) VALUES (?, ?, ?, ?, ?)"
        )

    @cached_property
    def _message(self) -> Any:
        return self._prepare(
            "INSERT INTO messages_by_conversation"
            " (conversation_id, day, message_id, author, body_ciphertext, key_version, model, safety)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        )

    @cached_property
    def _flag(self) -> Any:
        return self._prepare(
            "INSERT INTO flagged_messages_by_day (day, flagged_at, conversation_id, message_day, message_id, reason)"
            " VALUES (?, ?, ?, ?, ?, 'crisis')"
        )

    def _prepare(self, statement: str) -> Any:
        prepared = self._session.prepare(statement)
        prepared.is_idempotent = True
        return prepared

    def load(self, block: Block) -> Counts:
        counts = {"conversations": 0, "messages_by_conversation": 0, "flagged_messages_by_day": 0}
        # Made beforehand: a generator would be advanced by the driver's own thread, which then answers nobody.
        writes = [write for talk in block.conversations for write in self._conversation(talk, counts)]
        with driver_errors(self._name):
            execute_concurrent(self._session, writes, concurrency=CONCURRENT, raise_on_first_error=True)
        return counts

    def _conversation(self, talk: Conversation, counts: dict[str, int]) -> Iterator[Write]:
        conversation, account = stable_id("conversation", talk.id), stable_id("account", talk.account)
        started = moment(talk.started_ms)
        rows = [self._row(conversation, message) for message in talk.messages]
        for _, own in groupby(rows, key=lambda row: row[0]):
            for part in _parts(list(own)):
                yield self._batched([row[2] for row in part]), ()
        for day, identifier, _, flagged in rows:
            if flagged:
                yield self._flag, (day, identifier, conversation, day, identifier)
        # Lists last: who finds a conversation in one finds its messages.
        title = self._sealer.seal(talk.title, "conversations_by_account", "title", str(conversation))
        listed = (account, started, conversation, title, self._sealer.version, talk.status)
        yield self._listed, listed
        yield self._owned, (conversation, account, started, talk.status, {row[0] for row in rows})
        counts["conversations"] += 1
        counts["messages_by_conversation"] += len(rows)
        counts["flagged_messages_by_day"] += sum(row[3] for row in rows)

    def _row(self, conversation: uuid.UUID, message: Message) -> Row:
        identifier, day = message_id(message), day_of(message.at_ms)
        body = self._sealer.seal(message.text, "messages_by_conversation", "body", str(identifier))
        version = self._sealer.version
        values = (conversation, day, identifier, message.author, body, version, message.model, message.safety)
        return day, identifier, values, message.safety == "crisis"

    def _batched(self, values: Sequence[tuple[Any, ...]]) -> Any:
        if len(values) == 1:
            return self._message.bind(values[0])
        batch = BatchStatement(BatchType.UNLOGGED)
        for row in values:
            batch.add(self._message, row)
        batch.is_idempotent = True
        return batch


def _parts(rows: list[Row]) -> Iterator[list[Row]]:
    """Rows of one partition in batches that servers take without a warning too many."""
    part: list[Row] = []
    size = 0
    for row in rows:
        if part and (len(part) == _BATCH_ROWS or size + len(row[2][4]) > _BATCH_BYTES):
            yield part
            part, size = [], 0
        part.append(row)
        size += len(row[2][4])
    if part:
        yield part


@contextlib.contextmanager
def driver_errors(name: str) -> Generator[None]:
    """Whatever the driver raises as ``LoadFailed`` or ``LoadRefused``; its texts may quote values."""
    try:
        yield
    except InvalidRequest as exc:
        raise LoadRefused(name, type(exc).__name__) from None
    except (NoHostAvailable, DriverException, RequestExecutionException) as exc:
        raise LoadFailed(name, type(exc).__name__) from None


def remove(name: str, session: Session, accounts: Sequence[str]) -> int:
    """Take away the conversations of these accounts with their messages; how many conversations."""
    with driver_errors(name):
        talks = _ask(
            session,
            "SELECT account_id, conversation_id FROM conversations_by_account WHERE account_id = ?",
            [(stable_id("account", account),) for account in accounts],
        )
        own = [(talk.conversation_id,) for talk in talks]
        found = _ask(session, "SELECT conversation_id, days FROM conversations WHERE conversation_id = ?", own)
        days = [(row.conversation_id, day.date()) for row in found for day in row.days or ()]
        _ask(session, "DELETE FROM messages_by_conversation WHERE conversation_id = ? AND day = ?", days)
        _ask(session, "DELETE FROM conversations WHERE conversation_id = ?", own)
        # Last: from it a repetition learns what is left to remove.
        _ask(
            session,
            "DELETE FROM conversations_by_account WHERE account_id = ?",
            [(a,) for a in {t.account_id for t in talks}],
        )
    return len(own)


def remove_flags(name: str, session: Session) -> int:
    """Take away what was flagged among synthetic messages; all days are looked through."""
    with driver_errors(name):
        rows = session.execute("SELECT day, flagged_at FROM flagged_messages_by_day")
        own = [(row.day.date(), row.flagged_at) for row in rows if row.flagged_at.node >> 24 == NODE]
        _ask(session, "DELETE FROM flagged_messages_by_day WHERE day = ? AND flagged_at = ?", own)
    return len(own)


def _ask(session: Session, statement: str, parameters: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The rows of one statement for each of these parameters, many at once."""
    if not parameters:
        return []
    prepared = session.prepare(statement)
    prepared.is_idempotent = True
    done = execute_concurrent_with_args(session, prepared, parameters, concurrency=CONCURRENT)
    return [row for _, rows in done for row in rows]
