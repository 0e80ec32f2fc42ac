"""The gates: each a function from recorded facts to an answer, a message and when to ask again.

Here: one function per gate. Not here: which gates an environment has (``table``), or reading the
facts (``facts``). What did not run, is too old or could not be looked at has not passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from dr_platform.approvals import Allowed, Case, Quorum, Refused, Waiting, judge
from dr_platform.evidence import BrokenEntry
from dr_platform.identity import Proof
from dr_platform.promotion.candidate import Candidate
from dr_platform.promotion.facts import Attestation, Order, SuiteRun, VerifiedRelease, Waiver
from dr_platform.promotion.windows import Calendar, Risk


class Standing(StrEnum):
    PASSED = "passed"
    WAIVED = "waived"
    FAILED = "failed"
    STALE = "stale"
    NOT_RUN = "not run"
    WAITING = "waiting"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Answer:
    """``ask_again_at`` is when time alone may change the answer; ``None`` where a person must act."""

    standing: Standing
    message: str
    ask_again_at: datetime | None = None

    @property
    def allow(self) -> bool:
        return self.standing in (Standing.PASSED, Standing.WAIVED)


def suite_gate(
    suite: str, environment: str, runs: Iterable[SuiteRun], candidate: Candidate, now: datetime, fresh_for: timedelta
) -> Answer:
    """The newest run for exactly this digest in ``environment`` has passed and is not too old."""
    here = [run for run in runs if run.suite == suite and run.environment == environment]
    ours = [run for run in here if run.release == candidate.release and run.digest == candidate.digest]
    if not ours:
        other = ", only for another digest" if here else ""
        return Answer(Standing.NOT_RUN, f"{suite} has not run in {environment} for this release{other}")
    newest = sorted(ours, key=lambda run: run.at)[-1]  # of two at one moment the one recorded later
    found = f"{newest.checks - newest.failed} of {newest.checks} checks passed in {environment} at {_when(newest.at)}"
    if newest.at > now:
        return Answer(Standing.UNKNOWN, f"{suite} ran at a time that has not come; compare the clocks", newest.at)
    if newest.passed is None:
        return Answer(Standing.UNKNOWN, f"{suite} could not look: {found}")
    # A suite that says "passed" and has failed checks, or none at all, has not shown anything.
    if not newest.passed or newest.failed or not newest.checks:
        return Answer(Standing.FAILED, f"{suite}: {found}")
    if now - newest.at >= fresh_for:
        return Answer(Standing.STALE, f"{suite}: {found}, which counts {_long(fresh_for)}; run it again")
    return Answer(Standing.PASSED, f"{suite}: {found}")


def verified_gate(environment: str, verified: Iterable[VerifiedRelease], candidate: Candidate) -> Answer:
    """This digest ran in ``environment`` and was watched to the end of its rollout."""
    found = _newest_verified(environment, verified, candidate)
    if found is None:
        return Answer(Standing.NOT_RUN, f"this release has not been verified in {environment}")
    return Answer(Standing.PASSED, f"verified in {environment} at {_when(found)}")


def soak_gate(
    environment: str, verified: Iterable[VerifiedRelease], candidate: Candidate, now: datetime, soak: timedelta
) -> Answer:
    """It has been there, verified, long enough for what breaks slowly to have broken."""
    since = _newest_verified(environment, verified, candidate)
    if since is None:
        return Answer(Standing.NOT_RUN, f"{_long(soak)} in {environment} begin when it is verified there")
    if now < since + soak:
        return Answer(Standing.WAITING, f"in {environment} since {_when(since)}, needed {_long(soak)}", since + soak)
    return Answer(Standing.PASSED, f"in {environment} since {_when(since)}")


def _newest_verified(environment: str, verified: Iterable[VerifiedRelease], candidate: Candidate) -> datetime | None:
    exactly = (environment, candidate.release, candidate.digest)
    return max((v.at for v in verified if (v.environment, v.release, v.digest) == exactly), default=None)


def hold_gate(hold: Order | None) -> Answer:
    """A digest that failed in this environment stays out until a person lets it in."""
    if hold is not None and hold.on:
        return Answer(Standing.FAILED, f"held by {hold.by} since {_when(hold.at)}: {hold.reason}")
    return Answer(Standing.PASSED, "this release is not held")


def freeze_gate(calendar: Calendar, declared: Order | None, now: datetime) -> Answer:
    """Neither the calendar nor a person has stopped all changes. Overrides maintenance windows."""
    if declared is not None and declared.on:
        return Answer(Standing.FAILED, f"frozen by {declared.by} since {_when(declared.at)}: {declared.reason}")
    if (until := calendar.frozen_until(now)) is not None:
        return Answer(Standing.WAITING, f"frozen by the calendar until {_when(until)}", until)
    return Answer(Standing.PASSED, "no freeze")


def window_gate(calendar: Calendar, now: datetime, risk: Risk) -> Answer:
    """Risky changes wait for a maintenance window; ordinary ones need none."""
    if risk is Risk.ORDINARY or not calendar.maintenance:
        return Answer(Standing.PASSED, "no maintenance window is needed")
    if calendar.in_maintenance(now):
        return Answer(Standing.PASSED, "in a maintenance window")
    opens = calendar.next_opening(now, risk)
    return Answer(Standing.WAITING, f"the next maintenance window opens at {_when(opens)}", opens)


def approvals_gate(cases: Sequence[Case], candidate: Candidate, now: datetime, required: Quorum) -> Answer:
    """Enough people, none of them the requester, agreed to exactly this plan."""
    if required.number == 0:
        return Answer(Standing.PASSED, "nobody has to agree")
    ours = [
        c for c in cases if (c.request.release, c.request.environment) == (candidate.release, candidate.environment)
    ]
    if not ours:
        return Answer(Standing.NOT_RUN, f"approval has not been requested; {required.number} people must agree")
    # Newest first; an allowed one counts, else the newest is the one that people work on.
    judged = [(c, judge(c.request, c.approvals, candidate.plan_digest, now, required)) for c in _newest_first(ours)]
    case, answer = next(((c, a) for c, a in judged if isinstance(a, Allowed)), judged[0])
    match answer:
        case Allowed(approvers):
            return Answer(Standing.PASSED, f"{case.request.id}: approved by {', '.join(approvers)}")
        case Refused(reason):
            return Answer(Standing.FAILED, f"{case.request.id}: {reason}")
        case Waiting(missing, ask_again_at, uncounted):
            why = "".join(f"; {u}" for u in uncounted)
            return Answer(Standing.WAITING, f"{case.request.id}: {missing} more must agree{why}", ask_again_at)


def _newest_first(cases: Sequence[Case]) -> list[Case]:
    return sorted(cases, key=lambda c: (c.request.requested_at, c.request.evidence), reverse=True)


def attestation_gate(
    line: str, attestations: Iterable[Attestation], candidate: Candidate, now: datetime, proofs: frozenset[Proof]
) -> Answer:
    """A person vouches for a line, for exactly this release in this environment, and still does."""
    about = [a for a in attestations if a.line == line and a.environment == candidate.environment]
    ours = [a for a in about if (a.release, a.digest) == (candidate.release, candidate.digest)]
    if not ours:
        other = "; only another digest was" if about else ""
        return Answer(Standing.NOT_RUN, f"nobody has attested it for this release{other}: `drp attest {line}`")
    if not (known := [a for a in ours if a.signer.proof in proofs]):
        return Answer(Standing.FAILED, "attested by a declared name only, which counts in rehearsals")
    newest = max(known, key=lambda a: a.expires_at)
    signed = f"attested by {newest.signer.name} at {_when(newest.at)}"
    if newest.at > now:
        return Answer(Standing.UNKNOWN, f"{signed}, a time that has not come; compare the clocks", newest.at)
    if newest.expires_at <= now:
        return Answer(Standing.STALE, f"{signed}, which counted until {_when(newest.expires_at)}")
    return Answer(Standing.PASSED, signed)


def evidence_gate(broken: BrokenEntry | None, unreadable: Sequence[int]) -> Answer:
    """What all other gates rest on is whole."""
    if broken is not None:
        return Answer(Standing.FAILED, f"the evidence log is broken at entry {broken}")
    if unreadable:
        return Answer(Standing.FAILED, f"entries {', '.join(map(str, unreadable))} cannot be read")
    return Answer(Standing.PASSED, "the evidence log is whole")


def source_gate(environment: str, issued_at: datetime | None, refused: Sequence[str], now: datetime) -> Answer:
    """What the environment before recorded has come, signed by that environment and unchanged."""
    if refused:
        return Answer(Standing.FAILED, f"refused: {'; '.join(refused)}")
    if issued_at is None:
        wanted = f"`drp --env {environment} promotion export`"
        return Answer(Standing.NOT_RUN, f"no signed evidence from {environment}: {wanted}")
    if issued_at > now:
        return Answer(Standing.UNKNOWN, "signed at a time that has not come; compare the clocks", issued_at)
    return Answer(Standing.PASSED, f"signed by {environment} at {_when(issued_at)}")


def waived(
    row: str, answer: Answer, waivers: Iterable[Waiver], candidate: Candidate, now: datetime, proofs: frozenset[Proof]
) -> Answer:
    """The answer where it allows; else a waiver in its place, if two different people have written
    one that still counts. What was waived stays in the message."""
    exactly = (row, candidate.environment, candidate.release, candidate.digest)
    ours = [w for w in waivers if (w.row, w.environment, w.release, w.digest) == exactly and w.by.proof in proofs]
    counting = sorted((w for w in ours if w.at <= now < w.expires_at), key=lambda w: w.expires_at)
    people = {w.by.key: w for w in counting}
    if answer.allow or not people:
        return answer
    names = ", ".join(w.by.name for w in people.values())
    if len(people) == 1:
        missing = f"{answer.message}; waived by {names}, and needs a second person"
        return Answer(answer.standing, missing, answer.ask_again_at)
    until = sorted((w.expires_at for w in people.values()), reverse=True)[1]
    reason = next(iter(people.values())).reason
    return Answer(Standing.WAIVED, f"waived by {names} until {_when(until)} ({reason}): {answer.message}")


def _when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _long(span: timedelta) -> str:
    hours = span.total_seconds() / 3600
    return f"{hours:g} h"
