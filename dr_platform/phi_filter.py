"""What a text must contain before a pattern can match in it, read from the pattern itself.

A dozen substring searches cost a tenth of a pattern's own scan. The condition is necessary, never
sufficient: it may let a pattern run in vain, and never keeps one from a match. Not here: the patterns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from re import _constants as sre  # ty: ignore[missing-module-member]
from re import _parser as parser  # ty: ignore[missing-module-member]
from typing import Any

_ZERO, _NINE = ord("0"), ord("9")
_DIGIT = re.compile("[0-9]")
_MOST_WORDS = 64
"""Searching for more words than this costs more than the pattern."""
_MOST_SIGNS = 3
_MOST_SPELLINGS = 9
_LIKE_ASCII = {0x130: "i", 0x131: "i", 0x17F: "s", 0x212A: "k"}
"""Letters that case-insensitive patterns hold equal to an ASCII letter, and that `lower` keeps apart."""


@dataclass(frozen=True)
class Need:
    """A match contains so many digits, and one of the words, where there are any: ``words`` in any case
    (they are lower case), ``exact`` as they are."""

    digits: int = 0
    words: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()

    def met(self, looked_at: LookedAt) -> bool:
        if self.digits > looked_at.digits:
            return False
        # Not a generator: the search of all words then never returns to the interpreter.
        if self.words and any(map(looked_at.folded.__contains__, self.words)):
            return True
        if self.exact:
            return any(map(looked_at.text.__contains__, self.exact))
        return not self.words

    @property
    def cost(self) -> float:
        """How likely one of the words is in any text: long ones are rare, from five letters on alike."""
        return sum(10.0 ** -min(len(word), 5) for word in (*self.words, *self.exact))


class LookedAt:
    """A text as conditions see it."""

    __slots__ = ("digits", "folded", "text")

    def __init__(self, text: str) -> None:
        # Tabs become spaces here and in words alike, which halves the spellings to look for.
        self.text = text.replace("\t", " ")
        self.folded = self.text.lower() if text.isascii() else self.text.translate(_LIKE_ASCII).lower()
        self.digits = len(_DIGIT.findall(text))


def need_of(pattern: re.Pattern[str]) -> Need:
    """The condition of a compiled pattern; the empty one where nothing is known."""
    return _sequence(parser.parse(pattern.pattern, pattern.flags), bool(pattern.flags & re.IGNORECASE))


def _sequence(nodes: Iterable[Any], any_case: bool) -> Need:
    """All elements of a sequence are in the text; the most telling of them is kept."""
    consumed = ahead = 0
    told: list[Need] = []
    for op, value in _runs(nodes):
        need = _letters(value, any_case) if op is None else _node(op, value, any_case)
        if op is sre.ASSERT:  # what is looked at ahead may be the same digits that follow
            ahead = max(ahead, need.digits)
        else:
            consumed += need.digits
        if need.words or need.exact:
            told.append(need)
    best = min(told, key=lambda need: need.cost) if told else Need()
    return Need(max(consumed, ahead), best.words, best.exact)


def _runs(nodes: Iterable[Any]) -> Iterable[tuple[Any, Any]]:
    """Neighbouring letters as texts, under no operator: ``this[ \\t]is`` is one of two."""
    texts: tuple[str, ...] = ("",)
    for op, value in nodes:
        signs = _signs(op, value)
        if signs and len(texts) * len(signs) <= _MOST_SPELLINGS:
            texts = tuple(text + sign for text in texts for sign in signs)
            continue
        if texts != ("",):
            yield None, texts
            texts = ("",)
        yield op, value
    if texts != ("",):
        yield None, texts


def _signs(op: Any, value: Any) -> tuple[str, ...]:
    """The ASCII characters of which one stands here, where they are few."""
    members = [(op, value)] if op is sre.LITERAL else value if op is sre.IN else []
    if not 0 < len(members) <= _MOST_SIGNS or any(kind is not sre.LITERAL or code > 127 for kind, code in members):
        return ()
    return tuple(chr(code) for _, code in members)


def _letters(texts: tuple[str, ...], any_case: bool) -> Need:
    digits = min(len(_DIGIT.findall(text)) for text in texts)
    texts = tuple(text.replace("\t", " ") for text in texts)
    return Need(digits, words=_shortest(map(str.lower, texts))) if any_case else Need(digits, exact=_shortest(texts))


def _node(op: Any, value: Any, any_case: bool) -> Need:
    if op is sre.SUBPATTERN:
        _, added, removed, inner = value
        return _sequence(inner, (any_case or bool(added & re.IGNORECASE)) and not removed & re.IGNORECASE)
    if op is sre.BRANCH:
        return _branches([_sequence(branch, any_case) for branch in value[1]])
    if op in (sre.MAX_REPEAT, sre.MIN_REPEAT) and value[0] > 0:
        once = _sequence(value[2], any_case)
        return Need(once.digits * value[0], once.words, once.exact)
    if op is sre.ASSERT and value[0] > 0:  # what must follow is in the text as well
        return _sequence(value[1], any_case)
    if op is sre.IN:
        return Need(digits=int(_only_digits(value)))
    return Need()


def _branches(needs: list[Need]) -> Need:
    digits = min(need.digits for need in needs)
    if not all(need.words or need.exact for need in needs):
        return Need(digits)
    words = _shortest(word for need in needs for word in need.words)
    exact = _shortest(word for need in needs for word in need.exact)
    return Need(digits, words, exact) if len(words) + len(exact) <= _MOST_WORDS else Need(digits)


def _shortest(words: Iterable[str]) -> tuple[str, ...]:
    """Without words that another one of them is part of."""
    every = sorted(set(words))
    return tuple(word for word in every if not any(other != word and other in word for other in every))


def _only_digits(members: Any) -> bool:
    for op, value in members:
        low, high = (value, value) if op is sre.LITERAL else value if op is sre.RANGE else (0, 0)
        if not _ZERO <= low <= high <= _NINE:
            return False
    return True
