"""Contracts between services: which of them a requirement admits, and which requirements are unmet.

A contract is a whole number that rises with each change that breaks callers. A service provides one
at a time; a requirement names one (``2``), a range without end (``>=2``, ``<4``) or both ends
(``>=2 <4``).

Here: reading a range and comparing. Not here: where contracts are written (``models``), or what a
broken one means for a deployment (``dr_platform.releases``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dr_platform.catalog.models import Contract

_BEYOND = 10_000
"""No contract has this number: they have at most four digits."""


def admitted(requirement: str) -> range:
    """The contracts that a well-formed requirement admits; empty where it contradicts itself."""
    low, high = 1, _BEYOND
    for part in requirement.split():
        if part.startswith(">="):
            low = int(part[2:])
        elif part.startswith("<"):
            high = int(part[1:])
        else:
            low, high = int(part), int(part) + 1
    return range(low, high)


def admits(requirement: str, provided: str | None) -> bool:
    """Whether a requirement is met by what is provided; ``None``, nothing, meets none."""
    return provided is not None and int(provided) in admitted(requirement)


def unmet(contracts: Mapping[str, Contract]) -> Iterator[tuple[str, str]]:
    """Pairs of a service and another one that does not provide what the first requires. A service
    that is not among ``contracts`` provides nothing."""
    for name, contract in contracts.items():
        for needed, requirement in contract.requires.items():
            provider = contracts.get(needed)
            if not admits(requirement, provider.provides if provider else None):
                yield name, needed
