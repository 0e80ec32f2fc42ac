"""Turns texts into vectors: ``POST /embed {"texts": […]}`` → ``{"vectors": [[…], …], "model": …}``."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from dr_platform.embedding import WordVectors
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
        self._vectors = WordVectors()
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, list[float]] = OrderedDict()

    def warm(self) -> None:
        """Load the vectors before the first request needs them."""
        threading.Thread(target=self._vectors.embed, args=(["warm"],), daemon=True).start()

    def embed(self, call: Call) -> dict[str, Any]:
        texts = call.body.get("texts")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise Refusal(400, "texts must be a list of texts")
        if len(texts) > MAX_TEXTS or any(len(text) > MAX_TEXT for text in texts):
            raise Refusal(413, f"at most {MAX_TEXTS} texts of {MAX_TEXT} characters")
        return {"vectors": self._embed(texts), "model": self._vectors.model_id, "dimensions": self._vectors.dimensions}

    def _embed(self, texts: list[str]) -> list[list[float]]:
        with self._lock:
            found = {text: self._kept[text] for text in texts if text in self._kept}
        hits = sum(text in found for text in texts)
        self._telemetry.count("drp_cache_hits_total", hits, cache="embedding", tier="memory")
        self._telemetry.count("drp_cache_misses_total", len(texts) - hits, cache="embedding", tier="memory")
        missing = list(dict.fromkeys(text for text in texts if text not in found))
        for text, vector in zip(missing, self._vectors.embed(missing), strict=True):
            found[text] = vector.tolist()
        with self._lock:
            self._kept.update({text: found[text] for text in missing if len(text) <= _SHORT})
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return [found[text] for text in texts]


def duties(replica: Replica) -> Duties:
    embedding = Embedding(replica)
    return Duties(routes=(endpoint(replica, "/embed", embedding.embed, scope=SCOPE),), background=(embedding.warm,))
