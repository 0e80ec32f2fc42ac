"""Guards what masked values are: nobody's, always the same under one key, and in the form they had."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import multiprocessing
import tempfile
import uuid
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.catalog import CatalogError, load_catalog
from dr_platform.masking.anonymity import to_suppress
from dr_platform.masking.by_table import is_whole
from dr_platform.masking.canaries import Canaries, search
from dr_platform.masking.classification import (
    Column,
    Holds,
    Table,
    Unclassified,
    read_classifications,
    unclassified,
)
from dr_platform.masking.geography import SMALL_ZIP3, zip3
from dr_platform.masking.people import Roster, RosterFile, derived_key
from dr_platform.masking.postgresql import (
    ColumnFacts,
    SchemaFacts,
    _write,
    lossy_unique,
    masked_lines,
    plan_table,
    ranges,
)
from dr_platform.masking.recipe import Profile, Recipe
from dr_platform.masking.rows import REMOVED_TEXT, RowMasker, _Shape, leaf_paths
from dr_platform.masking.seals import KeyRing, place_of
from dr_platform.masking.text import DATA, NOBODY, Crowd, Known, Person, TextMasker
from dr_platform.masking.values import (
    OLDEST,
    PREFIXES,
    Moment,
    masked_birth_date,
    masked_date,
    masked_key,
    masked_plain,
    shift_of,
    time_of,
    token_timeuuid,
    token_uuid,
)
from dr_platform.reference_service.cipher import Place, make_key
from tests.catalogs import SHIPPED

pytestmark = pytest.mark.unit

TODAY = date(2026, 11, 26)
EXPERT = Recipe(Profile.EXPERT_DETERMINATION, b"k" * 32, TODAY)
SAFE = Recipe(Profile.SAFE_HARBOR, b"k" * 32, TODAY)
OTHER = Recipe(Profile.EXPERT_DETERMINATION, b"o" * 32, TODAY)
MOMENTS = st.datetimes(datetime(1910, 1, 1), datetime(2026, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
MASKER = TextMasker()
QUENTIN = Person.known_by(
    "p1",
    (
        (Holds.NAME, "Quentin Grønlund"),
        (Holds.EMAIL, "quentin@home.example"),
        (Holds.PHONE, "617-555-2368"),
        (Holds.MRN, "A-00417223"),
        (Holds.ADDRESS, "12 Birchwood Lane"),
    ),
)
SHORT = Person.known_by("p2", ((Holds.NAME, "A"),))


# Keys and tokens


def test_pads_give_the_same_digest_as_hmac() -> None:
    inner, outer = EXPERT.pads("account")
    by_pads = hashlib.sha256(outer + hashlib.sha256(inner + b"value").digest()).digest()
    assert by_pads == EXPERT.digest("account", "value")


@given(st.uuids())
def test_a_key_is_one_key_as_uuid_as_text_and_behind_its_kind(key: uuid.UUID) -> None:
    if key.version == 1:
        return
    masked = masked_key(EXPERT, "account", key)
    assert masked == token_uuid(EXPERT.digest("account", str(key)))
    assert masked_key(EXPERT, "account", str(key).upper()) == str(masked)
    assert masked_key(EXPERT, "account", f"user:{key}") == f"user:{masked}"
    assert masked not in {key, masked_key(OTHER, "account", key), masked_key(EXPERT, "conversation", key)}


@given(st.text(max_size=60), st.integers(0, 2**62))
def test_other_keys_show_nothing_of_what_they_were(text: str, number: int) -> None:
    masked = masked_key(EXPERT, "request", text)
    assert masked == masked_key(EXPERT, "request", text)
    assert masked.startswith("t-")
    assert len(masked) == 34
    assert 0 <= masked_key(EXPERT, "row", number) < 2**62


@given(MOMENTS, st.binary(min_size=32, max_size=32))
def test_a_time_based_uuid_moves_with_its_person_and_stays_one(at: datetime, digest: bytes) -> None:
    own = token_timeuuid(digest, at)
    assert own.version == 1
    assert time_of(own) == at
    masked = masked_key(EXPERT, "message", own, Moment(shift_days=-30))
    assert masked.version == 1
    assert time_of(masked) == at - timedelta(days=30)
    assert time_of(masked_key(SAFE, "message", own)) == at.replace(
        month=1, day=1, hour=0, minute=0, second=0, microsecond=0
    )


# Dates and ages


@given(st.text(min_size=1, max_size=40), MOMENTS, MOMENTS)
def test_intervals_of_one_person_are_kept_and_no_date_stays(person: str, first: datetime, second: datetime) -> None:
    moment = Moment(shift_of(EXPERT, person))
    assert 1 <= abs(moment.shift_days) <= 364
    moved = [masked_date(EXPERT, at, moment) for at in (first, second)]
    assert moved[1] - moved[0] == second - first
    assert moved[0] != first


@given(MOMENTS)
def test_safe_harbor_keeps_the_year_alone(at: datetime) -> None:
    masked = masked_date(SAFE, at, Moment())
    assert (masked.year, masked.month, masked.day, masked.hour, masked.microsecond) == (at.year, 1, 1, 0, 0)
    later = at + timedelta(hours=5)
    assert masked_date(SAFE, later, Moment(base=at)) - masked == timedelta(hours=5)


@given(st.dates(date(1900, 1, 1), TODAY), st.sampled_from([EXPERT, SAFE]), st.integers(-364, 364))
def test_nobody_is_seen_to_be_over_89(born: date, recipe: Recipe, shift: int) -> None:
    masked = masked_birth_date(recipe, born, Moment(shift or 1))
    assert masked.year >= TODAY.year - OLDEST
    if born.year <= TODAY.year - OLDEST:
        assert masked == date(TODAY.year - OLDEST, 1, 1)


def test_zip_prefixes_of_small_areas_are_not_told() -> None:
    assert len(SMALL_ZIP3) == 17
    assert [zip3(code) for code in ("02139-4307", "03601", "1", "abcde", " 94110 ")] == [
        "021",
        "000",
        "000",
        "000",
        "941",
    ]


@pytest.mark.parametrize("holds", sorted(set(PREFIXES) | {Holds.EMAIL, Holds.URL, Holds.NAME, Holds.PHONE}))
def test_identifiers_get_a_form_that_nobodys_identifier_has(holds: Holds) -> None:
    value = "Zoë.Ibarra@home.example 617-555-2368"
    masked = masked_plain(EXPERT, holds, value)
    assert masked == masked_plain(EXPERT, holds, f" {value.upper()} ".replace("Ë", "ë"))
    assert masked is not None
    assert not any(part in masked.lower() for part in ("zo", "ibarra", "617", "2368"))


def test_numbers_of_telephones_keep_their_form() -> None:
    forms = ("617-555-2368", "+16175552368", "6175552368", "(617) 555-2368")
    for form in forms:
        masked = masked_plain(EXPERT, Holds.PHONE, form)
        assert masked is not None
        assert "".join("9" if c.isdigit() else c for c in masked) == "".join("9" if c.isdigit() else c for c in form)
        assert "55501" in masked.replace("-", "").replace(" ", "")


# Free text


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("It is Quentin again.", "It is [NAME] again."),
        ("QUENTIN GRØNLUND called", "[NAME] called"),
        ("mr grønlund's dog", "mr [NAME]'s dog"),
        ("Quentinesque is another word", "Quentinesque is another word"),
        ("ring (617) 555 2368 now", "ring [PHONE] now"),
        ("chart a 00417223", "chart a [MRN]"),
        ("at 12 birchwood lane, near Birchwood", "at [ADDRESS], near [ADDRESS]"),
        ("mail quentin@gronlund.example", "mail [EMAIL]"),
        ("nothing to see here", "nothing to see here"),
    ],
)
def test_what_is_known_of_the_person_goes_however_it_is_written(text: str, masked: str) -> None:
    assert MASKER.mask(text, QUENTIN) == masked


def test_what_looks_like_an_identifier_goes_whoever_it_belongs_to() -> None:
    assert MASKER.mask("SSN 123-45-6789, spoke with Zoë, mail zoe@home.example", NOBODY) == (
        "SSN [SSN], spoke with [NAME], mail [EMAIL]"
    )


KINDS_OF_TEXT = st.sampled_from([
    "", "a", "é", "Quentin wrote", "call 617-555-2368 or 617 555 2369", "to quentin@home.example", " led by a space",
    '{"mrn": "A-17", "who": "Quentin"}', '["Quentin"', "responsibilities", "QUENTIN GRØNLUND", "ＱＵＥＮＴＩＮ",
    "ß Quentin",
    base64.b64encode(b"It is Quentin again, thank you").decode(), "12 Birchwood Lane", "mr. Bo", "Bo", "name:", "\n",
])  # fmt: skip
TEXTS = st.lists(KINDS_OF_TEXT | st.text(max_size=12), max_size=3).map(" ".join) | KINDS_OF_TEXT


@given(st.lists(st.tuples(TEXTS, st.sampled_from([QUENTIN, NOBODY, SHORT])), max_size=6))
def test_texts_masked_together_become_what_each_becomes_alone(pairs: list[tuple[str, Person]]) -> None:
    together = MASKER.mask_all([text for text, _ in pairs], [person for _, person in pairs])
    assert together == [MASKER.mask(text, person) for text, person in pairs]


NAMES = st.sampled_from(["Quentin Grønlund", "Li", "王芳", "-", "O'Neil-Smith", "ΑΒΓ", "Straße", "von_Bo", "A-1"])
OTHERS = st.sampled_from(["617-555-2368", "quentin@home.example", "A-00417223", "12 Birchwood Lane", "Z 9", "x_1"])


@given(
    st.lists(
        st.lists(
            st.tuples(st.just(Holds.NAME), NAMES) | st.tuples(st.sampled_from([Holds.MRN, Holds.ADDRESS]), OTHERS)
        ),
        min_size=1,
        max_size=3,
    ),
    st.lists(st.lists(NAMES | OTHERS | st.text(max_size=3), max_size=4).map(" ".join), max_size=5),
    st.sampled_from([str, str.upper, str.lower, lambda text: text.replace(" ", "_")]),
)
def test_a_crowd_hides_nobody_whom_a_search_for_each_would_find(
    people: list[list[tuple[Holds, str]]], texts: list[str], spelled: Callable[[str], str]
) -> None:
    crowd, another = Crowd(), Crowd()
    another.take(crowd.add([Known.of(one) for one in people]))
    written = [spelled(text) for text in texts]
    for number, one in enumerate(people):
        owners = [Person.known_by(str(number), one)] * len(written)
        expected = MASKER.mask_all(written, owners)
        assert TextMasker(crowd).mask_all(written, owners) == TextMasker(another).mask_all(written, owners) == expected


def test_a_crowd_tells_of_most_texts_that_nobody_is_named_in_them() -> None:
    crowd = Crowd()
    assert {"birchwood", "nlund", "quentin"} == set(crowd.add([QUENTIN.known]))
    assert crowd.add([QUENTIN.known]) == []
    texts = [
        "I slept 6 hours.",
        "It is _Quentin_",
        "call 61 755",
        "call 617 5552",
        "a@b",
        "ﬁne GRØNLUND",
        "birchwoods",
    ]
    assert set(crowd.named_in(texts)) == {1, 3, 4, 5}


def test_a_crowd_of_too_many_words_is_everywhere() -> None:
    crowd = Crowd()
    crowd.take({f"word{number}" for number in range(200_001)})
    assert set(crowd.named_in(["nobody", "at all"])) == {0, 1}


def nested(depth: int, text: str) -> str:
    for level in range(depth):
        text = json.dumps({"a": [text, 7]}) if level % 2 == 0 else base64.b64encode(text.encode()).decode()
    return text


@given(
    st.integers(0, 6), st.sampled_from(["Quentin wrote", "call 617-555-2368 soon", "to quentin@home.example, thanks"])
)
def test_no_nesting_hides_the_person(depth: int, text: str) -> None:
    stored = MASKER.mask(nested(depth, text), QUENTIN).encode()
    canary = Canaries.made_from(b"another person altogether")
    assert search([("here", stored)], canary)[1] == ()
    while True:  # unwrap by hand, as somebody who looks for it would
        assert not any(word in stored.lower() for word in (b"quentin", b"617-555-2368"))
        try:
            stored = json.loads(stored)["a"][0].encode()
        except (ValueError, TypeError, KeyError):
            try:
                stored = base64.b64decode(stored, validate=True)
            except ValueError:
                break


def test_json_stays_json_and_a_picture_in_base64_goes() -> None:
    masked = MASKER.mask('{"who": "Quentin", "n": 3, "deep": [{"tel": 6175552368}]}', QUENTIN)
    assert json.loads(masked) == {"who": "[NAME]", "n": 3, "deep": [{"tel": "[PHONE]"}]}
    assert MASKER.mask(f"see {base64.b64encode(bytes(range(256))).decode()} end") == f"see {DATA} end"


@given(st.text(alphabet="abc defé\n,.", max_size=200))
def test_a_text_without_anybody_stays_as_it_is(text: str) -> None:
    assert MASKER.mask(text, Person.known_by("p", ((Holds.NAME, "Xyz Wvu"),))) == text or not text.isascii()


# Rows


@pytest.fixture
def roster(tmp_path: Path):
    roster = Roster(RosterFile.new(tmp_path))
    yield roster
    roster.close()


def test_a_person_is_found_by_key_by_derived_key_and_by_what_is_linked(roster: Roster, tmp_path: Path) -> None:
    key = "0b0e7a7e-9d5f-4b0c-8c34-2c54e4c3d2a1"
    derived = derived_key("account", key)
    roster.add([(key.upper(), [(Holds.NAME, "Zoë Ibarra")])])
    roster.link("conversation", [("c1", str(derived))])
    for kind, name in (("", key), ("", derived), ("conversation", "C1")):
        (person,) = roster.people(kind, [name]).values()
        assert person == Person.known_by(key, ((Holds.NAME, "Zoë Ibarra"),))
    assert roster.people("conversation", ["c2"])["c2"] == Person("c2")
    later = "7b0e7a7e-9d5f-4b0c-8c34-2c54e4c3d2a1"
    roster.add([(later, [(Holds.NAME, "Yann Ibarra")])])
    derived_later = derived_key("account", later)
    assert roster.people("", [derived_later])[str(derived_later)].key == later
    assert not any(b"ibarra" in file.read_bytes().lower() for file in tmp_path.iterdir())


@pytest.mark.parametrize("most", [500_000, 0])
def test_what_another_process_tells_is_known_at_once(tmp_path: Path, most: int) -> None:
    file = replace(RosterFile.new(tmp_path), most_places=most)
    long = "Ibarra" * 1_000
    with contextlib.closing(Roster(file)) as here, contextlib.closing(Roster(file)) as there:
        texts = ["ask Zoë", f"ask {long.upper()}", "nobody 2"]
        assert [one.is_known for one in here.owners("", ["a", None])] == [False, False]
        there.add([("A", [(Holds.NAME, "Zoë Ibarra")]), ("none", [])])
        here.add([("b", [(Holds.NAME, long)])])
        there.add([("c", [(Holds.MRN, "A-17")])])
        for roster in (here, there):
            owners = roster.owners("", ["a", "b", "c", None, "none"])
            assert [one.is_known for one in owners] == [True, True, True, False, False]
            assert [one.known for one in owners[:3]] == [
                Known.of([(Holds.NAME, "Zoë Ibarra")]),
                Known.of([(Holds.NAME, long)]),
                Known.of([(Holds.MRN, "A-17")]),
            ]
            assert set(roster.crowd.named_in([*texts, "a 17"])) == {0, 1, 3}


@given(
    st.recursive(
        st.sampled_from(["Quentin wrote", "x@y.org", 7, None]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "a.b", "n", ""]), inner),
        max_leaves=8,
    )
)
def test_a_document_is_masked_by_the_classes_of_its_paths(document: object) -> None:
    paths = {"a": "text", "a.b": "email", "b[]": "name", "b[].a": "safe", "n[][]": "safe", "[].a": "safe", "": "safe"}
    columns = {path: Column.model_validate({"holds": holds}) for path, holds in paths.items()}

    def expected(value: object, path: str) -> object:
        if isinstance(value, dict):
            return {k: expected(one, f"{path}.{k}" if path else k) for k, one in value.items()}
        if isinstance(value, list):
            return [expected(one, f"{path}[]") for one in value]
        return (path, columns[path].holds) if path in columns else (path, Holds.SECRET)

    def placed(shape: _Shape, value: object) -> object:
        if isinstance(value, dict):
            return {k: placed(shape.below(k), one) for k, one in value.items()}
        if isinstance(value, list):
            return [placed(shape.below(None), one) for one in value]
        return (shape.path, shape.column.holds)

    whole = _Shape(columns)
    assert [placed(whole, document) for _ in range(2)] == [expected(document, "")] * 2


def _keys_of(file: RosterFile, names: list[str]) -> dict[str, str]:
    with contextlib.closing(Roster(file)) as roster:
        return {name: person.key for name, person in roster.people("", names).items()}


def test_processes_that_ask_at_once_find_everybody_by_derived_keys(tmp_path: Path) -> None:
    file = RosterFile.new(tmp_path)
    keys = [str(uuid.UUID(int=number, version=4)) for number in range(2_000)]
    derived = {str(derived_key("account", key)): key for key in keys}
    with contextlib.closing(Roster(file)) as roster:
        roster.add((key, [(Holds.NAME, "Zoë Ibarra")]) for key in keys)
    names = sorted(derived)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        asked = [pool.submit(_keys_of, file, names[start::4]) for start in range(4)]
        assert {name: key for one in asked for name, key in one.result().items()} == derived


def masker(table: dict, roster: Roster, source: KeyRing | None = None, staging: KeyRing | None = None) -> RowMasker:
    rings = source or KeyRing({1: make_key()}), staging or KeyRing({1: make_key()})
    return RowMasker(Table.model_validate(table), EXPERT, roster, *rings)


def test_sealed_fields_are_opened_masked_and_sealed_for_the_masked_row(roster: Roster) -> None:
    source, staging = KeyRing({1: make_key()}), KeyRing({1: make_key(), 2: make_key()})
    table = {
        "person": "who",
        "columns": {
            "id": {"holds": "key", "domain": "note"},
            "who": {"holds": "key", "domain": "account"},
            "body": {"holds": "text", "sealed": {"table": "notes", "field": "body", "row": "{id_tail}"}},
            "key_version": "safe",
        },
    }
    roster.add([("w1", [(Holds.NAME, "Zoë Ibarra")])])
    sealed = source.cipher().encrypt("Zoë wrote", Place("notes", "body", "n1"))
    row = {"id": "svc:n1", "who": "w1", "body": sealed, "key_version": 1}
    good, bad = masker(table, roster, source, staging).mask([row, {**row, "body": sealed[:-1] + b"x"}])
    place = place_of(masker(table, roster).table.columns["body"].sealed, good)
    assert staging.cipher().decrypt(good["body"], place) == "[NAME] wrote"
    assert staging.cipher().decrypt(bad["body"], place) == REMOVED_TEXT
    assert good["key_version"] == 2


def test_what_was_sealed_under_a_key_that_is_gone_is_counted(roster: Roster) -> None:
    table = {
        "columns": {"id": "safe", "email": {"holds": "email", "sealed": {"table": "t", "field": "e", "row": "{id}"}}}
    }
    one = masker(table, roster)
    (row,) = one.mask([{"id": "1", "email": b"\x01\x00\x00\x00\x09" + bytes(40)}])
    assert one.unopened == {"email": 1}
    assert one.sealing.cipher().decrypt(row["email"], Place("t", "e", "1")).endswith("@example.invalid")


def test_documents_are_masked_path_by_path_and_what_has_no_class_is_removed(roster: Roster) -> None:
    table = {"person": "_id", "columns": {"_id": "safe", "tel[]": "phone", "a.note": "text", "a.n": "safe"}}
    roster.add([("p1", [(Holds.EMAIL, "zoe@home.example")])])
    document = {"_id": "p1", "tel": ["617-555-2368"], "a": {"note": "spoke with Zoë", "n": 2, "new": "Zoë"}}
    (masked,) = masker(table, roster).mask([document])
    assert masked["a"] == {"note": "spoke with [NAME]", "n": 2, "new": None}
    assert masked["tel"] != document["tel"]
    assert sorted(leaf_paths(document)) == ["_id", "a.n", "a.new", "a.note", "tel[]"]


@given(
    st.lists(
        st.sampled_from(["Zoë called", "a\tb\\c\n", "", "[1]", "Zoë, zoe@home.example, (617) 555-2368", "MRN: 123456"])
        | st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)
        | st.none(),
        max_size=6,
    )
)
def test_rows_of_texts_alone_become_what_they_become_as_values(texts: list[str | None]) -> None:
    table = {
        "person": "who",
        "columns": {
            "id": "safe",
            "who": {"holds": "key", "domain": "account"},
            "body": "text",
        },
    }
    types = {"id": "bigint", "who": "text", "body": "text"}
    facts = tuple(ColumnFacts(name, kind, True, False) for name, kind in types.items())
    plan = plan_table("t.notes", SchemaFacts({"t.notes": facts}, {}), Table.model_validate(table), EXPERT)
    assert plan.texts_alone
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Roster(RosterFile.new(Path(folder)))) as people:
        people.add([("w1", [(Holds.NAME, "Zoë Ibarra")])])
        lines = [[b"1", b"masked", _write(text), b"w1" if n % 2 else b"w2"] for n, text in enumerate(texts)]
        as_values = masked_lines(replace(plan, texts_alone=False), masker(table, people), [[*line] for line in lines])
        assert masked_lines(plan, masker(table, people), lines) == as_values


def test_a_text_of_somebody_of_whom_nothing_is_known_is_removed_and_counted(roster: Roster) -> None:
    one = masker({"person": "who", "columns": {"who": {"holds": "key", "domain": "account"}, "body": "text"}}, roster)
    (masked,) = one.mask([{"who": "w9", "body": "Zoë again, without any cue"}])
    assert masked["body"] == REMOVED_TEXT
    assert one.unowned == {"body": 1}


# Classification


def test_the_shipped_classifications_name_every_database_of_the_catalog() -> None:
    assert set(read_classifications(SHIPPED)) == set(load_catalog(SHIPPED).databases)


def test_all_faults_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    for name, text in (
        ("a", "tables:\n  t: {columns: {x: nonsense, y: key}}\n"),
        ("b", "tables:\n  t: {rows: dropped}\n  u: {person: nobody, columns: {z: safe}}\n"),
    ):
        folder = tmp_path / "databases" / name
        folder.mkdir(parents=True)
        (folder / "classification.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(CatalogError) as refused:
        read_classifications(tmp_path)
    told = [str(fault) for fault in refused.value.faults]
    assert len(told) == 4
    assert any("a/classification.yaml:2: tables.t.columns.x.holds" in line for line in told)
    assert any("key without a domain" in line for line in told)
    assert any("dropped without a reason" in line for line in told)
    assert not any("nonsense" in line for line in told)


def test_every_gap_is_named_and_dropped_tables_have_none() -> None:
    known = read_classifications(SHIPPED)["redis"]
    schema = {"presence:<account>": ["account", "value", "value.new"], "unknown": [], "drp:config:*": ["anything"]}
    assert unclassified("redis", schema, known) == ("redis: presence:<account>.value.new", "redis: unknown (whole)")
    assert "2 columns or paths" in Unclassified(unclassified("redis", schema, known)).what


@pytest.mark.parametrize(
    ("classes", "indexes", "refused"),
    [
        ({"a": "phone"}, [{"a"}], True),
        ({"a": "email"}, [{"a"}], False),
        ({"a": "ssn"}, [{"a"}], False),
        ({"a": "email", "b": "date"}, [{"a", "b"}], True),
        ({"a": "email", "b": "date"}, [{"a"}, {"a", "b"}], False),
    ],
)
def test_a_lossy_class_in_a_unique_index_is_refused(classes: dict, indexes: list, refused: bool) -> None:
    table = Table.model_validate({"columns": classes})
    found = list(lossy_unique("t", [(str(n), frozenset(i)) for n, i in enumerate(indexes)], table, set(classes)))
    assert bool(found) is refused


def test_an_index_of_some_rows_is_no_key_that_keeps_another_whole() -> None:
    table = Table.model_validate({"columns": {"id": {"holds": "key", "domain": "x"}, "day": "date"}})
    indexes = [("both", frozenset({"id", "day"})), ("current", frozenset({"id"}))]
    assert not list(lossy_unique("t", indexes, table, {"id", "day"}))
    assert list(lossy_unique("t", indexes, table, {"id", "day"}, partial={"current"}))


@pytest.mark.parametrize(
    ("document", "masked"),
    [
        ({"mrn": "SYN-P00000003"}, {"mrn": "[MRN]"}),
        ({"birth_date": "3/14/61", "town": "Ivybridge"}, {"birth_date": "[DATE]", "town": "[PLACE]"}),
        ({"zipCode": 45828, "n": 45828}, {"zipCode": "[ZIP]", "n": 45828}),
        ({"accounts": ["00123-9", "b"], "mood": "low"}, {"accounts": ["[ACCOUNT]", "b"], "mood": "low"}),
    ],
)
def test_the_name_of_a_field_says_what_stands_in_it(document: dict, masked: dict) -> None:
    assert json.loads(MASKER.mask(json.dumps(document))) == masked


# Anonymity, ranges, canaries


@given(st.dictionaries(st.tuples(st.integers(0, 40)), st.integers(1, 30), max_size=30), st.integers(2, 20))
def test_after_suppression_every_group_has_k_people_or_everybody_is_suppressed(counts: dict, k: int) -> None:
    nothing = (None,)
    gone = set(to_suppress(counts, k, nothing))
    left = {group: n for group, n in counts.items() if group not in gone}
    hidden = sum(n for group, n in counts.items() if group in gone)
    assert all(n >= k for n in left.values())
    assert hidden == 0 or hidden >= k or not left


@given(st.integers(0, 10_000), st.integers(1, 700))
def test_ranges_cover_every_page_once(pages: int, size: int) -> None:
    found = ranges(pages, size)
    assert found[0][0] == 0
    assert all(before[1] == after[0] for before, after in itertools.pairwise(found))
    assert found[-1][1] == 2**32 - 1


@pytest.mark.parametrize("disguise", range(5))
def test_the_search_finds_a_canary_in_every_disguise_and_in_any_encoding(disguise: int) -> None:
    canaries = Canaries.made_from(b"some entropy")
    text = canaries.people[3].text(disguise)
    for stored in (
        text.encode(),
        text.upper().encode() if disguise < 2 else text.encode(),
        text.encode("utf-16-le"),
        base64.b64encode(base64.b64encode(text.encode())),
        text.encode().hex().encode(),
        json.dumps({"x": [json.dumps(text)]}).encode(),
    ):
        assert [sighting.place for sighting in search([("t.c", stored)], canaries)[1]] == ["t.c"]
    assert search([("t.c", b"nothing of the kind")], canaries) == (1, ())


def test_canaries_are_always_the_same_and_masked_texts_of_theirs_are_clean() -> None:
    canaries = Canaries.made_from(b"some entropy")
    assert canaries == Canaries.made_from(b"some entropy")
    for number, canary in enumerate(canaries.people):
        known = tuple((h, v) for h in (Holds.NAME, Holds.EMAIL, Holds.PHONE) if (v := canary.value(h)) is not None)
        masked = MASKER.mask(canary.text(number), Person.known_by("p", known))
        assert search([("t", masked.encode())], canaries)[1] == ()
        column = Column(holds=Holds.NAME)
        assert column.holds is Holds.NAME


@given(st.integers(0, 50), st.integers(-50, 50), st.integers(0, 60))
def test_a_source_that_stands_still_is_read_to_its_last_row_and_a_living_one_within_its_change(
    before: int, change: int, rows: int
) -> None:
    after = max(0, before + change)
    assert is_whole(before, before, before)
    assert is_whole(before, rows, before) == (rows == before)
    assert is_whole(before, rows, after) == (rows in range(min(before, after), max(before, after) + 1))
    assert is_whole(None, rows, None)  # its own account is not to be had
