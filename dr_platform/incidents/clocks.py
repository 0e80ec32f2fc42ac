"""How long the law and our own rules leave: notices of a breach, retention, the review.

Here: days computed from days. Not here: whether there was a breach. Not computed: a delay that law
enforcement asks for (45 CFR 164.412), which only postpones, and the laws of states, which whoever
assesses adds. Engineering guidance, to be confirmed by counsel.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

NOTICE_DAYS = 60
"""Calendar days after discovery, an outer limit: each notice is due without unreasonable delay."""
MANY = 500
REVIEW_BUSINESS_DAYS = 5
RETENTION_YEARS = 6
_SATURDAY = 5


@dataclass(frozen=True)
class Notices:
    """The last day of each notice. ``media`` is ``None`` where none is due."""

    individuals: date
    """45 CFR 164.404(b)."""
    secretary: date
    """The Secretary of Health and Human Services, 164.408(b) and (c)."""
    media: date | None
    """164.406: more than 500 residents of one State or jurisdiction."""
    business_associate: date
    """164.410(b): from a business associate to the covered entity; a contract may ask for less."""


def notices(discovered_at: datetime, affected: int | None, residents_of_one_state: int | None = None) -> Notices:
    """The notices of a breach that was discovered at ``discovered_at`` (its day in UTC).

    ``affected`` counts persons, ``residents_of_one_state`` those of the State or jurisdiction that has
    most of them. ``None`` is not known, which is treated as many. 500 persons are many for the
    Secretary (164.408(b), "500 or more") and not for the media (164.406(a), "more than 500").
    """
    discovered = _day(discovered_at)
    last = discovered + timedelta(days=NOTICE_DAYS)
    in_one_state = affected if residents_of_one_state is None else residents_of_one_state
    return Notices(
        individuals=last,
        secretary=last if affected is None or affected >= MANY else _after_the_year(discovered),
        media=last if in_one_state is None or in_one_state > MANY else None,
        business_associate=last,
    )


def _after_the_year(discovered: date) -> date:
    """164.408(c): 60 days after the end of the calendar year of the discovery."""
    return date(discovered.year, 12, 31) + timedelta(days=NOTICE_DAYS)


def review_due(opened_at: datetime) -> date:
    """Five business days after the opening's day, Monday to Friday; holidays are not known here."""
    day, left = _day(opened_at), REVIEW_BUSINESS_DAYS
    while left:
        day += timedelta(days=1)
        left -= day.weekday() < _SATURDAY
    return day


def retention_until(written_at: datetime) -> date:
    """Six years after the record was last written, 45 CFR 164.316(b)(2)(i); from 29 February to 1 March."""
    day = _day(written_at)
    year = day.year + RETENTION_YEARS
    try:
        return day.replace(year=year)
    except ValueError:
        return date(year, 3, 1)


def _day(at: datetime) -> date:
    return at.astimezone(UTC).date()
