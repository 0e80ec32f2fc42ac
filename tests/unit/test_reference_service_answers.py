"""Guards that answers are made of the passages alone, and that nothing is answered without cause."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.embedding import WordVectors
from dr_platform.reference_service.answers import (
    MAX_SENTENCES,
    UNKNOWN,
    Passage,
    compose,
    confidence_of,
    sentences_of,
)

pytestmark = pytest.mark.unit

VECTORS = WordVectors()
NAPS = Passage(
    "napping",
    "Napping without spoiling the night",
    "Keep naps short. Finish before mid-afternoon. Do not nap at 8 p.m.",
)
BED = Passage("bed", "When you lie awake", "Get up when you lie awake.\nGo back to bed when you feel sleepy.")
TABLETS = Passage("tablets", "Remembering tablets", "Keep tablets beside your toothbrush. Set an alarm each morning.")


def similarities(question: str, texts: Sequence[str]) -> Sequence[float]:
    vectors = VECTORS.embed([question, *texts])
    return (vectors[1:] @ vectors[0]).tolist()


text = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=200)
prose = st.lists(
    st.sampled_from(
        ["Sleep", "is", "short", "naps", "help", "8", "p.m.", "Dr.", "Smith", "says", "yes!", "\n", "(really?)"]
    ),
    max_size=40,
).map(" ".join)
passages = st.lists(
    st.builds(Passage, document=st.sampled_from(["a", "b", "c"]), title=text, text=st.one_of(text, prose)), max_size=5
)


@given(question=st.one_of(text, prose), found=passages, threshold=st.floats(0, 1))
def test_every_sentence_of_an_answer_stands_in_a_passage_that_is_named_as_source(
    question: str, found: list[Passage], threshold: float
) -> None:
    answer = compose(question, found, threshold, similarities)
    assert len(answer.sentences) <= MAX_SENTENCES
    assert set(answer.sources) <= set(found)
    for sentence in answer.sentences:
        assert any(sentence in source.text for source in answer.sources)
    if answer.known:
        assert answer.confidence >= threshold - 1e-4
        assert answer.text == " ".join(answer.sentences)
    else:
        assert answer.text == UNKNOWN
        assert not answer.sources


def test_a_question_that_the_passages_answer_is_answered_with_its_source() -> None:
    answer = compose("Should I get up when I lie awake in bed?", [BED, NAPS], 0.7, similarities)
    assert answer.known
    assert answer.sources[0] == BED
    assert "Get up when you lie awake." in answer.sentences


@pytest.mark.parametrize(
    "question", ["Who won the world cup in 1998?", "How do I change a flat tyre?", "", "the of and"]
)
def test_a_question_about_something_else_is_not_answered(question: str) -> None:
    assert not compose(question, [BED, NAPS, TABLETS], 0.7, similarities).known


def test_without_passages_nothing_is_known() -> None:
    assert compose("How do I sleep?", [], 0.0, similarities).text == UNKNOWN


def test_the_threshold_decides() -> None:
    question = "Where do I keep my tablets?"
    sure = compose(question, [TABLETS], 0.0, similarities).confidence
    assert compose(question, [TABLETS], sure - 0.01, similarities).known
    assert not compose(question, [TABLETS], sure + 0.01, similarities).known


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8), st.floats(0.01, 0.5))
def test_more_similar_passages_are_never_less_sure(similar: list[float], more: float) -> None:
    assert confidence_of([s + more for s in similar]) > confidence_of(similar)


def test_equal_questions_get_equal_answers() -> None:
    first = compose("naps in the afternoon", [NAPS, BED], 0.0, similarities)
    assert first == compose("naps in the afternoon", [NAPS, BED], 0.0, similarities)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ("One.", "Two!", "Three?")),
        ("Not at 8 p.m. in bed.", ("Not at 8 p.m. in bed.",)),
        ('He said "stop." Then he left.', ('He said "stop."', "Then he left.")),
        ("- first\n- second", ("- first", "- second")),
        ("no end", ("no end",)),
        ("", ()),
    ],
)
def test_sentences_are_taken_as_they_stand(text: str, sentences: tuple[str, ...]) -> None:
    assert sentences_of(text) == sentences
