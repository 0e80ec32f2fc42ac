"""Quantities: text with a unit to a number and back, without loss."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.catalog.quantities import (
    parse_duration,
    parse_memory,
    parse_ratio,
    text_duration,
    text_memory,
    text_ratio,
)

pytestmark = pytest.mark.unit

numbers = st.decimals(min_value="0.001", max_value=100_000, places=3)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("100 ms", 0.1), ("9ms", 0.009), ("2 s", 2), ("5 min", 300), ("24 h", 86400), ("90 d", 7776000)],
)
def test_durations_are_seconds(written: str, seconds: float) -> None:
    assert parse_duration(written) == seconds


@pytest.mark.parametrize(
    ("written", "share"), [("1 %", 0.01), ("70 %", 0.7), ("0.5%", 0.005), ("0 %", 0), ("100 %", 1)]
)
def test_ratios_are_fractions_of_one_without_binary_noise(written: str, share: float) -> None:
    assert parse_ratio(written) == share


@pytest.mark.parametrize(
    ("written", "size"), [("512 MB", 512_000_000), ("1 GiB", 1 << 30), ("1.5 KiB", 1536), ("2 TB", 2 * 10**12)]
)
def test_memory_is_bytes(written: str, size: int) -> None:
    assert parse_memory(written) == size


@pytest.mark.parametrize(
    "wrong", ["", "1", 1, 0.5, True, None, [], "1 x", "-1 s", "1e3 s", "١ s", "1 s s", "9" * 400 + " s", "0 s", "NaN s"]
)
def test_a_wrong_duration_is_told_with_units_and_without_the_value(wrong: object) -> None:
    with pytest.raises(ValueError, match=r": write ") as caught:
        parse_duration(wrong)
    assert "100 ms" in str(caught.value)
    assert len(str(caught.value)) < 120


@given(number=numbers, unit=st.sampled_from(["ms", "s", "min", "h", "d"]))
def test_a_duration_survives_being_written(number: object, unit: str) -> None:
    seconds = parse_duration(f"{number} {unit}")
    assert parse_duration(text_duration(seconds)) == seconds


@given(size=st.integers(1, 10**14))
def test_a_size_survives_being_written(size: int) -> None:
    assert parse_memory(text_memory(size)) == size


@given(number=st.decimals(min_value=0, max_value=100, places=4))
def test_a_ratio_survives_being_written(number: object) -> None:
    ratio = parse_ratio(f"{number} %")
    assert parse_ratio(text_ratio(ratio)) == ratio


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.1, "100 ms"), (5400, "90 min"), (2, "2 s"), (7776000, "90 d"), (86400, "1 d")]
)
def test_a_duration_is_written_as_a_person_would(seconds: float, text: str) -> None:
    assert text_duration(seconds) == text
