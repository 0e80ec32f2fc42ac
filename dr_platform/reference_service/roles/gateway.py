"""The entry point: ``POST /v1/conversation {"message", "conversation"}`` and reading one back.

A message goes to the AI gateway, and both sides of the exchange into the chat history. An answer
whose storing failed is given all the same, and says so.
"""

from __future__ import annotations

import re
import time
from typing import Any

from dr_platform.reference_service.peers import PeerUnavailable
from dr_platform.reference_service.replica import Replica
from dr_platform.reference_service.roles.duties import Duties
from dr_platform.reference_service.topology import Work
from dr_platform.reference_service.web import Call, Refusal, endpoint

WRITE, READ = "conversation:write", "conversation:read"
_CONVERSATION = re.compile(r"[A-Za-z0-9-]{4,64}")


class Gateway:
    def __init__(self, replica: Replica) -> None:
        self._peers = replica.peers
        self._telemetry = replica.telemetry
        self._timeout_s = replica.settings.request_timeout_s

    def converse(self, call: Call) -> dict[str, Any]:
        began = time.perf_counter()
        message, conversation = call.text("message", limit=4_000), _conversation(call.text("conversation", limit=64))
        answered = self._peers.call(
            Work.AI_GATEWAY,
            "/v1/answer",
            "ai:use",
            {"message": message},
            timeout_s=self._timeout_s * 0.9,
            request_id=call.request_id,
        )
        safety = answered["safety"]
        verdict = "crisis" if safety["crisis"] else "flagged" if safety["phi"] else "passed"
        stored = self._store(call, conversation, message, answered, verdict)
        timings = answered.pop("timings_ms", {})
        timings["total"] = round((time.perf_counter() - began) * 1000, 2)
        return {**answered, "conversation": conversation, "stored": stored, "timings_ms": timings}

    def _store(self, call: Call, conversation: str, message: str, answered: dict[str, Any], verdict: str) -> bool:
        """Both messages, in order; the token makes a repetition harmless."""
        common = {"conversation": conversation, "account": call.principal.subject}
        question = {**common, "author": "patient", "text": message, "safety": verdict}
        answer = {**common, "author": "assistant", "text": answered["answer"], "model": answered.get("model", "")}
        try:
            for document in (question, answer):
                document["client_token"] = f"{call.request_id}-{document['author']}"
                self._peers.call(Work.CHAT_HISTORY, "/v1/messages", "chat:write", document, request_id=call.request_id)
        except PeerUnavailable as exc:
            self._telemetry.count("drp_answers_without_peer_total", peer=exc.name)
            return False
        return True

    def history(self, call: Call) -> dict[str, Any]:
        document = {
            "conversation": _conversation(call.path["conversation"]),
            "account": call.principal.subject,
            "limit": call.number("limit", 50, 1, 500),
        }
        return self._peers.call(
            Work.CHAT_HISTORY, "/v1/messages/list", "chat:read", document, request_id=call.request_id
        )


def _conversation(text: str) -> str:
    if not _CONVERSATION.fullmatch(text):
        raise Refusal(400, "conversation must be 4 to 64 letters, digits and hyphens")
    return text


def duties(replica: Replica) -> Duties:
    gateway = Gateway(replica)
    one = "/v1/conversation/{conversation}"
    return Duties(
        routes=(
            endpoint(replica, "/v1/conversation", gateway.converse, scope=WRITE, action="conversation:message"),
            endpoint(replica, one, gateway.history, scope=READ, methods=("GET",), action="conversation:read"),
        )
    )
