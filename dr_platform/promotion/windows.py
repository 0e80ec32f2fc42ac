"""When changes are wanted and when they are refused: calendar arithmetic in UTC.

Here: functions of a calendar and a moment. Not here: a freeze that a person declares at once
(``gates``). A freeze overrides every maintenance window, as a refusal always overrides a permission.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum

from dr_platform.catalog.models import Windows

DAY = timedelta(days=1)
WEEK = timedelta(days=7)
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


class Risk(StrEnum):
    """Ordinary changes are made at any time but in a freeze, risky ones in maintenance windows."""

    ORDINARY = "ordinary"
    RISKY = "risky"


@dataclass(frozen=True)
class Span:
    """From ``start`` to just before ``end``."""

    start: datetime
    end: datetime

    def covers(self, moment: datetime) -> bool:
        return self.start <= moment < self.end


@dataclass(frozen=True)
class Weekly:
    """A window that comes back every week. One that ends no later than it starts ends the next day."""

    weekday: int
    start: timedelta
    length: timedelta

    @classmethod
    def parse(cls, text: str) -> Weekly:
        """``Sun 02:00-06:00 UTC``, as the catalog has checked it."""
        day, hours, _zone = text.split()
        start, end = (_since_midnight(clock) for clock in hours.split("-"))
        return cls(_DAYS.index(day), start, (end - start) % DAY or DAY)

    def latest(self, moment: datetime) -> Span:
        """The window that began last, whether or not it is over."""
        monday = _midnight(moment.date() - timedelta(days=moment.weekday()))
        start = monday + self.weekday * DAY + self.start
        start = start if start <= moment else start - WEEK
        return Span(start, start + self.length)

    def covers(self, moment: datetime) -> bool:
        return self.latest(moment).covers(moment)

    def next_start(self, moment: datetime) -> datetime:
        """The first start after ``moment``."""
        return self.latest(moment).start + WEEK


@dataclass(frozen=True)
class Calendar:
    """An environment's windows. Days of a freeze are whole days, the last one included."""

    maintenance: tuple[Weekly, ...] = ()
    freezes: tuple[Span, ...] = ()

    @classmethod
    def of(cls, windows: Windows) -> Calendar:
        return cls(tuple(map(Weekly.parse, windows.maintenance)), tuple(map(_days, windows.freeze)))

    def frozen_until(self, moment: datetime) -> datetime | None:
        """The end of what covers ``moment``, where freezes that touch or overlap are one."""
        end = None
        while covering := [s.end for s in self.freezes if s.covers(end or moment)]:
            end = max(covering)
        return end

    def in_maintenance(self, moment: datetime) -> bool:
        return any(window.covers(moment) for window in self.maintenance)

    def allows(self, moment: datetime, risk: Risk) -> bool:
        if self.frozen_until(moment) is not None:
            return False
        return risk is Risk.ORDINARY or not self.maintenance or self.in_maintenance(moment)

    def next_opening(self, moment: datetime, risk: Risk) -> datetime:
        """The first moment, from ``moment`` on, at which a change of this risk is allowed."""
        while not self.allows(moment, risk):
            frozen_until = self.frozen_until(moment)
            moment = frozen_until or min(window.next_start(moment) for window in self.maintenance)
        return moment


def _since_midnight(clock: str) -> timedelta:
    hours, _, minutes = clock.partition(":")
    return timedelta(hours=int(hours), minutes=int(minutes))


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _days(text: str) -> Span:
    first, _, last = text.partition("/")
    return Span(_midnight(date.fromisoformat(first)), _midnight(date.fromisoformat(last)) + DAY)
