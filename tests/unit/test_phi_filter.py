"""Guards that the quick condition before a pattern never keeps the pattern from a match."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform import phi
from dr_platform.phi_filter import LookedAt, Need, need_of
from tests.phi_corpus import HARMLESS, samples

pytestmark = pytest.mark.unit

TEXTS = [*HARMLESS, *(sample.text for sample in samples(rounds=5))]


def broken(text: str) -> list[str]:
    looked_at = LookedAt(text)
    return [str(r.kind) for r in phi._RULES if r.pattern.search(text) and not r.need.met(looked_at)]


def test_whatever_a_pattern_finds_in_the_corpus_meets_its_condition() -> None:
    matches = sum(bool(rule.pattern.search(text)) for text in TEXTS for rule in phi._RULES)
    assert matches > 100
    assert [found for text in TEXTS if (found := broken(text))] == []


@given(st.data())
def test_a_match_of_any_pattern_meets_its_condition(data: st.DataObject) -> None:
    rule = data.draw(st.sampled_from(phi._RULES))
    text = data.draw(st.from_regex(rule.pattern))
    assert rule.need.met(LookedAt(text))


@pytest.mark.parametrize("text", ["ſſn 123-45-6789", "teK 555-123-4567", "MY NAME İS Anna"])
def test_letters_that_patterns_hold_equal_to_others_meet_the_condition_too(text: str) -> None:
    assert broken(text) == []


@pytest.mark.parametrize(
    ("pattern", "need"),
    [
        (r"a?b+", Need(exact=("b",))),
        (r"(?:cat|Dog)[0-9]{2}", Need(digits=2, exact=("Dog", "cat"))),
        (r"(?i:Cat|dogs|dog)[0-9]", Need(digits=1, words=("cat", "dog"))),
        (r"(?:cat|)x?", Need()),
        (r"(?=.*@)[a-z]*", Need(exact=("@",))),
        (r"(?=[a-z]*[0-9]{3})[0-9]{2}", Need(digits=3)),
        (r"(?!no)yes", Need(exact=("yes",))),
        (r"[0-9a-f]{4}", Need()),
    ],
)
def test_the_condition_is_read_from_the_pattern(pattern: str, need: Need) -> None:
    assert need_of(re.compile(pattern)) == need
