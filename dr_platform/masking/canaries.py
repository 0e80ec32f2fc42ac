"""Canaries: made-up people whose identifiers occur nowhere else, planted before and searched after.

Here: what a canary is made of, in every disguise, and the search. The search shares no code with masking:
it knows the tokens and looks for their bytes. Not here: writing rows (the engines).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dr_platform.masking.classification import Holds

PEOPLE = 12
"""Each text of a canary comes in five disguises; every disguise meets every place at least twice."""
_LETTERS = "bcdfghjklmnpqrstvwxz"
_RUN = re.compile(rb"[A-Za-z0-9+/_-]{12,}={0,2}")
_DEEPEST = 6


@dataclass(frozen=True)
class Canary:
    """One made-up person. ``word`` is part of everything that identifies them in words."""

    id: uuid.UUID
    word: str
    digits: str

    @property
    def name(self) -> str:
        return f"{self.word.capitalize()} {self.word[::-1].capitalize()}"

    @property
    def email(self) -> str:
        return f"{self.word}@{self.word}.example"

    @property
    def phone(self) -> str:
        return f"{self.digits[:3]}-{self.digits[3:6]}-{self.digits[6:]}"

    def value(self, holds: Holds) -> str | None:
        """What stands in a column of this class; ``None`` for classes that are not text."""
        match holds:
            case Holds.NAME:
                return self.name
            case Holds.EMAIL:
                return self.email
            case Holds.PHONE | Holds.FAX:
                return self.phone
            case Holds.SSN:
                return f"{self.digits[:3]}-{self.digits[3:5]}-{self.digits[5:9]}"
            case Holds.ADDRESS:
                return f"{self.digits[:4]} {self.word.capitalize()} Street"
            case Holds.URL:
                return f"https://{self.word}.example/{self.digits}"
            case Holds.MRN | Holds.HEALTH_PLAN | Holds.ACCOUNT | Holds.LICENSE | Holds.VEHICLE | Holds.DEVICE:
                return f"{self.word.upper()}-{self.digits}"
            case Holds.OTHER_ID | Holds.PLACE | Holds.SECRET | Holds.BIOMETRIC | Holds.PHOTO:
                return self.word.capitalize()
        return None

    def text(self, disguise: int) -> str:
        """Free text that names the person: plain, in another case, in JSON, in base64, in JSON in base64."""
        plain = (
            f"{self.name} called, write to {self.email} or ring {self.phone.replace('-', ' ')}. MRN: {self.digits}. "
            f"{self.word.capitalize()} felt better."
        )
        match disguise % 5:
            case 0:
                return plain
            case 1:
                return f"spoke with {self.name.upper()}, {self.email.upper()}, ({self.digits[:3]}) {self.phone[4:]}"
            case 2:
                return json.dumps({"note": plain, "contact": {"phone": self.phone, "names": [self.name]}})
            case 3:
                return f"attached: {base64.b64encode(plain.encode()).decode()} end"
        return base64.urlsafe_b64encode(json.dumps({"who": self.name, "at": self.email}).encode()).decode()

    @property
    def tokens(self) -> tuple[bytes, ...]:
        """Bytes of which none may be found, in lower case."""
        words = (self.word, self.word[::-1], self.digits, self.phone, self.phone.replace("-", " "), str(self.id))
        ssn = f"{self.digits[:3]}-{self.digits[3:5]}-{self.digits[5:9]}"
        return tuple(word.lower().encode() for word in (*words, ssn, f"({self.digits[:3]}) {self.phone[4:]}"))


@dataclass(frozen=True)
class Canaries:
    people: tuple[Canary, ...]

    @classmethod
    def made_from(cls, entropy: bytes) -> Canaries:
        """The same bytes give the same canaries; 16 bytes and more."""
        from hashlib import sha256

        found = []
        for number in range(PEOPLE):
            digest = sha256(entropy + number.to_bytes(2, "big")).digest()
            word = "zq" + "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:12])
            # 200 to 999, a line that is not one of fiction: it must look like anybody's number.
            digits = (
                f"{200 + digest[12] % 700}{300 + digest[13] % 200}{int.from_bytes(digest[14:18], 'big') % 10_000:04}"
            )
            found.append(Canary(uuid.UUID(bytes=digest[:16], version=4), word, digits))
        return cls(tuple(found))

    @property
    def tokens(self) -> tuple[bytes, ...]:
        return tuple(dict.fromkeys(token for canary in self.people for token in canary.tokens))


@dataclass(frozen=True)
class Sighting:
    """A canary that got through: where, and how deep inside other encodings."""

    place: str
    depth: int


def search(stored: Iterable[tuple[str, bytes]], canaries: Canaries) -> tuple[int, tuple[Sighting, ...]]:
    """How many values were looked at, and every place where a token is still readable: as it is, in any
    case, in UTF-16, inside JSON escapes, and inside base64 or hexadecimal to any depth that matters."""
    tokens = re.compile(b"|".join(re.escape(token) for token in canaries.tokens))
    looked_at, found = 0, []
    for place, value in stored:
        looked_at += 1
        depth = next((depth for depth, layer in _layers(value) if tokens.search(layer.lower())), None)
        if depth is not None:
            found.append(Sighting(place, depth))
    return looked_at, tuple(found)


def _layers(value: bytes, depth: int = 0) -> Iterator[tuple[int, bytes]]:
    yield depth, value
    if depth >= _DEEPEST:
        return
    if b"\0" in value:  # two bytes a character
        yield from _layers(value.replace(b"\0", b""), depth + 1)
    for inner in _decoded(value):
        yield from _layers(inner, depth + 1)


def _decoded(value: bytes) -> Iterator[bytes]:
    if b"\\" in value or value[:1] in b'{["':
        with contextlib.suppress(ValueError, RecursionError):  # no JSON
            yield "\n".join(_strings(json.loads(value))).encode()
    for match in _RUN.finditer(value):
        run = match[0].replace(b"-", b"+").replace(b"_", b"/").rstrip(b"=")
        if len(run) % 4 != 1:
            yield binascii.a2b_base64(run + b"=" * (-len(run) % 4))
        plain = match[0]
        if len(plain) % 2 == 0 and re.fullmatch(rb"[0-9A-Fa-f]+", plain):
            yield bytes.fromhex(plain.decode())


def _strings(document: Any) -> Iterator[str]:
    if isinstance(document, Mapping):
        for key, value in document.items():
            yield str(key)
            yield from _strings(value)
    elif isinstance(document, list):
        for value in document:
            yield from _strings(value)
    elif document is not None:
        yield str(document)
