"""Guards how data is filled in: what a file may ask for, and that no batch makes others wait for long."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.databases.batches import FEWEST_ROWS, MOST_ROWS, Batches, Filled, Pace, next_pace
from dr_platform.databases.port import Phase
from dr_platform.databases.schema import MalformedMigrations, read_steps

pytestmark = pytest.mark.unit

STATEMENT = "UPDATE billing.usage SET units = 1 WHERE units = 0 AND in_batch(id);\n"


def step_of(folder: Path, text: str) -> Path:
    (folder / "V1__fill.sql").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("header", "batches"),
    [
        ("-- batched: billing.usage by id", Batches("billing.usage", "id")),
        ("-- batched: t by id, 2000 rows", Batches("t", "id", 2000)),
        ("-- phase: data\n-- batched: t by id, 200 rows, 20 ms", Batches("t", "id", 200, 20)),
    ],
)
def test_a_batched_step_fills_in_data_outside_of_one_transaction(tmp_path: Path, header: str, batches: Batches) -> None:
    (step,) = read_steps(step_of(tmp_path, f"{header}\n{STATEMENT}"))
    assert (step.batches, step.phase, step.transactional) == (batches, Phase.DATA, False)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"-- batched: everything\n{STATEMENT}", "in another way than"),
        (f"-- batched: t by id, 5 rows\n{STATEMENT}", "between"),
        (f"-- batched: t by id\n{STATEMENT}{STATEMENT}", "2 statements"),
        ("-- batched: t by id\nUPDATE t SET a = 1;\n", "in_batch"),
        ("-- batched: t by other\n" + STATEMENT, "in_batch"),
        (f"{STATEMENT}", "without a line"),
        (f"{STATEMENT}-- batched: t by id\n", "below its first statement"),
        (f"-- batched: t by id\n-- phase: contract\n{STATEMENT}", "another phase"),
        (f"-- batched: t by id\n-- transactional: false\n{STATEMENT}", "leave the latter out"),
    ],
)
def test_what_cannot_be_repeated_range_by_range_is_refused_before_anything_runs(
    tmp_path: Path, text: str, problem: str
) -> None:
    with pytest.raises(MalformedMigrations, match=problem):
        read_steps(step_of(tmp_path, text))


@given(st.integers(FEWEST_ROWS, MOST_ROWS), st.floats(0.001, 60_000), st.integers(1, 1000), st.integers(2, 40))
def test_batches_come_to_take_what_was_asked_for(rows: int, row_us: float, target_ms: int, rounds: int) -> None:
    """Where one row takes a constant time, no batch takes more than twice the target once the pace has settled,
    unless ten rows do."""
    pace = Pace(rows, 0.0)
    for _ in range(rounds + 20):
        took = pace.rows * row_us / 1000
        pace = next_pace(pace, took, target_ms)
        assert FEWEST_ROWS <= pace.rows <= MOST_ROWS
        assert pace.rest_s == pytest.approx(took / 1000)
    longest = max(2 * target_ms, FEWEST_ROWS * row_us / 1000)
    assert pace.rows * row_us / 1000 <= longest


def test_how_far_it_came_is_told_with_the_time_that_is_left() -> None:
    assert Filled(500, 20, 2000, 5, 1.0).describe() == "500 of about 2,000 rows, 20 changed, 500 rows/s, about 3 s left"
    assert Filled(0, 0, 0, 0, 0.0).left_s is None
