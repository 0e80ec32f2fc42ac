"""Answers a question from passages: ``POST /generate {"question", "passages"}``.

What is answered, and how sure it was, is kept encrypted in MongoDB where the service has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from dr_platform.embedding import WordVectors
from dr_platform.reference_service.answers import Answer, Passage, compose
from dr_platform.reference_service.cipher import Place
from dr_platform.reference_service.crisis import find_crisis, notice
from dr_platform.reference_service.replica import Replica
from dr_platform.reference_service.roles.duties import Duties
from dr_platform.reference_service.web import MAX_TEXT, Call, Refusal, endpoint

SCOPE = "generate:use"
MAX_PASSAGES = 20
MODEL = "extractive-1"
COLLECTION = "model_outputs"


class Generation:
    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._vectors = WordVectors()
        self._store: Any = next((s for s in replica.stores.values() if s.entry.engine == "mongodb"), None)

    def generate(self, call: Call) -> dict[str, Any]:
        question = call.text("question", limit=2_000)
        answer = compose(question, _passages(call), self._replica.settings.confidence_threshold, self._similarities)
        kinds = find_crisis(question)
        self._keep(call.request_id, answer)
        self._replica.telemetry.count("drp_answers_total", outcome="answered" if answer.known else "unknown")
        return {
            "answer": answer.text,
            "known": answer.known,
            "sentences": list(answer.sentences),
            "sources": [{"document": p.document, "title": p.title} for p in answer.sources],
            "confidence": answer.confidence,
            "notice": notice(kinds),
            "model": MODEL,
        }

    def _similarities(self, question: str, texts: Sequence[str]) -> Sequence[float]:
        vectors = self._vectors.embed([question, *texts])
        return (vectors[1:] @ vectors[0]).tolist()

    def _keep(self, request_id: str, answer: Answer) -> None:
        if self._store is None:
            return
        sealed = self._replica.cipher.encrypt(answer.text, Place(COLLECTION, "output", request_id))
        document = {
            "_id": request_id,
            "request_id": request_id,
            "model": MODEL,
            "output": sealed,
            "key_version": self._replica.cipher.key_version,
            "confidence": float(answer.confidence),
            "sources": [p.document[:64] for p in answer.sources],
            "created_at": datetime.now(UTC),
        }
        with self._store.database() as database:  # a repeated request replaces its own output
            database[COLLECTION].replace_one({"_id": request_id}, document, upsert=True)


def _passages(call: Call) -> list[Passage]:
    given = call.body.get("passages", [])
    if not isinstance(given, list) or len(given) > MAX_PASSAGES:
        raise Refusal(400, f"passages must be a list of at most {MAX_PASSAGES}")
    passages = []
    for one in given:
        fields = [one.get(name) for name in ("document", "title", "text")] if isinstance(one, dict) else []
        if not fields or not all(isinstance(f, str) and len(f) <= MAX_TEXT for f in fields):
            raise Refusal(400, "each passage needs the texts document, title and text")
        passages.append(Passage(*fields))
    return passages


def duties(replica: Replica) -> Duties:
    generation = Generation(replica)
    tables = {s.entry.name: (COLLECTION,) for s in replica.stores.values() if s.entry.engine == "mongodb"}
    return Duties(routes=(endpoint(replica, "/generate", generation.generate, scope=SCOPE),), tables=tables)
