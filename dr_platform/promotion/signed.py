"""Evidence that crosses from one environment to the next: a signed file in the object store.

Here: the file's form, signing, and refusing. Not here: what the evidence says about a promotion
(``gates``).

Two environments share no database and no secret; the next one holds the public key of the one before
in its own secret store. A file is canonical JSON (sorted keys, separators ``,`` and ``:``, ASCII):

    {"evidence": {…}, "format": "drp-promotion-1", "key": <SHA-256 of the public key>, "signature": <hex>}

The signature is Ed25519 over ``drp-promotion-1``, a zero byte and the canonical JSON of ``evidence``.
A file that is not byte for byte what its own content is written as is refused, so no second spelling
of a file is ever valid. Whoever may remove files can hide the newest one; the age of what is left
(``fresh_for``) bounds what they gain.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dr_platform.errors import ExitCode, PlatformError
from dr_platform.objects import ObjectStore
from dr_platform.secrets.port import SecretStore

FORMAT = "drp-promotion-1"
MAX_BYTES = 1_000_000
SIGNING_SECRET = "promotion/signing"  # noqa: S105 - its name
CATEGORY = "encryption-keys"
_FOLDER = "promotion"


@dataclass(frozen=True)
class SuiteResult:
    """The newest run of a suite for the release in its environment."""

    suite: str
    passed: bool | None
    checks: int
    failed: int
    at: datetime


@dataclass(frozen=True)
class PromotionEvidence:
    """What an environment says of one release. ``head`` is the end of its evidence log, so that the
    log cannot be cut or rewritten later without contradicting this file."""

    environment: str
    release: str
    digest: str
    issued_at: datetime
    verified_at: datetime | None
    suites: tuple[SuiteResult, ...]
    head_sequence: int
    head_hash: str


class RefusedPromotionEvidence(PlatformError):
    """Never retried: a file does not become another one."""

    exit_code = ExitCode.REFUSED

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.what = f"evidence from another environment was refused: {reason}"
        self.untouched = "every environment; nothing was promoted"
        self.next_step = "write it anew with `drp promotion export` where the release was verified"


def generate_key() -> dict[str, str]:
    """A new signing key as the fields of a secret; both are 32 bytes in hex."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate().private_bytes_raw().hex()
    return {"private": private, "public": public_key_of(private)}


def public_key_of(private: str) -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(private)).public_key().public_bytes_raw().hex()


def sign(evidence: PromotionEvidence, private: str) -> bytes:
    """The file's content."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    written = _written(evidence)
    signature = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(private)).sign(_message(written)).hex()
    return _canonical(
        {"format": FORMAT, "key": _key_name(public_key_of(private)), "evidence": written, "signature": signature}
    )


def open_signed(content: bytes, public: str, *, environment: str, release: str, digest: str) -> PromotionEvidence:
    """What a file says, when the holder of ``public``'s private part wrote exactly this about exactly
    this release of that environment; else ``RefusedPromotionEvidence``."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    envelope = _envelope(content)
    if envelope["key"] != _key_name(public):
        raise RefusedPromotionEvidence(f"it is signed with another key than that of {environment}")
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(envelope["signature"]), _message(envelope["evidence"]))
    except (InvalidSignature, ValueError):
        raise RefusedPromotionEvidence("its signature does not fit its content") from None
    evidence = _read(envelope["evidence"])
    said = {"environment": evidence.environment, "release": evidence.release, "digest": evidence.digest}
    wanted = {"environment": environment, "release": release, "digest": digest}
    if differing := [name for name, value in wanted.items() if said[name] != value]:
        raise RefusedPromotionEvidence(f"it is about another {' and '.join(differing)}")
    return evidence


def _envelope(content: bytes) -> dict[str, Any]:
    if len(content) > MAX_BYTES:
        raise RefusedPromotionEvidence("it is too large")
    try:
        envelope = json.loads(content)
        sound = _canonical(envelope) == content and set(envelope) == {"format", "key", "evidence", "signature"}
        known = sound and envelope["format"] == FORMAT
    except (ValueError, TypeError, RecursionError):
        raise RefusedPromotionEvidence("it cannot be read") from None
    if not known or not all(isinstance(envelope[name], str) for name in ("key", "signature")):
        raise RefusedPromotionEvidence("it is not in the form that this platform writes")
    if envelope["signature"] != envelope["signature"].lower():
        raise RefusedPromotionEvidence("it is not in the form that this platform writes")
    return envelope


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _message(written: object) -> bytes:
    return FORMAT.encode() + b"\0" + _canonical(written)


def _key_name(public: str) -> str:
    return hashlib.sha256(bytes.fromhex(public)).hexdigest()


def _written(evidence: PromotionEvidence) -> dict[str, Any]:
    return {
        **vars(evidence),
        "issued_at": _time(evidence.issued_at),
        "verified_at": evidence.verified_at and _time(evidence.verified_at),
        "suites": [{**vars(suite), "at": _time(suite.at)} for suite in evidence.suites],
    }


def _read(written: Any) -> PromotionEvidence:
    """Only what was signed comes here; another form is another version's."""
    try:
        verified_at = written["verified_at"]
        return PromotionEvidence(
            **{name: written[name] for name in ("environment", "release", "digest", "head_sequence", "head_hash")},
            issued_at=datetime.fromisoformat(written["issued_at"]),
            verified_at=datetime.fromisoformat(verified_at) if verified_at is not None else None,
            suites=tuple(map(_read_suite, written["suites"])),
        )
    except (KeyError, ValueError, TypeError):
        raise RefusedPromotionEvidence("it is not in the form that this platform writes") from None


def _read_suite(written: Any) -> SuiteResult:
    suite, passed, checks, failed = (written[name] for name in ("suite", "passed", "checks", "failed"))
    return SuiteResult(suite, passed, checks, failed, datetime.fromisoformat(written["at"]))


def _time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")


# Keys


def signing_key(secrets: SecretStore) -> Mapping[str, str]:
    """This environment's own key, made at first use."""
    return secrets.ensure(SIGNING_SECRET, generate_key, category=CATEGORY)


def trusted_key(secrets: SecretStore, environment: str) -> str | None:
    """The public key of another environment that this one accepts."""
    stored = secrets.read(_trusted(environment))
    return stored["public"] if stored else None


def trust(secrets: SecretStore, environment: str, public: str) -> None:
    """Accept evidence signed by this key from now on, and by no earlier one of that environment.
    Raises ``InvalidKey``."""
    if not _is_public_key(public):
        raise InvalidKey(environment)
    name = _trusted(environment)
    known = secrets.metadata(name)
    expected = known.version if known else None
    secrets.write(name, {"public": public.lower()}, category=CATEGORY, expected=expected)


def _trusted(environment: str) -> str:
    return f"promotion/trusted/{environment}"


def _is_public_key(text: str) -> bool:
    try:
        return len(bytes.fromhex(text)) == 32
    except ValueError:
        return False


class InvalidKey(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, environment: str) -> None:
        super().__init__(environment)
        self.what = f"this is not a public key of {environment}"
        self.untouched = "the keys that are accepted already"
        self.next_step = f"copy the 64 characters that `drp --env {environment} promotion key` prints"


# Files


def store(objects: ObjectStore, evidence: PromotionEvidence, private: str) -> str:
    """Put the signed file where the next environment finds it, and return its key."""
    name = f"{evidence.issued_at.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}.json"
    key = f"{_folder(evidence.environment, evidence.release, evidence.digest)}/{name}"
    objects.put(key, sign(evidence, private))
    return key


def find(
    objects: ObjectStore, public: str, *, environment: str, release: str, digest: str
) -> tuple[PromotionEvidence | None, tuple[str, ...]]:
    """The newest file that is accepted, and why each other one was refused."""
    accepted, refused = [], []
    for key, content in _contents(objects, _folder(environment, release, digest)):
        try:
            opened = open_signed(content, public, environment=environment, release=release, digest=digest)
        except RefusedPromotionEvidence as exc:
            refused.append(f"{key}: {exc.reason}")
        else:
            accepted.append(opened)
    return _newest(accepted), tuple(refused)


def _contents(objects: ObjectStore, folder: str) -> Iterator[tuple[str, bytes]]:
    for info in objects.list(folder):
        yield info.key, objects.get_range(info.key, 0, MAX_BYTES + 1)


def _newest(accepted: Iterable[PromotionEvidence]) -> PromotionEvidence | None:
    return max(accepted, key=lambda e: (e.issued_at, e.head_sequence), default=None)


def _folder(environment: str, release: str, digest: str) -> str:
    return f"{_FOLDER}/{environment}/{release}/{digest.replace(':', '-')}"
