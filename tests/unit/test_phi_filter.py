"""Guards that the quick condition before a pattern never keeps the pattern from a match."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dr_platform import phi
from dr_platform.phi_filter import LookedAt, Need, need_of
from tests.phi_corpus import HARMLESS, samples

pytestmark = pytest.mark.unit

TEXTS = [*HARMLESS, *(sample.text for sample in samples(rounds=5))]


def met_together(text: str) -> list[int]:
    looked_at = LookedAt(text)
    return phi._BY_DIGITS[min(looked_at.digits, phi._MOST_DIGITS)].met(looked_at)


def every_pattern(text: str) -> list[phi.PhiSpan]:
    """What is found without any condition, which is what each pattern says."""
    found = []
    for rule in phi._RULES:
        for match in rule.pattern.finditer(text):
            confidence = rule.judge(match["value"]) if rule.judge else rule.confidence
            if confidence > 0:
                found.append(phi.PhiSpan(match.start("value"), match.end("value"), rule.kind, confidence))
    return found


PIECES = st.sampled_from([
    *TEXTS[:200], "DoctorSmith", "MOMENT", "mrnABC123", "phone5551234567", "bornMay 3", "_mr. Anna", "émrs. Anna",
    "this is\tAnna", "my name isAnna", "name:Anna", "d.o.b. 1/2/61", "dOb 1-2-61", "M.R.N. 12345", "a/c 12345",
    "ss# 1234", "12 Elm st.", "1 b ave", "ſpoke with Anna", "\u212aid at x dot org", "x@y.org", "1::2", "www.a.b",
    "://", "son", "Ms", ".",
])  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES | st.text(max_size=6) | st.sampled_from(list(" .,:-_/0129AaÉ\t\n")), max_size=7).map("".join))
def test_the_detector_finds_what_all_its_patterns_find(text: str) -> None:
    assert list(phi._found(text)) == every_pattern(text)


@given(st.data())
def test_a_match_of_any_pattern_is_found_whatever_stands_around_it(data: st.DataObject) -> None:
    rule = data.draw(st.sampled_from(phi._RULES))
    text = data.draw(st.sampled_from(["", "a ", "1", "É", "."])) + data.draw(st.from_regex(rule.pattern))
    assert list(phi._found(text)) == every_pattern(text)


def test_conditions_looked_up_together_are_those_that_are_met_alone() -> None:
    for text in TEXTS:
        looked_at = LookedAt(text)
        assert met_together(text) == [i for i, rule in enumerate(phi._RULES) if rule.need.met(looked_at)]


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
        (r"(?:cat|Dog)[0-9]{2}", Need(digits=2, run=2, token=3, exact=("Dog", "cat"))),
        (r"(?i:Cat|dogs|dog)[0-9]", Need(digits=1, run=1, token=3, words=("cat", "dog"))),
        (r"(?<![0-9A-Za-z_])(?i:cat|dogs)[.][0-9]", Need(digits=1, run=1, token=3, words=(" cat ", " dogs "))),
        (r"(?<![0-9a-z])(?i:cat)(?![0-9A-Za-z_])", Need(words=("cat ",))),
        (r"(?i:[ab]\.?c)", Need(words=("a c", "ac", "b c", "bc"))),
        (r"[0-9]{2}-[0-9]{3,5}", Need(digits=5, run=3, token=3, exact=("-",))),
        (r"[0-9]{2}[a-z]?[0-9]{2}", Need(digits=4, run=2, token=4)),
        (r"(?:cat|)x?", Need()),
        (r"(?=.*@)[a-z]*", Need(exact=("@",))),
        (r"(?=[a-z]*[0-9]{3})[0-9]{2}", Need(digits=3, run=3, token=3)),
        (r"(?!no)yes", Need(exact=("yes",))),
        (r"[0-9a-f]{4}", Need()),
    ],
)
def test_the_condition_is_read_from_the_pattern(pattern: str, need: Need) -> None:
    assert need_of(re.compile(pattern)) == need
