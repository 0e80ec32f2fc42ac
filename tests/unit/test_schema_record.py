"""Which restore point is from before a version of a schema."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from dr_platform.clock import ManualClock
from dr_platform.evidence import MemoryEvidenceLog
from dr_platform.schema_record import BACK, MIGRATED, POINT, points
from tests.backups import START

pytestmark = pytest.mark.unit


def before(*entries: tuple[str, Mapping[str, str]]) -> dict[str, str]:
    """The point before each version, of a log in which exactly this was written down."""
    log = MemoryEvidenceLog(ManualClock(START))
    for kind, body in entries:
        log.append(kind, "schema/postgres", "somebody", body)
    return {version: point.name for version, point in points(log.entries()).items()}


def marked(version: str, point: str) -> tuple[str, Mapping[str, str]]:
    return POINT, {"version": version, "point": point}


FORWARD = (MIGRATED, {"direction": "forward"})
TAKEN_BACK = (MIGRATED, {"direction": BACK})


def test_each_version_has_the_point_right_before_it() -> None:
    assert before(FORWARD, marked("2", "p2"), marked("3", "p3")) == {"2": "p2", "3": "p3"}


def test_a_step_that_was_killed_and_repeated_has_the_point_from_before_its_first_attempt() -> None:
    assert before(FORWARD, marked("2", "first"), FORWARD, marked("2", "again")) == {"2": "first"}


def test_what_was_taken_back_and_applied_again_has_the_point_of_the_second_time() -> None:
    entries = (FORWARD, marked("2", "p2"), marked("3", "p3"), TAKEN_BACK, FORWARD, marked("3", "later"))
    assert before(*entries) == {"2": "p2", "3": "later"}


def test_taking_back_alone_forgets_no_point() -> None:
    assert before(marked("2", "p2"), TAKEN_BACK) == {"2": "p2"}


def test_two_spellings_of_a_version_are_one() -> None:
    assert before(marked("2", "first"), marked("2.0", "again")) == {"2": "first"}


def test_without_a_change_there_is_no_point() -> None:
    assert before(FORWARD) == {}
