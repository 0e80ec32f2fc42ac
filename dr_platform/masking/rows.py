"""One table's rows as values: documents, CQL rows, hashes, and what PostgreSQL does not mask itself.

Here: from rows to masked rows, a batch at a time. Not here: reading and writing them (the engines).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dr_platform.masking.classification import Column, Holds, Seal, Table
from dr_platform.masking.people import Roster, derived_key
from dr_platform.masking.recipe import Recipe
from dr_platform.masking.seals import KeyRing, place_of
from dr_platform.masking.text import NOBODY, Person, TextMasker
from dr_platform.masking.values import Moment, canonical, masked_key, masked_plain, masked_value, shift_of
from dr_platform.reference_service.cipher import Undecryptable

Row = Mapping[str, Any]
REMOVED_TEXT = "[REMOVED]"
"""Stands for a sealed text that did not open, and for a text of somebody of whom nothing is known: only its
shapes could be found, and the name that stands in it would stay."""
_CONTAINER = Column(holds=Holds.SECRET)
"""What has no class of its own is a container, whose leaves have; a leaf in its place is removed."""
_LATE = frozenset({Holds.BLIND_INDEX})
_DATED = frozenset({Holds.DATE, Holds.BIRTH_DATE, Holds.KEY})


class _Waiting:
    """A text that is masked together with the others of its batch."""

    __slots__ = ("person", "text")

    def __init__(self, text: str, person: Person) -> None:
        self.text, self.person = text, person


class _Written:
    """A document that is written as text once its texts are masked."""

    __slots__ = ("document",)

    def __init__(self, document: Any) -> None:
        self.document = document


def _settled(value: Any) -> Any:
    """The value with masked texts in place of those that waited."""
    kind = type(value)
    if kind is _Waiting:
        return value.text
    if kind is _Written:
        return _WRITTEN(value.document)
    if kind is dict:
        return {key: _settled(one) for key, one in value.items()}
    if kind is list:
        return [_settled(one) for one in value]
    return value


_WRITTEN = json.JSONEncoder(ensure_ascii=False, default=_settled).encode


def is_late(column: Column) -> bool:
    """Whether the masked value depends on other masked values of the row."""
    return column.sealed is not None or column.holds in _LATE


@dataclass(frozen=True)
class _Order:
    """The columns of a row in the order in which they are masked."""

    plain: tuple[tuple[str, Column], ...]
    sealed: tuple[tuple[str, Column, Seal], ...]
    indexes: tuple[tuple[str, Column], ...]
    dated: bool


def _order(table: Table, names: Sequence[str]) -> _Order:
    columns = [(name, _column_at(table.columns, name)) for name in names]
    sealed = tuple((name, column, column.sealed) for name, column in columns if column.sealed is not None)
    plain = tuple((name, column) for name, column in columns if not is_late(column))
    indexes = tuple((name, column) for name, column in columns if column.holds is Holds.BLIND_INDEX)
    return _Order(plain, sealed, indexes, any(_is_dated(column) for _, column in plain))


def _is_dated(column: Column) -> bool:
    """Whether a person's shift may move the value; a key may be a time-based UUID."""
    return column.holds in _DATED or any(map(_is_dated, column.paths.values()))


class _Shape:
    """A place in documents. Those that lead to a classified one are kept, so that no path is put together for
    each value."""

    def __init__(self, columns: Mapping[str, Column], path: str = "") -> None:
        self._columns, self.path, self.column = columns, path, _column_at(columns, path)
        self._kept: dict[str | None, _Shape] = {}

    def below(self, field_: str | None) -> _Shape:
        """Under a name, or in a list."""
        return self._kept.get(field_) or self._made(field_)

    def _made(self, field_: str | None) -> _Shape:
        path = f"{self.path}[]" if field_ is None else f"{self.path}.{field_}" if self.path else field_
        made = _Shape(self._columns, path)
        if any(classified.startswith(path) for classified in self._columns):
            self._kept[field_] = made
        return made


@dataclass
class RowMasker:
    """Masks rows of one table. ``opened`` has the source's keys, ``sealing`` those of staging."""

    table: Table
    recipe: Recipe
    roster: Roster
    opened: KeyRing
    sealing: KeyRing
    unopened: Counter[str] = field(default_factory=Counter)
    unowned: Counter[str] = field(default_factory=Counter)
    waiting: list[_Waiting] = field(default_factory=list, repr=False)
    """Texts of the batch that are not masked yet."""

    def __post_init__(self) -> None:
        self._open, self._seal = self.opened.cipher(), self.sealing.cipher()
        self._texts = TextMasker(self.roster.crowd)
        self._orders: dict[tuple[str, ...], _Order] = {}
        self._shapes: dict[int, _Shape] = {}

    def mask(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Every column of every row; the table must classify all of them."""
        return self.complete(rows, [{} for _ in rows])

    def complete(self, rows: Sequence[Row], masked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Fill in the columns that ``masked`` does not have yet. Columns that no row of ``rows`` has stay out."""
        owners = self._owners(rows)
        begun = [self._one(row, done, owner) for row, done, owner in zip(rows, masked, owners, strict=True)]
        self._mask_waiting()
        for row, done, (order, plain) in zip(rows, masked, begun, strict=True):
            for name, _ in order.plain:
                done[name] = _settled(done[name])
            if order.sealed:
                self._finish(row, done, plain, order)
        return list(masked)

    def _mask_waiting(self) -> None:
        """All texts of a batch at once, because many cost little more than one."""
        waiting, self.waiting[:] = tuple(self.waiting), ()
        found = self._texts.mask_all([one.text for one in waiting], [one.person for one in waiting])
        for one, text in zip(waiting, found, strict=True):
            one.text = text

    def _owners(self, rows: Sequence[Row]) -> list[Person]:
        column = self.table.person
        return self.owners([row.get(column) for row in rows]) if column else [NOBODY] * len(rows)

    def owners(self, keys: Sequence[Any]) -> list[Person]:
        """Whose each row is, from the values of its column that names the person."""
        return self.roster.owners(self.table.link, keys)

    def _one(self, row: Row, done: dict[str, Any], person: Person) -> tuple[_Order, dict[str, Any]]:
        """Everything but texts, which wait; the second is what sealed columns hold, not yet sealed."""
        order = self._order_of(row, done)
        shift = shift_of(self.recipe, person.key) if order.dated and self.recipe.shifts_dates else 0
        for name, column in order.plain:
            moment = Moment(shift, row.get(column.after)) if column.after else Moment(shift)
            done[name] = self._value(column, row[name], person, moment, name)
        return order, {name: self._plain(name, column, row, person) for name, column, _ in order.sealed}

    def _finish(self, row: Row, done: dict[str, Any], plain: Mapping[str, Any], order: _Order) -> None:
        """Sealed columns, whose places are named by masked values, and what is computed from them."""
        texts = {name: _settled(text) for name, text in plain.items()}
        for name, _, seal in order.sealed:
            text = texts[name]
            done[name] = None if text is None else self._seal.encrypt(text, place_of(seal, done))
        for name, column in order.indexes:
            text = texts.get(column.of)
            done[name] = None if row[name] is None or text is None else self._seal.blind_index(text, column.purpose)
        if "key_version" in row:
            done["key_version"] = type(row["key_version"] or 1)(self._seal.key_version)

    def _order_of(self, row: Row, done: Row) -> _Order:
        names = tuple(name for name in row if name not in done) if done else tuple(row)
        if names not in self._orders:
            self._orders[names] = _order(self.table, names)
        return self._orders[names]

    # Values

    def _value(self, column: Column, value: Any, person: Person, moment: Moment, path: str) -> Any:
        if value is None:
            return None
        if column.holds is Holds.TEXT:
            return self._text(value, person, path)
        if column.holds is Holds.JSON:
            return self._json(column, value, person, moment)
        if isinstance(value, dict):
            return {key: self._inner(path, key, one, person, moment) for key, one in value.items()}
        if isinstance(value, list):
            return [self._inner(path, None, one, person, moment) for one in value]
        if column.derived:
            return self._derived(column, value)
        return masked_value(self.recipe, column, value, moment)

    def _inner(self, path: str, key: str | None, value: Any, person: Person, moment: Moment) -> Any:
        below = f"{path}[]" if key is None else f"{path}.{key}"
        if isinstance(value, dict):
            return {k: self._inner(below, k, v, person, moment) for k, v in value.items()}
        if isinstance(value, list):
            return [self._inner(below, None, v, person, moment) for v in value]
        return self._value(_column_at(self.table.columns, below), value, person, moment, below)

    def texts_of(self, values: Sequence[Any], people: Sequence[Person], path: str) -> list[Any]:
        """Texts, each with its person, which stand at this path; what is missing stays so."""
        if None not in values and all(person.is_known for person in people):
            return self._texts.mask_all(values, people)
        found = [None if v is None else self._text(v, p, path) for v, p in zip(values, people, strict=True)]
        self._mask_waiting()
        return [_settled(text) for text in found]

    def _text(self, value: Any, person: Person, path: str) -> Any:
        """A text of the person, which stands at this path."""
        if isinstance(value, bytes | bytearray | memoryview):  # plain bytes where ciphertext or text belongs
            return REMOVED_TEXT.encode()
        if not person.is_known:
            self.unowned[path] += 1
            return REMOVED_TEXT
        waiting = _Waiting(str(value), person)
        self.waiting.append(waiting)
        return waiting

    def _json(self, column: Column, value: Any, person: Person, moment: Moment) -> Any:
        document = json.loads(value) if isinstance(value, str) else value
        if id(column) not in self._shapes:
            self._shapes[id(column)] = _Shape(column.paths)
        masked = self._within(self._shapes[id(column)], document, person, moment)
        return _Written(masked) if isinstance(value, str) else masked

    def _within(self, shape: _Shape, value: Any, person: Person, moment: Moment) -> Any:
        """A document, or a part of one."""
        if isinstance(value, dict):
            return {k: self._within(shape.below(k), one, person, moment) for k, one in value.items()}
        if isinstance(value, list):
            below = shape.below(None)
            return [self._within(below, one, person, moment) for one in value]
        return self._value(shape.column, value, person, moment, shape.path)

    def _derived(self, column: Column, value: Any) -> Any:
        """A name-based UUID of a key: that of the masked key where the key is known."""
        person = self.roster.people("", [value])[canonical(value)]
        if person.key == canonical(value):
            return masked_key(self.recipe, column.domain, value)
        return derived_key(column.derived, str(masked_key(self.recipe, column.domain, person.key)))

    def _plain(self, name: str, column: Column, row: Row, person: Person) -> Any:
        if row[name] is None or column.sealed is None:
            return None
        try:
            text = self._open.decrypt(bytes(row[name]), place_of(column.sealed, row))
        except Undecryptable:
            self.unopened[name] += 1
            if column.holds is Holds.TEXT:
                return REMOVED_TEXT
            text = bytes(row[name]).hex()
        if column.holds is Holds.TEXT:
            return self._text(text, person, name)
        return masked_plain(self.recipe, column.holds, text)


def _column_at(columns: Mapping[str, Column], path: str) -> Column:
    """The column of a path; a container of classified paths is nothing by itself."""
    return columns.get(path) or _CONTAINER


def leaf_paths(value: Any, path: str = "") -> Iterator[str]:
    """Every path of a document that ends in a value: ``a.b``, ``list[]``, ``list[].c``."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from leaf_paths(one, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for one in value:
            yield from leaf_paths(one, f"{path}[]")
    elif value is not None:
        yield path
