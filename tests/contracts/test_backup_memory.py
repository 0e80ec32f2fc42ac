"""The engine of the tests keeps the promises of the port too."""

from __future__ import annotations

import pytest

from tests.backups import MemoryEngine, memory_engine
from tests.contracts.backup_engine import BackupEngineContract

pytestmark = pytest.mark.contract


class TestMemoryEngine(BackupEngineContract):
    @pytest.fixture
    def engine(self) -> MemoryEngine:
        return memory_engine()

    def add_row(self, engine: MemoryEngine) -> None:
        engine.server.databases["live"]["patients"] = [*engine.server.databases["live"]["patients"], "another"]

    def live_name(self, engine: MemoryEngine) -> str:
        return "live"

    def remove_database(self, engine: MemoryEngine, name: str) -> None:
        del engine.server.databases[name]
