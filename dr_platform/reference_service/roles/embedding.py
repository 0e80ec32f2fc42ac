"""Turns texts into vectors: ``POST /embed {"texts": […]}`` → ``{"vectors": [[…], …], "model": …}``.

``"model"`` in the request asks for another one than the first, so that callers can follow the store's. Texts
are what users ask, so a model whose server may not have those is refused. The catalog's models are read again
while the service runs.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from dr_platform.errors import PlatformError
from dr_platform.knowledge.embedder import Embedder
from dr_platform.knowledge.embedders import EmbedderEntry, Embedders, QuestionsRefused, UnknownModel
from dr_platform.knowledge.http_embedder import ANSWERING
from dr_platform.reference_service.replica import Replica
from dr_platform.reference_service.roles.duties import Duties
from dr_platform.reference_service.topology import read_topology
from dr_platform.reference_service.web import MAX_TEXT, Call, Refusal, endpoint

SCOPE = "embed:use"
MAX_TEXTS = 256
_KEPT = 2_048
"""Vectors of short texts kept in memory; 2 MB."""
_SHORT = 400
_MODELS_S = 2.0
"""The catalog's models are looked at again after this; looking costs a millisecond."""


class Embedding:
    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._telemetry = replica.telemetry
        self._embedders = self._made(replica.topology.embedders)
        self._models_at = replica.clock.monotonic()
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], list[float]] = OrderedDict()

    def warm(self) -> None:
        """Load the platform's own vectors before the first request needs them."""
        first = self._embedders.entries[self._embedders.first]
        if not first.url:
            target = self._embedders.named(first.name).embed
            threading.Thread(target=target, args=(["warm"],), daemon=True).start()

    def embed(self, call: Call) -> dict[str, Any]:
        texts = call.body.get("texts")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise Refusal(400, "texts must be a list of texts")
        if len(texts) > MAX_TEXTS or any(len(text) > MAX_TEXT for text in texts):
            raise Refusal(413, f"at most {MAX_TEXTS} texts of {MAX_TEXT} characters")
        embedders = self._current()
        model = call.body.get("model", embedders.first)
        try:
            embedder = embedders.for_questions(str(model))
        except UnknownModel:
            raise Refusal(400, "no such model") from None
        except QuestionsRefused:
            raise Refusal(403, "the catalog does not allow to send what users ask to that model's server") from None
        return {"vectors": self._embed(texts, embedder), "model": model, "dimensions": embedder.dimensions}

    def _current(self) -> Embedders:
        """The models of the catalog's present files; where those cannot be used, the models before."""
        with self._lock:
            now = self._replica.clock.monotonic()
            if now - self._models_at < _MODELS_S:
                return self._embedders
            self._models_at = now
            try:
                paths, environment = self._replica.paths, self._replica.identity.environment
                entries = read_topology(paths.catalog, environment, paths.own).embedders
            except (PlatformError, OSError):
                return self._embedders
            if entries != self._embedders.entries:
                self._embedders = self._made(entries)
            return self._embedders

    def _made(self, entries: Mapping[str, EmbedderEntry]) -> Embedders:
        return Embedders(entries, self._replica.secrets.read, self._replica.clock, ANSWERING)

    def _embed(self, texts: list[str], embedder: Embedder) -> list[list[float]]:
        model = embedder.model_id
        with self._lock:
            found = {text: self._kept[model, text] for text in texts if (model, text) in self._kept}
        hits = sum(text in found for text in texts)
        self._telemetry.count("drp_cache_hits_total", hits, cache="embedding", tier="memory")
        self._telemetry.count("drp_cache_misses_total", len(texts) - hits, cache="embedding", tier="memory")
        missing = list(dict.fromkeys(text for text in texts if text not in found))
        for text, vector in zip(missing, embedder.embed(missing), strict=True):
            found[text] = vector.tolist()
        with self._lock:
            self._kept.update({(model, text): found[text] for text in missing if len(text) <= _SHORT})
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return [found[text] for text in texts]


def duties(replica: Replica) -> Duties:
    embedding = Embedding(replica)
    return Duties(routes=(endpoint(replica, "/embed", embedding.embed, scope=SCOPE),), background=(embedding.warm,))
