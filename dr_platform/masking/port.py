"""Where masking reads from and writes to, and what it promises of a run.

Here: values, the port to a source, errors. Not here: any engine, or where a restored copy comes from:
whoever restores one implements ``MaskSource``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from dr_platform.catalog import Database
from dr_platform.databases.access import Login
from dr_platform.databases.port import Endpoint
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.masking.people import Roster, RosterFile
from dr_platform.masking.recipe import Recipe
from dr_platform.masking.seals import KeyRing
from dr_platform.verdict import Progress, silent

if TYPE_CHECKING:
    from dr_platform.masking.canaries import Canaries


@dataclass(frozen=True)
class Access:
    """How to reach one database. Can be pickled; never shown."""

    database: Database
    endpoint: Endpoint
    login: Login = field(repr=False)

    @property
    def name(self) -> str:
        return self.database.name


class MaskSource(Protocol):
    """A production backup that was brought back, or a live database of synthetic data."""

    @property
    def name(self) -> str:
        """For people: a backup's identifier, or ``live``."""

    @property
    def expendable(self) -> bool:
        """Whether it may be written to: canaries are planted into a copy that nobody else uses, never
        into a database that serves somebody."""

    def access(self) -> Mapping[str, Access]:
        """By name of the database. Those that are missing are not masked."""


@dataclass(frozen=True)
class Masked:
    """One table, collection or kind of key after a run."""

    name: str
    rows: int
    written: int
    unopened: int = 0
    """Sealed values that did not open and were replaced."""
    unowned: int = 0
    """Texts of somebody of whom nothing is known, which were removed."""
    whole: bool = True
    """As many rows were read as the source had meanwhile, by its own account where it gives one."""

    def plus(self, other: Masked) -> Masked:
        """Both parts of one table together."""
        return Masked(
            self.name,
            self.rows + other.rows,
            self.written + other.written,
            self.unopened + other.unopened,
            self.unowned + other.unowned,
            self.whole and other.whole,
        )


@dataclass(frozen=True)
class Gate:
    """One proof of the result. ``passed`` is ``None`` where it could not be looked at, which does not
    pass. ``detail`` names tables, columns and counts, never a value."""

    name: str
    passed: bool | None
    detail: str
    counts: Mapping[str, int | float] = field(default_factory=dict)


class SameDatabase(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.what = f"{name}: source and target are the same database; masking never works in place"
        self.untouched = f"everything stored in {name}"
        self.next_step = "name another target"


class TargetExists(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(
        self, name: str, database: str, next_step: str = "run again, which chooses a new name, or remove it"
    ) -> None:
        super().__init__(name, database, next_step)
        self.what = f"{name}: the target {database} exists or is not empty; masking writes into a new one"
        self.untouched = f"everything stored in {name}"
        self.next_step = next_step


class NotMaskable(PlatformError):
    """The plan contradicts the schema. Found before anything is written; all at once."""

    exit_code = ExitCode.REFUSED

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__(problems)
        self.what = "the schema cannot take masked values:\n" + "\n".join(f"  {problem}" for problem in problems)
        self.untouched = "source and staging; the whole schema is compared before the first write"
        self.next_step = "correct classification.yaml: another class, or drop the rows of the table"


class EngineMasking(Protocol):
    """One database's part of a run. Nothing is written before ``make_target``."""

    name: str

    @property
    def into(self) -> str:
        """What the target is called on its server."""
        ...

    def schema(self) -> Mapping[str, tuple[str, ...]]:
        """Tables of the source with every column or path that occurs."""

    def refuse_problems(self) -> None:
        """Raise ``NotMaskable`` or ``SameDatabase`` for what can be known before anything is written."""

    def plant(self, canaries: Canaries) -> int:
        """Write canaries into an expendable source; how many rows."""

    def fill(self, roster: Roster) -> None:
        """Tell the roster of people and of what is linked to them."""

    def make_target(self) -> None:
        """A new database with the source's schema. Raises ``TargetExists``."""

    def mask(self, run: Run) -> tuple[Masked, ...]: ...

    def stored_texts(self) -> Iterator[tuple[str, bytes]]:
        """Everything stored in the target that may hold text, with the name of its table or key pattern
        and column; read without any of the code that masked."""

    def gates(self, masked: tuple[Masked, ...]) -> tuple[Gate, ...]:
        """What the engine itself can prove of the result."""

    def discard(self) -> None:
        """Remove what ``make_target`` made, also half-way."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Run:
    """What all engines of a run share."""

    recipe: Recipe
    roster: RosterFile
    opened: KeyRing = field(repr=False)
    sealing: KeyRing = field(repr=False)
    progress: Progress = silent
