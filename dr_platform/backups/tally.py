"""How many rows were seen, and a fingerprint of them all.

The fingerprint is the sum of the SHA-256 of every row modulo 2**256: equal for equal rows in any order
and cut into any pieces. It finds what is lost, added or altered by accident; against forgery the manifest
is signed.

Here: counting and adding up. Not here: what a row's bytes are, which each engine
defines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

_MODULUS = 2**256


@dataclass
class Tally:
    """Grows row by row."""

    rows: int = 0
    total: int = 0

    def add(self, row: bytes) -> None:
        self.rows += 1
        self.total += int.from_bytes(hashlib.sha256(row).digest(), "big")

    @property
    def fingerprint(self) -> str:
        return f"{self.total % _MODULUS:064x}"


def together(tallies: Iterable[Tally]) -> Tally:
    """The tally of all their rows."""
    whole = Tally()
    for tally in tallies:
        whole.rows += tally.rows
        whole.total += tally.total
    return whole
