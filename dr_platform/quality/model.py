"""What a person writes about the data of one database: ``catalog/databases/<name>/expectations.yaml``.

Here: the file's model, and the single rules that it amounts to. Not here: counting, and judging counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from dr_platform.catalog.beside import read_beside
from dr_platform.catalog.models import Model
from dr_platform.catalog.quantities import Duration

FILE = "expectations.yaml"
Table = Annotated[str, Field(min_length=1, max_length=120)]
Column = Annotated[str, Field(min_length=1, max_length=120)]
Columns = tuple[Column, ...]


class Dimension(StrEnum):
    """In which way data can be bad; each is a check of its own."""

    COLUMNS = "columns"
    NULLS = "nulls"
    RANGES = "ranges"
    REFERENCES = "references"
    FRESHNESS = "freshness"
    VOLUME = "volume"


class Bounds(Model):
    at_least: float | None = Field(default=None, description="smallest allowed value")
    at_most: float | None = Field(default=None, description="largest allowed value")

    def admit(self, number: float) -> bool:
        return (self.at_least is None or number >= self.at_least) and (self.at_most is None or number <= self.at_most)

    @model_validator(mode="after")
    def _bounds_something(self) -> Bounds:
        if self.at_least is None and self.at_most is None:
            raise ValueError("bounds nothing: write at_least, at_most or both")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError("admits no value: write an at_least that is not above at_most")
        return self


class Freshness(Model):
    column: Column = Field(description="when a row came, in the server's time")
    within: Duration = Field(description="the newest row is at most this old; a table without rows is not stale")


class TableExpectations(Model):
    """One table or collection, or in Redis one pattern of keys."""

    columns: Columns = Field(default=(), description="these and no others")
    never_null: Columns = Field(default=(), description="have a value in every row")
    values: dict[Column, tuple[str | int, ...]] = Field(default_factory=dict, description="are one of these")
    ranges: dict[Column, Bounds] = Field(default_factory=dict, description="are numbers within bounds")
    unique: tuple[Columns, ...] = Field(default=(), description="sets of columns that no two rows have in common")
    refers: dict[Column, str] = Field(
        default_factory=dict, description="names a row of table.column, or of database/table.column"
    )
    fresh: Freshness | None = Field(default=None, description="how old the newest row may be")
    volume: Bounds | None = Field(default=None, description="how many rows there are")
    expires: bool = Field(default=False, description="every key has a time to live")


class DatabaseExpectations(Model):
    warns: tuple[Dimension, ...] = Field(default=(), description="dimensions whose failures are warnings")
    tables: dict[Table, TableExpectations] = Field(min_length=1, description="by the name that the server knows")

    @model_validator(mode="after")
    def _expects_something(self) -> DatabaseExpectations:
        if any(next(rules_of(name, table), None) is None for name, table in self.tables.items()):
            raise ValueError("expects nothing of a table: write what it must be like, or remove it")
        return self


@dataclass(frozen=True)
class Rule:
    """One thing that must be so in one table."""

    table: str

    @property
    def dimension(self) -> Dimension:
        return _DIMENSIONS[type(self)]

    def broken(self) -> str:
        """What is wrong where it is not so; names of columns, never a value of a row."""
        raise NotImplementedError


@dataclass(frozen=True)
class HasColumns(Rule):
    columns: Columns

    def broken(self) -> str:
        return "has other columns than declared"


@dataclass(frozen=True)
class NotNull(Rule):
    column: str

    def broken(self) -> str:
        return f"{self.column} is missing"


@dataclass(frozen=True)
class OneOf(Rule):
    column: str
    allowed: tuple[str | int, ...]

    def broken(self) -> str:
        return f"{self.column} is none of its {len(self.allowed)} values"


@dataclass(frozen=True)
class Within(Rule):
    column: str
    bounds: Bounds

    def broken(self) -> str:
        return f"{self.column} is out of its bounds"


@dataclass(frozen=True)
class Unique(Rule):
    columns: Columns

    def broken(self) -> str:
        return f"{', '.join(self.columns)} occurs more than once"


@dataclass(frozen=True)
class Refers(Rule):
    """``database`` is ``None`` where the target is in the same one."""

    column: str
    database: str | None
    target: str
    target_column: str

    def broken(self) -> str:
        return f"{self.column} names no row of {self.target}"


@dataclass(frozen=True)
class Fresh(Rule):
    column: str
    within_s: float

    def broken(self) -> str:
        return f"its newest row is older than {self.within_s / 3600:g} h"


@dataclass(frozen=True)
class Holds(Rule):
    bounds: Bounds

    def broken(self) -> str:
        return "has a number of rows out of its bounds"


@dataclass(frozen=True)
class Expires(Rule):
    def broken(self) -> str:
        return "has keys that never expire"


_DIMENSIONS: Mapping[type[Rule], Dimension] = {
    HasColumns: Dimension.COLUMNS,
    NotNull: Dimension.NULLS,
    OneOf: Dimension.RANGES,
    Within: Dimension.RANGES,
    Unique: Dimension.REFERENCES,
    Refers: Dimension.REFERENCES,
    Fresh: Dimension.FRESHNESS,
    Expires: Dimension.FRESHNESS,
    Holds: Dimension.VOLUME,
}


def rules_of(table: str, wanted: TableExpectations) -> Iterator[Rule]:
    if wanted.columns:
        yield HasColumns(table, wanted.columns)
    for column in wanted.never_null:
        yield NotNull(table, column)
    for column, allowed in wanted.values.items():
        yield OneOf(table, column, allowed)
    for column, bounds in wanted.ranges.items():
        yield Within(table, column, bounds)
    for columns in wanted.unique:
        yield Unique(table, columns)
    for column, named in wanted.refers.items():
        database, _, place = named.rpartition("/")
        target, _, target_column = place.rpartition(".")
        yield Refers(table, column, database or None, target, target_column)
    if wanted.fresh is not None:
        yield Fresh(table, wanted.fresh.column, wanted.fresh.within)
    if wanted.volume is not None:
        yield Holds(table, wanted.volume)
    if wanted.expires:
        yield Expires(table)


def rules_by_dimension(expectations: DatabaseExpectations) -> Mapping[Dimension, tuple[Rule, ...]]:
    """The rules of one database; dimensions of which nothing is expected are left out."""
    found: dict[Dimension, list[Rule]] = {}
    for name, table in expectations.tables.items():
        for rule in rules_of(name, table):
            found.setdefault(rule.dimension, []).append(rule)
    return {dimension: tuple(found[dimension]) for dimension in Dimension if dimension in found}


def read_expectations(root: Path) -> Mapping[str, DatabaseExpectations]:
    """By name of the database. Raises ``CatalogError`` with all faults of all files."""
    return read_beside(root, FILE, DatabaseExpectations)
