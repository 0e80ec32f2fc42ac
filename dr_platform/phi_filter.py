"""What a text must contain before a pattern can match in it, read from the pattern itself.

A dozen substring searches cost a tenth of a pattern's own scan. The condition is necessary, never
sufficient: it may let a pattern run in vain, and never keeps one from a match. Not here: the patterns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from re import _constants as sre  # ty: ignore[unresolved-import]
from re import _parser as parser  # ty: ignore[unresolved-import]
from typing import Any

_DIGIT_CODES = frozenset(range(ord("0"), ord("9") + 1))
_DIGIT = re.compile("[0-9]")
_MOST_WORDS = 64
"""Searching for more words than this costs more than the pattern."""
_LIKE_ASCII = {0x130: "i", 0x131: "i", 0x17F: "s", 0x212A: "k"}
"""Letters that case-insensitive patterns hold equal to an ASCII letter, and that `lower` keeps apart."""


@dataclass(frozen=True)
class Need:
    """A match contains a digit, where ``digit``, and one of ``words`` (lower case), where there are any."""

    digit: bool = False
    words: frozenset[str] = frozenset()

    def met(self, looked_at: LookedAt) -> bool:
        if self.digit and not looked_at.has_digit:
            return False
        return not self.words or any(word in looked_at.folded for word in self.words)


class LookedAt:
    """A text as conditions see it."""

    __slots__ = ("folded", "has_digit")

    def __init__(self, text: str) -> None:
        self.folded = text.lower() if text.isascii() else text.translate(_LIKE_ASCII).lower()
        self.has_digit = _DIGIT.search(text) is not None


def need_of(pattern: re.Pattern[str]) -> Need:
    """The condition of a compiled pattern; the empty one where nothing is known."""
    return _sequence(parser.parse(pattern.pattern, pattern.flags))


def _sequence(nodes: Iterable[Any]) -> Need:
    """All elements of a sequence are in the text, one of which is the most telling."""
    needs = [_run_need(run) if isinstance(run, str) else _node(*run) for run in _runs(nodes)]
    digit = any(need.digit for need in needs)
    told = [need.words for need in needs if need.words]
    return Need(digit, min(told, key=_cost) if told else frozenset())


def _cost(words: frozenset[str]) -> tuple[int, int]:
    """Few and long words say most."""
    return len(words), -min(map(len, words))


def _runs(nodes: Iterable[Any]) -> Iterable[Any]:
    """Neighbouring letters as one text."""
    text = ""
    for op, value in nodes:
        if op is sre.LITERAL and value < 128:
            text += chr(value)
            continue
        if text:
            yield text
            text = ""
        yield op, value
    if text:
        yield text


def _run_need(text: str) -> Need:
    return Need(any(char.isdigit() for char in text), frozenset({text.lower()}))


def _node(op: Any, value: Any) -> Need:
    if op is sre.SUBPATTERN:
        return _sequence(value[3])
    if op is sre.BRANCH:
        return _branches([_sequence(branch) for branch in value[1]])
    if op in (sre.MAX_REPEAT, sre.MIN_REPEAT):
        return _sequence(value[2]) if value[0] > 0 else Need()
    if op is sre.ASSERT and value[0] > 0:  # what must follow is in the text as well
        return _sequence(value[1])
    if op is sre.IN:
        return Need(digit=_only_digits(value))
    return Need()


def _branches(needs: list[Need]) -> Need:
    digit = all(need.digit for need in needs)
    if not all(need.words for need in needs):
        return Need(digit)
    words = _shortest(frozenset().union(*(need.words for need in needs)))
    return Need(digit, words if len(words) <= _MOST_WORDS else frozenset())


def _shortest(words: frozenset[str]) -> frozenset[str]:
    """Without words that another one of them is part of."""
    return frozenset(word for word in words if not any(other != word and other in word for other in words))


def _only_digits(members: Any) -> bool:
    for op, value in members:
        if op is sre.LITERAL and value in _DIGIT_CODES:
            continue
        if op is sre.RANGE and ord("0") <= value[0] and value[1] <= ord("9"):
            continue
        return False
    return True
