"""What can be wrong with a catalog, as values, and the error that carries all of it at once.

Here: ``Fault`` and ``CatalogError``. Not here: finding faults (``documents``, ``load``, ``rules``).
No text of a fault quotes a value of a file: any of them may be a secret pasted into the wrong field.
Keys, names of files and numbers of ports are shown.
"""

from __future__ import annotations

from dataclasses import dataclass

from dr_platform.errors import ExitCode, PlatformError


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    ``file`` is relative to the catalog's folder, ``field`` a dotted path (or ``line N`` where the
    file could not be read as fields, or ``(file)``), ``line`` counts from 1 where it is known.
    """

    file: str
    field: str
    problem: str
    remedy: str
    line: int | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.field}: {self.problem}; {self.remedy}"


class CatalogError(PlatformError):
    """The catalog cannot be used. ``faults`` are all that were found, in the order of the files."""

    exit_code = ExitCode.REFUSED

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__(faults)
        self.faults = faults
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        self.what = f"the catalog has {count}:\n" + "\n".join(f"  {fault}" for fault in faults)
        self.untouched = "everything that runs; the whole catalog is read before anything starts"
        self.next_step = "correct the files above, then run `drp catalog validate`"
