"""Guards that measuring one thing again leaves the figures of the other as they are."""

from __future__ import annotations

import pytest

from scripts.bench_delivery import BEGIN, END, with_section, written_section

pytestmark = pytest.mark.unit

DOCUMENT = "# Benchmarks\n\n| a | b |\n"


def a_section(figure: str) -> str:
    return f"{BEGIN}\n## A heading\n\n| {figure} |\n{END}"


def test_a_section_is_added_at_the_end_and_read_back_as_it_was_written() -> None:
    written = with_section(DOCUMENT, a_section("1.0"))
    assert written.startswith(DOCUMENT)
    assert written_section(written) == a_section("1.0")
    assert written_section(DOCUMENT) is None


def test_a_section_is_replaced_in_place_and_nothing_around_it_changes() -> None:
    before = f"{with_section(DOCUMENT, a_section('1.0'))}\n## Afterwards\n"
    after = with_section(before, a_section("2.0"))
    assert after == before.replace("| 1.0 |", "| 2.0 |")
    assert (after.count(BEGIN), after.count(END)) == (1, 1)
