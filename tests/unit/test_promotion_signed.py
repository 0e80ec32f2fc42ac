"""Guards that evidence of another environment is taken only as that environment signed it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.objects import open_objects
from dr_platform.promotion import PromotionEvidence, RefusedPromotionEvidence, generate_key, open_signed, sign
from dr_platform.promotion.signed import (
    FORMAT,
    InvalidKey,
    SuiteResult,
    find,
    signing_key,
    store,
    trust,
    trusted_key,
)
from dr_platform.secrets.embedded import EmbeddedSecretStore

pytestmark = pytest.mark.unit

T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64
KEY, OTHER_KEY = generate_key(), generate_key()
HERE = {"environment": "staging", "release": "3.1", "digest": DIGEST}
EVIDENCE = PromotionEvidence(
    **HERE,
    issued_at=T0,
    verified_at=T0 - timedelta(days=1),
    suites=(SuiteResult("hipaa", True, 41, 0, T0), SuiteResult("ai", None, 0, 0, T0)),
    head_sequence=12,
    head_hash="c" * 64,
)
FILE = sign(EVIDENCE, KEY["private"])
SIGNATURE = json.loads(FILE)["signature"].encode()


def opened(content: bytes, public: str = KEY["public"], **about: str) -> PromotionEvidence:
    where = HERE | about
    return open_signed(content, public, **where)


times = st.datetimes(timezones=st.just(UTC))
suites = st.builds(SuiteResult, st.text(), st.none() | st.booleans(), st.integers(0), st.integers(0), times)
evidences = st.builds(
    PromotionEvidence, st.text(), st.text(), st.text(), times, st.none() | times,
    st.lists(suites, max_size=3).map(tuple), st.integers(0), st.text(),
)  # fmt: skip


@given(evidences)
def test_what_was_signed_is_read_back(evidence: PromotionEvidence) -> None:
    where = {"environment": evidence.environment, "release": evidence.release, "digest": evidence.digest}
    assert open_signed(sign(evidence, KEY["private"]), KEY["public"], **where) == evidence


@given(st.integers(0, len(FILE) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(at: int, difference: int) -> None:
    changed = bytearray(FILE)
    changed[at] ^= difference
    with pytest.raises(RefusedPromotionEvidence):
        opened(bytes(changed))


def test_every_single_byte_is_guarded() -> None:
    for at in range(len(FILE)):
        changed = bytearray(FILE)
        changed[at] ^= 0x01
        with pytest.raises(RefusedPromotionEvidence):
            opened(bytes(changed))


@given(st.integers(0, len(FILE)), st.binary(min_size=1, max_size=4))
def test_added_bytes_are_refused(at: int, added: bytes) -> None:
    with pytest.raises(RefusedPromotionEvidence):
        opened(FILE[:at] + added + FILE[at:])


@given(st.integers(0, len(FILE) - 1))
def test_a_cut_file_is_refused(length: int) -> None:
    with pytest.raises(RefusedPromotionEvidence):
        opened(FILE[:length])


@pytest.mark.parametrize(
    "spelled",
    [
        pytest.param(json.dumps(json.loads(FILE)).encode(), id="other spaces"),
        pytest.param(FILE + b"\n", id="a line's end"),
        pytest.param(b"\xef\xbb\xbf" + FILE, id="a byte order mark"),
        pytest.param(FILE.replace(b"true", b"1"), id="1 for true"),
        pytest.param(FILE.replace(SIGNATURE, SIGNATURE.upper()), id="an upper-case signature"),
        pytest.param(b'{"a":' + FILE[:-1].replace(b"{", b'{"a":1,', 1) + b"}", id="wrapped"),
        pytest.param(FILE.replace(FORMAT.encode(), b"drp-promotion-2"), id="another version's format"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"{}", id="an empty object"),
        pytest.param(b"[" * 100_000, id="nested without end"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff\xfe", id="not text"),
        pytest.param(b'"' + b"x" * 2_000_000 + b'"', id="too large"),
    ],
)  # fmt: skip
def test_only_the_form_that_is_written_is_read(spelled: bytes) -> None:
    with pytest.raises(RefusedPromotionEvidence):
        opened(spelled)


def test_another_key_is_refused_also_when_it_names_itself_as_ours() -> None:
    with pytest.raises(RefusedPromotionEvidence, match="another key"):
        opened(sign(EVIDENCE, OTHER_KEY["private"]))
    forged = json.loads(sign(EVIDENCE, OTHER_KEY["private"])) | {"key": json.loads(FILE)["key"]}
    content = json.dumps(forged, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(RefusedPromotionEvidence, match="signature"):
        opened(content)


@pytest.mark.parametrize(
    ("name", "value"),
    [("environment", "integration"), ("release", "3.2"), ("digest", "sha256:" + "b" * 64)],
)
def test_evidence_about_something_else_is_refused_though_its_signature_is_sound(name: str, value: str) -> None:
    with pytest.raises(RefusedPromotionEvidence, match=f"another {name}"):
        opened(FILE, **{name: value})


def test_a_refusal_quotes_neither_the_file_nor_a_key() -> None:
    with pytest.raises(RefusedPromotionEvidence) as refused:
        opened(FILE.replace(b"hipaa", b"hippo"))
    assert "hippo" not in str(refused.value)
    assert KEY["public"] not in str(refused.value)


# Files and keys


def test_the_newest_file_counts_and_each_refused_one_is_named() -> None:
    objects = open_objects("memory://")
    newer = replace(EVIDENCE, issued_at=T0 + timedelta(hours=1), suites=())
    store(objects, newer, KEY["private"])
    store(objects, EVIDENCE, KEY["private"])
    assert find(objects, KEY["public"], **HERE) == (newer, ())
    forged = store(objects, replace(EVIDENCE, issued_at=T0 + timedelta(hours=2)), OTHER_KEY["private"])
    found, refused = find(objects, KEY["public"], **HERE)
    assert found == newer
    assert [line.split(": ")[0] for line in refused] == [forged]


def test_a_sound_file_laid_into_another_releases_folder_is_refused() -> None:
    objects = open_objects("memory://")
    other = HERE | {"release": "3.2"}
    objects.put(f"promotion/staging/3.2/{DIGEST.replace(':', '-')}/x.json", FILE)
    found, refused = find(objects, KEY["public"], **other)
    assert found is None
    assert "another release" in refused[0]


def test_an_environment_that_handed_nothing_on_is_no_error() -> None:
    assert find(open_objects("memory://"), KEY["public"], **HERE) == (None, ())


def test_a_signing_key_is_made_once_and_its_public_part_can_be_trusted(tmp_path: Path) -> None:
    source, target = EmbeddedSecretStore(tmp_path / "source"), EmbeddedSecretStore(tmp_path / "target")
    assert trusted_key(target, "staging") is None
    key = signing_key(source)
    assert signing_key(source) == key
    trust(target, "staging", key["public"])
    assert trusted_key(target, "staging") == key["public"]
    trust(target, "staging", OTHER_KEY["public"])
    assert trusted_key(target, "staging") == OTHER_KEY["public"]


@pytest.mark.parametrize("text", ["", "abc", "zz" * 32, "aa" * 31, "aa" * 33])
def test_what_is_no_public_key_is_not_trusted(text: str, tmp_path: Path) -> None:
    secrets = EmbeddedSecretStore(tmp_path)
    trust(secrets, "staging", KEY["public"])
    with pytest.raises(InvalidKey):
        trust(secrets, "staging", text)
    assert trusted_key(secrets, "staging") == KEY["public"]
