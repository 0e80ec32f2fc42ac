"""The pure parts of storing, fusing and judging."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.catalog import KnowledgeSet
from dr_platform.knowledge.evaluate import Figures, QuestionsError, RetrievalReport, figures, read_questions
from dr_platform.knowledge.search import fuse
from dr_platform.knowledge.store import configuration, difference

pytestmark = pytest.mark.unit

hashes = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("12"))


@given(hashes, hashes)
def test_a_difference_names_every_document_once(wanted: dict[str, str], stored: dict[str, str]) -> None:
    found = difference(wanted, stored)
    named = [*found.added, *found.changed, *found.removed, *found.unchanged]
    assert sorted(named) == sorted(wanted.keys() | stored.keys())
    assert found.count == sum(wanted.get(slug) != stored.get(slug) for slug in named)


def test_what_both_arms_place_high_comes_first() -> None:
    scores = fuse([1, 2, 3], [4, 2, 5])
    assert max(scores, key=lambda d: scores[d]) == 2
    assert fuse([7], [7])[7] == pytest.approx(1.0)


def test_one_arm_alone_keeps_its_order() -> None:
    scores = fuse([3, 1, 2], [])
    assert sorted(scores, key=lambda d: -scores[d]) == [3, 1, 2]


@given(st.lists(st.integers(0, 9), unique=True), st.lists(st.integers(0, 9), unique=True))
def test_a_document_both_arms_prefer_never_falls_behind(first: list[int], second: list[int]) -> None:
    scores = fuse(first, second)
    for better in set(first) & set(second):
        for worse in set(first) & set(second):
            if first.index(better) < first.index(worse) and second.index(better) < second.index(worse):
                assert scores[better] > scores[worse]


def test_figures_count_ranks_within_five_and_reciprocal_ranks() -> None:
    found = figures([1, 2, 5, 6, None], [1, 2, 3, 4, 100])
    assert found == Figures(recall=0.6, reciprocal_rank=pytest.approx((1 + 1 / 2 + 1 / 5 + 1 / 6) / 5), p95_ms=100)


def test_the_95th_percentile_leaves_one_in_twenty_out() -> None:
    assert figures([1] * 20, [float(n) for n in range(1, 21)]).p95_ms == 19


def report(fused: Figures, part: float = 0.9, questions: int = 20) -> RetrievalReport:
    return RetrievalReport("s", questions, Figures(part, 0.7, 1), Figures(0.5, 0.5, 1), fused, ())


@pytest.mark.parametrize(
    ("given_report", "passed"),
    [
        pytest.param(report(Figures(0.9, 0.7, 10)), True, id="as good as its better part"),
        pytest.param(report(Figures(0.9, 0.7, 10), part=0.95), True, id="one question of twenty behind is chance"),
        pytest.param(report(Figures(0.9, 0.7, 10), part=1.0), False, id="two questions behind is worse"),
        pytest.param(report(Figures(0.84, 0.7, 10), part=0.8), False, id="too few found"),
        pytest.param(report(Figures(0.9, 0.5, 10)), False, id="found too late"),
        pytest.param(report(Figures(0.9, 0.7, 300)), False, id="too slow"),
        pytest.param(report(Figures(1, 1, 1), questions=0), False, id="without questions nothing is known"),
    ],
)
def test_verdicts(given_report: RetrievalReport, passed: bool) -> None:
    verdict = given_report.verdict()
    assert verdict.passed is passed
    assert verdict.why


def test_measurements_and_table_name_all_three_searches() -> None:
    found = report(Figures(0.9, 0.7, 10))
    assert found.measurements()["fused_recall_at_5_ratio"] == 0.9
    assert found.measurements()["vector_mrr_ratio"] == 0.7
    assert found.measurements()["text_p95_ms"] == 1
    assert "| fused | 0.900 | 0.700 | 10.0 |" in found.markdown()


def test_every_fault_of_a_file_of_questions_is_told(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text('{"question": "Why?", "document": "a"}\nno\n{"question": "", "document": "a"}\n[]\n')
    with pytest.raises(QuestionsError) as refused:
        read_questions(file)
    assert [fault.line for fault in refused.value.faults] == [2, 3, 4]


@pytest.mark.parametrize("content", [None, b"", b"\xff"])
def test_a_missing_empty_or_undecodable_file_of_questions_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "questions.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(QuestionsError):
        read_questions(file)


@pytest.mark.parametrize(("language", "name"), [("en", "english"), ("pt-BR", "portuguese"), ("tlh", "simple")])
def test_a_language_has_a_text_search_configuration(language: str, name: str) -> None:
    assert configuration(language) == name


def test_a_set_may_ask_for_more_of_its_questions() -> None:
    fields = {"name": "sleep", "title": "Sleep", "description": "x", "owner": "team:content", "license": "CC0-1.0"}
    asked = KnowledgeSet.model_validate({**fields, "retrieval": {"recall": "97 %", "p95": "40 ms"}}).retrieval
    assert (asked.recall, asked.reciprocal_rank, asked.p95) == (0.97, 0.6, 0.04)
