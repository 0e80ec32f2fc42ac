"""Masking a database table by table, or collection by collection, with a page of rows in memory at a time.

Here: the frame that engines without SQL share. Not here: what a value becomes (``rows``), or how an engine
reads, writes and makes its target.
"""

from __future__ import annotations

import contextlib
import itertools
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from dr_platform.masking.canaries import Canaries
from dr_platform.masking.classification import Table
from dr_platform.masking.engine import Engine
from dr_platform.masking.imitation import imitated
from dr_platform.masking.people import Roster
from dr_platform.masking.port import Gate, Masked, Run, SameDatabase
from dr_platform.masking.rows import RowMasker
from dr_platform.masking.seals import place_of
from dr_platform.reference_service.cipher import Undecryptable

PAGE = 500
Row = dict[str, Any]
Live = TypeVar("Live")


def pages(rows: Iterable[Row]) -> Iterator[list[Row]]:
    left = iter(rows)
    while page := list(itertools.islice(left, PAGE)):
        yield page


def is_whole(before: int | None, rows: int, after: int | None) -> bool:
    """Whether as many rows were read as a source had, which may have changed from ``before`` to ``after`` meanwhile."""
    return before is None or after is None or min(before, after) <= rows <= max(before, after)


class TableMasking(Engine, Generic[Live]):
    """Most of an ``EngineMasking``."""

    unit: ClassVar[str]
    """What a row is called."""
    what_stays: ClassVar[str]
    """Name of the second gate."""
    _source: Live

    # What an engine brings

    @property
    @abstractmethod
    def _made_target(self) -> Live: ...

    @abstractmethod
    def _names(self, database: Live) -> Collection[str]:
        """Of all its tables."""

    @abstractmethod
    def _rows(self, database: Live, name: str, columns: Sequence[str] = ()) -> Iterable[Row]:
        """All rows; with ``columns`` perhaps those alone."""

    @abstractmethod
    def _first(self, name: str) -> Row | None:
        """Any row of the source."""

    @abstractmethod
    def _write(self, database: Live, name: str, rows: Sequence[Row]) -> int: ...

    @abstractmethod
    def _arrived(self, name: str) -> int:
        """How many rows the target has."""

    def _extent(self, name: str) -> int | None:  # noqa: ARG002 - what an engine needs
        """How many rows the source has by its own account; ``None`` where it would read all of them to tell."""
        return None

    @abstractmethod
    def _staying(self, name: str) -> Iterator[tuple[str, int]]:
        """What may not be in both databases, and how often it is."""

    @abstractmethod
    def _texts(self, row: Row) -> Iterable[tuple[str, bytes]]: ...

    # A run

    def _masked_tables(self) -> dict[str, Table]:
        there = self._names(self._source)
        return {name: table for name, table in self._known.tables.items() if table.is_masked and name in there}

    def _refuse_same(self) -> None:
        if self._source_access.endpoint == self._target_access.endpoint:
            raise SameDatabase(self.name)

    def plant(self, canaries: Canaries) -> int:
        planted, cipher = 0, self._opened.cipher()
        for name, table in self._masked_tables().items():
            template = self._first(name)
            if template is not None and table.person:
                rows = [imitated(table, template, canary, n, cipher) for n, canary in enumerate(canaries.people)]
                planted += self._write(self._source, name, rows)
        return planted

    def fill(self, roster: Roster) -> None:
        for name, table in self._masked_tables().items():
            for kind, column in table.links.items():
                rows = self._rows(self._source, name, (column, table.person))
                pairs = ((row.get(column), row.get(table.person)) for row in rows)
                roster.link(kind, ((str(key), str(person)) for key, person in pairs if key and person))

    def mask(self, run: Run) -> tuple[Masked, ...]:
        with contextlib.closing(Roster(run.roster)) as roster:
            return tuple(self._mask_one(name, table, run, roster) for name, table in self._masked_tables().items())

    def _mask_one(self, name: str, table: Table, run: Run, roster: Roster) -> Masked:
        masker = RowMasker(table, run.recipe, roster, self._opened, self._sealing)
        before = self._extent(name)
        rows = written = 0
        for page in pages(self._rows(self._source, name)):
            rows += len(page)
            written += self._write(self._made_target, name, masker.mask(page))
        whole = is_whole(before, rows, self._extent(name))
        run.progress(f"{self.name}: {name}: {rows} {self.unit}s")
        return Masked(name, rows, written, masker.unopened.total(), masker.unowned.total(), whole=whole)

    def stored_texts(self) -> Iterator[tuple[str, bytes]]:
        cipher = self._sealing.cipher()
        for name in self._names(self._made_target):
            table = self._known.tables.get(name)
            for row in self._rows(self._made_target, name):
                yield from ((f"{name}.{path}", text) for path, text in self._texts(row))
                for column, described in (table.columns if table else {}).items():
                    if described.sealed is not None and row.get(column) is not None:
                        with contextlib.suppress(Undecryptable):  # staging cannot read it either
                            opened = cipher.decrypt(bytes(row[column]), place_of(described.sealed, row))
                            yield f"{name}.{column}", opened.encode()

    def _differing(self, one: Masked) -> str:
        """The target is compared with what was read: a source that lives goes on changing."""
        if not one.whole:
            return f"{one.name}: {one.rows} were read, the source had another number before and after"
        arrived = self._arrived(one.name)
        return "" if arrived == one.rows else f"{one.name}: {one.rows} were read, {arrived} arrived"

    def gates(self, masked: tuple[Masked, ...]) -> tuple[Gate, ...]:
        differing = [why for one in masked if (why := self._differing(one))]
        met = {place: hits for one in masked for place, hits in self._staying(one.name) if hits}
        total, hits = sum(one.rows for one in masked), sum(met.values())
        return (
            Gate(
                f"{self.name}: {self.unit} counts",
                not differing,
                ", ".join(differing) or "as before",
                {f"{self.unit}s": total},
            ),
            Gate(f"{self.name}: {self.what_stays}", not met, ", ".join(met) or "none", {"hits": hits}),
        )


def texts_inside(value: Any, path: str = "") -> Iterator[tuple[str, bytes]]:
    """Everything of a document that may hold text, field names included."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield path or "(name)", str(key).encode()
            yield from texts_inside(one, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple | set | frozenset):
        for one in value:
            yield from texts_inside(one, f"{path}[]")
    elif isinstance(value, bytes | bytearray | memoryview):
        yield path, bytes(value)
    elif value is not None:
        yield path, str(value).encode()
