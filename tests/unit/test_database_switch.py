"""Whether a database may go live, what its plan says, and what approvals are bound to: functions of values."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.backups.port import LastSwitch, Occupant, Standing
from dr_platform.backups.switch import (
    MASKED,
    NOT_OURS,
    RESTORED,
    SWITCHED,
    AlreadyDone,
    Origin,
    SwitchPlan,
    SwitchRefused,
    decide,
    origin_of,
)
from dr_platform.database_switch import Switched, switch_digest
from dr_platform.errors import ExitCode
from dr_platform.evidence import Entry, MemoryEvidenceLog
from dr_platform.verdict import Verdict

pytestmark = pytest.mark.unit

AT = datetime(2026, 11, 26, 14, 5, tzinfo=UTC)
LIVE = Occupant("app", "16001", "80 MB", "1.3.0", 12, AT)
COPY = Occupant("app_restored", "16002", "79 MB", "1.3.0", 0, AT)
OURS = Origin("restored from b-1, equal to its source", "what was written since 2026-11-26 02:15 UTC")
BEFORE = "app_before_20261126t140500z"


def planned(standing: Standing | None = None, origin: Origin = OURS, to: str = "app_restored") -> Any:
    found = standing or Standing(LIVE, COPY)
    return decide("local", "postgres", to, found, origin, ("billing", "consent"), "sessions are ended", BEFORE)


def entries(*bodies: tuple[str, dict[str, Any]]) -> list[Entry]:
    log = MemoryEvidenceLog()
    return [log.append(kind, "backups/postgres", "somebody", body) for kind, body in bodies]


def test_the_plan_says_what_goes_live_what_is_lost_who_notices_and_how_to_go_back() -> None:
    plan = planned()
    assert isinstance(plan, SwitchPlan)
    assert plan.objections == ()
    told = "\n".join(plan.lines())
    for part in (
        "live now: app (80 MB, schema 1.3.0, 12 sessions, newest backup in it begun 2026-11-26 14:05 UTC)",
        "goes live: app_restored (79 MB, schema 1.3.0, 0 sessions",
        "restored from b-1, equal to its source",
        "what was written since 2026-11-26 02:15 UTC; it stays in app_before_20261126t140500z alone",
        "noticed by billing, consent: sessions are ended",
        "back again: drp switch postgres --to app_before_20261126t140500z",
    ):
        assert part in told
    assert "--reason" not in told
    assert json.loads(json.dumps(plan.as_json(), default=str))["digest"] == plan.digest


@pytest.mark.parametrize(
    ("standing", "to", "why"),
    [
        pytest.param(Standing(LIVE, LIVE), "app", "app is the live one", id="the live one"),
        pytest.param(Standing(LIVE, None), "app_restored", "has no database app_restored", id="not there"),
        pytest.param(
            Standing(LIVE, None, LastSwitch("another", BEFORE, AT)),
            "app_restored",
            "has no database app_restored",
            id="not there, though another was switched",
        ),
    ],
)
def test_what_cannot_be_is_refused_whatever_the_reason(standing: Standing, to: str, why: str) -> None:
    with pytest.raises(SwitchRefused, match=why):
        planned(standing, to=to)


def test_a_name_that_is_gone_because_it_went_live_is_done_already() -> None:
    last = LastSwitch("app_restored", BEFORE, AT)
    assert planned(Standing(LIVE, None, last)) == AlreadyDone(last)


def test_a_name_that_is_there_again_after_a_switch_is_a_new_target() -> None:
    assert isinstance(planned(Standing(LIVE, COPY, LastSwitch("app_restored", BEFORE, AT))), SwitchPlan)


@pytest.mark.parametrize(
    ("target", "origin", "objections"),
    [
        pytest.param(COPY, OURS, 0, id="restored here, same schema"),
        pytest.param(replace(COPY, migration_version="1.2.0"), OURS, 1, id="older schema"),
        pytest.param(replace(COPY, migration_version=""), OURS, 1, id="no schema"),
        pytest.param(COPY, NOT_OURS, 1, id="of unknown origin"),
        pytest.param(replace(COPY, migration_version="1.4.0"), NOT_OURS, 2, id="both"),
    ],
)
def test_what_may_be_right_all_the_same_needs_a_reason(target: Occupant, origin: Origin, objections: int) -> None:
    plan = planned(Standing(LIVE, target), origin)
    assert len(plan.objections) == objections
    assert sum("needs --reason" in line for line in plan.lines()) == objections


RESTORE = {"backup": "b-1", "into": "app_restored", "taken": "2026-11-26 02:15 UTC", "moment": "", "equal": True}


def test_the_evidence_log_knows_what_was_restored_and_proved_equal() -> None:
    found = origin_of(entries((RESTORED, RESTORE)), "app_restored")
    assert (found.lost, found.objection) == ("what was written since 2026-11-26 02:15 UTC", "")
    assert "b-1" in found.what


@pytest.mark.parametrize(
    ("body", "objection"),
    [
        pytest.param({**RESTORE, "into": "another"}, NOT_OURS.objection, id="another database"),
        pytest.param({**RESTORE, "moment": "before-postgres-2-x"}, "nothing to compare", id="brought to a moment"),
        pytest.param({**RESTORE, "equal": False}, "could be compared", id="not compared"),
        pytest.param({"backup": "b-1", "into": "app_restored"}, "could be compared", id="nothing said of comparing"),
    ],
)
def test_what_was_not_proved_equal_is_an_objection(body: dict[str, Any], objection: str) -> None:
    assert objection in origin_of(entries((RESTORED, body)), "app_restored").objection


def test_a_database_made_later_under_the_name_of_a_restored_one_is_another() -> None:
    log = entries((RESTORED, {**RESTORE, "identity": "16400"}))
    assert origin_of(log, "app_restored", "16400").objection == ""
    another = origin_of(log, "app_restored", "16999")
    assert "made later under its name" in another.objection
    assert another.what == ""
    assert (
        origin_of(entries((RESTORED, RESTORE)), "app_restored", "16400").objection == ""
    )  # restored by an older version


def test_a_masked_database_that_passed_may_go_live_and_is_said_to_hold_other_data() -> None:
    body = {"into": "app_mask_1", "source": "production-backup", "run": "mask-1"}
    found = origin_of(entries((RESTORED, RESTORE), (MASKED, body)), "app_mask_1")
    assert (found.objection, found.lost[:9]) == ("", "all of it")
    assert "production-backup" in found.what


def test_what_was_live_may_go_live_again_and_loses_what_was_written_since() -> None:
    log = entries((RESTORED, RESTORE), (SWITCHED, {"to": "app_restored", "before": BEFORE}))
    found = origin_of(log, BEFORE)
    assert found.objection == ""
    assert found.lost == f"what was written since {log[-1].at:%Y-%m-%d %H:%M} UTC"


def test_the_last_entry_about_a_name_counts() -> None:
    log = entries((RESTORED, RESTORE), (RESTORED, {**RESTORE, "backup": "b-2", "equal": False}))
    assert "b-2" in origin_of(log, "app_restored").what


@given(
    clients=st.integers(0, 500), extent=st.text("0123456789 MB"), beat=st.none() | st.just(AT),
)  # fmt: skip
def test_what_changes_by_the_minute_does_not_change_what_was_approved(
    clients: int, extent: str, beat: datetime | None
) -> None:
    live = replace(LIVE, clients=clients, extent=extent, backed_up_at=beat)
    assert planned(Standing(live, COPY)).digest == planned().digest


@pytest.mark.parametrize(
    "standing",
    [
        Standing(replace(LIVE, identity="16009"), COPY),
        Standing(LIVE, replace(COPY, identity="16009")),
        Standing(LIVE, replace(COPY, migration_version="1.2.0")),
    ],
)
def test_other_databases_need_another_approval(standing: Standing) -> None:
    assert planned(standing).digest != planned().digest


def test_requests_for_releases_and_restores_are_none_for_a_switch(tmp_path: Any) -> None:
    assert switch_digest(tmp_path, "1.2.0") is None
    assert switch_digest(tmp_path, "restore/postgres/b-1/copy") is None


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ((True, True), ExitCode.OK),
        ((True, False), ExitCode.FAILED),
        ((True, None), ExitCode.UNAVAILABLE),
        ((None, False), ExitCode.FAILED),
    ],
)
def test_a_switch_succeeds_only_with_everything_healthy_and_always_says_how_to_go_back(
    answers: tuple[bool | None, ...], code: ExitCode
) -> None:
    verdicts = {f"s{number}": Verdict(passed, "seen") for number, passed in enumerate(answers)}
    done = Switched("postgres", "app_restored", BEFORE, AT, 0.2, verdicts)
    assert done.exit_code is code
    assert done.lines()[-1].endswith(f"drp switch postgres --to {BEFORE}")
    assert any("drp rollout restart" in line for line in done.lines()) is bool(code)
    assert done.as_json()["verdicts"]["s1"] == {"passed": answers[1], "why": "seen"}
