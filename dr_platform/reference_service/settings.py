"""What a replica is told from outside, as one value.

Here: command line and environment. Not here: the catalog (``topology``) and secrets.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SETTING_PREFIX = "DRP_SETTING_"


def _number(settings: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(settings.get(name, default))
    except ValueError:  # the catalog takes any text; a service falls back to the documented figure
        return default


@dataclass(frozen=True)
class Identity:
    """Which replica this is. ``process`` differs for every start."""

    service: str
    version: str
    slot: str
    port: int
    process: str
    environment: str
    runtime: str
    config_hash: str = ""

    @property
    def place(self) -> str:
        return f"{self.slot}-{self.port}"


@dataclass(frozen=True)
class Paths:
    """Folders of the environment's state that a service uses."""

    root: Path
    catalog: Path = Path("catalog")
    """Of the platform, which may change while the service runs."""

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def faults(self) -> Path:
        return self.root / "faults"

    @property
    def own(self) -> Path:
        """Files of the reference service: the topology's snapshot and what services without a
        database keep."""
        return self.root / "reference-service"


@dataclass(frozen=True)
class Settings:
    """The production ConfigMap's performance settings, as this environment sets them."""

    values: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        return cls(
            {
                key.removeprefix(SETTING_PREFIX).lower(): value
                for key, value in environment.items()
                if key.startswith(SETTING_PREFIX)
            }
        )

    @property
    def max_connections(self) -> int:
        return max(1, int(_number(self.values, "max_connections_per_service", 100)))

    @property
    def cache_ttl_s(self) -> int:
        return max(1, int(_number(self.values, "cache_ttl_seconds", 3600)))

    @property
    def request_timeout_s(self) -> float:
        return max(0.1, _number(self.values, "request_timeout_seconds", 30))

    @property
    def confidence_threshold(self) -> float:
        return _number(self.values, "confidence_threshold", 0.7)
