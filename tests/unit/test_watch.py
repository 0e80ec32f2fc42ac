"""Guards which looks are taken when, that no look holds up the others, and that only news is written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

import pytest

from dr_platform.clock import SystemClock
from dr_platform.look import Cost, Look
from dr_platform.verdict import Verdict
from dr_platform.watch import (
    COSTLY_AT_ONCE,
    RECHECK,
    REPEAT,
    CheckName,
    Written,
    due,
    is_cadenced,
    look_at_all,
    looked_again,
    name_of,
    worth_writing,
)

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
GOOD, BAD, BLIND = Verdict(True, "good"), Verdict(False, "bad"), Verdict.unknown("dark")


def look(
    layer: str = "services",
    name: str = "any",
    check: str = "healthy",
    act: Callable[[], Verdict] = lambda: GOOD,
    cost: Cost = Cost.CHEAP,
) -> Look:
    return Look((layer, name), check, "", act, cost=cost)


LOOK = look()


@pytest.mark.parametrize(
    ("taken", "cadenced"),
    [
        (look(), True),
        (look(check="hipaa"), True),
        (look("databases"), True),
        (look("databases", check="hipaa"), False),
        (look("infrastructure", "router"), True),
        (look("infrastructure", "state"), False),
        (look("services", "fleet"), False),
        (look(cost=Cost.THOROUGH), False),
        (look("schema"), False),
        (look("knowledge", check="retrieval"), False),
    ],
)
def test_only_cheap_looks_are_taken_every_few_seconds(taken: Look, cadenced: bool) -> None:
    assert is_cadenced(taken) is cadenced


def test_what_a_run_is_about_to_answer_is_left_to_it() -> None:
    promised = {name_of(LOOK): Written(None, NOW, promised=True)}
    assert due([LOOK], promised, NOW, {}) == []


def test_what_a_run_promised_and_did_not_answer_is_looked_at_even_if_it_is_costly() -> None:
    costly = look("schema")
    assert due([costly], {name_of(costly): Written(True, NOW)}, NOW, {}) == []
    assert due([costly], {name_of(costly): Written(None, NOW, broken=True)}, NOW, {}) == [costly]


@pytest.mark.parametrize("answer", [False, None])
def test_what_the_schedule_found_bad_is_looked_at_again_after_a_while_and_not_each_tick(
    answer: bool | None,
) -> None:
    costly, found = look("schema"), Written(answer, NOW)
    taken = []
    again: Mapping[CheckName, datetime] = {}
    for second in range(0, 3 * int(RECHECK.total_seconds()) + 1, 5):
        now = NOW + timedelta(seconds=second)
        chosen = due([costly], {name_of(costly): found}, now, again)
        again = looked_again(chosen, again, now)
        taken += [now - NOW] if chosen else []
    assert taken == [RECHECK, 2 * RECHECK, 3 * RECHECK]


def test_no_sensor_puts_load_on_anything_even_where_a_run_left_a_check_without_an_answer() -> None:
    heavy = look(check="performance", cost=Cost.LOAD)
    assert due([heavy], {name_of(heavy): Written(None, NOW, broken=True)}, NOW, {}) == []
    assert due([heavy], {}, NOW, {}) == []


def test_costly_looks_have_their_turn_few_at_a_time() -> None:
    costly = [look("schema", f"s{number}") for number in range(3 * COSTLY_AT_ONCE)]
    broken = {name_of(one): Written(None, NOW, broken=True) for one in costly}
    turns = []
    while broken:
        turn = due(costly, broken, NOW, {})
        turns.append(len(turn))
        broken = {name: entry for name, entry in broken.items() if name not in {name_of(one) for one in turn}}
    assert turns == [COSTLY_AT_ONCE] * 3


def test_health_is_looked_at_before_anything_else() -> None:
    hipaa = look(check="hipaa")
    assert due([hipaa, LOOK], {}, NOW, {}) == [LOOK, hipaa]


@pytest.mark.parametrize(
    ("before", "verdict", "news"),
    [
        pytest.param(None, GOOD, True, id="never written"),
        pytest.param(Written(True, NOW), GOOD, False, id="the same"),
        pytest.param(Written(True, NOW), BAD, True, id="became bad"),
        pytest.param(Written(False, NOW), GOOD, True, id="became good"),
        pytest.param(Written(False, NOW), BLIND, True, id="not seen any more is not the same as bad"),
        pytest.param(Written(None, NOW), BLIND, False, id="still not seen"),
        pytest.param(Written(True, NOW - REPEAT), GOOD, True, id="a sign of life"),
        pytest.param(Written(True, NOW - REPEAT + timedelta(seconds=1)), GOOD, False, id="not yet"),
        pytest.param(Written(None, NOW, broken=True), BLIND, True, id="a broken promise is mended"),
    ],
)
def test_only_news_is_written(before: Written | None, verdict: Verdict, news: bool) -> None:
    written = {name_of(LOOK): before} if before is not None else {}
    assert worth_writing(written, [(LOOK, verdict)], NOW) == ([(LOOK, verdict)] if news else [])


def test_looks_are_taken_side_by_side_and_answered_in_order() -> None:
    meeting = threading.Barrier(3, timeout=10)

    def waits(why: str) -> Callable[[], Verdict]:
        def act() -> Verdict:
            meeting.wait()  # passes only when all three are under way
            return Verdict(True, why)

        return act

    looks = [look(name=n, act=waits(n)) for n in ("a", "b", "c")]
    assert [verdict.why for _, verdict in look_at_all(looks, SystemClock(), 10)] == ["a", "b", "c"]


def test_a_look_that_hangs_could_not_look_and_holds_nobody_up() -> None:
    release = threading.Event()

    def hangs() -> Verdict:
        release.wait(30)
        return GOOD

    began = time.monotonic()
    answers = [verdict for _, verdict in look_at_all([look(act=hangs), look(name="b")], SystemClock(), 0.2)]
    release.set()
    assert time.monotonic() - began < 5
    assert answers[0] == Verdict.unknown("no answer in time")
    assert answers[1] == GOOD


def test_a_look_that_breaks_does_not_hide_the_others_nor_quote_what_it_saw() -> None:
    def breaks() -> Verdict:
        raise ValueError("Jane Doe, 1980-01-01")

    answers = [verdict for _, verdict in look_at_all([look(act=breaks), look(name="b")], SystemClock(), 5)]
    assert answers == [Verdict.unknown("ValueError"), GOOD]
