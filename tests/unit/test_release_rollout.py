"""Guards carrying out a release: its order, what goes back and what does not, and that a killed one is
brought to the same end by repeating it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dr_platform.catalog.contracts import unmet
from dr_platform.release_rollout import (
    LEASE,
    NothingToRollBack,
    NotWhole,
    ReleaseUnderWay,
    WayBackStopped,
)
from dr_platform.releases.ledger import Episode, ReleaseLedger
from dr_platform.releases.plan import Remedy, RollbackRefused, UnreadableHistory
from dr_platform.releases.tracker import Outcome
from dr_platform.rollout import record as records
from dr_platform.rollout.record import Phase, Record
from dr_platform.rollout.requests import RolloutRefused, ask
from dr_platform.runtime.port import CLOSED
from tests.releases import (
    NAMES,
    NEW,
    OLD,
    SCHEMA_4,
    WAVES,
    A,
    B,
    C,
    D,
    E,
    Estate,
    F,
    Killed,
    Life,
    release_3,
    release_4,
)
from tests.rollouts import answer

pytestmark = pytest.mark.unit

FORWARD = [f"{letter} promoted" for letter in "abcdef"]


@pytest.fixture
def estate() -> Estate:
    return Estate()


def last(estate: Estate) -> Episode:
    episode = ReleaseLedger(estate.objects).last()
    assert episode is not None
    return episode


def ends(log: list[str]) -> list[str]:
    return [line.removeprefix("svc-") for line in log]


def test_services_are_deployed_providers_first_between_steps_that_expand_and_steps_that_contract(
    estate: Estate,
) -> None:
    ended = estate.driver().promote(release_4(SCHEMA_4))
    assert ended.outcome is Outcome.DEPLOYED
    assert estate.versions() == "222222"
    assert ends(estate.log) == ["expand 2.0", *FORWARD, "contract 2.1"]
    assert set(estate.told.values()) == {"promote", "deployed"}


@pytest.mark.parametrize(
    ("fails", "runs", "back"),
    [
        pytest.param("a", "111111", [], id="the first alone"),
        pytest.param("b", "211111", [], id="its provider stays"),
        pytest.param("c", "221111", [], id="the breaking one before anybody needs it"),
        pytest.param("d", "221111", ["c"], id="the breaking one goes along"),
        pytest.param("e", "221111", ["d", "c"], id="everybody whose contract needs it, dependents first"),
        pytest.param("f", "222221", [], id="one that requires nothing leaves all others"),
    ],
)
def test_exactly_those_go_back_whose_contracts_need_it(estate: Estate, fails: str, runs: str, back: list[str]) -> None:
    estate.bad = {f"svc-{fails}": NEW}
    ended = estate.driver().promote(release_4())
    assert ended.outcome is Outcome.FAILED
    assert "its smoke tests failed" in ended.why
    assert estate.versions() == runs
    forward = [f"{letter} promoted" for letter in "abcdef"[: "abcdef".index(fails)]]
    taken_back = [f"{fails} aborted", *(f"{letter} rolled_back" for letter in back)]
    assert ends(estate.log) == forward + taken_back
    withdrawal = last(estate).withdrawal
    assert withdrawal is not None
    assert ends(list(withdrawal.back)) == [fails, *back]


def test_a_candidate_that_fails_under_traffic_stops_the_release_as_well(estate: Estate) -> None:
    estate.traffic.error_ratio = {NEW: 0.5}
    assert estate.driver().promote(release_4()).outcome is Outcome.FAILED
    assert estate.versions() == "111111"
    assert last(estate).withdrawal is not None


def lives(life: Life, every: int = 15) -> list[Life]:
    """One that ends before each thing that was done, and some that end while they wait."""
    return [Life(number) for number in range(life.done)] + [
        Life(looks_left=number) for number in range(0, life.looks, every)
    ]


@pytest.mark.parametrize("away_s", [0, 40], ids=["repeated at once", "repeated when the rollout has ended"])
@pytest.mark.parametrize("fails", ["", "e"])
def test_killed_between_any_two_steps_the_repetition_reaches_the_same_end(fails: str, away_s: int) -> None:
    def begun() -> Estate:
        return Estate(bad={f"svc-{fails}": NEW} if fails else {})

    whole, life = begun(), Life()
    expected = whole.driver(life).promote(release_4(SCHEMA_4))
    assert life.done > 10
    for short in lives(life):
        estate = begun()
        with pytest.raises(Killed):
            estate.driver(short).promote(release_4(SCHEMA_4))
        for _ in range(away_s):
            estate.clock.sleep(1.0)
        ended = estate.driver().promote(release_4(SCHEMA_4))
        assert (ended.outcome, ended.why) == (expected.outcome, expected.why), short
        assert estate.versions() == whole.versions(), short
        assert estate.applied == whole.applied, short
        # No service is deployed or taken back twice.
        assert services(estate.log) == services(whole.log), short
        assert last(estate).withdrawal == last(whole).withdrawal
        assert estate.told == whole.told


def services(log: list[str]) -> list[str]:
    return [line for line in log if line.startswith("svc-")]


def test_killed_at_any_step_of_a_rollback_the_repetition_reaches_the_same_end() -> None:
    def deployed() -> Estate:
        estate = Estate()
        estate.driver().promote(release_4())
        estate.log.clear()
        return estate

    whole, life = deployed(), Life()
    whole.driver(life).roll_back(release_4())
    for short in lives(life):
        estate = deployed()
        with pytest.raises(Killed):
            estate.driver(short).roll_back(release_4())
        assert estate.driver().roll_back(release_4()).outcome is Outcome.ROLLED_BACK
        assert estate.versions() == "111111"
        assert estate.log == whole.log, short


def test_a_release_goes_back_as_a_whole_dependents_first(estate: Estate) -> None:
    estate.driver().promote(release_4())
    estate.log.clear()
    ended = estate.driver().roll_back(release_4())
    assert ended.outcome is Outcome.ROLLED_BACK
    assert estate.versions() == "111111"
    assert ends(estate.log) == [f"{letter} rolled_back" for letter in "fedcba"]
    with pytest.raises(NothingToRollBack):
        estate.driver().roll_back(release_4())


@pytest.mark.parametrize(
    ("service", "runs"),
    [
        pytest.param(A, "122222", id="nobody's contract needs it"),
        pytest.param(C, "221112", id="the breaking one takes both that require it"),
        pytest.param(E, "221112", id="one of those takes the breaking one, and so the other"),
        pytest.param(F, "222221", id="the last"),
    ],
)
def test_one_service_goes_back_with_exactly_those_that_must_go_along(estate: Estate, service: str, runs: str) -> None:
    estate.driver().promote(release_4())
    estate.driver().roll_back(release_4(), service)
    assert estate.versions() == runs


def test_after_a_contract_step_nothing_goes_back_and_it_is_said_what_remains(estate: Estate) -> None:
    estate.driver().promote(release_4(SCHEMA_4))
    estate.log.clear()
    episodes = len(ReleaseLedger(estate.objects).episodes())
    with pytest.raises(RollbackRefused) as refused:
        estate.driver().roll_back(release_4(SCHEMA_4))
    assert Remedy.ROLL_FORWARD in refused.value.next_step
    assert Remedy.MAINTENANCE in refused.value.next_step
    assert estate.versions() == "222222"
    assert estate.log == []
    assert len(ReleaseLedger(estate.objects).episodes()) == episodes


def test_what_could_not_be_looked_at_begins_nothing(estate: Estate) -> None:
    estate.unreadable = True
    with pytest.raises(UnreadableHistory):
        estate.driver().promote(release_4())
    assert ReleaseLedger(estate.objects).last() is None
    assert estate.log == []


def test_another_release_waits_and_the_same_one_does_not(estate: Estate) -> None:
    lease = estate.runtime.acquire_lease(LEASE, "promote sha256:another", timedelta(seconds=60))
    assert lease is not None
    with pytest.raises(ReleaseUnderWay):
        estate.driver().promote(release_4())
    assert estate.log == []
    estate.runtime.release_lease(lease)
    with pytest.raises(Killed):
        estate.driver(Life(4)).promote(release_4())
    assert estate.driver().promote(release_4()).outcome is Outcome.DEPLOYED


def test_repeating_a_release_that_runs_adds_nothing(estate: Estate) -> None:
    first = estate.driver().promote(release_4())
    log = list(estate.log)
    assert estate.driver().promote(release_4()) == first
    assert estate.log == log
    assert len(ReleaseLedger(estate.objects).episodes()) == 1


def test_a_release_that_failed_is_tried_anew_and_goes_back_to_what_ran_before_the_first_try(estate: Estate) -> None:
    estate.bad = {D: NEW}
    estate.driver().promote(release_4())
    assert estate.versions() == "221111"
    estate.bad = {}
    assert estate.driver().promote(release_4()).outcome is Outcome.DEPLOYED
    assert estate.versions() == "222222"
    estate.driver().roll_back(release_4())
    assert estate.versions() == "111111"


def test_a_member_that_does_not_go_back_stops_those_that_would_follow_and_the_repetition_goes_on(
    estate: Estate,
) -> None:
    estate.driver().promote(release_4())
    estate.bad = {E: OLD}
    estate.clock.meanwhile, tick = lambda: None, estate.clock.meanwhile

    def person() -> None:
        """Takes back the rollback that is paused."""
        tick()
        rollout = records.read(estate.runtime, E).record.rollout
        if rollout is not None and not rollout.phase.reverting and rollout.command is None:
            records.change(estate.runtime, E, aborted)

    estate.clock.meanwhile = person
    with pytest.raises(WayBackStopped) as stopped:
        estate.driver().roll_back(release_4(), C)
    assert stopped.value.args[1] == (E, D, C)
    assert estate.versions() == "222222"


def aborted(record: Record) -> Record:
    rollout = record.rollout
    assert rollout is not None
    return record.with_rollout(replace(rollout, command="abort", commanded_by="olga"))


def test_a_release_whose_traffic_went_elsewhere_meanwhile_is_not_called_deployed(estate: Estate) -> None:
    tick = estate.clock.meanwhile

    def meddling() -> None:
        tick()
        if records.read(estate.runtime, B).record.last is not None:
            estate.runtime.route(B, CLOSED, 99)

    estate.clock.meanwhile = meddling
    with pytest.raises(NotWhole) as missing:
        estate.driver().promote(release_4())
    assert missing.value.args[1] == (B,)
    assert "ended" not in {kind for kind, _ in estate.told}


def test_an_older_release_than_a_contract_step_is_refused(estate: Estate) -> None:
    estate.driver().promote(release_4(SCHEMA_4))
    with pytest.raises(RollbackRefused):
        estate.driver().promote(release_3())
    assert estate.versions() == "222222"


def test_services_that_a_release_retired_come_back_and_those_that_it_brought_are_retired(estate: Estate) -> None:
    new = release_4()
    fewer = new.model_copy(update={"services": {n: m for n, m in new.services.items() if n != F}})
    estate.known.append(fewer)
    assert estate.driver().promote(fewer).outcome is Outcome.DEPLOYED
    assert estate.versions() == "22222-"
    again = release_4(name="4.1")
    assert estate.driver().promote(again).outcome is Outcome.DEPLOYED
    assert estate.versions() == "222222"
    assert estate.driver().roll_back(again).outcome is Outcome.ROLLED_BACK
    assert estate.versions() == "22222-"


def test_a_rollback_brings_back_what_the_release_had_retired(estate: Estate) -> None:
    new = release_4()
    fewer = new.model_copy(update={"services": {n: m for n, m in new.services.items() if n != F}})
    estate.driver().promote(fewer)
    assert estate.versions() == "22222-"
    assert estate.driver().roll_back(fewer).outcome is Outcome.ROLLED_BACK
    assert estate.versions() == "111111"


def test_where_one_of_them_cannot_go_back_none_does(estate: Estate) -> None:
    estate.lost, estate.bad = C, {E: NEW}
    ended = estate.driver().promote(release_4())
    assert ended.outcome is Outcome.FAILED
    assert "its image is not there any more" in ended.why
    assert Remedy.ROLL_FORWARD in ended.why
    assert estate.versions() == "222211"
    assert ends(estate.log)[-1] == "e aborted"


def test_a_rollback_that_would_stop_half_way_is_refused_before_it_begins(estate: Estate) -> None:
    estate.driver().promote(release_4())
    estate.lost = C
    estate.log.clear()
    with pytest.raises(RolloutRefused):
        estate.driver().roll_back(release_4(), E)
    assert estate.log == []
    assert len(ReleaseLedger(estate.objects).episodes()) == 1


# Waves


@pytest.fixture
def waves() -> Estate:
    return Estate(needs=WAVES)


def held(estate: Estate, name: str) -> Record:
    return records.read(estate.runtime, name).record


def test_what_does_not_need_each_other_goes_side_by_side_and_what_does_one_after_the_other(waves: Estate) -> None:
    assert waves.driver().promote(release_4(SCHEMA_4)).outcome is Outcome.DEPLOYED
    assert waves.versions() == "222222"
    together = sorted({names for names in waves.open if names}, key=min)
    assert together == [{A, B, C}, {D, E}, {F}]
    assert ends(waves.log) == ["expand 2.0", *FORWARD, "contract 2.1"]


def test_no_more_than_the_bound_are_open_at_once(waves: Estate) -> None:
    assert waves.driver(side_by_side=2).promote(release_4()).outcome is Outcome.DEPLOYED
    assert waves.versions() == "222222"
    assert max(map(len, waves.open)) == 2
    assert {A, B} in waves.open


@pytest.mark.parametrize(
    ("fails", "runs", "called_off", "back"),
    [
        pytest.param("a", "111111", "bc", "a", id="those beside it are taken back with nothing found against them"),
        pytest.param("d", "221111", "e", "dc", id="and the breaking one of the wave before goes along"),
        pytest.param("de", "221111", "", "edc", id="two that fail at once are one way back"),
        pytest.param("f", "222221", "", "f", id="alone in its wave it leaves all others"),
    ],
)
def test_the_first_that_is_not_promoted_calls_off_those_beside_it(
    waves: Estate, fails: str, runs: str, called_off: str, back: str
) -> None:
    waves.bad = {f"svc-{letter}": NEW for letter in fails}
    ended = waves.driver().promote(release_4())
    assert ended.outcome is Outcome.FAILED
    assert waves.versions() == runs
    withdrawal = last(waves).withdrawal
    assert withdrawal is not None
    assert withdrawal.service == f"svc-{fails[0]}"
    assert all(f"svc-{letter}" in ended.why for letter in fails + called_off)
    assert ends(list(withdrawal.called_off)) == list(called_off)
    assert ends(list(withdrawal.back)) == list(back)
    for letter in called_off:
        record = held(waves, f"svc-{letter}")
        assert record.last is not None
        assert (record.last.result, record.last.ended_by) == ("aborted", "release 4.0")
        assert record.holds == ()
    # Nobody's budget of automatic rollbacks is touched by a way back that belongs to a release.
    assert [held(waves, name).automatic_rollbacks for name in NAMES] == [()] * len(NAMES)


def test_what_was_promoted_before_another_of_its_wave_failed_stays_as_in_a_wave_before(waves: Estate) -> None:
    waves.bad = {B: NEW}
    assert waves.driver(side_by_side=1).promote(release_4()).outcome is Outcome.FAILED
    assert waves.versions() == "211111"
    assert held(waves, C).last is None  # its turn had not come, and it never began
    withdrawal = last(waves).withdrawal
    assert withdrawal is not None
    assert withdrawal.called_off == ()


def test_others_are_called_off_while_the_one_that_fails_is_still_being_taken_back(waves: Estate) -> None:
    waves.bad = {A: NEW}
    waves.runtime.faults.answers[OLD] = answer(OLD, 500)  # so that no way back is verified yet
    tick, both = waves.clock.meanwhile, list[tuple[str, str]]()

    def watching() -> None:
        tick()
        first, second = held(waves, A).rollout, held(waves, B).rollout
        if first is not None and second is not None and first.phase.reverting and second.phase.reverting:
            both.append((first.why, second.why))
            waves.runtime.faults.answers[OLD] = answer(OLD)

    waves.clock.meanwhile = watching
    assert waves.driver().promote(release_4()).outcome is Outcome.FAILED
    assert both == [("its smoke tests failed", "aborted by release 4.0")]
    assert waves.versions() == "111111"


def test_one_that_a_person_aborts_is_the_reason_and_not_called_off(waves: Estate) -> None:
    tick = waves.clock.meanwhile

    def person() -> None:
        tick()
        rollout = held(waves, B).rollout
        if rollout is not None and rollout.command is None and not rollout.phase.reverting:
            records.change(waves.runtime, B, aborted)

    waves.clock.meanwhile = person
    ended = waves.driver().promote(release_4())
    assert "svc-b was not promoted (aborted: aborted by olga)" in ended.why
    assert waves.versions() == "111111"


def test_one_that_is_refused_calls_off_those_that_were_begun_before_it(waves: Estate) -> None:
    tick = waves.clock.meanwhile

    def stuck(record: Record) -> Record:
        rollout = record.rollout
        assert rollout is not None
        return record.with_rollout(replace(rollout, phase=Phase.STUCK, intent=replace(rollout.intent, id="earlier")))

    def meddling() -> None:
        """While the first two are on their way, the third is left stuck by somebody else's rollout."""
        tick()
        if held(waves, A).rollout is not None and held(waves, C).rollout is None and held(waves, C).last is None:
            intent = waves._deployment(C, release_4().services[C].revision, "earlier", "")
            ask(waves.runtime, C, intent)
            tick()
            records.change(waves.runtime, C, stuck)

    waves.clock.meanwhile = meddling
    driver = waves.driver(side_by_side=2)
    ended = driver.promote(release_4())
    assert ended.outcome is Outcome.FAILED
    assert "its last rollout is stuck half-way" in ended.why


def test_a_release_of_waves_goes_back_one_by_one_dependents_first(waves: Estate) -> None:
    waves.driver().promote(release_4())
    waves.log.clear()
    assert waves.driver().roll_back(release_4()).outcome is Outcome.ROLLED_BACK
    assert waves.versions() == "111111"
    order = [line.removesuffix(" rolled_back") for line in waves.log]
    assert sorted(order) == list(NAMES)
    assert all(order.index(name) < order.index(needed) for name in NAMES for needed in WAVES[name])


@pytest.mark.parametrize("away_s", [0, 40], ids=["repeated at once", "repeated when the rollouts have ended"])
@pytest.mark.parametrize("fails", ["", "a", "e"])
def test_killed_anywhere_in_a_wave_the_repetition_ends_with_what_fits_together(fails: str, away_s: int) -> None:
    def begun() -> Estate:
        return Estate(needs=WAVES, bad={f"svc-{fails}": NEW} if fails else {})

    whole, life = begun(), Life()
    expected = whole.driver(life).promote(release_4(SCHEMA_4))
    assert life.done > 8
    for short in lives(life, every=5):
        estate = begun()
        with pytest.raises(Killed):
            estate.driver(short).promote(release_4(SCHEMA_4))
        for _ in range(away_s):
            estate.clock.sleep(1.0)
        ended = estate.driver().promote(release_4(SCHEMA_4))
        assert ended.outcome is expected.outcome, short
        assert estate.applied == whole.applied, short
        assert estate.told == whole.told, short
        runs = estate.versions()
        if fails:
            # What had time to be promoted while nobody watched stays, if contracts let it, as it would
            # have had the other failed a moment later.
            assert runs["abcdef".index(fails)] == "1", short
        else:
            assert runs == whole.versions() == "222222", short
        running = estate.running(release_4()).services
        assert list(unmet({name: member.contract for name, member in running.items()})) == [], short
        done = services(estate.log)
        assert len(done) == len(set(done)), f"{short}: something was deployed or taken back twice"
        withdrawal, as_whole = last(estate).withdrawal, last(whole).withdrawal
        assert (withdrawal and withdrawal.service) == (as_whole and as_whole.service), short


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, tuple[str, ...]]:
    return {
        name: tuple(draw(st.lists(st.sampled_from(NAMES[:at]), max_size=2, unique=True))) if at else ()
        for at, name in enumerate(NAMES)
    }


@settings(max_examples=40)
@given(graphs(), st.sets(st.sampled_from(NAMES), max_size=2), st.integers(1, 4))
def test_over_any_graph_providers_come_first_and_what_is_left_after_a_failure_fits_together(
    needs: dict[str, tuple[str, ...]], fails: set[str], side_by_side: int
) -> None:
    estate = Estate(needs=needs, bad=dict.fromkeys(fails, NEW))
    release = release_4()
    wanted = {name: {*needs[name], *release.services[name].contract.requires} for name in NAMES}
    tick = estate.clock.meanwhile

    def watching() -> None:
        tick()
        for name in NAMES:
            rollout = held(estate, name).rollout
            if rollout is not None and rollout.intent.kind == "deploy":
                stable = {needed: held(estate, needed).stable for needed in wanted[name]}
                assert all(place is not None and place.revision.version == NEW for place in stable.values())

    estate.clock.meanwhile = watching
    ended = estate.driver(side_by_side=side_by_side).promote(release)
    assert ended.outcome is (Outcome.FAILED if fails else Outcome.DEPLOYED)
    runs = dict(zip(NAMES, estate.versions(), strict=True))
    assert max(map(len, estate.open)) <= side_by_side
    running = estate.running(release).services
    assert list(unmet({name: member.contract for name, member in running.items()})) == []
    assert all(runs[name] == "1" for name in fails)
    assert fails or set(runs.values()) == {"2"}
    done = services(estate.log)
    back = [line.removesuffix(" rolled_back") for line in done if line.endswith(" rolled_back")]
    assert len(done) == len(set(done))
    assert not any(needed in back[: back.index(name)] for name in back for needed in wanted[name])
