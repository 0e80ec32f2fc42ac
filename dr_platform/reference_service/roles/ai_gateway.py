"""Orchestrates an answer: safety check, search, generation. ``POST /v1/answer {"message": …}``.

Only the redacted message goes past the safety check. Without that check nothing is answered; without
search or generation the answer is that it cannot be looked up now. Signs of a crisis come first
whatever else fails.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from dr_platform.reference_service.answers import UNKNOWN
from dr_platform.reference_service.cache import Cache
from dr_platform.reference_service.crisis import find_crisis, notice
from dr_platform.reference_service.peers import PeerUnavailable
from dr_platform.reference_service.replica import Replica
from dr_platform.reference_service.roles.duties import Duties
from dr_platform.reference_service.topology import Work
from dr_platform.reference_service.web import Call, endpoint

SCOPE = "ai:use"
PASSAGES = 5
_REPLACED = re.compile(r"\[[A-Z_]+\]")
"""What stands for an identifier; as a word of the question it would only mislead the search."""
CANNOT_LOOK = "I cannot look this up at the moment. Please try again in a few minutes, or ask your care team."


class AiGateway:
    def __init__(self, replica: Replica) -> None:
        self._peers = replica.peers
        self._telemetry = replica.telemetry
        settings = replica.settings
        self._timeout_s = settings.request_timeout_s
        self._cache = Cache(replica, "answer", settings.cache_ttl_s)

    def answer(self, call: Call) -> dict[str, Any]:
        message = call.text("message", limit=4_000)
        timings: dict[str, float] = {}
        safety = self._timed(
            timings, "safety", lambda: self._ask(call, Work.CONTENT_SAFETY, "/check", {"text": message})
        )
        question = " ".join(_REPLACED.sub(" ", safety["redacted"])[:2_000].split())
        found = self._cache.get(question)
        if found is None:
            found = self._look_up(call, question, timings)
        kinds = find_crisis(message)  # once more here: a wrong verdict of the check must not hide a crisis
        warning = safety["notice"] or notice(kinds)
        answer = f"{warning}\n\n{found['answer']}" if warning else found["answer"]
        return {
            **found,
            "answer": answer,
            "safety": {
                "crisis": bool(warning),
                "crisis_kinds": safety["crisis_kinds"] or [str(kind) for kind in kinds],
                "phi": safety["phi"],
            },
            "timings_ms": timings,
        }

    def _look_up(self, call: Call, question: str, timings: dict[str, float]) -> dict[str, Any]:
        try:
            wanted = {"question": question, "limit": PASSAGES}
            hits = self._timed(timings, "search", lambda: self._ask(call, Work.SEARCH, "/search", wanted))
            passages = {"question": question, "passages": hits["results"]}
            made = self._timed(timings, "generation", lambda: self._ask(call, Work.GENERATION, "/generate", passages))
        except PeerUnavailable as exc:
            self._telemetry.count("drp_answers_without_peer_total", peer=exc.name)
            return {"answer": CANNOT_LOOK, "known": False, "sources": [], "confidence": 0.0, "degraded": True}
        found = {
            "answer": made["answer"] or UNKNOWN,
            "known": made["known"],
            "sources": made["sources"],
            "confidence": made["confidence"],
            "model": made["model"],
        }
        self._cache.put(question, found)
        return found

    def _ask(self, call: Call, work: Work, path: str, document: dict[str, Any]) -> Any:
        scope = {Work.CONTENT_SAFETY: "safety:use", Work.SEARCH: "search:use", Work.GENERATION: "generate:use"}[work]
        return self._peers.call(work, path, scope, document, timeout_s=self._timeout_s / 3, request_id=call.request_id)

    def _timed(self, timings: dict[str, float], step: str, do: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        try:
            return do()
        finally:
            timings[step] = round((time.perf_counter() - began) * 1000, 2)


def duties(replica: Replica) -> Duties:
    return Duties(routes=(endpoint(replica, "/v1/answer", AiGateway(replica).answer, scope=SCOPE),))
