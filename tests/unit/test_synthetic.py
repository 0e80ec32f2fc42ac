"""Guards what synthetic data promises before any database: the same from the same seed, whole, skewed as real
data is, and unmistakably of nobody."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dr_platform.catalog import DataClass, Engine
from dr_platform.clock import ManualClock
from dr_platform.databases.port import Endpoint
from dr_platform.phi import PhiDetector, PhiKind
from dr_platform.reference_service.cipher import FieldCipher, Place, Undecryptable
from dr_platform.secrets.embedded import EmbeddedSecretStore
from dr_platform.synthetic.block import clinician_blocks, clinicians, patients
from dr_platform.synthetic.draws import MARK, Draws, lognormal, zipf
from dr_platform.synthetic.load import load, missing
from dr_platform.synthetic.loading.cql import NODE, message_id
from dr_platform.synthetic.people import Person, people
from dr_platform.synthetic.plan import BLOCK, Existing, NotSynthetic, Plan, WrongPlan, require_synthetic
from dr_platform.synthetic.progress import Held, OtherData, RemovalUnfinished, State, Step, block_id, decide
from dr_platform.synthetic.rows import Block, Message
from dr_platform.synthetic.sealing import Sealer, read_keys
from dr_platform.synthetic.worker import CLINICIANS, PATIENTS, Server, Servers
from tests.embedded_programs import a_database

pytestmark = pytest.mark.unit

PLAN = Plan(seed=20261126, scale=0.5)
seeds = st.integers(min_value=0, max_value=2**63 - 1)


@pytest.fixture(scope="module")
def made() -> list[Block]:
    """All blocks of a plan of 500 patients."""
    return [patients(PLAN, number) for number in range(PLAN.blocks)]


def digest(block: Block) -> str:
    return hashlib.sha256(repr(block).encode()).hexdigest()


def messages(blocks: list[Block]) -> Iterator[Message]:
    return (message for block in blocks for talk in block.conversations for message in talk.messages)


# The same from the same seed


def test_a_block_has_the_bytes_it_had_when_its_format_was_numbered() -> None:
    """Fails when a change makes other rows of the same plan: raise ``plan.FORMAT`` with it."""
    assert (PLAN.format, digest(patients(PLAN, 0))[:16]) == (1, "badce6c9545ea7a2")


@settings(max_examples=8)
@given(seed=seeds, block=st.integers(min_value=0, max_value=1_000))
def test_a_block_is_the_same_however_it_is_come_by(seed: int, block: int) -> None:
    plan = Plan(seed, scale=1_000)
    alone = digest(patients(plan, block))
    patients(plan, block + 1)
    assert digest(patients(plan, block)) == alone
    assert digest(patients(Plan(seed ^ 1, scale=1_000), block)) != alone


@given(seed=seeds, start=st.integers(0, 2**60), count=st.integers(1, 50), cut=st.data())
def test_a_range_of_rows_is_drawn_as_within_the_whole(seed: int, start: int, count: int, cut: st.DataObject) -> None:
    rows = np.arange(start, start + count, dtype=np.uint64)
    at = cut.draw(st.integers(0, count))
    draws = Draws(seed)
    whole = draws.bits("a stream", rows)
    parts = np.concatenate([draws.bits("a stream", rows[at:]), draws.bits("a stream", rows[:at])])
    assert sorted(whole.tolist()) == sorted(parts.tolist())
    assert whole[at:].tolist() == draws.bits("a stream", rows[at:]).tolist()
    assert draws.uuids("ids", rows)[at:] == draws.uuids("ids", rows[at:])


@given(seed=seeds)
@settings(max_examples=10)
def test_draws_are_spread_evenly_and_streams_have_nothing_to_do_with_each_other(seed: int) -> None:
    rows, draws = np.arange(20_000, dtype=np.uint64), Draws(seed)
    counts = np.bincount(draws.picks("one", rows, 10), minlength=10)
    assert len(counts) == 10
    assert np.all(np.abs(counts - 2_000) < 6 * 45)  # six standard deviations
    together = np.corrcoef(draws.picks("one", rows, 1_000), draws.picks("two", rows, 1_000))[0, 1]
    assert abs(together) < 0.05


def test_people_are_the_same_one_by_one_and_together() -> None:
    draws = Draws(5)
    together = people(draws, "patient", range(20, 40), PLAN.until)
    assert together == [people(draws, "patient", [number], PLAN.until)[0] for number in range(20, 40)]


# Whole


def test_everything_refers_to_what_is_there(made: list[Block]) -> None:
    staff = {
        account.person.id for number in range(clinician_blocks(PLAN)) for account in clinicians(PLAN, number).accounts
    }
    assert len(staff) == PLAN.clinicians
    for block in made:
        own = {account.person.id for account in block.accounts if account.kind == "patient"}
        anybody = {account.person.id for account in block.accounts} | staff
        talks, sessions = {talk.id for talk in block.conversations}, {session.id for session in block.sessions}
        outputs, transcripts = {o.request for o in block.outputs}, {t.id for t in block.transcripts}
        assert {row.account for row in (*block.sessions, *block.consents, *block.subscriptions, *block.usage)} <= own
        assert {talk.account for talk in block.conversations} == own
        assert {row.patient for row in (*block.relationships, *block.emergencies, *block.care_plans)} <= own
        assert {row.other for row in block.relationships} <= anybody
        assert {row.requester for row in block.emergencies} | {row.author for row in block.care_plans} <= staff
        assert {row.reviewer for row in block.emergencies} - {None} <= staff
        assert {note.clinician for note in block.notes} <= staff
        assert {note.patient for note in block.notes} <= own
        assert {output.conversation for output in block.outputs} <= talks
        assert {row.session for row in block.transcripts} <= sessions
        assert {row.source for row in block.entities} == transcripts
        assert {row.output for row in block.feedback} <= outputs
        assert {event.actor for event in block.audit} <= own | staff
        assert {event.resource for event in block.audit} - {""} <= {f"conversation/{talk}" for talk in talks}


def test_no_identifier_is_given_twice(made: list[Block]) -> None:
    blocks = [*made, *(clinicians(PLAN, number) for number in range(clinician_blocks(PLAN)))]
    kinds = ("sessions", "consents", "relationships", "subscriptions", "profiles", "conversations", "care_plans")
    for kind in (*kinds, "notes", "transcripts", "entities", "feedback", "emergencies"):
        ids = [row.id for block in blocks for row in getattr(block, kind)]
        assert len(set(ids)) == len(ids), kind
    accounts = [account.person for block in blocks for account in block.accounts]
    for values in ([p.id for p in accounts], [p.email for p in accounts], [p.mrn for p in accounts]):
        assert len(set(values)) == len(values)
    tokens = [session.token_hash for block in blocks for session in block.sessions]
    assert len(set(tokens)) == len(tokens)
    for talk in (talk for block in blocks for talk in block.conversations):
        assert len({message_id(message) for message in talk.messages}) == len(talk.messages)


def test_rows_hold_to_the_rules_of_their_tables(made: list[Block]) -> None:
    for block in made:
        in_force = Counter((c.account, c.purpose) for c in block.consents if c.withdrawn_ms is None)
        assert max(in_force.values()) == 1
        assert all(c.withdrawn_ms is None or c.withdrawn_ms >= c.granted_ms for c in block.consents)
        assert max(Counter(s.account for s in block.subscriptions if s.ended_ms is None).values()) == 1
        assert all(s.expires_ms > s.created_ms and len(s.token_hash) == 32 for s in block.sessions)
        assert all(e.granted_ms < e.expires_ms <= e.granted_ms + 86_400_000 for e in block.emergencies)
        assert all(e.reviewer != e.requester for e in block.emergencies)
        assert all(r.patient != r.other for r in block.relationships)
        revisions = [(plan.patient, plan.revision) for plan in block.care_plans]
        assert len(set(revisions)) == len(revisions)
        assert all(u.units > 0 for u in block.usage)
        joined = {account.person.id: account.created_ms for account in block.accounts}
        for talk in block.conversations:
            times = [message.at_ms for message in talk.messages]
            assert joined[talk.account] < talk.started_ms <= times[0]
            assert times == sorted(times)


def test_of_an_account_one_session_is_open_and_that_is_its_newest(made: list[Block]) -> None:
    for block in made:
        newest: dict[str, int] = {}
        for session in block.sessions:
            newest[session.account] = max(newest.get(session.account, 0), session.created_ms)
        opened = [session for session in block.sessions if session.open]
        assert opened
        assert all(s.created_ms == newest[s.account] and s.revoked_ms is None for s in opened)
        assert len({s.account for s in opened}) == len(opened)


# Skewed as real data is


def test_a_few_patients_have_most_of_the_conversations_and_most_have_a_few(made: list[Block]) -> None:
    counts = sorted(Counter(t.account for b in made for t in b.conversations).values(), reverse=True)
    assert sum(counts[: len(counts) // 10]) > 0.35 * sum(counts)
    assert 3 <= counts[len(counts) // 2] <= 5
    assert counts[0] >= 40
    assert counts[-1] == 1


def test_people_write_in_the_evening_and_sleep_at_night(made: list[Block]) -> None:
    hours = Counter(talk.started_ms // 3_600_000 % 24 for block in made for talk in block.conversations)
    assert hours[20] + hours[21] + hours[22] > 8 * (hours[2] + hours[3] + hours[4])


def test_lengths_of_messages_have_a_long_tail(made: list[Block]) -> None:
    lengths = sorted(len(message.text) for message in messages(made))
    median, ninety_nine = lengths[len(lengths) // 2], lengths[len(lengths) * 99 // 100]
    assert ninety_nine > 4 * median
    assert lengths[-1] > 10 * median
    assert lengths[-1] <= 20_000  # what a service takes


def test_a_few_clinicians_treat_most_patients(made: list[Block]) -> None:
    treated = Counter(r.other for b in made for r in b.relationships if r.kind == "clinician" and r.ended_ms is None)
    shares = sorted(treated.values(), reverse=True)
    assert shares[0] > 3 * (sum(shares) / PLAN.clinicians)


@given(median=st.floats(1, 50), sigma=st.floats(0.1, 1.5))
@settings(max_examples=5)
def test_a_table_of_quantiles_rises_within_its_bounds_and_has_its_median(median: float, sigma: float) -> None:
    table = lognormal(median, sigma, 1, 500)
    assert np.all(np.diff(table) >= 0)
    assert table[0] >= 1
    assert table[-1] <= 500
    assert abs(int(table[len(table) // 2]) - median) <= 1


def test_the_first_of_a_zipf_distribution_is_chosen_twice_as_often_as_the_second() -> None:
    chosen = Draws(1).weighted("rank", np.arange(50_000, dtype=np.uint64), zipf(100))
    counts = np.bincount(chosen, minlength=100)
    assert 1.8 < counts[0] / counts[1] < 2.2
    assert counts.min() > 0


# Unmistakably of nobody, and still a task for masking


def everybody(made: list[Block]) -> Iterator[Person]:
    return (account.person for block in made for account in block.accounts)


def test_nobody_can_be_reached_and_no_number_can_be_anybodys(made: list[Block]) -> None:
    for person in everybody(made):
        assert person.email.endswith("@example.invalid")
        assert re.fullmatch(r"\(\d{3}\) 555-01\d\d", person.phone)
        assert re.fullmatch(r"9\d\d-00-\d{4}", person.ssn)
        assert person.mrn.startswith("SYN-")
        assert re.fullmatch(
            rf"{MARK}[0-9a-f]{{4}}-[0-9a-f]{{4}}-8[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}-[0-9a-f]{{12}}", person.id
        )
        assert 18 <= (PLAN.until - person.born).days / 365.25 <= 101


def test_no_other_mail_address_or_phone_number_stands_in_any_text(made: list[Block]) -> None:
    for message in messages(made):
        assert all(domain == "example.invalid" for domain in re.findall(r"@([\w.-]+\w)", message.text))
        assert all(
            found.startswith("555-01")
            for found in re.findall(r"\d{3}-\d{4}\b", re.sub(r"9\d\d-00-", "", message.text))
            if found[0] == "5"
        )


def test_texts_hold_identifiers_of_every_kind_that_masking_must_find(made: list[Block]) -> None:
    detector = PhiDetector()
    texts = [m.text for m in messages(made[:1])] + [note.note for note in made[0].notes]
    found = {span.kind for text in texts for span in detector.detect(text)}
    wanted = (PhiKind.NAME, PhiKind.ADDRESS, PhiKind.ZIP, PhiKind.BIRTH_DATE, PhiKind.DATE, PhiKind.PHONE)
    assert found >= {*wanted, PhiKind.EMAIL, PhiKind.SSN, PhiKind.MRN}


def test_most_texts_name_nobody(made: list[Block]) -> None:
    names = {person.given for person in everybody(made)} | {person.family for person in everybody(made)}
    texts = [message.text for message in messages(made)]
    naming = sum(any(name in text for name in names) for text in texts[:3_000])
    assert 30 < naming < 600


def test_names_also_stand_in_json_within_texts_and_in_base64(made: list[Block]) -> None:
    as_json = [t for m in messages(made) for t in re.findall(r"\{\"form\".*\}\}", m.text)]
    encoded = [t for m in messages(made) for t in re.findall(r"[A-Za-z0-9+/]{200,}=*", m.text)]
    known = {person.name for person in everybody(made)}
    assert as_json
    assert encoded
    for text in (*as_json, *(base64.b64decode(each).decode() for each in encoded)):
        assert json.loads(text)["patient"]["name"] in known
    body = json.loads(made[0].care_plans[0].body)
    assert json.loads(base64.b64decode(body["attachment"]))["patient"] == body["patient"]


def test_message_identifiers_are_times_and_recognised_by_their_node() -> None:
    first, second = (
        Message(1_790_000_000_123, 2**37, "patient", "", "", ""),
        Message(1_790_000_000_124, 0, "", "", "", ""),
    )
    one, two = message_id(first), message_id(second)
    assert (one.version, one.variant, one.node >> 24) == (1, "specified in RFC 4122", NODE)
    assert two.time - one.time == 10_000
    assert (one.time - 0x01B21DD213814000) // 10_000 == first.at_ms


# Encryption


@pytest.fixture
def secrets(tmp_path: Path) -> EmbeddedSecretStore:
    return EmbeddedSecretStore(tmp_path / "secrets")


def test_services_open_what_was_sealed_where_it_belongs_and_nowhere_else(secrets: EmbeddedSecretStore) -> None:
    clock = ManualClock()
    cipher = FieldCipher(secrets, clock)
    sealer = Sealer(read_keys(secrets, clock))
    sealed = sealer.seal("some text", "care_plans", "body", "row-1")
    assert cipher.decrypt(sealed, Place("care_plans", "body", "row-1")) == "some text"
    with pytest.raises(Undecryptable):
        cipher.decrypt(sealed, Place("care_plans", "body", "row-2"))
    assert sealer.index("A@example.invalid", "account") == cipher.blind_index(" a@EXAMPLE.invalid", "account")


def test_a_field_is_sealed_to_the_same_bytes_each_time_and_no_nonce_serves_two_texts(
    secrets: EmbeddedSecretStore,
) -> None:
    keys = read_keys(secrets, ManualClock())
    one, other = Sealer(keys), Sealer(keys)
    cells = [(text, row) for text in ("a", "b", "ab", "") for row in ("1", "2", "1a")]
    sealed = [one.seal(text, "t", "f", row) for text, row in cells]
    assert sealed == [other.seal(text, "t", "f", row) for text, row in cells]
    assert len({each[5:17] for each in sealed}) == len(cells)


def test_keys_are_not_shown(secrets: EmbeddedSecretStore) -> None:
    keys = read_keys(secrets, ManualClock())
    assert keys.key.hex() not in repr(keys)
    assert repr(keys) == f"Keys(version={keys.version})"


# What is loaded, and what is refused


HELD = Held(PLAN, State.LOADED, {})
OTHER = Plan(PLAN.seed + 1, PLAN.scale)


@pytest.mark.parametrize(
    ("held", "wanted", "existing", "expected"),
    [
        pytest.param(None, PLAN, Existing.KEPT, Step.LOAD, id="nothing there"),
        pytest.param(HELD, PLAN, Existing.KEPT, Step.NOTHING, id="the same, finished"),
        pytest.param(Held(PLAN, State.LOADING, {}), PLAN, Existing.KEPT, Step.LOAD, id="the same, stopped"),
        pytest.param(HELD, OTHER, Existing.KEPT, OtherData, id="another seed"),
        pytest.param(HELD, Plan(PLAN.seed, 2.0), Existing.KEPT, OtherData, id="another scale"),
        pytest.param(HELD, Plan(PLAN.seed, PLAN.scale, date(2026, 1, 1)), Existing.KEPT, OtherData, id="another day"),
        pytest.param(Held(OTHER, State.LOADING, {}), PLAN, Existing.KEPT, OtherData, id="another, stopped"),
        pytest.param(Held(PLAN, State.REMOVING, {}), PLAN, Existing.KEPT, RemovalUnfinished, id="half removed"),
        pytest.param(HELD, OTHER, Existing.REPLACED, Step.REMOVE_THEN_LOAD, id="another, replaced"),
        pytest.param(HELD, PLAN, Existing.REPLACED, Step.REMOVE_THEN_LOAD, id="the same, replaced"),
        pytest.param(Held(PLAN, State.REMOVING, {}), PLAN, Existing.REPLACED, Step.REMOVE_THEN_LOAD, id="goes on"),
        pytest.param(None, PLAN, Existing.REPLACED, Step.LOAD, id="nothing to replace"),
    ],
)
def test_decide(held: Held | None, wanted: Plan, existing: Existing, expected: Step | type[Exception]) -> None:
    if isinstance(expected, Step):
        assert decide(held, wanted, existing) is expected
    else:
        with pytest.raises(expected):
            decide(held, wanted, existing)


@pytest.mark.parametrize("data_class", [each for each in DataClass if each is not DataClass.SYNTHETIC])
def test_no_invented_person_comes_among_real_or_masked_ones_and_nothing_is_connected_to(
    data_class: DataClass, secrets: EmbeddedSecretStore
) -> None:
    nowhere = Server(a_database(Engine.POSTGRESQL), Endpoint("127.0.0.1", 1, "nowhere"))
    with pytest.raises(NotSynthetic, match=data_class.value):
        load(PLAN, Servers(nowhere, (), secrets), "production", data_class, ManualClock())
    assert secrets.names() == ()


def test_synthetic_data_is_admitted_where_it_belongs() -> None:
    require_synthetic("local", DataClass.SYNTHETIC)


@given(seed=seeds, scale=st.floats(0.001, 10_000), until=st.dates(date(2000, 1, 1), date(2100, 1, 1)))
def test_a_plan_reads_back_as_it_was_written_and_its_blocks_hold_every_patient_once(
    seed: int, scale: float, until: date
) -> None:
    plan = Plan(seed, scale, until)
    assert Plan.parse(plan.text) == plan
    assert plan.rows_of(0).start == 0
    assert plan.rows_of(plan.blocks - 1).stop == plan.patients
    assert 1 <= len(plan.rows_of(plan.blocks - 1)) <= BLOCK
    assert plan.clinicians >= 4


@pytest.mark.parametrize(("seed", "scale"), [(-1, 1.0), (2**63, 1.0), (1, 0.0), (1, -1.0), (1, 1e9), (1, float("nan"))])
def test_a_plan_that_cannot_be_is_refused(seed: int, scale: float) -> None:
    with pytest.raises(WrongPlan):
        Plan(seed, scale)


def test_what_is_recorded_is_asked_about_in_bounded_portions() -> None:
    asked: list[int] = []

    def nothing(ids: Sequence[UUID]) -> frozenset[UUID]:
        asked.append(len(ids))
        return frozenset()

    plan = Plan(1, 40)
    assert [errand.block for errand in missing(plan, PATIENTS, ("a", "b"), nothing)] == list(range(plan.blocks))
    assert max(asked) == 500
    assert sum(asked) == 2 * plan.blocks


def test_only_what_is_not_recorded_is_left_to_do() -> None:
    plan, names = Plan(1, 0.15), ("postgres", "redis")
    done = frozenset({block_id(plan, "postgres", PATIENTS, 0), block_id(plan, "redis", PATIENTS, 0)})
    done |= {block_id(plan, "redis", PATIENTS, 1)}
    left = [(errand.block, errand.databases) for errand in missing(plan, PATIENTS, names, done.intersection)]
    assert left == [(1, ("postgres",)), (2, names)]
    assert [errand.block for errand in missing(plan, CLINICIANS, names, done.intersection)] == [0]
    # A record of another plan says nothing about this one.
    assert len(list(missing(Plan(2, 0.15), PATIENTS, names, done.intersection))) == 3
