"""What is remembered of a service between any two processes: its rollout record.

Here: the record's shape and its text form. Not here: where it is kept (``runtime.port``) or what is
decided from it (``decide``).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

from dr_platform.runtime.port import RecordVersion, Revision, Runtime, Slot, StoredRecord


@dataclass(frozen=True)
class Placement:
    """A revision in a slot."""

    slot: Slot
    revision: Revision


@dataclass(frozen=True)
class Record:
    """One service's record. ``stable`` is ``None`` before the first deployment has succeeded.

    ``epoch`` is the fencing token of whoever acts: it rises on takeover only, and every route change
    carries it.
    """

    service: str
    epoch: int = 1
    stable: Placement | None = None

    def with_stable(self, placement: Placement | None) -> Record:
        return replace(self, stable=placement)

    def to_text(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> Record:
        raw = json.loads(text)
        stable = raw["stable"]
        placement = stable and Placement(Slot(stable["slot"]), Revision(**stable["revision"]))
        return cls(service=raw["service"], epoch=raw["epoch"], stable=placement or None)


@dataclass(frozen=True)
class Held:
    """A record as it was read, with the version that a change must name."""

    record: Record
    version: RecordVersion | None


def read(runtime: Runtime, service: str) -> Held:
    """The stored record, or a new one that no writer has created yet."""
    stored: StoredRecord | None = runtime.read_record(service)
    if stored is None:
        return Held(Record(service), None)
    return Held(Record.from_text(stored.body), stored.version)


def save(runtime: Runtime, held: Held, record: Record) -> Held:
    """Store ``record`` over the version that was read; raises ``StaleRecord`` when it has moved."""
    return Held(record, runtime.write_record(record.service, record.to_text(), held.version))
