"""Guards what is remembered of promotions: each moment once, never changed, and read back whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from dr_platform.objects import ObjectStore, local_objects
from dr_platform.releases.bundle import ReleaseBundle
from dr_platform.releases.ledger import (
    Action,
    Began,
    BegunMeanwhile,
    DamagedLedger,
    Ended,
    Episode,
    ReleaseLedger,
    Withdrawal,
    current_release,
    next_number,
    ran_before,
)
from dr_platform.releases.plan import Running
from dr_platform.releases.tracker import Outcome
from tests.release_values import MADE_AT, a_bundle, a_member, a_step

pytestmark = pytest.mark.unit

OLD = a_bundle({"api": a_member("1.0.0"), "mail": a_member("1.0.0")}, {"postgres": [a_step("1")]}, name="3.0")
NEW = a_bundle({"api": a_member("2.0.0"), "mail": a_member("2.0.0")}, {"postgres": [a_step("1")]}, name="4.0")


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return local_objects(tmp_path)


def began(number: int = 1, bundle: ReleaseBundle = NEW, action: Action = "promote", replaces: str = "3.0") -> Began:
    return Began(
        number=number,
        action=action,
        release=bundle.name,
        digest=bundle.digest,
        environment="staging",
        by="ana",
        at=MADE_AT,
        replaces=replaces,
        before=OLD.services,
        schemas=OLD.databases,
    )


def ended(outcome: Outcome) -> Ended:
    return Ended(outcome=outcome, why="so it went", at=MADE_AT)


def test_what_was_written_is_read_back_in_order(objects: ObjectStore) -> None:
    ledger = ReleaseLedger(objects)
    first = ledger.end(ledger.begin(began(1)), ended(Outcome.DEPLOYED))
    second = ledger.withdraw(ledger.begin(began(2)), Withdrawal(service="api", why="bad", back=("mail", "api")))
    assert ReleaseLedger(objects).episodes() == (first, second)
    assert ReleaseLedger(objects).last() == second
    assert next_number(second) == 3
    assert first.id != second.id


def test_of_two_that_begin_at_once_one_begins(objects: ObjectStore) -> None:
    first = ReleaseLedger(objects).begin(began())
    with pytest.raises(BegunMeanwhile):
        ReleaseLedger(objects).begin(began(bundle=OLD))
    assert ReleaseLedger(objects).last() == first


def test_what_was_decided_first_counts(objects: ObjectStore) -> None:
    ledger = ReleaseLedger(objects)
    episode = ledger.begin(began())
    first = Withdrawal(service="api", why="bad", back=("api",))
    ledger.withdraw(episode, first)
    assert ledger.withdraw(episode, Withdrawal(service="mail", why="other")).withdrawal == first


def test_a_damaged_one_is_named_and_never_taken_for_none(tmp_path: Path, objects: ObjectStore) -> None:
    ReleaseLedger(objects).begin(began())
    (tmp_path / "deployments" / "000001" / "began.json").write_text("{}")
    with pytest.raises(DamagedLedger) as damaged:
        ReleaseLedger(objects).last()
    assert "deployments/000001/began.json" in str(damaged.value)


def test_the_current_release_is_what_was_deployed_last_and_not_rolled_back() -> None:
    deployed = Episode(began(1), None, ended(Outcome.DEPLOYED))
    failed = Episode(began(2, replaces="4.0"), None, ended(Outcome.FAILED))
    back = Episode(began(3, action="rollback"), None, ended(Outcome.ROLLED_BACK))
    assert current_release([]) is None
    assert current_release([deployed, failed, Episode(began(3))]) == "4.0"
    assert current_release([deployed, failed, back]) == "3.0"


def test_after_a_failed_attempt_what_it_left_behind_is_no_state_to_return_to() -> None:
    half = Running({"api": a_member("2.0.0"), "mail": a_member("1.5.0")}, dict(OLD.databases))
    failed = Episode(began(), None, ended(Outcome.FAILED))
    assert ran_before(NEW, half, failed).services == {"api": a_member("1.0.0"), "mail": a_member("1.5.0")}
    for last in (None, Episode(began(), None, ended(Outcome.DEPLOYED)), Episode(began(bundle=OLD), None, failed.ended)):
        assert ran_before(NEW, half, last) == half
