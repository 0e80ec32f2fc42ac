"""Guards that measuring one thing again leaves the figures of the others as they are."""

from __future__ import annotations

import pytest

from scripts.report import DOCUMENT, marked, with_section

pytestmark = pytest.mark.unit

EMPTY = "# Benchmarks\n"


def a_section(figure: str) -> list[str]:
    return ["## A heading", "", f"| {figure} |"]


def test_a_section_is_added_at_the_end() -> None:
    assert with_section(EMPTY, "one", a_section("1.0")) == f"{EMPTY}\n{marked('one', a_section('1.0'))}\n"


def test_a_section_is_replaced_in_place_and_nothing_around_it_changes() -> None:
    before = with_section(with_section(EMPTY, "one", a_section("1.0")), "two", a_section("5.0"))
    after = with_section(before, "one", a_section("2.0"))
    assert after == before.replace("| 1.0 |", "| 2.0 |")


def test_every_measurement_has_its_section_in_the_document() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    for name in ("platform", "delivery"):
        assert (document.count(f"<!-- {name}: begin -->"), document.count(f"<!-- {name}: end -->")) == (1, 1)
