"""The object store: named bytes, on this machine or in a bucket.

Here: the port and its adapter over obstore, which speaks file, memory, S3, Google Cloud Storage and
Azure. Not here: what is stored, how it is encrypted, or how long it stays.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from dr_platform.errors import ExitCode, PlatformError, TemporaryFailure

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig
    from obstore.store import ObjectStore as Backend

_MAX_KEY = 900
"""Object stores allow 1,024 bytes with the prefix of the URL; a local segment ends at 255."""
_MAX_SEGMENT = 200
_RETRY: RetryConfig = {"max_retries": 2, "retry_timeout": timedelta(seconds=20)}
_CLIENT: ClientConfig = {"connect_timeout": "5s", "timeout": "300s"}
_SCHEMES = ("file", "memory", "s3", "gs", "az")
CREDENTIALS = "DRP_S3_CREDENTIALS"
"""Names a file, because supervised processes get nothing else of the caller's environment."""
_ALLOW_HTTP = "AWS_ALLOW_HTTP"
_IN_FILE = frozenset({
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL", _ALLOW_HTTP,
    "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE",
})  # fmt: skip


@dataclass(frozen=True)
class ObjectInfo:
    key: str
    size_bytes: int
    modified_at: datetime


class ObjectStore(Protocol):
    """Keys are path segments of printable characters joined by ``/``; others raise ``InvalidKey``. A key
    is never the folder of another key: on a file system it cannot be.

    An object appears whole or not at all, and is never changed: ``put`` of a key that exists raises
    ``AlreadyExists`` and changes nothing, of several writers at once one wins. An outage raises
    ``ObjectsUnavailable`` and is never reported as "no such object".
    """

    def put(self, key: str, content: bytes) -> None:
        """Durable when it returns."""

    def get(self, key: str) -> bytes:
        """Raises ``NoSuchObject``."""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``, fewer where the object ends; raises ``NoSuchObject``."""

    def head(self, key: str) -> ObjectInfo | None:
        """Size and time, or ``None`` where there is no such object."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Below a folder such as ``backups/postgres``, which ends at a segment; sorted by key."""

    def delete(self, key: str) -> None:
        """A key that does not exist is no error."""


class InvalidKey(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.what = f"{key[:80]!r} is not a key of an object"
        self.untouched = "every stored object"
        self.next_step = "use printable segments joined by slashes, without . or .. or an empty one"


class AlreadyExists(PlatformError):
    """Never retried: what is stored may be another writer's."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.what = f"object {key} exists already"
        self.untouched = f"the stored object {key}"
        self.next_step = "choose another key; objects are never overwritten"


class NoSuchObject(PlatformError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.what = f"there is no object {key}"
        self.untouched = "every stored object"
        self.next_step = "list what there is, and compare the key"


class UnsupportedStore(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, scheme: str) -> None:
        super().__init__(scheme)
        self.what = f"an object store cannot be opened by the scheme {scheme[:20]!r}"
        self.untouched = "every stored object"
        self.next_step = f"use a URL that starts with one of {', '.join(f'{s}://' for s in _SCHEMES)}"


class UnusableCredentials(PlatformError):
    """Nothing of the file is quoted."""

    exit_code = ExitCode.REFUSED

    def __init__(self, file: Path, why: str) -> None:
        super().__init__(file, why)
        self.what = f"{file}, which {CREDENTIALS} names, cannot be used: {why}"
        self.untouched = "every stored object"
        self.next_step = "write lines such as AWS_REGION=eu-central-1 into a file of mode 0600, see docs/backups.md"


class ObjectsUnavailable(TemporaryFailure):
    def __init__(self, store: str, reason: str) -> None:
        super().__init__(store, reason)
        self.what = f"the object store {store} did not do what it was asked: {reason}"
        self.untouched = "every stored object; nothing was written in part"
        self.next_step = "see whether it can be reached and its credentials are valid, then repeat"


class ObjectsFull(ObjectsUnavailable):
    """There is no room, or none for this account."""

    def __init__(self, store: str) -> None:
        super().__init__(store, "it is full")
        self.args = (store,)
        self.next_step = "make room or enlarge it, then repeat"


class _Backed:
    """An ``ObjectStore`` over any store of obstore; made by ``open_objects``."""

    def __init__(self, backend: Backend, shown: str) -> None:
        self._backend = backend
        self._shown = shown

    def put(self, key: str, content: bytes) -> None:
        from obstore.exceptions import AlreadyExistsError

        with self._mapped(key):
            try:
                # One request: the parts of a multipart upload cannot be made conditional.
                self._backend.put(_checked(key), content, mode="create", use_multipart=False)
            except AlreadyExistsError:
                raise AlreadyExists(key) from None

    def get(self, key: str) -> bytes:
        with self._mapped(key):
            return bytes(self._backend.get(_checked(key)).bytes())

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if start < 0 or length < 0:
            raise ValueError("start and length count bytes from the start of the object")
        with self._mapped(key):
            size = self._backend.head(_checked(key))["size"]
            end = min(start + length, size)
            return bytes(self._backend.get_range(key, start=start, end=end)) if start < end else b""

    def head(self, key: str) -> ObjectInfo | None:
        try:
            with self._mapped(key):
                found = self._backend.head(_checked(key))
        except NoSuchObject:
            return None
        return ObjectInfo(found["path"], found["size"], found["last_modified"])

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        folder = _checked(prefix.rstrip("/")) if prefix else None
        with self._mapped(prefix):
            found = [meta for page in self._backend.list(folder) for meta in page]
        for meta in sorted(found, key=lambda m: m["path"]):
            yield ObjectInfo(meta["path"], meta["size"], meta["last_modified"])

    def delete(self, key: str) -> None:
        with contextlib.suppress(NoSuchObject), self._mapped(key):
            self._backend.delete(_checked(key))

    @contextlib.contextmanager
    def _mapped(self, key: str) -> Generator[None]:
        """The reason is the error's class alone: its text may quote a signed address."""
        from obstore.exceptions import BaseError

        try:
            yield
        except FileNotFoundError:
            raise self._missing(key) from None
        except (BaseError, OSError) as exc:
            if _is_full(exc):
                raise ObjectsFull(self._shown) from None
            raise ObjectsUnavailable(self._shown, type(exc).__name__) from None

    def _missing(self, key: str) -> PlatformError:
        return NoSuchObject(key)


class _Remote(_Backed):
    """A bucket. A service says "not found" of an object and of the whole bucket alike, but lists only a bucket
    that is there."""

    def _missing(self, key: str) -> PlatformError:
        from obstore.exceptions import BaseError

        try:  # past ``list``, which asks here what "not found" means
            next(iter(self._backend.list(key or None)), None)
        except (BaseError, OSError):
            return ObjectsUnavailable(self._shown, "there is no such bucket, or it may not be listed")
        return super()._missing(key)


class _Local(_Backed):
    """A folder. The library links a finished file under its name, but leaves it in the page cache."""

    def __init__(self, backend: Backend, folder: Path) -> None:
        super().__init__(backend, f"file://{folder}")
        self._folder = folder

    def put(self, key: str, content: bytes) -> None:
        super().put(key, content)
        with self._mapped(key):
            file = self._folder / key
            for path in (file, *file.parents):
                _sync(path)
                if path == self._folder:
                    return


def _is_full(exc: Exception) -> bool:
    """The library keeps the system's error as text alone."""
    number = exc.errno if isinstance(exc, OSError) else None
    text = str(exc)
    return any(number == code or f"(os error {code})" in text for code in (ENOSPC, EDQUOT, EFBIG))


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def open_objects(url: str) -> ObjectStore:
    """The store at ``file:///path``, ``memory://`` (ends with this value), or ``s3://bucket/prefix``,
    ``gs://…``, ``az://…``, which take their credentials from the environment or the machine's role; S3 also from
    the file that ``DRP_S3_CREDENTIALS`` names. Raises ``UnsupportedStore``, ``UnusableCredentials`` and
    ``ObjectsUnavailable``.

    A local folder is made, for its owner alone. Nothing is asked of a remote one yet.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise UnsupportedStore(parts.scheme)
    if parts.scheme == "file":
        return local_objects(Path(unquote(parts.path)))
    shown = f"{parts.scheme}://{parts.hostname or ''}"
    from obstore.store import MemoryStore, from_url

    if parts.scheme == "memory":
        return _Backed(MemoryStore(), shown)
    given = _credentials() if parts.scheme == "s3" else {}
    try:
        if parts.scheme == "s3":
            return _Remote(_s3(url, given), shown)
        return _Remote(from_url(url, retry_config=_RETRY, client_options=_CLIENT), shown)
    except Exception as exc:  # noqa: BLE001 - each service has errors of its own; the text may quote credentials
        raise ObjectsUnavailable(shown, type(exc).__name__) from None


def _s3(url: str, given: Mapping[str, str]) -> Backend:
    """What is not ``given`` the library takes from the environment or the machine's role."""
    from obstore.store import S3Store

    # The library does not look for this one where it is given any other option of its client.
    http = given.get(_ALLOW_HTTP) or os.environ.get(_ALLOW_HTTP, "")
    client: ClientConfig = {**_CLIENT, "allow_http": http.lower() in ("1", "true")}
    config = {name: value for name, value in given.items() if name != _ALLOW_HTTP}
    # A bucket with a default retention takes nothing without a checksum.
    # https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html
    config["AWS_CHECKSUM_ALGORITHM"] = "SHA256"
    return S3Store.from_url(url, config=config, client_options=client, retry_config=_RETRY)


def _credentials() -> Mapping[str, str]:
    """What the named file says, which counts more than the environment; nothing where none is named."""
    if not (named := os.environ.get(CREDENTIALS)):
        return {}
    file = Path(named)
    try:
        with file.open(encoding="utf-8") as opened:
            if stat.S_IMODE(os.fstat(opened.fileno()).st_mode) & 0o077:
                raise UnusableCredentials(file, "others may read or write it")
            lines = [line.strip() for line in opened]
    except (OSError, UnicodeDecodeError) as exc:
        raise UnusableCredentials(file, getattr(exc, "strerror", None) or type(exc).__name__) from None
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    if any(name not in _IN_FILE or not value for name, _, value in pairs):
        raise UnusableCredentials(file, f"a line is not NAME=value with one of {', '.join(sorted(_IN_FILE))}")
    return {name: value for name, _, value in pairs}


def local_objects(folder: Path) -> ObjectStore:
    """A store in a folder of this machine, such as ``StateDirectory.objects``."""
    from obstore.store import LocalStore

    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ObjectsUnavailable(f"file://{folder}", exc.strerror or type(exc).__name__) from None
    return _Local(LocalStore(folder), folder)


def _checked(key: str) -> str:
    """No key leaves the folder, and no key differs between a file system and a bucket."""
    segments = key.split("/")
    if len(key.encode(errors="replace")) > _MAX_KEY or not key.isprintable() or key != str(PurePosixPath(key)):
        raise InvalidKey(key)
    if any(
        s in ("", ".", "..") or len(s.encode()) > _MAX_SEGMENT or set(s) & set('#%?*[]{}<>|\\"`^~') for s in segments
    ):
        raise InvalidKey(key)
    return key
