"""Who may call what: bearer tokens (JWT, HS256), issued and checked with a key of the secret store.

Here: tokens, scopes and refusals. Not here: passwords and accounts (``roles.authentication``).

A token names the version of the key it was signed with (``kid``), so that a rotated key signs from
then on while tokens of the key before it stay good until they expire.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets as random_source
import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from dr_platform.clock import Clock
from dr_platform.secrets.port import SecretStore

SIGNING_SECRET = "jwt/signing"  # noqa: S105 - a name, not a secret
SIGNING_CATEGORY = "jwt-signing-keys"
TOKEN_S = 600.0
"""A token's life. A stolen one is good for no longer, and nothing can revoke it earlier."""
LEEWAY_S = 30.0
"""Clocks of two machines may differ by this much."""
_KEY_LOOK_S = 15.0
"""A rotated signing key is in use after this long, and a deleted one refused."""
KEPT_VERSIONS = 2
"""The key in use and the one before it are accepted."""
_MAX_TOKEN = 4096


@dataclass(frozen=True)
class Principal:
    """Whoever a valid token speaks for."""

    subject: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        return scope in self.scopes


class TokenRefused(Exception):
    """``reason`` is safe to send back: it says nothing about the key or the token's content."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def make_key() -> dict[str, str]:
    """Fields of a new signing key: 256 random bits."""
    return {"key": _encode(random_source.token_bytes(32))}


class Tokens:
    """Issues and checks tokens of one environment. Safe to use from several threads."""

    def __init__(self, secrets: SecretStore, audience: str, clock: Clock) -> None:
        self._secrets = secrets
        self._audience = audience
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: dict[int, bytes] = {}
        self._newest = 0
        self._looked = float("-inf")

    def issue(self, subject: str, scopes: Collection[str], *, life_s: float = TOKEN_S) -> str:
        """A token for ``subject``. Raises ``SecretsUnavailable`` where there is no key to be had."""
        version, key = self._signing()
        now = int(self._clock.now().timestamp())
        header = {"alg": "HS256", "typ": "JWT", "kid": str(version)}
        claims = {
            "iss": "drp",
            "aud": self._audience,
            "sub": subject,
            "scope": " ".join(sorted(scopes)),
            "iat": now,
            "exp": now + int(life_s),
            "jti": random_source.token_hex(8),
        }
        signed = f"{_encode(json.dumps(header).encode())}.{_encode(json.dumps(claims).encode())}"
        return f"{signed}.{_signature(key, signed)}"

    def check(self, token: str) -> Principal:
        """Whom the token speaks for. Raises ``TokenRefused``."""
        try:
            header, claims, signed, signature = _parts(token)
            version = int(header["kid"])
        except (ValueError, KeyError, TypeError):
            raise TokenRefused("not a token") from None
        if header.get("alg") != "HS256":  # never what the token wishes: "none" would be let in
            raise TokenRefused("wrong algorithm")
        key = self._verification(version)
        if key is None or not hmac.compare_digest(_signature(key, signed), signature):
            raise TokenRefused("wrong signature")
        return self._principal(claims)

    def _principal(self, claims: dict[str, Any]) -> Principal:
        now = self._clock.now().timestamp()
        try:
            if claims["aud"] != self._audience or claims["iss"] != "drp":
                raise TokenRefused("issued for somebody else")
            if now > float(claims["exp"]) + LEEWAY_S:
                raise TokenRefused("expired")
            if now < float(claims["iat"]) - LEEWAY_S:
                raise TokenRefused("not yet valid")
            return Principal(str(claims["sub"]), frozenset(str(claims["scope"]).split()))
        except (KeyError, ValueError, TypeError):
            raise TokenRefused("not a token") from None

    def _signing(self) -> tuple[int, bytes]:
        self._refresh()
        if not self._newest:
            self._secrets.ensure(SIGNING_SECRET, make_key, category=SIGNING_CATEGORY)
            self._refresh(again=True)
        return self._newest, self._keys[self._newest]

    def _verification(self, version: int) -> bytes | None:
        self._refresh()
        if version > self._newest:  # a peer may have seen the rotation first
            self._refresh(again=True)
        return self._keys.get(version)

    def _refresh(self, *, again: bool = False) -> None:
        with self._lock:
            moment = self._clock.monotonic()
            # Forged key versions must not make every request read files.
            if moment - self._looked < (1.0 if again and self._newest else 0.0 if again else _KEY_LOOK_S):
                return
            metadata = self._secrets.metadata(SIGNING_SECRET)
            newest = metadata.version if metadata else 0
            keys = {}
            for version in range(max(1, newest - KEPT_VERSIONS + 1), newest + 1):
                if (fields := self._secrets.read_version(SIGNING_SECRET, version)) is not None:
                    keys[version] = _decode(fields["key"])
            self._keys, self._newest = keys, newest if newest in keys else 0
            # Where there is no key yet, the next call looks again.
            self._looked = moment if self._newest else float("-inf")


def _parts(token: str) -> tuple[dict[str, Any], dict[str, Any], str, str]:
    if len(token) > _MAX_TOKEN:
        raise ValueError("too long")
    header, claims, signature = token.split(".")
    decoded = [json.loads(_decode(part)) for part in (header, claims)]
    if not all(isinstance(part, dict) for part in decoded):
        raise TypeError("not objects")
    return decoded[0], decoded[1], f"{header}.{claims}", signature


def _signature(key: bytes, signed: str) -> str:
    return _encode(hmac.new(key, signed.encode(), hashlib.sha256).digest())


def bearer(header: str | None) -> str:
    """The token of an ``Authorization`` header. Raises ``TokenRefused``."""
    scheme, _, token = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise TokenRefused("a bearer token is needed")
    return token.strip()
