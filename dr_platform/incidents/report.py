"""The report of an incident in Markdown: what an auditor and the review meeting read.

Here: a pure function of the record. Not here: what is missing in it, which the report says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from dr_platform.incidents.model import Action, BreachAssessment, Incident, RevisionReference, RuleEvidence

MISSING = "not recorded"
_SHOWN_DIGEST = 19  # "sha256:" and 12 digits

Rows = Iterable[tuple[str, object]]


def report(incident: Incident) -> str:
    """The whole report. Every text is escaped: none can end a cell or become markup."""
    parts = (
        _heading(incident),
        _impact(incident),
        _detection(incident),
        _decision(incident),
        _phi(incident),
        _people(incident),
        _timeline(incident),
        _lessons(incident),
        _keeping(incident),
    )
    return "\n".join(line for part in parts for line in part) + "\n"


def _heading(incident: Incident) -> Iterator[str]:
    release = incident.release
    yield f"# Incident {_text(incident.id)}: {_text(incident.service)} in {_text(incident.environment)}"
    yield ""
    yield from _facts((
        ("Status", incident.status.value),
        ("Severity", incident.severity.value),
        ("Security incident", incident.security_incident),
        ("Opened", f"{_moment(incident.opened_at)} by {incident.opened_by}"),
        ("Location", incident.location),
        ("Rollout", release.rollout_id),
        ("Failed revision", _revision(release.to_revision)),
        ("Stable revision", _revision(release.from_revision)),
        ("Commit", release.git_sha),
        ("Bill of materials", release.sbom),
        ("Resolution", incident.resolution),
    ))  # fmt: skip


def _impact(incident: Incident) -> Iterator[str]:
    blast = incident.blast_radius
    yield from _section("Impact in numbers")
    yield from _facts((
        ("Requests served by the failed revision", blast.requests_served),
        ("Requests failed", blast.requests_failed),
        ("Exposure", _seconds(blast.exposure_seconds)),
        ("Largest share of traffic", None if blast.max_weight is None else f"{blast.max_weight:g} %"),
        ("Distinct users", blast.users_distinct),
        ("Tenants", _listed(blast.tenants)),
        ("Dependents", _listed(blast.dependents)),
        ("Dependents rolled back", _listed(blast.dependents_rolled_back)),
        ("Downstream assets", _listed(blast.downstream_assets)),
        ("Data written by the failed revision", _listed(blast.data_written)),
    ))  # fmt: skip


def _detection(incident: Incident) -> Iterator[str]:
    found = incident.detection
    yield from _section("Detection")
    yield from _facts((
        ("Trigger", f"{found.trigger} ({found.kind.value.replace('_', ' ')})"),
        ("Rule", found.rule),
        ("Version of the rule", found.rule_version),
        ("Fault began, estimated", _moment(found.fault_estimated_at)),
        ("First bad sample", _moment(found.first_bad_sample_at)),
        ("Rule fired", _moment(found.fired_at)),
        ("Acknowledged", _moment(incident.acknowledged_at)),
        ("Traffic restored", _moment(incident.traffic_restored_at)),
        ("Recovered", _moment(incident.recovered_at)),
        ("Time to detect", _seconds(incident.detected_seconds)),
        ("Time to mitigate", _seconds(incident.mitigated_seconds)),
        ("Time to recover", _seconds(incident.recovered_seconds)),
    ))  # fmt: skip
    yield ""
    yield from _table(
        ("Query", "Window", "Samples", "Stable samples", "p", "Threshold", "Verdict", "Snapshot", "SHA-256"),
        (_evidence(evidence) for evidence in incident.evidence),
    )


def _evidence(evidence: RuleEvidence) -> tuple[object, ...]:
    return (
        evidence.query,
        _seconds(evidence.window_seconds),
        len(evidence.samples),
        len(evidence.stable_samples),
        evidence.p_value,
        evidence.threshold,
        evidence.verdict,
        evidence.snapshot_uri,
        evidence.sha256,
    )


def _decision(incident: Incident) -> Iterator[str]:
    state, decision = incident.state_at_fire, incident.decision
    yield from _section("State when the rule fired")
    yield from _facts((
        ("Weights in percent", _pairs(state.weights)),
        ("Replicas", _pairs(state.replicas)),
        ("Endpoints", _pairs(state.endpoints)),
        ("Active alerts", _listed(state.active_alerts)),
        ("Pending approvals", _listed(state.pending_approvals)),
        ("Epoch of the controller", state.controller_epoch),
    ))  # fmt: skip
    yield from _section("Decision and actions")
    approver = decision.approver if decision else None
    yield from _facts((
        ("Mode", decision and decision.mode),
        ("Automatic", decision.automatic if decision else None),
        ("Policy", decision and decision.policy_version),
        ("Admissibility of the target", _listed(decision.target_admissibility if decision else ())),
        ("Alternatives rejected", _listed(decision.alternatives_rejected if decision else ())),
        ("Approved by", approver and f"{approver.id} as {approver.role}, {approver.method} {_moment(approver.at)}"),
        ("Approval valid until", approver and _moment(approver.expires_at)),
        ("Break glass", decision and decision.break_glass_reason),
    ))  # fmt: skip
    yield ""
    yield from _table(
        ("#", "At", "Action", "Object", "Before", "After", "Result", "Run"),
        (_action(number, action) for number, action in enumerate(incident.actions, 1)),
    )


def _action(number: int, action: Action) -> tuple[object, ...]:
    before, after = _pairs(action.before), _pairs(action.after)
    return (number, _moment(action.at), action.name, action.object, before, after, action.result, action.run_id)


def _phi(incident: Incident) -> Iterator[str]:
    phi, breach = incident.phi, incident.breach_assessment
    yield from _section("PHI and breach assessment")
    yield from _facts((
        ("PHI possible", phi.possible.value),
        ("Classes of data", _listed(phi.data_classes)),
        ("Classes of identifiers", _listed(phi.identifiers)),
        ("Logs of access", phi.access_logs_uri),
        ("Encrypted at rest", phi.encrypted_at_rest),
        ("Encrypted in transit", phi.encrypted_in_transit),
        ("Keys exposed", phi.keys_exposed),
    ))  # fmt: skip
    yield ""
    if breach is None:
        yield "No breach assessment was opened: neither the trigger nor a person called for one."
    else:
        yield from _facts(_breach(breach))


def _breach(breach: BreachAssessment) -> Rows:
    factors = breach.factors
    yield "Conclusion (164.402(2))", breach.conclusion.value.replace("_", " ")
    yield "Discovered (164.404(a)(2))", _moment(breach.discovered_at)
    yield "Factor 1, nature and extent", factors and factors.nature_and_extent
    yield "Factor 2, unauthorised person", factors and factors.unauthorised_person
    yield "Factor 3, acquired or viewed", factors and factors.acquired_or_viewed
    yield "Factor 4, mitigation", factors and factors.mitigation
    yield "Exception claimed (164.402(1))", breach.exception.value.replace("_", " ")
    yield "Persons affected", breach.affected_persons
    yield "Residents of one State", breach.residents_of_one_state
    yield "Signed", breach.assessor and f"{_moment(breach.signed_at)} by {breach.assessor}"
    if (due := breach.notices) is None:
        yield "Notices", "none is due: a low probability of compromise was shown"
        return
    yield "Notice to individuals until (164.404)", due.individuals
    yield "Notice to the Secretary until (164.408)", due.secretary
    yield "Notice to the media until (164.406)", due.media or "none is due"
    yield "Business associate to covered entity until (164.410)", due.business_associate
    for notice in breach.state_law:
        yield f"Law of {notice.state}, until", notice.due


def _people(incident: Incident) -> Iterator[str]:
    named, told = incident.responders, incident.communications
    yield from _section("Responders and messages")
    yield from _facts((
        ("Incident commander", named.incident_commander),
        ("Scribe", named.scribe),
        ("Subject-matter experts", _listed(named.subject_experts)),
        ("Internal message", told.internal),
        ("Status page", told.status_page),
        ("Message to customers", told.customers),
    ))  # fmt: skip


def _timeline(incident: Incident) -> Iterator[str]:
    yield from _section("Timeline")
    yield "Offsets are seconds since the opening by the monotonic clock of the machine that wrote them."
    yield ""
    yield from _table(
        ("At (UTC)", "Offset", "Event", "By", "Source"),
        (
            (_moment(line.at), _offset(line.offset_seconds), line.event, line.actor, line.source_link)
            for line in incident.timeline
        ),
    )


def _lessons(incident: Incident) -> Iterator[str]:
    lists = (
        ("Contributing factors", incident.contributing_factors),
        ("What went well", incident.went_well),
        ("What went badly", incident.went_badly),
        ("Where we were lucky", incident.lucky),
    )
    for title, items in lists:
        yield from _section(title)
        yield from (f"- {_text(item)}" for item in items or (MISSING,))
    yield from _section("Action items")
    yield from _table(
        ("Type", "What", "Owner", "Due", "Ticket"),
        ((item.type, item.what, item.owner, item.due, item.ticket) for item in incident.action_items),
    )


def _keeping(incident: Incident) -> Iterator[str]:
    yield from _section("Review and retention")
    yield from _facts((
        ("Review due", incident.review_due),
        ("Reviewed", _moment(incident.reviewed_at)),
        ("Closed", _moment(incident.closed_at)),
        ("Kept until (164.316(b)(2)(i))", incident.retention_until),
    ))  # fmt: skip


# Markdown


def _section(title: str) -> Iterator[str]:
    yield from ("", f"## {title}", "")


def _facts(rows: Rows) -> Iterator[str]:
    yield from _table(("Fact", "Value"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> Iterator[str]:
    lines = [_row(cells) for cells in rows]
    if not lines:
        yield f"{MISSING.capitalize()}."
        return
    yield _row(head)
    yield _row(("---",) * len(head))
    yield from lines


def _row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(_text(cell) for cell in cells)} |"


def _text(value: object) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = " ".join(str(value).split())
    for special, harmless in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("[", "\\["), ("`", "\\`"), ("*", "\\*")):
        text = text.replace(special, harmless)
    return text


def _moment(at: datetime | None) -> str | None:
    return None if at is None else f"{at:%Y-%m-%d %H:%M:%S}"


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f} s"


def _offset(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f}"


def _listed(items: Iterable[str]) -> str:
    return "; ".join(items) or "none"


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in values.items()) or "none"


def _number(value: object) -> object:
    return f"{value:g}" if isinstance(value, float) else value


def _revision(revision: RevisionReference | None) -> str | None:
    if revision is None:
        return None
    parts = [revision.version]
    parts += [revision.digest[:_SHOWN_DIGEST]] if revision.digest else []
    parts += [f"configuration {revision.config_hash}"] if revision.config_hash else []
    parts += [f"schema {revision.schema_revision}"] if revision.schema_revision else []
    parts += [f"secret {name} at {version}" for name, version in revision.secret_versions.items()]
    return ", ".join(parts)
