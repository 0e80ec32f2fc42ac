"""The answer of a look at something: good, bad, or could not look."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Measure = str | int | float | bool

Progress = Callable[[str], None]
"""Takes one line for the person who waits; never a secret, never patient data."""


def silent(_line: str) -> None:
    """A ``Progress`` for callers that nobody watches."""


@dataclass(frozen=True)
class Verdict:
    """``passed`` is ``None`` when the look itself failed, which never passes.

    ``measurements`` have stable names with their unit as suffix (``latency_ms``, ``size_bytes``,
    ``error_ratio``), so that they can be plotted over time.
    """

    passed: bool | None
    why: str
    measurements: Mapping[str, Measure] = field(default_factory=dict)
    report: str = ""
    """Markdown for a person who looks at the asset; empty where ``why`` says it all."""

    @classmethod
    def unknown(cls, why: str) -> Verdict:
        return cls(None, f"could not look: {why}")
