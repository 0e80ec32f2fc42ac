"""Keeps the audit log: appends to ``audit.events`` in PostgreSQL, whose server numbers and chains them.

The table takes no change and no removal from anybody; the chain shows where one happened anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dr_platform.reference_service.replica import Replica
from dr_platform.reference_service.roles.duties import Duties
from dr_platform.reference_service.stores.postgresql import PostgresStore
from dr_platform.reference_service.trail import Event
from dr_platform.reference_service.web import Call, Refusal, endpoint

TABLES = ("audit.events", "audit.head")
WRITE, READ = "audit:write", "audit:read"
MAX_EVENTS = 500
_OUTCOMES = ("allowed", "denied", "failed")


class AuditLog:
    def __init__(self, replica: Replica) -> None:
        self._service = replica.identity.service
        self._telemetry = replica.telemetry
        self._store = replica.store(PostgresStore)

    def append(self, events: Sequence[Event]) -> None:
        """One transaction: all of them or none. The chain's lock is held for it alone."""
        rows = [(e.actor, e.action, e.resource, e.outcome, e.service or self._service, e.request_id) for e in events]
        with self._store.connection() as connection, connection.transaction(), connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO audit.events (actor, action, resource, outcome, service, request_id)"
                " VALUES (%s, %s, %s, %s, %s, %s)",
                rows,
            )
        self._telemetry.count("drp_audit_events_total", len(rows))

    def take(self, call: Call) -> dict[str, Any]:
        given = call.body.get("events")
        if not isinstance(given, list) or not 1 <= len(given) <= MAX_EVENTS:
            raise Refusal(400, f"events must be a list of 1 to {MAX_EVENTS}")
        # Whoever sends is who the token says, whatever the event claims.
        self.append([_event(one, call.principal.subject) for one in given])
        return {"appended": len(given)}

    def verify(self, call: Call) -> dict[str, Any]:
        newest = call.number("newest", 10_000, 1, 10_000_000)
        with self._store.connection() as connection:
            broken = connection.execute(
                "SELECT sequence, problem FROM audit.broken_links(%s) ORDER BY sequence LIMIT 100", (newest,)
            ).fetchall()
        problems = [{"sequence": sequence, "problem": problem} for sequence, problem in broken]
        return {"whole": not problems, "looked_at": newest, "broken": problems}

    def newest(self, call: Call) -> dict[str, Any]:
        with self._store.connection() as connection:
            rows = connection.execute(
                "SELECT sequence, at, actor, action, resource, outcome, service, request_id FROM audit.events"
                " ORDER BY sequence DESC LIMIT %s",
                (call.number("limit", 50, 1, 500),),
            ).fetchall()
        names = ("sequence", "at", "actor", "action", "resource", "outcome", "service", "request_id")
        events = [{**dict(zip(names, row, strict=True)), "at": row[1].isoformat()} for row in rows]
        return {"events": events}


def _event(given: object, sender: str) -> Event:
    fields = given if isinstance(given, dict) else {}
    texts = {name: fields.get(name, "") for name in ("actor", "action", "resource", "outcome", "request_id")}
    if not all(isinstance(text, str) and len(text) <= 200 and "\0" not in text for text in texts.values()):
        raise Refusal(400, "an event consists of texts of at most 200 characters")
    if not texts["actor"] or not texts["action"] or texts["outcome"] not in _OUTCOMES:
        raise Refusal(400, f"an event needs actor, action, and as outcome one of {', '.join(_OUTCOMES)}")
    return Event(**texts, service=sender)


def duties(replica: Replica) -> Duties:
    log = AuditLog(replica)
    store = replica.store(PostgresStore)
    return Duties(
        routes=(
            endpoint(replica, "/v1/events", log.take, scope=WRITE),
            endpoint(replica, "/v1/events", log.newest, scope=READ, methods=("GET",), action="audit:read"),
            endpoint(replica, "/v1/verify", log.verify, scope=READ, methods=("GET",)),
        ),
        tables={store.entry.name: TABLES},
        append=log.append,
    )
