"""Cutting articles into passages: nothing lost, nothing too long, what belongs together stays together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.knowledge.chunking import ChunkRule, chunk_document, split_text
from dr_platform.knowledge.documents import Document

pytestmark = pytest.mark.unit

texts = st.text(alphabet=st.sampled_from("abC1.!? \n\t-'\"é"), max_size=600)
rules = st.builds(
    lambda most, least, overlap: ChunkRule(most, min(least, most), min(overlap, most - 1)),
    st.integers(1, 30),
    st.integers(0, 30),
    st.integers(0, 29),
)


@given(texts, rules)
def test_without_overlap_every_word_comes_once_and_in_order(text: str, rule: ChunkRule) -> None:
    plain = ChunkRule(rule.most, rule.least)
    assert " ".join(split_text(text, plain)).split() == text.split()


@given(texts, rules)
def test_no_chunk_is_empty_or_longer_than_the_bound(text: str, rule: ChunkRule) -> None:
    assert all(1 <= len(chunk.split()) <= rule.most for chunk in split_text(text, rule))


@given(st.lists(st.sampled_from([" ", ". ", "? ", "\n", "\n\n"]), max_size=80), rules)
def test_with_overlap_each_chunk_goes_on_where_the_one_before_ended(gaps: list[str], rule: ChunkRule) -> None:
    text = "".join(f"W{number}{gap}" for number, gap in enumerate(gaps))
    words: list[str] = []
    for chunk in split_text(text, rule):
        new = [word for word in chunk.split() if word not in words]
        repeated = chunk.split()[: -len(new)]
        assert new, "a chunk brings something new"
        assert repeated == words[len(words) - len(repeated) :]
        assert len(repeated) <= rule.overlap
        words += new
    assert words == text.split()


def test_a_paragraph_that_fits_stays_whole_and_apart_from_the_next() -> None:
    first, second = "One two three four. Five six.", "Seven eight nine ten eleven."
    assert split_text(f"{first}\n\n{second}", ChunkRule(most=10, least=2)) == (first, second)


def test_a_heading_joins_the_paragraph_below_it() -> None:
    assert split_text("## Before bed\n\nDim the lights an hour before.", ChunkRule(most=20, least=4)) == (
        "## Before bed\nDim the lights an hour before.",
    )


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    text = "Breathe in slowly. Hold it for a moment. Breathe out for longer. Then begin again."
    assert split_text(text, ChunkRule(most=9, least=0)) == (
        "Breathe in slowly. Hold it for a moment.",
        "Breathe out for longer. Then begin again.",
    )


def test_an_overlap_repeats_whole_sentences() -> None:
    text = "Aa bb cc. Dd ee. Ff gg hh. Ii jj."
    assert split_text(text, ChunkRule(most=6, least=0, overlap=3)) == (
        "Aa bb cc. Dd ee.",
        "Dd ee. Ff gg hh.",
        "Ff gg hh. Ii jj.",
    )


def test_decimals_and_abbreviations_before_small_letters_do_not_end_a_sentence() -> None:
    text = "Take 2.5 ml, e.g. with a spoon. Rinse it."
    assert split_text(text, ChunkRule(most=8, least=0)) == ("Take 2.5 ml, e.g. with a spoon.", "Rinse it.")


def test_every_chunk_is_indexed_under_its_document_s_title() -> None:
    document = Document("naps", "Napping wisely", "Keep it short.\n\n" + "word " * 40, "en")
    chunks = chunk_document(document, ChunkRule(most=30, least=2))
    assert [chunk.ordinal for chunk in chunks] == [0, 1, 2]
    assert all(chunk.indexed == f"Napping wisely. {chunk.text}" for chunk in chunks)


def test_the_same_passage_under_another_title_is_another_chunk() -> None:
    one, other = (chunk_document(Document("a", title, "Drink water."))[0] for title in ("Fever", "Heat"))
    assert one.content_hash != other.content_hash
    assert one.content_hash == chunk_document(Document("b", "Fever", "Drink  water.\n"))[0].content_hash


@pytest.mark.parametrize(("most", "least", "overlap"), [(10, 0, 10), (10, 11, 0), (0, 0, 0), (10, -1, 0)])
def test_impossible_rules_are_refused(most: int, least: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="required"):
        ChunkRule(most, least, overlap)
