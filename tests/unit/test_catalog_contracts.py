"""Guards how a requirement on another service's contract is read."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.catalog import Contract
from dr_platform.catalog.contracts import admits, unmet
from dr_platform.catalog.fields import IN_WORDS

pytestmark = pytest.mark.unit


NUMBERS = st.integers(1, 9999)


@pytest.mark.parametrize(
    ("requirement", "met", "not_met"),
    [
        ("2", "2", "1 3 20"),
        (">=2", "2 3 9999", "1"),
        ("<3", "1 2", "3 9999"),
        (">=2 <4", "2 3", "1 4"),
    ],
)
def test_a_requirement_admits_a_contract_or_a_range(requirement: str, met: str, not_met: str) -> None:
    assert all(admits(requirement, provided) for provided in met.split())
    assert not any(admits(requirement, provided) for provided in not_met.split())
    assert not admits(requirement, None)


@given(NUMBERS, NUMBERS, NUMBERS)
def test_a_range_is_both_of_its_halves(low: int, high: int, provided: int) -> None:
    both = admits(f">={low} <{high}", str(provided))
    assert both == (admits(f">={low}", str(provided)) and admits(f"<{high}", str(provided)))


@given(st.from_regex(next(p for p in IN_WORDS if ">=" in p and "<" in p), fullmatch=True), NUMBERS)
def test_whatever_the_pattern_lets_through_is_read(requirement: str, provided: int) -> None:
    assert admits(requirement, str(provided)) in (True, False)
    assert re.fullmatch(r"[0-9<>= ]+", requirement)


def test_a_requirement_on_what_is_not_there_is_unmet() -> None:
    contracts = {"search": Contract(requires={"embedding": ">=1", "billing": "1"}), "billing": Contract()}
    assert list(unmet(contracts)) == [("search", "embedding")]
