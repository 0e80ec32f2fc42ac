"""Guards that a release enters an environment only when everything was looked at, is recent and is good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.approvals import PROVEN, REHEARSAL, Approval, Case, Request, Voided
from dr_platform.catalog import Environment, load_catalog
from dr_platform.catalog.models import Windows
from dr_platform.clock import ManualClock
from dr_platform.evidence import BrokenEntry, MemoryEvidenceLog
from dr_platform.identity import Person, Proof
from dr_platform.platform import find_catalog
from dr_platform.promotion import (
    CHECKLIST,
    Attested,
    Candidate,
    Facts,
    GateTable,
    Phase,
    PromotionEvidence,
    Recorder,
    Risk,
    Standing,
    Suites,
    Unread,
    attested_lines,
    gate,
    plan_digest,
    read_facts,
    release_digest,
)
from dr_platform.promotion.checklist import lines_of
from dr_platform.promotion.facts import Attestation, Order, SuiteRun, VerifiedRelease, Waiver
from dr_platform.promotion.record import LONGEST_WAIVER, TooLong
from dr_platform.promotion.signed import SuiteResult
from dr_platform.promotion.table import NEVER_WAIVED

pytestmark = pytest.mark.unit

ENVIRONMENTS = load_catalog(find_catalog()).environments
PRODUCTION, STAGING = ENVIRONMENTS["production"], ENVIRONMENTS["staging"]
# A Wednesday.
NOW = datetime(2026, 1, 7, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
DIGEST, OTHER_DIGEST = "sha256:" + "a" * 64, "sha256:" + "b" * 64
PLAN, OTHER_PLAN = "sha256:" + "c" * 64, "sha256:" + "d" * 64
CANDIDATE = Candidate("3.1", DIGEST, "production", PLAN)
HELD = Order(True, "olga", NOW - HOUR, "failed in production")
WHERE = {"release": "3.1", "digest": DIGEST}
SUITES = PRODUCTION.entry.suites


def person(name: str, proof: Proof = Proof.ACCOUNT) -> Person:
    return Person(name, proof)


def result(suite: str) -> SuiteResult:
    return SuiteResult(suite, True, 12, 0, NOW - HOUR)


def run(suite: str) -> SuiteRun:
    return SuiteRun(suite, "production", "3.1", DIGEST, True, 12, 0, NOW - HOUR)


SOURCE = PromotionEvidence(
    "staging", "3.1", DIGEST, NOW - HOUR, NOW - 2 * DAY, tuple(map(result, SUITES)), 12, "e" * 64
)


def attestation(line: str) -> Attestation:
    return Attestation(line, "production", "3.1", DIGEST, person("ada"), NOW - HOUR, NOW + DAY)


def approval(name: str) -> Approval:
    return Approval("apr-1", person(name), PLAN, NOW - HOUR, NOW + DAY, "read the plan", 2)


CASE = Case(
    Request("apr-1", "3.1", "production", PLAN, person("rita"), NOW - DAY, "weekly release", 1),
    (approval("ada"), approval("bo")),
)
SOUND = Facts(
    suites=tuple(map(run, SUITES)),
    verified=(VerifiedRelease("production", "3.1", DIGEST, NOW - HOUR),),
    attestations=tuple(map(attestation, attested_lines(PRODUCTION))),
    cases=(CASE,),
    source=SOURCE,
)


def judged(
    facts: Facts | Unread = SOUND,
    *,
    target: Environment = PRODUCTION,
    now: datetime = NOW,
    candidate: Candidate = CANDIDATE,
    phase: Phase = Phase.AFTER,
    risk: Risk = Risk.ORDINARY,
    proofs: frozenset[Proof] = PROVEN,
) -> GateTable:
    return gate(candidate, target, STAGING, facts, now, proofs=proofs, phase=phase, risk=risk)


def shut(table: GateTable) -> dict[str, Standing]:
    return {row.name: row.answer.standing for row in table.rows if not row.answer.allow}


def with_suite(name: str, **change: object) -> Facts:
    suites = tuple(replace(s, **change) if s.suite == name else s for s in SOURCE.suites)
    return replace(SOUND, source=replace(SOURCE, suites=suites))


def with_attestation(line: str, **change: object) -> Facts:
    changed = (replace(a, **change) if a.line == line else a for a in SOUND.attestations)
    return replace(SOUND, attestations=tuple(changed))


def with_case(**change: object) -> Facts:
    return replace(SOUND, cases=(replace(CASE, request=replace(CASE.request, **change)),))


def test_a_release_of_which_everything_is_recorded_and_recent_may_enter() -> None:
    for phase in Phase:
        table = judged(phase=phase)
        assert shut(table) == {}
        assert table.passed
        assert table.ask_again_at is None


AI = {"suite:ai", "ci-tests"}
HIPAA = {"suite:hipaa", "hipaa-tests", "ci-tests"}


@pytest.mark.parametrize(
    ("facts", "rows", "standing"),
    [
        pytest.param(with_suite("ai", passed=False, failed=1), AI, Standing.FAILED, id="a suite failed"),
        pytest.param(with_suite("ai", failed=1), AI, Standing.FAILED, id="a suite says passed with a failed check"),
        pytest.param(with_suite("ai", checks=0), AI, Standing.FAILED, id="a suite without checks"),
        pytest.param(with_suite("ai", passed=None), AI, Standing.UNKNOWN, id="a suite could not look"),
        pytest.param(with_suite("ai", at=NOW - DAY), AI, Standing.STALE, id="a suite is a day old"),
        pytest.param(with_suite("ai", at=NOW + HOUR), AI, Standing.UNKNOWN, id="a suite of the future"),
        pytest.param(with_suite("ai", suite="other"), AI, Standing.NOT_RUN, id="a suite did not run"),
        pytest.param(with_suite("hipaa", passed=False), HIPAA, Standing.FAILED, id="HIPAA failed"),
        pytest.param(replace(SOUND, source=replace(SOURCE, verified_at=None)), {"verified", "soak"}, Standing.NOT_RUN, id="not verified before"),
        pytest.param(replace(SOUND, source=replace(SOURCE, verified_at=NOW - 23 * HOUR)), {"soak"}, Standing.WAITING, id="not long enough there"),
        pytest.param(replace(SOUND, source=replace(SOURCE, issued_at=NOW + HOUR)), {"promotion-evidence"}, Standing.UNKNOWN, id="signed in the future"),
        pytest.param(replace(SOUND, refused=("x.json: changed",)), {"promotion-evidence"}, Standing.FAILED, id="a file was refused, though another one is sound"),
        pytest.param(replace(SOUND, hold=HELD), {"holds"}, Standing.FAILED, id="held"),
        pytest.param(replace(SOUND, freeze=HELD), {"freeze"}, Standing.FAILED, id="frozen by a person"),
        pytest.param(replace(SOUND, broken=BrokenEntry(3, "missing")), {"evidence"}, Standing.FAILED, id="a broken chain"),
        pytest.param(replace(SOUND, unreadable=(7,)), {"evidence"}, Standing.FAILED, id="an entry cannot be read"),
        pytest.param(replace(SOUND, cases=()), {"approvals"}, Standing.NOT_RUN, id="approval was not requested"),
        pytest.param(replace(SOUND, cases=(Case(CASE.request, (approval("ada"),)),)), {"approvals"}, Standing.WAITING, id="one approval of two"),
        pytest.param(with_case(plan_digest=OTHER_PLAN), {"approvals"}, Standing.FAILED, id="approvals of another plan"),
        pytest.param(with_case(voided=Voided("rita", NOW, "no", 9)), {"approvals"}, Standing.FAILED, id="a voided request"),
        pytest.param(with_case(requester=person("ada")), {"approvals"}, Standing.WAITING, id="approved by the requester"),
        pytest.param(with_case(environment="staging"), {"approvals"}, Standing.NOT_RUN, id="approved for another environment"),
        pytest.param(with_case(release="3.2"), {"approvals"}, Standing.NOT_RUN, id="approved for another release"),
        pytest.param(with_attestation("review", expires_at=NOW), {"review"}, Standing.STALE, id="an attestation has expired"),
        pytest.param(with_attestation("review", digest=OTHER_DIGEST), {"review"}, Standing.NOT_RUN, id="attested for another digest"),
        pytest.param(with_attestation("review", environment="staging"), {"review"}, Standing.NOT_RUN, id="attested for another environment"),
        pytest.param(with_attestation("review", signer=person("ada", Proof.DECLARED)), {"review"}, Standing.FAILED, id="attested by nobody known"),
        pytest.param(with_attestation("review", at=NOW + HOUR), {"review"}, Standing.UNKNOWN, id="attested in the future"),
        pytest.param(replace(SOUND, verified=()), {"components-deployed"}, Standing.NOT_RUN, id="not verified here afterwards"),
    ],
)  # fmt: skip
def test_one_thing_amiss_shuts_its_rows_and_no_other(facts: Facts, rows: set[str], standing: Standing) -> None:
    table = judged(facts)
    assert shut(table) == dict.fromkeys(rows, standing)
    assert not table.passed


def test_everything_that_could_be_recorded_shuts_the_gate_when_it_is_missing() -> None:
    """Every suite, every attestation: none of them is a row that cannot fail."""
    for suite in SUITES:
        assert f"suite:{suite}" in shut(judged(with_suite(suite, suite="other")))
    for line in attested_lines(PRODUCTION):
        rest = tuple(a for a in SOUND.attestations if a.line != line)
        assert shut(judged(replace(SOUND, attestations=rest))) == {line: Standing.NOT_RUN}


def test_of_nothing_recorded_nothing_but_the_absence_of_refusals_passes() -> None:
    table = judged(Facts())
    open_rows = {row.name for row in table.rows if row.answer.allow}
    assert open_rows == {"evidence", "holds", "freeze", "window"}


def test_what_cannot_be_looked_at_shuts_every_row() -> None:
    table = judged(Unread("no answer"))
    assert set(shut(table)) == {row.name for row in table.rows}
    assert table.unlooked
    assert not table.passed
    assert not judged(replace(SOUND, hold=HELD)).unlooked


@given(st.sets(st.sampled_from(sorted(attested_lines(PRODUCTION)))), st.sets(st.sampled_from(SUITES)), st.booleans())
def test_the_gate_passes_exactly_when_nothing_is_missing(lines: set[str], suites: set[str], held: bool) -> None:
    facts = replace(
        SOUND,
        attestations=tuple(a for a in SOUND.attestations if a.line not in lines),
        source=replace(SOURCE, suites=tuple(s for s in SOURCE.suites if s.suite not in suites)),
        hold=HELD if held else None,
    )
    assert judged(facts).passed == (not lines and not suites and not held)


@given(st.integers(0, 63), st.sampled_from("0123456789abcdef"))
def test_any_change_of_the_release_shuts_all_that_was_recorded_about_it(at: int, digit: str) -> None:
    place = len("sha256:") + at
    changed = DIGEST[:place] + digit + DIGEST[place + 1 :]
    table = judged(candidate=replace(CANDIDATE, digest=changed, plan_digest=changed))
    open_rows = {row.name for row in table.rows if row.answer.allow}
    if changed != DIGEST:
        # The signed file itself is found by its digest; here it is handed over to be ignored.
        assert open_rows == {"evidence", "holds", "freeze", "window", "promotion-evidence"}


@given(st.integers(-72, 72).map(lambda h: NOW + h * HOUR), st.integers(-72, 72).map(lambda h: NOW + h * HOUR))
def test_an_old_success_never_hides_a_newer_failure(passed_at: datetime, failed_at: datetime) -> None:
    both = (replace(run("ai"), at=passed_at), replace(run("ai"), at=failed_at, passed=False))
    facts = replace(SOUND, suites=tuple(r for r in SOUND.suites if r.suite != "ai") + both)
    fresh = passed_at <= NOW < passed_at + DAY
    assert ("ai-validated" not in shut(judged(facts))) == (fresh and passed_at > failed_at)


# Times


def test_one_who_is_too_early_is_told_when_to_ask_again() -> None:
    early = replace(SOUND, source=replace(SOURCE, verified_at=NOW - 23 * HOUR))
    assert judged(early).ask_again_at == NOW + HOUR
    assert judged(replace(early, hold=HELD)).ask_again_at is None


def test_a_freeze_of_the_calendar_ends_by_itself_and_overrides_a_maintenance_window() -> None:
    windows = Windows(maintenance=("Wed 10:00-14:00 UTC",), freeze=("2026-01-06/2026-01-07",))
    frozen = PRODUCTION.model_copy(update={"windows": windows})
    table = judged(target=frozen, risk=Risk.RISKY)
    assert shut(table) == {"freeze": Standing.WAITING}
    assert table.ask_again_at == datetime(2026, 1, 8, tzinfo=UTC)


def test_a_risky_change_waits_for_the_window_and_an_ordinary_one_does_not() -> None:
    table = judged(risk=Risk.RISKY)
    assert shut(table) == {"window": Standing.WAITING}
    assert table.ask_again_at == datetime(2026, 1, 11, 2, tzinfo=UTC)


# Waivers


def waiver(row: str, name: str, **change: object) -> Waiver:
    made = Waiver(row, "production", "3.1", DIGEST, person(name), NOW - HOUR, NOW + DAY, "measured by hand")
    return replace(made, **change)


FAILED_AI = with_suite("ai", passed=False, failed=1)


def test_what_two_people_waive_passes_and_is_shown_with_what_it_hides() -> None:
    table = judged(replace(FAILED_AI, waivers=(waiver("suite:ai", "ada"), waiver("suite:ai", "bo"))))
    assert table.passed
    row = next(row for row in table.rows if row.name == "suite:ai")
    assert row.answer.standing is Standing.WAIVED
    assert "11 of 12" in row.answer.message
    assert "ada, bo" in row.answer.message
    resting = next(row for row in table.rows if row.name == "ci-tests")
    assert resting.answer.standing is Standing.WAIVED


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(waiver("suite:ai", " ADA"), id="the same person"),
        pytest.param(waiver("suite:ai", "bo", expires_at=NOW), id="expired"),
        pytest.param(waiver("suite:ai", "bo", at=NOW + HOUR), id="from the future"),
        pytest.param(waiver("suite:ai", "bo", digest=OTHER_DIGEST), id="another digest"),
        pytest.param(waiver("suite:ai", "bo", environment="staging"), id="another environment"),
        pytest.param(waiver("suite:data", "bo"), id="another row"),
        pytest.param(waiver("suite:ai", "bo", by=person("bo", Proof.DECLARED)), id="nobody known"),
    ],
)
def test_one_word_is_no_waiver(second: Waiver) -> None:
    assert shut(judged(replace(FAILED_AI, waivers=(waiver("suite:ai", "ada"), second)))) == dict.fromkeys(
        AI, Standing.FAILED
    )


@pytest.mark.parametrize("row", sorted(NEVER_WAIVED))
def test_some_rows_are_never_waived(row: str) -> None:
    waivers = (waiver(row, "ada"), waiver(row, "bo"))
    assert row in {r.name for r in judged().rows}
    hipaa = tuple(replace(r, passed=False) for r in SOUND.suites)
    bad = replace(
        with_suite("hipaa", passed=False), hold=HELD, freeze=HELD, cases=(), broken=BrokenEntry(1, "missing"),
        refused=("x",), suites=hipaa, waivers=waivers,
    )  # fmt: skip
    assert row in shut(judged(bad))


# What an environment has


def test_both_guides_bind_production_and_every_line_is_there_once() -> None:
    names = [line.id for line in lines_of(PRODUCTION, Phase.AFTER)]
    assert len(names) == len(set(names))
    assert {line.id for line in CHECKLIST} <= set(names)
    titles = {line.title for line in lines_of(PRODUCTION, Phase.BEFORE)}
    assert set(PRODUCTION.entry.attestations) <= titles


def test_a_line_that_names_a_suite_names_one_that_production_demands() -> None:
    named = {name for line in CHECKLIST if isinstance(line.proof, Suites) for name in line.proof.names}
    assert named <= set(SUITES)


def test_other_environments_have_what_their_own_files_demand() -> None:
    assert lines_of(STAGING, Phase.AFTER) == ()
    demanding = STAGING.entry.model_copy(update={"attestations": ("Rollback plan documented", "The demo was seen")})
    lines = lines_of(STAGING.model_copy(update={"entry": demanding}), Phase.BEFORE)
    assert [(line.id, line.phase) for line in lines] == [
        ("rollback-plan", Phase.BEFORE), ("the-demo-was-seen", Phase.BEFORE),
    ]  # fmt: skip
    assert all(isinstance(line.proof, Attested) for line in lines)


def test_the_first_environment_has_none_before_it() -> None:
    table = gate(replace(CANDIDATE, environment="local"), ENVIRONMENTS["local"], None, Facts(), NOW, proofs=PROVEN)
    assert table.passed
    assert {row.name for row in table.rows} == {"evidence", "holds", "freeze", "window", "approvals"}


def test_declared_names_count_in_a_rehearsal_which_is_told() -> None:
    declared = replace(
        SOUND,
        cases=(replace(CASE, approvals=tuple(replace(a, approver=person(a.approver.name, Proof.DECLARED)) for a in CASE.approvals)),),
    )  # fmt: skip
    assert "approvals" in shut(judged(declared))
    assert not judged(declared).rehearsal
    table = judged(declared, proofs=REHEARSAL)
    assert table.passed
    assert table.rehearsal


# Digests


@given(st.dictionaries(st.text(), st.text()), st.dictionaries(st.text(), st.text()), st.text(), st.text())
def test_digests_differ_whenever_anything_they_cover_does(
    one: dict[str, str], two: dict[str, str], name: str, other: str
) -> None:
    same = release_digest(name, one, two) == release_digest(other, two, one)
    assert same == ((name, one, two) == (other, two, one))
    assert (plan_digest(name, "a", one) == plan_digest(name, "a", two)) == (one == two)
    assert plan_digest(name, "a", one) != plan_digest(name, "b", one)


# From and to the evidence log


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def log(clock: ManualClock) -> MemoryEvidenceLog:
    return MemoryEvidenceLog(clock)


@pytest.fixture
def recorder(log: MemoryEvidenceLog, clock: ManualClock) -> Recorder:
    return Recorder(log, clock)


def test_what_was_recorded_is_read_back(log: MemoryEvidenceLog, recorder: Recorder) -> None:
    recorder.suite_ran(CANDIDATE, "ai", "run 1", passed=None, checks=12, failed=0)
    recorder.verified(CANDIDATE, "rollout")
    recorder.attest(CANDIDATE, "review", person("ada"), "held on Tuesday", DAY)
    recorder.waive(CANDIDATE, "soak", person("ada", Proof.DECLARED), "a correction", DAY)
    assert read_facts(log, CANDIDATE, cases=(CASE,), source=SOURCE, refused=("x",)) == Facts(
        suites=(SuiteRun("ai", "production", "3.1", DIGEST, None, 12, 0, NOW),),
        verified=(VerifiedRelease("production", "3.1", DIGEST, NOW),),
        attestations=(Attestation("review", "production", "3.1", DIGEST, person("ada"), NOW, NOW + DAY),),
        waivers=(Waiver("soak", "production", "3.1", DIGEST, person("ada", Proof.DECLARED), NOW, NOW + DAY, "a correction"),),
        cases=(CASE,),
        source=SOURCE,
        refused=("x",),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("begin", "end", "field"),
    [
        pytest.param(
            lambda r: r.hold(CANDIDATE, "olga", "it failed"), lambda r: r.let_in(CANDIDATE, "olga", "mended"), "hold",
            id="hold",
        ),
        pytest.param(
            lambda r: r.freeze("production", "olga", "incident"), lambda r: r.thaw("production", "olga", "over"),
            "freeze", id="freeze",
        ),
    ],
)  # fmt: skip
def test_the_newest_order_counts(
    begin: Callable[[Recorder], object], end: Callable[[Recorder], object], field: str, recorder: Recorder,
    log: MemoryEvidenceLog,
) -> None:  # fmt: skip
    def on() -> bool | None:
        order: Order | None = getattr(read_facts(log, CANDIDATE), field)
        return order and order.on

    assert on() is None
    begin(recorder)
    assert on() is True
    assert getattr(read_facts(log, replace(CANDIDATE, environment="staging")), field) is None
    end(recorder)
    assert on() is False
    begin(recorder)
    assert on() is True


def test_a_hold_is_of_one_digest(log: MemoryEvidenceLog, recorder: Recorder) -> None:
    recorder.hold(CANDIDATE, "olga", "it failed")
    assert read_facts(log, replace(CANDIDATE, digest=OTHER_DIGEST)).hold is None


@pytest.mark.parametrize(
    ("kind", "subject", "body"),
    [
        ("hold", "releases/3.1", {"on": True, "reason": "no digest"}),
        ("hold", "releases/3.1", {"environment": "production", "release": "3.1", "digest": DIGEST, "on": 1, "reason": "1 is not true"}),
        ("freeze", "environments/production", {"reason": "on or off?"}),
        ("suite-run", "releases/3.1", {"environment": "production", "release": "3.1", "digest": DIGEST, "suite": "ai", "passed": "yes", "checks": 1, "failed": 0}),
        ("suite-run", "releases/3.1", {"environment": "production", "release": "3.1", "digest": DIGEST, "suite": "ai", "passed": True, "checks": True, "failed": 0}),
        ("attestation", "releases/3.1", {"environment": "production", "release": "3.1", "digest": DIGEST, "line": "review", "expires": "2030-01-01T00:00:00", "identity": "account"}),
        ("attestation", "releases/3.1", {"environment": "production", "release": "3.1", "digest": DIGEST, "line": "review", "expires": "2030-01-01T00:00:00+00:00", "identity": "stranger"}),
        ("waiver", "releases/3.1", {}),
    ],
)  # fmt: skip
def test_an_entry_that_cannot_be_read_shuts_the_gate_and_is_not_passed_over(
    kind: str, subject: str, body: dict[str, object], log: MemoryEvidenceLog
) -> None:
    log.append("other", "releases/3.1", "tester", {})
    entry = log.append(kind, subject, "tester", body)
    facts = read_facts(log, CANDIDATE)
    assert facts.unreadable == (entry.sequence,)
    assert shut(judged(facts))["evidence"] is Standing.FAILED


@pytest.mark.parametrize("days", [0, -1, LONGEST_WAIVER.days + 1])
def test_a_waiver_is_for_a_limited_time(days: int, recorder: Recorder, log: MemoryEvidenceLog) -> None:
    with pytest.raises(TooLong):
        recorder.waive(CANDIDATE, "soak", person("ada"), "a correction", timedelta(days=days))
    assert log.count() == 0
