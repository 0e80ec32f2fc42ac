"""What the triggers said of rollouts, as verdicts: the evidence of each decision, for whoever looks back.

Here: reading what rollouts told of their analyses, and judging what a service runs by it. Not here: any
trigger (``rollout.guards``), which looks are worth keeping (``rollout.events``), or where a verdict is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from dr_platform.evidence import Entry
from dr_platform.platform import Platform
from dr_platform.rollout import record as records
from dr_platform.rollout.events import ANALYSIS
from dr_platform.rollout.guards import Verdict as Judged
from dr_platform.rollout.record import Outcome, Record
from dr_platform.verdict import Measure, Verdict

CHECK = "analysis"
ENTRY = "evidence_entry"
"""Names the evidence that a check result was made of, so that none is shown twice."""
SHOWN_AT_ONCE = 50
"""The rest has its turn at the next look."""
_ABOUT = ("version", "phase", "step", "steps", "weight", "turn", "verdict", "trigger", "fired_literal", "fired_guard")
_ANSWERS = {Judged.PASS: True, Judged.FAIL: False}


@dataclass(frozen=True)
class Analysis:
    """One turn of a rollout. ``entry`` is the sequence number of its evidence."""

    service: str
    entry: int
    verdict: Verdict


def told_since(platform: Platform, after: int) -> tuple[Analysis, ...]:
    """Analyses in the evidence log after this entry, oldest first. Raises ``OperationsUnavailable``."""
    found = platform.evidence.entries(kind=ANALYSIS, after=after)
    return tuple(map(analysis_of, islice(found, SHOWN_AT_ONCE)))


def analysis_of(entry: Entry) -> Analysis:
    """What could not be judged is neither good nor bad."""
    body = entry.body
    about: dict[str, Measure] = {name: body[name] for name in _ABOUT}
    measured = {**about, "rollout": entry.subject, ENTRY: entry.sequence, **dict(_each(body["evaluations"]))}
    why = f"{body['version']} at {body['weight']} %, {str(body['turn']).replace('-', ' ')}: {body['why']}"
    return Analysis(str(body["service"]), entry.sequence, Verdict(_ANSWERS.get(body["verdict"]), why, measured))


def _each(evaluations: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Measure]]:
    for trigger, found in evaluations.items():
        yield from ((f"{trigger}.{name}", value) for name, value in found.items() if name != "trigger")


def analysis_verdict(platform: Platform, name: str) -> Verdict:
    """What carries traffic was found good by its rollout, as far as one was judged. A version that was taken
    back carries none, so that what was said of it is told and not held against what runs; missing requests
    are what a person may vouch for."""
    record = records.read(platform.runtime, name).record
    if (rollout := _newest(record)) is None:
        return Verdict(True, "no rollout was judged here yet")
    newest = max(platform.evidence.entries(kind=ANALYSIS, subject=rollout), key=lambda e: e.sequence, default=None)
    if newest is None:
        return Verdict(True, f"{rollout} took no turn that its triggers decided")
    found = analysis_of(newest).verdict
    if record.rollout is None and _went_back(record.last):
        return Verdict(True, f"nothing of it runs any more: {found.why}", found.measurements)
    if record.rollout is None and found.passed is None:
        return Verdict(True, f"promoted by a person's word: {found.why}", found.measurements)
    return found


def _newest(record: Record) -> str | None:
    if record.rollout is not None:
        return record.rollout.id
    return record.last.rollout if record.last is not None else None


def _went_back(last: Outcome | None) -> bool:
    return last is not None and (last.kind == "rollback" or last.result != "promoted")
