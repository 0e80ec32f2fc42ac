"""Free text without its people: what is known of the person, what looks like an identifier, and both
inside JSON and base64.

Here: from a text to a text. Not here: whose text it is (``people``), and finding identifiers by shape
(``dr_platform.phi``). What neither knowledge nor shape gives away stays: see ``docs/masking.md``.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ahocorasick_rs import BytesAhoCorasick

from dr_platform.masking.classification import Holds
from dr_platform.phi import MAX_CHARACTERS, PhiDetector

_DEEPEST = 4
"""Of text in JSON in base64 in JSON …; what is nested deeper is removed whole."""
DATA = "[DATA]"
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_=-])[A-Za-z0-9+/_-]{16,}={0,2}(?![A-Za-z0-9+/_=-])")
_RUN = b"x" * 16
_RUNS = bytes(ord("x" if code < 128 and _BASE64.fullmatch(chr(code) * 16) else " ") for code in range(256))
_RUN_AT = re.compile(_RUN + b"+")
_OPENING = frozenset('{["')
_BLOB = 64
"""Base64 of this length that is no text may be a picture or a recording, and goes."""
_SHORTEST_WORD = 3
"""Shorter parts of a name are words of the language too; whole names are found whatever their length."""
_DIGIT = re.compile("[0-9]")
_NO_DIGITS = bytes(code for code in range(256) if not ord("0") <= code <= ord("9"))
_SEPARATOR = "\x1e"
_NO_MARKS = _NO_DIGITS.translate(None, b"@" + _SEPARATOR.encode())
_APART = bytes(code if code < 128 and chr(code).isalnum() else ord(" ") for code in range(256))
_MARKS = {holds: f"[{holds.value.replace('-', '_').upper()}]" for holds in Holds}
_PARTED = frozenset({Holds.NAME, Holds.ADDRESS})
"""Classes whose parts identify by themselves."""
_NUMBERED = frozenset(
    {Holds.PHONE, Holds.FAX, Holds.SSN, Holds.ACCOUNT, Holds.HEALTH_PLAN, Holds.MRN, Holds.LICENSE, Holds.DEVICE}
)
_FIELD_WORDS = re.compile(r"[_-]+|(?<=[a-z])(?=[A-Z])")
"""Between the words of a field's name: ``birth_date``, ``zipCode``."""
_FEWEST_DIGITS = 6
_MOST_WORDS, _MOST_SIGNS = 200_000, 16
_WIDEST_GAP = 4
"""Characters from one digit of a number to the next."""


class Known(NamedTuple):
    """What a person is known by in texts, with its marks."""

    words: tuple[tuple[str, str], ...] = ()
    """Folded texts without digits by which the person is named."""
    codes: tuple[tuple[str, str], ...] = ()
    """The same with digits: for texts that have some."""
    numbers: tuple[tuple[str, str], ...] = ()
    """Digits by which the person is known."""

    @classmethod
    def of(cls, identifiers: Iterable[tuple[Holds, str]]) -> Known:
        """From what identifies the person, plain."""
        words: dict[str, str] = {}
        codes: dict[str, str] = {}
        numbers: dict[str, str] = {}
        for holds, value in identifiers:
            mark, told = _MARKS[holds], value.replace("\0", " ")
            text = (told if told.isascii() else unicodedata.normalize("NFKC", told)).strip()
            for part in (text, *_parts(text)) if holds in _PARTED else (text,):
                folded = part.casefold()
                (words if folded.isalpha() or not _DIGIT.search(folded) else codes)[folded] = mark
            if holds in _NUMBERED and len(number := _digits(told)) >= _FEWEST_DIGITS:
                numbers[number] = mark
        words.pop("", None)
        return cls(tuple(words.items()), tuple(codes.items()), tuple(numbers.items()))


_NOTHING = Known()


class Person:
    """One person: the key that dates are shifted by, and what they are known by. Most texts name nobody, so
    what is kept sealed is opened for the first text that may."""

    __slots__ = ("_known", "_opened", "key")

    def __init__(self, key: str, known: Known | int = _NOTHING, opened: Callable[[int], Known] | None = None) -> None:
        """``known`` may be a place, of which ``opened`` tells what is kept there."""
        self.key, self._known, self._opened = key, known, opened

    @classmethod
    def known_by(cls, key: str, known: Iterable[tuple[Holds, str]]) -> Person:
        """From what identifies the person, plain."""
        return cls(key, Known.of(known))

    @property
    def known(self) -> Known:
        if isinstance(self._known, int):
            self._known = self._opened(self._known) if self._opened else _NOTHING
        return self._known

    @property
    def is_known(self) -> bool:
        return isinstance(self._known, int) or bool(self._known.words or self._known.codes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Person) and (self.key, self.known) == (other.key, other.known)

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"Person({self.key!r})"


NOBODY = Person("")


def _parts(name: str) -> list[str]:
    """Parts that identify by themselves."""
    return [
        part
        for part in name.replace(",", " ").replace(".", " ").split()
        if len(part) >= _SHORTEST_WORD and not part.isdigit() and part.casefold() not in _COMMON
    ]


def _digits(text: str) -> str:
    """Its ASCII digits."""
    return text.encode("ascii", "replace").translate(None, _NO_DIGITS).decode()


_COMMON = frozenset({"street", "avenue", "road", "lane", "drive", "court", "apt", "the", "and", "van", "von", "del"})


class Crowd:
    """Words of which one stands in every text that names any of many people: what has none of them is not
    searched for the person it belongs to.

    A text with ``@``, or with as many digits as a number has, may always name somebody, so that addresses and
    numbers, of which everybody has their own, need not be among the words.
    """

    def __init__(self) -> None:
        self._words: set[str] = set()
        self._signs: set[str] = set()
        """What has no word: a dash in place of a name, or a name in other letters."""
        self._search: Callable[..., Any] | None = None

    def add(self, people: Iterable[Known]) -> list[str]:
        """What tells of these people and was not there yet."""
        words = {text for known in people for text, _ in known.words}
        codes = (text for known in people for text, _ in known.codes if not _has_marks(text))
        return self.take({word for text in words.union(codes) if (word := _telling(text)) is not None})

    def take(self, telling: Collection[str]) -> list[str]:
        """What ``add`` of another crowd gave; of it, what is new."""
        if self.is_everywhere:
            return []
        words = {word for word in telling if word.isascii() and word.isalnum()}
        new = [*(words - self._words), *(set(telling) - words - self._signs)]
        self._words |= words
        self._signs |= set(telling) - words
        self._search = None
        return new

    @property
    def is_everywhere(self) -> bool:
        """Whether it takes more to know which texts to search than to search all of them."""
        return len(self._words) > _MOST_WORDS or len(self._signs) > _MOST_SIGNS

    def named_in(self, texts: Sequence[str]) -> Collection[int]:
        """Places of those that may name somebody."""
        if self.is_everywhere:
            return range(len(texts))
        joined = _SEPARATOR.join(texts)
        if not joined.isascii():
            texts = [text.casefold() for text in texts]
            joined = _SEPARATOR.join(texts)
        written = joined.encode("ascii", "replace")
        ends = list(itertools.accumulate(len(text) + 1 for text in texts))
        found = {bisect_right(ends, at) for at in self._words_at(written)}
        marks = written.translate(None, _NO_MARKS).split(_SEPARATOR.encode())
        if len(marks) != len(texts):
            marks = [text.encode("ascii", "replace").translate(None, _NO_MARKS) for text in texts]
        found |= {place for place, some in enumerate(marks) if some and (len(some) >= _FEWEST_DIGITS or b"@" in some)}
        if any(map(joined.__contains__, self._signs)):
            found |= {place for place, text in enumerate(texts) if any(map(text.__contains__, self._signs))}
        return found

    def _words_at(self, written: bytes) -> list[int]:
        if not self._words:
            return []
        if self._search is None:
            whole = [f" {word} ".encode() for word in sorted(self._words)]
            self._search = BytesAhoCorasick(whole).find_matches_as_indexes
        plain = b" %b " % written.lower().translate(_APART)
        return [at for _, at, _ in self._search(plain, overlapping=True)]


class Everybody(Crowd):
    """Of whom nothing is known: every text may name one of them."""

    @property
    def is_everywhere(self) -> bool:
        return True


def _has_marks(text: str) -> bool:
    return "@" in text or len(_digits(text)) >= _FEWEST_DIGITS


def _telling(text: str) -> str | None:
    """The longest word of a folded text, or itself where it has none."""
    if _has_marks(text):
        return None
    words = text.encode("ascii", "replace").translate(_APART).split()
    return max(words, key=len).decode() if words else text


class TextMasker:
    """Stateless but for its detector; one may be shared."""

    def __init__(self, crowd: Crowd | None = None) -> None:
        """``crowd`` has all people whose texts are masked."""
        self._detector, self._crowd = PhiDetector(), crowd or Everybody()

    def mask(self, text: str, person: Person = NOBODY) -> str:
        """The text with ``[NAME]``, ``[PHONE]``, … in place of what identifies."""
        return self._mask(text, person, 0)

    def mask_all(self, texts: Sequence[str], people: Sequence[Person]) -> list[str]:
        """The same as ``mask`` of each text and its person, for a fraction of what that costs."""
        nested = _with_runs(texts)
        nested.update(i for i, text in enumerate(texts) if not text[:1].isalnum() and _may_be_document(text))
        sizes = [len(text) for text in texts]
        if sizes and not 1 < min(sizes) <= max(sizes) <= MAX_CHARACTERS:
            nested.update(i for i, size in enumerate(sizes) if not 1 < size <= MAX_CHARACTERS)
        if not nested:
            return self._words(texts, people)
        plain = [i for i in range(len(texts)) if i not in nested]
        masked = list(texts)
        for i, text in zip(plain, self._words([texts[i] for i in plain], [people[i] for i in plain]), strict=True):
            masked[i] = text
        for i in nested:
            masked[i] = self._mask(texts[i], people[i], 0)
        return masked

    def _mask(self, text: str, person: Person, depth: int) -> str:
        if len(text) < 2:
            return text
        if depth >= _DEEPEST:
            return DATA
        if _may_be_document(text):
            document = _parsed(text)
            if document is not None:
                masked = self._document(document, person, depth)
                return text if masked == document else json.dumps(masked, ensure_ascii=False)
        if _with_runs((text,)):
            text = _BASE64.sub(lambda m: self._decoded(m[0], person, depth), text)
        parts = list(_portions(text))
        return "".join(self._words(parts, [person] * len(parts)))

    def _words(self, texts: Sequence[str], people: Sequence[Person]) -> list[str]:
        """What is known and what is found by shape are marked together, so that a name inside an address
        does not leave the rest of the address behind."""
        words = list(texts)
        if not all(map(str.isascii, texts)):
            for i, text in enumerate(texts):
                if not text.isascii() and people[i].is_known:
                    words[i] = _normal(text)
        spans = [_NO_SPANS] * len(words)
        for i in self._crowd.named_in(words):
            if people[i].is_known:
                spans[i] = _named_by(people[i].known, words[i])
        marked: list[int] = []
        for i, detected in enumerate(self._detector.detect_all(words)):
            if detected:
                spans[i] = [*spans[i], *((span.start, span.end, f"[{span.kind}]") for span in detected)]
            if spans[i]:
                words[i] = "".join(_marked(words[i], spans[i]))
                marked.append(i)
        for i, redacted in zip(marked, self._detector.redact_all([words[i] for i in marked]), strict=True):
            words[i] = redacted
        return words

    def _document(self, value: Any, person: Person, depth: int, name: str = "") -> Any:
        """``name`` is that of the field in which the value stands, or the list that it is in."""
        if isinstance(value, dict):
            return {self._mask(k, person, depth + 1): self._document(v, person, depth, k) for k, v in value.items()}
        if isinstance(value, list):
            return [self._document(one, person, depth, name) for one in value]
        if isinstance(value, str):
            return self._announced(name, self._mask(value, person, depth + 1))
        if isinstance(value, int | float) and not isinstance(value, bool):
            written = repr(value)
            (masked,) = self._words((written,), (person,)) if len(written) >= _FEWEST_DIGITS else (written,)
            masked = self._announced(name, masked)
            return value if masked == written else masked
        return value

    def _announced(self, name: str, text: str) -> str:
        """A field's name says what its value is, as a cue word in a text does: ``{"mrn": "A-17"}``."""
        cue = f"{_FIELD_WORDS.sub(' ', name).strip()}: "
        if cue == ": " or len(cue) + len(text) > MAX_CHARACTERS:
            return text
        spans = [
            (max(span.start, len(cue)), span.end, f"[{span.kind}]")
            for span in self._detector.detect(cue + text)
            if span.end > len(cue)
        ]
        return "".join(_marked(cue + text, spans))[len(cue) :] if spans else text

    def _decoded(self, run: str, person: Person, depth: int) -> str:
        """The same run, or what it becomes: text is masked inside, what else may be anything goes."""
        standard = run.replace("-", "+").replace("_", "/")
        try:
            raw = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
            inner = raw.decode()
        except (binascii.Error, UnicodeDecodeError):
            return DATA if len(run) >= _BLOB else run
        if not _is_text(inner):
            return DATA if len(run) >= _BLOB else run
        masked = self._mask(inner, person, depth + 1)
        return run if masked == inner else base64.b64encode(masked.encode()).decode()


def _may_be_document(text: str) -> bool:
    first = text[:1]
    return first in _OPENING or first.isspace()


def _with_runs(texts: Sequence[str]) -> set[int]:
    """Places of texts with so many characters of base64 in a row: a hundredth of what the pattern costs."""
    runs = "\n".join(texts).encode("ascii", "replace").translate(_RUNS)
    if _RUN not in runs:
        return set()
    ends = list(itertools.accumulate(len(text) + 1 for text in texts))
    return {bisect_right(ends, match.start()) for match in _RUN_AT.finditer(runs)}


def _is_text(text: str) -> bool:
    return all(char.isprintable() or char in "\r\n\t" for char in text)


Span = tuple[int, int, str]
_NO_SPANS: list[Span] = []


def _normal(text: str) -> str:
    """The form in which people are searched for in a text that is not ASCII, which is then masked in this form."""
    text = unicodedata.normalize("NFKC", text)
    folded = text.casefold()
    return text if len(folded) == len(text) else folded  # ß and its like: places in the one are not those in the other


def _named_by(known: Known, text: str) -> list[Span]:
    """Where the person stands in the text. Searched for by hand: a pattern would have to be compiled for each
    person, which costs more than a hundred messages."""
    folded = text.casefold()
    spans: list[Span] = []
    digits = _digits(folded)
    for needle, mark in known.words:
        if needle in folded:
            spans += _named(folded, needle, mark)
    if digits:
        for needle, mark in known.codes:
            if needle in folded:
                spans += _named(folded, needle, mark)
        spans += _numbered(text, digits, known.numbers)
    return spans


def _named(folded: str, needle: str, mark: str) -> Iterator[Span]:
    start = folded.find(needle)
    while start >= 0:
        end = start + len(needle)
        if not (_inside_word(folded, start) or _inside_word(folded, end)):
            yield start, end, mark
        start = folded.find(needle, start + 1)


def _inside_word(text: str, at: int) -> bool:
    return 0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum()


def _numbered(text: str, digits: str, numbers: Iterable[tuple[str, str]]) -> Iterator[Span]:
    """The person's numbers, whatever stands between their digits, which are all that the text has."""
    for number, mark in numbers:
        if number not in digits:
            continue
        at = [match.start() for match in _DIGIT.finditer(text)]
        first = digits.find(number)
        while first >= 0:
            last = first + len(number) - 1
            places = at[first : last + 1]
            if all(b - a <= _WIDEST_GAP for a, b in itertools.pairwise(places)):
                yield at[first], at[last] + 1, mark
            first = digits.find(number, first + 1)


def _marked(text: str, spans: Iterable[Span]) -> Iterator[str]:
    end = 0
    for start, stop, mark in sorted(spans, key=lambda span: (span[0], -span[1])):
        if start >= end:
            yield text[end:start]
            yield mark
        end = max(end, stop)
    yield text[end:]


def _portions(text: str) -> Iterable[str]:
    """At most what a detector takes, cut between paragraphs or else between words."""
    while len(text) > MAX_CHARACTERS:
        cut = max(text.rfind("\n", 0, MAX_CHARACTERS), text.rfind(" ", MAX_CHARACTERS // 2, MAX_CHARACTERS))
        cut = cut if cut > 0 else MAX_CHARACTERS
        yield text[:cut]
        text = text[cut:]
    yield text


def _parsed(text: str) -> Any:
    """The document, or ``None`` where the text is none (or is the word null)."""
    if not text.strip().startswith(("{", "[", '"')):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
