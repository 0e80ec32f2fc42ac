"""Documents, chunks, vectors and term frequencies in PostgreSQL with pgvector.

Here: every statement that reads or changes what is stored. Not here: reading sources, the order of a
seed (``seeding``), or searching (``search``). Functions named ``load_…`` expect an open transaction.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, LiteralString

from psycopg import sql

from dr_platform.clock import Clock
from dr_platform.errors import ExitCode, PlatformError, TemporaryFailure
from dr_platform.knowledge.chunking import Chunk
from dr_platform.knowledge.documents import Document
from dr_platform.knowledge.embedder import Embedder
from dr_platform.verdict import Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from psycopg import Connection

INDEXED_TABLES = ("vectors", "term_vectors")
"""Both have an HNSW index over their ``embedding`` for each model, which is built after the first load.
Measured on 20,000 vectors of 384 numbers, an index over one model's rows of an untyped column is built as
fast (7.4 s), is as large and answers as fast (1.0 ms) as one over a table of that model alone; and tables
that nobody's migration made would be drift."""
FORMER_INDEXES = ("chunks_embedding_hnsw", "terms_embedding_hnsw")
"""Of the release before, which finds the same without them; they would slow down every load."""
FORMER_DIMENSIONS = 256
"""The release before reads vectors of this size from ``knowledge.chunks``."""
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
REBUILD_ROWS = 2_000
REBUILD_SHARE = 0.05
"""An index is built anew where at least this many chunks, and this share of all, are loaded: rows
enter an existing HNSW index at about 760 a second, a build takes in 3,700 (measured)."""
LOCK_PATIENCE_S = 300.0
LOCK_LOOK_S = 0.1
EMBED_BATCH = 512
KEEP_BATCH = 128
"""So many vectors at most are made again after an embedder failed or a load was stopped."""
SAME = 0.99
"""Cosine of two vectors of one text by one model: rounding differs between machines and batches, no more."""
LOAD_BATCH = 500
LONG_STATEMENT_S = 900.0

_STORE_LOCK = int.from_bytes(hashlib.sha256(b"drp knowledge store").digest()[:8], "big", signed=True)

CONFIGURATIONS = {
    "ar": "arabic",
    "da": "danish",
    "de": "german",
    "en": "english",
    "es": "spanish",
    "fi": "finnish",
    "fr": "french",
    "hu": "hungarian",
    "it": "italian",
    "nl": "dutch",
    "no": "norwegian",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sv": "swedish",
    "tr": "turkish",
}
"""PostgreSQL's text search configuration by language; every other language is split into words only."""


def configuration(language: str) -> str:
    """``pt-BR`` gives ``portuguese``, an unknown language ``simple``."""
    return CONFIGURATIONS.get(language.split("-", maxsplit=1)[0].lower(), "simple")


class SeedInProgress(TemporaryFailure):
    def __init__(self, what: str, waited_s: float) -> None:
        super().__init__(what, waited_s)
        self.what = f"another process has been loading {what} for more than {waited_s:.0f} s"
        self.untouched = "every stored document"
        self.next_step = "wait until it has finished, then run again"


class WrongDimensions(PlatformError):
    def __init__(self, model: str, dimensions: int, stored: int) -> None:
        super().__init__(model, dimensions, stored)
        self.what = f"the embedder {model} gives {dimensions} numbers a text, its stored vectors have {stored}"
        self.untouched = "every stored document"
        self.next_step = "give the changed embedder a model name of its own, then `drp knowledge reindex` with it"


class ModelChanged(PlatformError):
    def __init__(self, model: str, cosine: float) -> None:
        super().__init__(model, cosine)
        self.what = f"{model}: a stored text has another vector now (cosine {cosine:.2f}), so the model is another one"
        self.untouched = "every stored document, and searches"
        self.next_step = "give the model as it is now a name of its own in catalog/embedders, and switch to that"


class OtherModelInUse(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, asked: str, used: str) -> None:
        super().__init__(asked, used)
        self.what = f"the store is searched with {used}; loading with {asked} would make articles that nobody finds"
        self.untouched = "every stored document"
        self.next_step = f"`drp knowledge switch {asked}` builds its vectors beside and compares, then seed again"


@dataclass(frozen=True)
class InUse:
    """The model whose vectors are searched, and their size."""

    model: str
    dimensions: int


@dataclass(frozen=True)
class Stored:
    """What is stored of a set, before anything is changed. ``hashes`` by slug, of one source;
    ``elsewhere`` names the source of each slug that the set has from another one."""

    hashes: Mapping[str, str]
    elsewhere: Mapping[str, str]
    model: str | None


@dataclass(frozen=True)
class Difference:
    """Slugs, each sorted. ``changed`` holds all of a source whose vectors are of another model."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    unchanged: tuple[str, ...]

    @property
    def count(self) -> int:
        """Documents that the store would have to touch to equal the source."""
        return len(self.added) + len(self.changed) + len(self.removed)


def difference(wanted: Mapping[str, str], stored: Mapping[str, str]) -> Difference:
    """Compare content hashes by slug."""
    both = wanted.keys() & stored.keys()
    return Difference(
        added=tuple(sorted(wanted.keys() - stored.keys())),
        changed=tuple(sorted(slug for slug in both if wanted[slug] != stored[slug])),
        removed=tuple(sorted(stored.keys() - wanted.keys())),
        unchanged=tuple(sorted(slug for slug in both if wanted[slug] == stored[slug])),
    )


def read_stored(connection: Connection[Any], set_name: str, source: str) -> Stored:
    """What is stored of a set, seen from one source."""
    rows = connection.execute(
        "SELECT slug, content_hash, source FROM knowledge.documents WHERE set_name = %s", (set_name,)
    ).fetchall()
    seeded = connection.execute(
        "SELECT model FROM knowledge.seeds WHERE set_name = %s AND source = %s", (set_name, source)
    ).fetchone()
    return Stored(
        hashes={slug: content_hash for slug, content_hash, of in rows if of == source},
        elsewhere={slug: of for slug, _, of in rows if of != source},
        model=seeded[0] if seeded else None,
    )


def read_in_use(connection: Connection[Any]) -> InUse | None:
    """Nothing before the first seed."""
    row = connection.execute("SELECT model, dimensions FROM knowledge.models WHERE state = 'active'").fetchone()
    return InUse(*row) if row else None


def require_in_use(connection: Connection[Any], embedder: Embedder) -> None:
    """The embedder is that of the stored vectors, or nothing is stored yet."""
    used = read_in_use(connection)
    if used is not None and used.model != embedder.model_id:
        raise OtherModelInUse(embedder.model_id, used.model)
    require_size(connection, embedder)


def require_size(connection: Connection[Any], embedder: Embedder) -> None:
    """Vectors that are stored under the embedder's name have its size."""
    stored = _one(connection, "SELECT dimensions FROM knowledge.models WHERE model = %s", (embedder.model_id,))
    if stored not in (None, embedder.dimensions):
        raise WrongDimensions(embedder.model_id, embedder.dimensions, stored)


@contextmanager
def only_seeder(connection: Connection[Any], set_name: str, clock: Clock, progress: Progress) -> Generator[None]:
    """Hold the set's lock; a second seeder waits. The end of this process or its connection frees it."""
    with _alone_with(connection, f"the set {set_name}", f"drp knowledge set {set_name}", clock, progress):
        yield


@contextmanager
def only_indexer(connection: Connection[Any], model: str, clock: Clock, progress: Progress) -> Generator[None]:
    """Hold the model's lock; whoever else builds or removes its vectors waits."""
    with _alone_with(connection, f"vectors of {model}", f"drp knowledge model {model}", clock, progress):
        yield


@contextmanager
def _alone_with(connection: Connection[Any], what: str, lock: str, clock: Clock, progress: Progress) -> Generator[None]:
    key = int.from_bytes(hashlib.sha256(lock.encode()).digest()[:8], "big", signed=True)
    _await_lock(connection, "SELECT pg_try_advisory_lock(%s)", key, what, clock, progress)
    try:
        yield
    finally:
        if not connection.closed and not connection.broken:
            connection.execute("SELECT pg_advisory_unlock(%s)", (key,))


def _await_lock(
    connection: Connection[Any], statement: LiteralString, key: int, what: str, clock: Clock, progress: Progress
) -> None:
    started = clock.monotonic()
    told = False
    while not _one(connection, statement, (key,)):
        if clock.monotonic() - started > LOCK_PATIENCE_S:
            raise SeedInProgress(what, LOCK_PATIENCE_S)
        if not told and clock.monotonic() - started > 1:
            progress(f"waiting: another process loads {what}")
            told = True
        clock.sleep(LOCK_LOOK_S)


class VectorCache:
    """Vectors by chunk and model: asked of the embedder once, kept in the store."""

    def __init__(self, connection: Connection[Any], embedder: Embedder) -> None:
        from pgvector.psycopg import register_vector

        register_vector(connection)
        self._connection = connection
        self._embedder = embedder
        self._compared = False
        self.embedded = 0

    def vectors(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        """One row per chunk; those that are missing are embedded and kept."""
        import numpy as np

        by_hash = self._cached({chunk.content_hash for chunk in chunks})
        missing = list(self._missing(chunks, by_hash).items())
        if missing and not self._compared:
            self._require_same()
            self._compared = True
        for at in range(0, len(missing), KEEP_BATCH):
            some = dict(missing[at : at + KEEP_BATCH])
            made = dict(zip(some, self._embedder.embed(list(some.values())), strict=True))
            self._keep(made)
            by_hash |= made
            self.embedded += len(made)
        return np.stack([by_hash[chunk.content_hash] for chunk in chunks])

    def missing(self, chunks: Sequence[Chunk]) -> int:
        """How many texts would have to be embedded."""
        found = self._connection.execute(
            "SELECT content_hash FROM knowledge.vectors WHERE model = %s AND content_hash = ANY(%s)",
            (self._embedder.model_id, [chunk.content_hash for chunk in chunks]),
        )
        return len(self._missing(chunks, {content_hash for (content_hash,) in found}))

    def _require_same(self) -> None:
        """A server may have another model behind the same name one day; its vectors would compare with nothing."""
        row = self._connection.cursor(binary=True).execute(_KNOWN_TEXT, (self._embedder.model_id,)).fetchone()
        if row is None:
            return
        before, (now,) = _numbers(row[2]), self._embedder.embed([Chunk(0, row[0], row[1]).indexed])
        if before.any() and (cosine := float(before @ now)) < SAME:
            raise ModelChanged(self._embedder.model_id, cosine)

    @staticmethod
    def _missing(chunks: Sequence[Chunk], known: Container[str]) -> dict[str, str]:
        return {c.content_hash: c.indexed for c in chunks if c.content_hash not in known}

    def _cached(self, hashes: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        found = self._connection.cursor(binary=True).execute(
            "SELECT content_hash, embedding FROM knowledge.vectors WHERE model = %s AND content_hash = ANY(%s)",
            (self._embedder.model_id, list(hashes)),
        )
        return {content_hash: _numbers(vector) for content_hash, vector in found}

    def _keep(self, vectors: Mapping[str, NDArray[np.float32]]) -> None:
        with self._connection.transaction():
            self._connection.execute(
                "CREATE TEMP TABLE staged_vectors (content_hash text, embedding vector) ON COMMIT DROP"
            )
            statement = "COPY staged_vectors FROM STDIN (FORMAT binary)"
            with self._connection.cursor().copy(statement) as copy:
                copy.set_types(["text", "vector"])
                for item in vectors.items():
                    copy.write_row(item)
            self._connection.execute(
                "INSERT INTO knowledge.vectors SELECT content_hash, %s, embedding FROM staged_vectors"
                " ON CONFLICT DO NOTHING",
                (self._embedder.model_id,),
            )
            self._connection.execute("DROP TABLE staged_vectors")


_KNOWN_TEXT: LiteralString = """
    SELECT d.title, c.text, e.embedding FROM knowledge.vectors e
    JOIN knowledge.chunks c ON c.content_hash = e.content_hash JOIN knowledge.documents d ON d.id = c.document_id
    WHERE e.model = %s ORDER BY e.content_hash LIMIT 1
"""


def _numbers(vector: Any) -> NDArray[np.float32]:
    """pgvector's psycopg adapter gives arrays or its own type, by version."""
    import numpy as np

    return np.asarray(vector.to_numpy() if hasattr(vector, "to_numpy") else vector, dtype=np.float32)


def load_alone(connection: Connection[Any], clock: Clock, progress: Progress) -> None:
    """Let one load into the store at a time: two that both build an index would wait for each other."""
    _await_lock(connection, "SELECT pg_try_advisory_xact_lock(%s)", _STORE_LOCK, "the knowledge store", clock, progress)


def load_replaced(connection: Connection[Any], set_name: str, source: str, slugs: Sequence[str]) -> None:
    """Note which vectors the documents use that are about to change or go, for ``load_prune``."""
    connection.execute("CREATE TEMP TABLE replaced (content_hash text) ON COMMIT DROP")
    connection.execute(
        """
        INSERT INTO replaced SELECT DISTINCT c.content_hash
        FROM knowledge.chunks c JOIN knowledge.documents d ON d.id = c.document_id
        WHERE d.set_name = %s AND d.source = %s AND d.slug = ANY(%s)
        """,
        (set_name, source, list(slugs)),
    )


def load_removals(connection: Connection[Any], set_name: str, source: str, slugs: Sequence[str]) -> None:
    """Remove documents with all that belongs to them."""
    connection.execute(
        "DELETE FROM knowledge.documents WHERE set_name = %s AND source = %s AND slug = ANY(%s)",
        (set_name, source, list(slugs)),
    )


def load_prune(connection: Connection[Any]) -> None:
    """Remove the vectors, of every model, that were noted and that no chunk uses any more, and terms that
    no document has."""
    connection.execute(
        """
        DELETE FROM knowledge.vectors e USING replaced r
        WHERE e.content_hash = r.content_hash AND NOT EXISTS (
            SELECT FROM knowledge.chunks c WHERE c.content_hash = e.content_hash
        )
        """
    )
    connection.execute(
        "DELETE FROM knowledge.term_vectors t"
        " WHERE NOT EXISTS (SELECT FROM knowledge.postings p WHERE p.lexeme = t.lexeme)"
    )


def load_staging(connection: Connection[Any]) -> None:
    """Tables that take the rows as they come; they end with the transaction."""
    connection.execute(
        "CREATE TEMP TABLE staged_documents (slug text, title text, language text, content_hash text,"
        " reviewed date, tags text[], configuration text) ON COMMIT DROP"
    )
    connection.execute(
        "CREATE TEMP TABLE staged_chunks (slug text, ordinal int4, text text, content_hash text, embedding vector)"
        " ON COMMIT DROP"
    )


def load_rows(
    connection: Connection[Any],
    documents: Sequence[Document],
    chunks: Mapping[str, Sequence[Chunk]],
    cache: VectorCache,
) -> None:
    """Copy documents and their chunks (by slug) into the staging tables, in binary."""
    from datetime import date

    statement = "COPY staged_documents FROM STDIN (FORMAT binary)"
    with connection.cursor().copy(statement) as copy:
        copy.set_types(["text", "text", "text", "text", "date", "text[]", "text"])
        for d in documents:
            day = date.fromisoformat(d.reviewed) if d.reviewed else None
            copy.write_row((d.slug, d.title, d.language, d.content_hash, day, list(d.tags), configuration(d.language)))
    parts = [(slug, chunk) for slug in (d.slug for d in documents) for chunk in chunks[slug]]
    vectors = cache.vectors([chunk for _, chunk in parts])
    with connection.cursor().copy("COPY staged_chunks FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["text", "int4", "text", "text", "vector"])
        for (slug, chunk), vector in zip(parts, vectors, strict=True):
            copy.write_row((slug, chunk.ordinal, chunk.text, chunk.content_hash, vector))


def load_upsert(connection: Connection[Any], set_name: str, source: str, model: str, now: datetime) -> None:
    """Bring the staged rows into the store: documents keep their id, chunks and postings are replaced."""
    values = {"set": set_name, "source": source, "model": model, "now": now, "former": FORMER_DIMENSIONS}
    connection.execute(
        """
        INSERT INTO knowledge.documents
            (set_name, slug, title, language, content_hash, reviewed, tags, source, updated_at)
        SELECT %(set)s, slug, title, language, content_hash, reviewed, tags, %(source)s, %(now)s FROM staged_documents
        ON CONFLICT (set_name, slug) DO UPDATE SET title = excluded.title, language = excluded.language,
            content_hash = excluded.content_hash, reviewed = excluded.reviewed, tags = excluded.tags,
            updated_at = excluded.updated_at
        """,
        values,
    )
    for statement in _REPLACE:
        connection.execute(statement, values)


_REPLACE: tuple[LiteralString, ...] = (
    """
    CREATE TEMP TABLE staged_ids ON COMMIT DROP AS
    SELECT d.id, d.slug FROM knowledge.documents d JOIN staged_documents s USING (slug) WHERE d.set_name = %(set)s
    """,
    "DELETE FROM knowledge.chunks c USING staged_ids s WHERE c.document_id = s.id",
    "DELETE FROM knowledge.postings p USING staged_ids s WHERE p.document_id = s.id",
    """
    INSERT INTO knowledge.chunks (document_id, ordinal, text, content_hash, model, embedding, tsv)
    SELECT i.id, c.ordinal, c.text, c.content_hash, %(model)s,
        CASE WHEN vector_dims(c.embedding) = %(former)s THEN c.embedding END,
        setweight(to_tsvector(d.configuration::regconfig, d.title), 'A')
        || setweight(to_tsvector(d.configuration::regconfig, c.text), 'D')
    FROM staged_chunks c JOIN staged_documents d USING (slug) JOIN staged_ids i USING (slug)
    """,
    """
    INSERT INTO knowledge.postings (lexeme, document_id, frequency)
    SELECT t.lexeme, c.document_id, sum(cardinality(t.positions))
    FROM staged_ids s JOIN knowledge.chunks c ON c.document_id = s.id, unnest(c.tsv) t GROUP BY 1, 2
    """,
    """
    UPDATE knowledge.documents d SET words = p.words
    FROM (
        SELECT i.id, coalesce(sum(p.frequency), 0)::int AS words
        FROM staged_ids i LEFT JOIN knowledge.postings p ON p.document_id = i.id GROUP BY 1
    ) p WHERE p.id = d.id
    """,
)
"""Run in this order with the set, the source, the model and the time."""


def load_seed(connection: Connection[Any], set_name: str, source: str, model: str, now: datetime) -> None:
    """Note that the set equals its source, with what BM25 needs to know of all documents."""
    connection.execute(
        """
        INSERT INTO knowledge.seeds (set_name, source, model, languages, documents, words, seeded_at)
        SELECT %(set)s, %(source)s, %(model)s, coalesce(array_agg(DISTINCT language), '{}'), count(*),
            coalesce(sum(words), 0), %(now)s
        FROM knowledge.documents WHERE set_name = %(set)s AND source = %(source)s
        ON CONFLICT (set_name, source) DO UPDATE SET model = excluded.model, languages = excluded.languages,
            documents = excluded.documents, words = excluded.words, seeded_at = excluded.seeded_at
        """,
        {"set": set_name, "source": source, "model": model, "now": now},
    )


def load_model(connection: Connection[Any], embedder: Embedder, now: datetime) -> None:
    """The first embedder that anything is loaded with comes into use."""
    require_in_use(connection, embedder)
    connection.execute(
        """
        INSERT INTO knowledge.models (model, dimensions, state, created_at, switched_at)
        SELECT %s, %s, 'active', %s, %s WHERE NOT EXISTS (SELECT FROM knowledge.models WHERE state = 'active')
        ON CONFLICT (model) DO UPDATE SET state = 'active', switched_at = excluded.switched_at
        """,
        (embedder.model_id, embedder.dimensions, now, now),
    )


def load_terms(connection: Connection[Any], documents: Sequence[Document], embedder: Embedder) -> None:
    """Give every lexeme of the documents a vector: that of the shortest word that has it, then the
    first in the alphabet, so that equal articles give equal terms in any order of loading."""
    stage_terms(connection)
    for rows in term_batches(connection, documents, embedder.model_id):
        copy_terms(connection, rows, embedder)
    keep_terms(connection, embedder)


def term_batches(
    connection: Connection[Any], documents: Sequence[Document], model: str
) -> Iterator[Sequence[tuple[str, str]]]:
    """Lexemes of the documents with their words, where the model has no vector of a better word."""
    words: dict[str, set[str]] = {}
    for document in documents:
        found = _WORD.findall(f"{document.title} {document.text}".lower())
        words.setdefault(configuration(document.language), set()).update(found)
    for config in sorted(words):
        rows = connection.execute(_BETTER_TERMS, (sorted(words[config]), config, model)).fetchall()
        for at in range(0, len(rows), EMBED_BATCH):
            yield rows[at : at + EMBED_BATCH]


def stage_terms(connection: Connection[Any]) -> None:
    connection.execute("CREATE TEMP TABLE staged_terms (lexeme text, word text, embedding vector) ON COMMIT DROP")


def copy_terms(connection: Connection[Any], words: Sequence[tuple[str, str]], embedder: Embedder) -> None:
    """Embed words, given with their lexemes, into the staging table."""
    vectors = embedder.embed([word for _, word in words])
    with connection.cursor().copy("COPY staged_terms FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["text", "text", "vector"])
        for (lexeme, word), vector in zip(words, vectors, strict=True):
            if vector.any():  # a vector of nothing has no direction to compare
                copy.write_row((lexeme, word, vector))


def keep_terms(connection: Connection[Any], embedder: Embedder) -> None:
    connection.execute(_KEEP_TERMS, (embedder.model_id,))


_KEEP_TERMS: LiteralString = """
    INSERT INTO knowledge.term_vectors (lexeme, word, model, embedding)
    SELECT DISTINCT ON (lexeme) lexeme, word, %s, embedding FROM staged_terms ORDER BY lexeme, length(word), word
    ON CONFLICT (lexeme, model) DO UPDATE SET word = excluded.word, embedding = excluded.embedding
"""


_BETTER_TERMS: LiteralString = """
    WITH candidates AS (
        SELECT DISTINCT ON (lexeme) lexeme, word
        FROM unnest(%s::text[]) AS word, unnest(to_tsvector(%s::regconfig, word)) ORDER BY lexeme, length(word), word
    )
    SELECT c.lexeme, c.word
    FROM candidates c LEFT JOIN knowledge.term_vectors t ON t.lexeme = c.lexeme AND t.model = %s
    WHERE t.lexeme IS NULL OR (length(c.word), c.word) < (length(t.word), t.word)
"""


def drop_indexes_for(connection: Connection[Any], model: str, incoming: int) -> None:
    """Drop a model's vector indexes where building them anew is cheaper than entering ``incoming``
    vectors. Searches go on meanwhile and look at every vector."""
    stored = _one(connection, "SELECT count(*) FROM knowledge.vectors WHERE model = %s", (model,))
    if incoming >= REBUILD_ROWS and incoming >= REBUILD_SHARE * stored:
        drop_indexes(connection, model)


def drop_indexes(connection: Connection[Any], model: str) -> None:
    for table in INDEXED_TABLES:
        connection.execute(sql.SQL("DROP INDEX IF EXISTS knowledge.{}").format(sql.Identifier(index_of(table, model))))


def load_indexes(connection: Connection[Any], embedder: Embedder, progress: Progress) -> None:
    """Build a model's vector indexes that are missing. Readers go on meanwhile, other loads wait."""
    for table in INDEXED_TABLES:
        if _one(connection, "SELECT to_regclass(%s) IS NULL", (f"knowledge.{index_of(table, embedder.model_id)}",)):
            _build_index(connection, table, embedder, progress)
    for name in FORMER_INDEXES:  # last: from here to the commit readers of those tables wait
        connection.execute(sql.SQL("DROP INDEX IF EXISTS knowledge.{}").format(sql.Identifier(name)))


def _build_index(connection: Connection[Any], table: str, embedder: Embedder, progress: Progress) -> None:
    name, model = sql.Identifier("knowledge", table), sql.Literal(embedder.model_id)
    rows = int(_one(connection, sql.SQL("SELECT count(*) FROM {} WHERE model = {}").format(name, model)))
    if rows > REBUILD_ROWS:
        progress(f"building the vector index over {rows:,} {table.replace('_', ' ')}")
    # The graph should fit: it takes 4 bytes a number and about 400 a row, and a build that does not
    # fit is 4 times slower.
    megabytes = min(1024, max(64, rows * (4 * embedder.dimensions + 400) * 2 // 2**20))
    connection.execute("SELECT set_config('maintenance_work_mem', %s, true)", (f"{megabytes}MB",))
    statement = sql.SQL(
        "CREATE INDEX {} ON {} USING hnsw ((embedding::vector({})) vector_cosine_ops)"
        " WITH (m = 16, ef_construction = 64) WHERE model = {}"
    )
    index = sql.Identifier(index_of(table, embedder.model_id))
    connection.execute(statement.format(index, name, sql.Literal(embedder.dimensions), model))


def index_of(table: str, model: str) -> str:
    """The name of a model's vector index over a table."""
    return f"{table}_{hashlib.sha256(model.encode()).hexdigest()[:12]}_hnsw"


def refresh_statistics(connection: Connection[Any]) -> None:
    """Tell the planner what was loaded, so that the next search has a sensible plan."""
    connection.execute(
        "ANALYZE knowledge.documents, knowledge.chunks, knowledge.postings, knowledge.vectors,"
        " knowledge.term_vectors, knowledge.seeds"
    )


@contextmanager
def long_statements(connection: Connection[Any]) -> Generator[None]:
    """Let one statement take as long as a load may. Connections of the platform bound every answer
    for probes' sake; building an index is no probe."""
    bounded: Any = connection
    before = getattr(bounded, "limit_s", None)
    if before is None:
        yield
        return
    bounded.limit_s = LONG_STATEMENT_S
    try:
        yield
    finally:
        bounded.limit_s = before


def _one(connection: Connection[Any], statement: LiteralString | sql.Composed, values: Sequence[object] = ()) -> Any:
    row = connection.execute(statement, values).fetchone()
    return row[0] if row else None
