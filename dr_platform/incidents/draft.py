"""A first draft of the post-mortem: what the record of an incident says already, for people to complete.

Here: the draft as text, in the form that ``drp incident review --file`` takes. Not here: the report
(``report``), or what counts as a review (``fold``): what only people know is left open, and a draft with
nothing added names no contributing factor, so that it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import yaml

from dr_platform.incidents.model import Incident, Status

_HEAD = """\
# Draft of the review of {incident}, made from its record at {at:%Y-%m-%d %H:%M} UTC; due {due}.
# Complete it without blame: what made this possible, and what would have made it less harmful?
# Then: drp incident review {incident} --file THIS-FILE
#
# Timeline (UTC)
"""
_QUESTIONS = """\
# Why was it possible, and why was it not found earlier? Name at least one factor.
contributing_factors: []
# Where did luck keep the harm small?
lucky: []
# - {type: prevent, what: …, owner: "team:…", due: 2026-01-31}   # or mitigate, detect, process
action_items: []
"""


def review_draft(incident: Incident) -> str:
    """YAML with the timeline as comments. Equal incidents give equal drafts."""
    head = _HEAD.format(incident=incident.id, at=incident.written_at, due=incident.review_due)
    lines = "".join(f"#   {line.at:%H:%M:%S}  {_one_line(line.event)} ({line.actor})\n" for line in incident.timeline)
    known: dict[str, object] = {"went_well": list(_well(incident)), "went_badly": list(_badly(incident))}
    told = [a.result for a in incident.actions if a.name == "communicate"]
    if told:
        known["communications"] = {"internal": "; ".join(told)}
    return head + lines + _QUESTIONS + yaml.safe_dump(known, sort_keys=False, allow_unicode=True, width=110)


def _well(incident: Incident) -> Iterator[str]:
    if (found := incident.detected_seconds) is not None:
        yield f"found {found:.0f} s after it began"
    if (mitigated := incident.mitigated_seconds) is not None:
        yield f"no traffic met the bad revision {mitigated:.0f} s after it began"
    if (recovered := incident.recovered_seconds) is not None:
        yield f"everything was as it should be {recovered:.0f} s after it began"


def _badly(incident: Incident) -> Iterator[str]:
    if incident.blast_radius.requests_failed:
        yield f"{incident.blast_radius.requests_failed} requests failed"
    yield from _refused(action.result for action in incident.actions)
    if incident.status in (Status.OPEN, Status.MITIGATED):
        yield "it was not resolved when this draft was made"


def _refused(results: Iterable[str]) -> Iterator[str]:
    yield from (_one_line(result) for result in results if "not gone back" in result or "could not" in result)


def _one_line(text: str) -> str:
    return " ".join(text.split())
