"""Looking at many things side by side, and which answers are worth writing down.

Here: time limits, changes, a sign of life now and then. Not here: the looks themselves (``health``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

from dr_platform.clock import Clock
from dr_platform.look import Cost, Look
from dr_platform.verdict import Verdict

Looked = tuple[Look, Verdict]
CheckName = tuple[str, str, str]
"""Layer and name of an asset, and the name of its check."""

REPEAT = timedelta(minutes=15)
RECHECK = timedelta(minutes=2)
"""How long an answer stands that is not good and that the hourly schedule alone would correct: a short failure at its
minute must not stay red for an hour."""
SENSOR_BUDGET_S = 8.0
"""A tick must end before the next one is due, even if nothing answers."""
RUN_BUDGET_S = 120.0
"""Measured: all checks of a whole platform take 10 s on two cores."""
SIDE_BY_SIDE = 12
COSTLY_AT_ONCE = 4
"""The rest has its turn at the next ticks, so that each ends within the sensor's time."""
CADENCED_LAYERS = frozenset({"infrastructure", "databases", "services"})
COSTLY = frozenset({("infrastructure", "state"), ("services", "fleet")})
"""Left to the hourly schedule: one walks the whole evidence chain, the other repeats its parts."""


def is_cadenced(look: Look) -> bool:
    """Cheap enough for every few seconds. HIPAA properties of databases take many queries."""
    if look.cost is not Cost.CHEAP or look.asset in COSTLY or look.asset[0] not in CADENCED_LAYERS:
        return False
    return look.check == "healthy" or (look.check == "hipaa" and look.asset[0] == "services")


def name_of(look: Look) -> CheckName:
    return (*look.asset, look.check)


@dataclass(frozen=True)
class Written:
    """The newest entry of a check. ``promised``: a run that goes on will write the answer;
    ``broken``: a run had promised it and ended without."""

    passed: bool | None
    at: datetime
    why: str = ""
    promised: bool = False
    broken: bool = False


def due(
    looks: Iterable[Look], written: Mapping[CheckName, Written], now: datetime, again: Mapping[CheckName, datetime]
) -> list[Look]:
    """What a sensor looks at now, health first: what is cheap, what a run left without an answer, and what was
    not good some time ago, unless it was looked at ``again`` since. What a run is about to answer is left to it: an
    entry of ours would hide the run's own. Load is never put on by a sensor."""
    free = [look for look in looks if (known := written.get(name_of(look))) is None or not known.promised]
    cheap = [look for look in free if is_cadenced(look)]
    costly = [look for look in free if not is_cadenced(look) and look.cost is not Cost.LOAD]
    costly = [look for look in costly if _is_doubtful(look, written, now, again)]
    return sorted([*cheap, *costly[:COSTLY_AT_ONCE]], key=lambda look: look.check != "healthy")


def _is_doubtful(
    look: Look, written: Mapping[CheckName, Written], now: datetime, again: Mapping[CheckName, datetime]
) -> bool:
    name = name_of(look)
    if (entry := written.get(name)) is None or entry.broken or entry.passed:
        return entry is not None and entry.broken
    return now - max(entry.at, again.get(name, entry.at)) >= RECHECK


def looked_again(
    taken: Iterable[Look], before: Mapping[CheckName, datetime], now: datetime
) -> Mapping[CheckName, datetime]:
    """When costly looks were last taken, for as long as that matters. Their answers do not tell: what has not changed
    is not written."""
    kept = {name: at for name, at in before.items() if now - at < RECHECK}
    return kept | {name_of(look): now for look in taken if not is_cadenced(look)}


def look_at_all(looks: Iterable[Look], clock: Clock, within_s: float) -> list[Looked]:
    """Look side by side, because most of a look is waiting. A look that has not ended in time could
    not look; it goes on in its thread until its own time limit."""
    chosen = tuple(looks)
    deadline = clock.monotonic() + within_s
    pool = ThreadPoolExecutor(max_workers=SIDE_BY_SIDE, thread_name_prefix="look")
    try:
        futures = [pool.submit(look.verdict) for look in chosen]
        return [(look, _answer(f, deadline - clock.monotonic())) for look, f in zip(chosen, futures, strict=True)]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _answer(future: Future[Verdict], within_s: float) -> Verdict:
    try:
        return future.result(timeout=max(within_s, 0.0))
    except TimeoutError:
        return Verdict.unknown("no answer in time")
    except Exception as exc:  # noqa: BLE001 - one broken look must not hide the verdicts of the others
        return Verdict.unknown(type(exc).__name__)  # the type only: its text may quote data


def worth_writing(
    written: Mapping[CheckName, Written], looked: Iterable[Looked], now: datetime, repeat: timedelta = REPEAT
) -> list[Looked]:
    """Answers that differ from the newest entry, or repeat one that has become old."""

    def is_news(look: Look, verdict: Verdict) -> bool:
        before = written.get(name_of(look))
        return before is None or before.broken or before.passed != verdict.passed or now - before.at >= repeat

    return [(look, verdict) for look, verdict in looked if is_news(look, verdict)]
