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
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

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
_BETWEEN_PARTS = re.compile(r"[\s,.]+")
_DIGIT = re.compile("[0-9]")
_NO_DIGITS = bytes(code for code in range(256) if not ord("0") <= code <= ord("9"))
_MARKS = {holds: f"[{holds.value.replace('-', '_').upper()}]" for holds in Holds}
_PARTED = frozenset({Holds.NAME, Holds.ADDRESS})
"""Classes whose parts identify by themselves."""
_NUMBERED = frozenset(
    {Holds.PHONE, Holds.FAX, Holds.SSN, Holds.ACCOUNT, Holds.HEALTH_PLAN, Holds.MRN, Holds.LICENSE, Holds.DEVICE}
)
_FIELD_WORDS = re.compile(r"[_-]+|(?<=[a-z])(?=[A-Z])")
"""Between the words of a field's name: ``birth_date``, ``zipCode``."""
_FEWEST_DIGITS = 6
_WIDEST_GAP = 4
"""Characters from one digit of a number to the next."""


class Person(NamedTuple):
    """One person: the key that dates are shifted by, and what they are known by in texts, with its marks.
    Made once a person and used for each of their texts."""

    key: str
    words: tuple[tuple[str, str], ...] = ()
    """Folded texts without digits by which the person is named."""
    codes: tuple[tuple[str, str], ...] = ()
    """The same with digits: for texts that have some."""
    numbers: tuple[tuple[str, str], ...] = ()
    """Digits by which the person is known."""

    @classmethod
    def known_by(cls, key: str, known: Iterable[tuple[Holds, str]]) -> Person:
        """From what identifies the person, plain."""
        words: dict[str, str] = {}
        codes: dict[str, str] = {}
        numbers: dict[str, str] = {}
        for holds, value in known:
            mark, told = _MARKS[holds], value.replace("\0", " ")
            for part in _spoken(holds, told):
                folded = part.casefold()
                (words if folded.isalpha() or not _DIGIT.search(folded) else codes)[folded] = mark
            if holds in _NUMBERED and len(number := _digits(told)) >= _FEWEST_DIGITS:
                numbers[number] = mark
        return cls(key, tuple(words.items()), tuple(codes.items()), tuple(numbers.items()))

    @property
    def is_known(self) -> bool:
        return bool(self.words or self.codes)

    def __repr__(self) -> str:
        return f"Person({self.key!r})"


NOBODY = Person("")


def _spoken(holds: Holds, value: str) -> Iterator[str]:
    text = (value if value.isascii() else unicodedata.normalize("NFKC", value)).strip()
    if text:
        yield text
    if holds in _PARTED:
        for part in _BETWEEN_PARTS.split(text):
            if len(part) >= _SHORTEST_WORD and not part.isdigit() and part.casefold() not in _COMMON:
                yield part


def _digits(text: str) -> str:
    """Its ASCII digits."""
    return text.encode("ascii", "replace").translate(None, _NO_DIGITS).decode()


_COMMON = frozenset({"street", "avenue", "road", "lane", "drive", "court", "apt", "the", "and", "van", "von", "del"})


class TextMasker:
    """Stateless but for its detector; one may be shared."""

    def __init__(self, detector: PhiDetector | None = None) -> None:
        self._detector = detector or PhiDetector()

    def mask(self, text: str, person: Person = NOBODY) -> str:
        """The text with ``[NAME]``, ``[PHONE]``, … in place of what identifies."""
        return self._mask(text, person, 0)

    def mask_all(self, texts: Sequence[str], people: Sequence[Person]) -> list[str]:
        """The same as ``mask`` of each text and its person, for a fraction of what that costs."""
        masked = list(texts)
        coded = _with_runs(texts)
        words: list[int] = []
        for i, text in enumerate(texts):
            if len(text) > MAX_CHARACTERS or i in coded or _may_be_document(text):
                masked[i] = self._mask(text, people[i], 0)
            elif len(text) > 1:
                words.append(i)
        found = self._words([texts[i] for i in words], [people[i] for i in words])
        for i, text in zip(words, found, strict=True):
            masked[i] = text
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
        words, spans = list(texts), [_NO_SPANS] * len(texts)
        for i, person in enumerate(people):
            if person.is_known:
                words[i], spans[i] = _known(person, words[i])
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
    return not first.isalnum() and (first in _OPENING or first.isspace())


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


def _known(person: Person, text: str) -> tuple[str, list[Span]]:
    """Where the person stands in the text, which may come back in another normal form. Searched for by
    hand: a pattern would have to be compiled for each person, which costs more than a hundred messages."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    folded = text.casefold()
    if len(folded) != len(text):  # ß and its like: places in the one are not those in the other
        text = folded
    spans: list[Span] = []
    digits = _digits(folded)
    for needle, mark in person.words:
        if needle in folded:
            spans += _named(folded, needle, mark)
    if digits:
        for needle, mark in person.codes:
            if needle in folded:
                spans += _named(folded, needle, mark)
        spans += _numbered(text, digits, person.numbers)
    return text, spans


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
