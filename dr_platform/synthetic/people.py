"""Who somebody is: a person as a function of seed, kind and number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from dr_platform.synthetic import vocabulary as words
from dr_platform.synthetic.draws import Draws

MAIL_DOMAIN = "example.invalid"
MRN_PREFIX = "SYN-"
_LETTERS = {"patient": "p", "clinician": "d", "caregiver": "c"}
"""Different ones, because addresses and record numbers are unique over all kinds."""
_OLDEST_DAYS = 36_500
_YOUNGEST_DAYS = 6_575
"""18 years."""


@dataclass(frozen=True)
class Person:
    """``id`` is the account's identifier in every database."""

    id: str
    given: str
    family: str
    email: str
    born: date
    phone: str
    street: str
    town: str
    state: str
    zip: str
    mrn: str
    ssn: str

    @property
    def name(self) -> str:
        return f"{self.given} {self.family}"

    def as_profile(self) -> dict[str, str]:
        return {
            "name": self.name,
            "email": self.email,
            "birth_date": self.born.isoformat(),
            "phone": self.phone,
            "street": self.street,
            "town": self.town,
            "state": self.state,
            "zip": self.zip,
            "mrn": self.mrn,
            "ssn": self.ssn,
        }


def people(draws: Draws, kind: str, numbers: Sequence[int], until: date) -> list[Person]:
    """Persons of one kind (``patient``, ``clinician``, ``caregiver``), in order of their numbers."""
    rows = np.array(numbers, dtype=np.uint64)

    def pick(what: str, size: int) -> list[int]:
        return draws.picks(f"{kind}/{what}", rows, size).tolist()

    columns = (
        draws.uuids(f"{kind}/id", rows),
        pick("given", len(words.GIVEN)),
        pick("family", len(words.FAMILY)),
        pick("born", _OLDEST_DAYS - _YOUNGEST_DAYS),
        pick("phone", 100 * len(words.AREA_CODES)),
        pick("house", 9_900),
        pick("street", len(words.STREETS) * len(words.STREET_KINDS)),
        pick("place", len(words.PLACES)),
        pick("zip", 100),
        pick("ssn", 1_000_000),
    )
    return [_person(kind, number, until, *values) for number, *values in zip(numbers, *columns, strict=True)]


def _person(
    kind: str,
    number: int,
    until: date,
    identifier: str,
    given: int,
    family: int,
    age: int,
    phone: int,
    house: int,
    street: int,
    place: int,
    zip_end: int,
    ssn: int,
) -> Person:
    town, state, sectional = words.PLACES[place]
    first, last = words.GIVEN[given], words.FAMILY[family]
    line, area = divmod(phone, len(words.AREA_CODES))
    way, road = divmod(street, len(words.STREETS))
    return Person(
        id=identifier,
        given=first,
        family=last,
        email=f"{first}.{last}.{_LETTERS[kind]}{number}@{MAIL_DOMAIN}".lower(),
        born=until - timedelta(days=_YOUNGEST_DAYS + age),
        phone=f"({words.AREA_CODES[area]}) 555-01{line:02d}",
        street=f"{house + 100} {words.STREETS[road]} {words.STREET_KINDS[way]}",
        town=town,
        state=state,
        zip=f"{sectional}{zip_end:02d}",
        mrn=f"{MRN_PREFIX}{_LETTERS[kind].upper()}{number:08d}",
        # Group 00 is given to nobody, and taxpayer numbers, which begin with 9 too, have no such group.
        ssn=f"9{ssn // 10_000:02d}-00-{ssn % 10_000:04d}",
    )
