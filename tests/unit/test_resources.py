"""Guards the border to Dagster: what is retried, what a verdict becomes, what a person is shown."""

from __future__ import annotations

import dagster as dg
import pytest
from dagster._utils.error import serializable_error_info_from_exc_info

from dr_platform.errors import PlatformError, TemporaryFailure
from dr_platform.look import Cost, Look
from dr_platform.remedy import Remedy
from dr_platform.resources import attempt_request, carried_out, check_evaluation, check_result, escalation
from dr_platform.verdict import Verdict

pytestmark = pytest.mark.unit


class Away(TemporaryFailure):
    what, untouched, next_step = "the database is away", "all data", "see `drp logs postgres`"


class Wrong(PlatformError):
    what, untouched, next_step = "the port is taken", "everything", "stop the other program"


def failing(error: Exception) -> dg.Failure:
    def act() -> None:
        raise error

    with pytest.raises(dg.Failure) as failed:
        carried_out(act)
    return failed.value


@pytest.mark.parametrize(
    ("error", "retried"), [(Away(), True), (Wrong(), False), (ValueError("Jane Doe, 1980-01-01"), False)]
)
def test_only_what_may_succeed_when_tried_again_is_retried(error: Exception, retried: bool) -> None:
    assert failing(error).allow_retries is retried


def test_an_expected_failure_says_what_happened_what_is_untouched_and_what_to_do() -> None:
    failure = failing(Away())
    assert failure.description == "the database is away. see `drp logs postgres`"
    assert {name: value.value for name, value in failure.metadata.items()} == {
        "untouched": "all data",
        "next": "see `drp logs postgres`",
    }


def test_a_defect_is_named_by_its_type_and_place_and_what_it_met_is_quoted_nowhere() -> None:
    failure = failing(ValueError("Jane Doe, 1980-01-01"))
    assert failure.description == "unexpected ValueError, a defect of the platform"
    assert str(failure.metadata["at"].value).splitlines()[0].endswith(" in act")
    stored = serializable_error_info_from_exc_info((type(failure), failure, failure.__traceback__))
    assert "Jane Doe" not in stored.to_string()


def test_what_succeeds_is_handed_on() -> None:
    assert carried_out(lambda: 7) == 7


@pytest.mark.parametrize(
    ("verdict", "passed", "answer"),
    [
        (Verdict(True, "fine", {"latency_ms": 1.5}), True, "good"),
        (Verdict(False, "0 of 1 ready", {"latency_ms": 1.5}), False, "bad"),
        (Verdict(None, "could not look: dark", {"latency_ms": 1.5}), False, "unknown"),
    ],
)
@pytest.mark.parametrize("severe", [True, False])
def test_a_verdict_becomes_the_same_in_a_run_and_outside_of_it_and_not_seen_does_not_pass(
    verdict: Verdict, passed: bool, answer: str, severe: bool
) -> None:
    look = Look(("services", "any"), "healthy", "", lambda: verdict, severe)
    for shown in (check_result(look, verdict), check_evaluation(look, verdict)):
        assert shown.asset_key == dg.AssetKey(["services", "any"])
        assert (shown.check_name, shown.passed, shown.description) == ("healthy", passed, verdict.why)
        assert shown.severity is (dg.AssetCheckSeverity.ERROR if severe else dg.AssetCheckSeverity.WARN)
        assert shown.metadata["answer"].value == answer
        assert shown.metadata["latency_ms"].value == 1.5


def test_each_attempt_of_each_episode_is_a_run_of_its_own() -> None:
    remedies = [
        Remedy(("services", "any"), number, "why", episode) for number in (1, 2, 3) for episode in ("100", "200")
    ]
    requests = [attempt_request(remedy, []) for remedy in remedies]
    assert len({request.run_key for request in requests}) == len(remedies)
    assert attempt_request(remedies[0], []).run_key == requests[0].run_key


def test_an_attempt_brings_its_target_up_with_the_cheap_checks_alone() -> None:
    target = ("services", "any")
    looks = [Look(target, cost.value, "", lambda: Verdict(True, ""), cost=cost) for cost in Cost]
    request = attempt_request(Remedy(target, 1, "why", "100"), looks)
    assert request.asset_check_keys == [dg.AssetCheckKey(dg.AssetKey(list(target)), "cheap")]


def test_an_escalation_is_shown_on_the_asset_with_its_reason_and_the_attempts() -> None:
    shown = escalation(Remedy(("databases", "any"), 3, "3 attempts did not help: no answer", "100"))
    assert shown.asset_key == dg.AssetKey(["databases", "any"])
    assert shown.description == "A person is needed: 3 attempts did not help: no answer"
    assert {name: value.value for name, value in shown.metadata.items()} == {
        "escalated": True,
        "attempts": 3,
        "why": "3 attempts did not help: no answer",
    }
