"""Finding documents for a question: by meaning, by words, and by both fused.

Here: reading. Not here: what is stored (``store``), and how good the answers are (``evaluate``).

By meaning: nearest chunks by cosine over the HNSW index; a document stands where its best chunk
stands. By words: BM25 over whole documents, computed in SQL from term frequencies, because ts_rank
knows no document frequencies; each word of the question also counts where a word of near meaning
stands ("pill" for "tablet"), by the closeness of the two. Fused: reciprocal rank, so that documents
which both arms place high come first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, LiteralString

from psycopg import sql

from dr_platform.errors import PlatformError
from dr_platform.knowledge.embedder import Embedder
from dr_platform.knowledge.store import CONFIGURATIONS, InUse, read_in_use

if TYPE_CHECKING:
    from psycopg import Connection

DEPTH = 60
"""Candidates an arm brings into the fusion: chunks by meaning, documents by words."""
RANK_CONSTANT = 5.0
"""Of reciprocal rank fusion: the smaller, the more the first places of an arm decide."""
EF_SEARCH = 100
"""Candidates the HNSW index keeps while it walks; at least ``DEPTH`` (recall@10 0.99 against exact)."""
K1, B = 1.2, 0.75
"""BM25's usual saturation and length normalisation; other values made no difference here."""
NEAR_WORDS = 10
NEAR_ENOUGH = 0.3
"""A word of the question stands for at most so many others, of at least this cosine. Every pair of
values tried (5 to all, 0 to 0.5) raised recall@5 of the shipped questions, by 0.01 to 0.06."""
MAX_QUESTION = 2_000
MAX_WORDS = 64
"""Characters and distinct words of a question that are looked at."""


@dataclass(frozen=True)
class Hit:
    """A document that was found, with the passage that fits best. ``score`` orders the hits of one
    search, higher is better; it cannot be compared between questions or kinds of search."""

    document: str
    title: str
    set_name: str
    score: float
    text: str


class MixedModels(PlatformError):
    def __init__(self, asked: str, stored: str) -> None:
        super().__init__(asked, stored)
        self.what = f"searched are vectors of {stored}, the question's is of {asked}; they do not compare"
        self.untouched = "every stored document"
        self.next_step = "ask with the embedder in use, or change it: `drp knowledge switch`"


def hybrid_search(
    connection: Connection[Any], embedder: Embedder, question: str, limit: int = 5, *, set_name: str | None = None
) -> tuple[Hit, ...]:
    """The best ``limit`` documents of the store, or of one set, best first; empty where nothing is
    stored or the question has no word. Raises ``MixedModels`` and what the embedder raises."""
    asked = _ask(connection, embedder, question, set_name)
    scores = fuse(_ranked(_by_meaning(asked)), _ranked(_by_words(asked)))
    return _hits(asked, scores, limit)


def vector_search(
    connection: Connection[Any], embedder: Embedder, question: str, limit: int = 5, *, set_name: str | None = None
) -> tuple[Hit, ...]:
    """The arm by meaning alone; ``score`` is the cosine."""
    asked = _ask(connection, embedder, question, set_name)
    return _hits(asked, _by_meaning(asked), limit)


def text_search(
    connection: Connection[Any], embedder: Embedder, question: str, limit: int = 5, *, set_name: str | None = None
) -> tuple[Hit, ...]:
    """The arm by words alone; ``score`` is BM25 with words of near meaning."""
    asked = _ask(connection, embedder, question, set_name)
    return _hits(asked, _by_words(asked), limit)


def exact_search(
    connection: Connection[Any], question: str, limit: int = 5, *, set_name: str | None = None
) -> tuple[Hit, ...]:
    """Plain BM25 over the words as they are asked: needs no embedder."""
    asked = _Asked(connection, set_name, _words(connection, _clean(question)))
    return _hits(asked, _by_words(asked), limit)


def fuse(*arms: Sequence[int], constant: float = RANK_CONSTANT) -> dict[int, float]:
    """Reciprocal rank fusion of documents, each arm best first, as scores between 0 and 1: 1 stands
    for the first place in every arm."""
    scores: dict[int, float] = {}
    for arm in arms:
        for rank, document in enumerate(arm, 1):
            scores[document] = scores.get(document, 0.0) + (constant + 1) / (constant + rank) / len(arms)
    return scores


_NOTHING = InUse("", 1)
"""No vector is of this model."""


@dataclass(frozen=True)
class _Asked:
    """A question taken apart: ``words`` by lexeme, ``vectors`` (as pgvector's text) by word, and the
    vector of the whole, all by the model ``used``; without an embedder there are no vectors."""

    connection: Connection[Any]
    set_name: str | None
    words: Mapping[str, str]
    vectors: Mapping[str, str] = field(default_factory=dict)
    vector: str | None = None
    used: InUse = _NOTHING


def _clean(question: str) -> str:
    return question[:MAX_QUESTION].replace("\0", " ").strip()


def _ask(connection: Connection[Any], embedder: Embedder, question: str, set_name: str | None) -> _Asked:
    text, used = _clean(question), _compared(connection, embedder, set_name)
    if not text or used is None:
        return _Asked(connection, set_name, {}, {})
    words = _words(connection, text)
    distinct = sorted(set(words.values()))
    whole, *rows = embedder.embed([text, *distinct])  # one call: each may be a round trip
    vectors = {word: _literal(row) for word, row in zip(distinct, rows, strict=True) if row.any()}
    return _Asked(connection, set_name, words, vectors, _literal(whole) if whole.any() else None, used)


def _compared(connection: Connection[Any], embedder: Embedder, set_name: str | None) -> InUse | None:
    """What the question is compared with: nothing, or vectors of its own model."""
    filled = connection.execute(
        "SELECT FROM knowledge.seeds WHERE documents > 0 AND (%(set)s::text IS NULL OR set_name = %(set)s) LIMIT 1",
        {"set": set_name},
    ).fetchone()
    used = read_in_use(connection) if filled is not None else None
    if used is not None and used.model != embedder.model_id:
        raise MixedModels(embedder.model_id, used.model)
    return used


def _words(connection: Connection[Any], text: str) -> dict[str, str]:
    """The question's words by lexeme, as PostgreSQL parses it in every language that is stored."""
    rows = connection.execute(_PARSE, {"question": text, "configurations": json.dumps(CONFIGURATIONS)}).fetchall()
    return dict(rows[:MAX_WORDS])


_PARSE: LiteralString = """
    WITH languages AS (
        SELECT DISTINCT coalesce(%(configurations)s::jsonb ->> split_part(lower(name), '-', 1), 'simple') AS parser
        FROM knowledge.seeds, unnest(languages) AS name
    )
    SELECT DISTINCT ON (lexeme) lexeme, lower(token)
    FROM languages, ts_debug(parser::regconfig, %(question)s), unnest(lexemes) AS lexeme
    WHERE lexemes IS NOT NULL ORDER BY lexeme, length(token), token
"""


def _literal(vector: Any) -> str:
    """The vector as text, which needs no adapter on whatever connection the caller has."""
    return "[" + ",".join(f"{float(x):.7g}" for x in vector) + "]"


def _by_meaning(asked: _Asked) -> dict[int, float]:
    if asked.vector is None:
        return {}
    values = {"vector": asked.vector, "set": asked.set_name, "depth": DEPTH}
    with asked.connection.transaction():
        asked.connection.execute(_WALK, (str(EF_SEARCH),))
        return dict(asked.connection.execute(_of_model(_NEAREST, asked.used), values).fetchall())


def _of_model(statement: LiteralString, used: InUse) -> sql.Composed:
    """The model is a constant of the statement: an index over one model's rows is taken for no other."""
    return sql.SQL(statement).format(model=sql.Literal(used.model), size=sql.Literal(used.dimensions))


_WALK: LiteralString = (
    # Iterative: the walk goes on until enough chunks were met that are stored, and of the set that is asked.
    "SELECT set_config('hnsw.ef_search', %s, true), set_config('hnsw.iterative_scan', 'strict_order', true)"
)
_NEAREST: LiteralString = """
    WITH nearest AS MATERIALIZED (
        SELECT c.document_id, e.embedding::vector({size}) <=> %(vector)s::vector({size}) AS distance
        FROM knowledge.vectors e
        JOIN knowledge.chunks c ON c.content_hash = e.content_hash
        JOIN knowledge.documents d ON d.id = c.document_id
        WHERE e.model = {model} AND (%(set)s::text IS NULL OR d.set_name = %(set)s)
        ORDER BY e.embedding::vector({size}) <=> %(vector)s::vector({size}) LIMIT %(depth)s
    )
    SELECT document_id, 1 - min(distance) FROM nearest GROUP BY document_id
"""


def _by_words(asked: _Asked) -> dict[int, float]:
    if not asked.words:
        return {}
    values = {
        "lexemes": list(asked.words),
        "vectors": [asked.vectors.get(word) for word in asked.words.values()],
        "near": NEAR_WORDS,
        "enough": NEAR_ENOUGH,
        "k1": K1,
        "b": B,
        "set": asked.set_name,
        "depth": DEPTH,
    }
    return dict(asked.connection.execute(_of_model(_BM25, asked.used), values).fetchall())


_BM25: LiteralString = """
    WITH query AS MATERIALIZED (
        -- Cast here, once a word; further down it would be parsed once a comparison.
        SELECT q.lexeme, q.vector::vector({size})
        FROM unnest(%(lexemes)s::text[], %(vectors)s::text[]) AS q(lexeme, vector)
    ), everything AS (
        SELECT sum(documents)::float8 AS n, greatest(sum(words)::float8 / sum(documents), 1) AS mean
        FROM knowledge.seeds
    ), wanted AS MATERIALIZED (
        SELECT lexeme AS asked, lexeme, 1::float8 AS closeness FROM query
        UNION ALL
        SELECT q.lexeme, near.lexeme, near.closeness FROM query q CROSS JOIN LATERAL (
            SELECT t.lexeme, 1 - (t.embedding::vector({size}) <=> q.vector) AS closeness
            FROM knowledge.term_vectors t WHERE t.model = {model}
            ORDER BY t.embedding::vector({size}) <=> q.vector LIMIT %(near)s
        ) near WHERE q.vector IS NOT NULL AND near.closeness >= %(enough)s AND near.lexeme <> q.lexeme
    ), rarity AS MATERIALIZED (
        SELECT lexeme, ln(1 + (n - documents + 0.5) / (documents + 0.5)) AS idf
        FROM everything, (SELECT DISTINCT lexeme FROM wanted) w
        CROSS JOIN LATERAL (SELECT count(*) AS documents FROM knowledge.postings p WHERE p.lexeme = w.lexeme) f
    ), best AS (
        -- One word of the question counts once a document, by whichever word stands best for it there;
        -- a common word does not become rare by standing for a rare one.
        SELECT p.document_id, w.asked, max(
            w.closeness * least(own.idf, asked.idf)
            * p.frequency * (%(k1)s + 1) / (p.frequency + %(k1)s * (1 - %(b)s + %(b)s * d.words / mean))
        ) AS score
        FROM wanted w JOIN rarity own ON own.lexeme = w.lexeme JOIN rarity asked ON asked.lexeme = w.asked
        JOIN knowledge.postings p ON p.lexeme = w.lexeme JOIN knowledge.documents d ON d.id = p.document_id, everything
        WHERE %(set)s::text IS NULL OR d.set_name = %(set)s
        GROUP BY p.document_id, w.asked
    )
    SELECT document_id, sum(score) AS score FROM best
    GROUP BY document_id ORDER BY score DESC, document_id LIMIT %(depth)s
"""


def _ranked(scores: Mapping[int, float]) -> list[int]:
    # Ties are broken by id, so that equal searches give equal answers.
    return sorted(scores, key=lambda document: (-scores[document], document))


def _hits(asked: _Asked, scores: Mapping[int, float], limit: int) -> tuple[Hit, ...]:
    best = _ranked(scores)[: max(limit, 0)]
    if not best:
        return ()
    query = " | ".join("'" + lexeme.replace("\\", "\\\\").replace("'", "''") + "'" for lexeme in asked.words)
    values = {"documents": best, "vector": asked.vector, "query": query}
    rows = asked.connection.execute(_of_model(_PASSAGES, asked.used), values).fetchall()
    found = {row[0]: Hit(row[1], row[2], row[3], float(scores[row[0]]), row[4]) for row in rows}
    # A document that a seeder removed between two of these statements is left out.
    return tuple(found[document] for document in best if document in found)


_PASSAGES: LiteralString = """
    SELECT DISTINCT ON (d.id) d.id, d.slug, d.title, d.set_name, c.text
    FROM knowledge.documents d JOIN knowledge.chunks c ON c.document_id = d.id
    LEFT JOIN knowledge.vectors e ON e.content_hash = c.content_hash AND e.model = {model}
    WHERE d.id = ANY(%(documents)s)
    ORDER BY d.id, e.embedding <=> %(vector)s::vector, ts_rank(c.tsv, %(query)s::tsquery) DESC, c.ordinal
"""
