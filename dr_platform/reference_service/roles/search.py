"""Finds passages: ``/search`` with a question, answered by hybrid search over the knowledge sets.

Vectors come from the embedding service over HTTP. Where it does not answer, words alone are
searched, and the answer says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dr_platform.errors import TemporaryFailure
from dr_platform.knowledge.store import InUse, read_in_use
from dr_platform.reference_service.cache import Cache
from dr_platform.reference_service.looks import Look, every
from dr_platform.reference_service.peers import NotDeclared, PeerRefused, Peers, PeerUnavailable
from dr_platform.reference_service.replica import Replica
from dr_platform.reference_service.roles.duties import Duties
from dr_platform.reference_service.stores.postgresql import PostgresStore
from dr_platform.reference_service.topology import Work
from dr_platform.reference_service.web import Call, Refusal, endpoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCOPE = "search:use"
EMBED_SCOPE = "embed:use"
MAX_QUESTION = 2_000
EMBEDDING_S = 3.0
"""A search waits so long for the question's vector, then it goes by words alone."""
_EDITION_S = 2.0
TABLES = (
    "knowledge.documents",
    "knowledge.chunks",
    "knowledge.postings",
    "knowledge.seeds",
    "knowledge.models",
    "knowledge.vectors",
    "knowledge.term_vectors",
)
NOTHING_STORED = InUse("", 1)
"""No vector is made then, and nothing found."""


class PeerEmbedder:
    """The embedding service as an embedder of one model; refuses vectors of any other."""

    def __init__(self, peers: Peers, used: InUse) -> None:
        self._peers = peers
        self.model_id = used.model
        self.dimensions = used.dimensions

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import numpy as np

        answer = self._peers.call(
            Work.EMBEDDING, "/embed", EMBED_SCOPE, {"texts": list(texts), "model": self.model_id}, timeout_s=EMBEDDING_S
        )
        vectors = np.asarray(answer["vectors"], dtype=np.float32)
        if answer["model"] != self.model_id or vectors.shape != (len(texts), self.dimensions):
            raise PeerUnavailable("the embedding service", "vectors of another model")
        return vectors


class Search:
    def __init__(self, replica: Replica) -> None:
        self._telemetry = replica.telemetry
        self._store = replica.store(PostgresStore)
        self._peers = replica.peers
        self._cache = Cache(replica, "search", replica.settings.cache_ttl_s)
        self._edition = ""
        refresh = every(_EDITION_S, _EDITION_S)
        self._looks = Look(self._read_edition, refresh, clock=replica.clock, executor=replica.looks, stale_s=60.0)

    def search(self, call: Call) -> dict[str, Any]:
        question = call.body.get("question", call.query.get("question"))
        if not isinstance(question, str) or not question.strip():
            raise Refusal(400, "question must be a text")
        if len(question) > MAX_QUESTION:
            raise Refusal(413, f"question has more than {MAX_QUESTION} characters")
        limit = call.number("limit", 5, 1, 10)
        self._looks.settled(2.0)
        key = f"{self._edition}|{limit}|{question}"
        if (found := self._cache.get(key)) is not None:
            return found
        found = self._find(question, limit)
        if found["mode"] == "hybrid":
            self._cache.put(key, found)
        return found

    def _read_edition(self) -> None:
        """What is stored, so that a new seed, or another model, makes what was found before old."""
        with self._store.connection() as connection:
            row = connection.execute(
                "SELECT coalesce(max(seeded_at)::text, '') || count(*) || coalesce(max(model), '') FROM knowledge.seeds"
            ).fetchone()
        self._edition = row[0] if row else ""

    def _find(self, question: str, limit: int) -> dict[str, Any]:
        from dr_platform.knowledge.search import exact_search, hybrid_search

        with self._store.connection() as connection:
            try:
                embedder = PeerEmbedder(self._peers, read_in_use(connection) or NOTHING_STORED)
                hits, mode = hybrid_search(connection, embedder, question, limit), "hybrid"
            except (TemporaryFailure, NotDeclared, PeerRefused):
                self._telemetry.count("drp_search_without_vectors_total")
                hits, mode = exact_search(connection, question, limit), "words"
        results = [
            {"document": h.document, "title": h.title, "set": h.set_name, "score": round(h.score, 6), "text": h.text}
            for h in hits
        ]
        return {"results": results, "mode": mode}


def duties(replica: Replica) -> Duties:
    search = Search(replica)
    store = replica.store(PostgresStore)
    return Duties(
        routes=(endpoint(replica, "/search", search.search, scope=SCOPE, methods=("GET", "POST")),),
        tables={store.entry.name: TABLES},
    )
