"""Vectors of another model, built beside those in use, compared with them, and switched to.

Here: ``reindex``, ``switch``, ``retire``, ``read_models``, and when a model is no worse. Not here: which
embedders there are, how questions are asked (``evaluate``), or the tables' loads (``store``).

Vectors are kept by chunk and model, so building can be stopped anywhere and goes on from there. The
model that was in use before stays ready, to go back to, until it is retired; what was loaded meanwhile
is caught up on first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, LiteralString

from dr_platform.clock import Clock
from dr_platform.errors import ExitCode, PlatformError, TemporaryFailure
from dr_platform.knowledge import store
from dr_platform.knowledge.chunking import Chunk
from dr_platform.knowledge.embedder import NO_VECTORS, Embedder
from dr_platform.knowledge.evaluate import RetrievalReport
from dr_platform.verdict import Measure, Progress, silent

if TYPE_CHECKING:
    from psycopg import Connection

MARGIN = 0.02
"""So much recall@5 and mean reciprocal rank over all questions may be lost by a switch: of 125 questions,
two fewer are found. One question more or less is chance."""
SLACK = 1e-9

State = Literal["absent", "building", "ready", "active"]
"""``absent`` is one that the catalog has and of which nothing is built."""


@dataclass(frozen=True)
class Model:
    """A model with stored vectors. ``missing`` chunks have none of it; ``switched_at`` is when it came
    into use last."""

    model: str
    dimensions: int
    state: State
    vectors: int
    missing: int
    switched_at: datetime | None

    def as_json(self) -> dict[str, Measure | None]:
        return {
            "model": self.model,
            "dimensions": self.dimensions,
            "state": self.state,
            "vectors": self.vectors,
            "missing": self.missing,
            "switched_at": self.switched_at.isoformat() if self.switched_at else None,
        }


@dataclass(frozen=True)
class Reindexed:
    """``embedded`` chunks and ``terms`` had no vector of the model before; both are 0 when repeated."""

    model: str
    embedded: int
    terms: int
    duration_s: float

    def describe(self) -> str:
        return f"{self.model}: {self.embedded:,} chunks and {self.terms:,} words embedded in {self.duration_s:.1f} s"

    def measurements(self) -> dict[str, Measure]:
        return {"embedded": self.embedded, "terms": self.terms, "duration_s": round(self.duration_s, 3)}


@dataclass(frozen=True)
class Answers:
    """What was found with one model: every question asked of the whole store, as the search service asks,
    and each set's own questions of the set alone, as its check does."""

    whole: RetrievalReport
    sets: tuple[RetrievalReport, ...] = ()


@dataclass(frozen=True)
class Quality:
    """Fused search over the questions of all sets, asked of the whole store."""

    questions: int
    recall: float
    reciprocal_rank: float


@dataclass(frozen=True)
class Switched:
    """``before`` is absent where the model in use could not be measured; equal models changed nothing."""

    previous: str | None
    model: str
    before: Quality | None
    after: Quality
    reason: str = ""

    def describe(self) -> str:
        if self.previous == self.model:
            return f"{self.model} is in use already"
        was = f"{self.before.recall:.3f}, MRR {self.before.reciprocal_rank:.3f}" if self.before else "not measured"
        now = f"{self.after.recall:.3f}, MRR {self.after.reciprocal_rank:.3f}"
        return f"{self.previous} (recall@5 {was}) gave way to {self.model} (recall@5 {now})"

    def measurements(self) -> dict[str, Measure]:
        found: dict[str, Measure] = {"model": self.model, "previous": self.previous or "", "reason": self.reason}
        for name, quality in (("before", self.before), ("after", self.after)):
            if quality is not None:
                found[f"{name}_recall_at_5_ratio"] = round(quality.recall, 4)
                found[f"{name}_mrr_ratio"] = round(quality.reciprocal_rank, 4)
                found[f"{name}_questions"] = quality.questions
        return found


class NotAsGood(PlatformError):
    """``before`` and ``after`` say what was measured."""

    def __init__(self, model: str, problems: tuple[str, ...]) -> None:
        super().__init__(model, problems)
        self.what = f"the store was not switched to {model}: {'; '.join(problems)}"
        self.untouched = "searches; they go on with the model in use, and the new vectors are kept"
        self.next_step = f"improve it, or choose it all the same: `drp knowledge switch {model} --reason TEXT`"


class ModelIncomplete(TemporaryFailure):
    def __init__(self, model: str, missing: int) -> None:
        super().__init__(model, missing)
        self.what = f"{missing} chunks that were loaded meanwhile have no vector of {model}"
        self.untouched = "searches; they go on with the model in use"
        self.next_step = "run again: only those are embedded"


class ModelInUse(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.what = f"{model} is in use; without its vectors nothing would be found by meaning"
        self.untouched = "every vector"
        self.next_step = "switch to another model first: `drp knowledge switch MODEL`"


class NoSuchModel(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, model: str, known: tuple[str, ...]) -> None:
        super().__init__(model, known)
        self.what = f"{model}: the store has no vectors of it"
        self.untouched = "every vector"
        self.next_step = f"it has those of {', '.join(known) or 'no model'}"


def read_models(connection: Connection[Any]) -> tuple[Model, ...]:
    """Every model with vectors, the one in use first."""
    rows = connection.execute(
        """
        WITH wanted AS (SELECT DISTINCT content_hash FROM knowledge.chunks)
        SELECT m.model, m.dimensions, m.state,
            (SELECT count(*) FROM knowledge.vectors e WHERE e.model = m.model),
            (SELECT count(*) FROM wanted w WHERE NOT EXISTS (
                SELECT FROM knowledge.vectors e WHERE e.content_hash = w.content_hash AND e.model = m.model)),
            m.switched_at
        FROM knowledge.models m ORDER BY m.state <> 'active', m.switched_at DESC NULLS LAST, m.model
        """
    ).fetchall()
    return tuple(Model(*row) for row in rows)


def count_texts(connection: Connection[Any]) -> int:
    """How many different chunks there are, each of which has a vector of a complete model."""
    row = connection.execute("SELECT count(DISTINCT content_hash) FROM knowledge.chunks").fetchone()
    return row[0] if row else 0


def reindex(connection: Connection[Any], embedder: Embedder, clock: Clock, progress: Progress = silent) -> Reindexed:
    """Make every vector of a model that is missing, beside those in use; searches notice nothing.

    ``connection`` is in autocommit and may write. Stopped and run again, it goes on where it was. Raises
    ``SeedInProgress`` where another process builds the same and does not end, ``WrongDimensions``, and
    what the embedder raises.
    """
    if not connection.autocommit:
        raise ValueError("reindexing commits as it goes: open the connection in autocommit")
    started = clock.monotonic()
    with store.long_statements(connection), store.only_indexer(connection, embedder.model_id, clock, progress):
        store.require_size(connection, embedder)
        connection.execute(
            "INSERT INTO knowledge.models (model, dimensions, state, created_at) VALUES (%s, %s, 'building', %s)"
            " ON CONFLICT DO NOTHING",
            (embedder.model_id, embedder.dimensions, clock.now()),
        )
        embedded = _embed_chunks(connection, embedder, progress)
        terms = _embed_terms(connection, embedder)
        with connection.transaction():
            store.load_alone(connection, clock, progress)
            store.load_indexes(connection, embedder, progress)
            connection.execute(
                "UPDATE knowledge.models SET state = 'ready' WHERE model = %s AND state = 'building'",
                (embedder.model_id,),
            )
        store.refresh_statistics(connection)
    return Reindexed(embedder.model_id, embedded, terms, clock.monotonic() - started)


def _embed_chunks(connection: Connection[Any], embedder: Embedder, progress: Progress) -> int:
    cache = store.VectorCache(connection, embedder)
    missing = _count_missing(connection, embedder.model_id)
    store.drop_indexes_for(connection, embedder.model_id, missing)
    after = ""
    while rows := connection.execute(_MISSING_CHUNKS, (embedder.model_id, after, store.EMBED_BATCH)).fetchall():
        cache.vectors([Chunk(0, title, text) for _, title, text in rows])
        after = rows[-1][0]
        if missing > store.EMBED_BATCH:
            progress(f"{embedder.model_id}: {cache.embedded:,} of {missing:,} chunks embedded")
    return cache.embedded


_MISSING_CHUNKS: LiteralString = """
    SELECT DISTINCT ON (c.content_hash) c.content_hash, d.title, c.text
    FROM knowledge.chunks c JOIN knowledge.documents d ON d.id = c.document_id
    WHERE NOT EXISTS (
        SELECT FROM knowledge.vectors e WHERE e.content_hash = c.content_hash AND e.model = %s
    ) AND c.content_hash > %s ORDER BY c.content_hash LIMIT %s
"""


def _count_missing(connection: Connection[Any], model: str) -> int:
    row = connection.execute(
        """
        SELECT count(DISTINCT c.content_hash) FROM knowledge.chunks c WHERE NOT EXISTS (
            SELECT FROM knowledge.vectors e WHERE e.content_hash = c.content_hash AND e.model = %s
        )
        """,
        (model,),
    ).fetchone()
    return row[0] if row else 0


def _embed_terms(connection: Connection[Any], embedder: Embedder) -> int:
    """Give the words of the model in use vectors of this one."""
    rows = connection.execute(_MISSING_TERMS, (embedder.model_id,)).fetchall()
    for at in range(0, len(rows), store.EMBED_BATCH):
        with connection.transaction():
            store.stage_terms(connection)
            store.copy_terms(connection, rows[at : at + store.EMBED_BATCH], embedder)
            store.keep_terms(connection, embedder)
            connection.execute("DROP TABLE staged_terms")
    return len(rows)


_MISSING_TERMS: LiteralString = """
    SELECT t.lexeme, t.word FROM knowledge.term_vectors t JOIN knowledge.models m ON m.model = t.model
    WHERE m.state = 'active' AND NOT EXISTS (
        SELECT FROM knowledge.term_vectors own WHERE own.lexeme = t.lexeme AND own.model = %s AND own.word = t.word
    ) ORDER BY t.lexeme
"""

Ask = Callable[[Embedder], Answers]
"""Asks the labelled questions of every set with an embedder whose vectors are in use."""


def switch(
    connection: Connection[Any],
    embedder: Embedder,
    previous: Embedder | None,
    ask: Ask,
    clock: Clock,
    progress: Progress = silent,
    *,
    chosen: str = "",
) -> Switched:
    """Use another model's vectors, where its search is no worse by ``MARGIN`` or where ``chosen`` says
    why it is to be used all the same.

    Comparing and switching are one transaction, so what was measured is what comes into use; searches see
    the model before until it ends, and loads wait. ``previous`` is the embedder in use, absent where there
    is none any more, which only ``chosen`` accepts, as it does one that gives no vectors any more.
    Raises ``NotAsGood``, ``ModelIncomplete``, and what ``reindex`` raises; searches then go on as before.
    """
    used = store.read_in_use(connection)
    if used is not None and used.model == embedder.model_id:
        return Switched(used.model, used.model, None, quality_of(ask(embedder)))
    reindex(connection, embedder, clock, progress)
    with store.long_statements(connection), connection.transaction():
        store.load_alone(connection, clock, progress)
        if missing := _count_missing(connection, embedder.model_id):
            raise ModelIncomplete(embedder.model_id, missing)
        used = store.read_in_use(connection)
        comparable = previous is not None and used is not None and used.model == previous.model_id
        before = _ask_before(ask, previous, chosen) if previous is not None and comparable else None
        _bring_into_use(connection, embedder.model_id, clock.now())
        after = ask(embedder)
        problems = worse(before, after)
        if problems and not chosen:
            raise NotAsGood(embedder.model_id, problems)
    return Switched(
        used.model if used else None,
        embedder.model_id,
        quality_of(before) if before else None,
        quality_of(after),
        chosen,
    )


def _ask_before(ask: Ask, previous: Embedder, chosen: str) -> Answers | None:
    """Away from a server that is gone there is a way, for a reason."""
    try:
        return ask(previous)
    except NO_VECTORS:
        if not chosen:
            raise
        return None


def _bring_into_use(connection: Connection[Any], model: str, now: datetime) -> None:
    connection.execute("UPDATE knowledge.models SET state = 'ready' WHERE state = 'active'")
    connection.execute("UPDATE knowledge.models SET state = 'active', switched_at = %s WHERE model = %s", (now, model))
    connection.execute("UPDATE knowledge.seeds SET model = %s", (model,))


def retire(connection: Connection[Any], model: str, clock: Clock, progress: Progress = silent) -> int:
    """Remove a model's vectors and indexes; how many vectors that were. Raises ``ModelInUse`` and
    ``NoSuchModel``."""
    with store.long_statements(connection), store.only_indexer(connection, model, clock, progress):
        with connection.transaction():
            store.load_alone(connection, clock, progress)
            known = {found.model: found for found in read_models(connection)}
            if model not in known:
                raise NoSuchModel(model, tuple(known))
            if known[model].state == "active":
                raise ModelInUse(model)
            connection.execute("DELETE FROM knowledge.term_vectors WHERE model = %s", (model,))
            connection.execute("DELETE FROM knowledge.vectors WHERE model = %s", (model,))
            connection.execute("DELETE FROM knowledge.models WHERE model = %s", (model,))
            store.drop_indexes(connection, model)  # last: from here to the commit readers wait
        return known[model].vectors


def quality_of(answers: Answers) -> Quality:
    whole = answers.whole
    return Quality(whole.questions, whole.fused.recall, whole.fused.reciprocal_rank)


def worse(before: Answers | None, after: Answers) -> tuple[str, ...]:
    """Why a model may not take the place of the one in use by itself; nothing where it may.

    Over all questions neither figure may lose more than ``MARGIN``, and no set may fall below its own
    goal that reached it before. Time is told and not judged: it varies with what the machine does.
    """
    if before is None or not before.whole.questions or not after.whole.questions:
        return ("there is nothing to compare: no labelled question was asked with both models",)
    old, new = quality_of(before), quality_of(after)
    problems = [
        f"{name} falls from {was:.3f} to {now:.3f}, allowed are {MARGIN}"
        for name, was, now in (
            ("recall@5", old.recall, new.recall),
            ("mean reciprocal rank", old.reciprocal_rank, new.reciprocal_rank),
        )
        if now < was - MARGIN - SLACK
    ]
    reached = {report.name for report in before.sets if _reaches_goal(report)}
    fallen = sorted(report.name for report in after.sets if report.name in reached and not _reaches_goal(report))
    return (*problems, *(f"{name} no longer reaches its goal" for name in fallen))


def _reaches_goal(report: RetrievalReport) -> bool:
    wanted, fused = report.thresholds, report.fused
    return fused.recall >= wanted.recall and fused.reciprocal_rank >= wanted.reciprocal_rank
