"""The duties of one replica: its routes, the tables it cannot work without, its background work.

Here: which role has which module. Not here: what any role does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module

from starlette.routing import BaseRoute

from dr_platform.reference_service.replica import Replica
from dr_platform.reference_service.topology import Work
from dr_platform.reference_service.trail import Append, Event

MODULES: Mapping[Work, str] = {work: work.value.replace("-", "_") for work in Work}
"""Module of this package per role."""
RECORDS = "records"
"""What services without a role do."""


@dataclass(frozen=True)
class Duties:
    """``tables`` are keyed by database name. ``append`` is set by the role that keeps the audit log."""

    routes: tuple[BaseRoute, ...] = ()
    tables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    background: tuple[Callable[[], None], ...] = ()
    append: Append = field(default=lambda _events: None)


def duties_of(replica: Replica) -> Duties:
    """All duties of the service, of each of its roles."""
    names = [MODULES[work] for work in Work if replica.entry.works_as(work)] or [RECORDS]
    found = [import_module(f"{__package__}.{name}").duties(replica) for name in names]
    tables: dict[str, tuple[str, ...]] = {}
    for one in found:
        for database, wanted in one.tables.items():
            tables[database] = (*tables.get(database, ()), *wanted)
    own = next((d.append for d, name in zip(found, names, strict=True) if name == MODULES[Work.AUDIT_LOG]), None)
    return Duties(
        routes=tuple(route for one in found for route in one.routes),
        tables=tables,
        background=tuple(start for one in found for start in one.background),
        append=own or _sending(replica),
    )


def _sending(replica: Replica) -> Append:
    """Hand events to whoever keeps the audit log."""

    def append(events: Sequence[Event]) -> None:
        document = {"events": [event.as_json() for event in events]}
        replica.peers.call(Work.AUDIT_LOG, "/v1/events", "audit:write", document, timeout_s=5.0, attempts=1)

    return append
