"""Random numbers that belong to rows: each is a function of seed, stream and row number alone.

Nothing is drawn in order, so any range of rows can be made by itself, by any number of processes.
Here: whole numbers and tables of whole numbers. Floating point stays inside the making of a table
and is rounded there, so that the last bit of a machine's mathematics decides nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MILLION = 1_000_000
_QUANTILES = 14
"""Bits: a table has 16,384 entries, so a tail ends at one in 32,768."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64: a bijection of 64 bits that passes statistical tests on counters."""
    bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    return bits ^ (bits >> np.uint64(31))


@cache
def _base(seed: int, stream: str) -> tuple[np.uint64, np.uint64]:
    digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=16).digest()
    return np.uint64(int.from_bytes(digest[:8], "big")), np.uint64(int.from_bytes(digest[8:], "big"))


class Draws:
    """Draws of one seed. ``stream`` names what is drawn, such as ``account/given``."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def bits(self, stream: str, rows: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """64 random bits per row."""
        first, second = _base(self.seed, stream)
        with np.errstate(over="ignore"):
            return _mix(_mix(rows * _GOLDEN + first) ^ second)

    def picks(self, stream: str, rows: NDArray[np.uint64], size: int | NDArray[np.int64]) -> NDArray[np.int64]:
        """0 to ``size`` - 1 per row, evenly; ``size`` below 2**31, one for all rows or one for each."""
        high = self.bits(stream, rows) >> np.uint64(32)
        return ((high * np.asarray(size, dtype=np.uint64)) >> np.uint64(32)).astype(np.int64)

    def chances(self, stream: str, rows: NDArray[np.uint64], per_million: int) -> NDArray[np.bool_]:
        """Whether something of that probability happens."""
        return self.picks(stream, rows, MILLION) < per_million

    def ranked(self, stream: str, rows: NDArray[np.uint64], table: NDArray[np.int64]) -> NDArray[np.int64]:
        """Values distributed as a table of ``lognormal``."""
        return table[(self.bits(stream, rows) >> np.uint64(64 - _QUANTILES)).astype(np.int64)]

    def weighted(self, stream: str, rows: NDArray[np.uint64], bounds: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Positions chosen by weight, with the bounds of ``cumulated``."""
        return np.searchsorted(bounds, self.bits(stream, rows) >> np.uint64(32), side="right").astype(np.int64)

    def uuids(self, stream: str, rows: NDArray[np.uint64]) -> list[str]:
        """Identifiers that anybody recognises as made up: version 8 (RFC 9562, 5.8), first group ``5eed….``"""
        one, two = self.bits(stream, rows), self.bits(f"{stream}'", rows)
        pairs = zip(one.tolist(), two.tolist(), strict=True)
        return [_uuid_text(high, low) for high, low in pairs]


MARK = "5eed"
"""How identifiers of synthetic rows begin."""
LOWEST, HIGHEST = f"{MARK}0000-0000-0000-0000-000000000000", f"{MARK}ffff-ffff-ffff-ffff-ffffffffffff"


def after(mark: str) -> str:
    """The least text above all that begin with ``mark``."""
    return mark[:-1] + chr(ord(mark[-1]) + 1)


def _uuid_text(one: int, two: int) -> str:
    text = f"{one:016x}{two:016x}"
    variant = "89ab"[two >> 62]
    return f"{MARK}{text[:4]}-{text[4:8]}-8{text[8:11]}-{variant}{text[17:20]}-{text[20:32]}"


@cache
def lognormal(median: float, sigma: float, least: int, most: int) -> NDArray[np.int64]:
    """The quantiles of a lognormal distribution as whole numbers within bounds."""
    normal, size = NormalDist(), 1 << _QUANTILES
    values = (median * math.exp(sigma * normal.inv_cdf((at + 0.5) / size)) for at in range(size))
    return np.array([min(most, max(least, round(value))) for value in values], dtype=np.int64)


def cumulated(weights: Sequence[float]) -> NDArray[np.uint64]:
    """Bounds in 32 bits for ``Draws.weighted``."""
    total, sums, so_far = math.fsum(weights), [], 0.0
    for weight in weights:
        so_far += weight
        sums.append(min(2**32, math.floor(so_far / total * 2**32)))
    sums[-1] = 2**32
    return np.array(sums, dtype=np.uint64)


@cache
def zipf(count: int) -> NDArray[np.uint64]:
    """Bounds by which position r is chosen in proportion to 1/(r + 1)."""
    return cumulated([1 / (rank + 1) for rank in range(count)])
