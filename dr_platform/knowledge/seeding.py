"""Bringing the store to what a source says: the order of a seed, and how far the store is behind.

Here: ``seed``, ``freshness``, ``pending_changes``, ``forget``. Not here: the statements (``store``).

A set may have several sources: the catalog's own folder, and folders or files of the user. A seed
compares and touches the documents of its own source only, so seeding a user's folder adds to the set
and bringing the platform up again does not take it away.

A seed can be stopped anywhere and run again: vectors are kept as they are made, and all documents of
one seed appear in one transaction.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dr_platform.catalog import KnowledgeSet
from dr_platform.clock import Clock, SystemClock
from dr_platform.knowledge import store
from dr_platform.knowledge.chunking import Chunk, chunk_document
from dr_platform.knowledge.documents import Document
from dr_platform.knowledge.embedder import Embedder, Remembering
from dr_platform.knowledge.sources import PhiLook, SourceError, SourceFault, phi_warnings, read_source
from dr_platform.verdict import Progress, silent

if TYPE_CHECKING:
    from psycopg import Connection

PHI_KINDS = frozenset({"SSN", "MRN", "BIRTH_DATE", "HEALTH_PLAN", "ACCOUNT", "CARD", "EMAIL"})
"""Kinds that an article has no reason to hold. Phone numbers and addresses are left out: crisis lines
and clinics have them."""
PHI_CONFIDENCE = 0.8
WARNINGS_SHOWN = 20
"""As progress; ``SeedReport.warnings`` has all of them."""


@dataclass(frozen=True)
class SeedReport:
    """Counts of one seed. ``chunks`` are those of added and changed documents, ``embedded`` the texts
    that the embedder was asked for; both are 0 where nothing changed."""

    documents_added: int
    documents_changed: int
    documents_removed: int
    documents_unchanged: int
    chunks: int
    embedded: int
    duration_s: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Age:
    """Since when the store was last compared with the source. ``days`` is 0 where ``known`` is false."""

    known: bool
    days: float


def seed(
    connection: Connection[Any],
    knowledge_set: KnowledgeSet,
    source: Path,
    embedder: Embedder,
    progress: Progress = silent,
    *,
    clock: Clock | None = None,
    phi: PhiLook | None = None,
) -> SeedReport:
    """Make the store hold exactly what ``source`` (a folder or file) has, touching only what differs.

    ``connection`` is in autocommit and may write. Raises ``SourceError`` before anything is written,
    ``SeedInProgress`` when another seeder of the set does not end, and what the embedder raises.
    """
    if not connection.autocommit:
        raise ValueError("seeding commits as it goes: open the connection in autocommit")
    clock = clock or SystemClock()
    started = clock.monotonic()
    documents = read_source(source, language=knowledge_set.language)
    name, of = knowledge_set.name, source_name(knowledge_set, source)
    with store.long_statements(connection), store.only_seeder(connection, name, clock, progress):
        store.require_in_use(connection, embedder)
        stored = store.read_stored(connection, name, of)
        _refuse_taken_slugs(documents, stored, source)
        found = _differences(documents, stored, embedder)
        touched = {*found.added, *found.changed}
        work = _Work(name, of, [d for d in documents if d.slug in touched], found, embedder, clock, progress)
        warnings = phi_warnings(work.documents, phi or identifiers)
        _tell(warnings, progress)
        chunks, embedded = work.carry_out(connection)
    report = SeedReport(
        len(found.added),
        len(found.changed),
        len(found.removed),
        len(found.unchanged),
        chunks,
        embedded,
        clock.monotonic() - started,
        warnings,
    )
    progress(describe(name, report))
    return report


def describe(name: str, report: SeedReport) -> str:
    """One line for a person."""
    return (
        f"{name}: {report.documents_added} documents added, {report.documents_changed} changed, "
        f"{report.documents_removed} removed, {report.documents_unchanged} unchanged; "
        f"{report.chunks} chunks, {report.embedded} embedded in {report.duration_s:.1f} s"
    )


def pending_changes(connection: Connection[Any], knowledge_set: KnowledgeSet, source: Path) -> int:
    """Documents that a seed from ``source`` would touch; 0 where the store equals the source."""
    documents = read_source(source, language=knowledge_set.language)
    stored = store.read_stored(connection, knowledge_set.name, source_name(knowledge_set, source))
    return store.difference({d.slug: d.content_hash for d in documents}, stored.hashes).count


@dataclass(frozen=True)
class Compared:
    """Source against store. ``signature`` changes with either."""

    pending: int
    seeded_at: datetime | None
    signature: str


def compare(connection: Connection[Any], knowledge_set: KnowledgeSet, source: Path) -> Compared:
    """How a source and what was loaded from it stand to each other. Raises ``SourceError``."""
    documents = read_source(source, language=knowledge_set.language)
    of = source_name(knowledge_set, source)
    wanted = {d.slug: d.content_hash for d in documents}
    row = connection.execute(
        "SELECT seeded_at FROM knowledge.seeds WHERE set_name = %s AND source = %s", (knowledge_set.name, of)
    ).fetchone()
    seeded_at = row[0] if row else None
    state = json.dumps([sorted(wanted.items()), str(seeded_at)])
    stored = store.read_stored(connection, knowledge_set.name, of)
    pending = store.difference(wanted, stored.hashes).count
    return Compared(pending, seeded_at, hashlib.sha256(state.encode()).hexdigest()[:16])


def freshness(connection: Connection[Any], knowledge_set: KnowledgeSet, now: datetime) -> Age:
    """How long ago the set's own source was last compared with the store."""
    row = connection.execute(
        "SELECT seeded_at FROM knowledge.seeds WHERE set_name = %s AND source = %s",
        (knowledge_set.name, knowledge_set.source),
    ).fetchone()
    return Age(True, max(0.0, (now - row[0]).total_seconds() / 86_400)) if row else Age(False, 0.0)


def forget(connection: Connection[Any], set_name: str, source: str) -> int:
    """Remove everything that came from one source (its name as ``source_name`` gives it); how many
    documents that were."""
    clock = SystemClock()
    with store.only_seeder(connection, set_name, clock, silent), connection.transaction():
        slugs = tuple(store.read_stored(connection, set_name, source).hashes)
        store.load_replaced(connection, set_name, source, slugs)
        store.load_removals(connection, set_name, source, slugs)
        store.load_prune(connection)
        connection.execute("DELETE FROM knowledge.seeds WHERE set_name = %s AND source = %s", (set_name, source))
    return len(slugs)


def source_name(knowledge_set: KnowledgeSet, source: Path) -> str:
    """The catalog's own folder by its name in ``set.yaml``, so that a checkout can move; another
    source by its absolute path."""
    path = source.resolve()
    own = path.name == knowledge_set.source and path.parent.name == knowledge_set.name
    return knowledge_set.source if own and (path.parent / "set.yaml").is_file() else str(path)


def _differences(documents: Sequence[Document], stored: store.Stored, embedder: Embedder) -> store.Difference:
    found = store.difference({d.slug: d.content_hash for d in documents}, stored.hashes)
    if stored.model in (None, embedder.model_id):
        return found
    return replace(found, changed=tuple(sorted((*found.changed, *found.unchanged))), unchanged=())


def _refuse_taken_slugs(documents: Sequence[Document], stored: store.Stored, source: Path) -> None:
    faults = []
    for document in documents:
        if (of := stored.elsewhere.get(document.slug)) is not None:
            problem = f"has the slug {document.slug}, which the set has from {of} already"
            faults.append(SourceFault(document.place, None, problem, "give it a slug of its own"))
    if faults:
        raise SourceError(str(source), tuple(faults))


def _tell(warnings: Sequence[str], progress: Progress) -> None:
    for warning in warnings[:WARNINGS_SHOWN]:
        progress(f"warning: {warning}")
    if len(warnings) > WARNINGS_SHOWN:
        progress(f"warning: … and {len(warnings) - WARNINGS_SHOWN} more documents")


def identifiers(text: str) -> Sequence[str]:
    """Kinds of what seems to identify a patient, once for each place: what seeds warn of."""
    from dr_platform.phi import PhiDetector

    spans = PhiDetector().detect(text)
    return [span.kind.value for span in spans if span.kind.value in PHI_KINDS and span.confidence >= PHI_CONFIDENCE]


@dataclass(frozen=True)
class _Work:
    """What one seed has to write. ``documents`` are those that were added or changed."""

    set_name: str
    source: str
    documents: Sequence[Document]
    found: store.Difference
    embedder: Embedder
    clock: Clock
    progress: Progress

    def carry_out(self, connection: Connection[Any]) -> tuple[int, int]:
        """The number of chunks written, and of texts embedded."""
        chunks = {document.slug: chunk_document(document) for document in self.documents}
        count = sum(map(len, chunks.values()))
        cache = store.VectorCache(connection, self.embedder)
        self._embed(connection, [chunk for own in chunks.values() for chunk in own], cache)
        words = self._words(connection)
        with connection.transaction():
            store.load_alone(connection, self.clock, self.progress)
            store.load_model(connection, self.embedder, self.clock.now())
            if self.found.count:
                self._load(connection, chunks, cache, words)
            # Also where nothing changed: a load that was killed may have left them out.
            store.load_indexes(connection, self.embedder, self.progress)
            store.load_seed(connection, self.set_name, self.source, self.embedder.model_id, self.clock.now())
        if self.found.count:
            store.refresh_statistics(connection)
        return count, cache.embedded

    def _embed(self, connection: Connection[Any], chunks: Sequence[Chunk], cache: store.VectorCache) -> None:
        """Make and keep the vectors before the transaction, so that a stopped seed has not lost them."""
        store.drop_indexes_for(connection, self.embedder.model_id, cache.missing(chunks))
        for at in range(0, len(chunks), store.EMBED_BATCH):
            cache.vectors(chunks[at : at + store.EMBED_BATCH])
            done = min(at + store.EMBED_BATCH, len(chunks))
            if len(chunks) > store.EMBED_BATCH:
                self.progress(f"{self.set_name}: {done:,} of {len(chunks):,} chunks embedded")

    def _words(self, connection: Connection[Any]) -> Embedder:
        """What has the vectors of all words before the transaction, in which other loads wait."""
        words = Remembering(self.embedder)
        for rows in store.term_batches(connection, self.documents, self.embedder.model_id):
            words.embed([word for _, word in rows])
        return words

    def _load(
        self,
        connection: Connection[Any],
        chunks: dict[str, tuple[Chunk, ...]],
        cache: store.VectorCache,
        words: Embedder,
    ) -> None:
        store.load_replaced(connection, self.set_name, self.source, (*self.found.changed, *self.found.removed))
        store.load_removals(connection, self.set_name, self.source, self.found.removed)
        store.load_staging(connection)
        for at in range(0, len(self.documents), store.LOAD_BATCH):
            store.load_rows(connection, self.documents[at : at + store.LOAD_BATCH], chunks, cache)
        store.load_upsert(connection, self.set_name, self.source, self.embedder.model_id, self.clock.now())
        store.load_terms(connection, self.documents, words)
        store.load_prune(connection)
