"""Services without a role: they keep records, encrypted, in the first database they declare.

A record has a kind, a revision that rises with every change, and a content that only the service
can read. Services without a database keep none.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from dr_platform.reference_service.cipher import Place
from dr_platform.reference_service.replica import Replica
from dr_platform.reference_service.roles.duties import Duties
from dr_platform.reference_service.web import Call, Refusal, endpoint

TABLE = "work.records"
COLLECTION = "service_records"
READ, WRITE = "records:read", "records:write"


@dataclass(frozen=True)
class Record:
    id: str
    kind: str
    revision: int
    sealed: bytes = b""


class Keeper(Protocol):
    """Where records of one service lie. A change names the revision that was read; another one in
    the store makes ``put`` and ``remove`` return ``False`` and changes nothing."""

    def add(self, record: Record) -> None: ...
    def get(self, record_id: str) -> Record | None: ...
    def put(self, record: Record, expected: int) -> bool: ...
    def remove(self, record_id: str, expected: int) -> bool: ...
    def newest(self, kind: str, limit: int) -> list[Record]: ...


class PostgresKeeper:
    def __init__(self, store: Any, service: str) -> None:
        self._store = store
        self._service = service

    def add(self, record: Record) -> None:
        with self._store.connection() as connection:
            connection.execute(
                "INSERT INTO work.records (service, id, kind, body_ciphertext) VALUES (%s, %s, %s, %s)",
                (self._service, record.id, record.kind, record.sealed),
            )

    def get(self, record_id: str) -> Record | None:
        with self._store.connection() as connection:
            row = connection.execute(
                "SELECT id::text, kind, revision, body_ciphertext FROM work.records"
                " WHERE service = %s AND id = %s AND kind <> 'canary'",
                (self._service, record_id),
            ).fetchone()
        return Record(*row[:3], bytes(row[3])) if row else None

    def put(self, record: Record, expected: int) -> bool:
        with self._store.connection() as connection:
            changed = connection.execute(
                "UPDATE work.records SET body_ciphertext = %s, revision = %s, updated_at = now()"
                " WHERE service = %s AND id = %s AND revision = %s",
                (record.sealed, record.revision, self._service, record.id, expected),
            )
            return changed.rowcount == 1

    def remove(self, record_id: str, expected: int) -> bool:
        with self._store.connection() as connection:
            changed = connection.execute(
                "DELETE FROM work.records WHERE service = %s AND id = %s AND revision = %s",
                (self._service, record_id, expected),
            )
            return changed.rowcount == 1

    def newest(self, kind: str, limit: int) -> list[Record]:
        with self._store.connection() as connection:
            rows = connection.execute(
                "SELECT id::text, kind, revision FROM work.records WHERE service = %s AND kind = %s"
                " ORDER BY created_at DESC LIMIT %s",
                (self._service, kind, limit),
            ).fetchall()
        return [Record(*row) for row in rows]


class MongoKeeper:
    def __init__(self, store: Any, service: str) -> None:
        self._store = store
        self._service = service

    def _key(self, record_id: str) -> str:
        return f"{self._service}:{record_id}"

    def add(self, record: Record) -> None:
        document = {
            "_id": self._key(record.id),
            "service": self._service,
            "kind": record.kind,
            "revision": record.revision,
            "body": record.sealed,
            "created_at": datetime.now(UTC),
        }
        with self._store.database() as database:
            database[COLLECTION].insert_one(document)

    def get(self, record_id: str) -> Record | None:
        with self._store.database() as database:
            found = database[COLLECTION].find_one({"_id": self._key(record_id)})
        return Record(record_id, found["kind"], found["revision"], bytes(found["body"])) if found else None

    def put(self, record: Record, expected: int) -> bool:
        with self._store.database() as database:
            changed = database[COLLECTION].update_one(
                {"_id": self._key(record.id), "revision": expected},
                {"$set": {"body": record.sealed, "revision": record.revision}},
            )
        return changed.matched_count == 1

    def remove(self, record_id: str, expected: int) -> bool:
        with self._store.database() as database:
            gone = database[COLLECTION].delete_one({"_id": self._key(record_id), "revision": expected})
        return gone.deleted_count == 1

    def newest(self, kind: str, limit: int) -> list[Record]:
        with self._store.database() as database:
            found = database[COLLECTION].find({"service": self._service, "kind": kind}, {"body": 0})
            rows = list(found.sort("created_at", -1).limit(limit))
        return [Record(row["_id"].partition(":")[2], row["kind"], row["revision"]) for row in rows]


class RedisKeeper:
    """Records of a service that has only a cache: they expire, like everything on that server."""

    def __init__(self, store: Any, service: str, ttl_s: int) -> None:
        self._store = store
        self._service = service
        self._ttl_s = ttl_s

    def _key(self, record_id: str) -> str:
        return f"cache:record:{self._service}:{record_id}"

    def _index(self, kind: str) -> str:
        return f"cache:records:{self._service}:{kind}"

    def add(self, record: Record) -> None:
        fields = {"kind": record.kind, "revision": record.revision, "body": record.sealed}
        with self._store.client() as client, client.pipeline(transaction=True) as pipe:
            pipe.hset(self._key(record.id), mapping=fields)
            pipe.expire(self._key(record.id), self._ttl_s)
            pipe.lpush(self._index(record.kind), record.id)
            pipe.ltrim(self._index(record.kind), 0, 999)
            pipe.expire(self._index(record.kind), self._ttl_s)
            pipe.execute()

    def get(self, record_id: str) -> Record | None:
        with self._store.client() as client:
            found = client.hgetall(self._key(record_id))
        return Record(record_id, found[b"kind"].decode(), int(found[b"revision"]), found[b"body"]) if found else None

    def put(self, record: Record, expected: int) -> bool:
        return self._change(record.id, expected, {"body": record.sealed, "revision": record.revision})

    def remove(self, record_id: str, expected: int) -> bool:
        return self._change(record_id, expected, None)

    def _change(self, record_id: str, expected: int, fields: Mapping[str, Any] | None) -> bool:
        import redis

        key = self._key(record_id)
        with self._store.client() as client, client.pipeline(transaction=True) as pipe:
            try:
                pipe.watch(key)
                if (found := pipe.hget(key, "revision")) is None or int(found) != expected:
                    return False
                pipe.multi()
                pipe.hset(key, mapping=dict(fields)) if fields else pipe.delete(key)
                pipe.execute()
            except redis.WatchError:  # somebody else was first
                return False
        return True

    def newest(self, kind: str, limit: int) -> list[Record]:
        with self._store.client() as client:
            ids = [found.decode() for found in client.lrange(self._index(kind), 0, limit - 1)]
            revisions = [client.hget(self._key(one), "revision") for one in ids]
        return [Record(one, kind, int(r)) for one, r in zip(ids, revisions, strict=True) if r is not None]


class Records:
    """The handlers over whichever keeper the service has."""

    def __init__(self, replica: Replica, keeper: Keeper) -> None:
        self._replica = replica
        self._keeper = keeper

    def _place(self, record_id: str) -> Place:
        return Place(f"{self._replica.identity.service}.records", "body", record_id)

    def add(self, call: Call) -> dict[str, Any]:
        record_id, kind = str(uuid.uuid4()), _kind(call.text("kind", limit=60))
        sealed = self._replica.cipher.encrypt(call.text("content"), self._place(record_id))
        self._keeper.add(Record(record_id, kind, 1, sealed))
        return {"id": record_id, "kind": kind, "revision": 1}

    def get(self, call: Call) -> dict[str, Any]:
        found = self._found(call)
        content = self._replica.cipher.decrypt(found.sealed, self._place(found.id))
        return {"id": found.id, "kind": found.kind, "revision": found.revision, "content": content}

    def put(self, call: Call) -> dict[str, Any]:
        found, expected = self._found(call), call.number("revision", 0, 1, 2**31 - 2)
        sealed = self._replica.cipher.encrypt(call.text("content"), self._place(found.id))
        if not self._keeper.put(Record(found.id, found.kind, expected + 1, sealed), expected):
            raise Refusal(409, "the record was changed after it was read")
        return {"id": found.id, "kind": found.kind, "revision": expected + 1}

    def remove(self, call: Call) -> dict[str, Any]:
        found, expected = self._found(call), call.number("revision", 0, 1, 2**31 - 2)
        if not self._keeper.remove(found.id, expected):
            raise Refusal(409, "the record was changed after it was read")
        return {"id": found.id, "removed": True}

    def newest(self, call: Call) -> dict[str, Any]:
        """Without contents: reading one is audited for itself."""
        kind = _kind(call.query.get("kind", ""))
        found = self._keeper.newest(kind, call.number("limit", 20, 1, 200))
        return {"records": [{"id": r.id, "kind": r.kind, "revision": r.revision} for r in found]}

    def _found(self, call: Call) -> Record:
        try:
            record_id = str(uuid.UUID(call.path["id"]))
        except ValueError:
            raise Refusal(404, "no such record") from None
        found = self._keeper.get(record_id)
        if found is None:
            raise Refusal(404, "no such record")
        return found


def _kind(text: str) -> str:
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789-")
    if not 2 <= len(text) <= 60 or not set(text) <= allowed or not text[0].isalpha() or text == "canary":
        raise Refusal(400, "kind must be 2 to 60 lower-case letters, digits and hyphens, such as note")
    return text


def _keeper(replica: Replica) -> tuple[Keeper, dict[str, tuple[str, ...]]] | None:
    """Over the most durable database the service has, with the tables needed in it."""
    service = replica.identity.service
    by_engine = {store.entry.engine: store for store in replica.stores.values()}
    if store := by_engine.get("postgresql"):
        return PostgresKeeper(store, service), {store.entry.name: (TABLE,)}
    if store := by_engine.get("mongodb"):
        return MongoKeeper(store, service), {}
    if store := by_engine.get("redis"):
        return RedisKeeper(store, service, replica.settings.cache_ttl_s), {}
    return None


def duties(replica: Replica) -> Duties:
    found = _keeper(replica)
    if found is None:
        return Duties()
    keeper, tables = found
    records = Records(replica, keeper)
    one = "/v1/records/{id}"
    return Duties(
        routes=(
            endpoint(replica, "/v1/records", records.add, scope=WRITE, action="record:add"),
            endpoint(replica, "/v1/records", records.newest, scope=READ, methods=("GET",), action="record:list"),
            endpoint(replica, one, records.get, scope=READ, methods=("GET",), action="record:read"),
            endpoint(replica, one, records.put, scope=WRITE, methods=("PUT",), action="record:change"),
            endpoint(replica, one, records.remove, scope=WRITE, methods=("DELETE",), action="record:remove"),
        ),
        tables=tables,
    )
