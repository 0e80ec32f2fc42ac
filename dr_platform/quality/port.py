"""What a database must be able to count for its data to be judged.

Here: the port. Not here: the engines, and what the counts mean.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from dr_platform.errors import ExitCode, PlatformError
from dr_platform.quality.model import Rule

Key = str | int | bytes
"""A value that names a row, in the form in which two databases can compare it."""
MOST_REFERENCES = 20_000
"""Distinct references that one look follows."""
MOST_ROWS = 1_000_000
"""Rows that one look reads where the server cannot count by itself."""


@dataclass(frozen=True)
class Counted:
    """How often a rule was broken. ``of`` is what was looked at: rows, keys, or names of columns;
    ``whole`` is false where that was not everything there is."""

    rule: Rule
    broken: int
    of: int
    whole: bool = True


class Inspector(Protocol):
    """Counts only; no value of a row leaves it but to be looked up in another database."""

    def count(self, rules: Sequence[Rule]) -> Sequence[Counted]:
        """One answer for each rule that is no ``Refers``, in their order. A table that is not there
        raises what the engine says of it."""

    def keys(self, table: str, column: str, /) -> Iterator[Key]:
        """Distinct values of a column that are not null, at most ``MOST_REFERENCES``."""

    def present(self, table: str, column: str, keys: Collection[Key], /) -> int:
        """How many of these (distinct) values the column has."""

    def close(self) -> None: ...


class NotExamined(PlatformError):
    def __init__(self, database: str, table: str) -> None:
        super().__init__(database, table)
        self.what = f"{database}: {table} could not be examined: a table or column of the expectations is not there"
        self.untouched = f"everything in {database}; its data is only read"
        self.next_step = f"compare `drp materialize schema/{database}` with the expectations of the catalog"


class NotApplicable(PlatformError):
    """The catalog expects what this engine's data cannot have."""

    exit_code = ExitCode.REFUSED

    def __init__(self, table: str, kind: str) -> None:
        super().__init__(table, kind)
        self.what = f"{table}: `{kind}` cannot be asked of this engine"
        self.untouched = "every database; nothing was counted"
        self.next_step = "remove it from expectations.yaml; docs/data-quality.md says what each engine can be asked"
