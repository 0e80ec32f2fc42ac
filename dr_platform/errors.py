"""Expected failures and what a person reads of them.

Here: the base type every expected failure derives from, and its exit codes. Not here: the
failures themselves, which live beside the code that raises them.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of ``drp``. 0 is success and nothing else is."""

    OK = 0
    FAILED = 1
    """The operation ran and did not succeed."""
    REFUSED = 2
    """The input was wrong; nothing was started."""
    UNAVAILABLE = 3
    """Something the operation needs could not be reached; trying again may help."""


class PlatformError(Exception):
    """An expected failure: what happened, what was left untouched, what to do next.

    Subclasses pass plain facts to ``super().__init__`` so that the error survives pickling (Dagster
    carries errors between processes), and set the three texts. Texts never quote secrets or
    patient data.
    """

    what: str = "the operation failed"
    untouched: str = "everything else"
    next_step: str = "run `drp doctor`"
    exit_code: ExitCode = ExitCode.FAILED

    def __str__(self) -> str:
        return f"{self.what}\nUntouched: {self.untouched}.\nNext: {self.next_step}."


class TemporaryFailure(PlatformError):
    """Trying the same call again may succeed. Callers retry on this type only, with a limit."""

    exit_code = ExitCode.UNAVAILABLE
