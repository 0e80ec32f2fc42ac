"""What a look is: one question about one asset, what its answer costs, and that it always answers.

Not here: any particular look (``health``, ``validation``), or when one is taken (``watch``).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ParamSpec

from dr_platform.errors import PlatformError
from dr_platform.runtime.port import ProbeResult
from dr_platform.verdict import Verdict

P = ParamSpec("P")


class Cost(StrEnum):
    """What a look does to the platform, which says when it may be taken."""

    CHEAP = "cheap"
    """Reads: part of every run that brings something up."""
    THOROUGH = "thorough"
    """Makes requests as a user does: every hour, and when asked for."""
    LOAD = "load"
    """Puts load on the services for a while: only when asked for."""


@dataclass(frozen=True)
class Look:
    """One check of one asset. ``severe`` failures are errors, others warnings."""

    asset: tuple[str, str]
    check: str
    description: str
    verdict: Callable[[], Verdict]
    severe: bool = True
    after: tuple[tuple[str, str], ...] = ()
    """Assets that must be there before the look means anything, besides its own."""
    cost: Cost = Cost.CHEAP
    together: str = ""
    """Checks with the same word here are evaluated by one step, which is worth it where they share what is
    slow to load or wait for different things; otherwise those of one layer and name are."""
    blocking: bool = False
    """Whether what builds on the asset in the same run waits for the answer."""

    @property
    def step(self) -> str:
        """What the step that evaluates it is called."""
        return f"check_{self.together or f'{self.asset[0]}_{self.check}'}"


def always_answers(look: Callable[P, Verdict]) -> Callable[P, Verdict]:
    """A look that raises could not look."""

    @functools.wraps(look)
    def safe(*args: P.args, **kwargs: P.kwargs) -> Verdict:
        try:
            return look(*args, **kwargs)
        except PlatformError as exc:
            return Verdict.unknown(exc.what)
        except Exception as exc:  # noqa: BLE001 - a check that raises would hide its neighbours' verdicts
            return Verdict.unknown(type(exc).__name__)  # the type only: its text may quote data

    return safe


def health_body(answer: ProbeResult) -> Mapping[str, Any] | None:
    """A health response is JSON whatever its status code; anything else is no health response."""
    if answer.status is None:
        return None
    try:
        body = json.loads(answer.body)
    except ValueError:
        return None
    return body if isinstance(body, dict) and "status" in body else None
