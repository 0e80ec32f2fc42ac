"""Which of many repeated looks are worth writing down: changes, and a sign of life now and then."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from dr_platform.health import Look
from dr_platform.verdict import Verdict

REPEAT = timedelta(minutes=15)
CADENCED_LAYERS = frozenset({"infrastructure", "databases", "services"})
COSTLY = frozenset({("infrastructure", "state"), ("services", "fleet")})
"""Left to the hourly schedule: one walks the whole evidence chain, the other repeats its parts."""


def is_cadenced(look: Look) -> bool:
    """Cheap enough for every few seconds. HIPAA properties of databases take many queries."""
    if look.asset in COSTLY or look.asset[0] not in CADENCED_LAYERS:
        return False
    return look.check == "healthy" or (look.check == "hipaa" and look.asset[0] == "services")


@dataclass(frozen=True)
class Seen:
    """Per check the last written answer and when it was written (seconds since 1970)."""

    answers: Mapping[str, tuple[bool | None, float]] = field(default_factory=dict)

    @classmethod
    def from_text(cls, text: str | None) -> Seen:
        raw = json.loads(text) if text else {}
        return cls({key: (passed, at) for key, (passed, at) in raw.items()})

    def to_text(self) -> str:
        return json.dumps(self.answers)


def name_of(look: Look) -> str:
    return "/".join((*look.asset, look.check))


def worth_reporting(
    seen: Seen, verdicts: Iterable[tuple[Look, Verdict]], now: datetime
) -> tuple[list[tuple[Look, Verdict]], Seen]:
    """The verdicts to write, and what will have been seen once they are written."""
    answers, chosen = dict(seen.answers), []
    for look, verdict in verdicts:
        before = answers.get(name_of(look))
        stale = before is None or now.timestamp() - before[1] >= REPEAT.total_seconds()
        if stale or before[0] != verdict.passed:
            chosen.append((look, verdict))
            answers[name_of(look)] = (verdict.passed, now.timestamp())
    return chosen, Seen(answers)
