"""Calling the platform's services from outside of them: the command, checks, the load generator.

The caller must be able to read the environment's secret store, because it signs its own tokens.
"""

from __future__ import annotations

import json
from typing import Any

from dr_platform.catalog import Catalog
from dr_platform.clock import Clock, SystemClock
from dr_platform.reference_service.access import Tokens
from dr_platform.reference_service.peers import REQUEST_ID_HEADER, Answer, Peers
from dr_platform.reference_service.topology import Work, topology_of
from dr_platform.secrets.port import SecretStore


class ServiceClient:
    """Requests go through the router, to documented ports plus ``port_offset``.

    Methods raise ``PeerUnavailable`` where a service gives no usable answer, ``PeerRefused`` where
    it refuses, and ``NotDeclared`` where the catalog has no service for the work.
    """

    def __init__(
        self,
        catalog: Catalog,
        secrets: SecretStore,
        port_offset: int,
        *,
        subject: str = "drp-command",
        clock: Clock | None = None,
    ) -> None:
        clock = clock or SystemClock()
        environment = next(
            (e.name for e in catalog.environments.values() if e.port_offset == port_offset),
            next(iter(catalog.environments)),
        )
        self.topology = topology_of(catalog, environment)
        self.tokens = Tokens(secrets, f"drp-{environment}", clock)
        self.subject = subject
        self.peers = Peers(self.topology, self.tokens, clock, caller=None, subject=subject)

    def search(self, question: str, limit: int = 5) -> list[dict[str, Any]]:
        """Passages with document, title, score and text, best first."""
        wanted = {"question": question, "limit": limit}
        found = self.peers.call(Work.SEARCH, "/search", "search:use", wanted)["results"]
        return [{name: hit[name] for name in ("document", "title", "score", "text")} for hit in found]

    def converse(self, message: str, conversation: str) -> dict[str, Any]:
        """The answer with ``sources``, ``safety``, ``confidence`` and ``timings_ms``."""
        said = {"message": message, "conversation": conversation}
        return self.peers.call(Work.GATEWAY, "/v1/conversation", "conversation:write", said, timeout_s=30.0)

    def embed(self, texts: list[str]) -> dict[str, Any]:
        """``vectors`` and the ``model`` that made them."""
        return self.peers.call(Work.EMBEDDING, "/embed", "embed:use", {"texts": texts})

    def generate(self, question: str, passages: list[dict[str, Any]]) -> dict[str, Any]:
        """``answer``, ``known``, ``sources`` and ``confidence`` from these passages alone."""
        given = [{name: one[name] for name in ("document", "title", "text")} for one in passages]
        asked = {"question": question, "passages": given}
        return self.peers.call(Work.GENERATION, "/generate", "generate:use", asked)

    def answer(self, message: str) -> dict[str, Any]:
        """What ``converse`` answers, without storing anything."""
        return self.peers.call(Work.AI_GATEWAY, "/v1/answer", "ai:use", {"message": message}, timeout_s=30.0)

    def history(self, conversation: str) -> list[dict[str, Any]]:
        """The caller's own messages of a conversation, oldest first, with ``author`` and ``text``."""
        path = f"/v1/conversation/{conversation}"
        return self.peers.get(Work.GATEWAY, path, "conversation:read")["messages"]

    def check_text(self, text: str) -> dict[str, Any]:
        """Kinds of identifiers (``phi``), signs of a crisis, and the text as ``redacted``."""
        return self.peers.call(Work.CONTENT_SAFETY, "/check", "safety:use", {"text": text})

    def add_task(self, kind: str, texts: list[str]) -> str:
        """The identifier of a new task, which a worker takes from the queue."""
        wanted = {"kind": kind, "texts": texts}
        return self.peers.call(Work.BACKGROUND_TASKS, "/v1/tasks", "tasks:write", wanted, attempts=1)["task"]

    def task(self, task: str) -> dict[str, Any]:
        """``state`` (waiting, running, done or failed), ``result`` and ``attempts``."""
        return self.peers.get(Work.BACKGROUND_TASKS, f"/v1/tasks/{task}", "tasks:read")

    def ask(
        self,
        service: str,
        method: str,
        path: str,
        token: str | None,
        document: dict[str, Any] | None = None,
        *,
        request_id: str = "",
    ) -> Answer:
        """One request to a service with exactly this token, whatever it answers."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        if request_id:
            headers[REQUEST_ID_HEADER] = request_id
        body = json.dumps(document).encode() if document is not None else None
        return self.peers.peer(service).ask(method, path, timeout_s=10.0, body=body, headers=headers)

    def audit_events(self, newest: int) -> list[dict[str, Any]]:
        """The newest audit events, the newest first, with ``action``, ``outcome`` and ``request_id``."""
        return self.peers.get(Work.AUDIT_LOG, f"/v1/events?limit={newest}", "audit:read")["events"]

    def verify_audit(self, newest: int = 10_000) -> dict[str, Any]:
        """Whether the chain of the newest audit events is whole."""
        return self.peers.get(Work.AUDIT_LOG, f"/v1/verify?newest={newest}", "audit:read")
