"""How well labelled questions find their documents: recall, reciprocal rank, time.

Here: questions, figures, thresholds, report. Not here: searching itself. Each question has one
document that answers it; a search finds it at a rank or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dr_platform.catalog import KnowledgeSet
from dr_platform.clock import Clock, SystemClock
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.knowledge.embedder import Embedder
from dr_platform.knowledge.search import Hit, hybrid_search, text_search, vector_search
from dr_platform.knowledge.sources import SourceFault
from dr_platform.verdict import Measure, Verdict

if TYPE_CHECKING:
    from psycopg import Connection

RANKS = 10
"""How deep a search is looked through; a document below counts as not found."""
WITHIN = 5
"""The ranks that recall counts."""


@dataclass(frozen=True)
class LabelledQuestion:
    question: str
    document: str
    """The slug of the document that answers it."""


@dataclass(frozen=True)
class Thresholds:
    """What the fused search must reach; a set says it in its ``set.yaml``."""

    recall: float = 0.85
    reciprocal_rank: float = 0.6
    p95_ms: float = 250.0


@dataclass(frozen=True)
class Figures:
    """``recall``: share of questions whose document is among the first 5. ``reciprocal_rank``: mean
    of 1/rank, 0 where it is not among the first 10. ``p95_ms``: 95th percentile of one search, the
    question's embedding included."""

    recall: float
    reciprocal_rank: float
    p95_ms: float


@dataclass(frozen=True)
class RetrievalReport:
    """Figures of the three kinds of search over the same questions. ``missed`` are the documents
    whose question the fused search did not find within 5, in the order of the questions."""

    name: str
    questions: int
    vector: Figures
    text: Figures
    fused: Figures
    missed: tuple[str, ...]
    thresholds: Thresholds = Thresholds()

    def verdict(self) -> Verdict:
        """Good enough, and fusing is worth it: the fused recall may stay one question behind the
        better arm's, because which single question is lost is chance, and no more than that."""
        problems = self._problems()
        why = "; ".join(problems) or self._summary()
        return Verdict(not problems, why, self.measurements(), self.markdown())

    def _problems(self) -> tuple[str, ...]:
        if self.questions == 0:
            return ("no questions, so nothing is known",)
        fused, wanted = self.fused, self.thresholds
        one = 1 / self.questions
        best = max(self.vector.recall, self.text.recall)
        rules = (
            (fused.recall >= wanted.recall, f"recall@5 is {fused.recall:.2f}, wanted is {wanted.recall:.2f}"),
            (
                fused.reciprocal_rank >= wanted.reciprocal_rank,
                f"mean reciprocal rank is {fused.reciprocal_rank:.2f}, wanted is {wanted.reciprocal_rank:.2f}",
            ),
            (fused.p95_ms <= wanted.p95_ms, f"p95 is {fused.p95_ms:.0f} ms, allowed are {wanted.p95_ms:.0f} ms"),
            (fused.recall > best - one - 1e-9, f"fused recall@5 {fused.recall:.2f} is behind one part's {best:.2f}"),
        )
        return tuple(problem for holds, problem in rules if not holds)

    def _summary(self) -> str:
        return f"recall@5 {self.fused.recall:.2f}, MRR {self.fused.reciprocal_rank:.2f} over {self.questions} questions"

    def measurements(self) -> Mapping[str, Measure]:
        """By stable names, for the asset check."""
        found: dict[str, Measure] = {"questions": self.questions, "missed": len(self.missed)}
        for kind, figures in self._kinds():
            found[f"{kind}_recall_at_5_ratio"] = round(figures.recall, 4)
            found[f"{kind}_mrr_ratio"] = round(figures.reciprocal_rank, 4)
            found[f"{kind}_p95_ms"] = round(figures.p95_ms, 2)
        return found

    def _kinds(self) -> tuple[tuple[str, Figures], ...]:
        return (("fused", self.fused), ("vector", self.vector), ("text", self.text))

    def markdown(self) -> str:
        """A table for a person; ``missed`` below it."""
        rows = "".join(
            f"| {kind} | {f.recall:.3f} | {f.reciprocal_rank:.3f} | {f.p95_ms:.1f} |\n" for kind, f in self._kinds()
        )
        head = (
            f"**{self.name}**, {self.questions} questions\n\n| search | recall@5 | MRR | p95 ms |\n|---|---|---|---|\n"
        )
        missed = f"\nNot among the first 5: {', '.join(self.missed)}\n" if self.missed else ""
        return head + rows + missed


class QuestionsError(PlatformError):
    """The file of questions cannot be used. ``faults`` are all that were found."""

    exit_code = ExitCode.REFUSED

    def __init__(self, file: str, faults: tuple[SourceFault, ...]) -> None:
        super().__init__(file, faults)
        self.faults = faults
        self.what = f"the questions in {file} cannot be used:\n" + "\n".join(f"  {fault}" for fault in faults)
        self.untouched = "every stored document"
        self.next_step = 'write one {"question": …, "document": slug} a line'


def read_questions(file: Path) -> tuple[LabelledQuestion, ...]:
    """All questions of a JSON lines file, or ``QuestionsError`` with every fault in it."""
    faults: list[SourceFault] = []
    found: list[LabelledQuestion] = []
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as exc:
        fault = SourceFault(file.name, None, f"cannot be read ({type(exc).__name__})", "put a UTF-8 file in its place")
        raise QuestionsError(file.name, (fault,)) from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if (question := _question(line)) is None:
            remedy = "write question and document as text"
            faults.append(SourceFault(file.name, number, "is no labelled question", remedy))
        else:
            found.append(question)
    if faults or not found:
        empty = SourceFault(file.name, None, "holds no question", "write one a line")
        raise QuestionsError(file.name, tuple(faults) or (empty,))
    return tuple(found)


def _question(line: str) -> LabelledQuestion | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    question, document = row.get("question"), row.get("document")
    if not (isinstance(question, str) and isinstance(document, str) and question.strip() and document.strip()):
        return None
    return LabelledQuestion(question, document)


def evaluate_set(
    connection: Connection[Any],
    embedder: Embedder,
    knowledge_set: KnowledgeSet,
    folder: Path,
    *,
    clock: Clock | None = None,
) -> RetrievalReport:
    """Ask the questions of a set of that set alone, so that no other set's content can fail it.

    ``folder`` is the set's folder. Raises ``QuestionsError``, and what searching raises. A set that
    ships no questions gives a report of none, whose verdict does not pass.
    """
    name = knowledge_set.name
    questions = read_questions(folder / knowledge_set.questions) if knowledge_set.questions else ()
    _require_documents(connection, name, questions, str(knowledge_set.questions))
    goal = knowledge_set.retrieval
    wanted = Thresholds(goal.recall, goal.reciprocal_rank, goal.p95 * 1000)
    return evaluate(connection, embedder, name, questions, set_name=name, thresholds=wanted, clock=clock)


def evaluate(
    connection: Connection[Any],
    embedder: Embedder,
    name: str,
    questions: Sequence[LabelledQuestion],
    *,
    set_name: str | None = None,
    thresholds: Thresholds | None = None,
    clock: Clock | None = None,
) -> RetrievalReport:
    """Ask every question three ways, of the whole store or of one set."""
    clock = clock or SystemClock()

    def run(search: Callable[[str], tuple[Hit, ...]]) -> tuple[Figures, list[int | None]]:
        ranks, times = [], []
        for asked in questions:
            started = clock.monotonic()
            hits = search(asked.question)
            times.append((clock.monotonic() - started) * 1000)
            ranks.append(next((at for at, hit in enumerate(hits, 1) if hit.document == asked.document), None))
        return figures(ranks, times), ranks

    vector, _ = run(lambda text: vector_search(connection, embedder, text, RANKS, set_name=set_name))
    text, _ = run(lambda text: text_search(connection, embedder, text, RANKS, set_name=set_name))
    fused, ranks = run(lambda text: hybrid_search(connection, embedder, text, RANKS, set_name=set_name))
    missed = (q.document for q, rank in zip(questions, ranks, strict=True) if rank is None or rank > WITHIN)
    return RetrievalReport(name, len(questions), vector, text, fused, tuple(missed), thresholds or Thresholds())


def figures(ranks: Sequence[int | None], times_ms: Sequence[float]) -> Figures:
    """From the rank of each question's document (``None`` where it was not found) and the times."""
    if not ranks:
        return Figures(0.0, 0.0, 0.0)
    return Figures(
        recall=sum(rank is not None and rank <= WITHIN for rank in ranks) / len(ranks),
        reciprocal_rank=sum(1 / rank for rank in ranks if rank is not None) / len(ranks),
        p95_ms=sorted(times_ms)[max(0, -(-len(times_ms) * 95 // 100) - 1)],
    )


def _require_documents(
    connection: Connection[Any], set_name: str, questions: Sequence[LabelledQuestion], file: str
) -> None:
    rows = connection.execute("SELECT slug FROM knowledge.documents WHERE set_name = %s", (set_name,)).fetchall()
    stored = {slug for (slug,) in rows}
    remedy = "correct the slug, or seed the set"
    faults = tuple(
        SourceFault(file, None, f"names the document {slug}, which is not stored", remedy)
        for slug in sorted({q.document for q in questions} - stored)
    )
    if faults:
        raise QuestionsError(file, faults)
