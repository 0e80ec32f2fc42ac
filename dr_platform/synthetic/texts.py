"""What invented people write: mostly nothing that identifies them, and sometimes everything.

Lengths are lognormal, with a long tail. About one text of a patient in twelve names somebody, and one
message in 150 carries a form: JSON within the text, or the same as base64, where a search by patterns
does not see it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np
from numpy.typing import NDArray

from dr_platform.synthetic import vocabulary as words
from dr_platform.synthetic.draws import Draws, lognormal
from dr_platform.synthetic.people import Person

IDENTIFYING_PPM = 80_000
FORM_PPM = 6_500
CRISIS_PPM = 3_000
CRISIS_TEXT = "I need to talk to somebody right now, it is too much."
_SENTENCES = words.SAID + words.ANSWERED
_MONTHS = "January February March April May June July August September October November December".split()  # noqa: SIM905


@dataclass(frozen=True)
class Voice:
    """Who writes at what time, for one text."""

    person: Person
    doctor: str
    at_ms: int


def sentences(draws: Draws, stream: str, keys: NDArray[np.uint64], counts: NDArray[np.int64], answers: Sequence[bool]):
    """One text per key: so many sentences each, of the assistant's where ``answers`` says so."""
    first = np.repeat(draws.bits(f"{stream}/start", keys), counts)
    ends = np.cumsum(counts)
    ordinals = np.arange(int(ends[-1]) if len(ends) else 0, dtype=np.uint64) - np.repeat(ends - counts, counts).astype(
        np.uint64
    )
    by_assistant = np.repeat(np.array(answers, dtype=bool), counts)
    sizes = np.where(by_assistant, len(words.ANSWERED), len(words.SAID))
    with np.errstate(over="ignore"):
        chosen = draws.picks(f"{stream}/sentence", first + ordinals, sizes)
    chosen += np.where(by_assistant, len(words.SAID), 0)
    flat = [_SENTENCES[at] for at in chosen.tolist()]
    stops = ends.tolist()
    return [" ".join(flat[end - count : end]) for end, count in zip(stops, counts.tolist(), strict=True)]


def lengths(draws: Draws, stream: str, keys: NDArray[np.uint64], answers: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Sentences per text."""
    said = draws.ranked(f"{stream}/said", keys, lognormal(2.0, 0.95, 1, 150))
    answered = draws.ranked(f"{stream}/answered", keys, lognormal(4.0, 0.6, 1, 60))
    return np.where(answers, answered, said)


def identifying(voice: Voice, which: int) -> str:
    """A sentence by which its writer could be found."""
    person, seen = voice.person, day_of(voice.at_ms)
    return words.IDENTIFYING[which].format(
        given=person.given,
        given_lower=person.given.lower(),
        family=person.family,
        born_us=_us(person.born),
        phone=person.phone,
        email=person.email,
        street=person.street,
        town=person.town,
        state=person.state,
        zip=person.zip,
        mrn=person.mrn,
        ssn=person.ssn,
        doctor=voice.doctor,
        seen_us=_us(seen),
        seen_long=f"{_MONTHS[seen.month - 1]} {seen.day}, {seen.year}",
        age=(seen - person.born).days * 100 // 36_525,
    )


def form(person: Person, *, encoded: bool) -> str:
    """A profile as a program would paste it into a text."""
    text = json.dumps({"form": "intake", "patient": person.as_profile()}, sort_keys=True)
    return base64.b64encode(text.encode()).decode() if encoded else text


def day_of(at_ms: int) -> date:
    return datetime.fromtimestamp(at_ms / 1000, UTC).date()


def _us(day: date) -> str:
    return f"{day.month:02d}/{day.day:02d}/{day.year}"
