"""What every ``ApprovalStore`` promises; an adapter's tests inherit this class."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from dr_platform.approvals import Approval, ApprovalStore, Case, NotAdmissible, Request, UnknownRequest, Voided
from dr_platform.identity import Person, Proof

T0 = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
DAY = timedelta(days=1)
PLAN = "sha256:" + "a" * 64
OTHER_PLAN = "sha256:" + "b" * 64


def person(name: str, proof: Proof = Proof.ACCOUNT) -> Person:
    return Person(name, proof)


def a_request(
    name: str = "apr-1", requester: str = "rita", *, release: str = "3.1", environment: str = "production",
    minute: int = 0, plan: str = PLAN,
) -> Request:  # fmt: skip
    at = T0 + timedelta(minutes=minute)
    return Request(name, release, environment, plan, person(requester), at, "weekly release", 1)


def an_approval(approver: str = "ada", request: str = "apr-1", *, plan: str = PLAN, evidence: int = 2) -> Approval:
    return Approval(request, person(approver), plan, T0, T0 + DAY, "read the plan", evidence)


VOIDED = Voided("rita", T0, "not wanted any more", 9)


class ApprovalStoreContract:
    """No ``Test`` prefix: it runs only through its adapters, which provide ``store``."""

    def test_what_was_stored_is_read_back(self, store: ApprovalStore) -> None:
        store.add(a_request())
        store.give(an_approval("ada", evidence=2))
        store.give(Approval("apr-1", person("bo", Proof.DECLARED), PLAN, T0, T0 + DAY, "fine", 3))
        case = store.read("apr-1")
        assert case.request == a_request()
        assert [a.approver for a in case.approvals] == [person("ada"), person("bo", Proof.DECLARED)]
        assert case.approvals[0] == an_approval("ada", evidence=2)

    def test_a_voided_request_says_who_ended_it_and_why(self, store: ApprovalStore) -> None:
        store.add(a_request())
        store.void("apr-1", VOIDED)
        assert store.read("apr-1").request.voided == VOIDED

    def test_an_identifier_is_given_once(self, store: ApprovalStore) -> None:
        store.add(a_request())
        with pytest.raises(NotAdmissible):
            store.add(a_request(requester="somebody else"))
        assert store.read("apr-1") == Case(a_request())

    @pytest.mark.parametrize(
        ("approval", "reason"),
        [
            pytest.param(an_approval("rita"), "their own request", id="the requester"),
            pytest.param(an_approval(" RITA "), "their own request", id="the requester, spelled otherwise"),
            pytest.param(an_approval("ada"), "approved the request already", id="the same approver"),
            pytest.param(an_approval("Ａda"), "approved the request already", id="the same approver in wide letters"),
            pytest.param(an_approval("bo", plan=OTHER_PLAN), "another plan", id="another plan"),
        ],
    )
    def test_what_may_not_stand_there_is_refused_and_leaves_nothing(
        self, store: ApprovalStore, approval: Approval, reason: str
    ) -> None:
        store.add(a_request())
        store.give(an_approval("ada"))
        with pytest.raises(NotAdmissible, match=reason):
            store.give(approval)
        assert store.read("apr-1") == Case(a_request(), (an_approval("ada"),))

    def test_nothing_is_added_to_a_voided_request(self, store: ApprovalStore) -> None:
        store.add(a_request())
        store.void("apr-1", VOIDED)
        with pytest.raises(NotAdmissible, match="voided"):
            store.give(an_approval())
        with pytest.raises(NotAdmissible, match="voided"):
            store.void("apr-1", Voided("ada", T0, "again", 10))
        case = store.read("apr-1")
        assert (case.request.voided, case.approvals) == (VOIDED, ())

    def test_what_is_unknown_is_told(self, store: ApprovalStore) -> None:
        for ask in (
            lambda: store.read("apr-x"), lambda: store.give(an_approval()), lambda: store.void("apr-1", VOIDED),
        ):  # fmt: skip
            with pytest.raises(UnknownRequest):
                ask()
        assert store.cases() == ()

    def test_cases_are_chosen_by_environment_and_release_newest_first(self, store: ApprovalStore) -> None:
        store.add(a_request("apr-1", minute=1))
        store.add(a_request("apr-2", minute=3, environment="staging"))
        store.add(a_request("apr-3", minute=2, release="3.2"))
        store.give(an_approval(request="apr-3"))
        assert [c.request.id for c in store.cases()] == ["apr-2", "apr-3", "apr-1"]
        assert [c.request.id for c in store.cases(environment="production")] == ["apr-3", "apr-1"]
        assert store.cases(release="3.2") == (
            Case(a_request("apr-3", minute=2, release="3.2"), (an_approval(request="apr-3"),)),
        )
        assert store.cases(environment="production", release="4") == ()

    def test_of_one_person_approving_many_times_at_once_one_approval_stays(self, store: ApprovalStore) -> None:
        store.add(a_request())

        def give(number: int) -> bool:
            try:
                store.give(an_approval("ada", evidence=number))
            except NotAdmissible:
                return False
            return True

        with ThreadPoolExecutor(6) as pool:
            assert sum(pool.map(give, range(6))) == 1
        assert len(store.read("apr-1").approvals) == 1

    def test_an_approval_and_the_end_of_its_request_are_ordered(self, store: ApprovalStore) -> None:
        """Either the approval was there first, or it was refused; never is it added afterwards."""
        store.add(a_request())

        def give(number: int) -> bool:
            try:
                store.give(an_approval(f"person {number}"))
            except NotAdmissible:
                return False
            return True

        with ThreadPoolExecutor(6) as pool:
            given = [pool.submit(give, number) for number in range(5)]
            pool.submit(store.void, "apr-1", VOIDED).result()
            count = sum(f.result() for f in given)
        assert len(store.read("apr-1").approvals) == count
        with pytest.raises(NotAdmissible):
            store.give(an_approval("late"))
