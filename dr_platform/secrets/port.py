"""The port through which secrets are kept: small named maps of text, with versions.

Here: the promises and the errors. Not here: where secrets lie (``embedded``, ``vault``), when they
are rotated (``rotation``), or who may read them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from dr_platform.errors import ExitCode, PlatformError, TemporaryFailure

Fields = Mapping[str, str]
"""Field name to secret value, such as ``{"username": …, "password": …}``. Never logged."""


@dataclass(frozen=True)
class SecretMetadata:
    """All that may be shown of a secret."""

    name: str
    category: str
    version: int
    created_at: datetime


class SecretStore(Protocol):
    """Named secrets such as ``databases/postgres/admin``, changed by compare-and-swap.

    Names are lower-case path segments joined by ``/`` (``check_name``); others raise
    ``InvalidSecretName``. An outage raises ``SecretsUnavailable`` and is never reported as "no such
    secret".
    """

    def read(self, name: str) -> Fields | None:
        """The newest version, or ``None`` where there is none."""

    def read_version(self, name: str, version: int) -> Fields | None:
        """One version, also an earlier one: what was encrypted under a rotated key is opened with
        it. ``None`` where that version was never written or is no longer kept."""

    def write(self, name: str, fields: Fields, *, category: str, expected: int | None) -> int:
        """Store a new version and return its number. ``expected`` is the version that was read,
        ``None`` creates; another current version raises ``StaleSecret`` and changes nothing.
        Durable when it returns."""

    def ensure(self, name: str, make: Callable[[], Fields], *, category: str) -> Fields:
        """What is stored, else what ``make`` returns, stored. Of several callers at once all get
        the same fields."""

    def metadata(self, name: str) -> SecretMetadata | None: ...

    def names(self, prefix: str = "") -> tuple[str, ...]:
        """Sorted names that start with ``prefix``."""

    def delete(self, name: str) -> None:
        """Remove all versions; a name that does not exist is no error."""


_NAME = re.compile(r"[a-z0-9]+(?:[_-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[_-]+[a-z0-9]+)*)*")
_NAME_LENGTH = 200  # names become file names, which end at 255 bytes


def check_name(name: str) -> str:
    """The name itself where it is one: ``a-z``, digits, inner ``-`` and ``_``, segments joined by
    ``/``, at most 200 characters. So no name can leave the store's folder or path."""
    if len(name) > _NAME_LENGTH or not _NAME.fullmatch(name):
        raise InvalidSecretName(name)
    return name


class InvalidSecretName(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.what = f"{name[:80]!r} is not the name of a secret"
        self.untouched = "every stored secret"
        self.next_step = "use lower-case segments joined by slashes, such as databases/postgres/admin"


class StaleSecret(PlatformError):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.what = f"secret {name}: a change was refused, it was changed after it was read"
        self.untouched = f"the stored secret {name}"
        self.next_step = "read it again and repeat the change if it is still wanted"


class SecretsUnavailable(TemporaryFailure):
    def __init__(self, store: str, reason: str) -> None:
        super().__init__(store, reason)
        self.what = f"the secret store ({store}) cannot be used: {reason}"
        self.untouched = "every stored secret"
        self.next_step = "see `drp doctor`; repeat when the store answers"
