"""Guards what is expected of data: that files are refused in words, and that verdicts follow from counts alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.catalog import CatalogError, load_catalog
from dr_platform.platform import find_catalog
from dr_platform.quality.judge import counted, judge
from dr_platform.quality.model import Dimension, NotNull, Refers, Rule, read_expectations, rules_by_dimension
from dr_platform.quality.port import MOST_REFERENCES, Counted, Key

pytestmark = pytest.mark.unit

NAMES = st.sets(st.integers(0, 5000), max_size=3000)


class Kept:
    """An inspector over sets of keys."""

    def __init__(self, keys: Collection[Key]) -> None:
        self._keys = keys

    def count(self, rules: Sequence[Rule]) -> Sequence[Counted]:
        return [Counted(rule, 0, len(self._keys)) for rule in rules]

    def keys(self, _table: str, _column: str, /) -> Iterator[Key]:
        yield from list(self._keys)[:MOST_REFERENCES]

    def present(self, _table: str, _column: str, keys: Collection[Key], /) -> int:
        return len(set(keys) & set(self._keys))

    def close(self) -> None:
        pass


@given(NAMES, NAMES)
def test_a_reference_is_broken_for_each_name_that_the_other_database_does_not_have(
    named: set[Key], known: set[Key]
) -> None:
    databases = {None: Kept(named), "other": Kept(known)}
    rule = Refers("t", "c", "other", "u", "id")
    (answer,) = counted([rule], lambda name: databases[name])
    assert (answer.broken, answer.of) == (len(named - known), len(named))


def test_answers_come_in_the_order_of_the_rules() -> None:
    rules = [Refers("t", "c", None, "t", "id"), NotNull("t", "a"), NotNull("t", "b")]
    assert [answer.rule for answer in counted(rules, lambda _: Kept({1}))] == rules


@given(st.lists(st.integers(0, 3), min_size=1))
def test_a_verdict_passes_exactly_where_nothing_is_broken(broken: list[int]) -> None:
    answers = [Counted(NotNull(f"t{at}", "c"), number, 3) for at, number in enumerate(broken)]
    verdict = judge(answers)
    assert verdict.passed is not any(broken)
    assert verdict.measurements["unexpected_count"] == sum(broken)
    assert all((f"t{at}:" in verdict.why) == bool(number) for at, number in enumerate(broken))


def test_nothing_expected_is_not_passed() -> None:
    assert judge([]).passed is None


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        ("tables: {}", "tables", ""),
        ("tables: {t: {}}", "", "expects nothing of a table"),
        ("tables: {t: {ranges: {c: {}}}}", "tables.t.ranges.c", "bounds nothing"),
        ("tables: {t: {volume: {at_least: 2, at_most: 1}}}", "tables.t.volume", "admits no value"),
        ("tables: {t: {fresh: {column: c, within: 5}}}", "tables.t.fresh.within", "has no unit"),
        ("tables: {t: {never_nul: [c]}}", "tables.t.never_nul", ""),
        ("warns: [smell]\ntables: {t: {never_null: [c]}}", "warns.0", ""),
    ],
)
def test_a_file_that_is_not_understood_is_refused_with_field_and_remedy(
    tmp_path: Path, text: str, where: str, problem: str
) -> None:
    folder = tmp_path / "databases" / "store"
    folder.mkdir(parents=True)
    (folder / "expectations.yaml").write_text(text)
    with pytest.raises(CatalogError) as refused:
        read_expectations(tmp_path)
    (fault,) = refused.value.faults
    assert fault.file == "databases/store/expectations.yaml"
    assert fault.field.startswith(where)
    assert problem in fault.problem
    assert fault.remedy


def test_every_database_of_the_catalog_has_expectations_of_its_own() -> None:
    root = find_catalog()
    expected = read_expectations(root)
    assert set(expected) == set(load_catalog(root).databases)
    asked = {dimension for one in expected.values() for dimension in rules_by_dimension(one)}
    assert asked == set(Dimension)


def test_references_of_the_catalog_name_tables_that_something_is_expected_of() -> None:
    expected = read_expectations(find_catalog())
    for name, one in expected.items():
        for rule in rules_by_dimension(one).get(Dimension.REFERENCES, ()):
            if isinstance(rule, Refers):
                assert rule.target in expected[rule.database or name].tables
