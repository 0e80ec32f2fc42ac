"""Guards that MongoDB's copy of a set equals PostgreSQL's, on the embedded servers, and that a server without vector
search is told as reduced. ``$vectorSearch`` itself needs a server that nothing here can start: its commands are
compared with their documented form."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dr_platform.catalog import Engine, load_catalog
from dr_platform.clock import SystemClock
from dr_platform.databases.connect import connect_database
from dr_platform.databases.port import ManagedDatabase
from dr_platform.databases.schema import migrate, read_steps
from dr_platform.embedding import WordVectors
from dr_platform.knowledge.http_embedder import HttpEmbedder, Tei
from dr_platform.knowledge.search import MixedModels
from dr_platform.knowledge.seeding import seed
from dr_platform.knowledge.store import InUse, read_in_use
from dr_platform.knowledge_mirror import (
    COLLECTION,
    best_documents,
    index_command,
    index_name,
    mirror_search,
    mirror_set,
    search_pipeline,
    synchronise,
)
from dr_platform.platform import Platform
from tests.contracts.embedded_servers import Running, running
from tests.contracts.test_knowledge_store import address
from tests.embedding_server import embedding_server

pytestmark = pytest.mark.contract

CATALOG = Path(__file__).parents[2] / "catalog"
SLEEP = load_catalog(CATALOG).knowledge["sleep"]
LONG, SHORT = WordVectors(), WordVectors("wordllama-l2-supercat-128", 128)
USED = InUse(LONG.model_id, LONG.dimensions)
Connection = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Running]:
    with running(Engine.POSTGRESQL, "postgres") as server:
        with closing(connect_database(server.database, server.endpoint, server.secrets, "admin")) as database:
            migrate(database, read_steps(CATALOG / "databases" / "postgres" / "migrations"))
        yield server


@pytest.fixture(scope="module")
def mongodb() -> Iterator[Running]:
    with running(Engine.MONGODB, "mongodb") as server:
        yield server


@pytest.fixture
def connection(postgres: Running) -> Iterator[Connection]:
    with psycopg.connect(address(postgres), autocommit=True) as connection:
        connection.execute(
            "TRUNCATE knowledge.documents, knowledge.seeds, knowledge.term_vectors, knowledge.vectors,"
            " knowledge.models CASCADE"
        )
        yield connection


@pytest.fixture
def schema(mongodb: Running) -> Iterator[Any]:
    with closing(connect_database(mongodb.database, mongodb.endpoint, mongodb.secrets, "admin")) as database:
        database.schema.drop_collection(COLLECTION)  # type: ignore[attr-defined]
        yield database.schema  # type: ignore[attr-defined]


def test_the_copy_has_the_same_identifiers_hashes_and_vectors_and_follows_every_change(
    connection: Connection, schema: Any, tmp_path: Path
) -> None:
    shutil.copytree(CATALOG / "knowledge" / "sleep", tmp_path / "sleep")
    articles = tmp_path / "sleep" / "articles"
    seed(connection, SLEEP, articles, WordVectors())
    first = synchronise(connection, schema, "sleep", USED)
    chunks = connection.execute("SELECT count(*) FROM knowledge.chunks").fetchone()
    assert (first.written,) == chunks
    assert synchronise(connection, schema, "sleep", USED).written == 0
    article = articles / "napping-wisely.md"
    article.write_text(article.read_text("utf-8") + "\n\nQuokkas were put in here by a test, at the end of it all.\n")
    (articles / "bedroom-setup.md").unlink()
    seed(connection, SLEEP, articles, WordVectors())
    second = synchronise(connection, schema, "sleep", USED)
    assert 0 < second.written < 3
    assert second.removed > 0
    rows = connection.execute(
        "SELECT d.set_name || '/' || d.slug || '#' || c.ordinal, c.content_hash, v.embedding::real[]"
        " FROM knowledge.chunks c JOIN knowledge.documents d ON d.id = c.document_id"
        " JOIN knowledge.vectors v ON v.content_hash = c.content_hash"
    ).fetchall()
    stored = {row["_id"]: (row["content_hash"], row["embedding"]) for row in schema[COLLECTION].find({})}
    assert stored == {key: (content, pytest.approx(vector)) for key, content, vector in rows}


@pytest.mark.parametrize("size", [128, 200], ids=["in this process", "on a server"])
def test_another_model_is_written_anew_and_other_sets_stay(connection: Connection, schema: Any, size: int) -> None:
    schema[COLLECTION].insert_one({"_id": "other/a#0", "set": "other", "content_hash": "x", "model": "m"})
    with embedding_server(vectors=WordVectors("served", 200).embed) as server:
        embedder = SHORT if size == 128 else HttpEmbedder("acme-200", 200, server.url, Tei(), SystemClock())
        seed(connection, SLEEP, CATALOG / "knowledge" / "sleep" / "articles", embedder)
    used = read_in_use(connection)
    assert used is not None
    synchronise(connection, schema, "sleep", used)
    lengths = {len(row["embedding"]) for row in schema[COLLECTION].find({"set": "sleep"})}
    assert lengths == {size}
    assert schema[COLLECTION].count_documents({"set": "other"}) == 1


def test_a_server_without_vector_search_is_told_as_reduced_and_given_nothing(
    connection: Connection, schema: Any, mongodb: Running, tmp_path: Path
) -> None:
    class Placed(Platform):
        def connect(self, name: str, role: str = "application") -> ManagedDatabase:
            return connect_database(mongodb.database, mongodb.endpoint, mongodb.secrets, role)  # type: ignore[arg-type]

    seed(connection, SLEEP, CATALOG / "knowledge" / "sleep" / "articles", WordVectors())
    done = mirror_set(Placed.open("local", catalog=CATALOG, state=tmp_path), connection, "sleep")
    assert "no vector search" in done.reduced
    assert done.measurements() == {"mirror": done.reduced}
    assert schema[COLLECTION].count_documents({}) == 0


def test_the_index_and_the_question_have_the_documented_form() -> None:
    name = index_name(USED.model)
    assert index_command(USED) == {
        "createSearchIndexes": COLLECTION,
        "indexes": [
            {
                "name": name,
                "type": "vectorSearch",
                "definition": {
                    "fields": [
                        {"type": "vector", "path": "embedding", "numDimensions": 256, "similarity": "cosine"},
                        {"type": "filter", "path": "set"},
                        {"type": "filter", "path": "model"},
                    ]
                },
            }
        ],
    }
    (search, _) = search_pipeline(USED, [0.0, 1.0], "sleep")
    asked = search["$vectorSearch"]
    assert (asked["index"], asked["path"], asked["queryVector"]) == (name, "embedding", [0.0, 1.0])
    assert asked["limit"] <= asked["numCandidates"] <= 10_000
    assert asked["filter"] == {"model": {"$eq": USED.model}, "set": {"$eq": "sleep"}}
    assert index_name(USED.model) != index_name(SHORT.model_id)


def test_a_document_stands_where_its_best_chunk_stands() -> None:
    rows = [
        {"_id": f"s/{slug}#{n}", "set": "s", "document": slug, "title": slug, "text": f"{slug} {n}", "score": score}
        for slug, n, score in (("a", 0, 0.7), ("b", 0, 0.9), ("a", 1, 0.95), ("c", 0, 0.6))
    ]
    hits = best_documents(rows, 2)
    assert [(hit.document, hit.text, round(hit.score, 3)) for hit in hits] == [("a", "a 1", 0.9), ("b", "b 0", 0.8)]


def test_a_question_of_another_model_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(MixedModels):
        mirror_search(None, USED, SHORT, "How do I sleep?")  # type: ignore[arg-type]
