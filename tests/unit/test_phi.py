"""What is found, what is replaced, and in how much time. The figures stand in docs/phi-detection.md."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dr_platform.phi import MAX_CHARACTERS, PhiDetector, PhiKind, TextTooLong, redact
from tests.phi_corpus import HARMLESS, measure, samples, table

pytestmark = pytest.mark.unit

DETECTOR = PhiDetector()
DOCUMENT = Path(__file__).parents[2] / "docs" / "phi-detection.md"


def found(text: str) -> list[tuple[str, str]]:
    return [(text[s.start : s.end], s.kind) for s in DETECTOR.detect(text)]


@pytest.mark.parametrize(("text", "value", "kind"), [
    ("SSN 123-45-6789", "123-45-6789", "SSN"),
    ("an area that is not given out: 987-65-4321", "987-65-4321", "SSN"),
    ("one that was printed on sample cards: 078-05-1120", "078-05-1120", "SSN"),
    ("typed with spaces 123 45 6789.", "123 45 6789", "SSN"),
    ("nine digits alone 123456789 in a text", "123456789", "SSN"),
    ("social security number: xxx-xx-6789", "xxx-xx-6789", "SSN"),
    ("(312) 555-0142", "(312) 555-0142", "PHONE"),
    ("312.555.0142 ext. 12", "312.555.0142 ext. 12", "PHONE"),
    ("reach me on +49 30 1234567", "+49 30 1234567", "PHONE"),
    ("Fax: 312-555-0142", "312-555-0142", "FAX"),
    ("jane.o'neil+x@clinic.example.org,", "jane.o'neil+x@clinic.example.org", "EMAIL"),
    ("jane at example dot org", "jane at example dot org", "EMAIL"),
    ("MRN: A-1002934", "A-1002934", "MRN"),
    ("Medical record no. 448 213 7", "448 213 7", "MRN"),
    ("DOB 3/14/61", "3/14/61", "BIRTH_DATE"),
    ("born on the farm; seen March 14th, 2024", "March 14th, 2024", "DATE"),
    ("2024-03-14T10:00:00Z", "2024-03-14", "DATE"),
    ("a 93-year-old man", "93", "AGE"),
    ("Member ID XKJ123456789", "XKJ123456789", "HEALTH_PLAN"),
    ("1EG4-TE5-MK73", "1EG4-TE5-MK73", "HEALTH_PLAN"),
    ("account number 00123456789", "00123456789", "ACCOUNT"),
    ("GB82 WEST 1234 5698 7654 32", "GB82 WEST 1234 5698 7654 32", "ACCOUNT"),
    ("4111-1111-1111-1111", "4111-1111-1111-1111", "CARD"),
    ("a wrong checksum 4111 1111 1111 1112", "4111 1111 1111 1112", "CARD"),
    ("driver's license D123-4567-8901", "D123-4567-8901", "LICENSE"),
    ("NPI 1234567893", "1234567893", "LICENSE"),
    ("VIN 1HGCM82633A004352", "1HGCM82633A004352", "VEHICLE"),
    ("license plate 7ABC123", "7ABC123", "VEHICLE"),
    ("pacemaker serial PMX-004213", "PMX-004213", "DEVICE"),
    ("3c:22:fb:01:9a:7e", "3c:22:fb:01:9a:7e", "DEVICE"),
    ("https://portal.example.org/p/12?tab=2.", "https://portal.example.org/p/12?tab=2", "URL"),
    ("from 203.0.113.9 at", "203.0.113.9", "IP"),
    ("from 2001:db8::1f at", "2001:db8::1f", "IP"),
    ("encounter number ENC004213", "ENC004213", "OTHER_ID"),
    ("12 Elm Street, Apt 4", "12 Elm Street, Apt 4", "ADDRESS"),
    ("P.O. Box 1234", "P.O. Box 1234", "ADDRESS"),
    ("Coldwater, OH 45828-1234", "Coldwater", "PLACE"),
    ("zip 45828", "45828", "ZIP"),
    ("Mr. O'Shaughnessy called", "O'Shaughnessy", "NAME"),
    ("my name is søren", "søren", "NAME"),
    ("Patient: Zofia van der Lindqvist-Quill", "Zofia van der Lindqvist-Quill", "NAME"),
])  # fmt: skip
def test_an_identifier_is_found_with_its_kind(text: str, value: str, kind: str) -> None:
    assert (value, kind) in found(text)


@pytest.mark.parametrize("text", [
    *HARMLESS, "", " ", "\n\0\ud800", "127.0.0.1:8101", "::1", "0.0.0.0:80", "12:30:45", "std::string", "envoy@1.40.0",
    "sha256:" + "0123456789abcdef" * 4, "8f14e45f-ceea-467f-9575-1d1f0a2b4c5d", "aged 45", "A 12-year-old child",
])  # fmt: skip
def test_what_identifies_nobody_is_left_alone(text: str) -> None:
    assert found(text) == []
    assert redact(text) == text


@pytest.mark.parametrize("text", ["Maria called from Rockford", "Ask Hamza about it", "the clinic in Bramwell"])
def test_a_name_or_place_that_no_word_announces_is_not_found(text: str) -> None:
    """Not wanted, but promised in the docstring: whoever makes this fail also changes what it says."""
    assert found(text) == []


@pytest.mark.parametrize(("wrong", "right"), [
    ("4111 1111 1111 1112", "4111 1111 1111 1111"), ("987-65-4321", "123-45-6789"),
    ("GB83 WEST 1234 5698 7654 32", "GB82 WEST 1234 5698 7654 32"), ("1HGCM82643A004352", "1HGCM82633A004352"),
    ("NPI 1234567890", "NPI 1234567893"), ("AB1234567", "AB1234563"),
])  # fmt: skip
def test_a_checksum_raises_confidence_and_hides_nothing(wrong: str, right: str) -> None:
    (unsure,), (sure,) = DETECTOR.detect(wrong), DETECTOR.detect(right)
    assert unsure.kind == sure.kind
    assert 0 < unsure.confidence < sure.confidence


def test_overlapping_findings_become_one_span_of_the_surest_kind() -> None:
    text = "see https://10.1.2.3/jane@example.org/123-45-6789"
    assert found(text) == [(text[4:], "EMAIL")]


def test_kinds_cover_every_class_that_a_pattern_can_find() -> None:
    assert {kind.letter for kind in PhiKind} == set("ABCDEFGHIJKLMNOR")


def test_redaction_keeps_the_words_around() -> None:
    text = "Mr. Quill (DOB 03/14/1961, SSN 987-65-4321) asked for a call at (312) 555-0142."
    assert redact(text) == "Mr. [NAME] (DOB [BIRTH_DATE], SSN [SSN]) asked for a call at [PHONE]."


FRAGMENTS = st.sampled_from(sorted({s.text for s in samples(rounds=1)} | {
    "[NAME]", "[", "]", "MRN ", "my name is ", "call me at ", "http://", "www.", "@", "1.", "-", ":", " ", "\n", "12",
    "Mr ", "é", "DOB ", "\N{ARABIC-INDIC DIGIT FIVE}", "[SSN] 123-45-6789 [", "fax", "ZIP", "A", "x" * 30,
}))  # fmt: skip
TEXTS = st.lists(FRAGMENTS | st.text(max_size=12), max_size=8).map("".join) | st.text("01-.:/@ [A]ax", max_size=60)


@settings(max_examples=300)
@given(TEXTS)
@example("1.2.3.4.5.6.7.8 123-45-6789-1234")
def test_redaction_leaves_nothing_to_find_and_a_second_one_changes_nothing(text: str) -> None:
    once = redact(text)
    assert DETECTOR.detect(once) == ()
    assert redact(once) == once


@settings(max_examples=300)
@given(TEXTS)
def test_spans_are_in_order_disjoint_and_within_the_text(text: str) -> None:
    end = 0
    for span in DETECTOR.detect(text):
        assert end <= span.start < span.end <= len(text)
        assert 0 < span.confidence <= 1
        end = span.end


@settings(max_examples=100)
@given(st.sampled_from(list(samples(rounds=1))), st.text("abc ,.;\n", max_size=10))
def test_what_was_found_in_a_text_is_still_hidden_when_more_text_follows(sample: object, tail: str) -> None:
    text = sample.text  # type: ignore[attr-defined]
    longer = DETECTOR.detect(f"{text}\n{tail}")
    for span in DETECTOR.detect(text):
        assert any(s.start <= span.start and span.end <= s.end for s in longer)


def test_a_text_beyond_the_limit_is_refused_and_not_half_examined() -> None:
    with pytest.raises(TextTooLong):
        DETECTOR.detect(" " * (MAX_CHARACTERS + 1))


HOSTILE = (
    "a", "1", "1-", "A ", " ", "http://", "my name is ", "1.", ":", "Aa ", "mrn ", "a@", "[", "(", "+1", "Mr. A. ",
    "dob 1/", "'", "A.B.", "0 A ", "é", "call me at ", "account # ", "a.", "-", "x at ", "1 a a ", "GB82 WEST ",
)  # fmt: skip


@pytest.mark.parametrize("unit", HOSTILE)
def test_time_grows_no_faster_than_the_text(unit: str) -> None:
    """A pattern that backtracks would need 64 or more times as long for eight times the text."""

    def seconds(length: int) -> float:
        text = (unit * length)[:length]
        started = time.process_time()
        DETECTOR.detect(text)
        return time.process_time() - started

    short = min(seconds(4_000) for _ in range(3))
    long = min(seconds(32_000) for _ in range(2))
    assert long < 30 * max(short, 0.002)


def test_the_documented_figures_are_those_that_are_measured() -> None:
    assert table(measure(DETECTOR)) in DOCUMENT.read_text(encoding="utf-8"), "run `python -m tests.phi_corpus`"


def test_no_kind_that_its_shape_betrays_falls_below_its_promised_recall() -> None:
    scores = measure(DETECTOR)
    announced_only = {PhiKind.NAME: 0.7, PhiKind.PLACE: 0.7, PhiKind.MRN: 0.8}
    for kind, score in scores.items():
        assert score.labelled >= 40, kind
        assert score.recall >= announced_only.get(kind, 0.98), kind
        assert score.precision >= 0.85, kind
