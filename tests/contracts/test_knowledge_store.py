"""Seeding and searching on a real PostgreSQL with pgvector, with the shipped schema, sets and accounts."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import pytest

from dr_platform.catalog import KnowledgeSet, load_catalog
from dr_platform.clock import ManualClock, SystemClock
from dr_platform.embedding import WordVectors
from dr_platform.knowledge import store
from dr_platform.knowledge.evaluate import LabelledQuestion, QuestionsError, evaluate, evaluate_set, read_questions
from dr_platform.knowledge.search import MixedModels, exact_search, hybrid_search, text_search, vector_search
from dr_platform.knowledge.seeding import SeedReport, forget, freshness, pending_changes, seed
from dr_platform.knowledge.sources import SourceError
from dr_platform.knowledge.store import OtherModelInUse, SeedInProgress, WrongDimensions
from tests.contracts.embedded_servers import Running, running_with_schema

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytestmark = pytest.mark.contract

CATALOG = Path(__file__).parents[2] / "catalog"
SETS = load_catalog(CATALOG).knowledge
SLEEP, PRIVACY = SETS["sleep"], SETS["privacy"]
Connection = psycopg.Connection[Any]


class Counting(WordVectors):
    """Real vectors, and how many texts they were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked += texts
        return super().embed(texts)


VECTORS = WordVectors()
OTHER_MODEL, WIDE = WordVectors("another-256"), WordVectors(dimensions=384)
INDEX = f"knowledge.{store.index_of('vectors', VECTORS.model_id)}"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running_with_schema() as server:
        yield server


def address(server: Running, role: str = "admin") -> str:
    secret = server.secrets.read(f"databases/postgres/{role}")
    assert secret is not None
    return psycopg.conninfo.make_conninfo(
        host=server.endpoint.host,
        port=server.endpoint.port,
        dbname=server.endpoint.database,
        user=secret["username"],
        password=secret["password"],
    )


@pytest.fixture
def connection(server: Running) -> Iterator[Connection]:
    """An empty store, by the login that may load."""
    with psycopg.connect(address(server), autocommit=True) as connection:
        connection.execute(
            "TRUNCATE knowledge.documents, knowledge.seeds, knowledge.term_vectors, knowledge.vectors,"
            " knowledge.models CASCADE"
        )
        for model in (VECTORS.model_id, OTHER_MODEL.model_id):
            store.drop_indexes(connection, model)
        yield connection


@pytest.fixture
def articles(tmp_path: Path) -> Path:
    """A copy of the shipped set on sleep that a test may edit."""
    folder = tmp_path / "sleep"
    shutil.copytree(CATALOG / "knowledge" / "sleep", folder)
    return folder / "articles"


def counts(report: SeedReport) -> tuple[int, int, int, int]:
    return (
        report.documents_added,
        report.documents_changed,
        report.documents_removed,
        report.documents_unchanged,
    )


def snapshot(connection: Connection) -> dict[str, list[Any]]:
    """Everything that is stored, without ids and times, so that two stores can be compared."""
    looks = {
        "documents": "SELECT set_name, slug, title, language, content_hash, reviewed, tags, source, words"
        " FROM knowledge.documents ORDER BY 1, 2",
        "chunks": "SELECT d.set_name, d.slug, c.ordinal, c.text, c.model, c.embedding::text, c.tsv::text"
        " FROM knowledge.chunks c JOIN knowledge.documents d ON d.id = c.document_id ORDER BY 1, 2, 3",
        "postings": "SELECT d.set_name, d.slug, p.lexeme, p.frequency"
        " FROM knowledge.postings p JOIN knowledge.documents d ON d.id = p.document_id ORDER BY 1, 2, 3",
        "terms": "SELECT lexeme, model, embedding::text FROM knowledge.term_vectors ORDER BY 1, 2",
        "vectors": "SELECT content_hash, model, embedding::text FROM knowledge.vectors ORDER BY 1, 2",
        "seeds": "SELECT set_name, source, model, languages, documents, words FROM knowledge.seeds ORDER BY 1, 2",
    }
    return {name: connection.execute(look.encode()).fetchall() for name, look in looks.items()}


def touched(connection: Connection) -> dict[str, Any]:
    """Which version of its row each document has."""
    return dict(connection.execute("SELECT slug, xmin::text FROM knowledge.documents").fetchall())


def test_a_first_seed_stores_every_article_and_a_second_one_touches_nothing(
    connection: Connection, articles: Path
) -> None:
    first = seed(connection, SLEEP, articles, VECTORS)
    assert counts(first) == (14, 0, 0, 0)
    assert first.embedded == first.chunks > 14
    rows, before = touched(connection), snapshot(connection)
    embedder = Counting()
    second = seed(connection, SLEEP, articles, embedder)
    assert counts(second) == (0, 0, 0, 14)
    assert (second.chunks, second.embedded, embedder.asked) == (0, 0, [])
    assert touched(connection) == rows
    assert snapshot(connection) == before


def test_an_edited_article_is_the_only_one_embedded_again(connection: Connection, articles: Path) -> None:
    seed(connection, SLEEP, articles, VECTORS)
    before = touched(connection)
    edited = articles / "napping-wisely.md"
    edited.write_text(edited.read_text() + "\n\nThe word quokka was put in by a test.\n")
    assert pending_changes(connection, SLEEP, articles) == 1
    embedder = Counting()
    report = seed(connection, SLEEP, articles, embedder)
    assert counts(report) == (0, 1, 0, 13)
    known, *asked = embedder.asked
    assert "quokka" not in known, "a stored passage shows first whether the model is still the same"
    passages = [text for text in asked if text.startswith("Napping without")]
    assert report.embedded == len(passages) == 1, "unchanged passages of the article keep their vectors"
    assert {text for text in asked if text not in passages} <= {"quokka", "word", "put", "test"}
    after = touched(connection)
    assert {slug for slug in after if after[slug] != before[slug]} == {"napping-wisely"}
    assert [hit.document for hit in exact_search(connection, "quokka")] == ["napping-wisely"]
    assert pending_changes(connection, SLEEP, articles) == 0


def test_a_deleted_article_leaves_nothing_behind(connection: Connection, articles: Path) -> None:
    kept = articles.parent / "kept"
    shutil.move(articles / "napping-wisely.md", kept)
    seed(connection, SLEEP, articles, VECTORS)
    without = snapshot(connection)
    shutil.move(kept, articles / "napping-wisely.md")
    assert counts(seed(connection, SLEEP, articles, VECTORS)) == (1, 0, 0, 13)
    (articles / "napping-wisely.md").unlink()
    assert counts(seed(connection, SLEEP, articles, VECTORS)) == (0, 0, 1, 13)
    after = snapshot(connection)
    after["terms"] = [row for row in after["terms"] if row in without["terms"]]
    assert {k: v for k, v in after.items() if k != "terms"} == {k: v for k, v in without.items() if k != "terms"}
    assert {row[0] for row in after["terms"]} <= {row[0] for row in without["terms"]}


def test_sets_do_not_touch_each_other(connection: Connection, articles: Path) -> None:
    seed(connection, PRIVACY, CATALOG / "knowledge" / "privacy" / "articles", VECTORS)
    before = touched(connection)
    seed(connection, SLEEP, articles, VECTORS)
    for file in articles.glob("*.md"):
        if file.stem != "bedroom-setup":
            file.unlink()
    assert counts(seed(connection, SLEEP, articles, VECTORS)) == (0, 0, 13, 1)
    after = touched(connection)
    assert {slug: row for slug, row in after.items() if slug in before} == before
    assert pending_changes(connection, PRIVACY, CATALOG / "knowledge" / "privacy" / "articles") == 0


def test_a_source_of_the_user_adds_to_the_set_and_stays_when_the_set_is_seeded_again(
    connection: Connection, articles: Path, tmp_path: Path
) -> None:
    seed(connection, SLEEP, articles, VECTORS)
    own = tmp_path / "own.jsonl"
    own.write_text('{"title": "Sleeping with a quokka", "text": "Close the window."}\n')
    assert counts(seed(connection, SLEEP, own, VECTORS)) == (1, 0, 0, 0)
    assert counts(seed(connection, SLEEP, articles, VECTORS)) == (0, 0, 0, 14)
    assert [hit.document for hit in exact_search(connection, "quokka")] == ["sleeping-with-a-quokka"]
    assert forget(connection, "sleep", str(own)) == 1
    assert exact_search(connection, "quokka") == ()


def test_a_slug_that_the_set_has_from_another_source_is_refused_and_nothing_is_written(
    connection: Connection, articles: Path, tmp_path: Path
) -> None:
    seed(connection, SLEEP, articles, VECTORS)
    before = snapshot(connection)
    own = tmp_path / "own.jsonl"
    own.write_text('{"title": "New", "text": "x"}\n{"slug": "bedroom-setup", "title": "B", "text": "y"}\n')
    with pytest.raises(SourceError, match="bedroom-setup"):
        seed(connection, SLEEP, own, VECTORS)
    assert snapshot(connection) == before


def test_a_source_with_one_fault_writes_nothing(connection: Connection, articles: Path) -> None:
    (articles / "broken.md").write_bytes(b"\xff")
    with pytest.raises(SourceError):
        seed(connection, SLEEP, articles, VECTORS)
    assert snapshot(connection)["documents"] == []


KILLED = """
import os, signal, sys
from pathlib import Path
import psycopg
from dr_platform.catalog import load_catalog
from dr_platform.embedding import WordVectors
from dr_platform.knowledge import store
from dr_platform.knowledge.seeding import seed

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "0":
    store.keep_terms = die

class Dying(WordVectors):
    calls = 0
    def embed(self, texts):
        self.calls += 1
        if self.calls == int(sys.argv[2]):
            die()
        return super().embed(texts)

with psycopg.connect(sys.stdin.read(), autocommit=True) as connection:
    knowledge_set = load_catalog(Path(sys.argv[1])).knowledge["sleep"]
    seed(connection, knowledge_set, Path(sys.argv[3]), Dying())
"""


@pytest.mark.parametrize(
    ("call", "kept"),
    [
        pytest.param(3, 2 * store.KEEP_BATCH, id="while embedding"),
        pytest.param(11, 1_200, id="at the words"),
        pytest.param(0, 1_200, id="inside the transaction"),
    ],
)
def test_a_seeder_that_is_killed_leaves_no_half_and_the_next_one_goes_on_from_there(
    server: Running, connection: Connection, tmp_path: Path, call: int, kept: int
) -> None:
    source = tmp_path / "many.jsonl"
    source.write_text("".join(f'{{"title": "Night {n}", "text": "Rest number {n} is good."}}\n' for n in range(1_200)))
    command = [sys.executable, "-c", KILLED, str(CATALOG), str(call), str(source)]
    child = subprocess.run(command, input=address(server).encode(), check=False, cwd=CATALOG.parent)
    assert child.returncode == -signal.SIGKILL
    assert connection.execute("SELECT count(*) FROM knowledge.documents").fetchone() == (0,)
    report = seed(connection, SLEEP, source, VECTORS)
    assert counts(report) == (1_200, 0, 0, 0)
    assert report.embedded == 1_200 - kept
    assert pending_changes(connection, SLEEP, source) == 0


def test_of_seeders_at_once_one_works_and_the_store_is_as_after_one(
    server: Running, connection: Connection, articles: Path
) -> None:
    seed(connection, SLEEP, articles, VECTORS)
    alone = snapshot(connection)
    connection.execute(
        "TRUNCATE knowledge.documents, knowledge.seeds, knowledge.term_vectors, knowledge.vectors CASCADE"
    )
    reports: list[SeedReport] = []

    def work() -> None:
        with psycopg.connect(address(server), autocommit=True) as own:
            reports.append(seed(own, SLEEP, articles, WordVectors()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(map(counts, reports)) == [(0, 0, 0, 14)] * 3 + [(14, 0, 0, 0)]
    assert snapshot(connection) == alone


def test_seeders_of_different_sets_at_once_all_finish(server: Running, connection: Connection) -> None:
    done: list[str] = []

    def work(knowledge_set: KnowledgeSet) -> None:
        with psycopg.connect(address(server), autocommit=True) as own:
            seed(own, knowledge_set, CATALOG / "knowledge" / knowledge_set.name / "articles", WordVectors())
            done.append(knowledge_set.name)

    threads = [threading.Thread(target=work, args=(s,)) for s in SETS.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done) == sorted(SETS)
    assert all(pending_changes(connection, s, CATALOG / "knowledge" / s.name / "articles") == 0 for s in SETS.values())


def test_a_seeder_that_never_ends_is_waited_for_with_a_limit(
    server: Running, connection: Connection, articles: Path
) -> None:
    lines: list[str] = []
    with (
        psycopg.connect(address(server), autocommit=True) as other,
        store.only_seeder(other, "sleep", SystemClock(), print),
        pytest.raises(SeedInProgress),
    ):
        seed(connection, SLEEP, articles, VECTORS, lines.append, clock=ManualClock())
    assert lines == ["waiting: another process loads the set sleep"]
    assert counts(seed(connection, SLEEP, articles, VECTORS)) == (14, 0, 0, 0)


def test_an_embedder_that_is_not_in_use_loads_nothing_and_is_not_compared(
    connection: Connection, articles: Path
) -> None:
    seed(connection, SLEEP, articles, VECTORS)
    before = snapshot(connection)
    (articles / "new.md").write_text("# New\n\nNobody would find this by meaning.\n")
    with pytest.raises(OtherModelInUse, match="another-256"):
        seed(connection, SLEEP, articles, OTHER_MODEL)
    assert snapshot(connection) == before
    with pytest.raises(MixedModels, match="wordllama"):
        hybrid_search(connection, OTHER_MODEL, "How do I fall asleep?")


def test_an_embedder_that_changed_its_size_under_the_same_name_is_refused(
    connection: Connection, articles: Path
) -> None:
    seed(connection, SLEEP, articles, VECTORS)
    with pytest.raises(WrongDimensions):
        seed(connection, SLEEP, articles, WIDE)


def test_seeding_inside_somebody_s_transaction_is_refused(server: Running, articles: Path) -> None:
    with psycopg.connect(address(server)) as connection, pytest.raises(ValueError, match="autocommit"):
        seed(connection, SLEEP, articles, VECTORS)


def test_freshness_counts_from_the_last_comparison(connection: Connection, articles: Path) -> None:
    clock = ManualClock()
    assert not freshness(connection, SLEEP, clock.now()).known
    seed(connection, SLEEP, articles, VECTORS, clock=clock)
    later = clock.now() + timedelta(days=3)
    assert freshness(connection, SLEEP, later).days == pytest.approx(3)
    clock.sleep(3 * 86_400)
    seed(connection, SLEEP, articles, VECTORS, clock=clock)
    assert freshness(connection, SLEEP, later).days == pytest.approx(0)


def test_identifiers_of_a_patient_are_warned_about_and_not_quoted(connection: Connection, articles: Path) -> None:
    (articles / "a-case.md").write_text("# A case\n\nThe patient with SSN 078-05-1120 slept well.\n")
    lines: list[str] = []
    report = seed(connection, SLEEP, articles, VECTORS, lines.append)
    assert report.warnings == ("a-case.md: may hold identifiers of a patient (SSN)",)
    assert any("a-case.md" in line for line in lines)
    assert "078" not in "".join(lines)


def test_the_vector_index_is_built_after_the_load_and_kept_for_small_changes(
    connection: Connection, articles: Path
) -> None:
    def index() -> Any:
        return connection.execute("SELECT to_regclass(%s)::oid", (INDEX,)).fetchone()

    seed(connection, SLEEP, articles, VECTORS)
    built = index()
    assert built != (None,)
    seed(connection, PRIVACY, CATALOG / "knowledge" / "privacy" / "articles", VECTORS)
    assert index() == built


def test_a_large_load_builds_the_index_anew(
    connection: Connection, articles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(connection, SLEEP, articles, VECTORS)
    before = connection.execute("SELECT to_regclass(%s)::oid", (INDEX,)).fetchone()
    monkeypatch.setattr(store, "REBUILD_ROWS", 10)
    lines: list[str] = []
    seed(connection, PRIVACY, CATALOG / "knowledge" / "privacy" / "articles", VECTORS, lines.append)
    assert connection.execute("SELECT to_regclass(%s)::oid", (INDEX,)).fetchone() not in (before, (None,))
    assert any("building the vector index" in line for line in lines)


class TestShippedSets:
    """The sets of the catalog, searched by the application's login."""

    @pytest.fixture(scope="class")
    @classmethod
    def reader(cls, server: Running) -> Iterator[Connection]:
        with psycopg.connect(address(server), autocommit=True) as connection:
            connection.execute(
                "TRUNCATE knowledge.documents, knowledge.seeds, knowledge.term_vectors, knowledge.vectors,"
                " knowledge.models CASCADE"
            )
            for knowledge_set in SETS.values():
                report = seed(
                    connection, knowledge_set, CATALOG / "knowledge" / knowledge_set.name / "articles", VECTORS
                )
                assert report.warnings == ()
        with psycopg.connect(address(server, "application"), autocommit=True) as connection:
            yield connection

    @pytest.fixture(scope="class")
    @classmethod
    def questions(cls) -> tuple[LabelledQuestion, ...]:
        files = [CATALOG / "knowledge" / s.name / str(s.questions) for s in SETS.values()]
        return tuple(question for file in files for question in read_questions(file))

    def test_there_are_enough_articles_and_questions(
        self, reader: Connection, questions: tuple[LabelledQuestion, ...]
    ) -> None:
        (documents,) = reader.execute("SELECT count(*) FROM knowledge.documents").fetchone() or (0,)
        assert documents >= 60
        assert len(questions) >= 60

    @pytest.mark.parametrize("name", sorted(SETS))
    def test_every_set_passes_its_retrieval_check(self, reader: Connection, name: str) -> None:
        """How fast this machine is at the moment is no affair of this test."""
        patient = SETS[name].retrieval.model_copy(update={"p95": 60.0})
        wanted = SETS[name].model_copy(update={"retrieval": patient})
        verdict = evaluate_set(reader, VECTORS, wanted, CATALOG / "knowledge" / name).verdict()
        assert verdict.passed, verdict

    def test_fusing_is_better_than_either_part_over_the_whole_store(
        self, reader: Connection, questions: tuple[LabelledQuestion, ...]
    ) -> None:
        report = evaluate(reader, VECTORS, "all sets", questions)
        parts = (report.vector, report.text)
        assert report.fused.recall >= max(0.88, *(part.recall for part in parts)), report.markdown()
        assert report.fused.reciprocal_rank >= max(part.reciprocal_rank for part in parts), report.markdown()

    def test_words_of_near_meaning_find_more_than_the_words_themselves(
        self, reader: Connection, questions: tuple[LabelledQuestion, ...]
    ) -> None:
        def found(search: Any) -> int:
            return sum(q.document in [hit.document for hit in search(q.question)] for q in questions)

        exact = found(lambda text: exact_search(reader, text))
        assert found(lambda text: text_search(reader, VECTORS, text)) > exact

    def test_a_hit_names_document_title_set_and_the_passage(self, reader: Connection) -> None:
        hits = hybrid_search(reader, VECTORS, "I forgot my tablet last night. Do I take two today?")
        assert hits[0].document == "missed-a-dose"
        assert hits[0].set_name == "medication-adherence"
        assert hits[0].title
        assert "two at once" in hits[0].text
        assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
        assert len({h.document for h in hits}) == len(hits) == 5

    def test_a_set_can_be_searched_alone(self, reader: Connection) -> None:
        for search in (hybrid_search, vector_search, text_search):
            hits = search(reader, VECTORS, "medicine that helps me sleep", 10, set_name="privacy")
            assert {hit.set_name for hit in hits} == {"privacy"}

    def test_equal_searches_give_equal_answers(self, reader: Connection) -> None:
        first = hybrid_search(reader, VECTORS, "panic in the supermarket", 10)
        assert all(hybrid_search(reader, VECTORS, "panic in the supermarket", 10) == first for _ in range(3))

    @pytest.mark.parametrize(
        "text", ["", "   ", "\0", "!?", "'; DROP TABLE knowledge.documents; --", "\\' | & ! <->", "ж 𝄞"]
    )
    def test_odd_questions_are_answered_without_an_error(self, reader: Connection, text: str) -> None:
        assert len(hybrid_search(reader, VECTORS, text)) <= 5
        assert len(exact_search(reader, text)) <= 5

    def test_a_very_long_question_is_answered(self, reader: Connection) -> None:
        assert hybrid_search(reader, VECTORS, "why can I not sleep at night " * 5_000)

    def test_nothing_is_asked_for_and_nothing_comes(self, reader: Connection) -> None:
        assert hybrid_search(reader, VECTORS, "sleep", 0) == ()
        assert hybrid_search(reader, VECTORS, "sleep", set_name="no-such-set") == ()

    def test_the_application_may_search_and_not_change(self, reader: Connection) -> None:
        for table in ("documents", "chunks", "postings", "term_vectors", "vectors", "models", "seeds"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(f"DELETE FROM knowledge.{table}".encode())

    def test_the_index_finds_what_an_exact_look_finds(
        self, reader: Connection, questions: tuple[LabelledQuestion, ...]
    ) -> None:
        look = (
            b"SELECT content_hash FROM knowledge.vectors WHERE model = 'wordllama-l2-supercat-256'"
            b" ORDER BY embedding::vector(256) <=> %s::vector(256) LIMIT 10"
        )
        shared = 0
        with reader.transaction():
            reader.execute("SELECT set_config('hnsw.ef_search', '100', true)")
            for question in questions:
                vector = str(VECTORS.embed([question.question])[0].tolist())
                reader.execute("SET LOCAL enable_seqscan = off")
                reader.execute("SET LOCAL enable_indexscan = on")
                near = {row[0] for row in reader.execute(look, (vector,))}
                reader.execute("SET LOCAL enable_seqscan = on")
                reader.execute("SET LOCAL enable_indexscan = off")
                shared += len(near & {row[0] for row in reader.execute(look, (vector,))})
        assert shared / (10 * len(questions)) >= 0.98

    def test_a_question_about_a_document_that_is_not_stored_is_refused(
        self, reader: Connection, tmp_path: Path
    ) -> None:
        (tmp_path / "questions.jsonl").write_text('{"question": "Why?", "document": "no-such-article"}\n')
        with pytest.raises(QuestionsError, match="no-such-article"):
            evaluate_set(reader, VECTORS, SLEEP, tmp_path)


def test_an_empty_store_answers_with_nothing(connection: Connection) -> None:
    assert hybrid_search(connection, VECTORS, "sleep") == ()
    assert exact_search(connection, "sleep") == ()
