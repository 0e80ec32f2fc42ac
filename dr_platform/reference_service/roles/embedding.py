"""Turns texts into vectors: ``POST /embed {"texts": […]}`` → ``{"vectors": [[…], …], "model": …}``.

``"model"`` in the request asks for another one than the first, so that callers can follow the store's.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from dr_platform.embedding import MODELS, WordVectors, embedder_named
from dr_platform.reference_service.replica import Replica
from dr_platform.reference_service.roles.duties import Duties
from dr_platform.reference_service.web import MAX_TEXT, Call, Refusal, endpoint

SCOPE = "embed:use"
MAX_TEXTS = 256
_KEPT = 2_048
"""Vectors of short texts kept in memory; 2 MB."""
_SHORT = 400


class Embedding:
    def __init__(self, replica: Replica) -> None:
        self._telemetry = replica.telemetry
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], list[float]] = OrderedDict()

    def warm(self) -> None:
        """Load the vectors before the first request needs them."""
        threading.Thread(target=embedder_named(WordVectors.model_id).embed, args=(["warm"],), daemon=True).start()

    def embed(self, call: Call) -> dict[str, Any]:
        texts = call.body.get("texts")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise Refusal(400, "texts must be a list of texts")
        if len(texts) > MAX_TEXTS or any(len(text) > MAX_TEXT for text in texts):
            raise Refusal(413, f"at most {MAX_TEXTS} texts of {MAX_TEXT} characters")
        model = call.body.get("model", WordVectors.model_id)
        if model not in MODELS:
            raise Refusal(400, "no such model")
        embedder = embedder_named(model)
        return {"vectors": self._embed(texts, embedder), "model": model, "dimensions": embedder.dimensions}

    def _embed(self, texts: list[str], embedder: WordVectors) -> list[list[float]]:
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
