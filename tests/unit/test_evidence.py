"""The chain, what may enter it, and its export; no server."""

from __future__ import annotations

import copy
import io
import itertools
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.clock import ManualClock
from dr_platform.evidence import BrokenEntry, MemoryEvidenceLog, RefusedEvidence, export, verify_lines
from dr_platform.identity import ALPHABET
from tests.contracts.evidence import ACTOR, KIND, SUBJECT, EvidenceLogContract

pytestmark = pytest.mark.unit


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def log(clock: ManualClock) -> MemoryEvidenceLog:
    return MemoryEvidenceLog(clock)


class TestMemoryEvidenceLog(EvidenceLogContract):
    pass


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-99, 9999)
    | st.floats(-9, 9, allow_nan=False)
    | st.text("abc äö\0", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcdef"), inner, max_size=3),
    max_leaves=8,
)
BODIES = st.lists(st.dictionaries(st.sampled_from("uvwxyz"), JSON, max_size=4), min_size=1, max_size=6)


def exported(bodies: list[dict[str, object]]) -> list[str]:
    log = MemoryEvidenceLog(ManualClock())
    for body in bodies:
        log.append(KIND, SUBJECT, ACTOR, body)
    file = io.StringIO()
    export(log.entries(), file)
    return file.getvalue().splitlines()


@given(BODIES)
def test_whatever_was_appended_is_exported_and_verified(bodies: list[dict[str, object]]) -> None:
    assert verify_lines(exported(bodies)) is None


def test_another_spelling_of_the_same_entry_is_no_line_of_an_export() -> None:
    (line,) = exported([{"a": 1}])
    others = {line.replace("00T", "00 "), line.replace("T00:", " 00:"), line.replace('":1}', '": 1}'), f" {line}"}
    for other in others - {line}:
        assert verify_lines([other]) == BrokenEntry(1, "cannot be read as an entry")


@given(BODIES, st.data())
def test_one_changed_character_of_an_export_is_noticed_in_its_line(
    bodies: list[dict[str, object]], data: st.DataObject
) -> None:
    lines = exported(bodies)
    number = data.draw(st.integers(0, len(lines) - 1))
    place = data.draw(st.integers(0, len(lines[number]) - 1))
    old = lines[number][place]
    lines[number] = (
        lines[number][:place]
        + data.draw(st.sampled_from("0aé}").filter(lambda c: c != old))
        + lines[number][place + 1 :]
    )
    broken = verify_lines(lines)
    assert broken is not None
    assert broken.sequence in {number + 1, number + 2}


@given(st.lists(st.just({}), min_size=2, max_size=6), st.data())
def test_a_removed_or_moved_line_is_noticed(bodies: list[dict[str, object]], data: st.DataObject) -> None:
    lines = exported(bodies)
    one, two = data.draw(st.lists(st.integers(0, len(lines) - 1), min_size=2, max_size=2, unique=True))
    swapped = copy.copy(lines)
    swapped[one], swapped[two] = swapped[two], swapped[one]
    broken = verify_lines(swapped)
    assert broken is not None
    assert broken.sequence == min(one, two) + 1
    if one < len(lines) - 1:
        broken = verify_lines(lines[:one] + lines[one + 1 :])
        assert broken is not None
        assert broken.sequence == one + 1


@pytest.mark.parametrize("line", ["", "{}", "[]", "null", "{", "[" * 100_000, '{"sequence": 1, "at": 5}'])
def test_a_line_that_is_no_entry_is_named_by_its_number(line: str) -> None:
    broken = verify_lines([*exported([{}]), line])
    assert broken is not None
    assert broken.sequence == 2


def test_all_faults_are_named_at_once(log: MemoryEvidenceLog) -> None:
    with pytest.raises(RefusedEvidence) as caught:
        log.append("Bad Kind", "", ACTOR, {"token": "abc", "note": "ssn 123-45-6789", "fine": 1})
    text = str(caught.value)
    assert all(place in text for place in ("kind:", "subject:", "body.token:", "body.note:"))
    assert "body.fine" not in text


def test_a_body_nested_too_deep_is_refused(log: MemoryEvidenceLog) -> None:
    body: dict[str, object] = {}
    for _ in range(40):
        body = {"a": body}
    with pytest.raises(RefusedEvidence, match="nested deeper"):
        log.append(KIND, SUBJECT, ACTOR, body)


def test_a_refusal_survives_the_way_between_processes() -> None:
    refused = RefusedEvidence("kind", ("body.a: looks like PHI (SSN)",))
    assert str(pickle.loads(pickle.dumps(refused))) == str(refused)  # noqa: S301


@pytest.mark.parametrize(("cue", "tail"), [(2, "123456"), (3, "12345"), (3, "1x983")])
def test_no_name_that_is_made_up_here_is_taken_for_somebody_s(log: MemoryEvidenceLog, cue: int, tail: str) -> None:
    letters = [letter for letter in ALPHABET if letter.isalpha()]
    for word in map("".join, itertools.product(letters, repeat=cue)):
        log.append("incident-opened", f"inc-ro-{word}{tail}-1", ACTOR, {})
    assert log.count() == len(letters) ** cue
