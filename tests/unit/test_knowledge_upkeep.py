"""Guards when a set is seeded again by itself, when a model is good enough, and what language a text seems to be in."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.knowledge.evaluate import Figures, RetrievalReport
from dr_platform.knowledge.gates import CLOSE, JUDGED, Profile, seems
from dr_platform.knowledge.models import MARGIN, Answers, worse
from dr_platform.knowledge.upkeep import ATTEMPTS, PAUSE, WINDOW, Leave, Reseed, Standing, Tried, decide
from dr_platform.look import Look
from dr_platform.resources import check_result, reseed_request, shown_on_asset, tried_before, tried_now
from dr_platform.verdict import Verdict

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 26, tzinfo=UTC)
CHANGED = Standing("sleep", 30, "abc", pending=2, age_days=0.1)


@pytest.mark.parametrize(
    ("standing", "busy", "why"),
    [
        pytest.param(CHANGED, "", None, id="a changed source is seeded"),
        pytest.param(Standing("sleep", 30, "a", 0, 1.0), "", None, id="not compared for a day"),
        pytest.param(Standing("sleep", 1, "a", 0, 0.8), "", None, id="before a policy of a day runs out"),
        pytest.param(Standing("sleep", 1, "a", 0, 0.7), "", "equals", id="not much before that"),
        pytest.param(Standing("sleep", 30, "a", 0, 0.9), "", "equals", id="compared today"),
        pytest.param(Standing("sleep", 30, "a", 14, None), "", "never seeded", id="the first seed is for bringing up"),
        pytest.param(CHANGED, "a run is at work on it", "at work", id="not while a run works on it"),
        pytest.param(Standing("sleep", 30, trouble="2 faults"), "", "2 faults", id="an unusable source"),
    ],
)
def test_what_is_seeded_again(standing: Standing, busy: str, why: str | None) -> None:
    answer = decide(standing, None, NOW, busy=busy)
    if why is None:
        assert isinstance(answer, Reseed)
    else:
        assert isinstance(answer, Leave)
        assert why in answer.why


@given(st.lists(st.integers(1, 3600), min_size=50, max_size=200))
def test_what_does_not_help_is_tried_a_few_times_a_day_and_not_at_once(waits: list[int]) -> None:
    tried, now, asked = None, NOW, []
    for wait in waits:
        now += timedelta(seconds=wait)
        answer = decide(CHANGED, tried, now)
        if isinstance(answer, Reseed):
            asked.append(now)
            tried = answer.tried
    assert all(later - earlier >= PAUSE for earlier, later in itertools.pairwise(asked))
    assert all(sum(at <= other < at + WINDOW for other in asked) <= ATTEMPTS for at in asked)


def test_the_budget_is_whole_again_when_the_source_changes_and_after_a_day() -> None:
    spent = Tried("abc", tuple(NOW - timedelta(hours=h) for h in (3, 2, 1)))
    given_up = decide(CHANGED, spent, NOW)
    assert isinstance(given_up, Leave)
    assert "a person is needed" in given_up.why
    assert isinstance(decide(Standing("sleep", 30, "abd", 1, 0.1), spent, NOW), Reseed)
    assert isinstance(decide(CHANGED, spent, NOW + timedelta(hours=22)), Reseed)


def test_attempts_are_remembered_by_the_cursor_and_each_has_a_key_of_its_own() -> None:
    first = decide(CHANGED, None, NOW)
    assert isinstance(first, Reseed)
    tried = tried_before(tried_now({"privacy": Tried("x", (NOW,))}, [first]))
    assert tried == {"sleep": first.tried, "privacy": Tried("x", (NOW,))}
    second = decide(CHANGED, tried["sleep"], NOW + PAUSE)
    assert isinstance(second, Reseed)
    assert first.key != second.key


@pytest.mark.parametrize("cursor", [None, "", "no", "[]", '{"sleep": 1}', '{"sleep": ["a", ["yesterday"]]}', "7"])
def test_a_cursor_of_another_form_is_none(cursor: str | None) -> None:
    assert tried_before(cursor) == {}


def test_a_run_seeds_one_set_and_looks_at_it_alone() -> None:
    reseed = decide(CHANGED, None, NOW)
    assert isinstance(reseed, Reseed)
    every = [Look(("knowledge", name), "healthy", "", lambda: Verdict(True, "")) for name in ("sleep", "privacy")]
    request = reseed_request(reseed, every)
    assert request.asset_selection == [dg.AssetKey(["knowledge", "sleep"])]
    assert request.asset_check_keys == [dg.AssetCheckKey(dg.AssetKey(["knowledge", "sleep"]), "healthy")]


def a_report(name: str, recall: float, mrr: float = 0.8, questions: int = 20) -> RetrievalReport:
    figures = Figures(recall, mrr, 5)
    return RetrievalReport(name, questions, figures, figures, figures, ("lost-article",))


def answers(whole: float, mrr: float = 0.8, questions: int = 125, **sets: float) -> Answers:
    own = tuple(a_report(name, recall) for name, recall in sets.items())
    return Answers(a_report("the whole store", whole, mrr, questions), own)


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        pytest.param(answers(0.9), answers(0.95), None, id="better"),
        pytest.param(answers(0.9), answers(0.9 - MARGIN), None, id="a margin behind is chance"),
        pytest.param(answers(0.9), answers(0.87), "recall@5 falls", id="finds less"),
        pytest.param(answers(0.9), answers(0.9, 0.77), "reciprocal rank", id="finds later"),
        pytest.param(None, answers(1.0), "nothing to compare", id="nothing was measured before"),
        pytest.param(answers(0.9), answers(0.9, questions=0), "nothing to compare", id="no questions"),
        pytest.param(answers(0.9, a=0.85), answers(0.9, a=0.8), "a no longer reaches", id="one set pays for it"),
        pytest.param(answers(0.9, a=0.8), answers(0.9, a=0.7), None, id="a set that did not reach it before"),
        pytest.param(answers(0.94, a=0.9), answers(0.91, a=1.0), "recall@5", id="sets alone do not outweigh the whole"),
    ],
)
def test_when_a_model_may_take_the_place_of_another(
    before: Answers | None, after: Answers, problem: str | None
) -> None:
    found = worse(before, after)
    assert bool(found) is (problem is not None)
    assert problem is None or problem in found[0]


@given(st.sampled_from(sorted(JUDGED)), st.dictionaries(st.sampled_from(sorted(JUDGED)), st.integers(0, 100)))
def test_the_declared_language_is_believed_where_no_other_explains_much_more(
    declared: str, stops: dict[str, int]
) -> None:
    answer = seems(Profile("a", declared, 100, stops))
    if stops and stops.get(declared, 0) >= CLOSE * max(stops.values()):
        assert answer in (declared, None)
    if answer not in (declared, None):
        assert stops[answer] == max(stops.values())


@pytest.mark.parametrize("words", [0, 5, 29])
def test_a_few_words_tell_no_language(words: int) -> None:
    assert seems(Profile("a", "de", words, {"en": words})) is None


def test_the_report_of_an_evaluation_is_shown_on_the_check_and_on_the_asset() -> None:
    look = Look(("knowledge", "sleep"), "retrieval", "", lambda: Verdict(True, ""))
    verdict = a_report("sleep", 0.9).verdict()
    shown = check_result(look, verdict).metadata["report"]
    assert isinstance(shown, dg.MarkdownMetadataValue)
    assert "lost-article" in str(shown.value)
    observed = shown_on_asset(look, verdict)
    assert observed.asset_key == dg.AssetKey(["knowledge", "sleep"])
    assert observed.metadata["retrieval/fused_recall_at_5_ratio"].value == 0.9
    assert observed.metadata["retrieval/report"] == shown
