"""What every ``EvidenceLog`` promises; an adapter's tests inherit this class."""

from __future__ import annotations

import io
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from dr_platform.clock import ManualClock
from dr_platform.evidence import GENESIS, Checkpoint, EvidenceLog, RefusedEvidence, StaleSubject, export, verify_lines

KIND = "deployment.finished"
SUBJECT = "services/example"
ACTOR = "tester@example.org"
BODY = {"version": "1.4.0", "duration_s": 12.25, "replicas": 2, "steps": ["start", "bake"], "text": "grün \x00 \ud83d"}


class EvidenceLogContract:
    """No ``Test`` prefix: it runs only through its adapters, which provide ``log`` and ``clock``."""

    def test_an_empty_log_is_whole(self, log: EvidenceLog) -> None:
        assert log.count() == 0
        assert log.head() == Checkpoint(0, GENESIS)
        assert list(log.entries()) == []
        assert log.verify() is None

    def test_an_entry_is_read_back_as_it_was_appended(self, log: EvidenceLog, clock: ManualClock) -> None:
        clock.sleep(0.123456)
        entry = log.append(KIND, SUBJECT, ACTOR, BODY)
        assert (entry.sequence, entry.kind, entry.subject, entry.actor) == (1, KIND, SUBJECT, ACTOR)
        assert (entry.at, entry.body, entry.previous) == (clock.now(), BODY, GENESIS)
        assert list(log.entries()) == [entry]
        assert log.head() == Checkpoint(1, entry.hash)

    def test_each_entry_names_the_one_before(self, log: EvidenceLog) -> None:
        entries = [log.append(KIND, SUBJECT, ACTOR, {"step": step}) for step in range(5)]
        assert [e.sequence for e in entries] == [1, 2, 3, 4, 5]
        assert all(one.hash == two.previous for one, two in itertools.pairwise(entries))
        assert log.count() == 5
        assert log.verify() is None

    def test_equal_content_has_different_hashes_at_different_places(self, log: EvidenceLog) -> None:
        assert log.append(KIND, SUBJECT, ACTOR, {}).hash != log.append(KIND, SUBJECT, ACTOR, {}).hash

    def test_a_clock_that_goes_back_does_not_break_the_chain(self, log: EvidenceLog, clock: ManualClock) -> None:
        log.append(KIND, SUBJECT, ACTOR, {})
        clock.jump(-timedelta(days=1).total_seconds())
        log.append(KIND, SUBJECT, ACTOR, {})
        assert log.verify() is None

    def test_entries_are_chosen_by_kind_subject_and_place(self, log: EvidenceLog) -> None:
        for subject, kind in itertools.product(("services/a", "services/b"), ("one", "two")):
            log.append(kind, subject, ACTOR, {})
        assert [e.sequence for e in log.entries(kind="two")] == [2, 4]
        assert [e.sequence for e in log.entries(subject="services/b")] == [3, 4]
        assert [e.sequence for e in log.entries(kind="one", subject="services/b")] == [3]
        assert [e.sequence for e in log.entries(after=2)] == [3, 4]
        assert list(log.entries(kind="three")) == []

    def test_appends_at_once_are_put_in_one_row(self, log: EvidenceLog) -> None:
        with ThreadPoolExecutor(8) as pool:
            entries = list(pool.map(lambda n: log.append(KIND, SUBJECT, ACTOR, {"number": n}), range(40)))
        assert sorted(e.sequence for e in entries) == list(range(1, 41))
        assert sorted(e.body["number"] for e in log.entries()) == list(range(40))
        assert log.verify() is None

    def test_an_entry_that_follows_from_earlier_ones_is_refused_when_there_are_later_ones(
        self, log: EvidenceLog
    ) -> None:
        first = log.append(KIND, SUBJECT, ACTOR, {}, read_to=0)
        log.append(KIND, "services/another", ACTOR, {})
        with pytest.raises(StaleSubject):
            log.append(KIND, SUBJECT, ACTOR, {"by": "who read before"}, read_to=0)
        assert log.count() == 2
        log.append(KIND, SUBJECT, ACTOR, {"by": "who read it"}, read_to=first.sequence)
        assert [e.body for e in log.entries(subject=SUBJECT)] == [{}, {"by": "who read it"}]
        assert log.verify() is None

    def test_of_many_who_read_the_same_one_appends(self, log: EvidenceLog) -> None:
        def attempt(number: int) -> bool:
            try:
                log.append(KIND, SUBJECT, ACTOR, {"number": number}, read_to=0)
            except StaleSubject:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(attempt, range(16))) == 1
        assert log.count() == 1

    def test_changing_what_was_handed_in_changes_no_entry(self, log: EvidenceLog) -> None:
        body = {"steps": ["start"]}
        entry = log.append(KIND, SUBJECT, ACTOR, body)
        body["steps"].append("later")
        assert entry.body == {"steps": ["start"]}
        assert log.verify() is None

    def test_verification_goes_on_from_a_checkpoint(self, log: EvidenceLog) -> None:
        for _ in range(3):
            log.append(KIND, SUBJECT, ACTOR, {})
        checkpoint = log.head()
        log.append(KIND, SUBJECT, ACTOR, {})
        assert log.verify(checkpoint) is None
        assert log.verify(Checkpoint(0, GENESIS)) is None

    def test_a_checkpoint_tells_a_cut_log_and_a_rewritten_one(self, log: EvidenceLog) -> None:
        log.append(KIND, SUBJECT, ACTOR, {})
        cut = log.verify(Checkpoint(7, "a" * 64))
        rewritten = log.verify(Checkpoint(1, "a" * 64))
        assert cut is not None
        assert rewritten is not None
        assert (cut.sequence, "missing" in cut.why) == (7, True)
        assert (rewritten.sequence, "checkpoint" in rewritten.why) == (1, True)

    def test_an_exported_log_is_verified_without_the_store(self, log: EvidenceLog) -> None:
        for step in range(4):
            log.append(KIND, SUBJECT, ACTOR, {**BODY, "step": step})
        file = io.StringIO()
        assert export(log.entries(), file) == 4
        lines = file.getvalue().splitlines()
        assert [json.loads(line)["sequence"] for line in lines] == [1, 2, 3, 4]
        assert verify_lines(lines) is None

    @pytest.mark.parametrize(("body", "place"), [
        pytest.param({"note": "SSN 987-65-4321"}, "body.note: looks like PHI (SSN)", id="SSN of no area"),
        pytest.param({"note": "call (312) 555-0142"}, "body.note: looks like PHI (PHONE)", id="phone"),
        pytest.param({"who": ["jane.doe@example.org"]}, "body.who[0]: looks like PHI (EMAIL)", id="e-mail in a list"),
        pytest.param({"a": {"b": "born 03/14/1961"}}, "body.a.b: looks like PHI (BIRTH_DATE)", id="birth date, nested"),
        pytest.param({"mrn": 448213}, "body.mrn: looks like PHI (MRN)", id="a number whose key is the cue"),
        pytest.param({"patient_name": "Ada Quill"}, "body.patient_name: looks like PHI (NAME)", id="name by its key"),
        pytest.param({"jane@example.org": 1}, "body: a key: looks like PHI (EMAIL)", id="in a key"),
        pytest.param({"db_password": "x"}, "body.db_password: named like a secret", id="password by its key"),
        pytest.param({"apiKey": "x"}, "body.apiKey: named like a secret", id="API key"),
        pytest.param({"url": "postgresql://u:hunter2@h/d"}, "body.url: looks like a secret", id="address"),
        pytest.param({"log": "Authorization: Bearer abcdefghijklmnop123"}, "body.log: looks like a secret", id="token"),
        pytest.param({"pem": "-----BEGIN RSA PRIVATE KEY-----"}, "body.pem: looks like a secret", id="private key"),
        pytest.param({"ratio": float("nan")}, "body: not JSON", id="not a number"),
        pytest.param({"when": object()}, "body: not JSON", id="an object of Python"),
        pytest.param({"text": "x" * 70_000}, "body: must be an object of at most 65536 bytes", id="too large"),
    ])  # fmt: skip
    def test_what_may_not_be_kept_is_refused_by_place_and_never_quoted(
        self, log: EvidenceLog, body: dict[str, object], place: str
    ) -> None:
        with pytest.raises(RefusedEvidence) as caught:
            log.append(KIND, SUBJECT, ACTOR, body)
        assert place in str(caught.value)
        for secret in ("987-65", "555-0142", "jane", "1961", "448213", "Quill", "hunter2", "abcdefghij"):
            assert secret not in f"{caught.value} {caught.value!r}"
        assert log.count() == 0

    @pytest.mark.parametrize("body", [
        {"address": "http://127.0.0.1:3000/runs/8f14e45f-ceea-467f-9575-1d1f0a2b4c5d", "listen": "10.1.2.3"},
        {"digest": "sha256:" + "0123456789abcdef" * 4, "image": "envoy@1.40.0", "commit": "9" * 40},
        {"started_at": "2026-11-24T03:20:11.123456+00:00", "at_ms": 1732412345678, "at_ns": 1732412345678901234},
        {"at_s": 1732412345, "size_bytes": 104857600, "pid": 4194304, "port": 8101, "age_s": 95},
        {"password_rotated": True, "token": None, "token_count": 4, "secret_name": "databases/postgres/admin"},
        {"policy": "restart-3", "chart": "platform-1.2.3", "account": "svc1", "group_id": "g-12", "name": "gateway"},
        {"why": "gateway: 3 of 3 replicas ready in the blue slot after 12 s; budget 2 of 3 left"},
    ])  # fmt: skip
    def test_what_describes_the_platform_itself_is_kept(self, log: EvidenceLog, body: dict[str, object]) -> None:
        assert log.append(KIND, SUBJECT, ACTOR, body).body == body

    @pytest.mark.parametrize(("kind", "subject", "actor", "field"), [
        ("Not a kind", SUBJECT, ACTOR, "kind"), ("", SUBJECT, ACTOR, "kind"), (KIND, "", ACTOR, "subject"),
        (KIND, "a\nb", ACTOR, "subject"), (KIND, "mrn 448213", ACTOR, "subject"), (KIND, SUBJECT, " ", "actor"),
    ])  # fmt: skip
    def test_labels_must_be_labels(self, log: EvidenceLog, kind: str, subject: str, actor: str, field: str) -> None:
        with pytest.raises(RefusedEvidence, match=field):
            log.append(kind, subject, actor, {})
        assert log.count() == 0
