"""Calling the platform's services from outside of them: the command, checks, the load generator.

The caller must be able to read the environment's secret store, because it signs its own tokens.
"""

from __future__ import annotations

from typing import Any

from dr_platform.catalog import Catalog
from dr_platform.clock import Clock, SystemClock
from dr_platform.reference_service.access import Tokens
from dr_platform.reference_service.peers import Peers
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
        topology = topology_of(catalog, environment)
        tokens = Tokens(secrets, f"drp-{environment}", clock)
        self._peers = Peers(topology, tokens, clock, caller=None, subject=subject)

    def search(self, question: str, limit: int = 5) -> list[dict[str, Any]]:
        """Passages with document, title, score and text, best first."""
        wanted = {"question": question, "limit": limit}
        found = self._peers.call(Work.SEARCH, "/search", "search:use", wanted)["results"]
        return [{name: hit[name] for name in ("document", "title", "score", "text")} for hit in found]

    def converse(self, message: str, conversation: str) -> dict[str, Any]:
        """The answer with ``sources``, ``safety``, ``confidence`` and ``timings_ms``."""
        said = {"message": message, "conversation": conversation}
        return self._peers.call(Work.GATEWAY, "/v1/conversation", "conversation:write", said, timeout_s=30.0)

    def embed(self, texts: list[str]) -> dict[str, Any]:
        """``vectors`` and the ``model`` that made them."""
        return self._peers.call(Work.EMBEDDING, "/embed", "embed:use", {"texts": texts})

    def verify_audit(self, newest: int = 10_000) -> dict[str, Any]:
        """Whether the chain of the newest audit events is whole."""
        return self._peers.get(Work.AUDIT_LOG, f"/v1/verify?newest={newest}", "audit:read")
