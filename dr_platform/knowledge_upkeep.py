"""Keeping stored knowledge right by itself: which embedder is in use, another one's vectors, the switch,
and which sets are to be seeded again.

Here: what joins the platform with ``knowledge.models``. Not here: loading a set (``bring_up``), or the looks
at it (``health``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dr_platform.catalog import KnowledgeSet
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.knowledge.embedder import Embedder, Remembering
from dr_platform.knowledge.embedders import KEY_CATEGORY, KEY_FIELD, fit_for_header
from dr_platform.knowledge.evaluate import (
    LabelledQuestion,
    RetrievalReport,
    evaluate,
    evaluate_set,
    read_questions,
)
from dr_platform.knowledge.gates import phi_verdict
from dr_platform.knowledge.models import Answers, Model, Reindexed, Switched, count_texts, read_models
from dr_platform.knowledge.seeding import compare, identifiers
from dr_platform.knowledge.sources import SourceError
from dr_platform.knowledge.store import read_in_use
from dr_platform.knowledge.upkeep import Leave, Reseed, Standing, Tried, decide
from dr_platform.knowledge_mirror import mirror_set
from dr_platform.platform import Platform
from dr_platform.verdict import Progress, silent

if TYPE_CHECKING:
    from psycopg import Connection

CHOSEN = "knowledge-model-chosen"
SWITCHED = "knowledge-model-switched"
RETIRED = "knowledge-model-retired"
SUBJECT = "knowledge/models"


def models(platform: Platform) -> tuple[Model, ...]:
    """Every model with vectors, the one in use first; then those of the catalog that have none."""
    with platform.knowledge() as connection:
        stored = read_models(connection)
        chunks = count_texts(connection)
    known = {model.model for model in stored}
    return stored + tuple(
        Model(name, entry.dimensions, "absent", 0, chunks, None)
        for name, entry in platform.catalog.embedders.items()
        if name not in known
    )


def reindex(platform: Platform, model: str, progress: Progress = silent) -> Reindexed:
    """Build a model's vectors beside those in use; repeating it goes on. Raises ``UnknownModel`` and what
    ``knowledge.models.reindex`` raises."""
    from dr_platform.knowledge import models as versions

    embedder = platform.embedders.named(model)
    with platform.knowledge("admin") as connection:
        if not platform.embedders.entries[model].questions:
            _require_no_identifiers(platform, connection, model)
        return versions.reindex(connection, embedder, platform.clock, progress)


class HoldsIdentifiers(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, model: str, sets: tuple[str, ...]) -> None:
        super().__init__(model, sets)
        self.what = (
            f"{model}: articles of {', '.join(sets)} seem to hold identifiers of a patient,"
            " and its server may not have PHI"
        )
        self.untouched = "everything stored; nothing was sent"
        self.next_step = f"see the check `phi` of these sets, or allow its questions in catalog/embedders/{model}.yaml"


def _require_no_identifiers(platform: Platform, connection: Connection[Any], model: str) -> None:
    sets = platform.catalog.knowledge.values()
    looks = {chosen.name: phi_verdict(connection, chosen, identifiers) for chosen in sets}
    found = tuple(name for name, verdict in looks.items() if verdict.measurements.get("identifiers"))
    if found:
        raise HoldsIdentifiers(model, found)


def store_key(platform: Platform, model: str, key: str) -> int:
    """Keep the key of a model's server; the version of the secret. Raises ``UnknownModel`` and ``NoKeyWanted``."""
    platform.embedders.named(model)
    name = platform.embedders.entries[model].secret
    if not name or not fit_for_header(key):
        raise NoKeyWanted(model, "it is no key" if name else "the catalog names no secret for it")
    before = platform.secrets.metadata(name)
    expected = before.version if before else None
    return platform.secrets.write(name, {KEY_FIELD: key}, category=KEY_CATEGORY, expected=expected)


class NoKeyWanted(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, model: str, why: str) -> None:
        super().__init__(model, why)
        self.what = f"{model}: the key was not kept, {why}"
        self.untouched = "every stored secret"
        self.next_step = "a key is printable ASCII without blanks, and stands under `server.secret` in the model's file"


def switch(platform: Platform, model: str, actor: str, progress: Progress = silent, *, chosen: str = "") -> Switched:
    """Search with another model where it is no worse, or because of ``chosen``; recorded as evidence.
    Raises ``UnknownModel``, ``QuestionsRefused`` and what ``knowledge.models.switch`` raises."""
    from dr_platform.knowledge import models as versions

    embedder = platform.embedders.for_questions(model)
    if chosen:  # before anything is changed: a reason that may not be kept is refused here
        platform.evidence.append(CHOSEN, SUBJECT, actor, {"model": model, "reason": chosen})
    with platform.knowledge("admin") as connection:
        used = read_in_use(connection)
        known = used is not None and used.model in platform.catalog.embedders
        previous = platform.embedders.named(used.model) if used is not None and known else None

        def ask(asked: Embedder) -> Answers:
            return ask_all(platform, connection, asked)

        done = versions.switch(connection, embedder, previous, ask, platform.clock, progress, chosen=chosen)
        for name in platform.catalog.knowledge if done.previous != done.model else ():
            mirror_set(platform, connection, name)
    if done.previous != done.model:
        platform.evidence.append(SWITCHED, SUBJECT, actor, dict(done.measurements()))
    return done


def retire(platform: Platform, model: str, actor: str, progress: Progress = silent) -> int:
    """Remove a model that is not in use; how many vectors that were. Recorded as evidence."""
    from dr_platform.knowledge import models as versions

    with platform.knowledge("admin") as connection:
        removed = versions.retire(connection, model, platform.clock, progress)
    platform.evidence.append(RETIRED, SUBJECT, actor, {"model": model, "vectors": removed})
    return removed


@dataclass(frozen=True)
class Due:
    """What is to be seeded again, and why the rest is left alone."""

    reseeds: tuple[Reseed, ...]
    left: tuple[Leave, ...]

    def summary(self) -> str:
        reasons = sorted({left.why for left in self.left})
        return "; ".join(f"{', '.join(x.name for x in self.left if x.why == why)}: {why}" for why in reasons)


def due(platform: Platform, tried: Mapping[str, Tried], busy: Callable[[tuple[str, str]], bool]) -> Due:
    """Which sets are seeded again now. ``busy`` says whether a run works on an asset. Raises what the
    connection to the store raises."""
    now = platform.clock.now()
    found = [
        decide(standing, tried.get(standing.name), now, busy="a run is at work on it" if asked else "")
        for standing in standings(platform)
        for asked in (busy(("knowledge", standing.name)),)
    ]
    return Due(
        tuple(answer for answer in found if isinstance(answer, Reseed)),
        tuple(answer for answer in found if isinstance(answer, Leave)),
    )


def standings(platform: Platform) -> tuple[Standing, ...]:
    """Every set's own source against the store."""
    with platform.knowledge() as connection:
        return tuple(
            _standing(connection, knowledge_set, platform.catalog.knowledge_folder(name), platform.clock.now())
            for name, knowledge_set in platform.catalog.knowledge.items()
        )


def _standing(connection: Connection[Any], knowledge_set: KnowledgeSet, folder: Path, now: datetime) -> Standing:
    name, limit = knowledge_set.name, knowledge_set.freshness_days
    try:
        seen = compare(connection, knowledge_set, folder / knowledge_set.source)
    except SourceError as exc:
        return Standing(name, limit, trouble=f"its source has {len(exc.faults)} faults; `drp seed {name}` tells them")
    age = (now - seen.seeded_at).total_seconds() / 86_400 if seen.seeded_at else None
    return Standing(name, limit, seen.signature, seen.pending, age)


def ask_all(platform: Platform, connection: Connection[Any], embedder: Embedder) -> Answers:
    """The labelled questions of every set that has some: of the whole store, and of their own set."""
    asked = Remembering(embedder)  # each question is asked six times, and none of them is timed
    questions: list[LabelledQuestion] = []
    reports: list[RetrievalReport] = []
    for name, knowledge_set in platform.catalog.knowledge.items():
        if knowledge_set.questions is not None:
            folder = platform.catalog.knowledge_folder(name)
            questions += read_questions(folder / knowledge_set.questions)
            reports.append(evaluate_set(connection, asked, knowledge_set, folder))
    return Answers(evaluate(connection, asked, "the whole store", questions), tuple(reports))
