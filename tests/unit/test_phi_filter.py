"""Guards that the quick condition before a pattern never keeps the pattern from a match."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dr_platform import phi
from dr_platform.phi_filter import MAX_CHARACTERS, Lead, Need, Screen, any_of, first_of, lead_of, need_of, reach_of
from tests.phi_corpus import HARMLESS, samples

pytestmark = pytest.mark.unit

TEXTS = [*HARMLESS, *(sample.text for sample in samples(rounds=5))]


def found(text: str) -> list[phi.PhiSpan]:
    return phi._found(text, phi._screen()([text]).get(0, {}))


def every_pattern(text: str) -> list[phi.PhiSpan]:
    """What is found without any condition, which is what each pattern says."""
    found = []
    for rule in phi._rules():
        for match in rule.pattern.finditer(text):
            confidence = rule.judge(match["value"]) if rule.judge else rule.confidence
            if confidence > 0:
                found.append(phi.PhiSpan(match.start("value"), match.end("value"), rule.kind, confidence))
    return found


PIECES = st.sampled_from([
    *TEXTS[:200], "DoctorSmith", "MOMENT", "mrnABC123", "phone5551234567", "bornMay 3", "_mr. Anna", "émrs. Anna",
    "this is\tAnna", "my name isAnna", "name:Anna", "d.o.b. 1/2/61", "dOb 1-2-61", "M.R.N. 12345", "a/c 12345",
    "ss# 1234", "12 Elm st.", "1 b ave", "ſpoke with Anna", "İ", "ſ", "\u212a", "ı", "mr. Bo", "\u212aid at x dot org",
    "x@y.org", "1::2", "www.a.b",
    "://", "son", "Ms", ".",
])  # fmt: skip


WRITTEN = st.lists(PIECES | st.text(max_size=6) | st.sampled_from(list(" .,:-_/(+0129AaÉ\t\n")), max_size=7).map(
    "".join
)


@settings(max_examples=400)
@given(WRITTEN)
def test_the_detector_finds_what_all_its_patterns_find(text: str) -> None:
    assert found(text) == every_pattern(text)


@given(st.data())
def test_a_match_of_any_pattern_is_found_whatever_stands_around_it(data: st.DataObject) -> None:
    rule = data.draw(st.sampled_from(phi._rules()))
    text = data.draw(st.sampled_from(["", "a ", "1", "É", "."])) + data.draw(st.from_regex(rule.pattern))
    assert found(text) == every_pattern(text)


@settings(max_examples=200)
@given(st.lists(WRITTEN, max_size=6))
def test_texts_examined_together_give_what_each_gives_alone(texts: list[str]) -> None:
    detector = phi.PhiDetector()
    expected = [tuple(phi._merged(sorted(every_pattern(text), key=phi._PLACE))) for text in texts]
    assert detector.detect_all(texts) == expected == [detector.detect(text) for text in texts]
    assert detector.redact_all(texts) == [detector.redact(text) for text in texts]


def test_texts_together_may_be_longer_than_one_text_may() -> None:
    texts = ["x " * 150_000 + "call 555-123-4567", *TEXTS] * 5
    detector = phi.PhiDetector()
    assert detector.detect_all(texts) == [detector.detect(text) for text in texts]


def test_the_corpus_together_gives_what_all_patterns_find() -> None:
    detected = phi.PhiDetector().detect_all(TEXTS)
    assert sum(map(len, detected)) > 100
    assert detected == [tuple(phi._merged(sorted(every_pattern(text), key=phi._PLACE))) for text in TEXTS]


def test_most_patterns_are_tried_where_they_may_begin_and_none_on_every_text() -> None:
    leads = [lead_of(rule.pattern) for rule in phi._rules()]
    assert sum(lead is None for lead in leads) < len(leads) / 4
    assert phi._screen()(["I have been feeling anxious this week."]) == {}


@pytest.mark.parametrize(
    "text", ["ſſn 123-45-6789", "teK 555-123-4567", "MY NAME İS Anna", "İmr. Bo", "ıcall 555-123-4567"]
)
def test_letters_that_some_patterns_hold_equal_to_others_hide_nothing(text: str) -> None:
    assert found(text) == every_pattern(text)


BOUND = "(?<![0-9A-Za-z_])"


@pytest.mark.parametrize(
    ("pattern", "lead"),
    [
        (rf"{BOUND}(?i:cat|dog)s", Lead((" cat", " dog"))),
        (r"(?i:cat|dog)s", Lead(("cat", "dog"))),
        (rf"{BOUND}(?i:tele)?phone", Lead((" phone", " tele"))),
        (rf"{BOUND}(?i:d\.?o)x", Lead((" d o", " do"))),
        (rf"{BOUND}(?:[0-3]?[0-9]|may)", Lead((" may",), by_number=True)),
        (rf"{BOUND}\+?1?[2-9][0-9]", Lead((), by_number=True)),
        (r"[0-9]{3}", None),
        (rf"{BOUND}(?:be|cat)", Lead((" be", " cat"))),
        (rf"{BOUND}(?:b|cat)", None),
        (rf"{BOUND}(?:ab|ac|ad|ae|fa|fb|fc|fd|fe|fg)", None),
        (rf"{BOUND}(?:cat)?", None),
        (rf"{BOUND}[a-z]cat", None),
    ],
)
def test_how_matches_begin_is_read_from_the_pattern(pattern: str, lead: Lead | None) -> None:
    assert lead_of(re.compile(pattern)) == lead


@pytest.mark.parametrize(
    ("pattern", "word", "reach"),
    [
        (r"(?P<value>[a-z]{1,64}@[a-z]+)", "@", 64),
        (r"(?P<value>[a-z]{1,64}+@[a-z]+)", "@", 64),
        (r"(?<!x)ab?@", "@", 2),
        (r"a{2}-b{3}@", "@", 6),
        (r"(?:a|b@)c", "@", MAX_CHARACTERS),
        (r"a*@", "@", MAX_CHARACTERS),
        (r"a(?:b{2}[:-]){5}", ":-", 3),
        (r"a(?:b{2}[:-]){0,5}:", ":-", 16),
        (r"a(?:b{2}[:.]){5}", ":-", MAX_CHARACTERS),
    ],
)
def test_how_far_before_its_sign_a_match_begins_is_read_from_the_pattern(pattern: str, word: str, reach: int) -> None:
    assert reach_of(re.compile(pattern), word) == reach


@given(st.lists(st.sampled_from(["ab", "A1", "abab", "b", " ", "-"]), max_size=5).map("".join))
def test_a_match_of_any_of_some_patterns_is_one_of_one_of_them(text: str) -> None:
    some = [re.compile(r"(?P<x>[ab]+)-(?P=x)"), re.compile("A1", re.IGNORECASE), re.compile("(?P<x>b) B")]
    for at in range(len(text) + 1):
        matching = [i for i, pattern in enumerate(some) if pattern.match(text, at)]
        found = any_of(some).match(text, at)
        assert [first_of(found)] == matching[:1] if found else not matching


def test_a_pattern_that_tells_nothing_is_tried_on_every_text() -> None:
    pattern = re.compile(r"[a-z]+")
    assert Screen([pattern], [need_of(pattern)])(["a", "b"]) == {0: {0: 0}, 1: {0: 0}}


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
        (r"[A-Z]{2}[0-9]{2}", Need(digits=2, run=2, token=4, joined=1)),
        (r"[A-Z]{0,2}[0-9]{2}", Need(digits=2, run=2, token=2)),
        (r"[A-Z][ -]?[0-9]{2}", Need(digits=2, run=2, token=2)),
        (r"(?:[A-Z][0-9]|[0-9])x", Need(digits=1, run=1, token=1, exact=("x",))),
        (r"(?=.*@)[a-z]*", Need(exact=("@",))),
        (r"(?=[a-z]*[0-9]{3})[0-9]{2}", Need(digits=3, run=3, token=3)),
        (r"(?!no)yes", Need(exact=("yes",))),
        (r"[0-9a-f]{4}", Need()),
    ],
)
def test_the_condition_is_read_from_the_pattern(pattern: str, need: Need) -> None:
    assert need_of(re.compile(pattern)) == need
