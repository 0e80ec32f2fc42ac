"""MongoDB: unordered bulk inserts. A document that is there already is left as it is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from pymongo.database import Database
from pymongo.errors import BulkWriteError, PyMongoError

from dr_platform.synthetic.draws import MARK, after
from dr_platform.synthetic.loading.port import Counts, LoadFailed, LoadRefused
from dr_platform.synthetic.loading.postgresql import moment
from dr_platform.synthetic.rows import Block
from dr_platform.synthetic.sealing import Sealer

Document = dict[str, Any]
_BATCH = 1_000
_DUPLICATE = 11000
COLLECTIONS = ("care_plans", "session_notes", "model_outputs", "transcripts", "entities", "feedback")


def _at(ms: int) -> datetime:
    at = moment(ms)
    assert at is not None  # noqa: S101 - for the type checker: a number always has one
    return at


class MongoLoader:
    def __init__(self, name: str, schema: Database[Document], sealer: Sealer) -> None:
        self._name = name
        self._schema = schema
        self._sealer = sealer

    def load(self, block: Block) -> Counts:
        counts: dict[str, int] = {}
        for name, make in (
            ("care_plans", self._care_plans),
            ("session_notes", self._notes),
            ("model_outputs", self._outputs),
            ("transcripts", self._transcripts),
            ("entities", self._entities),
            ("feedback", self._feedback),
        ):
            counts[name] = self._insert(name, list(make(block)))
        return counts

    def _insert(self, collection: str, documents: list[Document]) -> int:
        for at in range(0, len(documents), _BATCH):
            try:
                self._schema[collection].insert_many(documents[at : at + _BATCH], ordered=False)
            except BulkWriteError as exc:
                codes = {error.get("code") for error in exc.details.get("writeErrors", ())}
                if codes - {_DUPLICATE}:
                    raise LoadRefused(self._name, f"{collection} refused documents, codes {sorted(codes)}") from None
            except PyMongoError as exc:
                raise LoadFailed(self._name, type(exc).__name__) from None
        return len(documents)

    def _sealed(self, text: str, collection: str, field: str, row: str) -> Document:
        return {field: self._sealer.seal(text, collection, field, row), "key_version": self._sealer.version}

    def _care_plans(self, block: Block) -> Iterator[Document]:
        for p in block.care_plans:
            yield {
                "_id": p.id,
                "patient_id": p.patient,
                "author_id": p.author,
                "revision": p.revision,
                "status": p.status,
                **self._sealed(p.body, "care_plans", "body", p.id),
                "created_at": _at(p.created_ms),
            }

    def _notes(self, block: Block) -> Iterator[Document]:
        for n in block.notes:
            yield {
                "_id": n.id,
                "patient_id": n.patient,
                "clinician_id": n.clinician,
                "kind": n.kind,
                **self._sealed(n.note, "session_notes", "note", n.id),
                "held_at": _at(n.held_ms),
                **({"signed_at": _at(n.signed_ms)} if n.signed_ms is not None else {}),
            }

    def _outputs(self, block: Block) -> Iterator[Document]:
        for o in block.outputs:
            yield {
                "_id": o.request,
                "request_id": o.request,
                "conversation_id": o.conversation,
                "model": o.model,
                **self._sealed(o.output, "model_outputs", "output", o.request),
                "confidence": o.confidence,
                "sources": [],
                "safety": o.safety,
                "created_at": _at(o.created_ms),
            }

    def _transcripts(self, block: Block) -> Iterator[Document]:
        for t in block.transcripts:
            yield {
                "_id": t.id,
                "session_id": t.session,
                "language": "en",
                "duration_s": t.duration_s,
                **self._sealed(t.text, "transcripts", "text", t.id),
                "created_at": _at(t.created_ms),
            }

    def _entities(self, block: Block) -> Iterator[Document]:
        for e in block.entities:
            yield {
                "_id": e.id,
                "source_id": e.source,
                "extractor": "names",
                **self._sealed(e.spans, "entities", "spans", e.id),
                "created_at": _at(e.created_ms),
            }

    def _feedback(self, block: Block) -> Iterator[Document]:
        for f in block.feedback:
            yield {
                "_id": f.id,
                "output_id": f.output,
                "rating": f.rating,
                **(self._sealed(f.comment, "feedback", "comment", f.id) if f.comment else {}),
                "created_at": _at(f.created_ms),
            }


def remove(name: str, schema: Database[Document]) -> int:
    """Take away every document whose identifier is that of a synthetic one; how many."""
    try:
        return sum(
            schema[collection].delete_many({"_id": {"$gte": MARK, "$lt": after(MARK)}}).deleted_count
            for collection in COLLECTIONS
        )
    except PyMongoError as exc:
        raise LoadFailed(name, type(exc).__name__) from None
