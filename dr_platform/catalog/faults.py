"""What can be wrong with a catalog, as values, and the error that carries all of it at once.

Here: ``Fault`` and ``CatalogError``. Not here: finding faults (``documents``, ``explain``, ``rules``).
No text of a fault quotes a value of a file: any of them may be a secret pasted into the wrong field.
Names of fields and files, numbers of ports and the nearest right answer are shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from dr_platform.errors import ExitCode, PlatformError

_SHOWABLE_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}|[0-9]{1,6}")

WHOLE_FILE = "(file)"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    ``file`` is relative to the catalog's folder; ``field`` is a dotted path, or ``line N`` where the
    file could not be read as fields, or ``(file)``; ``line`` counts from 1 where it is known.
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
        self.next_step = "correct the fields above, then run `drp catalog validate`"


def field_path(segments: Iterable[str | int]) -> str:
    """``needs.services.0``; a key that could be a pasted value is not repeated."""
    texts = (str(segment) for segment in segments)
    return ".".join(text if _SHOWABLE_KEY.fullmatch(text) else "(key)" for text in texts) or WHOLE_FILE


def choose_among(offered: object, valid: Iterable[str], *, most: int = 12) -> str:
    """A remedy that names the valid answer nearest to what was written, which itself stays unsaid."""
    names = sorted(valid)
    if not names:
        return "remove it, there is nothing it could name"
    if isinstance(offered, str) and (near := _nearest(offered, names)):
        return f"did you mean {near}?"
    shown = ", ".join(names[:most])
    return f"choose one of: {shown}" + (f" and {len(names) - most} more" if len(names) > most else "")


def _nearest(offered: str, names: Sequence[str]) -> str | None:
    if not 2 <= len(offered) <= 60:
        return None
    longer = [name for name in names if name.startswith(offered)]
    return longer[0] if len(longer) == 1 else next(iter(get_close_matches(offered, names, n=1, cutoff=0.6)), None)
