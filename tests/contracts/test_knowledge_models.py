"""Guards that a model's vectors are built beside those in use, compared, switched to and gone back from, on a
real PostgreSQL with pgvector: searches never notice, never compare across models, and never get worse unasked."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
import pytest

from dr_platform.catalog import load_catalog
from dr_platform.clock import ManualClock, SystemClock
from dr_platform.databases.connect import connect_database
from dr_platform.databases.schema import migrate, read_steps
from dr_platform.embedding import WordVectors
from dr_platform.knowledge import store
from dr_platform.knowledge.embedder import BadEmbedding, Embedder, EmbedderUnreachable
from dr_platform.knowledge.evaluate import evaluate_set
from dr_platform.knowledge.http_embedder import HttpEmbedder, Tei
from dr_platform.knowledge.models import (
    Answers,
    ModelIncomplete,
    ModelInUse,
    NoSuchModel,
    NotAsGood,
    read_models,
    reindex,
    retire,
    switch,
)
from dr_platform.knowledge.search import MixedModels, hybrid_search, vector_search
from dr_platform.knowledge.seeding import seed
from dr_platform.knowledge.store import ModelChanged, WrongDimensions
from tests.contracts.embedded_servers import Running, running_with_schema
from tests.contracts.test_knowledge_store import Counting, address
from tests.embedding_server import EmbeddingServer, Fault, embedding_server

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

pytestmark = pytest.mark.contract

CATALOG = Path(__file__).parents[2] / "catalog"
SLEEP = load_catalog(CATALOG).knowledge["sleep"]
QUESTION = "How do I nap without ruining the night?"
CLOCK = SystemClock()
LONG, SHORT = WordVectors(), WordVectors("wordllama-l2-supercat-128", 128)
REMOTE = "acme-384"
Connection = psycopg.Connection[Any]


class Hashing:
    """Signed hashing of words: deterministic, of another size, and worse than word vectors."""

    model_id = "hashing-384"
    dimensions = 384

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import numpy as np

        rows = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for at, text in enumerate(texts):
            for word in text.lower().split():
                digest = hashlib.sha256(word.encode()).digest()
                rows[at, int.from_bytes(digest[:4], "big") % self.dimensions] += 1 if digest[4] % 2 else -1
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


class Blind(Hashing):
    """Gives every text the same vector, so that meaning finds nothing."""

    model_id = "blind-384"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return super().embed(["same"] * len(texts))


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running_with_schema() as server:
        yield server


@pytest.fixture
def connection(server: Running) -> Iterator[Connection]:
    """A store that holds the set on sleep, by the login that may load."""
    with psycopg.connect(address(server), autocommit=True) as connection:
        connection.execute(
            "TRUNCATE knowledge.documents, knowledge.seeds, knowledge.term_vectors, knowledge.vectors,"
            " knowledge.models CASCADE"
        )
        for model in (LONG.model_id, SHORT.model_id, Hashing.model_id, Blind.model_id, REMOTE):
            store.drop_indexes(connection, model)
        seed(connection, SLEEP, CATALOG / "knowledge" / "sleep" / "articles", LONG)
        yield connection


def asker(connection: Connection) -> Any:
    def ask(embedder: Embedder) -> Answers:
        report = evaluate_set(connection, embedder, SLEEP, CATALOG / "knowledge" / "sleep")
        return Answers(report, (report,))

    return ask


def switch_to(connection: Connection, embedder: Embedder, previous: Embedder | None, chosen: str = "") -> Any:
    return switch(connection, embedder, previous, asker(connection), CLOCK, chosen=chosen)


def states(connection: Connection) -> dict[str, tuple[str, int]]:
    return {model.model: (model.state, model.missing) for model in read_models(connection)}


def test_vectors_of_another_size_are_built_beside_and_searches_do_not_notice(connection: Connection) -> None:
    before = hybrid_search(connection, LONG, QUESTION)
    report = reindex(connection, Hashing(), CLOCK)
    assert report.embedded > 14
    assert report.terms > 100
    assert states(connection) == {LONG.model_id: ("active", 0), "hashing-384": ("ready", 0)}
    assert hybrid_search(connection, LONG, QUESTION) == before
    with pytest.raises(MixedModels):
        hybrid_search(connection, Hashing(), QUESTION)


def test_building_again_embeds_nothing(connection: Connection) -> None:
    reindex(connection, SHORT, CLOCK)
    again = reindex(connection, SHORT, CLOCK)
    assert (again.embedded, again.terms) == (0, 0)


KILLED = """
import os, signal, sys
from dr_platform.clock import SystemClock
from dr_platform.embedding import WordVectors
from dr_platform.knowledge import store
from dr_platform.knowledge.models import reindex
import psycopg

store.EMBED_BATCH = 8

class Dying(WordVectors):
    calls = 0
    def embed(self, texts):
        self.calls += 1
        if self.calls == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed(texts)

with psycopg.connect(sys.stdin.read(), autocommit=True) as connection:
    reindex(connection, Dying("wordllama-l2-supercat-128", 128), SystemClock())
"""


def test_building_that_was_killed_goes_on_where_it_was(server: Running, connection: Connection) -> None:
    command = [sys.executable, "-c", KILLED]
    child = subprocess.run(command, input=address(server).encode(), check=False, cwd=CATALOG.parent)
    assert child.returncode == -signal.SIGKILL
    state, missing = states(connection)[SHORT.model_id]
    assert state == "building"
    assert reindex(connection, SHORT, CLOCK).embedded == missing
    wanted = connection.execute("SELECT count(DISTINCT content_hash) FROM knowledge.chunks").fetchone()
    assert wanted == (missing + 16,)
    assert states(connection)[SHORT.model_id] == ("ready", 0)


def test_a_model_that_is_no_worse_is_switched_to_and_loads_go_on_with_it(connection: Connection) -> None:
    done = switch_to(connection, SHORT, LONG)
    assert (done.previous, done.model) == (LONG.model_id, SHORT.model_id)
    assert done.before.questions == done.after.questions > 10
    assert states(connection) == {SHORT.model_id: ("active", 0), LONG.model_id: ("ready", 0)}
    assert hybrid_search(connection, SHORT, QUESTION)[0].document == "napping-wisely"
    with pytest.raises(MixedModels):
        hybrid_search(connection, LONG, QUESTION)
    report = seed(connection, SLEEP, CATALOG / "knowledge" / "sleep" / "articles", SHORT)
    assert (report.documents_unchanged, report.embedded) == (14, 0)


def test_each_model_is_searched_by_an_index_of_its_own(connection: Connection) -> None:
    switch_to(connection, Hashing(), LONG, chosen="a test")
    connection.execute("SET enable_sort = off")  # so few rows would be sorted
    for embedder in (LONG, Hashing()):
        plan = connection.execute(
            f"EXPLAIN SELECT content_hash FROM knowledge.vectors WHERE model = '{embedder.model_id}'"
            f" ORDER BY embedding::vector({embedder.dimensions}) <=> %s::vector({embedder.dimensions}) LIMIT 5",
            (str(embedder.embed([QUESTION])[0].tolist()),),
        ).fetchall()
        assert store.index_of("vectors", embedder.model_id) in str(plan)


def test_a_worse_model_stays_beside_unless_it_is_chosen_with_a_reason(connection: Connection) -> None:
    before = hybrid_search(connection, LONG, QUESTION)
    with pytest.raises(NotAsGood, match="recall@5 falls"):
        switch_to(connection, Blind(), LONG)
    assert states(connection) == {LONG.model_id: ("active", 0), "blind-384": ("ready", 0)}
    assert hybrid_search(connection, LONG, QUESTION) == before
    done = switch_to(connection, Blind(), LONG, chosen="the licence of the other one has ended")
    assert done.reason.startswith("the licence")
    assert states(connection)["blind-384"] == ("active", 0)


def test_without_the_embedder_in_use_only_a_choice_switches(connection: Connection) -> None:
    with pytest.raises(NotAsGood, match="nothing to compare"):
        switch_to(connection, SHORT, None)
    done = switch_to(connection, SHORT, None, chosen="the former embedder is gone")
    assert done.before is None


def test_going_back_catches_up_on_what_was_loaded_meanwhile(connection: Connection, tmp_path: Path) -> None:
    switch_to(connection, SHORT, LONG)
    own = tmp_path / "own.jsonl"
    own.write_text('{"title": "Sleeping beside a quokka", "text": "Close the window before the quokka comes."}\n')
    seed(connection, SLEEP, own, SHORT)
    assert states(connection)[LONG.model_id] == ("ready", 1)
    counting = Counting()
    switch_to(connection, counting, SHORT, chosen="a test")
    passages = [text for text in counting.asked if "before the quokka comes" in text]
    assert len(passages) == 1
    assert not [text for text in counting.asked if text.startswith("Napping without")]
    found = vector_search(connection, LONG, "a quokka at the window", 1)
    assert found[0].document == "sleeping-beside-a-quokka"


def test_an_article_that_goes_leaves_no_vector_of_any_model(connection: Connection, tmp_path: Path) -> None:
    articles = tmp_path / "sleep" / "articles"
    shutil.copytree(CATALOG / "knowledge" / "sleep", articles.parent)
    reindex(connection, SHORT, CLOCK)
    (articles / "napping-wisely.md").unlink()
    seed(connection, SLEEP, articles, LONG)
    assert states(connection) == {LONG.model_id: ("active", 0), SHORT.model_id: ("ready", 0)}
    counted = (
        "SELECT count(*) FROM knowledge.vectors WHERE content_hash NOT IN (SELECT content_hash FROM knowledge.chunks)"
    )
    assert connection.execute(counted).fetchone() == (0,)


def test_what_is_loaded_between_building_and_switching_is_not_lost(
    connection: Connection, tmp_path: Path, server: Running
) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text('{"title": "Late", "text": "It came while the vectors were made."}\n')

    class Late(WordVectors):
        """A seed ends after the last chunk was embedded."""

        def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
            if own.exists():
                with psycopg.connect(address(server), autocommit=True) as other:
                    seed(other, SLEEP, own, LONG)
                own.unlink()
            return super().embed(texts)

    late = Late(SHORT.model_id, SHORT.dimensions)
    try:
        switch_to(connection, late, LONG)
    except ModelIncomplete:
        assert states(connection)[LONG.model_id] == ("active", 0)
        switch_to(connection, late, LONG)
    assert states(connection)[SHORT.model_id] == ("active", 0)


def test_searches_go_on_with_the_model_before_until_the_switch_has_ended(
    server: Running, connection: Connection
) -> None:
    seen: list[str] = []
    ask = asker(connection)

    def looking(embedder: Embedder) -> Answers:
        with psycopg.connect(address(server, "application"), autocommit=True) as reader:
            used = store.read_in_use(reader)
            assert used is not None
            seen.append(used.model)
            assert hybrid_search(reader, LONG, QUESTION)
        return ask(embedder)

    switch(connection, SHORT, LONG, looking, CLOCK)
    assert seen == [LONG.model_id, LONG.model_id]


def test_of_two_switches_at_once_both_end_and_one_model_is_in_use(server: Running, connection: Connection) -> None:
    ended: list[str] = []

    def work(embedder: Embedder) -> None:
        with psycopg.connect(address(server), autocommit=True) as own:
            switch(own, embedder, LONG, asker(own), CLOCK, chosen="a test")
            ended.append(embedder.model_id)

    threads = [threading.Thread(target=work, args=(e,)) for e in (SHORT, Hashing())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(ended) == ["hashing-384", SHORT.model_id]
    assert sorted(state for state, _ in states(connection).values()) == ["active", "ready", "ready"]


def test_a_retired_model_is_gone_and_the_one_in_use_cannot_be(connection: Connection) -> None:
    reindex(connection, SHORT, CLOCK)
    with pytest.raises(ModelInUse):
        retire(connection, LONG.model_id, CLOCK)
    assert retire(connection, SHORT.model_id, CLOCK) > 14
    assert states(connection) == {LONG.model_id: ("active", 0)}
    with pytest.raises(NoSuchModel):
        retire(connection, SHORT.model_id, CLOCK)
    assert hybrid_search(connection, LONG, QUESTION)


def test_a_model_whose_size_changed_under_its_name_is_refused(connection: Connection) -> None:
    reindex(connection, SHORT, CLOCK)
    with pytest.raises(WrongDimensions):
        reindex(connection, WordVectors(SHORT.model_id, 64), CLOCK)


def test_a_store_of_the_release_before_is_taken_over_and_can_be_taken_back(server: Running) -> None:
    steps = read_steps(CATALOG / "databases" / "postgres" / "migrations")
    (step,) = [step for step in steps if step.version == "1.3.0"]
    database = connect_database(server.database, server.endpoint, server.secrets, "admin")
    try:
        with psycopg.connect(address(server), autocommit=True) as connection:
            connection.execute(
                "TRUNCATE knowledge.documents, knowledge.seeds, knowledge.term_vectors, knowledge.vectors,"
                " knowledge.models CASCADE"
            )
            seed(connection, SLEEP, CATALOG / "knowledge" / "sleep" / "articles", LONG)
            reindex(connection, Hashing(), CLOCK)
            found = vector_search(connection, LONG, QUESTION, 10)
            database.undo(step)
            migrate(database, steps)
            assert [(h.document, round(h.score, 5)) for h in vector_search(connection, LONG, QUESTION, 10)] == [
                (h.document, round(h.score, 5)) for h in found
            ]
            report = seed(connection, SLEEP, CATALOG / "knowledge" / "sleep" / "articles", LONG)
            assert (report.documents_unchanged, report.embedded) == (14, 0)
            assert states(connection) == {LONG.model_id: ("active", 0)}
    finally:
        database.close()


# Servers


@pytest.fixture
def remote() -> Iterator[tuple[HttpEmbedder, EmbeddingServer]]:
    """A model of another size on a real server, and the server."""
    with embedding_server(vectors=Hashing().embed) as server:
        yield HttpEmbedder(REMOTE, 384, server.url, Tei(), ManualClock(), batch=64), server


@pytest.fixture
def many(connection: Connection, tmp_path: Path) -> Path:
    """300 articles more than the set has, which the store holds."""
    source = tmp_path / "many.jsonl"
    source.write_text("".join(f'{{"title": "Night {n}", "text": "Rest number {n} is good."}}\n' for n in range(300)))
    seed(connection, SLEEP, source, LONG)
    return source


def contents(connection: Connection) -> list[Any]:
    statements: tuple[LiteralString, ...] = (
        "SELECT slug, content_hash, updated_at FROM knowledge.documents ORDER BY 1",
        "SELECT content_hash FROM knowledge.chunks ORDER BY 1",
        "SELECT lexeme, word, model FROM knowledge.term_vectors ORDER BY 1, 3",
        "SELECT * FROM knowledge.seeds ORDER BY 1, 2",
    )
    return [connection.execute(statement).fetchall() for statement in statements]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        pytest.param(Fault(503), EmbedderUnreachable, id="down"),
        pytest.param(Fault(429, headers={"Retry-After": "9000"}), EmbedderUnreachable, id="busy for hours"),
        pytest.param(Fault(body=b"[[", promised=99), EmbedderUnreachable, id="cut short"),
        pytest.param(Fault(401), BadEmbedding, id="key refused"),
        pytest.param(Fault(body=[[1.0] * 256] * 64), BadEmbedding, id="another size"),
        pytest.param(Fault(body=[[float("nan")] * 384] * 64), BadEmbedding, id="NaN"),
    ],
)
@pytest.mark.usefixtures("many")
def test_building_with_a_server_that_fails_goes_on_where_it_was_and_searches_never_notice(
    connection: Connection, remote: tuple[HttpEmbedder, EmbeddingServer], fault: Fault, told: type[Exception]
) -> None:
    embedder, server = remote
    found, stored = hybrid_search(connection, LONG, QUESTION), contents(connection)
    server.well_for, server.forever = 5, fault
    with pytest.raises(told):
        reindex(connection, embedder, CLOCK)
    state, missing = states(connection)[REMOTE]
    assert state == "building"
    assert contents(connection) == stored
    assert hybrid_search(connection, LONG, QUESTION) == found
    kept = server.texts[: 2 * store.KEEP_BATCH]
    server.forever = None
    server.asked.clear()
    again = HttpEmbedder(REMOTE, 384, server.url, Tei(), ManualClock(), batch=64)
    assert reindex(connection, again, CLOCK).embedded == missing
    assert set(server.texts[1:]).isdisjoint(kept), "but for one, which shows that the model is the same"
    assert states(connection)[REMOTE] == ("ready", 0)


def test_a_store_that_is_searched_with_a_server_is_loaded_and_left_as_it_is_while_that_is_down(
    connection: Connection, remote: tuple[HttpEmbedder, EmbeddingServer], tmp_path: Path
) -> None:
    embedder, server = remote
    done = switch_to(connection, embedder, LONG, chosen="a test")
    assert done.before is not None
    assert states(connection) == {REMOTE: ("active", 0), LONG.model_id: ("ready", 0)}
    assert hybrid_search(connection, embedder, QUESTION)[0].document == "napping-wisely"
    own = tmp_path / "own.jsonl"
    own.write_text('{"title": "Sleeping beside a quokka", "text": "Close the window before the quokka comes."}\n')
    stored = contents(connection)
    server.well_for, server.forever = len(server.asked) + 2, Fault(500)  # at the words: the vector is made already
    with pytest.raises(EmbedderUnreachable):
        seed(connection, SLEEP, own, embedder)
    assert contents(connection) == stored
    asked = len(server.asked)
    with pytest.raises(EmbedderUnreachable, match="given up"):
        seed(connection, SLEEP, own, embedder)
    assert len(server.asked) == asked, "the next set does not wait for it again"
    server.forever = None
    back = HttpEmbedder(REMOTE, 384, server.url, Tei(), ManualClock())
    report = seed(connection, SLEEP, own, back)
    assert (report.documents_added, report.embedded) == (1, 0)
    found = vector_search(connection, back, "Close the window before the quokka comes.", 1)
    assert found[0].document == "sleeping-beside-a-quokka"


def test_away_from_a_server_that_is_gone_leads_a_reason(
    connection: Connection, remote: tuple[HttpEmbedder, EmbeddingServer]
) -> None:
    embedder, server = remote
    switch_to(connection, embedder, LONG, chosen="a test")
    server.forever = Fault(503)
    server.well_for = 0
    with pytest.raises(EmbedderUnreachable):
        switch_to(connection, LONG, embedder)
    assert states(connection)[REMOTE] == ("active", 0)
    done = switch_to(connection, LONG, embedder, chosen="its server is gone")
    assert (done.before, done.after.questions > 10) == (None, True)
    assert states(connection)[LONG.model_id] == ("active", 0)


def test_another_model_behind_the_same_name_is_refused_before_anything_is_mixed(
    connection: Connection, remote: tuple[HttpEmbedder, EmbeddingServer], many: Path
) -> None:
    embedder, server = remote
    reindex(connection, embedder, CLOCK)
    with many.open("a") as source:
        source.write('{"title": "One more night", "text": "It came after the server was changed."}\n')
    seed(connection, SLEEP, many, LONG)
    server.vectors = Blind().embed
    with pytest.raises(ModelChanged, match="cosine"):
        reindex(connection, embedder, CLOCK)
    assert states(connection)[REMOTE] == ("ready", 1)
