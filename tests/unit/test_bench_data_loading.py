"""Guards what the measurement of loading calls a success, and that it measures the rows it promises."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from scripts.bench_data_loading import BATCH, DIMENSIONS, Figures, Measured, batch, table

pytestmark = pytest.mark.unit

GOOD = Figures(rows=1_000_000, seconds=8.0, peak_bytes=100_000_000, load_average=1.0)
SLOW = dataclasses.replace(GOOD, seconds=11.0)
LARGE = dataclasses.replace(GOOD, peak_bytes=200_000_000)


@pytest.mark.parametrize(
    ("measured", "passed"),
    [
        pytest.param(Measured(GOOD, (GOOD, GOOD), (GOOD, GOOD)), True, id="fast and flat"),
        pytest.param(Measured(SLOW, (GOOD, GOOD), (GOOD, GOOD)), False, id="less than 100,000 rows a second"),
        pytest.param(Measured(GOOD, (SLOW, SLOW), (SLOW, SLOW)), True, id="making rows may take longer"),
        pytest.param(Measured(GOOD, (GOOD, LARGE), (GOOD, GOOD)), False, id="memory grows with streamed rows"),
        pytest.param(Measured(GOOD, (GOOD, GOOD), (GOOD, LARGE)), False, id="memory grows with patients"),
        pytest.param(Measured(LARGE, (GOOD, GOOD), (GOOD, GOOD)), True, id="rows from memory are in memory"),
    ],
)
def test_a_measurement_passes_when_it_is_fast_enough_and_memory_is_flat(measured: Measured, passed: bool) -> None:
    assert measured.passed is passed
    assert len(table(measured)) == 7


def test_a_tenth_of_the_rows_have_unit_vectors_and_no_two_have_the_same() -> None:
    messages, chunks = batch(3 * BATCH, 1_000)
    assert (len(messages), len(chunks)) == (900, 100)
    vectors = np.array([row[3] for row in chunks])
    assert vectors.shape == (100, DIMENSIONS)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    following = np.array([row[3] for row in batch(3 * BATCH + 1_000, 1_000)[1]])
    assert len(np.unique(np.round(np.vstack([vectors, following]), 6), axis=0)) == 200
    assert len({row[0] for row in messages}) == 900
