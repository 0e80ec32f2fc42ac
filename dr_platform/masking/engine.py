"""What an engine's part of a masking run is given.

Here: the two databases, their classes, steps and keys. Not here: what an engine does with them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from dr_platform.databases.port import SchemaStep
from dr_platform.masking.classification import Classification
from dr_platform.masking.port import Access
from dr_platform.masking.seals import KeyRing


class Engine(ABC):
    """What every engine's part of ``EngineMasking`` is given."""

    def __init__(
        self,
        source: Access,
        target: Access,
        known: Classification,
        steps: Sequence[SchemaStep],
        opened: KeyRing,
        sealing: KeyRing,
    ) -> None:
        self.name = source.name
        self._source_access, self._target_access = source, target
        self._known, self._steps = known, steps
        self._opened, self._sealing = opened, sealing
        self._open()

    @property
    def into(self) -> str:
        return self._target_access.endpoint.database

    @abstractmethod
    def _open(self) -> None:
        """Connect."""
