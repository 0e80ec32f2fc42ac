"""What loading asks of every engine, and what may go wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from dr_platform.errors import PlatformError, TemporaryFailure
from dr_platform.synthetic.rows import Block

Counts = Mapping[str, int]
"""Rows per table, collection or kind of key."""


class Loader(Protocol):
    """Puts blocks into one database. Rows have fixed keys, so a block that was loaded in part, or
    twice, or by two processes at once, is there once."""

    def load(self, block: Block) -> Counts:
        """Return when the server has taken all of it. Raises ``LoadFailed`` and ``LoadRefused``."""


class LoadFailed(TemporaryFailure):
    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.what = f"{name} did not take a block of synthetic data: {reason}"
        self.untouched = "blocks that were taken before; they are recorded"
        self.next_step = f"see `drp logs {name}`, then repeat the command: it goes on where it was"


class LoadRefused(PlatformError):
    """The server answered that it will not take these rows: trying again would get the same answer."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.what = f"{name} refuses a block of synthetic data: {reason}"
        self.untouched = "blocks that were taken before; they are recorded"
        self.next_step = (
            "bring the schema up to date with `drp materialize schema`, then repeat; it goes on where it was"
        )
