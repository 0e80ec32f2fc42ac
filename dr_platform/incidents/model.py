"""What an incident record holds.

Here: frozen values and what follows from them alone. Not here: in which order they may come
(``fold``), nor where they are kept (``ledger``).

No field may hold PHI, and the evidence log refuses what looks like it: samples are numbers, payloads
stand behind addresses of a restricted store. Persons are named by login or approval, never by e-mail.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    StringConstraints,
    model_validator,
)

from dr_platform.incidents.clocks import Notices, notices, retention_until, review_due

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000)]
Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=300)]
Moment = Annotated[AwareDatetime, AfterValidator(lambda at: at.astimezone(UTC))]
Percent = Annotated[float, Field(ge=0, le=100)]
Sample = tuple[Moment, float]


class Fact(BaseModel):
    # Values stay out of messages: what was refused may be what must not be shown.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)


class Status(StrEnum):
    """In this order; ``mitigated`` and, for lesser severities, ``reviewed`` may be left out."""

    OPEN = "open"
    MITIGATED = "mitigated"
    RESOLVED = "resolved"
    REVIEWED = "reviewed"
    CLOSED = "closed"


class Severity(StrEnum):
    SEV1 = "SEV-1"
    """Data of customers may have been exposed, or most of them are affected."""
    SEV2 = "SEV-2"
    SEV3 = "SEV-3"
    SEV4 = "SEV-4"

    @property
    def needs_review(self) -> bool:
        return self in (Severity.SEV1, Severity.SEV2)


class TriggerKind(StrEnum):
    """Which sort of rule fired."""

    GUARD = "guard"
    LITERAL = "literal"
    BURN_RATE = "burn_rate"
    HIPAA = "hipaa"
    SECURITY = "security"
    MANUAL = "manual"
    NO_DATA = "no_data"

    @property
    def presumes_breach(self) -> bool:
        return self in (TriggerKind.HIPAA, TriggerKind.SECURITY)


class Possible(StrEnum):
    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class RevisionReference(Fact):
    """What ran: enough to run it again."""

    version: Label
    digest: Label | None = None
    config_hash: Label | None = None
    secret_versions: Mapping[Label, Label] = {}
    schema_revision: Label | None = None


class Release(Fact):
    """``to_revision`` is the one that failed; ``from_revision`` is ``None`` at a first deployment."""

    from_revision: RevisionReference | None = None
    to_revision: RevisionReference | None = None
    rollout_id: Label | None = None
    git_sha: Label | None = None
    sbom: Label | None = None


class Detection(Fact):
    """``trigger`` names the rule, ``rule`` is its text at the moment it fired."""

    trigger: Label
    kind: TriggerKind
    rule: Text
    rule_version: Label | None = None
    fault_estimated_at: Moment | None = None
    first_bad_sample_at: Moment | None = None
    fired_at: Moment

    @model_validator(mode="after")
    def _cause_before_effect(self) -> Self:
        if self.began_at > self.fired_at:
            raise ValueError("a rule cannot fire before its fault")
        return self

    @property
    def began_at(self) -> datetime:
        """When it was first bad, as far as is known."""
        return self.fault_estimated_at or self.first_bad_sample_at or self.fired_at


class RuleEvidence(Fact):
    """What a rule looked at when it judged. Samples are measurements, never payloads. An entry of the
    evidence log holds 64 KiB, about 1,000 samples; more of them belong behind ``snapshot_uri``."""

    query: Text
    window_seconds: NonNegativeFloat | None = None
    samples: tuple[Sample, ...] = ()
    stable_samples: tuple[Sample, ...] = ()
    p_value: Annotated[float, Field(ge=0, le=1)] | None = None
    threshold: float | None = None
    verdict: Label
    snapshot_uri: Label | None = None
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None


class StateAtFire(Fact):
    """What was there before anything was done about it. Mappings are by revision or slot."""

    weights: Mapping[Label, Percent] = {}
    replicas: Mapping[Label, NonNegativeInt] = {}
    endpoints: Mapping[Label, NonNegativeInt] = {}
    active_alerts: tuple[Label, ...] = ()
    pending_approvals: tuple[Label, ...] = ()
    controller_epoch: int | None = None


class Approver(Fact):
    id: Label
    role: Label
    method: Label
    at: Moment
    expires_at: Moment | None = None


class Decision(Fact):
    """``mode`` is immediate, gradual, manual or maintenance."""

    mode: Annotated[str, StringConstraints(pattern=r"^(immediate|gradual|manual|maintenance)$")]
    automatic: bool
    policy_version: Label | None = None
    alternatives_rejected: tuple[Text, ...] = ()
    target_admissibility: tuple[Text, ...] = ()
    approver: Approver | None = None
    break_glass_reason: Text | None = None


class Action(Fact):
    """One change. ``before`` and ``after`` are what was read back, such as versions and weights."""

    at: Moment
    name: Label
    object: Label
    before: Mapping[Label, str | int | float | bool | None] = {}
    after: Mapping[Label, str | int | float | bool | None] = {}
    result: Label
    run_id: Label | None = None


class BlastRadius(Fact):
    """Who met the bad revision. ``None`` could not be counted, which is not zero."""

    requests_served: NonNegativeInt | None = None
    requests_failed: NonNegativeInt | None = None
    users_distinct: NonNegativeInt | None = None
    tenants: tuple[Label, ...] = ()
    max_weight: Percent | None = None
    exposure_seconds: NonNegativeFloat | None = None
    dependents: tuple[Label, ...] = ()
    dependents_rolled_back: tuple[Label, ...] = ()
    downstream_assets: tuple[Label, ...] = ()
    data_written: tuple[Label, ...] = ()


class Phi(Fact):
    """Whether PHI can be concerned, by classes of data and of identifiers, never by value."""

    possible: Possible = Possible.UNKNOWN
    data_classes: tuple[Label, ...] = ()
    identifiers: tuple[Label, ...] = ()
    access_logs_uri: Label | None = None
    encrypted_at_rest: bool | None = None
    encrypted_in_transit: bool | None = None
    keys_exposed: bool | None = None


class Conclusion(StrEnum):
    PENDING = "pending"
    """Presumed a breach, 45 CFR 164.402(2)."""
    LOW_PROBABILITY = "low_probability"
    BREACH = "breach"


class BreachException(StrEnum):
    """164.402(1)(i) to (iii)."""

    NONE = "none"
    GOOD_FAITH = "good_faith"
    INADVERTENT = "inadvertent"
    NOT_RETAINABLE = "not_retainable"


class RiskFactors(Fact):
    """The four of 164.402(2)(i) to (iv); each has to be answered."""

    nature_and_extent: Text
    unauthorised_person: Text
    acquired_or_viewed: Text
    mitigation: Text


class StateNotice(Fact):
    """A notice that the law of a State asks for."""

    state: Label
    due: date


class BreachAssessment(Fact):
    """``assessor`` and ``signed_at`` are set when it is signed; the burden of proof is ours, 164.414(b)."""

    conclusion: Conclusion = Conclusion.PENDING
    discovered_at: Moment
    """The first day on which it was known or could have been, 164.404(a)(2)."""
    factors: RiskFactors | None = None
    exception: BreachException = BreachException.NONE
    affected_persons: NonNegativeInt | None = None
    residents_of_one_state: NonNegativeInt | None = None
    state_law: tuple[StateNotice, ...] = ()
    assessor: str | None = None
    signed_at: datetime | None = None

    @property
    def notices(self) -> Notices | None:
        """``None`` once a low probability of compromise is shown; until then the clocks run."""
        if self.conclusion is Conclusion.LOW_PROBABILITY:
            return None
        return notices(self.discovered_at, self.affected_persons, self.residents_of_one_state)


class Responders(Fact):
    """By login."""

    incident_commander: Label | None = None
    scribe: Label | None = None
    subject_experts: tuple[Label, ...] = ()


class Communications(Fact):
    internal: Text | None = None
    status_page: Text | None = None
    customers: Text | None = None


class ActionItem(Fact):
    type: Annotated[str, StringConstraints(pattern=r"^(prevent|mitigate|detect|process)$")]
    what: Text
    owner: Label
    due: date
    ticket: Label | None = None


class ClockReading(Fact):
    """A monotonic reading in seconds; only readings of one ``origin`` can be compared."""

    origin: str
    monotonic_s: float


class TimelineEvent(Fact):
    """``offset_seconds`` since the opening is by the monotonic clock, so it is right when wall time
    jumped; ``None`` for what was not noted while it happened, or on another machine."""

    at: datetime
    event: str
    actor: str
    source_link: str
    offset_seconds: float | None = None


class Incident(Fact):
    id: str
    schema_version: int
    status: Status
    severity: Severity
    security_incident: bool
    service: str
    environment: str
    location: str | None = None
    """Cluster and namespace, where there are such."""
    release: Release
    detection: Detection
    evidence: tuple[RuleEvidence, ...] = ()
    state_at_fire: StateAtFire
    decision: Decision | None = None
    actions: tuple[Action, ...] = ()
    blast_radius: BlastRadius = BlastRadius()
    phi: Phi
    breach_assessment: BreachAssessment | None = None
    timeline: tuple[TimelineEvent, ...] = ()
    """By the time of what happened."""
    responders: Responders = Responders()
    communications: Communications = Communications()
    contributing_factors: tuple[str, ...] = ()
    went_well: tuple[str, ...] = ()
    went_badly: tuple[str, ...] = ()
    lucky: tuple[str, ...] = ()
    action_items: tuple[ActionItem, ...] = ()
    resolution: str | None = None
    opened_at: datetime
    opened_by: str
    opened_clock: ClockReading
    acknowledged_at: datetime | None = None
    traffic_restored_at: datetime | None = None
    recovered_at: datetime | None = None
    reviewed_at: datetime | None = None
    closed_at: datetime | None = None
    written_at: datetime
    """When the record was last written."""

    @property
    def detected_seconds(self) -> float | None:
        """Time to detect: from the fault to the rule; ``None`` where only the rule's time is known."""
        began, fired = self.detection.began_at, self.detection.fired_at
        known = self.detection.fault_estimated_at or self.detection.first_bad_sample_at
        return (fired - began).total_seconds() if known else None

    @property
    def mitigated_seconds(self) -> float | None:
        """Time to mitigate: from the fault, or from the rule where the fault's time is not known, until
        no traffic met the bad revision any more."""
        return self._since_it_began(self.traffic_restored_at)

    @property
    def recovered_seconds(self) -> float | None:
        """Time to recover: the same until everything was as it should be."""
        return self._since_it_began(self.recovered_at)

    def _since_it_began(self, at: datetime | None) -> float | None:
        # Wall time may have been set back between the two; a duration below zero would be nonsense.
        return None if at is None else max(0.0, (at - self.detection.began_at).total_seconds())

    @property
    def breach_pending(self) -> bool:
        return self.breach_assessment is not None and self.breach_assessment.conclusion is Conclusion.PENDING

    @property
    def notices(self) -> Notices | None:
        return self.breach_assessment.notices if self.breach_assessment else None

    @property
    def review_due(self) -> date:
        return review_due(self.opened_at)

    @property
    def retention_until(self) -> date:
        return retention_until(self.written_at)

    def as_row(self) -> dict[str, Any]:
        """The incident in a list; durations in seconds, ``None`` where they cannot be told."""
        return {
            "id": self.id,
            "service": self.service,
            "trigger": self.detection.trigger,
            "status": self.status.value,
            "opened_at": self.opened_at.isoformat(),
            "detected_s": self.detected_seconds,
            "restored_s": self.mitigated_seconds,
            "failed_requests": self.blast_radius.requests_failed,
        }

    def as_json(self) -> dict[str, Any]:
        """Everything, what follows from it included."""
        due = self.notices
        return {
            **self.model_dump(mode="json"),
            "ttd_seconds": self.detected_seconds,
            "ttm_seconds": self.mitigated_seconds,
            "ttr_seconds": self.recovered_seconds,
            "notices": {name: day and day.isoformat() for name, day in vars(due).items()} if due else None,
            "review_due": self.review_due.isoformat(),
            "retention_until": self.retention_until.isoformat(),
        }


def severity_of(kind: TriggerKind, phi: Phi, *, security_incident: bool) -> Severity:
    """Where nobody chose one. Unsure means the higher one: what may have exposed PHI is SEV-1."""
    presumed = kind.presumes_breach or security_incident
    if phi.possible is Possible.YES or (presumed and phi.possible is Possible.UNKNOWN):
        return Severity.SEV1
    return Severity.SEV2 if presumed else Severity.SEV3
