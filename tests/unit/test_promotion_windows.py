"""Guards that a change is let through at exactly the times that the calendar allows, and never in a freeze."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.catalog.models import Windows
from dr_platform.promotion.windows import Calendar, Risk, Weekly

pytestmark = pytest.mark.unit

# 2026-01-04 is a Sunday.
SUNDAY = datetime(2026, 1, 4, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
moments = st.datetimes(datetime(2025, 12, 1), datetime(2026, 2, 28), timezones=st.just(UTC))  # noqa: DTZ001
clocks = st.tuples(st.integers(0, 23), st.integers(0, 59)).map(lambda hm: f"{hm[0]:02}:{hm[1]:02}")
weeklies = st.tuples(st.sampled_from(DAYS), clocks, clocks).map(lambda w: f"{w[0]} {w[1]}-{w[2]} UTC")
spans = st.tuples(st.dates(datetime(2025, 12, 1).date(), datetime(2026, 2, 28).date()), st.integers(0, 12)).map(  # noqa: DTZ001
    lambda s: f"{s[0]}/{s[0] + timedelta(days=s[1])}"
)
calendars = st.builds(
    lambda maintenance, freeze: Calendar.of(Windows(maintenance=tuple(maintenance), freeze=tuple(freeze))),
    st.lists(weeklies, max_size=3),
    st.lists(spans, max_size=4),
)


@pytest.mark.parametrize(
    ("window", "moment", "inside"),
    [
        pytest.param("Sun 02:00-06:00 UTC", SUNDAY + 2 * HOUR, True, id="it opens"),
        pytest.param("Sun 02:00-06:00 UTC", SUNDAY + 2 * HOUR - MINUTE, False, id="a minute before"),
        pytest.param("Sun 02:00-06:00 UTC", SUNDAY + 6 * HOUR - MINUTE, True, id="its last minute"),
        pytest.param("Sun 02:00-06:00 UTC", SUNDAY + 6 * HOUR, False, id="it closes"),
        pytest.param("Sun 02:00-06:00 UTC", SUNDAY + DAY + 3 * HOUR, False, id="another day"),
        pytest.param("Sat 22:00-02:00 UTC", SUNDAY + HOUR, True, id="over midnight"),
        pytest.param("Sun 22:00-02:00 UTC", SUNDAY + DAY + HOUR, True, id="over the end of the week"),
        pytest.param("Sun 22:00-02:00 UTC", SUNDAY + DAY + 2 * HOUR, False, id="closed after the end of the week"),
        pytest.param("Sun 00:00-00:00 UTC", SUNDAY + DAY - MINUTE, True, id="a whole day"),
        pytest.param("Sun 00:00-00:00 UTC", SUNDAY + DAY, False, id="and no longer"),
    ],
)
def test_a_weekly_window_is_open_from_its_start_to_just_before_its_end(
    window: str, moment: datetime, inside: bool
) -> None:
    assert Weekly.parse(window).covers(moment) is inside


def test_days_of_a_freeze_are_whole_days_the_last_one_included() -> None:
    calendar = Calendar.of(Windows(freeze=("2025-12-20/2026-01-02",)))
    first, after = datetime(2025, 12, 20, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC)
    assert calendar.frozen_until(first - MINUTE) is None
    assert calendar.frozen_until(first) == calendar.frozen_until(after - MINUTE) == after
    assert calendar.frozen_until(after) is None


def test_freezes_that_touch_end_together() -> None:
    calendar = Calendar.of(Windows(freeze=("2026-01-05/2026-01-06", "2026-01-07/2026-01-08", "2026-01-06/2026-01-07")))
    assert calendar.frozen_until(datetime(2026, 1, 5, tzinfo=UTC)) == datetime(2026, 1, 9, tzinfo=UTC)


def test_a_risky_change_waits_for_the_first_window_after_a_freeze() -> None:
    calendar = Calendar.of(Windows(maintenance=("Sun 02:00-06:00 UTC",), freeze=("2026-01-03/2026-01-05",)))
    saturday = SUNDAY - DAY + 12 * HOUR
    assert calendar.next_opening(saturday, Risk.RISKY) == SUNDAY + timedelta(days=7, hours=2)
    assert calendar.next_opening(saturday, Risk.ORDINARY) == datetime(2026, 1, 6, tzinfo=UTC)


@given(calendars, moments, st.sampled_from(Risk))
def test_a_freeze_overrides_every_permission(calendar: Calendar, moment: datetime, risk: Risk) -> None:
    if any(span.covers(moment) for span in calendar.freezes):
        assert not calendar.allows(moment, risk)
        until = calendar.frozen_until(moment)
        assert until is not None
        assert until > moment


@given(calendars, moments)
def test_what_a_risky_change_may_an_ordinary_one_may_too(calendar: Calendar, moment: datetime) -> None:
    assert calendar.allows(moment, Risk.ORDINARY) or not calendar.allows(moment, Risk.RISKY)


@given(calendars, moments, st.sampled_from(Risk), st.floats(0, 1, exclude_max=True))
def test_the_next_opening_is_open_and_nothing_before_it_is(
    calendar: Calendar, moment: datetime, risk: Risk, share: float
) -> None:
    opens = calendar.next_opening(moment, risk)
    assert opens >= moment
    assert calendar.allows(opens, risk)
    between = moment + (opens - moment) * share
    assert between >= opens or not calendar.allows(between, risk)


@given(weeklies, moments, st.integers(-20, 20))
def test_a_weekly_window_comes_back_every_week(window: str, moment: datetime, weeks: int) -> None:
    weekly = Weekly.parse(window)
    assert weekly.covers(moment) == weekly.covers(moment + weeks * timedelta(days=7))
    assert moment < weekly.next_start(moment) <= moment + timedelta(days=7)
    assert weekly.covers(weekly.next_start(moment))
