"""Quantities as a person writes them in the catalog: a number never stands without its unit.

``Duration`` ("100 ms", "24 h"), ``Ratio`` ("1 %") and ``Memory`` ("512 MiB") parse to plain numbers
in one base unit: seconds, a fraction of 1, and bytes.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_NUMBER = r"(\d+(?:\.\d+)?)"
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def _parse(value: object, units: dict[str, float] | dict[str, int], example: str) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"write a number with its unit, for example {example}")
    if isinstance(value, int | float):
        raise ValueError(f"the unit is missing: write {value} and one of {', '.join(units)}, for example {example}")
    match = re.fullmatch(_NUMBER + r"\s*([A-Za-z%]+)", value.strip())
    if match is None or match[2] not in units:
        raise ValueError(f"write a number and one of the units {', '.join(units)}, for example {example}")
    return float(match[1]) * units[match[2]]


def parse_duration(value: object) -> float:
    """Seconds from text such as ``100 ms``; zero is refused, it is never meant."""
    seconds = _parse(value, _SECONDS, "100 ms")
    if seconds <= 0:
        raise ValueError("must be longer than 0")
    return seconds


def parse_ratio(value: object) -> float:
    """A fraction of 1 from text such as ``1 %``; refused above 100 %."""
    ratio = _parse(value, {"%": 0.01}, "1 %")
    if ratio > 1:
        raise ValueError("more than 100 % cannot be: write a share between 0 % and 100 %")
    return ratio


def parse_memory(value: object) -> int:
    """Bytes from text such as ``512 MiB``."""
    return int(_parse(value, _BYTES, "512 MiB"))


def _text_duration(seconds: float) -> str:
    for unit, size in reversed(_SECONDS.items()):
        if seconds >= size and abs(seconds / size - round(seconds / size, 3)) < 1e-9:
            return f"{round(seconds / size, 3):g} {unit}"
    return f"{seconds * 1000:g} ms"


def _text_memory(size: int) -> str:
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size % _BYTES[unit] == 0 and size >= _BYTES[unit]:
            return f"{size // _BYTES[unit]} {unit}"
    return f"{size} B"


def _schema(pattern_units: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": rf"^\d+(\.\d+)?\s*({pattern_units})$", "examples": [example]})


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(_text_duration, return_type=str),
    _schema("|".join(_SECONDS), "100 ms"),
]
Ratio = Annotated[
    float,
    BeforeValidator(parse_ratio),
    PlainSerializer(lambda ratio: f"{round(ratio * 100, 6):g} %", return_type=str),
    _schema("%", "1 %"),
]
Memory = Annotated[
    int,
    BeforeValidator(parse_memory),
    PlainSerializer(_text_memory, return_type=str),
    _schema("|".join(_BYTES), "512 MiB"),
]
