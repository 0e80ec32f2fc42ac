"""HIPAA: whether every access leaves a trace and every identifier is found, asked from outside.

Not here: what services and databases measure of themselves (``health``).
"""

from __future__ import annotations

from collections.abc import Mapping

from dr_platform.clock import Clock
from dr_platform.identity import new_id
from dr_platform.phi import PhiKind
from dr_platform.reference_service.client import ServiceClient
from dr_platform.validation.answering import must_be_answered
from dr_platform.verdict import Measure, Verdict

REQUESTS = 10
"""Half of them without a token: refusals must leave a trace as well."""
AUDIT_S = 10.0
"""Events are handed over in batches, several times a second."""
_POLL_S = 0.2
_NEWEST = 500

IDENTIFIERS: Mapping[PhiKind, tuple[str, str]] = {
    PhiKind.NAME: ("My name is Ottilie Brandwein and I cannot sleep", "Ottilie Brandwein"),
    PhiKind.ADDRESS: ("I live at 48 Larkspur Avenue with my son", "48 Larkspur Avenue"),
    PhiKind.BIRTH_DATE: ("I was born on 3/14/1961", "3/14/1961"),
    PhiKind.PHONE: ("Call me at (312) 555-0142 in the evening", "(312) 555-0142"),
    PhiKind.EMAIL: ("Write to ottilie.b@clinic.example.org", "ottilie.b@clinic.example.org"),
    PhiKind.SSN: ("My social security number is 219-09-9999", "219-09-9999"),
    PhiKind.MRN: ("The MRN: A-1002934 is on my letter", "A-1002934"),
    PhiKind.FAX: ("The fax: 312-555-0199 is my doctor's", "312-555-0199"),
}
"""A made-up identifier in a sentence of each kind (45 CFR 164.514(b)(2)(i)); PHI detection must be
complete (second guide, "Key Metrics to Monitor")."""


@must_be_answered
def identifiers_verdict(client: ServiceClient) -> Verdict:
    """Every identifier is named by its kind, and is not in the text that goes on to a model."""
    missed = [str(kind) for kind, (text, value) in IDENTIFIERS.items() if not _is_redacted(client, kind, text, value)]
    found = len(IDENTIFIERS) - len(missed)
    measurements: dict[str, Measure] = {"identifiers": len(IDENTIFIERS), "found": found}
    if missed:
        return Verdict(False, f"not found and replaced: {', '.join(missed)}", measurements)
    return Verdict(True, f"{found} kinds of identifiers are found and replaced", measurements)


def _is_redacted(client: ServiceClient, kind: PhiKind, text: str, value: str) -> bool:
    checked = client.check_text(text)
    return str(kind) in checked["phi"] and value not in checked["redacted"]


@must_be_answered
def audit_verdict(client: ServiceClient, gateway: str, clock: Clock) -> Verdict:
    """Requests for a conversation, admitted and refused ones, are in the audit log, and its chain is
    whole (45 CFR 164.312(b))."""
    sent = _read_conversations(client, gateway)
    began = clock.monotonic()
    while (missing := _untraced(client, sent)) and clock.monotonic() - began < AUDIT_S:
        clock.sleep(_POLL_S)
    whole = bool(client.verify_audit(_NEWEST)["whole"])
    covered = 1 - len(missing) / len(sent)
    measurements: dict[str, Measure] = {"requests": len(sent), "coverage_ratio": covered, "chain_is_whole": whole}
    if missing:
        return Verdict(False, f"{len(missing)} of {len(sent)} requests left no trace in the audit log", measurements)
    if not whole:
        return Verdict(False, "the chain of the audit log is broken", measurements)
    return Verdict(True, f"{len(sent)} of {len(sent)} requests are in the audit log, its chain is whole", measurements)


def _read_conversations(client: ServiceClient, gateway: str) -> Mapping[str, bool]:
    """Identifiers of the requests, with whether they had a token. The conversation is nobody's."""
    path = f"/v1/conversation/{new_id('check')}"
    token = client.tokens.issue(client.subject, ("conversation:read",))
    sent = {new_id("req"): number % 2 == 0 for number in range(REQUESTS)}
    for request_id, admitted in sent.items():
        client.ask(gateway, "GET", path, token if admitted else None, request_id=request_id)
    return sent


def _untraced(client: ServiceClient, sent: Mapping[str, bool]) -> list[str]:
    """Requests without an event, or with one that hides that they were refused."""
    outcomes = {event["request_id"]: event["outcome"] for event in client.audit_events(_NEWEST)}
    return [
        request_id
        for request_id, admitted in sent.items()
        if request_id not in outcomes or (outcomes[request_id] == "denied") is admitted
    ]
