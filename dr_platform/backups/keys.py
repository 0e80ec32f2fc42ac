"""The keys of backups: one for the data of each, what that is wrapped with, and what signs.

Here: making, wrapping and opening data keys, signatures, and the escrow recipient. Not here: where secrets
lie, or what is encrypted.

A data key is wrapped twice: with a key of the secret store, whose earlier versions stay readable, and for
every escrow recipient, whose identity lies with people and never in the store. So backups are opened without
anybody while the secret store is there, and by the holder of the identity when it is not.
"""

from __future__ import annotations

import hashlib
import os
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dr_platform.backups.errors import Damage, DamagedBackup
from dr_platform.backups.stream import FORMAT, KEY_BYTES
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.secrets.port import SecretStore

WRAPPING = "backups/wrapping"
SIGNING = "backups/signing"
ESCROW = "backups/escrow"
CATEGORY = "encryption-keys"
_NONCE_BYTES = 12


@dataclass(frozen=True)
class WrappedKey:
    """A data key as a manifest holds it: ``sealed`` under a version of the store's key, and once for each
    escrow recipient, as an age file in base 64."""

    version: int
    sealed: str
    escrow: dict[str, str]


@dataclass(frozen=True)
class Signature:
    """``key`` is the SHA-256 of the public key, ``value`` Ed25519 in hex."""

    key: str
    value: str


class NoRecipient(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self) -> None:
        super().__init__()
        self.what = "no escrow recipient is known"
        self.untouched = "every backup; nothing was begun"
        self.next_step = "make one with `drp backup-keys init --identity FILE`"


class EscrowExists(PlatformError):
    """A second identity would leave nobody sure which file opens what."""

    exit_code = ExitCode.REFUSED

    def __init__(self, recipient: str) -> None:
        super().__init__(recipient)
        self.what = f"an escrow recipient is there already: {recipient}"
        self.untouched = "the recipient and every backup"
        self.next_step = "use the file that was written then; `drp backup-keys show` names its recipient"


class IdentityNotWritten(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(file, reason)
        self.what = f"the escrow identity cannot be written to {file}: {reason}"
        self.untouched = "every key and backup; no recipient was stored"
        self.next_step = "name a file that does not exist, in a folder that you may write to"


class BackupKeys(Protocol):
    """What reading backups needs: the secret store's keys, or after its loss the escrow identity."""

    def open(self, backup_id: str, wrapped: WrappedKey) -> bytes:
        """The data key. Raises ``DamagedBackup``."""

    def sign(self, message: bytes) -> Signature:
        """Raises ``NothingToSignWith`` where there is no key for that."""

    def signed_by_us(self, message: bytes, signature: Signature) -> bool: ...


@dataclass(frozen=True)
class KeyRing:
    """All keys of one environment's backups."""

    secrets: SecretStore

    # Data keys

    def new(self, backup_id: str, random: Callable[[int], bytes] = os.urandom) -> tuple[bytes, WrappedKey]:
        """A fresh data key and how it is kept. Raises ``NoRecipient``."""
        recipients = self.recipients()
        if not recipients:
            raise NoRecipient
        key = random(KEY_BYTES)
        version, wrapping = self._wrapping()
        nonce = random(_NONCE_BYTES)
        sealed = nonce + AESGCM(wrapping).encrypt(nonce, key, _bound(backup_id))
        escrow = {recipient: _for_recipient(key, recipient) for recipient in recipients}
        return key, WrappedKey(version, b64encode(sealed).decode(), escrow)

    def open(self, backup_id: str, wrapped: WrappedKey) -> bytes:
        """The data key. Raises ``DamagedBackup`` with ``KEY_LOST`` or ``WRONG_KEY``."""
        fields = self.secrets.read_version(WRAPPING, wrapped.version)
        if fields is None:
            detail = f"the secret store has no version {wrapped.version} of {WRAPPING}; the escrow identity opens it"
            raise DamagedBackup(backup_id, Damage.KEY_LOST, detail)
        sealed = b64decode(wrapped.sealed)
        try:
            return AESGCM(b64decode(fields["key"])).decrypt(
                sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _bound(backup_id)
            )
        except InvalidTag:
            detail = f"version {wrapped.version} of {WRAPPING} is not the key that it was written with"
            raise DamagedBackup(backup_id, Damage.WRONG_KEY, detail) from None

    def _wrapping(self) -> tuple[int, bytes]:
        self.secrets.ensure(WRAPPING, _new_wrapping, category=CATEGORY)
        version = _version(self.secrets, WRAPPING)
        fields = self.secrets.read_version(WRAPPING, version) or {}
        return version, b64decode(fields["key"])

    def rotate(self) -> int:
        """A new wrapping key for backups from now on; earlier ones stay readable with theirs."""
        version, _ = self._wrapping()
        return self.secrets.write(WRAPPING, _new_wrapping(), category=CATEGORY, expected=version)

    # Signatures

    def sign(self, message: bytes) -> Signature:
        fields = self.secrets.ensure(SIGNING, _new_signing, category=CATEGORY)
        private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(fields["private"]))
        return Signature(key_name(fields["public"]), private.sign(message).hex())

    def signed_by_us(self, message: bytes, signature: Signature) -> bool:
        """Whether a key of ours, also an earlier one, signed exactly this."""
        public = next((p for p in self._publics() if key_name(p) == signature.key), None)
        return public is not None and signature_fits(message, signature, public)

    def public_key(self) -> str:
        """Of the key that signs now, in hex."""
        return self.secrets.ensure(SIGNING, _new_signing, category=CATEGORY)["public"]

    def _publics(self) -> Iterator[str]:
        metadata = self.secrets.metadata(SIGNING)
        for version in range(metadata.version if metadata else 0, 0, -1):
            if fields := self.secrets.read_version(SIGNING, version):
                yield fields["public"]

    # Escrow

    def recipients(self) -> tuple[str, ...]:
        fields = self.secrets.read(ESCROW)
        return tuple(sorted(fields["recipients"].split())) if fields else ()

    def make_escrow(self, file: Path) -> str:
        """Write a new identity to ``file``, for its owner alone, and keep its recipient. The identity is kept
        nowhere else: whoever loses the file and the secret store loses the backups."""
        if known := self.recipients():
            raise EscrowExists(known[0])
        identity = _age().x25519.Identity.generate()
        recipient = str(identity.to_public())
        _write_private(file, f"# Opens backups. Recipient: {recipient}\n{identity}\n")
        try:
            kept = self.secrets.ensure(ESCROW, lambda: {"recipients": recipient}, category=CATEGORY)["recipients"]
        except PlatformError:
            file.unlink()
            raise
        if kept != recipient:  # somebody else made one at the same moment
            file.unlink()
            raise EscrowExists(kept)
        return recipient


class NothingToSignWith(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self) -> None:
        super().__init__()
        self.what = "the escrow identity opens backups and signs nothing"
        self.untouched = "the bucket"
        self.next_step = "write with the keys of the secret store"


class NoIdentity(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, file: str, why: str) -> None:
        super().__init__(file, why)
        self.what = f"{file}: {why}"
        self.untouched = "every backup and every database"
        self.next_step = "name the file that `drp backup-keys init` wrote with --identity"


@dataclass(frozen=True)
class EscrowKeys:
    """What is left when the secret store is gone: the identity that people keep, and the public keys that may have
    signed, in hex."""

    identity: str = field(repr=False)
    signers: tuple[str, ...]

    @classmethod
    def of_file(cls, file: Path, signers: Iterable[str]) -> EscrowKeys:
        """Raises ``NoIdentity``."""
        try:
            identity = read_identity(file)
            _age().x25519.Identity.from_str(identity)
        except (OSError, UnicodeDecodeError):
            raise NoIdentity(str(file), "the escrow identity cannot be read") from None
        except Exception:  # noqa: BLE001 - the library's own error, whose text may quote the identity
            raise NoIdentity(str(file), "there is no escrow identity in it") from None
        return cls(identity, tuple(signers))

    def open(self, backup_id: str, wrapped: WrappedKey) -> bytes:
        key = open_with_identity(wrapped, self.identity)
        if key is None:
            raise DamagedBackup(backup_id, Damage.KEY_LOST, "it was not sealed for this escrow identity")
        return key

    def sign(self, message: bytes) -> Signature:  # noqa: ARG002 - there is nothing to do with it
        raise NothingToSignWith

    def signed_by_us(self, message: bytes, signature: Signature) -> bool:
        known = (public for public in self.signers if key_name(public) == signature.key)
        return any(signature_fits(message, signature, public) for public in known)


def read_identity(file: Path) -> str:
    """The identity of a file as ``make_escrow`` or ``age-keygen`` writes it."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return next((line.strip() for line in lines if line.startswith("AGE-SECRET-KEY-")), "")


def open_with_identity(wrapped: WrappedKey, identity: str) -> bytes | None:
    """The data key, or ``None`` where it was not wrapped for this identity."""
    holder = _age().x25519.Identity.from_str(identity)
    sealed = wrapped.escrow.get(str(holder.to_public()))
    return _age().decrypt(b64decode(sealed), [holder]) if sealed else None


def signature_fits(message: bytes, signature: Signature, public: str) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(bytes.fromhex(signature.value), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def key_name(public: str) -> str:
    return hashlib.sha256(bytes.fromhex(public)).hexdigest()


def _for_recipient(key: bytes, recipient: str) -> str:
    age = _age()
    return b64encode(age.encrypt(key, [age.x25519.Recipient.from_str(recipient)])).decode()


def _age() -> Any:
    """The library is compiled and says nothing of its types."""
    import pyrage

    return pyrage


def _bound(backup_id: str) -> bytes:
    return b"\0".join((FORMAT.encode(), b"data-key", backup_id.encode()))


def _new_wrapping() -> dict[str, str]:
    return {"key": b64encode(os.urandom(KEY_BYTES)).decode()}


def _new_signing() -> dict[str, str]:
    private = Ed25519PrivateKey.generate()
    return {"private": private.private_bytes_raw().hex(), "public": private.public_key().public_bytes_raw().hex()}


def _version(secrets: SecretStore, name: str) -> int:
    metadata = secrets.metadata(name)
    if metadata is None:
        raise LookupError(name)
    return metadata.version


def _write_private(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as exc:
        raise IdentityNotWritten(str(file), os.strerror(exc.errno or 0).lower()) from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
