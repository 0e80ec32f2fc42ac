"""What supervisord is asked to keep alive, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Program:
    """One supervised program; its group has the same name.

    ``argv`` may contain ``%(process_num)d``, which is ``first_number`` and counts up with each of
    the ``replicas``: replicas get their port by it. No secret is ever in ``argv`` or
    ``environment``, because both are written to files and visible to ``ps``: programs read
    secrets themselves.
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None
    user: str | None = None
    replicas: int = 1
    first_number: int = 0
    start_s: float = 2.0
    """An end within this time counts as a failed start; later ends are restarted for ever."""
    stop_s: float = 10.0
    """SIGKILL follows the stop signal after this time."""
    stop_signal: str = "TERM"
    priority: int = 500
    """Low numbers start first and stop last."""
