"""The health contract: what a replica says about itself and about what it depends on.

Here: readiness, the health response, the database report. Not here: the measurements of the
compliance block (``compliance``), or HTTP (``app``).

A service that works while a peer does not is ``degraded`` and stays ready; a service that cannot
reach its own databases is ``unhealthy`` and not ready. So an outage shows where it is, and does not
take down, or restart, everything that calls it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC
from typing import Any

from dr_platform.reference_service.compliance import Compliance
from dr_platform.reference_service.looks import Look, Reason, Seen, every
from dr_platform.reference_service.replica import Replica
from dr_platform.reference_service.stores import Store, open_store

DATABASE_LOOK_S = 1.0
PEER_LOOK_S = 2.0
STALE_S = 8.0
"""A look that has not ended for this long counts as no answer."""
READY_WAIT_S = 0.6
"""How long readiness waits where nobody has asked for a while; probes give up after a second."""
WAIT_S = 1.5
"""How long the first request waits for the first look."""


class Health:
    """``tables`` are those that the service cannot work without, by database."""

    def __init__(self, replica: Replica, tables: Mapping[str, Collection[str]], compliance: Compliance) -> None:
        self._replica = replica
        self._tables = tables
        self._compliance = compliance
        self._complete: set[str] = set()
        self._databases = {name: self._database_look(store) for name, store in replica.stores.items()}
        self._peers = {name: self._peer_look(name) for name in replica.entry.services}
        self._others: dict[str, Look] = {}

    def _database_look(self, store: Store) -> Look:
        def look() -> float:
            name = store.entry.name
            if name not in self._complete:
                store.ping()  # opens the connection, which is no part of the latency
                if (wanted := self._tables.get(name, ())) and (missing := store.missing(wanted)):
                    raise Reason(f"missing: {', '.join(missing)}")
                self._complete.add(name)
            began = self._replica.clock.monotonic()
            store.ping()
            return (self._replica.clock.monotonic() - began) * 1000

        return self._look(look, DATABASE_LOOK_S)

    def _peer_look(self, name: str) -> Look:
        def look() -> None:
            # Readiness and not the health response: a peer must not ask its own peers in turn.
            answer = self._replica.peers.peer(name).ask("GET", "/health/ready", timeout_s=1.0)
            if answer.status != 200:
                raise Reason(f"HTTP {answer.status}")

        return self._look(look, PEER_LOOK_S)

    def _look(self, look: Any, seconds: float) -> Look:
        replica = self._replica
        return Look(look, every(seconds, seconds), clock=replica.clock, executor=replica.looks, stale_s=STALE_S)

    def start(self) -> None:
        """Begin to look at everything, so that the first request finds answers."""
        for look in (*self._databases.values(), *self._peers.values()):
            look.latest()
        self._compliance.refresh()

    def settled(self) -> bool:
        """Whether ``ready`` has fresh answers; else it is worth to ``settle`` first."""
        return all(look.known() for look in self._databases.values())

    def settle(self) -> None:
        """Wait a moment for looks that are under way."""
        for look in self._databases.values():
            look.settled(READY_WAIT_S)

    def ready(self) -> tuple[bool, dict[str, str]]:
        """Whether traffic may come, and why not by database. Never asks a peer, never waits."""
        self._compliance.refresh()
        if self._replica.draining:
            return False, {"process": "draining"}
        if self._replica.faults.now().unready:
            return False, {"process": "told to be unready"}
        seen = {name: look.latest() for name, look in self._databases.items()}
        return all(one.good for one in seen.values()), {n: s.reason for n, s in seen.items() if not s.good}

    def response(self) -> dict[str, Any]:
        """The second guide's health check response."""
        dependencies = {
            name: _word(look.settled(WAIT_S)) for name, look in (*self._peers.items(), *self._databases.items())
        }
        ready, reasons = self.ready()
        compliance = self._compliance.block()
        body: dict[str, Any] = {
            "status": self._status(ready, dependencies),
            "service": self._replica.identity.service,
            "version": self._replica.identity.version,
            "timestamp": self._timestamp(),
            "dependencies": dependencies,
            "compliance": compliance,
        }
        reasons |= {name: why for name, why in self._compliance.reasons().items() if not compliance[name]}
        return body | ({"reasons": reasons} if reasons else {})

    @staticmethod
    def _status(ready: bool, dependencies: Mapping[str, str]) -> str:
        if not ready:
            return "unhealthy"
        return "healthy" if all(word == "healthy" for word in dependencies.values()) else "degraded"

    def _timestamp(self) -> str:
        return self._replica.clock.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def databases(self) -> dict[str, Any]:
        """State and latency of every database of the environment; for the gateway."""
        replica = self._replica
        for name, entry in replica.topology.databases.items():
            if name not in self._databases and name not in self._others:
                store = open_store(entry, replica.secrets, 1)
                replica.stores_beside.append(store)
                self._others[name] = self._database_look(store)
        found = {}
        for name, look in sorted({**self._databases, **self._others}.items()):
            seen = look.settled(WAIT_S)
            found[name] = {"status": _word(seen), "latency_ms": round(seen.latency_ms, 2) if seen.good else None}
            if not seen.good:
                found[name]["reason"] = seen.reason
        healthy = all(one["status"] == "healthy" for one in found.values())
        return {"status": "healthy" if healthy else "unhealthy", "timestamp": self._timestamp(), "databases": found}


def _word(seen: Seen) -> str:
    return "healthy" if seen.good else "unhealthy"
