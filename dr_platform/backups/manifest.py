"""What is known of a backup, in signed documents that never change.

Here: the shapes, and that a document is exactly what was signed. Not here: when one is written, or what
it means for a database.

A document is canonical JSON (sorted keys, separators ``,`` and ``:``, ASCII) with the field ``signature``,
an Ed25519 signature over the canonical JSON of all other fields. A document that is not byte for byte what
its own content is written as is refused, so that no second spelling is ever valid.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from dr_platform.backups.errors import Damage, DamagedBackup
from dr_platform.backups.keys import BackupKeys, Signature, WrappedKey
from dr_platform.backups.port import Facts, Kind
from dr_platform.backups.stream import CIPHER, CODEC, FORMAT

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Part(_Document):
    """``path`` is within the backup's folder, and what its encryption is bound to."""

    path: str
    bytes: int
    raw_bytes: int
    sha256: Sha256


class PieceEntry(_Document):
    """A piece of the snapshot and its parts, in order."""

    name: str
    facts: dict[str, JsonValue]
    raw_bytes: int
    parts: tuple[Part, ...] = Field(min_length=1)


class Parent(_Document):
    """The backup that an incremental one continues, and exactly which."""

    id: str
    manifest_sha256: Sha256


class Manifest(_Document):
    """A backup. ``size_bytes`` is what it takes in the store, ``raw_bytes`` what the database gave."""

    schema_: Literal["dr-backup/1"] = Field(default=FORMAT, alias="schema")
    backup_id: str
    environment: str
    database: str
    kind: Kind
    parent: Parent | None = None
    started_at: datetime
    finished_at: datetime
    reason: str
    actor: str
    codec: Literal["zstd:2", "zstd:3"] = CODEC
    cipher: Literal["aes256gcm-stream/1MiB"] = CIPHER
    data_key: WrappedKey
    facts: Facts
    pieces: tuple[PieceEntry, ...] = Field(min_length=1)
    size_bytes: int
    raw_bytes: int

    @property
    def duration_s(self) -> float:
        """By the wall clock, which may have been set back meanwhile."""
        return max(0.0, (self.finished_at - self.started_at).total_seconds())

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(part for piece in self.pieces for part in piece.parts)


class Failure(_Document):
    """A backup that was begun and not completed."""

    schema_: Literal["dr-backup-failure/1"] = Field(default="dr-backup-failure/1", alias="schema")
    backup_id: str
    environment: str
    database: str
    kind: Kind
    started_at: datetime
    finished_at: datetime
    reason: str
    actor: str
    cause: str
    detail: str


class CheckResult(_Document):
    """``passed`` is ``None`` where it could not be tried."""

    name: str
    passed: bool | None
    detail: str
    measurements: dict[str, float] = Field(default_factory=dict)


class Proof(_Document):
    """What an attempt to restore a backup found. Bound to the manifest that it read."""

    schema_: Literal["dr-backup-proof/1"] = Field(default="dr-backup-proof/1", alias="schema")
    backup_id: str
    manifest_sha256: Sha256
    at: datetime
    actor: str
    state: Literal["verified", "failed", "unknown"]
    reason: str
    seconds: float
    checks: tuple[CheckResult, ...]


class Hold(_Document):
    """A legal hold set or lifted; the newest one counts."""

    schema_: Literal["dr-backup-hold/1"] = Field(default="dr-backup-hold/1", alias="schema")
    backup_id: str
    manifest_sha256: Sha256
    at: datetime
    actor: str
    held: bool
    reason: str


D = TypeVar("D", Manifest, Failure, Proof, Hold)


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def written(document: Manifest | Failure | Proof | Hold, keys: BackupKeys) -> bytes:
    """The object's content, signed."""
    fields = document.model_dump(mode="json", by_alias=True)
    signature = keys.sign(canonical(fields))
    return canonical({**fields, "signature": vars(signature)})


def read(content: bytes, model: type[D], keys: BackupKeys, backup_id: str) -> D:
    """What was signed for this backup, else ``DamagedBackup``."""
    altered = Damage.MANIFEST_ALTERED if model in (Manifest, Failure) else Damage.RECORD_ALTERED
    fields, signature = _envelope(content, altered, backup_id)
    if not keys.signed_by_us(canonical(fields), signature):
        raise DamagedBackup(backup_id, altered, "its signature is not ours for this content")
    try:
        document = model.model_validate_json(canonical(fields))
    except ValidationError:
        raise DamagedBackup(backup_id, altered, "it is not in the form that this version writes") from None
    if document.backup_id != backup_id:
        detail = f"what is stored under its name belongs to backup {document.backup_id}"
        raise DamagedBackup(backup_id, Damage.MANIFEST_REPLAYED, detail)
    return document


def _envelope(content: bytes, altered: Damage, backup_id: str) -> tuple[dict[str, Any], Signature]:
    try:
        fields = json.loads(content)
        sound = canonical(fields) == content
        signature = Signature(**fields.pop("signature"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise DamagedBackup(backup_id, altered, "it cannot be read") from None
    if not sound:
        raise DamagedBackup(backup_id, altered, "it is not byte for byte what was written")
    return fields, signature


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
