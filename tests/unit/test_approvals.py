"""Guards that nobody's agreement counts for another plan, for their own request, twice, or for ever."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.approvals import (
    PROVEN,
    REHEARSAL,
    Allowed,
    Approval,
    ApprovalDesk,
    ApprovalRefused,
    Judgement,
    MemoryApprovalStore,
    NotAdmissible,
    Quorum,
    Refused,
    Request,
    Uncounted,
    UnknownRequest,
    UnprovenPerson,
    Waiting,
    judge,
    person_at_work,
)
from dr_platform.approvals.judge import LOOK_AGAIN
from dr_platform.clock import ManualClock
from dr_platform.evidence import MemoryEvidenceLog, RefusedEvidence
from dr_platform.identity import Person, Proof, account_of, person_key, signed_in_person
from tests.contracts.approvals import (
    DAY,
    OTHER_PLAN,
    PLAN,
    T0,
    VOIDED,
    ApprovalStoreContract,
    a_request,
    an_approval,
    person,
)

pytestmark = pytest.mark.unit

TWO = Quorum(2)
REQUEST = a_request()
ADA, BO = an_approval("ada"), an_approval("bo")
NOW = T0 + timedelta(hours=1)
SOON = NOW + LOOK_AGAIN


class TestMemoryApprovalStore(ApprovalStoreContract):
    @pytest.fixture
    def store(self) -> MemoryApprovalStore:
        return MemoryApprovalStore()


@pytest.mark.parametrize(
    ("request_", "approvals", "expected"),
    [
        pytest.param(REQUEST, (ADA, BO), Allowed(("ada", "bo"), T0 + DAY), id="two others agree"),
        pytest.param(REQUEST, (), Waiting(2, SOON), id="nobody yet"),
        pytest.param(REQUEST, (ADA,), Waiting(1, SOON), id="one of two"),
        pytest.param(REQUEST, (ADA, ADA), Waiting(1, SOON, (Uncounted("ada", "has already approved this request"),)), id="the same person twice"),
        pytest.param(REQUEST, (ADA, an_approval(" ADA")), Waiting(1, SOON, (Uncounted(" ADA", "has already approved this request"),)), id="the same person, spelled otherwise"),
        pytest.param(REQUEST, (ADA, an_approval("Rita")), Waiting(1, SOON, (Uncounted("Rita", "asked for it, and nobody approves their own request"),)), id="the requester"),
        pytest.param(REQUEST, (ADA, replace(BO, expires_at=NOW)), Waiting(1, SOON, (Uncounted("bo", "approved until 2026-01-01 13:00 UTC; the approval has expired"),)), id="expired at this very moment"),
        pytest.param(REQUEST, (ADA, an_approval("bo", plan=OTHER_PLAN)), Waiting(1, SOON, (Uncounted("bo", "approved another plan"),)), id="an approval for another plan"),
        pytest.param(REQUEST, (ADA, an_approval("bo", request="apr-2")), Waiting(1, SOON, (Uncounted("bo", "approved another request"),)), id="an approval of another request"),
        pytest.param(REQUEST, (ADA, replace(BO, approver=person("bo", Proof.DECLARED))), Waiting(1, SOON, (Uncounted("bo", "is known by a declared name only"),)), id="a name that nobody proved"),
        pytest.param(REQUEST, (ADA, replace(BO, given_at=NOW + DAY, expires_at=NOW + 2 * DAY)), Waiting(1, SOON, (Uncounted("bo", "approved at a time that has not come; compare the clocks"),)), id="from the future"),
        pytest.param(replace(REQUEST, voided=VOIDED), (ADA, BO), Refused("voided by rita: not wanted any more"), id="voided"),
        pytest.param(a_request(plan=OTHER_PLAN), (ADA, BO), Refused("the plan has changed since approval was requested"), id="approvals for plan A do not allow plan B"),
    ],
)  # fmt: skip
def test_judge(request_: Request, approvals: tuple[Approval, ...], expected: Judgement) -> None:
    assert judge(request_, approvals, PLAN, NOW, TWO) == expected


def test_an_expired_approval_beside_enough_others_does_no_harm() -> None:
    old = replace(an_approval("eve"), expires_at=NOW)
    assert judge(REQUEST, (old, ADA, BO), PLAN, NOW, TWO) == Allowed(("ada", "bo"), T0 + DAY)


def test_permission_ends_when_the_quorum_does_and_not_with_the_first_approval() -> None:
    approvals = [replace(an_approval(name), expires_at=NOW + hours * DAY) for hours, name in enumerate("abc", 1)]
    judged = judge(REQUEST, approvals, PLAN, NOW, TWO)
    assert isinstance(judged, Allowed)
    assert judged.until == NOW + 2 * DAY


def test_one_who_waits_is_told_of_an_approval_that_expires_before_the_next_look() -> None:
    soon = NOW + LOOK_AGAIN / 2
    assert judge(REQUEST, (replace(ADA, expires_at=soon),), PLAN, NOW, TWO) == Waiting(1, soon)


def test_where_nobody_must_agree_a_request_is_allowed_unless_it_is_voided() -> None:
    assert judge(REQUEST, (), PLAN, NOW, Quorum(0)) == Allowed((), None)
    assert isinstance(judge(replace(REQUEST, voided=VOIDED), (), PLAN, NOW, Quorum(0)), Refused)


people = st.sampled_from(["ada", "bo", "Eve", "rita", " Rita", "ADA"])
times = st.integers(-48, 48).map(lambda hours: NOW + timedelta(hours=hours))


@st.composite
def some_approvals(draw: st.DrawFn) -> list[Approval]:
    def one() -> Approval:
        given_at = draw(times)
        expires = given_at + timedelta(hours=draw(st.integers(1, 72)))
        who = Person(draw(people), draw(st.sampled_from(list(Proof))))
        return Approval(
            draw(st.sampled_from(["apr-1", "apr-2"])), who, draw(st.sampled_from([PLAN, OTHER_PLAN])), given_at,
            expires, "read", 2,
        )  # fmt: skip

    return [one() for _ in range(draw(st.integers(0, 7)))]


@given(some_approvals(), st.integers(0, 63), st.sampled_from("0123456789abcdef"), times, st.integers(0, 5))
def test_any_change_of_the_digest_voids_whatever_was_agreed(
    approvals: list[Approval], at: int, digit: str, now: datetime, number: int
) -> None:
    place = len("sha256:") + at
    changed = PLAN[:place] + digit + PLAN[place + 1 :]
    judged = judge(REQUEST, [*approvals, ADA, BO], changed, now, Quorum(number))
    assert isinstance(judged, Refused) == (changed != PLAN)


@given(some_approvals(), times, st.integers(1, 4), st.sampled_from([PROVEN, REHEARSAL]))
def test_whatever_is_allowed_has_enough_different_people_who_may_and_who_still_agree(
    approvals: list[Approval], now: datetime, number: int, proofs: frozenset[Proof]
) -> None:
    judged = judge(REQUEST, approvals, PLAN, now, Quorum(number, proofs))
    sound = {
        a.approver.key
        for a in approvals
        if a.request_id == REQUEST.id and a.plan_digest == PLAN and a.given_at <= now < a.expires_at
        and a.approver.proof in proofs
    } - {"rita"}  # fmt: skip
    assert isinstance(judged, Allowed) == (len(sound) >= number)
    if isinstance(judged, Allowed):
        assert {person_key(name) for name in judged.approvers} == sound
        assert judged.until is not None
        assert judged.until > now
        assert isinstance(judge(REQUEST, approvals, PLAN, now, Quorum(number, proofs)), Allowed)
    elif isinstance(judged, Waiting):
        assert judged.missing == number - len(sound)
        assert judged.ask_again_at > now


@given(some_approvals(), times, st.integers(1, 4))
def test_permission_holds_until_the_time_it_names_and_not_a_moment_longer(
    approvals: list[Approval], now: datetime, number: int
) -> None:
    judged = judge(REQUEST, [a for a in approvals if a.given_at <= now], PLAN, now, Quorum(number))
    if isinstance(judged, Allowed) and judged.until is not None:
        before = judged.until - timedelta(microseconds=1)
        given_before = [a for a in approvals if a.given_at <= now]
        assert isinstance(judge(REQUEST, given_before, PLAN, before, Quorum(number)), Allowed)
        at = judge(REQUEST, [a for a in given_before if a.expires_at <= judged.until], PLAN, judged.until, Quorum(1))
        assert isinstance(at, Waiting)


# The desk


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(T0)


@pytest.fixture
def log(clock: ManualClock) -> MemoryEvidenceLog:
    return MemoryEvidenceLog(clock)


@pytest.fixture
def desk(log: MemoryEvidenceLog, clock: ManualClock) -> ApprovalDesk:
    return ApprovalDesk(MemoryApprovalStore(), log, clock)


def ask(desk: ApprovalDesk, plan: str = PLAN) -> Request:
    return desk.request("3.1", "production", plan, person("rita"), "weekly release")


def test_a_request_that_two_others_approve_is_allowed(desk: ApprovalDesk, clock: ManualClock) -> None:
    request = ask(desk)
    for name in ("ada", "bo"):
        desk.approve(request.id, person(name), PLAN, "read the plan", valid_for=DAY)
    case = desk.store.read(request.id)
    assert isinstance(judge(case.request, case.approvals, PLAN, clock.now(), TWO), Allowed)


def test_every_request_approval_refusal_and_end_is_evidence(desk: ApprovalDesk, log: MemoryEvidenceLog) -> None:
    request = ask(desk)
    desk.approve(request.id, person("ada"), PLAN, "read the plan", valid_for=DAY)
    with pytest.raises(ApprovalRefused):
        desk.approve(request.id, person("rita"), PLAN, "mine", valid_for=DAY)
    desk.void(request.id, "rita", "not wanted any more")
    told = [(e.kind, e.subject, e.actor, e.body["request"]) for e in log.entries()]
    assert told == [
        ("approval-requested", "releases/3.1", "rita", request.id),
        ("approval-given", "releases/3.1", "ada", request.id),
        ("approval-refused", "releases/3.1", "rita", request.id),
        ("approval-voided", "releases/3.1", "rita", request.id),
    ]
    assert {e.body["plan"] for e in log.entries() if "plan" in e.body} == {PLAN}


@pytest.mark.parametrize(
    ("who", "plan", "reason"),
    [
        pytest.param("rita", PLAN, "their own", id="oneself"),
        pytest.param("ada", PLAN, "already", id="twice"),
        pytest.param("bo", OTHER_PLAN, "another plan", id="a plan that has changed meanwhile"),
    ],
)
def test_the_desk_refuses_with_the_reason_and_keeps_what_was_there(
    desk: ApprovalDesk, who: str, plan: str, reason: str
) -> None:
    request = ask(desk)
    desk.approve(request.id, person("ada"), PLAN, "read the plan", valid_for=DAY)
    before = desk.store.read(request.id)
    with pytest.raises(ApprovalRefused, match=reason):
        desk.approve(request.id, person(who), plan, "fine", valid_for=DAY)
    assert desk.store.read(request.id) == before


def test_asking_for_a_changed_plan_ends_the_request_for_the_old_one(desk: ApprovalDesk) -> None:
    first = ask(desk)
    desk.request("3.1", "staging", OTHER_PLAN, person("rita"), "another environment")
    assert desk.store.read(first.id).request.voided is None
    ask(desk, OTHER_PLAN)
    voided = desk.store.read(first.id).request.voided
    assert voided is not None
    assert "changed" in voided.reason
    with pytest.raises(ApprovalRefused, match="voided"):
        desk.approve(first.id, person("ada"), PLAN, "too late", valid_for=DAY)


def test_a_request_is_ended_once(desk: ApprovalDesk, log: MemoryEvidenceLog) -> None:
    request = ask(desk)
    desk.void(request.id, "rita", "not wanted any more")
    entries = log.count()
    with pytest.raises(NotAdmissible):
        desk.void(request.id, "rita", "again")
    with pytest.raises(UnknownRequest):
        desk.void("apr-unknown", "rita", "nothing")
    assert log.count() == entries


def test_an_approval_whose_reason_may_not_be_kept_is_not_given(desk: ApprovalDesk) -> None:
    request = ask(desk)
    with pytest.raises(RefusedEvidence):
        desk.approve(request.id, person("ada"), PLAN, "password: hunter22", valid_for=DAY)
    assert desk.store.read(request.id).approvals == ()


# Who somebody is


def names(uid: int) -> str | None:
    return {1000: "ada", 0: "root"}.get(uid)


@pytest.mark.parametrize(
    ("login_uid", "real_uid", "expected"),
    [
        pytest.param(1000, 1000, "ada", id="logged in"),
        pytest.param(1000, 0, "ada", id="working as root after a login"),
        pytest.param(2**32 - 1, 1000, "ada", id="no login session"),
        pytest.param(None, 1000, "ada", id="a kernel without audit"),
        pytest.param(None, 4321, "uid:4321", id="an account without a name"),
        pytest.param(None, 0, None, id="root"),
        pytest.param(0, 1000, None, id="a login as root"),
        pytest.param(2**32 - 1, 65534, None, id="nobody"),
    ],
)
def test_a_person_is_who_logged_in(login_uid: int | None, real_uid: int, expected: str | None) -> None:
    found = account_of(login_uid, real_uid, names)
    assert found == (Person(expected, Proof.ACCOUNT) if expected else None)


def test_no_environment_variable_makes_somebody_another_person(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signed_in_person()
    for name in ("DRP_ACTOR", "USER", "LOGNAME", "USERNAME", "LNAME", "SUDO_USER", "SUDO_UID"):
        monkeypatch.setenv(name, "mallory")
    assert signed_in_person() == before
    assert before is None or before.name != "mallory"


def test_a_name_that_was_only_given_counts_in_rehearsals_alone() -> None:
    ada = Person("ada", Proof.ACCOUNT)
    assert person_at_work("bo", ada, REHEARSAL) == Person("bo", Proof.DECLARED)
    assert person_at_work(None, ada, PROVEN) == ada
    with pytest.raises(UnprovenPerson, match="rehearsals"):
        person_at_work("bo", ada, PROVEN)
    for accepted in (PROVEN, REHEARSAL):
        with pytest.raises(UnprovenPerson, match="shared accounts"):
            person_at_work(None, None, accepted)
    with pytest.raises(UnprovenPerson, match="empty"):
        person_at_work(" ", ada, REHEARSAL)
