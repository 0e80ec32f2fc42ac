"""Guards that a backup which nobody brought is asked for, the most important first, and never without a pause."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.backup_upkeep import GRACE, PAUSE, Waiting, Wanted, upkeep

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RPO = timedelta(hours=24)
AGES = st.one_of(st.none(), st.timedeltas(timedelta(0), timedelta(days=3)))
DATABASES = st.lists(st.tuples(st.integers(1, 3), AGES), min_size=1, max_size=5).map(
    lambda rows: tuple(
        Wanted(f"db{at}", tier, RPO, None if age is None else NOW - age) for at, (tier, age) in enumerate(rows)
    )
)


def test_a_database_without_a_backup_is_given_its_time_before_one_is_asked_for() -> None:
    wanted = (Wanted("postgres", 1, RPO, None),)
    asked, waiting = upkeep(wanted, {}, NOW)
    assert asked is None
    assert upkeep(wanted, waiting, NOW + GRACE - timedelta(seconds=1))[0] is None
    assert upkeep(wanted, waiting, NOW + GRACE)[0] == wanted[0]


@given(DATABASES)
def test_what_is_young_enough_is_never_asked_for_and_the_most_important_goes_first(wanted: tuple[Wanted, ...]) -> None:
    _, waiting = upkeep(wanted, {}, NOW - GRACE)
    asked, _ = upkeep(wanted, waiting, NOW)
    overdue = [each for each in wanted if each.newest is None or NOW - each.newest > RPO]
    waited = [each for each in overdue if each.name in waiting]
    if asked is None:
        assert not waited
    else:
        assert asked in overdue
        assert asked.tier == min(each.tier for each in waited)


@given(DATABASES, st.integers(1, 400))
def test_one_that_never_comes_is_asked_for_once_in_a_pause(wanted: tuple[Wanted, ...], minutes: int) -> None:
    waiting: dict[str, Waiting] = {}
    asked: dict[str, list[datetime]] = {}
    for minute in range(minutes):
        now = NOW + timedelta(minutes=minute)
        chosen, remembered = upkeep(wanted, waiting, now)
        waiting = dict(remembered)
        if chosen is not None:
            asked.setdefault(chosen.name, []).append(now)
    for times in asked.values():
        assert all(later - earlier >= PAUSE for earlier, later in itertools.pairwise(times))


def test_a_backup_that_came_is_forgotten() -> None:
    late = Wanted("postgres", 1, RPO, NOW - timedelta(days=2))
    _, waiting = upkeep((late,), {}, NOW)
    assert waiting
    _, waiting = upkeep((Wanted("postgres", 1, RPO, NOW),), waiting, NOW)
    assert waiting == {}
