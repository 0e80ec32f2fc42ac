"""Fields that hold patient data, encrypted before they leave the process.

AES-256-GCM under the newest version of the secret ``encryption/phi``. The associated data is where
the value stands (table, field, row), so that a ciphertext copied to another row does not open.
Layout: 1 byte format, 4 bytes key version, 12 bytes nonce, ciphertext with its 16 bytes of tag.
"""

from __future__ import annotations

import base64
import hmac
import secrets as random_source
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dr_platform.clock import Clock
from dr_platform.errors import PlatformError
from dr_platform.secrets.port import SecretStore

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PHI_SECRET = "encryption/phi"  # noqa: S105 - a name, not a secret
PHI_CATEGORY = "encryption-keys"
_FORMAT = 1
_HEAD = struct.Struct(">BI")
NONCE_BYTES = 12
_KEY_LOOK_S = 15.0
"""A rotated key is used after this long; what older versions encrypted stays readable."""


class Undecryptable(PlatformError):
    """Changed, moved to another row, or encrypted under a key that is gone."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.what = f"a stored field of {place} does not open: it was changed, moved, or its key is gone"
        self.untouched = "what is stored"
        self.next_step = f"compare the versions of the secret {PHI_SECRET} with a backup"


@dataclass(frozen=True)
class Place:
    """Where a value stands: ``Place("chat.messages", "text", "<row id>")``."""

    table: str
    field: str
    row: str

    def __str__(self) -> str:
        return f"{self.table}/{self.field}"  # without the row: it may identify a person

    @property
    def bound(self) -> bytes:
        return f"{self.table}\0{self.field}\0{self.row}".encode()


def make_key() -> dict[str, str]:
    """Fields of a new PHI key: 256 random bits."""
    return {"key": base64.b64encode(random_source.token_bytes(32)).decode()}


def seal(key: AESGCM, version: int, nonce: bytes, text: str, place: Place) -> bytes:
    """The text as it is stored. No two different texts may ever get one ``nonce`` under one key."""
    return _HEAD.pack(_FORMAT, version) + nonce + key.encrypt(nonce, text.encode(), place.bound)


def blind(key: bytes, text: str, purpose: str) -> bytes:
    """32 bytes that are equal for equal texts, whatever their case and outer spaces."""
    return hmac.digest(key, f"{purpose}\0{text.strip().lower()}".encode(), "sha256")


class FieldCipher:
    """Encrypts and opens fields. Safe to use from several threads."""

    def __init__(self, secrets: SecretStore, clock: Clock) -> None:
        self._secrets = secrets
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: dict[int, AESGCM] = {}
        self._newest = 0
        self._looked = float("-inf")

    @property
    def key_version(self) -> int:
        """The version that encrypts now."""
        self._refresh()
        return self._newest

    def encrypt(self, text: str, place: Place) -> bytes:
        version = self.key_version
        return seal(self._keys[version], version, random_source.token_bytes(NONCE_BYTES), text, place)

    def decrypt(self, sealed: bytes, place: Place) -> str:
        """The text. Raises ``Undecryptable``."""
        from cryptography.exceptions import InvalidTag

        try:
            form, version = _HEAD.unpack_from(sealed)
            start = _HEAD.size + NONCE_BYTES
            key = self._key(version) if form == _FORMAT else None
            if key is None:
                raise Undecryptable(str(place))
            return key.decrypt(sealed[_HEAD.size : start], sealed[start:], place.bound).decode()
        except (InvalidTag, struct.error, ValueError):
            raise Undecryptable(str(place)) from None

    def blind_index(self, text: str, purpose: str) -> bytes:
        """32 bytes by which equal texts are found and nothing can be read. Of the first key version
        for ever: a rotation must not lose what is indexed."""
        fields = self._secrets.read_version(PHI_SECRET, 1) or self._secrets.read(PHI_SECRET) or self._ensure()
        return blind(base64.b64decode(fields["key"]), text, purpose)

    def _ensure(self):
        return self._secrets.ensure(PHI_SECRET, make_key, category=PHI_CATEGORY)

    def _refresh(self) -> None:
        with self._lock:
            moment = self._clock.monotonic()
            if self._newest and moment - self._looked < _KEY_LOOK_S:
                return
            metadata = self._secrets.metadata(PHI_SECRET)
            if metadata is None:
                self._ensure()
                metadata = self._secrets.metadata(PHI_SECRET)
            version = metadata.version if metadata else 1
            if self._key(version) is None:
                raise Undecryptable(PHI_SECRET)
            self._newest, self._looked = version, moment

    def _key(self, version: int) -> AESGCM | None:
        if version not in self._keys:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            fields = self._secrets.read_version(PHI_SECRET, version)
            if fields is None:
                return None
            self._keys[version] = AESGCM(base64.b64decode(fields["key"]))
        return self._keys[version]
