"""Whether a live schema is still what its newest migration left.

Here: the comparison. Not here: reading either side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOST_SHOWN = 6


@dataclass(frozen=True)
class Drift:
    """Lines of a shape that are there and were not left, and the other way round."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)

    def describe(self) -> str:
        """Names alone: what stands behind them may be long."""
        lines = [*(f"+ {_name(line)}" for line in self.added), *(f"- {_name(line)}" for line in self.removed)]
        rest = f" and {len(lines) - MOST_SHOWN} more" if len(lines) > MOST_SHOWN else ""
        return "; ".join(lines[:MOST_SHOWN]) + rest


def drift(left: Sequence[str], live: Sequence[str]) -> Drift:
    """From the shape that a step left to the one there is now."""
    before, now = set(left), set(live)
    return Drift(tuple(sorted(now - before)), tuple(sorted(before - now)))


def _name(line: str) -> str:
    return " ".join(line.split()[:8])
