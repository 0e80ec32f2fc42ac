"""The same values as ``values``, as PostgreSQL expressions, so that the server masks whole tables itself.

HMAC is built from the built-in ``sha256``, because extensions are not everywhere. Keys come from settings
of the session, never from the statement's text, which servers log. Here: expressions. Not here: schemas,
plans, running them (``postgresql``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from psycopg import sql

from dr_platform.masking.classification import Column, Holds, Table
from dr_platform.masking.geography import SMALL_ZIP3
from dr_platform.masking.recipe import Recipe
from dr_platform.masking.rows import is_late
from dr_platform.masking.values import (
    FIRST_NAMES,
    LAST_NAMES,
    MAX_SHIFT_DAYS,
    OLDEST,
    PEOPLE,
    PREFIXES,
    REMOVED,
    SHIFT_AT,
    SHIFT_BYTES,
)

_UUID = r"^([a-z][a-z0-9-]{0,39}[:/])?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_UUID_LENGTH = 36
_PYTHON = frozenset({Holds.TEXT, Holds.JSON})
_DATES = frozenset({Holds.DATE, Holds.BIRTH_DATE})
DATE_TYPES = frozenset({"date", "timestamp with time zone", "timestamp without time zone"})
BAND_YEARS = 5
INTEGERS = frozenset({"bigint", "integer", "smallint"})
CHAIN_PLACEHOLDER = "decode(repeat('00', 32), 'hex')"


def needs_python(column: Column) -> bool:
    """Whether the server alone cannot mask it."""
    return column.holds in _PYTHON or is_late(column) or bool(column.derived)


@dataclass
class Expressions:
    """Expressions over one table's columns, with the digests they share computed once a row."""

    table: Table
    types: Mapping[str, str]
    recipe: Recipe
    digests: dict[str, str] = field(default_factory=dict)
    """SQL of a digest to its name in the row's lateral query."""
    domains: dict[str, int] = field(default_factory=dict)

    def of(self, name: str) -> str:
        """The masked value of a column that the server can mask."""
        column, value = self.table.columns[name], f"t.{quoted(name)}"
        holds = column.holds
        if holds in (Holds.SAFE, Holds.QUASI):
            return value
        if holds is Holds.CHAIN:
            return CHAIN_PLACEHOLDER
        if holds in REMOVED:
            return "NULL"
        if holds in _DATES:
            return self._date(column, value, self.types[name])
        if holds is Holds.AGE:
            return f"least({value}, {OLDEST})"
        if holds is Holds.KEY:
            return self._key(column, value, self.types[name])
        return f"CASE WHEN {value} IS NOT NULL THEN ({self._form(holds, value)})::{self.types[name]} END"

    # Digests

    def _digest(self, domain: str, value: str) -> str:
        number = self.domains.setdefault(domain, len(self.domains))
        text = f"sha256(k.o{number} || sha256(k.i{number} || convert_to({value}, 'UTF8')))"
        return "d." + self.digests.setdefault(text, f"d{len(self.digests)}")

    def lateral(self) -> str:
        """The row's digests. OFFSET 0 keeps the planner from copying each into every place of use."""
        if not self.digests:
            return ""
        listed = ", ".join(f"{text} AS {name}" for text, name in self.digests.items())
        return f" CROSS JOIN LATERAL (SELECT {listed} OFFSET 0) d"

    def settings(self) -> dict[str, str]:
        """Pads of every domain's key in hexadecimal, as settings of a session."""
        found = {}
        for domain, number in self.domains.items():
            inner, outer = self.recipe.pads(domain)
            found |= {f"drp.i{number}": inner.hex(), f"drp.o{number}": outer.hex()}
        return found

    def keys(self) -> str:
        """A one-row query that reads the settings, once a statement, and has the digest of nobody's key."""
        pads = {
            f"{pad}{n}": f"decode(current_setting('drp.{pad}{n}'), 'hex')"
            for n in self.domains.values()
            for pad in "io"
        }
        listed = [f"{pad} AS {name}" for name, pad in pads.items()]
        if PEOPLE in self.domains:
            n = self.domains[PEOPLE]
            listed.append(f"sha256({pads[f'o{n}']} || sha256({pads[f'i{n}']})) AS n{n}")
        names = f"{_array(FIRST_NAMES)} AS first_names, {_array(LAST_NAMES)} AS last_names"
        return f"k AS MATERIALIZED (SELECT {', '.join([*listed, names])})"

    # Forms

    def _key(self, column: Column, value: str, kind: str) -> str:
        if kind == "uuid":
            digest = self._digest(column.domain, f"{value}::text")
            return f"CASE WHEN {value} IS NOT NULL THEN {_uuid_of(digest)} END"
        if kind in INTEGERS:
            digest = self._digest(column.domain, f"{value}::text")
            number = f"('x' || encode(substring({digest} FROM 1 FOR 8), 'hex'))::bit(62)::bigint"
            return f"CASE WHEN {value} IS NOT NULL THEN {number} END"
        is_uuid, tail = f"{value} ~* {_literal(_UUID)}", f"right({value}, {_UUID_LENGTH})"
        digest = self._digest(column.domain, f"CASE WHEN {is_uuid} THEN lower({tail}) ELSE {value} END")
        kept = f"left({value}, length({value}) - {_UUID_LENGTH})"
        return (
            f"CASE WHEN {value} IS NULL THEN NULL WHEN {is_uuid} THEN {kept} || {_uuid_of(digest)}::text"
            f" ELSE 't-' || left(encode({digest}, 'hex'), 32) END"
        )

    def _form(self, holds: Holds, value: str) -> str:
        text = f"btrim({value}::text)"
        if holds is Holds.ZIP:
            return _zip(text)
        digest = self._digest(holds.value, f"lower({text})")
        code = f"left(encode({digest}, 'hex'), 16)"
        match holds:
            case Holds.NAME:
                first, last = f"get_byte({digest}, 0) % 64 + 1", f"get_byte({digest}, 1) % 64 + 1"
                return f"k.first_names[{first}] || ' ' || k.last_names[{last}]"
            case Holds.EMAIL:
                return f"'u' || {code} || '@example.invalid'"
            case Holds.PHONE | Holds.FAX:
                return _phone(text, digest)
            case Holds.ADDRESS:
                return f"(get_byte({digest}, 0) + 1) || ' Example Street'"
            case Holds.PLACE:
                return "'Exampleton'"
            case Holds.URL:
                return f"'https://example.invalid/' || {code}"
            case Holds.IP:
                return f"'192.0.2.' || get_byte({digest}, 0)"
        return f"{_literal(PREFIXES[holds])} || {code}"

    def _date(self, column: Column, value: str, kind: str) -> str:
        moved = self._moved(column, value, kind)
        if column.holds is not Holds.BIRTH_DATE:
            return moved
        oldest = self.recipe.today.year - OLDEST
        old = f"least(extract(year FROM {value}), extract(year FROM {moved})) <= {oldest}"
        return f"CASE WHEN {value} IS NULL THEN NULL WHEN {old} THEN '{oldest}-01-01'::{kind} ELSE {moved} END"

    def _moved(self, column: Column, value: str, kind: str) -> str:
        if self.recipe.shifts_dates:
            moved = self._shift() if kind == "date" else f"make_interval(hours => 24 * {self._shift()})"
            return f"({value} + {moved})::{kind}"
        if column.after:
            base = f"coalesce(t.{quoted(column.after)}, {value})"
            return f"(date_trunc('year', {base}) + ({value} - {base}))::{kind}"
        return f"date_trunc('year', {value})::{kind}"

    def _shift(self) -> str:
        """As ``shift_of``. Each byte is read once, because what stands twice in SQL is computed twice."""
        digest = self._of_person()
        sign, *days = (f"get_byte({digest}, {SHIFT_AT + i})" for i in range(SHIFT_BYTES))
        told = " + ".join(f"{byte} * {256**i}" for i, byte in enumerate(reversed(days)))
        return f"(1 + ({told}) % {MAX_SHIFT_DAYS}) * (1 - 2 * ({sign} & 1))"

    def _of_person(self) -> str:
        """The digest of whom a row belongs to: that of the masked key as well, where the column is one."""
        name = self.table.person
        person = f"t.{quoted(name)}::text" if name else "''"
        canonical = person if self.types.get(name) == "uuid" else f"lower(btrim({person}))"
        return f"coalesce({self._digest(PEOPLE, canonical)}, k.n{self.domains[PEOPLE]})"


def banded(holds: Holds, value: str, kind: str) -> str:
    """A birth date or an age as the beginning of its band, in which nobody stands out; what else it is stays."""
    if holds is Holds.BIRTH_DATE:
        return f"make_date(extract(year FROM {value})::int / {BAND_YEARS} * {BAND_YEARS}, 1, 1)::{kind}"
    return f"({value} / {BAND_YEARS} * {BAND_YEARS})::{kind}" if holds is Holds.AGE else value


def quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)


def qualified(table: str) -> str:
    """``identity.accounts`` as two identifiers."""
    return sql.Identifier(*table.split(".", 1)).as_string(None)


def _literal(text: str) -> str:
    return sql.Literal(text).as_string(None)


def _array(names: tuple[str, ...]) -> str:
    return "ARRAY[" + ", ".join(_literal(name) for name in names) + "]"


def _uuid_of(digest: str) -> str:
    raw = f"substring({digest} FROM 1 FOR 16)"
    version = f"set_byte({raw}, 6, get_byte({digest}, 6) & 15 | 128)"
    return f"encode(set_byte({version}, 8, get_byte({digest}, 8) & 63 | 128), 'hex')::uuid"


def _zip(text: str) -> str:
    small = ", ".join(_literal(prefix) for prefix in sorted(SMALL_ZIP3))
    prefix = f"left({text}, 3)"
    return f"CASE WHEN {prefix} ~ '^[0-9]{{3}}$' AND {prefix} NOT IN ({small}) THEN {prefix} ELSE '000' END || '00'"


def _phone(text: str, digest: str) -> str:
    area = f"(200 + (get_byte({digest}, 0) * 256 + get_byte({digest}, 1)) % 800)"
    line = f"lpad((get_byte({digest}, 2) % 100)::text, 2, '0')"
    return (
        f"CASE WHEN {text} ~ '^[0-9]{{3}}-[0-9]{{3}}-[0-9]{{4}}$' THEN {area} || '-555-01' || {line}"
        f" WHEN {text} ~ '^[+]1[0-9]{{10}}$' THEN '+1' || {area} || '55501' || {line}"
        f" WHEN {text} ~ '^[0-9]{{10}}$' THEN {area} || '55501' || {line}"
        f" ELSE '(' || {area} || ') 555-01' || {line} END"
    )
