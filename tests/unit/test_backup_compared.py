"""What a copy is held to, depending on whether it or its source went on changing."""

from __future__ import annotations

import pytest

from dr_platform.backups.port import Facts, TableFacts
from dr_platform.backups.proof import compared

pytestmark = pytest.mark.unit


def facts(rows: int, fingerprint: str = "a", *, exact: bool = True) -> Facts:
    return Facts("s", "1", "db", "1.0.0", "schema", (TableFacts("t", rows, fingerprint),), "sum", exact)


@pytest.mark.parametrize(
    ("source", "copy", "rows", "fingerprints"),
    [
        pytest.param(facts(5), facts(5), True, True, id="equal"),
        pytest.param(facts(5), facts(4), False, True, id="a row is missing"),
        pytest.param(facts(5), facts(5, "b"), True, False, id="a value differs"),
        pytest.param(facts(5), facts(4, "b", exact=False), True, None, id="a row of the copy has expired"),
        pytest.param(facts(5), facts(6, "b", exact=False), False, None, id="what expires does not become more"),
        pytest.param(facts(5, exact=False), facts(6, "b"), True, None, id="the source went on growing"),
        pytest.param(facts(5, exact=False), facts(4, "b"), False, None, id="counts are lower bounds"),
    ],
)
def test_rows_and_fingerprints(source: Facts, copy: Facts, rows: bool, fingerprints: bool | None) -> None:
    found = {check.name: check.passed for check in compared(source, copy)}
    assert (found["rows_equal"], found["fingerprints_equal"]) == (rows, fingerprints)


def test_a_table_that_is_missing_is_never_taken_for_one_that_expired() -> None:
    nothing = Facts("s", "1", "db", "1.0.0", "schema", (), "sum", exact=False)
    assert {check.name: check.passed for check in compared(facts(0), nothing)}["rows_equal"] is False
