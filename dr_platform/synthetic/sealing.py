"""Encrypting what services encrypt, so that they can read it: their key, their format, their places.

The nonce is a keyed hash of place and text, so that the same row gets the same bytes each time and no
two texts share one (as in the synthetic nonces of RFC 8452, with the tag of GCM kept apart). What it
tells is only that a field has the same text as before, which of invented persons nobody minds.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dr_platform.clock import Clock
from dr_platform.reference_service.cipher import NONCE_BYTES, PHI_SECRET, FieldCipher, Place, blind, seal
from dr_platform.secrets.port import SecretStore


@dataclass(frozen=True)
class Keys:
    """The PHI key that encrypts now, and the first one, which indexes for ever."""

    version: int
    key: bytes = field(repr=False)
    index_key: bytes = field(repr=False)


def read_keys(secrets: SecretStore, clock: Clock) -> Keys:
    """The keys as services have them; where there are none yet, they are made as services make them."""
    version = FieldCipher(secrets, clock).key_version
    newest = secrets.read_version(PHI_SECRET, version) or {}
    first = secrets.read_version(PHI_SECRET, 1) or newest
    return Keys(version, base64.b64decode(newest["key"]), base64.b64decode(first["key"]))


class Sealer:
    """Encrypts fields and indexes values. The same input gives the same bytes."""

    def __init__(self, keys: Keys) -> None:
        self.version = keys.version
        self._aead = AESGCM(keys.key)
        self._index_key = keys.index_key
        self._nonce_key = hmac.digest(keys.key, b"dr-platform/synthetic/nonce", "sha256")

    def seal(self, text: str, table: str, column: str, row: str) -> bytes:
        place = Place(table, column, row)
        bound = place.bound
        # The length keeps place and text apart.
        told = len(bound).to_bytes(4, "big") + bound + text.encode()
        nonce = hashlib.blake2b(told, key=self._nonce_key, digest_size=NONCE_BYTES).digest()
        return seal(self._aead, self.version, nonce, text, place)

    def optional(self, text: str, table: str, column: str, row: str) -> bytes | None:
        """``None`` for no text."""
        return self.seal(text, table, column, row) if text else None

    def index(self, value: str, purpose: str) -> bytes:
        return blind(self._index_key, value, purpose)
