"""Finding identifiers of patients in text by their shape and by the words before them.

The eighteen classes are those of 45 CFR 164.514(b)(2)(i), (A) to (R). What a pattern can find is
found permissively: a wrong checksum or an impossible area number never hides a match, a right one
only raises its confidence, because a mistyped number still identifies somebody.

What this cannot find, by construction: names and places that no cue word announces ("Maria called
from Rockford"), spelled-out numbers, free descriptions, biometrics (P), photographs (Q). So it is a
second line behind not putting patients' text into logs and evidence at all; it never proves that a
text is free of PHI. Recall and precision per kind, measured, are in ``docs/phi-detection.md``.

Patterns have bounded repetitions and no nested unbounded ones, so the time is linear in the text.
"""

# ruff: noqa: E501 - a pattern broken over several lines is harder to check than a long line

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from operator import itemgetter, methodcaller
from typing import NamedTuple

from dr_platform.errors import ExitCode, PlatformError
from dr_platform.phi_filter import MAX_CHARACTERS, Candidates, Need, Screen, need_of


class PhiKind(StrEnum):
    """What was found; ``letter`` is its class in 164.514(b)(2)(i)."""

    letter: str

    def __new__(cls, value: str, letter: str) -> PhiKind:
        member = str.__new__(cls, value)
        member._value_ = value
        member.letter = letter
        return member

    NAME = "NAME", "A"
    ADDRESS = "ADDRESS", "B"
    PLACE = "PLACE", "B"
    ZIP = "ZIP", "B"
    BIRTH_DATE = "BIRTH_DATE", "C"
    DATE = "DATE", "C"
    AGE = "AGE", "C"
    """Over 89 only; younger ages may stay."""
    PHONE = "PHONE", "D"
    FAX = "FAX", "E"
    EMAIL = "EMAIL", "F"
    SSN = "SSN", "G"
    MRN = "MRN", "H"
    HEALTH_PLAN = "HEALTH_PLAN", "I"
    ACCOUNT = "ACCOUNT", "J"
    CARD = "CARD", "J"
    LICENSE = "LICENSE", "K"
    VEHICLE = "VEHICLE", "L"
    DEVICE = "DEVICE", "M"
    URL = "URL", "N"
    IP = "IP", "O"
    OTHER_ID = "OTHER_ID", "R"


class PhiSpan(NamedTuple):
    """``text[start:end]`` is probably PHI. ``confidence`` orders findings (0 to 1): from 0.8 on there
    is a cue word, a valid checksum or an unmistakable shape; below 0.5 a bare number of fitting
    length. It is not a measured probability."""

    start: int
    end: int
    kind: PhiKind
    confidence: float


class TextTooLong(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, characters: int) -> None:
        super().__init__(characters)
        self.what = f"a text of {characters} characters was not examined for PHI; {MAX_CHARACTERS} is the limit"
        self.untouched = "the text, of which nothing was examined"
        self.next_step = "split it at paragraphs and examine the parts"


class PhiDetector:
    """Stateless, so one may be shared. All methods raise ``TextTooLong`` only."""

    def detect(self, text: str) -> tuple[PhiSpan, ...]:
        """Disjoint spans in order. Where findings overlap, the span covers all of them and has the
        kind of the most confident one."""
        return self.detect_all((text,))[0]

    def detect_all(self, texts: Sequence[str]) -> list[tuple[PhiSpan, ...]]:
        """The same as ``detect`` of each text, for a fraction of what that costs."""
        for text in texts:
            if len(text) > MAX_CHARACTERS:
                raise TextTooLong(len(text))
        return [spans for part in _portions(texts) for spans in _detected(part)]

    def redact(self, text: str) -> str:
        """The text with ``[KIND]`` in place of every span. Nothing is detected in the result."""
        return self.redact_all((text,))[0]

    def redact_all(self, texts: Sequence[str]) -> list[str]:
        """The same as ``redact`` of each text."""
        redacted = list(texts)
        # A replacement changes what stands beside the rest, which may then match: repeat until
        # nothing does. It ends, because no pattern matches a bracket and so none a replacement.
        left: Sequence[int] = range(len(redacted))
        while left:
            found = zip(left, self.detect_all([redacted[i] for i in left]), strict=True)
            changed = [(i, spans) for i, spans in found if spans]
            for i, spans in changed:
                redacted[i] = "".join(_pieces(redacted[i], spans))
            left = [i for i, _ in changed]
        return redacted


def redact(text: str) -> str:
    """``PhiDetector().redact(text)``."""
    return PhiDetector().redact(text)


def _pieces(text: str, spans: tuple[PhiSpan, ...]) -> Iterator[str]:
    end = 0
    for span in spans:
        yield text[end : span.start]
        yield f"[{span.kind}]"
        end = span.end
    yield text[end:]


_PLACE = itemgetter(0, 1)
_START = methodcaller("start")


def _portions(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Texts together as long as one may be, so that memory does not grow with their number."""
    first = characters = 0
    for place, text in enumerate(texts):
        if characters + len(text) > MAX_CHARACTERS:
            yield texts[first:place]
            first, characters = place, 0
        characters += len(text)
    yield texts[first:]


def _detected(texts: Sequence[str]) -> list[tuple[PhiSpan, ...]]:
    spans: list[tuple[PhiSpan, ...]] = [()] * len(texts)
    for place, candidates in _screen()(texts).items():
        if found := _found(texts[place], candidates):
            spans[place] = tuple(_merged(sorted(found, key=_PLACE)))
    return spans


def _found(text: str, candidates: Candidates) -> list[PhiSpan]:
    found: list[PhiSpan] = []
    rules = _rules()
    for place in sorted(candidates):
        rule, matches = rules[place], candidates[place]
        for match in rule.pattern.finditer(text, matches) if isinstance(matches, int) else _apart(matches):
            start, end = match.span("value")
            confidence = rule.judge(text[start:end]) if rule.judge else rule.confidence
            if confidence > 0:
                found.append(PhiSpan(start, end, rule.kind, confidence))
    return found


def _apart(matches: list[re.Match[str]]) -> list[re.Match[str]]:
    """Those that ``finditer`` would have given."""
    if len(matches) == 1:
        return matches
    found: list[re.Match[str]] = []
    end = 0
    for match in sorted(matches, key=_START):
        if match.start() >= end:
            found.append(match)
            end = match.end()
    return found


def _merged(ordered: list[PhiSpan]) -> Iterator[PhiSpan]:
    current: PhiSpan | None = None
    for span in ordered:
        if current is None or span.start >= current.end:
            if current is not None:
                yield current
            current = span
        else:
            surer = max(current, span, key=lambda s: s.confidence)
            current = PhiSpan(current.start, max(current.end, span.end), surer.kind, surer.confidence)
    if current is not None:
        yield current


# Judgements: the confidence of a value that already has the right shape; 0 says it is something else.


def _digits(value: str) -> list[int]:
    return [int(c) for c in value if c in "0123456789"]


def _luhn(digits: list[int]) -> bool:
    doubled = [d if i % 2 == 0 else d * 2 - 9 * (d > 4) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def _ssn(value: str) -> float:
    """A valid area, group and serial raise it; 987-65-4321 and 078-05-1120 are found all the same."""
    number = "".join(map(str, _digits(value)))
    area, group, serial = number[:3], number[3:5], number[5:]
    possible = area not in {"000", "666"} and area[0] != "9" and group != "00" and serial != "0000"
    return 0.9 if possible else 0.7


def _card(value: str) -> float:
    """One number in ten passes the checksum by chance; times in ms, µs and ns start with 1, cards do not."""
    digits = _digits(value)
    if not _luhn(digits):
        return 0.4
    return 0.95 if digits[0] in (3, 4, 5, 6) else 0.5


def _iban(value: str) -> float:
    compact = value.replace(" ", "").upper()
    number = "".join(str(int(c, 36)) for c in compact[4:] + compact[:4])
    return 0.95 if int(number) % 97 == 1 else 0.5


_LONG = 5


def _after_a_vague_cue(value: str) -> float:
    """ "policy", "chart" or "account" also stand before names and versions of programs."""
    return 0.9 if len(_digits(value)) >= _LONG else 0.5


def _npi(value: str) -> float:
    """A Luhn number behind the prefix 80840 of United States health providers."""
    return 0.95 if _luhn([8, 0, 8, 4, 0, *_digits(value)]) else 0.85


def _dea(value: str) -> float:
    d = _digits(value)
    return 0.9 if (d[0] + d[2] + d[4] + 2 * (d[1] + d[3] + d[5])) % 10 == d[6] else 0.4


_VIN_VALUES = dict(zip("ABCDEFGHJKLMNPRSTUVWXYZ", [*range(1, 9), *range(1, 6), 7, 9, *range(2, 10)], strict=True))
_VIN_WEIGHTS = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)


def _vin(value: str) -> float:
    vin = value.upper()
    if vin.isdigit() or vin.isalpha():
        return 0.0
    weighed = sum(w * (int(c) if c.isdigit() else _VIN_VALUES[c]) for c, w in zip(vin, _VIN_WEIGHTS, strict=True)) % 11
    return 0.95 if vin[8] == ("X" if weighed == 10 else str(weighed)) else 0.5


def _ip(value: str) -> float:
    """Loopback and unspecified addresses belong to nobody."""
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return 0.3 if "." in value else 0.0
    return 0.0 if address.is_loopback or address.is_unspecified else 0.8


_NOT_A_NAME = frozenset(
    """
    a about above after again all also an and any are as at back be been being by calm clear close coming done down feeling
    fine for from full getting going good great had has have her here hers his home how important in into it its just later
    like listed lost missing my never new no nobody none not now of ok okay on one or our out over private ready really right
    safe secret sick so soon sorry still such sure that the their them then there these they this those to today tomorrow
    tonight too tired trying under unknown up upset very was we well were what when where which while who why will with
    withheld wrong yes yet you your name names id ids number numbers record records chart charts
    """.split()  # noqa: SIM905 - a list of a hundred quoted words cannot be read
)


def _spoken_name(value: str) -> float:
    return 0.0 if value.split(maxsplit=1)[0].lower().strip("'’-") in _NOT_A_NAME else 0.85


def _perhaps_a_name(value: str) -> float:
    return min(_spoken_name(value), 0.55)


# Parts of patterns. Every repetition is bounded, and none matches a bracket (see ``redact``).
_BEFORE = r"(?<![0-9A-Za-z_])"
_AFTER = r"(?![0-9A-Za-z_])"
_DASH = "[-‐‑‒–—.  /]"
_GAP = r"(?:[ \t]{0,2}(?:\b(?:numbers?|num|no|nr|id|ids|is|was|are|code|on|at|ends?|ending|in)\b\.?|[.:#=,(*\"'–—-])){0,5}[ \t]{0,3}"
_IDENTIFIER = r"(?=[A-Z/.-]{0,12}[0-9])[A-Z0-9](?:[A-Z0-9]|[ /.-](?=[0-9])|[/.-](?=[A-Z0-9])){2,24}"
_UPPER = "A-ZÀ-ÖØ-ÞĀĂĄĆČĎĐĒĖĘĚĞĢĪĮİĶĹĻĽŁŃŅŇŌŐŒŘŚŞŠŢŤŪŮŰŲŴŶŸŹŻŽ"
_NAME_WORD = rf"[{_UPPER}][^\W\d_]{{0,24}}(?:['’-][^\W\d_]{{1,24}}){{0,2}}"
_NAME_WORDS = rf"(?:[{_UPPER}]\.[ \t]?){{0,2}}{_NAME_WORD}(?:[ \t](?:[{_UPPER}]\.?[ \t])?(?:(?:van|von|de|der|la|di|bin|al)[ \t]){{0,2}}{_NAME_WORD}){{0,3}}"
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|"
    r"sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_ORDINAL = r"[0-3]?[0-9](?:st|nd|rd|th)?"
_YEAR = r"(?:[12][0-9]{3}|['’]?[0-9]{2})"
_DATE_IN_NUMBERS = (
    r"(?:(?:1[89]|20)[0-9]{2}[-/.][01]?[0-9][-/.][0-3]?[0-9]"
    rf"|[0-3]?[0-9](?P<sep%s>[-/.])[0-3]?[0-9](?P=sep%s){_YEAR})"
)
_DATE_IN_WORDS = (
    rf"(?:{_MONTH}[ \t-]{{1,2}}{_ORDINAL}(?:,?[ \t-]{{1,2}}{_YEAR})?"
    rf"|{_ORDINAL}(?:[ \t-]{{1,2}}of)?[ \t-]{{1,2}}{_MONTH}(?:,?[ \t-]{{1,2}}{_YEAR})?)"
)
_PHONE_DIGITS = r"[+(]?[0-9][0-9 ().\-‐‑–—]{5,18}[0-9](?:[ ,]{0,2}(?:x|ext\.?|extension)[ .:]{0,2}[0-9]{1,6})?"
_STATES = (
    "AL|AK|AZ|AR|CA|CO|CT|DE|DC|FL|GA|HI|ID|IL|IN|IA|KS|KY|LA|ME|MD|MA|MI|MN|MS|MO|MT|NE|NV|NH|NJ|NM|NY|NC|ND|OH|OK|"
    "OR|PA|PR|RI|SC|SD|TN|TX|UT|VT|VA|WA|WV|WI|WY"
)
_STREET = (
    "street|st|avenue|ave|road|rd|lane|ln|drive|dr|boulevard|blvd|court|ct|place|pl|terrace|ter|way|circle|cir|"
    "parkway|pkwy|highway|hwy|square|sq|trail|trl"
)


@dataclass(frozen=True)
class _Rule:
    """The group ``value`` is what identifies; a cue before it stays readable."""

    kind: PhiKind
    pattern: re.Pattern[str]
    confidence: float
    judge: Callable[[str], float] | None = None
    need: Need = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "need", need_of(self.pattern))


def _shape(kind: PhiKind, pattern: str, confidence: float = 0.0, judge: Callable[[str], float] | None = None) -> _Rule:
    return _Rule(kind, re.compile(f"(?P<value>{pattern})"), confidence, judge)


def _cue(
    kind: PhiKind, cues: str, value: str, confidence: float = 0.9, judge: Callable[[str], float] | None = None
) -> _Rule:
    """``cues`` as whole words in any case, up to five filling words or signs, then the value."""
    return _Rule(
        kind, re.compile(rf"{_BEFORE}(?:{cues}){_GAP}(?P<value>{value}){_AFTER}", re.IGNORECASE), confidence, judge
    )


def _named(cues: str, value: str, confidence: float = 0.0, judge: Callable[[str], float] | None = None) -> _Rule:
    """Like ``_cue``, but the value keeps its case: capitals are what makes it a name."""
    pattern = rf"{_BEFORE}(?i:{cues})[ \t]{{0,2}}[:,]?[ \t]{{0,2}}(?P<value>{value})"
    return _Rule(PhiKind.NAME, re.compile(pattern), confidence, judge)


def _date(label: str) -> str:
    return f"(?:{_DATE_IN_NUMBERS % (label, label)}|{_DATE_IN_WORDS})"


def _standing_alone(date: str) -> _Rule:
    pattern = rf"(?<![0-9A-Za-z_.-])(?P<value>{date})(?![0-9A-Za-z_]|[-/.][0-9])"
    return _Rule(PhiKind.DATE, re.compile(pattern, re.IGNORECASE), 0.5)


@cache
def _rules() -> tuple[_Rule, ...]:
    """Compiled at the first use: most processes that import this module look at no text."""
    return (
        # A: names, by cue
        _named(r"(?:mr|mrs|ms|mx|miss|dr|prof)\.?(?=[ \t])|doctor|nurse|professor|pt\.?(?=[ \t])", _NAME_WORDS, 0.85),
        _named(r"(?:patient|client|member|guardian|spouse|parent|full|legal|first|last|maiden|provider)(?:['’]?s)?[ \t]name(?:[ \t]is|[ \t]was)?|(?:name|patient|client|attending|physician|signed|sincerely|caregiver|next[ \t]of[ \t]kin|emergency[ \t]contact)[ \t]{0,2}(?=[:,])", _NAME_WORDS, 0.85),
        _named(r"my[ \t](?:name[ \t]is|name['’]s|name)|i['’]?m[ \t]called|i[ \t]am[ \t]called|name[ \t]is|(?:is|was|am)[ \t]named|(?:he|she|they)[ \t](?:is|are)[ \t]called", r"[^\W\d_]{2,24}(?:['’-][^\W\d_]{1,24}){0,2}(?:[ \t]" + _NAME_WORD + r"){0,3}", 0.85, _spoken_name),
        _named(r"(?:call[ \t]me|this[ \t]is|speaking[ \t]with|spoke[ \t](?:to|with)|patient|husband|wife|son|daughter|mother|father|brother|sister|mom|mum|dad|partner|friend|therapist|counsel+or|psychiatrist|yours,?|regards,?|dear)", _NAME_WORDS, judge=_perhaps_a_name),
        # B: geography below the state
        _shape(PhiKind.ADDRESS, rf"{_BEFORE}[0-9]{{1,6}}[A-Z]?[ \t](?:[NSEW]{{1,2}}\.?[ \t])?(?:(?:[{_UPPER}][\w'’.-]{{0,20}}|[0-9]{{1,3}}(?:st|nd|rd|th))[ \t]){{1,4}}(?i:{_STREET}){_AFTER}\.?(?:,?[ \t](?i:apt|apartment|suite|ste|unit|\#)\.?[ \t]?[\w-]{{1,6}})?", 0.85),
        _shape(PhiKind.ADDRESS, rf"{_BEFORE}[0-9]{{1,6}}[ \t](?:[a-z0-9]{{2,20}}[ \t]){{1,2}}(?:street|avenue|ave|road|rd|lane|ln|drive|boulevard|blvd|court){_AFTER}", 0.45),
        _shape(PhiKind.ADDRESS, rf"{_BEFORE}(?i:p\.?[ \t]?o\.?[ \t]?box)[ \t]#?[0-9]{{1,6}}{_AFTER}", 0.9),
        _Rule(PhiKind.PLACE, re.compile(rf"{_BEFORE}(?i:(?:i|he|she|they|we|who|patient)[ \t](?:now[ \t])?lives?[ \t](?:in|near)|living[ \t]in|resid(?:es|ing)[ \t](?:in|at)|residents?[ \t]of|hometown(?:[ \t]is|[ \t]of)?|(?:city|town|county)(?:[ \t]of|[ \t]?:)|moved[ \t]to|born[ \t]in)[ \t]{{1,2}}(?P<value>{_NAME_WORD}(?:[ \t]{_NAME_WORD}){{0,2}})"), 0.7),
        _Rule(PhiKind.PLACE, re.compile(rf"{_BEFORE}(?P<value>{_NAME_WORD}(?:[ \t]{_NAME_WORD}){{0,2}})(?=,?[ \t]{{1,2}}(?:{_STATES})[ \t,]{{1,3}}[0-9]{{5}})"), 0.8),
        _shape(PhiKind.ZIP, rf"{_BEFORE}[0-9]{{5}}-[0-9]{{4}}{_AFTER}", 0.7),
        _Rule(PhiKind.ZIP, re.compile(rf"{_BEFORE}(?:{_STATES})[ \t,]{{1,3}}(?P<value>[0-9]{{5}}(?:-[0-9]{{4}})?){_AFTER}"), 0.85),
        _cue(PhiKind.ZIP, r"zip(?:[ \t-]?code)?|postal[ \t]code|postcode", r"[0-9]{5}(?:-[0-9]{4})?"),
        # C: dates but for the year, ages over 89
        _cue(PhiKind.BIRTH_DATE, r"d\.?o\.?b\.?|date[ \t]of[ \t]birth|birth[ \t-]?(?:date|day)|born(?:[ \t]on)?", _date("b"), 0.95),
        _cue(PhiKind.DATE, r"admi(?:tted|ssion(?:[ \t]date)?)|discharged?(?:[ \t]date)?|died|deceased|date[ \t]of[ \t](?:death|service|admission|discharge)|d\.?o\.?s\.?|appointment|surgery|seen", _date("e"), 0.8),
        _standing_alone(_DATE_IN_NUMBERS % ("d", "d")),
        _standing_alone(_DATE_IN_WORDS),
        _Rule(PhiKind.DATE, re.compile(r"(?<![0-9A-Za-z_.-])(?P<value>(?:19|20)[0-9]{2}-[01][0-9]-[0-3][0-9])T[0-9]{2}:[0-9]{2}"), 0.5),
        _Rule(PhiKind.AGE, re.compile(rf"{_BEFORE}(?P<value>9[0-9]|1[0-2][0-9])[ \t-]?(?:years?|yrs?\.?|y\.?o\.?|y/o)(?:[ \t-]old)?{_AFTER}", re.IGNORECASE), 0.85),
        _cue(PhiKind.AGE, r"aged?|turn(?:ed|ing|s)", r"9[0-9]|1[0-2][0-9]", 0.8),
        # D, E: telephone, fax
        _shape(PhiKind.PHONE, rf"(?<![0-9A-Za-z_.])(?:\+?1{_DASH}{{0,2}})?(?:\([0-9]{{3}}\){_DASH}{{0,2}}|[0-9]{{3}}{_DASH})[0-9]{{3}}{_DASH}[0-9]{{4}}(?:[ ,]{{0,2}}(?i:x|ext\.?|extension)[ .:]{{0,2}}[0-9]{{1,6}})?{_AFTER}", 0.85),
        _shape(PhiKind.PHONE, r"(?<![0-9A-Za-z_])\+[0-9]{1,3}(?:[-. ()‐‑–—]{0,2}[0-9]{2,4}){2,5}" + _AFTER, 0.75),
        _shape(PhiKind.PHONE, rf"(?<![0-9A-Za-z_.-])\+?1?[2-9][0-9]{{2}}[2-9][0-9]{{6}}{_AFTER}(?!\.[0-9])", 0.4),
        _shape(PhiKind.PHONE, r"(?<![0-9A-Za-z_.-])[2-9][0-9]{2}-[0-9]{4}(?![0-9A-Za-z_-])", 0.45),
        _cue(PhiKind.PHONE, r"(?:tele)?phone|tel|cell(?:[ \t]?phone)?|mobile|landline|pager|(?:call|reach|text|ring|contact)(?:[ \t](?:me|him|her|us|them))?(?:[ \t](?:at|on))?|call[ \t]?back|contact", _PHONE_DIGITS),
        _cue(PhiKind.FAX, r"fax(?:ed)?(?:[ \t](?:to|at))?|facsimile", _PHONE_DIGITS, 0.95),
        # F: electronic mail
        _shape(PhiKind.EMAIL, r"[\w.%+'-]{1,64}+@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}" + _AFTER, 0.95),
        _shape(PhiKind.EMAIL, rf"{_BEFORE}[\w.+-]{{1,64}}[ \t]{{0,2}}(?:\(at\)|[ \t]at[ \t])[ \t]{{0,2}}[\w-]{{1,63}}[ \t]{{0,2}}(?:\(dot\)|[ \t]dot[ \t])[ \t]{{0,2}}[a-z]{{2,12}}{_AFTER}", 0.8),
        # G: social security
        _shape(PhiKind.SSN, rf"(?<![0-9A-Za-z_])[0-9]{{3}}{_DASH}[0-9]{{2}}{_DASH}[0-9]{{4}}{_AFTER}", judge=_ssn),
        _shape(PhiKind.SSN, rf"(?<![0-9A-Za-z_.-])[0-9]{{9}}{_AFTER}(?!\.[0-9]|-)", 0.35),
        _cue(PhiKind.SSN, r"ssn|ss\#|social[ \t]security|soc(?:ial)?\.?[ \t]sec\.?|social|itin", rf"[0-9]{{3}}{_DASH}{{0,2}}[0-9]{{2}}{_DASH}{{0,2}}[0-9]{{4}}|[x*]{{3}}-?[x*]{{2}}-?[0-9]{{4}}|[0-9]{{4}}", 0.95),
        # H: medical record
        _cue(PhiKind.MRN, r"mrn|m\.r\.n\.?|med(?:ical)?\.?[ \t]rec(?:ord)?s?\.?|(?:patient|hospital|health)[ \t]record", _IDENTIFIER, 0.93),
        _cue(PhiKind.MRN, r"chart|hospital[ \t](?:number|no|id)|unit[ \t]number|record[ \t](?:number|no)", _IDENTIFIER, judge=_after_a_vague_cue),
        _shape(PhiKind.MRN, rf"{_BEFORE}(?i:mrn|mr)[-_]?[0-9]{{5,12}}{_AFTER}", 0.85),
        # I: health plan
        _cue(PhiKind.HEALTH_PLAN, r"(?:member|subscriber|beneficiary|insurance|insured|coverage)[ \t]{0,2}(?:id|number|no|num|\#|policy)|insurance|health[ \t]plan|medicare|medicaid|mbi|hicn|subscriber|beneficiary", _IDENTIFIER, 0.91),
        _cue(PhiKind.HEALTH_PLAN, r"(?:policy|group|plan)[ \t]{0,2}(?:id|number|no|num|\#)|policy", _IDENTIFIER, judge=_after_a_vague_cue),
        _shape(PhiKind.HEALTH_PLAN, rf"{_BEFORE}[1-9][AC-HJKMNP-RT-Y][AC-HJKMNP-RT-Y0-9][0-9]-?[AC-HJKMNP-RT-Y][AC-HJKMNP-RT-Y0-9][0-9]-?[AC-HJKMNP-RT-Y]{{2}}[0-9]{{2}}{_AFTER}", 0.85),
        # J: accounts
        _cue(PhiKind.ACCOUNT, r"(?:bank[ \t]|checking[ \t]|savings[ \t])?acc(?:oun)?ts?|a/c|routing|aba|invoice|billing", _IDENTIFIER, judge=_after_a_vague_cue),
        _shape(PhiKind.ACCOUNT, rf"{_BEFORE}[A-Z]{{2}}[0-9]{{2}}(?:[ ]?[A-Z0-9]{{4}}){{2,7}}(?:[ ]?[A-Z0-9]{{1,3}})?{_AFTER}", judge=_iban),
        _shape(PhiKind.CARD, r"(?<![0-9A-Za-z_.-])[0-9](?:[ -]?[0-9]){12,18}(?![0-9A-Za-z_]|[.-][0-9])", judge=_card),
        # K: certificates and licences
        _cue(PhiKind.LICENSE, r"(?:driver['’]?s?[ \t]|medical[ \t]|nursing[ \t]|state[ \t])?licen[cs]e|dl|dea|certificate|certification|passport|credential", _IDENTIFIER, 0.89),
        _cue(PhiKind.LICENSE, r"npi|national[ \t]provider[ \t]identifier", r"[0-9]{10}", judge=_npi),
        _shape(PhiKind.LICENSE, rf"{_BEFORE}[A-Z]{{2}}[0-9]{{7}}{_AFTER}", judge=_dea),
        # L: vehicles
        _cue(PhiKind.VEHICLE, r"(?:licen[cs]e[ \t]|number[ \t])?plates?|vehicle(?:[ \t]registration)?|registration|vin", r"(?=[A-Z -]{0,7}[0-9])[A-Z0-9][A-Z0-9 -]{2,16}(?<=[A-Z0-9])", 0.94),
        _shape(PhiKind.VEHICLE, rf"{_BEFORE}(?=[A-Za-z]{{0,16}}[0-9])[A-HJ-NPR-Za-hj-npr-z0-9]{{17}}{_AFTER}", judge=_vin),
        # M: devices
        _cue(PhiKind.DEVICE, r"(?:device[ \t]|pacemaker[ \t]|implant[ \t]|pump[ \t])?serial|s/n|sn|(?:device|implant|pacemaker|pump|meter|monitor)(?:[ \t](?:id|identifier|number|no))|imei|imsi|udi", _IDENTIFIER, 0.92),
        _shape(PhiKind.DEVICE, rf"{_BEFORE}(?:[0-9A-Fa-f]{{2}}[:-]){{5}}[0-9A-Fa-f]{{2}}{_AFTER}", 0.9),
        # N: addresses on the web
        _shape(PhiKind.URL, r"(?<![0-9A-Za-z_])(?i:https?|ftp|sftp)://[^\s\[\]<>\"'`{}|\\^]{0,2000}[\w/=&#]", 0.8),
        _shape(PhiKind.URL, r"(?<![0-9A-Za-z_.@/])(?i:www)\.[\w-]{1,63}(?:\.[\w-]{1,63}){1,6}(?:/[^\s\[\]<>\"'`{}|\\^]{0,2000}[\w/=&#])?", 0.8),
        # O: internet protocol
        _shape(PhiKind.IP, r"(?<![0-9A-Za-z_.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9A-Za-z_]|\.[0-9])", judge=_ip),
        _shape(PhiKind.IP, r"(?<![0-9A-Za-z_:.])(?=[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:]{3,39}(?![0-9A-Za-z_:.])", judge=_ip),
        # R: any other unique code
        _cue(PhiKind.OTHER_ID, r"(?:patient|case|encounter|visit|study|subject|employee|student|claim|referral|client|resident|participant|specimen|accession|order)[ \t]{0,2}(?:id|identifier|number|no|num|nr|code|\#)|(?:rx|prescription|confirmation|tracking|authorization)[ \t]{0,2}(?:id|number|no|num|code|\#)", _IDENTIFIER, 0.88),
    )  # fmt: skip


@cache
def _screen() -> Screen:
    rules = _rules()
    return Screen(tuple(rule.pattern for rule in rules), [rule.need for rule in rules])
