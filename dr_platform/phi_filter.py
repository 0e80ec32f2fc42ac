"""Which patterns may match in which texts, and where, read from the patterns themselves.

One search for the words of all patterns in many texts together costs less than one pattern's scan of a
single text. What comes out is necessary, never sufficient: a pattern may be tried in vain, and no match is
missed. Not here: the patterns.
"""

from __future__ import annotations

import functools
import itertools
import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from re import _constants as sre  # ty: ignore[missing-module-member]
from re import _parser as parser  # ty: ignore[missing-module-member]
from typing import Any, NamedTuple

from ahocorasick_rs import BytesAhoCorasick, Implementation

MAX_CHARACTERS = 1_000_000
"""Longer texts are refused and never half examined; callers split them at paragraphs."""
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

_LIKE_X = bytes(_SPACE if code == _SPACE else ord("x") for code in range(256))
_Match = Callable[[str, int], re.Match[str] | None]
_Leading = tuple[int, _Match]

Candidates = dict[int, list[re.Match[str]] | int]
"""Place of a pattern to all that it may match in the text, overlapping ones included, or to where in the text
its matches begin at the earliest."""


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


class _Askers(NamedTuple):
    """Who asks for a word: patterns that may begin with it, each with its ``match``, and those of which a match
    may stand anywhere in a text that has the word."""

    leading: list[_Leading]
    anywhere: list[tuple[int, int]]
    """With how many characters of a match stand before the word at most."""


class _Words:
    """Words searched for together, also overlapping ones."""

    def __init__(self, ahead: int) -> None:
        """``ahead`` characters stand before the text that is searched."""
        self._ahead = ahead
        self._askers: dict[str, _Askers] = {}

    def of(self, word: str) -> _Askers:
        """To be asked before ``ready``."""
        return self._askers.setdefault(word, _Askers([], []))

    def ready(self) -> None:
        """From now on there is ``search``, and for each word by its number how far behind the place that is found
        it begins, behind the space that leads it, with who asks for it."""
        words = [word.encode() for word in self._askers]
        self.askers = [(-self._ahead + (word[0] == " "), *askers) for word, askers in self._askers.items()]
        self.search = BytesAhoCorasick(words, implementation=Implementation.DFA).find_matches_as_indexes


class Screen:
    """Tells which patterns to try in a text. Every match of a pattern begins at a place told for it."""

    def __init__(self, patterns: Sequence[re.Pattern[str]], needs: Sequence[Need]) -> None:
        self._needs = needs
        self._numbered: list[int] = []
        """Patterns that may begin with a number."""
        self._counted: list[int] = []
        """Patterns that may begin anywhere in a text that has digits enough."""
        self._always: list[int] = []
        self._spoken, self._exact = _Words(1), _Words(0)
        for i, (pattern, need) in enumerate(zip(patterns, needs, strict=True)):
            if (lead := lead_of(pattern)) is not None:
                for word in lead.words:
                    self._spoken.of(word).leading.append((i, pattern.match))
                self._numbered += [i] if lead.by_number else []
            elif need.digits:
                self._counted.append(i)
            elif need.words or need.exact:
                for word in need.words:
                    self._spoken.of(word).anywhere.append((i, MAX_CHARACTERS))
                for word in need.exact:
                    self._exact.of(word).anywhere.append((i, reach_of(pattern, need.exact)))
            else:
                self._always.append(i)
        self._spoken.ready()
        self._exact.ready()
        self._patterns = patterns
        asked = [needs[i] for i in (*self._numbered, *self._counted)]
        self._most = Counts(*(max((getattr(need, of) for need in asked), default=0) for of in Counts._fields))
        self._long = b"x" * max(self._most.token, 1)
        self._enough: dict[tuple[int, ...], _Enough] = {}

    def __call__(self, texts: Sequence[str]) -> dict[int, Candidates]:
        """By place of the text; texts in which nothing can match are left out."""
        begins = [0, *itertools.accumulate(len(text) + 1 for text in texts)]
        joined = "\n".join(texts)
        written = _ascii(joined)
        plain = _spaced(written)
        found: dict[int, Candidates] = {}
        batch = _Batch(texts, written, plain, begins)
        self._try_numbers(batch, found)
        self._try_words(batch, found)
        if self._always:
            for place in range(len(texts)):
                found.setdefault(place, {}).update(dict.fromkeys(self._always, 0))
        if not joined.isascii() and _is_like_ascii(joined):
            every = range(len(self._needs))
            found |= {place: dict.fromkeys(every, 0) for place, text in enumerate(texts) if _is_like_ascii(text)}
        return found

    def _try_words(self, batch: _Batch, found: dict[int, Candidates]) -> None:
        """Add the patterns that match where a word stands, or that ask for a word which a text has."""
        texts, written, plain, begins = batch
        for words, searched in ((self._spoken, plain), (self._exact, written)):
            place = begin = end = 0
            text = ""
            for word, at, _ in words.search(searched, overlapping=True):
                shift, leading, anywhere = words.askers[word]
                start = at + shift - begin
                if not 0 <= start < end:
                    place = bisect_right(begins, at + shift) - 1
                    begin, text = begins[place], texts[place]
                    start, end = at + shift - begin, begins[place + 1] - begin
                for pattern, match in leading:
                    if met := match(text, start):  # tried here, because few do and to note each costs as much
                        _note(pattern, met, found.setdefault(place, {}))
                for pattern, reach in anywhere:
                    candidates = found.setdefault(place, {})
                    candidates[pattern] = min(candidates.get(pattern, start), max(start - reach, 0))

    def _try_numbers(self, batch: _Batch, found: dict[int, Candidates]) -> None:
        """Add the patterns for texts with digits: where one of them matches at a number, and those for which the
        digits are enough."""
        texts, written, plain, begins = batch
        has_long = self._long in plain.translate(_LIKE_X)
        known: dict[tuple[int, ...], _Enough] = {}
        for place, some in _numbers(written, begins).items():
            begin, text = begins[place], texts[place]
            words = plain[begin : begins[place + 1]].split() if has_long else ()
            token = max(map(len, words), default=len(self._long) - 1)
            counted = _counted(some, plain, token)
            enough = known.get(counted) or known.setdefault(counted, self._enough_for(counted))
            for start in _starts(plain, some, begin):
                if first := enough.any_at(text, start):
                    for pattern, match in enough.leading[first_of(first) :]:
                        if met := match(text, start):
                            _note(pattern, met, found.setdefault(place, {}))
            if enough.counted:
                found.setdefault(place, {}).update(dict.fromkeys(enough.counted, 0))

    def _enough_for(self, counts: tuple[int, ...]) -> _Enough:
        capped = tuple(map(min, counts, self._most))
        if capped not in self._enough:
            most = Counts(*capped)
            numbered, counted = (
                tuple(i for i in some if self._needs[i].met(most)) for some in (self._numbered, self._counted)
            )
            some = [self._patterns[i] for i in numbered]
            leading = tuple((i, pattern.match) for i, pattern in zip(numbered, some, strict=True))
            self._enough[capped] = _Enough(leading, any_of(some).match, counted)
        return self._enough[capped]


class _Batch(NamedTuple):
    """Texts, and the same joined: as they are written, and as patterns read them. ``begins`` is where each begins
    in what is joined."""

    texts: Sequence[str]
    written: bytes
    plain: bytes
    begins: Sequence[int]


class _Enough(NamedTuple):
    """The patterns for which the digits of a text are enough."""

    leading: tuple[_Leading, ...]
    """Those that begin with a number."""
    any_at: _Match
    """Whether one of these matches at a place."""
    counted: tuple[int, ...]
    """Those that may match anywhere."""


def _note(pattern: int, match: re.Match[str], candidates: Candidates) -> None:
    known = candidates.setdefault(pattern, [])
    if not isinstance(known, int):
        known.append(match)


_Number = tuple[int, bytes]
"""Where digits and the signs before them stand, and which."""


def _numbers(written: bytes, begins: Sequence[int]) -> dict[int, list[_Number]]:
    """By place of the text."""
    numbers: dict[int, list[_Number]] = {}
    some: list[_Number] = []
    end = behind = 0
    for number in written.translate(_NUMBERS).split():  # a tenth of what a pattern for numbers costs
        first = written.find(number, end)
        end = first + len(number)
        if first >= behind:
            place = bisect_right(begins, first)
            behind, some = begins[place], []
            numbers[place - 1] = some
        some.append((first, number))
    return numbers


def _counted(numbers: Sequence[_Number], plain: bytes, token: int) -> tuple[int, ...]:
    """``Counts`` of a text. ``plain`` is one character ahead."""
    digits = longest = joined = 0
    for first, number in numbers:
        joined += plain[first] != _SPACE
        for run in (number,) if number.isdigit() else number.translate(_SPACED).split():
            size = len(run)
            digits += size
            if size > longest:
                longest = size
    return digits, longest, token, joined


def _starts(plain: bytes, numbers: Sequence[_Number], begin: int) -> list[int]:
    """Where in digits and the signs before them no letter, digit or underscore stands before. ``plain`` is
    one character ahead."""
    starts = []
    for first, number in numbers:
        if plain[first] == _SPACE:
            starts.append(first - begin)
        if not number.isdigit():
            starts += [first - begin + at for at in range(1, len(number)) if number[at - 1] in _SIGNS]
    return starts


_GROUP = re.compile(r"\(\?P(=|<)(\w+)")


def any_of(patterns: Sequence[re.Pattern[str]]) -> re.Pattern[str]:
    """Matches wherever one of them does, which ``first_of`` tells: to try it costs less than to try two of them."""
    alone = []
    for i, pattern in enumerate(patterns):
        named = _GROUP.sub(rf"(?P\1\2_{i}", pattern.pattern)
        alone.append(f"(?P<_{i}>(?{'i' if pattern.flags & re.IGNORECASE else ''}:{named}))")
    return re.compile("|".join(alone) or "(?!)")


def first_of(match: re.Match[str]) -> int:
    """Place of the first pattern that matches there."""
    return int((match.lastgroup or "_0")[1:])


@functools.lru_cache(maxsize=128)
def _parsed(pattern: re.Pattern[str]) -> Any:
    return parser.parse(pattern.pattern, pattern.flags)


def need_of(pattern: re.Pattern[str]) -> Need:
    """The condition of a compiled pattern; the empty one where nothing is known."""
    nodes = _parsed(pattern)
    need = _sequence(nodes, bool(pattern.flags & re.IGNORECASE), _Edges())
    return need if need.digits else replace(need, token=0)  # conditions on tokens are those of codes


def reach_of(pattern: re.Pattern[str], signs: Collection[str]) -> int:
    """How many characters of a match stand before the first that can be one of these signs alone, at most."""
    nodes = _parsed(pattern)
    reach = _reach(nodes, {ord(sign) for sign in signs if len(sign) == 1})
    return MAX_CHARACTERS if reach is None else min(reach, MAX_CHARACTERS)


def _reach(nodes: Any, codes: Collection[int]) -> int | None:
    for place, (op, value) in enumerate(nodes):
        within = None
        if op in (sre.LITERAL, sre.IN):
            within = 0 if _only(value if op is sre.IN else [(op, value)], codes) else None
        elif op is sre.SUBPATTERN:
            within = _reach(value[3], codes)
        elif op is sre.MAX_REPEAT and value[0] > 0:
            within = _reach(value[2], codes)
        if within is not None:
            return nodes[:place].getwidth()[1] + within
    return None


@dataclass(frozen=True)
class Lead:
    """How every match of a pattern begins: with one of the words, as ``spaced`` writes them, or where
    ``by_number`` with a digit or a sign before it. A word that a space leads begins behind that space; no
    letter, digit or underscore stands before the match."""

    words: tuple[str, ...] = ()
    by_number: bool = False


def lead_of(pattern: re.Pattern[str]) -> Lead | None:
    """``None`` where a match may begin with anything, or with what stands everywhere."""
    nodes = _parsed(pattern)
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
    texts, rest = _opening(nodes)
    if not all(texts):
        return None  # where nothing of them must stand, the match begins with what follows, whatever that is
    words = {spaced(text).decode()[not begins : -1] for text in texts}
    further = _led(rest, any_case, begins=False)
    if further is None or len(words) * len(further) > _MOST_SPELLINGS:
        return words
    return {word + more for word in words for more in further}


def _opening(nodes: Sequence[Any]) -> tuple[tuple[str, ...], Sequence[Any]]:
    """The texts of which one begins the sequence, and what follows it."""
    texts: tuple[str, ...] = ("",)
    for place, (op, value) in enumerate(nodes):
        signs = _signs(op, value)
        if not signs or len(texts) * len(signs) > _MOST_SPELLINGS:
            return texts, nodes[place:]
        texts = tuple(dict.fromkeys(text + sign for text in texts for sign in signs))
    return texts, ()


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
