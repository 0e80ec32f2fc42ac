"""Changes of a schema that people agreed to, and that then begin by themselves in the maintenance window.

Here: asking, judging, and what is due now. Not here: how a change is carried out (``schema_changes``), or how people
agree (``approvals``). A request names its subject ``schema/<database>``; it is for one plan, so that a changed file,
or a schema that somebody else has changed, needs a new one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dr_platform.approvals import Allowed, Case, Judgement, Quorum, Refused, Request, judge
from dr_platform.errors import PlatformError
from dr_platform.identity import Person
from dr_platform.migrations.gates import NotApproved, OutsideWindow
from dr_platform.migrations.planning import Plan
from dr_platform.platform import Platform
from dr_platform.promotion.facts import Candidate, read_facts
from dr_platform.promotion.gates import Standing, freeze_gate
from dr_platform.promotion.windows import Calendar, Risk
from dr_platform.readiness import accepted_proofs, approval_desk
from dr_platform.schema_changes import Changed, Safeguards, carry_out, plan_change
from dr_platform.schema_record import MIGRATED, SUBJECT, subject_of
from dr_platform.verdict import Progress, silent


def database_of(subject: str) -> str | None:
    """The database that a request is about, ``None`` where it is about a release."""
    return subject.removeprefix(SUBJECT) if subject.startswith(SUBJECT) else None


def ask(platform: Platform, change: Plan, requester: Person, reason: str) -> Request:
    """Ask that others agree to exactly this plan; requests for an earlier plan end."""
    environment = platform.environment.name
    digest = change.digest(environment)
    return approval_desk(platform).request(subject_of(change.database), environment, digest, requester, reason)


def digest_now(platform: Platform, database: str) -> str:
    """Of what is to be done now, for whoever agrees to a request."""
    return plan_change(platform, database).digest(platform.environment.name)


def judgement(platform: Platform, change: Plan) -> Judgement:
    """Whether the newest request for this database allows this plan."""
    environment = platform.environment
    cases = approval_desk(platform).store.cases(environment=environment.name, release=subject_of(change.database))
    if not cases:
        return Refused("nobody has asked for it")
    return judge_case(platform, cases[0], change.digest(environment.name))


def judge_case(platform: Platform, case: Case, digest: str) -> Judgement:
    required = Quorum(platform.environment.approvals.required, accepted_proofs(platform))
    return judge(case.request, case.approvals, digest, platform.clock.now(), required)


def require_approval(platform: Platform, change: Plan) -> None:
    """Raise ``NotApproved`` where the environment wants others to agree and they have not."""
    if platform.environment.approvals.required:
        _require_allowed(platform, change)


def _require_allowed(platform: Platform, change: Plan) -> None:
    found = judgement(platform, change)
    if not isinstance(found, Allowed):
        why = found.reason if isinstance(found, Refused) else f"{found.missing} more must agree"
        raise NotApproved(change.database, platform.environment.name, why)


def require_window(platform: Platform, change: Plan) -> None:
    """Raise ``OutsideWindow``: outside of the maintenance windows, and while the environment is frozen, nothing
    begins by itself."""
    calendar, now = Calendar.of(platform.environment.windows), platform.clock.now()
    if not calendar.allows(now, Risk.RISKY):
        opens = f"{calendar.next_opening(now, Risk.RISKY):%Y-%m-%d %H:%M} UTC"
        raise OutsideWindow(change.database, platform.environment.name, opens)
    digest, environment = change.digest(platform.environment.name), platform.environment.name
    candidate = Candidate(subject_of(change.database), digest, environment, digest)
    frozen = freeze_gate(calendar, read_facts(platform.evidence, candidate).freeze, now)
    if frozen.standing is not Standing.PASSED:
        raise OutsideWindow(change.database, environment, f"the freeze ends ({frozen.message})")


def record_and_carry_out(
    platform: Platform,
    change: Plan,
    actor: str,
    progress: Progress = silent,
    safeguards: Safeguards | None = None,
) -> Changed:
    """Write down who changes what, then do it: nothing happens that auditors cannot see."""
    body = {
        "environment": platform.environment.name,
        "direction": change.direction.value,
        "current": change.current or "none",
        "target": change.target or "none",
        "plan": change.digest(platform.environment.name),
    }
    platform.evidence.append(MIGRATED, subject_of(change.database), actor, body)
    return carry_out(platform, change, progress, safeguards)


def run_approved(
    platform: Platform,
    database: str,
    actor: str,
    progress: Progress = silent,
    safeguards: Safeguards | None = None,
) -> Changed:
    """What the job ``migrate`` does. Approval and window are asked here, so that no launchpad passes them by."""
    change = plan_change(platform, database)
    if not change.steps:
        return Changed((), change.current or "none")
    _require_allowed(platform, change)
    require_window(platform, change)
    return record_and_carry_out(platform, change, actor, progress, safeguards)


@dataclass(frozen=True)
class Due:
    """``digest`` names the plan, so that a run is started for it once."""

    database: str
    digest: str


def due(platform: Platform, note: Callable[[str], None] = silent) -> tuple[Due, ...]:
    """The databases whose plan was agreed to and may begin now. One that cannot be looked at is noted, and hides
    none of the others."""
    found = []
    for name in platform.catalog.databases:
        try:
            if (digest := _due_now(platform, name)) is not None:
                found.append(Due(name, digest))
        except PlatformError as exc:
            note(f"{name}: {exc.what}")
    return tuple(found)


def _due_now(platform: Platform, name: str) -> str | None:
    cases = approval_desk(platform).store.cases(environment=platform.environment.name, release=subject_of(name))
    if not cases or cases[0].request.voided is not None:
        return None  # without asking the database
    change = plan_change(platform, name)
    if not change.steps or not isinstance(judgement(platform, change), Allowed):
        return None
    try:
        require_window(platform, change)
    except OutsideWindow:
        return None
    return change.digest(platform.environment.name)
