"""Keeping stored knowledge right by itself: which embedder is in use, another one's vectors, the switch.

Here: what joins the platform with ``knowledge.models``. Not here: loading a set (``bring_up``), or the looks
at it (``health``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dr_platform.knowledge.embedder import Embedder
from dr_platform.knowledge.evaluate import RetrievalReport, evaluate_set
from dr_platform.knowledge.models import Model, Reindexed, Switched, read_models
from dr_platform.knowledge.store import read_in_use
from dr_platform.platform import Platform
from dr_platform.verdict import Progress, silent

if TYPE_CHECKING:
    from psycopg import Connection

CHOSEN = "knowledge-model-chosen"
SWITCHED = "knowledge-model-switched"
RETIRED = "knowledge-model-retired"
SUBJECT = "knowledge/models"


def models(platform: Platform) -> tuple[Model, ...]:
    """Every model with vectors, the one in use first."""
    with platform.knowledge() as connection:
        return read_models(connection)


def reindex(platform: Platform, model: str, progress: Progress = silent) -> Reindexed:
    """Build a model's vectors beside those in use; repeating it goes on. Raises ``UnknownModel`` and what
    ``knowledge.models.reindex`` raises."""
    from dr_platform.embedding import embedder_named
    from dr_platform.knowledge import models as versions

    embedder = embedder_named(model)
    with platform.knowledge("admin") as connection:
        return versions.reindex(connection, embedder, platform.clock, progress)


def switch(platform: Platform, model: str, actor: str, progress: Progress = silent, *, chosen: str = "") -> Switched:
    """Search with another model where it is no worse, or because of ``chosen``; recorded as evidence.
    Raises ``UnknownModel`` and what ``knowledge.models.switch`` raises."""
    from dr_platform.embedding import MODELS, embedder_named
    from dr_platform.knowledge import models as versions

    embedder = embedder_named(model)
    if chosen:  # before anything is changed: a reason that may not be kept is refused here
        platform.evidence.append(CHOSEN, SUBJECT, actor, {"model": model, "reason": chosen})
    with platform.knowledge("admin") as connection:
        used = read_in_use(connection)
        previous = embedder_named(used.model) if used is not None and used.model in MODELS else None

        def ask(asked: Embedder) -> Sequence[RetrievalReport]:
            return ask_all(platform, connection, asked)

        done = versions.switch(connection, embedder, previous, ask, platform.clock, progress, chosen=chosen)
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


def ask_all(platform: Platform, connection: Connection[Any], embedder: Embedder) -> tuple[RetrievalReport, ...]:
    """The labelled questions of every set that has some."""
    return tuple(
        evaluate_set(connection, embedder, knowledge_set, platform.catalog.knowledge_folder(name))
        for name, knowledge_set in platform.catalog.knowledge.items()
        if knowledge_set.questions is not None
    )
