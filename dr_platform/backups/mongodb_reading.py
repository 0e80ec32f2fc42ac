"""What a MongoDB database consists of, read through raw commands: its description, and documents as the
bytes in which the server keeps them.

Documents are not decoded on their way, so no type is lost, and their digest is one over those bytes.

Here: reading. Not here: pieces, snapshots and restoring (``mongodb``).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bson import json_util
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from pymongo import errors
from pymongo.database import Database as MongoSchema

from dr_platform.backups.source import HEARTBEAT, SnapshotFailed, Source
from dr_platform.backups.tally import Tally
from dr_platform.databases.mongodb import LOCK, MongoDatabase

Document = dict[str, Any]

BATCH_DOCUMENTS = 500
_RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
_PORTABLE_INDEX = ("name", "key", "unique")


@dataclass(frozen=True)
class Description:
    """Everything of a database that is not a document. ``roles`` and ``users`` are a record for people:
    access is made anew from the secret store, never out of a backup."""

    collections: tuple[Document, ...]
    """``name``, ``type`` and ``options`` as ``listCollections`` gives them."""
    indexes: Mapping[str, tuple[Document, ...]]
    """Per collection, without the one on ``_id``."""
    users: tuple[Document, ...]
    roles: tuple[Document, ...]

    def written(self) -> bytes:
        return json_util.dumps(vars(self), json_options=json_util.CANONICAL_JSON_OPTIONS, sort_keys=False).encode()

    @classmethod
    def read(cls, written: bytes) -> Description:
        found = json_util.loads(written.decode())
        indexes = {name: tuple(kept) for name, kept in found["indexes"].items()}
        return cls(tuple(found["collections"]), indexes, tuple(found["users"]), tuple(found["roles"]))

    @property
    def stores(self) -> tuple[str, ...]:
        """Names of the collections that hold documents themselves."""
        return tuple(str(found["name"]) for found in self.collections if found.get("type", "collection") != "view")

    @property
    def fingerprint(self) -> str:
        """Over what every server of this protocol keeps: collections, and indexes with their keys. The rest
        is asked for by probes, because a scratch server may be one that has no such thing."""
        kept = {
            "collections": sorted((str(c["name"]), str(c.get("type", "collection"))) for c in self.collections),
            "indexes": {
                name: sorted(_plain({key: index.get(key) for key in _PORTABLE_INDEX}) for index in found)
                for name, found in sorted(self.indexes.items())
            },
        }
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

    @property
    def accounts(self) -> str:
        """What is known of them, for people."""
        hashed = sum("credentials" in user for user in self.users)
        known = f"{hashed} with hashed credentials" if hashed else "the server gives no credentials"
        return f"{len(self.users)} users, {known}; {len(self.roles)} roles"


def _plain(index: Mapping[str, Any]) -> str:
    """Servers disagree whether a direction is 1 or 1.0."""
    keys = [[field, int(way) if isinstance(way, int | float) else way] for field, way in index["key"].items()]
    return json.dumps([index["name"], keys, bool(index.get("unique"))])


def describe(database: MongoDatabase) -> Description:
    schema = database.schema
    listed = [found for found in _all(schema, {"listCollections": 1}) if _is_ours(str(found["name"]))]
    collections = [{key: found[key] for key in ("name", "type", "options") if key in found} for found in listed]
    collections.sort(key=lambda found: found["name"])
    stores = [str(found["name"]) for found in collections if found.get("type", "collection") != "view"]
    indexes = {name: tuple(_index(found) for found in _all(schema, {"listIndexes": name})) for name in stores}
    return Description(
        tuple(collections),
        {name: tuple(sorted((i for i in found if i["name"] != "_id_"), key=_name)) for name, found in indexes.items()},
        tuple(_accounts(database, {"usersInfo": {"forAllDBs": True}, "showCredentials": True}, "users")),
        tuple(_accounts(database, {"rolesInfo": 1}, "roles")),
    )


def _name(found: Document) -> str:
    return str(found["name"])


def _is_ours(name: str) -> bool:
    """A held lock is no data: restored, it would keep the next schema runner out."""
    return not name.startswith("system.") and name != LOCK


def _index(found: Document) -> Document:
    return {key: value for key, value in found.items() if key not in {"v", "ns"}}


def _all(schema: MongoSchema[Document], command: Document) -> Iterator[Document]:
    with schema.client.start_session() as session:
        cursor = schema.command({**command, "cursor": {}}, session=session)["cursor"]
        yield from cursor["firstBatch"]
        while cursor["id"]:
            # The server says where: listings have a name space of their own.
            place = str(cursor["ns"]).partition(".")[2]
            cursor = schema.command({"getMore": cursor["id"], "collection": place}, session=session)["cursor"]
            yield from cursor["nextBatch"]


def _accounts(database: MongoDatabase, command: Document, field: str) -> list[Document]:
    """Empty where the server has no such command or does not let us ask."""
    place = database.client.admin if "usersInfo" in command else database.schema
    try:
        return [dict(found) for found in place.command(command)[field]]
    except errors.OperationFailure:
        return []


@dataclass(frozen=True)
class Range:
    """Documents of one collection: all of them, or those whose ``_id`` lies between two boundaries. Written
    so that every document is in exactly one range whatever the type of its ``_id``: comparisons match their
    own type only, and the first range takes what is not comparable."""

    lower: Any = None
    upper: Any = None

    @property
    def filter(self) -> Document:
        if self.lower is None:
            return {} if self.upper is None else {"_id": {"$not": {"$gte": self.upper}}}
        above = {"_id": {"$gte": self.lower}}
        return above if self.upper is None else {"$and": [above, {"_id": {"$not": {"$gte": self.upper}}}]}


def ranges(boundaries: Sequence[Any]) -> tuple[Range, ...]:
    """``n`` boundaries in rising order make ``n + 1`` ranges."""
    ends = [None, *boundaries, None]
    return tuple(Range(lower, upper) for lower, upper in itertools.pairwise(ends))


def boundaries(
    database: MongoDatabase, collection: str, every: int, at: Timestamp | None = None
) -> Generator[Any, None, None]:
    """The ``_id`` of each ``every``-th document in rising order, of one type."""
    last: Any = None
    while True:
        above = {} if last is None else {"_id": {"$gte": last}}
        command: Document = {"find": collection, "filter": above, "projection": {"_id": 1}, "sort": {"_id": 1}}
        found = list(find(database, {**command, "skip": every, "limit": 1, "singleBatch": True}, at))
        if not found:
            return
        here = RawBSONDocument(found[0])["_id"]
        if type(here) is type(last) or last is None:
            yield here
        if here == last or (last is not None and type(here) is not type(last)):
            return
        last = here


def documents(
    database: MongoDatabase, collection: str, part: Range, at: Timestamp | None = None, tally: Tally | None = None
) -> Iterator[bytes]:
    """The documents' bytes, in the order of ``_id`` where the server sorts by its index; others would sort
    all of them in memory."""
    command: Document = {"find": collection, "filter": part.filter, "batchSize": BATCH_DOCUMENTS}
    if at is not None:
        command["sort"] = {"_id": 1}
    for document in find(database, command, at):
        if tally is not None:
            tally.add(document)
        yield document


def find(database: MongoDatabase, command: Document, at: Timestamp | None) -> Iterator[bytes]:
    """Raises what the driver raises; a cursor that is lost is never an end."""
    if at is not None:
        command = {**command, "readConcern": {"level": "snapshot", "atClusterTime": at}}
    schema = database.schema
    with database.client.start_session() as session:
        cursor: Any = schema.command(command, codec_options=_RAW, session=session)["cursor"]
        yield from (document.raw for document in cursor["firstBatch"])
        while cursor["id"]:
            more = {"getMore": cursor["id"], "collection": command["find"], "batchSize": BATCH_DOCUMENTS}
            cursor = schema.command(more, codec_options=_RAW, session=session)["cursor"]
            yield from (document.raw for document in cursor["nextBatch"])


def cluster_time(database: MongoDatabase) -> Timestamp | None:
    """An instant that the server lets us read as often as we like for a while, or ``None`` where it has
    no such thing. Whoever writes afterwards is not seen."""
    if "transactions" not in database.server().capabilities:
        return None
    try:
        answer = database.schema.command({"find": HEARTBEAT, "limit": 1, "readConcern": {"level": "snapshot"}})
    except errors.OperationFailure:
        return None
    found = answer["cursor"].get("atClusterTime")
    return found if isinstance(found, Timestamp) else None


@contextlib.contextmanager
def reading(source: Source) -> Generator[MongoDatabase]:
    """A connection for reading; what breaks is told as ``SnapshotFailed``."""
    try:
        with contextlib.closing(MongoDatabase(source.database, source.endpoint, source.login)) as database:
            yield database
    except errors.PyMongoError as exc:
        code = getattr(exc, "code", None)
        reason = type(exc).__name__ + (f" (code {code})" if code else "")
        raise SnapshotFailed(source.name, reason) from exc
