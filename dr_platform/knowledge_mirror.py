"""A second place to search by meaning: MongoDB, where its server has vector search.

Here: bringing a collection to what PostgreSQL holds (same identifiers, hashes and vectors), its search index, and
asking it. Not here: loading articles; PostgreSQL is what they are loaded into and what is compared against.

A server says by itself whether it can (``$listSearchIndexes`` is answered by its search process alone). Where it
cannot, nothing is written and the outcome says that it is reduced. FerretDB cannot.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString

from dr_platform.catalog import Engine
from dr_platform.databases.port import AccessDenied, DatabaseUnreachable
from dr_platform.errors import TemporaryFailure
from dr_platform.knowledge.embedder import Embedder
from dr_platform.knowledge.search import Hit, MixedModels
from dr_platform.knowledge.store import InUse, read_in_use
from dr_platform.platform import Platform
from dr_platform.verdict import Measure

if TYPE_CHECKING:
    from psycopg import Connection
    from pymongo.database import Database as MongoSchema

CAPABILITY = "vector_search"
COLLECTION = "knowledge_chunks"
BATCH = 500
CANDIDATES_PER_HIT = 20
"""Candidates that the index walks; MongoDB advises 20 or more for each hit that is wanted."""
DEPTH = 60
"""Chunks that are looked at for documents, as in PostgreSQL."""


@dataclass(frozen=True)
class Mirrored:
    """What was done for one set. ``reduced`` says why nothing was; ``searchable`` is false while the
    server still builds its index, which takes it seconds to minutes."""

    written: int = 0
    removed: int = 0
    unchanged: int = 0
    searchable: bool = False
    reduced: str = ""

    def measurements(self) -> dict[str, Measure]:
        if self.reduced:
            return {"mirror": self.reduced}
        return {
            "mirror": "searchable" if self.searchable else "its index is being built",
            "mirror_written": self.written,
            "mirror_removed": self.removed,
            "mirror_unchanged": self.unchanged,
        }


class MirrorFailed(TemporaryFailure):
    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.what = f"{name}: the second copy of the knowledge sets was not brought up to date: {reason}"
        self.untouched = "the articles in PostgreSQL, which searches go on with"
        self.next_step = "seed again: only what differs is written"


def mirror_set(platform: Platform, connection: Connection[Any], set_name: str) -> Mirrored:
    """Bring MongoDB to what PostgreSQL holds of one set, where there is one that can search it; never
    raises for a server that cannot or does not answer, whose copy the next seed brings up to date."""
    from dr_platform.databases.mongodb import MongoDatabase

    chosen = next((d for d in platform.catalog.databases.values() if d.engine is Engine.MONGODB), None)
    used = read_in_use(connection)
    if chosen is None or used is None:
        return Mirrored(reduced="no second database" if chosen is None else "nothing is stored")
    try:
        with contextlib.closing(platform.connect(chosen.name, "admin")) as database:
            if not isinstance(database, MongoDatabase):
                raise TypeError("the engine is MongoDB")
            if CAPABILITY not in database.server().capabilities:
                return Mirrored(reduced=f"{chosen.name} has no vector search; PostgreSQL alone is searched")
            with _told(chosen.name):
                done = synchronise(connection, database.schema, set_name, used)
                return _with_index(done, database.schema, used)
    except (DatabaseUnreachable, AccessDenied, MirrorFailed) as exc:
        return Mirrored(reduced=exc.what)


def synchronise(connection: Connection[Any], schema: MongoSchema, set_name: str, used: InUse) -> Mirrored:
    """Write chunks of a set that differ by hash or model, remove those that are gone. Repeating it
    writes nothing; stopped half-way, the next one goes on."""
    from pymongo import DeleteMany, ReplaceOne

    collection = schema[COLLECTION]
    wanted = _wanted(connection, set_name)
    stored = {
        row["_id"]: (row["content_hash"], row["model"])
        for row in collection.find({"set": set_name}, {"content_hash": 1, "model": 1})
    }
    changed = sorted(key for key, content in wanted.items() if stored.get(key) != (content, used.model))
    gone = sorted(stored.keys() - wanted.keys())
    written = 0
    for at in range(0, len(changed), BATCH):
        rows = _documents(connection, set_name, changed[at : at + BATCH], used)
        collection.bulk_write([ReplaceOne({"_id": row["_id"]}, row, upsert=True) for row in rows], ordered=False)
        written += len(rows)
    for at in range(0, len(gone), BATCH):
        collection.bulk_write([DeleteMany({"_id": {"$in": gone[at : at + BATCH]}})])
    return Mirrored(written, len(gone), len(wanted) - written)


def _wanted(connection: Connection[Any], set_name: str) -> Mapping[str, str]:
    rows = connection.execute(
        "SELECT d.set_name || '/' || d.slug || '#' || c.ordinal, c.content_hash"
        " FROM knowledge.chunks c JOIN knowledge.documents d ON d.id = c.document_id WHERE d.set_name = %s",
        (set_name,),
    ).fetchall()
    return dict(rows)


def _documents(
    connection: Connection[Any], set_name: str, keys: Sequence[str], used: InUse
) -> Sequence[dict[str, Any]]:
    rows = connection.execute(_ROWS, (used.model, set_name, list(keys))).fetchall()
    names = ("_id", "set", "document", "title", "ordinal", "text", "content_hash", "model", "embedding")
    return [dict(zip(names, (*row[:-1], list(map(float, row[-1]))), strict=True)) for row in rows]


_ROWS: LiteralString = """
    SELECT * FROM (
        SELECT d.set_name || '/' || d.slug || '#' || c.ordinal AS key, d.set_name, d.slug, d.title, c.ordinal, c.text,
            c.content_hash, v.model, v.embedding::real[]
        FROM knowledge.chunks c JOIN knowledge.documents d ON d.id = c.document_id
        JOIN knowledge.vectors v ON v.content_hash = c.content_hash AND v.model = %s
        WHERE d.set_name = %s
    ) rows WHERE key = ANY(%s)
"""


def index_name(model: str) -> str:
    """One index for each model: vectors of two do not compare."""
    return f"vectors_{hashlib.sha256(model.encode()).hexdigest()[:12]}"


def index_command(used: InUse) -> dict[str, Any]:
    """``createSearchIndexes`` for a model's vectors, filtered by set and model."""
    vector = {"type": "vector", "path": "embedding", "numDimensions": used.dimensions, "similarity": "cosine"}
    filters = [{"type": "filter", "path": path} for path in ("set", "model")]
    index = {"name": index_name(used.model), "type": "vectorSearch", "definition": {"fields": [vector, *filters]}}
    return {"createSearchIndexes": COLLECTION, "indexes": [index]}


def search_pipeline(used: InUse, vector: Sequence[float], set_name: str | None) -> list[dict[str, Any]]:
    """``$vectorSearch`` among vectors of one model, with what a hit needs."""
    only: dict[str, Any] = {"model": {"$eq": used.model}} | ({"set": {"$eq": set_name}} if set_name else {})
    stage = {
        "index": index_name(used.model),
        "path": "embedding",
        "queryVector": [float(number) for number in vector],
        "numCandidates": CANDIDATES_PER_HIT * DEPTH,
        "limit": DEPTH,
        "filter": only,
    }
    shown = {"document": 1, "title": 1, "set": 1, "text": 1, "score": {"$meta": "vectorSearchScore"}}
    return [{"$vectorSearch": stage}, {"$project": shown}]


def _with_index(done: Mirrored, schema: MongoSchema, used: InUse) -> Mirrored:
    found = {row["name"]: row for row in schema[COLLECTION].aggregate([{"$listSearchIndexes": {}}])}
    if index_name(used.model) not in found:
        schema.command(index_command(used))
    for name in found.keys() - {index_name(used.model)}:
        if name.startswith("vectors_"):  # of a model that is searched no more
            schema.command({"dropSearchIndex": COLLECTION, "name": name})
    searchable = bool(found.get(index_name(used.model), {}).get("queryable"))
    return Mirrored(done.written, done.removed, done.unchanged, searchable)


def mirror_search(
    schema: MongoSchema, used: InUse, embedder: Embedder, question: str, limit: int = 5, *, set_name: str | None = None
) -> tuple[Hit, ...]:
    """By meaning, as ``knowledge.search.vector_search``; ``score`` is the cosine. ``used`` is the model in
    use. Raises ``MixedModels``."""
    if embedder.model_id != used.model:
        raise MixedModels(embedder.model_id, used.model)
    (vector,) = embedder.embed([question])
    if not vector.any():
        return ()
    return best_documents(list(schema[COLLECTION].aggregate(search_pipeline(used, vector, set_name))), limit)


def best_documents(rows: Sequence[Mapping[str, Any]], limit: int) -> tuple[Hit, ...]:
    """A document stands where its best chunk stands. MongoDB's score of a cosine is (1 + cosine) / 2."""
    best: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (-row["score"], row["_id"])):
        best.setdefault((row["set"], row["document"]), row)
    return tuple(
        Hit(row["document"], row["title"], row["set"], 2 * float(row["score"]) - 1, row["text"])
        for row in list(best.values())[: max(limit, 0)]
    )


@contextlib.contextmanager
def _told(name: str) -> Generator[None]:
    from pymongo.errors import PyMongoError

    try:
        yield
    except PyMongoError as exc:
        raise MirrorFailed(name, type(exc).__name__) from None  # its text may quote a passage
