"""Quantities as a person writes them in the catalog: a number never stands without its unit.

``Duration`` ("100 ms", "24 h"), ``Ratio`` ("1 %") and ``Memory`` ("512 MiB") parse to plain numbers
in one base unit: seconds, a fraction of 1, and bytes. They serialise to text that parses to the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_NUMBER = r"([0-9]{1,15}(?:\.[0-9]{1,9})?)"
_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "min": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
_PERCENT = {"%": Decimal("0.01")}
_BYTES = {"B": Decimal(1)}
_BYTES |= {f"{prefix}iB": Decimal(1 << 10 * power) for power, prefix in enumerate("KMGT", start=1)}
_BYTES |= {f"{prefix}B": Decimal(1000**power) for power, prefix in enumerate("MGT", start=2)}


def _parse(value: object, units: Mapping[str, Decimal], example: str) -> Decimal:
    """Problems are told without the value: it may be a secret pasted into the wrong field. Decimal,
    because 70 times 0.01 is not 0.7 in binary."""
    remedy = f"write a number and one of the units {', '.join(units)}, for example {example}"
    if not isinstance(value, str):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        raise ValueError(f"{'has no unit' if is_number else 'is not a quantity'}: {remedy}")  # noqa: TRY004 - pydantic's
    match = re.fullmatch(_NUMBER + r"\s*([A-Za-z%µ]*)", value.strip())
    if match is None:
        raise ValueError(f"is not a quantity: {remedy}")
    if match[2] not in units:
        raise ValueError(f"{'has an unknown unit' if match[2] else 'has no unit'}: {remedy}")
    return Decimal(match[1]) * units[match[2]]


def parse_duration(value: object) -> float:
    """Seconds from text such as ``100 ms``; zero is refused, it is never meant."""
    seconds = float(_parse(value, _SECONDS, "100 ms"))
    if seconds <= 0:
        raise ValueError("is no time at all: write more than 0, for example 100 ms")
    return seconds


def parse_ratio(value: object) -> float:
    """A fraction of 1 from text such as ``1 %``; refused above 100 %."""
    ratio = float(_parse(value, _PERCENT, "1 %"))
    if ratio > 1:
        raise ValueError("is more than 100 %: write a share between 0 % and 100 %")
    return ratio


def parse_memory(value: object) -> int:
    """Bytes from text such as ``512 MiB``; less than one is refused, it is never meant."""
    size = int(_parse(value, _BYTES, "512 MiB"))
    if size < 1:
        raise ValueError("is no memory at all: write more than 0, for example 512 MiB")
    return size


def _text(amount: float, units: Mapping[str, Decimal]) -> str:
    """The shortest number from 1 on, in the largest unit, that parses to exactly this amount."""
    written: list[tuple[bool, int, str]] = []
    for unit, size in reversed(list(units.items())):
        number = f"{Decimal(repr(amount)) / size:.9f}".rstrip("0").rstrip(".")
        if Decimal(number) > 0 and float(Decimal(number) * size) == amount:
            written.append((Decimal(number) < 1, len(number), f"{number} {unit}"))
    return min(written, key=lambda option: option[:2], default=(False, 0, f"{amount} {next(iter(units))}"))[2]


def text_duration(seconds: float) -> str:
    """``90 min`` for 5400.0."""
    return _text(seconds, _SECONDS)


def text_memory(size: int) -> str:
    """``512 MiB`` for 536870912."""
    return _text(size, _BYTES)


def text_ratio(ratio: float) -> str:
    """``70 %`` for 0.7."""
    return f"{(Decimal(repr(ratio)) * 100).normalize():f} %"


def _schema(pattern_units: str, example: str) -> WithJsonSchema:
    return WithJsonSchema(
        {"type": "string", "pattern": rf"^[0-9]+(\.[0-9]+)?\s*({pattern_units})$", "examples": [example]}
    )


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(text_duration, return_type=str),
    _schema("|".join(_SECONDS), "100 ms"),
]
Ratio = Annotated[
    float,
    BeforeValidator(parse_ratio),
    PlainSerializer(text_ratio, return_type=str),
    _schema("%", "1 %"),
]
Memory = Annotated[
    int,
    BeforeValidator(parse_memory),
    PlainSerializer(text_memory, return_type=str),
    _schema("|".join(_BYTES), "512 MiB"),
]
