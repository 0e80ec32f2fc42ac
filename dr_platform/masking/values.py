"""What one value becomes: tokens, names, telephone numbers, dates, ages.

Pure functions of recipe and value. ``sql`` writes the same for PostgreSQL, and a contract test holds the
two together. Not here: free text (``text``), and which column is treated how (``document``, the engines).
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from dr_platform.masking.classification import Column, Holds
from dr_platform.masking.geography import zip3
from dr_platform.masking.recipe import Recipe

FIRST_NAMES = (
    "Ada", "Amos", "Bela", "Blythe", "Cedar", "Clem", "Dara", "Dov", "Edda", "Enzo", "Fern", "Finn", "Gala", "Gus",
    "Hana", "Hugo", "Ida", "Ivo", "Jana", "Joss", "Kaia", "Knut", "Lena", "Lorne", "Mara", "Milo", "Nell", "Noor",
    "Olga", "Otis", "Pia", "Piet", "Quill", "Rae", "Remy", "Rosa", "Saul", "Sigrid", "Tess", "Tove", "Ulla", "Uri",
    "Vera", "Vito", "Wanda", "Wes", "Xenia", "Yara", "Yves", "Zara", "Zeno", "Alma", "Bram", "Cleo", "Dirk", "Elin",
    "Flor", "Gwen", "Hal", "Inga", "Jory", "Kit", "Lux", "Moss",
)  # fmt: skip
LAST_NAMES = (
    "Alder", "Ashby", "Birch", "Brook", "Cairn", "Copse", "Dale", "Dune", "Elm", "Esker", "Fell", "Ford", "Glade",
    "Glen", "Heath", "Hollow", "Isle", "Ivy", "Juniper", "Kestrel", "Knoll", "Lark", "Linden", "Marsh", "Meadow",
    "Nook", "North", "Oakes", "Orchard", "Pine", "Quarry", "Quince", "Reed", "Ridge", "Rowan", "Sage", "Shore",
    "Slate", "Spruce", "Stone", "Tarn", "Thorn", "Tor", "Umber", "Vale", "Vine", "Wade", "Weald", "Willow", "Wold",
    "Yarrow", "Yew", "Arbor", "Bracken", "Clover", "Dell", "Eddy", "Fallow", "Grove", "Hazel", "Inlet", "Larch",
    "Moor", "Plover",
)  # fmt: skip

PREFIXES = {
    Holds.MRN: "MRN-",
    Holds.HEALTH_PLAN: "HP-",
    Holds.ACCOUNT: "AC-",
    Holds.LICENSE: "LI-",
    Holds.VEHICLE: "VE-",
    Holds.DEVICE: "DE-",
    Holds.OTHER_ID: "ID-",
}
REMOVED = frozenset({Holds.SSN, Holds.SECRET, Holds.BIOMETRIC, Holds.PHOTO, Holds.VECTOR})
"""Nothing takes the value's place; the column must allow that it is missing."""
PRESERVING = frozenset({Holds.KEY, Holds.EMAIL, Holds.URL, Holds.SAFE, Holds.QUASI, Holds.BLIND_INDEX, *PREFIXES})
"""Different values stay different (64 bits or more of a keyed digest); all other classes are lossy."""

_PLAIN = frozenset(
    {Holds.NAME, Holds.EMAIL, Holds.PHONE, Holds.FAX, Holds.ADDRESS, Holds.PLACE, Holds.URL, Holds.IP, *PREFIXES}
)
"""What is a text in the place of a text."""

PEOPLE = "account"
"""The domain of keys of people."""
MAX_SHIFT_DAYS = 364
SHIFT_AT, SHIFT_BYTES = 16, 4
"""Of a digest: the sign's byte and three for the days; masked keys show sixteen bytes before them at most."""
OLDEST = 90
"""Ages from here on are one category, and so are the birth years that tell of them."""

_UUID_TAIL = re.compile(
    r"(?P<kind>[a-z][a-z0-9-]{0,39}[:/])?(?P<id>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})",
    re.IGNORECASE,
)
_GREGORIAN = datetime(1582, 10, 15, tzinfo=UTC)
"""Epoch of time-based UUIDs (RFC 9562, 5.1), which count 100 ns."""


@dataclass(frozen=True)
class Moment:
    """What dates of a row are moved by: the person's shift, and the date they keep their distance from."""

    shift_days: int = 0
    base: datetime | date | None = None


def shift_of(recipe: Recipe, person: str) -> int:
    """Days by which all dates of a person move, from -364 to 364 and never 0. They are told by bytes of the
    digest of the person's key that no masked key shows, so that one digest serves both."""
    told = recipe.digest(PEOPLE, person)[SHIFT_AT : SHIFT_AT + SHIFT_BYTES]
    days = 1 + int.from_bytes(told[1:], "big") % MAX_SHIFT_DAYS
    return -days if told[0] & 1 else days


def canonical(value: object) -> str:
    """Equal for two spellings of one identifier."""
    return str(value).strip().lower()


def token_uuid(digest: bytes) -> uuid.UUID:
    """A random-looking UUID (version 8, RFC 9562) from the first 16 bytes."""
    raw = bytearray(digest[:16])
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return uuid.UUID(bytes=bytes(raw))


def token_timeuuid(digest: bytes, at: datetime) -> uuid.UUID:
    """A time-based UUID (version 1) of a moment, told apart by the digest."""
    ticks = (at - _GREGORIAN) // timedelta(microseconds=1) * 10 + digest[0] % 10
    low, mid, high = ticks & 0xFFFFFFFF, (ticks >> 32) & 0xFFFF, (ticks >> 48) & 0x0FFF
    clock = int.from_bytes(digest[1:3], "big") & 0x3FFF
    node = int.from_bytes(digest[3:9], "big") | 0x010000000000  # the multicast bit: no network card's address
    return uuid.UUID(fields=(low, mid, high | 0x1000, clock >> 8 | 0x80, clock & 0xFF, node))


def time_of(identifier: uuid.UUID) -> datetime:
    return _GREGORIAN + timedelta(microseconds=identifier.time // 10)


def masked_key(recipe: Recipe, domain: str, value: Any, moment: Moment | None = None) -> Any:
    """A key in the form it had: UUID, time-based UUID, number, ``kind:uuid``, or any text. Equal
    identifiers become equal whether they stand in a column of UUIDs or of text."""
    if isinstance(value, uuid.UUID):
        digest = recipe.digest(domain, str(value))
        if value.version == 1:
            return token_timeuuid(digest, masked_date(recipe, time_of(value), moment or Moment()))
        return token_uuid(digest)
    if isinstance(value, bool) or not isinstance(value, int):
        text = str(value)
        if match := _UUID_TAIL.fullmatch(text):
            masked = masked_key(recipe, domain, uuid.UUID(match["id"]), moment)
            return f"{match['kind'] or ''}{masked}"
        return "t-" + recipe.digest(domain, text).hex()[:32]
    return int.from_bytes(recipe.digest(domain, str(value))[:8], "big") >> 2


def masked_date(recipe: Recipe, value: Any, moment: Moment) -> Any:
    """Shifted, or reduced to its year. A date that keeps its distance from another is moved with it."""
    if recipe.shifts_dates:
        return value + timedelta(days=moment.shift_days)
    if moment.base is not None:
        return _year(moment.base) + (value - moment.base)
    return _year(value)


def _year(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(month=1, day=1, hour=0, minute=0, second=0, microsecond=0)
    return date(value.year, 1, 1)


def masked_birth_date(recipe: Recipe, value: date, moment: Moment) -> date:
    """As a date; birth years that tell of an age over 89 become one, 164.514(b)(2)(i)(C)."""
    oldest = date(recipe.today.year - OLDEST, 1, 1)
    moved = masked_date(recipe, value, moment)
    return oldest if moved.year <= oldest.year or value.year <= oldest.year else moved


def masked_plain(recipe: Recipe, holds: Holds, value: str) -> str | None:
    """An identifier of a person, written as text, in a form that nobody's identifier has."""
    if holds in REMOVED:
        return None
    if holds is Holds.ZIP:
        return zip3(value) + "00"
    digest = recipe.digest(holds, canonical(value))
    return _form(holds, value, digest)


def _form(holds: Holds, value: str, digest: bytes) -> str:
    if (prefix := PREFIXES.get(holds)) is not None:
        return prefix + digest.hex()[:16]
    match holds:
        case Holds.PHONE | Holds.FAX:
            return _phone(value, digest)
        case Holds.NAME:
            return f"{FIRST_NAMES[digest[0] % 64]} {LAST_NAMES[digest[1] % 64]}"
        case Holds.EMAIL:
            return f"u{digest.hex()[:16]}@example.invalid"
        case Holds.ADDRESS:
            return f"{digest[0] + 1} Example Street"
        case Holds.PLACE:
            return "Exampleton"
        case Holds.URL:
            return f"https://example.invalid/{digest.hex()[:16]}"
        case Holds.IP:
            return f"192.0.2.{digest[0]}"  # TEST-NET-1, RFC 5737
    raise KeyError(holds)


_PHONE_FORMS = (
    (re.compile(r"\d{3}-\d{3}-\d{4}"), "{area}-555-01{line}"),
    (re.compile(r"\+1\d{10}"), "+1{area}55501{line}"),
    (re.compile(r"\d{10}"), "{area}55501{line}"),
)


def _phone(value: str, digest: bytes) -> str:
    """555-0100 to 555-0199 are set aside for fiction in every area code."""
    area, line = 200 + (digest[0] * 256 + digest[1]) % 800, f"{digest[2] % 100:02}"
    text = value.strip()
    for pattern, form in _PHONE_FORMS:
        if pattern.fullmatch(text):
            return form.format(area=area, line=line)
    return f"({area}) 555-01{line}"


def masked_value(recipe: Recipe, column: Column, value: Any, moment: Moment) -> Any:
    """The value of a column that neither is sealed nor holds text or a document."""
    holds = column.holds
    if isinstance(value, str) and holds in _PLAIN:
        return masked_plain(recipe, holds, value)
    if value is None or holds in (Holds.SAFE, Holds.QUASI):
        return value
    if holds in REMOVED:
        return None
    if holds is Holds.KEY:
        return _each(value, lambda one: masked_key(recipe, column.domain, one, moment))
    if holds is Holds.AGE:
        return min(int(value), OLDEST)
    if holds in (Holds.DATE, Holds.BIRTH_DATE):
        moved = masked_birth_date if holds is Holds.BIRTH_DATE else masked_date
        return _each(value, lambda one: moved(recipe, one, moment))
    return _each(value, lambda one: masked_plain(recipe, holds, str(one)))


def _each(value: Any, masked: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(masked(one) for one in value)
    if isinstance(value, set | frozenset):
        return {masked(one) for one in value}
    return masked(value)
