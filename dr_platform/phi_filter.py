"""What a text must contain before a pattern can match in it, read from the pattern itself.

A substring search costs a tenth of a pattern's own scan, and one search serves all patterns that need the
word. The condition is necessary, never sufficient: it may let a pattern run in vain, and never keeps one
from a match. Not here: the patterns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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
_WORD = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_WORD_CODES = frozenset(map(ord, _WORD))
_SPACED = str.maketrans({chr(code): " " for code in range(128) if chr(code) not in _WORD})
_NOT_DIGITS = str.maketrans({chr(code): " " for code in range(128) if not _ZERO <= code <= _NINE})
_OTHER = re.compile(r"[^0-9a-z_]")


@dataclass(frozen=True)
class Need:
    """A match contains so many digits, so many of them in a row, so many letters and digits in a row, and
    one of the words, where there are any: ``words`` as ``spaced`` writes them, ``exact`` as they are."""

    digits: int = 0
    run: int = 0
    token: int = 0
    words: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()

    def met(self, looked_at: LookedAt) -> bool:
        if not self.long_enough(looked_at):
            return False
        # Not a generator: the search of all words then never returns to the interpreter.
        if self.words and any(map(looked_at.spaced.__contains__, self.words)):
            return True
        if self.exact:
            return any(map(looked_at.text.__contains__, self.exact))
        return not self.words

    def long_enough(self, looked_at: LookedAt) -> bool:
        return self.digits <= looked_at.digits and self.run <= looked_at.run and self.token <= looked_at.token

    @property
    def cost(self) -> float:
        """How likely one of the words is in any text: long ones are rare, from five letters on alike."""
        return sum(10.0 ** -min(len(word), 5) for word in (*self.words, *self.exact))


class LookedAt:
    """A text as conditions see it."""

    __slots__ = ("digits", "run", "spaced", "text", "token")

    def __init__(self, text: str) -> None:
        self.text = text
        self.spaced = spaced(text)
        self.digits = self.run = self.token = 0
        if digits := self.spaced.translate(_NOT_DIGITS).split():
            self.digits, self.run = sum(map(len, digits)), max(map(len, digits))
            self.token = max(map(len, self.spaced.split()))


def spaced(text: str) -> str:
    """In lower case, with a space in front, behind, and for everything that is no ASCII letter, digit or
    underscore: a whole word is one between spaces."""
    if text.isascii():
        return f" {text.lower()} ".translate(_SPACED)
    return f" {_OTHER.sub(' ', text.translate(_LIKE_ASCII).lower())} "


class Conditions:
    """The conditions of many patterns, looked up together: each word is searched for once."""

    def __init__(self, needs: Sequence[Need], digits: int) -> None:
        """For texts of so many digits, or of more where no need asks for more."""
        self._needs = needs
        able = [(i, need) for i, need in enumerate(needs) if need.digits <= digits]
        self._always = [i for i, need in able if not (need.words or need.exact)]
        self._by_word = _by_word((need.words, i) for i, need in able)
        self._by_sign = _by_word((need.exact, i) for i, need in able)
        self._inside = [word for word in self._by_word if word[0] != " "]
        leading = [word[1:] for word in self._by_word if word[0] == " "]
        # What is looked for stands ahead of what is read, so that two words may overlap.
        self._words = re.compile(f" (?=({_any_of(leading)}))")
        self._led = {word: [w for w in leading if word.startswith(w)] for word in leading}

    def met(self, looked_at: LookedAt) -> list[int]:
        """Places of the needs that the text meets, in order."""
        found = self._always.copy()
        for longest in self._words.findall(looked_at.spaced):
            for word in self._led[longest]:
                found += self._by_word[f" {word}"]
        for word in filter(looked_at.spaced.__contains__, self._inside):
            found += self._by_word[word]
        for sign in filter(looked_at.text.__contains__, self._by_sign):
            found += self._by_sign[sign]
        return sorted({i for i in found if self._needs[i].long_enough(looked_at)}) if found else found


def _any_of(words: Iterable[str]) -> str:
    """A pattern of which each character is read once, whatever the number of words; the longest one counts."""
    tree: dict[str, Any] = {}
    for word in words:
        place = tree
        for sign in word:
            place = place.setdefault(sign, {})
        place[""] = {}
    return _branching(tree)


def _branching(tree: dict[str, Any]) -> str:
    ways = [re.escape(sign) + _branching(below) for sign, below in tree.items() if sign]
    joined = f"(?:{'|'.join(ways)})" if ways else ""
    return f"{joined}?" if "" in tree and ways else joined


def _by_word(needs: Iterable[tuple[tuple[str, ...], int]]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for words, place in needs:
        for word in words:
            found[word] = (*found.get(word, ()), place)
    return found


def need_of(pattern: re.Pattern[str]) -> Need:
    """The condition of a compiled pattern; the empty one where nothing is known."""
    nodes = parser.parse(pattern.pattern, pattern.flags)
    need = _sequence(nodes, bool(pattern.flags & re.IGNORECASE), _Edges())
    return need if need.digits else replace(need, token=0)  # conditions on tokens are those of codes


@dataclass(frozen=True)
class _Edges:
    """Whether a word begins where a part of a pattern begins, and ends where it ends."""

    begins: bool = False
    ends: bool = False


def _sequence(nodes: Iterable[Any], any_case: bool, edges: _Edges) -> Need:
    """All elements of a sequence are in the text; the most telling of them is kept."""
    consumed = ahead = 0
    told: list[Need] = []
    nodes = list(nodes)
    for op, value, within in _runs(nodes, edges):
        need = _letters(value, any_case, within) if op is None else _node(op, value, any_case, within)
        if op is sre.ASSERT:  # what is looked at ahead may be the same digits that follow
            ahead = max(ahead, need.digits)
        else:
            consumed += need.digits
        told.append(need)
    best = min((need for need in told if need.words or need.exact), key=lambda need: need.cost, default=Need())
    run = max([_in_a_row(nodes, _only_digits), *(need.run for need in told)])
    token = max([_in_a_row(nodes, _only_word), *(need.token for need in told)])
    return Need(max(consumed, ahead), run, token, best.words, best.exact)


def _runs(nodes: Sequence[Any], edges: _Edges) -> Iterable[tuple[Any, Any, _Edges]]:
    """Neighbouring letters as texts, under no operator: ``this[ \\t]is`` is one of two."""
    texts: tuple[str, ...] = ("",)
    begins = edges.begins
    for place, (op, value) in enumerate(nodes):
        signs = _signs(op, value)
        if signs and len(texts) * len(signs) <= _MOST_SPELLINGS:
            texts = tuple(dict.fromkeys(text + sign for text in texts for sign in signs))
            continue
        if texts != ("",):
            yield None, texts, _Edges(begins, _word_ends(op, value))
            begins = all(text[-1:] and text[-1] not in _WORD for text in texts)
            texts = ("",)
        last = place + 1 == len(nodes)
        yield op, value, _Edges(begins, edges.ends if last else _word_ends(*nodes[place + 1]))
        begins = _word_begins(op, value) or (begins and op in (sre.ASSERT, sre.ASSERT_NOT))
    if texts != ("",):
        yield None, texts, _Edges(begins, edges.ends)


def _signs(op: Any, value: Any) -> tuple[str, ...]:
    """The ASCII characters of which one stands here, where they are few; with the empty one, if none must."""
    if op is sre.MAX_REPEAT and value[:2] == (0, 1) and len(value[2]) == 1:
        once = _signs(*value[2][0])
        return (*once, "") if once else ()
    members = [(op, value)] if op is sre.LITERAL else value if op is sre.IN else []
    if not 0 < len(members) <= _MOST_SIGNS or any(kind is not sre.LITERAL or code > 127 for kind, code in members):
        return ()
    return tuple(chr(code) for _, code in members)


def _word_begins(op: Any, value: Any) -> bool:
    """Whether behind this no letter, digit or underscore stands before."""
    if op in (sre.MAX_REPEAT, sre.MIN_REPEAT) and value[0] > 0:
        return _word_begins(*value[2][-1])
    if op is sre.SUBPATTERN and len(value[3]):
        return _word_begins(*value[3][-1])
    return _no_word(op, value) or (op is sre.ASSERT_NOT and value[0] < 0 and _every_word(value[1]))


def _word_ends(op: Any, value: Any) -> bool:
    """Whether before this no letter, digit or underscore follows."""
    if op is sre.ASSERT and value[0] > 0 and len(value[1]) == 1:
        return _no_word(*value[1][0])
    return _no_word(op, value) or (op is sre.ASSERT_NOT and value[0] > 0 and _every_word(value[1]))


def _no_word(op: Any, value: Any) -> bool:
    """Whether one character is read, which is no letter, digit or underscore."""
    listed = [(op, value)] if op is sre.LITERAL else value if op is sre.IN else []
    known = all(kind in (sre.LITERAL, sre.RANGE) for kind, _ in listed)
    return bool(listed) and known and not any(chr(code) in _WORD for code in _members(listed))


def _every_word(nodes: Any) -> bool:
    """Whether the single character that must not be there may be any letter, digit or underscore, and so none is."""
    branches = nodes[0][1][1] if len(nodes) == 1 and nodes[0][0] is sre.BRANCH else [nodes]
    sets = [branch[0][1] for branch in branches if len(branch) == 1 and branch[0][0] is sre.IN]
    return any(_members(listed) >= _WORD_CODES for listed in sets)


def _members(listed: Any) -> set[int]:
    found: set[int] = set()
    for op, value in listed:
        found |= {value} if op is sre.LITERAL else set(range(value[0], value[1] + 1)) if op is sre.RANGE else set()
    return found


def _letters(texts: tuple[str, ...], any_case: bool, edges: _Edges) -> Need:
    digits = min(len(_DIGIT.findall(text)) for text in texts)
    if not any_case or not all(any(sign.isalpha() for sign in text) for text in texts):
        return Need(digits, exact=_shortest(texts)) if all(texts) else Need(digits)
    words = (spaced(text)[not edges.begins : None if edges.ends else -1] for text in texts)
    return Need(digits, words=_shortest(words))


def _node(op: Any, value: Any, any_case: bool, edges: _Edges) -> Need:
    if op is sre.SUBPATTERN:
        _, added, removed, inner = value
        case = (any_case or bool(added & re.IGNORECASE)) and not removed & re.IGNORECASE
        return _sequence(inner, case, edges)
    if op is sre.BRANCH:
        return _branches([_sequence(branch, any_case, edges) for branch in value[1]])
    if op in (sre.MAX_REPEAT, sre.MIN_REPEAT) and value[0] > 0:
        once = _sequence(value[2], any_case, _Edges())
        return replace(once, digits=once.digits * value[0])
    if op is sre.ASSERT and value[0] > 0:  # what must follow is in the text as well
        return _sequence(value[1], any_case, _Edges(edges.begins))
    if op is sre.IN:
        return Need(digits=int(_only_digits(value)))
    return Need()


def _branches(needs: list[Need]) -> Need:
    shared = Need(*(min(getattr(need, name) for need in needs) for name in ("digits", "run", "token")))
    if not all(need.words or need.exact for need in needs):
        return shared
    words = _shortest(word for need in needs for word in need.words)
    exact = _shortest(word for need in needs for word in need.exact)
    return replace(shared, words=words, exact=exact) if len(words) + len(exact) <= _MOST_WORDS else shared


def _shortest(words: Iterable[str]) -> tuple[str, ...]:
    """Without words that another one of them is part of."""
    every = sorted(set(words))
    return tuple(word for word in every if not any(other != word and other in word for other in every))


def _in_a_row(nodes: Iterable[Any], belongs: Any) -> int:
    """How many characters of a kind follow each other in every match of the sequence."""
    longest = current = 0
    for op, value in nodes:
        if op in (sre.ASSERT, sre.ASSERT_NOT, sre.AT):
            continue
        once = [(op, value)]
        count = 1
        if op in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            count, once = value[0], list(value[2])
        members = once[0][1] if len(once) == 1 and once[0][0] is sre.IN else once
        is_member = len(once) == 1 and once[0][0] in (sre.IN, sre.LITERAL) and belongs(members)
        current = current + count if is_member else 0
        longest = max(longest, current)
    return longest


def _only_digits(members: Any) -> bool:
    return _only(members, range(_ZERO, _NINE + 1))


def _only_word(members: Any) -> bool:
    return _only(members, _WORD_CODES)


def _only(members: Any, codes: Any) -> bool:
    if any(op not in (sre.LITERAL, sre.RANGE) for op, _ in members):
        return False
    return all(code in codes for code in _members(members))
