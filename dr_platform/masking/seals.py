"""Fields that services encrypted, opened with the source's keys and sealed with staging's.

Here: keys as values that can be handed to a process, and reading the place a service bound a field to.
Not here: the cipher itself (``reference_service.cipher``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from dr_platform.clock import SystemClock
from dr_platform.masking.classification import Seal
from dr_platform.reference_service.cipher import PHI_CATEGORY, PHI_SECRET, FieldCipher, Place, make_key
from dr_platform.secrets.port import Fields, SecretMetadata, SecretStore, SecretsUnavailable


@dataclass(frozen=True)
class KeyRing:
    """Every version of an environment's PHI key, as a store that only reads."""

    versions: Mapping[int, Fields] = field(repr=False)

    @classmethod
    def of(cls, secrets: SecretStore) -> KeyRing:
        """All versions that are kept; makes the first one where there is none."""
        secrets.ensure(PHI_SECRET, make_key, category=PHI_CATEGORY)
        metadata = secrets.metadata(PHI_SECRET)
        newest = metadata.version if metadata else 1
        found = {n: fields for n in range(1, newest + 1) if (fields := secrets.read_version(PHI_SECRET, n)) is not None}
        return cls(found)

    @property
    def newest(self) -> int:
        return max(self.versions)

    def read(self, name: str) -> Fields | None:
        return self.versions[self.newest] if name == PHI_SECRET else None

    def read_version(self, name: str, version: int) -> Fields | None:
        return self.versions.get(version) if name == PHI_SECRET else None

    def metadata(self, name: str) -> SecretMetadata | None:
        return SecretMetadata(name, PHI_CATEGORY, self.newest, datetime.min.replace(tzinfo=UTC))

    def ensure(self, name: str, make: Callable[[], Fields], *, category: str) -> Fields:
        del name, make, category
        return self.versions[self.newest]

    def names(self, prefix: str = "") -> tuple[str, ...]:
        return tuple(name for name in (PHI_SECRET,) if name.startswith(prefix))

    def write(self, name: str, fields: Fields, *, category: str, expected: int | None) -> int:
        del name, fields, category, expected
        raise SecretsUnavailable("keys of a masking run", "they are only read")

    def delete(self, name: str) -> None:
        del name
        raise SecretsUnavailable("keys of a masking run", "they are only read")

    def cipher(self) -> FieldCipher:
        return FieldCipher(self, SystemClock())


def place_of(seal: Seal, row: Mapping[str, Any]) -> Place:
    """Where the value of this row stands. ``{column}`` is the row's value, ``{column_tail}`` what follows
    its last colon."""
    values = _Values(row)
    return Place(seal.table.format_map(values), seal.field, seal.row.format_map(values))


class _Values(dict[str, str]):
    def __init__(self, row: Mapping[str, Any]) -> None:
        super().__init__()
        self._row = row

    def __missing__(self, key: str) -> str:
        name = key.removesuffix("_tail")
        value = str(self._row.get(key, self._row.get(name, "")))
        return value.rpartition(":")[2] if name != key and key not in self._row else value
