"""Profiles and keys: everything that decides what a value becomes, besides the value itself.

Here: the two profiles, keys per domain, digests. Not here: forms of masked values (``values``), and where
a persistent key is kept (the facade).
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Any

KEY_BYTES = 32
_BLOCK = 64
"""Block size of SHA-256, which HMAC pads its key to (RFC 2104)."""


class Profile(StrEnum):
    SAFE_HARBOR = "safe_harbor"
    """All eighteen classes of 45 CFR 164.514(b)(2)(i) are removed or replaced; dates become years, and
    the key exists in memory only."""
    EXPERT_DETERMINATION = "expert_determination"
    """Keyed tokens that stay the same from refresh to refresh, dates shifted per person: lawful only
    with an expert's determination, 45 CFR 164.514(b)(1)."""


@dataclass(frozen=True)
class Recipe:
    """``master`` is the key of a run or of an environment; ``today`` decides who is over 89."""

    profile: Profile
    master: bytes = field(repr=False)
    today: date

    def __post_init__(self) -> None:
        if len(self.master) != KEY_BYTES:
            raise ValueError(f"a masking key has {KEY_BYTES} bytes")

    @property
    def shifts_dates(self) -> bool:
        return self.profile is Profile.EXPERT_DETERMINATION

    def domain_key(self, domain: str) -> bytes:
        """Each domain has a key of its own, so that equal values of two domains do not meet."""
        return _domain_key(self.master, domain)

    def digest(self, domain: str, value: str) -> bytes:
        """HMAC-SHA-256 of a canonical value: 32 bytes from which the masked value is made."""
        begun, ended = _begun(self.master, domain)
        inner, outer = begun.copy(), ended.copy()
        inner.update(value.encode())
        outer.update(inner.digest())
        return outer.digest()

    def pads(self, domain: str) -> tuple[bytes, bytes]:
        """Inner and outer pad of the domain's key, with which a server that has SHA-256 alone computes
        the same HMAC: ``sha256(outer || sha256(inner || value))``."""
        return _pads(self.domain_key(domain))

    @property
    def key_id(self) -> str:
        """Tells two keys apart in reports and says nothing of them."""
        return hmac.digest(self.master, b"drp masking key id", hashlib.sha256).hex()[:12]


@functools.lru_cache(maxsize=512)
def _domain_key(master: bytes, domain: str) -> bytes:
    return hmac.digest(master, b"drp masking\0" + domain.encode(), "sha256")


def _pads(key: bytes) -> tuple[bytes, bytes]:
    padded = key.ljust(_BLOCK, b"\0")
    return bytes(b ^ 0x36 for b in padded), bytes(b ^ 0x5C for b in padded)


@functools.lru_cache(maxsize=512)
def _begun(master: bytes, domain: str) -> tuple[Any, Any]:
    """The hashes of both pads: to go on from them costs a fraction of what a call for the whole HMAC does."""
    inner, outer = _pads(_domain_key(master, domain))
    return hashlib.sha256(inner), hashlib.sha256(outer)
