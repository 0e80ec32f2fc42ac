"""What every embedded server of a catalog's database is made of, whatever its engine.

Here: its place, address and accounts. Not here: its program, settings and databases.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dr_platform.catalog import Database
from dr_platform.clock import Clock, SystemClock
from dr_platform.databases.embedded.accounts import Account, ensure_account
from dr_platform.databases.port import Endpoint
from dr_platform.secrets.port import SecretStore
from dr_platform.state import StateDirectory


@dataclass(frozen=True)
class CatalogServer:
    """The part of an ``EmbeddedServer`` that is alike for all."""

    database: Database
    state: StateDirectory
    secrets: SecretStore
    port_offset: int = 0
    clock: Clock = field(default_factory=SystemClock)

    @property
    def name(self) -> str:
        return self.database.name

    @property
    def data(self) -> Path:
        return self.state.data / self.name

    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.database.port + self.port_offset, self.database.database)

    def accounts(self) -> tuple[Account, Account]:
        """The administrator's and the application's, made where there are none."""
        return ensure_account(self.secrets, self.name, "admin"), ensure_account(self.secrets, self.name, "application")
