"""Secrets of one machine: encrypted files below one private folder, opened by one key file.

What it protects against: other users of the machine, a copied or backed-up folder without the key
file, a changed, swapped or renamed file. What it cannot protect against: somebody who may read the
key file, and the removal of the newest version of a secret by somebody who may write the folder.

Layout of the folder (mode 0700, all files 0600):

- ``master.key``: 32 random bytes, made at the first write and never replaced.
- ``<name with dots for slashes>.<version>.secret``: 6 bytes of format mark, 12 bytes of nonce, then
  AES-256-GCM over JSON with the associated data ``<name> NUL <version>``. Never changed once written.
- ``lock``: an empty file that writers hold.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import stat
import string
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dr_platform.clock import Clock, SystemClock
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.secrets.port import Fields, SecretMetadata, SecretsUnavailable, StaleSecret, check_name

_FORMAT = b"DRPS1\n"
_NONCE_BYTES = 12
_KEY_BYTES = 32
_KEY_FILE = "master.key"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_LOCK_WAIT_S = 15.0
"""A write takes milliseconds; a holder that keeps the lock longer is stopped or broken."""
_LOCK_LOOK_S = 0.01
_STORED = re.compile(r"(?P<dotted>.+)\.(?P<version>[1-9][0-9]{0,8})\.secret")

_PASSWORD_ALPHABET = string.ascii_letters + string.digits


def make_password(length: int = 32) -> str:
    """A random password of letters and digits (5.95 bits each), safe in URLs, shells and files."""
    if length < 16:
        raise ValueError("a generated password has at least 16 characters")
    return "".join(secrets.choice(_PASSWORD_ALPHABET) for _ in range(length))


class ExposedSecrets(PlatformError):
    """Files of the store are open to other users, so what they hold may be known already."""

    exit_code = ExitCode.REFUSED

    def __init__(self, path: Path, mode: int, wanted: int) -> None:
        super().__init__(path, mode, wanted)
        self.what = f"{path} has mode {mode:04o}: other users of this machine can reach it"
        self.untouched = "every stored secret"
        self.next_step = f"find out who could read it, then run `chmod {wanted:04o} {path}`"


class MissingKey(PlatformError):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.what = f"secrets are stored, but their key {path} is missing or cut short"
        self.untouched = "every stored secret; no new key was made, it could not open them"
        self.next_step = f"put the key file back from a backup; without it remove {path.parent} and start anew"


class UnreadableSecret(PlatformError):
    """The file was changed, swapped with another, renamed, or written with another key."""

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name, path)
        self.what = f"secret {name}: {path.name} fails its authentication; it was changed, swapped or renamed"
        self.untouched = "every stored secret, and whatever this one opens"
        self.next_step = f"put {path} back from a backup that belongs to the same {_KEY_FILE}"


@dataclass(frozen=True)
class _Opened:
    category: str
    created_at: datetime
    fields: dict[str, str]


class EmbeddedSecretStore:
    """A ``SecretStore`` on files, for any number of processes of one user.

    Readers never wait: versions are written once and appear whole. Writers take a file lock for
    some milliseconds; one that is not to be had within 15 s raises ``SecretsUnavailable``. Earlier
    versions stay until ``delete``.
    """

    def __init__(self, root: Path, clock: Clock | None = None) -> None:
        self._root = root
        self._clock = clock or SystemClock()

    def read(self, name: str) -> Fields | None:
        opened = self._newest(name)
        return opened[1].fields if opened else None

    def read_version(self, name: str, version: int) -> Fields | None:
        path = self._path(check_name(name), version)
        return self._open(name, version, path).fields if path.exists() else None

    def metadata(self, name: str) -> SecretMetadata | None:
        opened = self._newest(name)
        if opened is None:
            return None
        version, content = opened
        return SecretMetadata(name, content.category, version, content.created_at)

    def names(self, prefix: str = "") -> tuple[str, ...]:
        return tuple(sorted({name for name, _version in self._stored() if name.startswith(prefix)}))

    def write(self, name: str, fields: Fields, *, category: str, expected: int | None) -> int:
        check_name(name)
        body = {"category": category, "created_at": self._clock.now().isoformat(), "fields": dict(fields)}
        with self._locked():
            current = max(self._versions(name), default=None)
            if current != expected:
                raise StaleSecret(name)
            version = (current or 0) + 1
            self._seal(name, version, json.dumps(body).encode())
        return version

    def ensure(self, name: str, make: Callable[[], Fields], *, category: str) -> Fields:
        # ``make`` runs outside the lock: it may be slow, or use this store itself.
        while (found := self.read(name)) is None:
            with contextlib.suppress(StaleSecret):  # another process was first, and its fields are read
                self.write(name, make(), category=category, expected=None)
        return found

    def delete(self, name: str) -> None:
        check_name(name)
        with self._locked():
            # Oldest last would leave an old version as the newest one after a crash half-way.
            for version in sorted(self._versions(name)):
                self._path(name, version).unlink()
            _sync_folder(self._root)

    def _newest(self, name: str) -> tuple[int, _Opened] | None:
        check_name(name)
        while versions := self._versions(name):
            newest = max(versions)
            with contextlib.suppress(FileNotFoundError):  # deleted between the two looks
                return newest, self._open(name, newest, self._path(name, newest))
        return None

    def _path(self, name: str, version: int) -> Path:
        return self._root / f"{name.replace('/', '.')}.{version}.secret"

    def _stored(self) -> Iterator[tuple[str, int]]:
        try:
            files = [path.name for path in self._root.iterdir()]
        except FileNotFoundError:
            return
        except OSError as exc:
            raise SecretsUnavailable("embedded", f"{self._root}: {exc.strerror}") from exc
        for file in files:
            if match := _STORED.fullmatch(file):
                yield match["dotted"].replace(".", "/"), int(match["version"])

    def _versions(self, name: str) -> list[int]:
        return [version for stored, version in self._stored() if stored == name]

    def _open(self, name: str, version: int, path: Path) -> _Opened:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        sealed = _read_private(path)
        start = len(_FORMAT) + _NONCE_BYTES
        if not sealed.startswith(_FORMAT) or len(sealed) < start:
            raise UnreadableSecret(name, path)
        try:
            body = AESGCM(self._key()).decrypt(sealed[len(_FORMAT) : start], sealed[start:], _bound_to(name, version))
        except InvalidTag:
            raise UnreadableSecret(name, path) from None
        content = json.loads(body)
        return _Opened(content["category"], datetime.fromisoformat(content["created_at"]), content["fields"])

    def _seal(self, name: str, version: int, body: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = _FORMAT + nonce + AESGCM(self._key_or_new()).encrypt(nonce, body, _bound_to(name, version))
        _write_whole(self._path(name, version), sealed)

    def _key(self) -> bytes:
        path = self._root / _KEY_FILE
        try:
            key = _read_private(path)
        except FileNotFoundError:
            raise MissingKey(path) from None
        if len(key) != _KEY_BYTES:
            raise MissingKey(path)
        return key

    def _key_or_new(self) -> bytes:
        """Under the lock only. A new key is made where nothing is stored that it could not open."""
        path = self._root / _KEY_FILE
        if not path.exists() and not any(self._stored()):
            _write_whole(path, secrets.token_bytes(_KEY_BYTES))
        return self._key()

    @contextlib.contextmanager
    def _locked(self) -> Generator[None]:
        """One writer at a time, across processes and threads; the kernel frees it when one dies."""
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            raise SecretsUnavailable("embedded", f"{self._root}: {exc.strerror}") from exc
        try:
            _refuse_exposed(self._root, self._root.stat(), 0o700)
            self._take(lock)
            for leftover in self._root.glob("*.part"):  # a writer died; nobody else is writing now
                leftover.unlink()
            yield
        finally:
            os.close(lock)

    def _take(self, lock: int) -> None:
        deadline = self._clock.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._clock.monotonic() >= deadline:
                    raise SecretsUnavailable("embedded", f"another process holds {self._root / 'lock'}") from None
                self._clock.sleep(_LOCK_LOOK_S)


def _bound_to(name: str, version: int) -> bytes:
    return f"{name}\0{version}".encode()


def _refuse_exposed(path: Path, found: os.stat_result, wanted: int) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if mode & _OTHERS:
        raise ExposedSecrets(path, mode, wanted)


def _read_private(path: Path) -> bytes:
    """The file's bytes; refused where other users could have read or written it."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise SecretsUnavailable("embedded", f"{path}: {exc.strerror}") from exc
    with os.fdopen(file, "rb") as opened:
        _refuse_exposed(path, os.fstat(opened.fileno()), 0o600)
        return opened.read()


def _write_whole(path: Path, content: bytes) -> None:
    """All of it under its name, durably, or nothing."""
    part = path.with_name(path.name + ".part")
    try:
        file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        part.rename(path)
        _sync_folder(path.parent)
    except OSError as exc:
        raise SecretsUnavailable("embedded", f"{path}: {exc.strerror}") from exc


def _sync_folder(folder: Path) -> None:
    """Make names durable: a file's own fsync does not cover its entry in the folder."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
