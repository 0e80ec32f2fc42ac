"""Keeps conversations in CQL: every text encrypted, partitioned by conversation and day."""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from datetime import UTC, date, datetime
from typing import Any

from dr_platform.reference_service.cipher import Place
from dr_platform.reference_service.replica import Replica
from dr_platform.reference_service.roles.duties import Duties
from dr_platform.reference_service.stores.cql import CqlStore
from dr_platform.reference_service.web import Call, Refusal, endpoint

READ, WRITE = "chat:read", "chat:write"
TABLES = (
    "conversations",
    "conversations_by_account",
    "messages_by_conversation",
    "sent_messages",
    "flagged_messages_by_day",
)
AUTHORS = ("patient", "assistant")
_KNOWN = 10_000
"""Conversations of which this process knows that their day is recorded."""


def stable_id(kind: str, name: str) -> uuid.UUID:
    """The column's identifier for a name that callers use; the name cannot be read from it."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"dr-platform/{kind}/{name}")


def _place(message_id: uuid.UUID) -> Place:
    return Place("messages_by_conversation", "body", str(message_id))


class ChatHistory:
    def __init__(self, replica: Replica) -> None:
        self._cipher = replica.cipher
        self._clock = replica.clock
        self._store = replica.store(CqlStore)
        self._known: OrderedDict[tuple[uuid.UUID, date], uuid.UUID] = OrderedDict()
        self._lock = threading.Lock()

    def append(self, call: Call) -> dict[str, Any]:
        """Store a message. With a ``client_token`` the same message sent twice is stored once."""
        author, text, safety = (
            call.text("author", limit=20),
            call.text("text"),
            call.text("safety", limit=20, default=""),
        )
        if author not in AUTHORS:
            raise Refusal(400, f"author must be one of {', '.join(AUTHORS)}")
        conversation = stable_id("conversation", call.text("conversation", limit=100))
        account = stable_id("account", call.text("account", limit=100))
        message_id, day = uuid.uuid1(), self._clock.now().astimezone(UTC).date()
        self._own(conversation, account, day)
        if token := call.text("client_token", limit=100, default=""):
            earlier = self._first(conversation, stable_id("sent", token), day, message_id)
            if earlier is not None:
                return {"message": str(earlier), "stored": False}
        self._store.execute(
            "INSERT INTO messages_by_conversation"
            " (conversation_id, day, message_id, author, body_ciphertext, key_version, model, safety)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            conversation,
            day,
            message_id,
            author,
            self._cipher.encrypt(text, _place(message_id)),
            self._cipher.key_version,
            call.text("model", limit=60, default=""),
            safety,
        )
        if safety == "crisis":
            self._flag(conversation, day, message_id)
        return {"message": str(message_id), "stored": True}

    def messages(self, call: Call) -> dict[str, Any]:
        """The newest messages of a conversation, oldest first, for its owner only."""
        conversation = stable_id("conversation", call.text("conversation", limit=100))
        account = stable_id("account", call.text("account", limit=100))
        limit = call.number("limit", 50, 1, 500)
        row = self._store.execute(
            "SELECT account_id, days FROM conversations WHERE conversation_id = ?", conversation
        ).one()
        if row is None or row.account_id != account:  # not told apart: whether it exists is nobody's business
            raise Refusal(404, "no such conversation")
        found: list[dict[str, Any]] = []
        for day in sorted(row.days or (), reverse=True):
            found += self._of_day(conversation, day, limit - len(found))
            if len(found) >= limit:
                break
        return {"messages": found[::-1]}

    def _of_day(self, conversation: uuid.UUID, day: Any, limit: int) -> list[dict[str, Any]]:
        rows = self._store.execute(
            "SELECT message_id, author, body_ciphertext, safety FROM messages_by_conversation"
            " WHERE conversation_id = ? AND day = ? LIMIT ?",
            conversation,
            day,
            limit,
        )
        return [
            {
                "message": str(row.message_id),
                "at": _time_of(row.message_id).isoformat(),
                "author": row.author,
                "text": self._cipher.decrypt(bytes(row.body_ciphertext), _place(row.message_id)),
                "safety": row.safety or "",
            }
            for row in rows
        ]

    def _own(self, conversation: uuid.UUID, account: uuid.UUID, day: date) -> None:
        """Record whose conversation it is and that it has messages today; refused for another owner."""
        with self._lock:
            owner = self._known.get((conversation, day))
        if owner is None:
            owner = self._open(conversation, account, day)
        if owner != account:
            raise Refusal(404, "no such conversation")
        with self._lock:
            self._known[conversation, day] = owner
            while len(self._known) > _KNOWN:
                self._known.popitem(last=False)

    def _open(self, conversation: uuid.UUID, account: uuid.UUID, day: date) -> uuid.UUID:
        """The conversation's owner, who is ``account`` where it begins with this message."""
        owner_of = "SELECT account_id, started_at FROM conversations WHERE conversation_id = ?"
        row = self._store.execute(owner_of, conversation).one()
        if row is not None and row.account_id not in (None, account):
            return row.account_id
        started = row.started_at if row is not None and row.started_at else self._clock.now()
        if row is None or row.account_id is None:
            # Two lists of the same: written in this order, a stop between them is repaired by the next message.
            self._store.execute(
                "INSERT INTO conversations_by_account (account_id, started_at, conversation_id, status)"
                " VALUES (?, ?, ?, 'open')",
                account,
                started,
                conversation,
            )
            self._store.execute(
                "INSERT INTO conversations (conversation_id, account_id, started_at, status) VALUES (?, ?, ?, 'open')",
                conversation,
                account,
                started,
            )
        self._store.execute("UPDATE conversations SET days = days + ? WHERE conversation_id = ?", {day}, conversation)
        return account

    def _first(self, conversation: uuid.UUID, token: uuid.UUID, day: date, message_id: uuid.UUID) -> uuid.UUID | None:
        """The message that was stored under this token before, if any."""
        row = self._store.execute(
            "INSERT INTO sent_messages (conversation_id, client_token, day, message_id) VALUES (?, ?, ?, ?)"
            " IF NOT EXISTS",
            conversation,
            token,
            day,
            message_id,
        ).one()
        if row is None or row[0]:
            return None
        earlier = row.message_id
        stored = self._store.execute(
            "SELECT message_id FROM messages_by_conversation WHERE conversation_id = ? AND day = ? AND message_id = ?",
            conversation,
            row.day,
            earlier,
        ).one()
        return earlier if stored else None  # a writer that stopped between the two is finished by this one

    def _flag(self, conversation: uuid.UUID, day: date, message_id: uuid.UUID) -> None:
        self._store.execute(
            "INSERT INTO flagged_messages_by_day (day, flagged_at, conversation_id, message_day, message_id, reason)"
            " VALUES (?, ?, ?, ?, ?, 'crisis')",
            day,
            uuid.uuid1(),
            conversation,
            day,
            message_id,
        )


def _time_of(message_id: uuid.UUID) -> datetime:
    """A version 1 identifier counts 100 ns since 1582."""
    return datetime.fromtimestamp((message_id.time - 0x01B21DD213814000) / 1e7, UTC)


def duties(replica: Replica) -> Duties:
    chat = ChatHistory(replica)
    store = replica.store(CqlStore)
    return Duties(
        routes=(
            endpoint(replica, "/v1/messages", chat.append, scope=WRITE, action="message:add"),
            endpoint(replica, "/v1/messages/list", chat.messages, scope=READ, action="message:list"),
        ),
        tables={store.entry.name: TABLES},
    )
