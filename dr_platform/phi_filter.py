"""Which patterns may match in which texts, and where, read from the patterns themselves.

One search for the words of all patterns in many texts together costs less than one pattern's scan of a
single text. What comes out is necessary, never sufficient: a pattern may be tried in vain, and no match is
missed. Not here: the patterns.
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from re import _constants as sre  # ty: ignore[missing-module-member]
from re import _parser as parser  # ty: ignore[missing-module-member]
from typing import Any, NamedTuple

from ahocorasick_rs import BytesAhoCorasick, Implementation

_ZERO, _NINE = ord("0"), ord("9")
_DIGIT = re.compile("[0-9]")
_MOST_WORDS = 64
"""Searching for more words than this costs more than the pattern."""
_MOST_SIGNS = 3
_MOST_SPELLINGS = 9
_LIKE_ASCII = "\u0130\u0131\u017f\u212a"
"""Letters that case-insensitive patterns hold equal to an ASCII letter, and others to none: where one of them
stands, every pattern is tried."""
_WORD = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_WORD_CODES = frozenset(map(ord, _WORD))
_LETTER_CODES = _WORD_CODES - frozenset(range(_ZERO, _NINE + 1))
_SPACED = bytes(code if chr(code) in _WORD else ord(" ") for code in range(256))
_SPACE = ord(" ")
_SIGNS = b"+("
"""With these a number may begin."""
_NUMBER_BEGINS = frozenset(b"0123456789" + _SIGNS)
_NUMBERS = bytes(code if code in _NUMBER_BEGINS else _SPACE for code in range(256))
_SHORTEST_LEAD = 3
_MOST_SHORT_LEADS = 8
"""Shorter words, or more of this length, stand everywhere: asking for another part of the pattern is cheaper."""

_NUMBER = "0"
"""Among words: a digit or a sign before it."""

Candidates = dict[int, list[int] | None]
"""Place of a pattern to where in the text its matches may begin; ``None`` where that is not known."""


@dataclass(frozen=True)
class Need:
    """A match contains so many digits, so many of them in a row, so many letters and digits in a row, so many
    numbers directly behind a letter (none or one), and one of the words, where there are any: ``words`` as
    ``spaced`` writes them, ``exact`` as they are."""

    digits: int = 0
    run: int = 0
    token: int = 0
    words: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()
    joined: int = 0

    def met(self, counts: Counts) -> bool:
        """But for the words."""
        return (
            self.digits <= counts.digits
            and self.run <= counts.run
            and self.token <= counts.token
            and self.joined <= counts.joined
        )

    @property
    def cost(self) -> float:
        """How likely one of the words is in any text: long ones are rare, from five letters on alike."""
        return sum(10.0 ** -min(len(word), 5) for word in (*self.words, *self.exact))


class Counts(NamedTuple):
    """Of a text: how many digits it has, the most of them, and of letters and digits, in a row, and how many
    numbers begin directly behind a letter or an underscore."""

    digits: int = 0
    run: int = 0
    token: int = 0
    joined: int = 0


_NO_DIGITS = Counts()
_NOWHERE: list[int] = []


def spaced(text: str) -> bytes:
    """In lower case, with a space in front, behind, and for everything that is no ASCII letter, digit or
    underscore: a whole word is one between spaces. One byte for each character."""
    return _spaced(_ascii(text))


def _spaced(written: bytes) -> bytes:
    return b" %b " % written.lower().translate(_SPACED)


def _ascii(text: str) -> bytes:
    """One byte for each character, also for one that is not ASCII."""
    return text.encode("ascii", "replace")


def _is_like_ascii(text: str) -> bool:
    return any(map(text.__contains__, _LIKE_ASCII))


class _At(Enum):
    """Where matches of a pattern may begin when a word is found that it asks for."""

    WORD = 1
    NUMBERS = 2
    ANYWHERE = 3


class _Asker(NamedTuple):
    pattern: int
    at: _At


class _Asked(NamedTuple):
    """Who asks for a word, and who of them needs no digits."""

    all: tuple[_Asker, ...]
    by_word_alone: tuple[_Asker, ...]


class _Words:
    """Words searched for together, also overlapping ones."""

    def __init__(self, askers: Mapping[str, Sequence[_Asker]], needs: Sequence[Need], ahead: int) -> None:
        """``ahead`` characters stand before the text that is searched."""
        self._askers = [
            (-ahead + (word[0] == " "), _Asked(tuple(some), tuple(a for a in some if needs[a.pattern].met(_NO_DIGITS))))
            for word, some in askers.items()
        ]
        words = [word.encode() for word in askers]
        self._search = BytesAhoCorasick(words, implementation=Implementation.DFA).find_matches_as_indexes

    def found(self, text: bytes) -> Iterator[tuple[int, _Asked]]:
        """Where words begin, behind the space that leads them, and who asks for them."""
        for word, at, _ in self._search(text, overlapping=True):
            shift, askers = self._askers[word]
            yield at + shift, askers


class Screen:
    """Tells which patterns to try in a text. Every match of a pattern begins at a place told for it."""

    def __init__(self, patterns: Sequence[re.Pattern[str]], needs: Sequence[Need]) -> None:
        self._needs = needs
        self._numbered: list[_Asker] = []
        self._always: list[int] = []
        spoken: dict[str, list[_Asker]] = {}
        exact: dict[str, list[_Asker]] = {}
        for i, (pattern, need) in enumerate(zip(patterns, needs, strict=True)):
            lead = lead_of(pattern)
            telling = bool(need.words) and min(map(len, need.words)) >= _SHORTEST_LEAD
            if lead is not None and (telling or not (lead.words and lead.by_number)):
                _ask(spoken, lead.words, _Asker(i, _At.WORD))
                if lead.by_number and telling:
                    _ask(spoken, need.words, _Asker(i, _At.NUMBERS))
                elif lead.by_number:
                    self._numbered.append(_Asker(i, _At.NUMBERS))
            elif need.digits:
                self._numbered.append(_Asker(i, _At.ANYWHERE))
            elif need.words or need.exact:
                _ask(spoken, need.words, _Asker(i, _At.ANYWHERE))
                _ask(exact, need.exact, _Asker(i, _At.ANYWHERE))
            else:
                self._always.append(i)
        self._spoken, self._exact = _Words(spoken, needs, 1), _Words(exact, needs, 0)
        self._most = Counts(*(max((getattr(need, of) for need in needs), default=0) for of in Counts._fields))
        self._met: dict[Counts, _Met] = {}

    def __call__(self, texts: Sequence[str]) -> dict[int, Candidates]:
        """By place of the text; texts in which nothing can match are left out."""
        begins = [0, *itertools.accumulate(len(text) + 1 for text in texts)]
        joined = "\n".join(texts)
        written = _ascii(joined)
        plain = _spaced(written)
        numbers = self._numbers(written, plain, begins)
        found: dict[int, Candidates] = {}
        for place, (met, starts) in numbers.items():
            if met.numbered or met.anywhere:
                found[place] = dict.fromkeys(met.numbered, starts) | dict.fromkeys(met.anywhere)
        self._ask_words(written, plain, begins, numbers, found)
        if self._always:
            for place in range(len(texts)):
                found.setdefault(place, {}).update(dict.fromkeys(self._always))
        if not joined.isascii() and _is_like_ascii(joined):
            every = range(len(self._needs))
            found |= {place: dict.fromkeys(every) for place, text in enumerate(texts) if _is_like_ascii(text)}
        return found

    def _ask_words(
        self,
        written: bytes,
        plain: bytes,
        begins: Sequence[int],
        numbers: Mapping[int, tuple[_Met, list[int]]],
        found: dict[int, Candidates],
    ) -> None:
        """Add the patterns that ask for a word which a text has."""
        told: set[tuple[int, int]] = set()
        for at, asked in itertools.chain(self._spoken.found(plain), self._exact.found(written)):
            place = bisect_right(begins, at) - 1
            askers, starts = asked.by_word_alone, _NOWHERE
            if place in numbers:
                met, starts = numbers[place]
                askers = [asker for asker in asked.all if asker.pattern in met.patterns]
            if not askers:
                continue
            candidates = found.setdefault(place, {})
            for pattern, begin in askers:
                if begin is _At.ANYWHERE:
                    candidates[pattern] = None
                elif (known := candidates.setdefault(pattern, [])) is not None:
                    if begin is _At.WORD:
                        known.append(at - begins[place])
                    elif (place, pattern) not in told:
                        told.add((place, pattern))
                        known.extend(starts)

    def _numbers(self, written: bytes, plain: bytes, begins: Sequence[int]) -> dict[int, tuple[_Met, list[int]]]:
        """For texts with digits: the patterns for which these are enough, and where numbers begin."""
        numbers: dict[int, list[tuple[int, bytes]]] = {}
        end = 0
        for number in written.translate(_NUMBERS).split():  # a tenth of what a pattern for numbers costs
            first = written.find(number, end)
            end = first + len(number)
            numbers.setdefault(bisect_right(begins, first) - 1, []).append((first, number))
        found = {}
        for place, some in numbers.items():
            begin = begins[place]
            counts = _counted(some, plain, begin, begins[place + 1])
            if counts.digits:
                found[place] = self._met_by(counts), _starts(plain, some, begin)
        return found

    def _met_by(self, counts: Counts) -> _Met:
        capped = Counts(*map(min, counts, self._most))
        if capped not in self._met:
            patterns = frozenset(i for i, need in enumerate(self._needs) if need.met(capped))
            numbered = [asker for asker in self._numbered if asker.pattern in patterns]
            self._met[capped] = _Met(
                patterns,
                tuple(i for i, at in numbered if at is _At.NUMBERS),
                tuple(i for i, at in numbered if at is _At.ANYWHERE),
            )
        return self._met[capped]


class _Met(NamedTuple):
    """The patterns for which the digits of a text are enough."""

    patterns: frozenset[int]
    numbered: tuple[int, ...]
    """Those to be tried wherever a number begins, whatever the words."""
    anywhere: tuple[int, ...]


def _ask(askers: dict[str, list[_Asker]], words: Iterable[str], asker: _Asker) -> None:
    for word in words:
        askers.setdefault(word, []).append(asker)


def _counted(numbers: Sequence[tuple[int, bytes]], plain: bytes, begin: int, end: int) -> Counts:
    """Of the text between two places."""
    digits = longest = joined = 0
    for first, number in numbers:
        joined += plain[first] != _SPACE
        for run in (number,) if number.isdigit() else number.translate(_SPACED).split():
            digits += len(run)
            longest = max(longest, len(run))
    token = max(map(len, plain[begin : end + 1].split())) if digits else 0
    return Counts(digits, longest, token, joined)


def _starts(plain: bytes, numbers: Sequence[tuple[int, bytes]], begin: int) -> list[int]:
    """Where in digits and the signs before them no letter, digit or underscore stands before. ``plain`` is
    one character ahead."""
    starts = []
    for first, number in numbers:
        if plain[first] == _SPACE:
            starts.append(first - begin)
        if not number.isdigit():
            starts += [first - begin + at for at in range(1, len(number)) if number[at - 1] in _SIGNS]
    return starts


def need_of(pattern: re.Pattern[str]) -> Need:
    """The condition of a compiled pattern; the empty one where nothing is known."""
    nodes = parser.parse(pattern.pattern, pattern.flags)
    need = _sequence(nodes, bool(pattern.flags & re.IGNORECASE), _Edges())
    return need if need.digits else replace(need, token=0)  # conditions on tokens are those of codes


@dataclass(frozen=True)
class Lead:
    """How every match of a pattern begins: with one of the words, as ``spaced`` writes them, or where
    ``by_number`` with a digit or a sign before it. A word that a space leads begins behind that space; no
    letter, digit or underscore stands before the match."""

    words: tuple[str, ...] = ()
    by_number: bool = False


def lead_of(pattern: re.Pattern[str]) -> Lead | None:
    """``None`` where a match may begin with anything, or with what stands everywhere."""
    nodes = parser.parse(pattern.pattern, pattern.flags)
    begun = _led(nodes, bool(pattern.flags & re.IGNORECASE), begins=False)
    if begun is None:
        return None
    words = _without_longer(begun - {_NUMBER})
    if any(len(word) < _SHORTEST_LEAD for word in words):
        return None
    if sum(len(word) == _SHORTEST_LEAD for word in words) > _MOST_SHORT_LEADS:
        return None
    return Lead(words, _NUMBER in begun)


def _without_longer(words: Iterable[str]) -> tuple[str, ...]:
    """Without words that begin with another one of them."""
    every = sorted(words)
    return tuple(word for word in every if not any(other != word and word.startswith(other) for other in every))


def _led(nodes: Iterable[Any], any_case: bool, *, begins: bool) -> set[str] | None:
    """Words, or ``_NUMBER``, of which one begins whatever the sequence matches."""
    nodes = list(nodes)
    while nodes and nodes[0][0] in (sre.ASSERT, sre.ASSERT_NOT):
        op, value = nodes.pop(0)
        begins = begins or (op is sre.ASSERT_NOT and value[0] < 0 and _every_word(value[1]))
    if not nodes:
        return None  # an empty match begins with nothing
    op, value = nodes[0]
    if op in (sre.MAX_REPEAT, sre.MIN_REPEAT):
        once = _led(value[2], any_case, begins=begins)
        rest = _led(nodes[1:], any_case, begins=begins) if value[0] == 0 else set()
        return None if once is None or rest is None else once | rest
    if op is sre.SUBPATTERN:
        return _led(
            value[3], (any_case or bool(value[1] & re.IGNORECASE)) and not value[2] & re.IGNORECASE, begins=begins
        )
    if op is sre.BRANCH:
        every = [_led(branch, any_case, begins=begins) for branch in value[1]]
        return {word for led in every for word in led or ()} if all(led is not None for led in every) else None
    if begins and op in (sre.IN, sre.LITERAL) and _only(value if op is sre.IN else [nodes[0]], _NUMBER_BEGINS):
        return {_NUMBER}
    _, texts, _ = next(iter(_runs(nodes, _Edges(begins))))
    return {spaced(text).decode()[not begins : -1] for text in texts} if _signs(op, value) else None


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
    joined = max([_behind_letter(nodes), *(need.joined for need in told)])
    return Need(max(consumed, ahead), run, token, best.words, best.exact, joined)


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
    words = (spaced(text).decode()[not edges.begins : None if edges.ends else -1] for text in texts)
    return Need(digits, words=_shortest(words))


def _node(op: Any, value: Any, any_case: bool, edges: _Edges) -> Need:
    if op is sre.SUBPATTERN:
        return _sequence(value[3], _any_case(any_case, value), edges)
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


def _any_case(outside: bool, group: Any) -> bool:
    _, added, removed, _ = group
    return (outside or bool(added & re.IGNORECASE)) and not removed & re.IGNORECASE


def _branches(needs: list[Need]) -> Need:
    shared = Need(**{name: min(getattr(need, name) for need in needs) for name in Counts._fields})
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


def _behind_letter(nodes: Iterable[Any]) -> int:
    """1 where a digit follows directly upon a letter in every match of the sequence."""
    letter = False
    for op, value in nodes:
        once = list(value[2]) if op in (sre.MAX_REPEAT, sre.MIN_REPEAT) and value[0] > 0 else [(op, value)]
        members = once[0][1] if len(once) == 1 and once[0][0] is sre.IN else once
        if letter and _only_digits(members):
            return 1
        letter = _only(members, _LETTER_CODES)
    return 0


def _only_digits(members: Any) -> bool:
    return _only(members, range(_ZERO, _NINE + 1))


def _only_word(members: Any) -> bool:
    return _only(members, _WORD_CODES)


def _only(members: Any, codes: Any) -> bool:
    if any(op not in (sre.LITERAL, sre.RANGE) for op, _ in members):
        return False
    return all(code in codes for code in _members(members))
