"""Which documents a range of a collection asks for, and which index a server can be asked to make."""

from __future__ import annotations

import bson
import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.backups.chunks import Cut
from dr_platform.backups.mongodb import parted, possible_indexes
from dr_platform.backups.mongodb_reading import Description, Range, ranges

pytestmark = pytest.mark.unit


def matches(asked: object, value: object) -> bool:
    """What a server does with such a filter: values of another type are never greater or equal."""
    match asked:
        case {} if not asked:
            return True
        case {"$and": [first, second]}:
            return matches(first, value) and matches(second, value)
        case {"_id": {"$not": {"$gte": bound}}}:
            return not matches({"_id": {"$gte": bound}}, value)
        case {"_id": {"$gte": bound}}:
            return type(value) is type(bound) and value >= bound  # type: ignore[operator]
    raise AssertionError(asked)


@given(
    st.lists(st.integers(0, 30), unique=True, max_size=5),
    st.lists(st.integers(-5, 35) | st.text(max_size=2) | st.none()),
)
def test_every_id_of_any_type_is_in_exactly_one_range(bounds: list[int], ids: list[object]) -> None:
    parts = ranges(sorted(bounds))
    assert len(parts) == len(bounds) + 1
    for value in ids:
        assert sum(matches(part.filter, value) for part in parts) == 1, value


def test_a_collection_that_is_not_cut_is_asked_for_whole() -> None:
    assert ranges(()) == (Range(),)
    assert Range().filter == {}


def test_indexes_lose_what_a_server_has_no_word_for() -> None:
    expiring = {"name": "e", "key": {"at": 1}, "expireAfterSeconds": 5}
    partial = {"name": "p", "key": {"a": 1}, "unique": True, "partialFilterExpression": {"b": 1}}
    assert possible_indexes((expiring, partial), frozenset()) == [{"name": "e", "key": {"at": 1}}]
    assert possible_indexes((expiring, partial), frozenset({"ttl_indexes", "partial_indexes"})) == [expiring, partial]


documents = st.dictionaries(st.sampled_from(["a", "b", "long name"]), st.integers(0, 9))


@given(st.lists(documents, max_size=5), st.integers(1, 9))
def test_documents_come_out_of_a_stream_as_they_went_in(found: list[dict[str, int]], size: int) -> None:
    content = b"".join(bson.encode(document) for document in found)
    chunks = (content[at : at + size] for at in range(0, len(content), size))
    assert [bson.decode(document) for document in parted(chunks)] == found


@pytest.mark.parametrize(
    "content", [b"\x05\x00\x00", b"\x06\x00\x00\x00\x00", b"\x04\x00\x00\x00", b"\xff\xff\xff\xff\x00"]
)
def test_what_is_no_whole_document_is_refused(content: bytes) -> None:
    with pytest.raises(Cut):
        list(parted(iter([bson.encode({"a": 1}), content])))


def test_a_description_comes_back_with_its_types() -> None:
    index = {"name": "i", "key": {"b": 1, "a": -1}, "unique": True}
    user = {"user": "u", "id": ObjectId("0123456789abcdef01234567")}
    given_ = Description(({"name": "c", "type": "collection", "options": {"size": 5}},), {"c": (index,)}, (user,), ())
    back = Description.read(given_.written())
    assert back == given_
    assert list(back.indexes["c"][0]["key"]) == ["b", "a"]


def test_the_fingerprint_sees_keys_and_their_order_but_not_how_a_direction_is_written() -> None:
    def described(**index: object) -> str:
        return Description(({"name": "c"},), {"c": ({"name": "i", **index},)}, (), ()).fingerprint

    assert described(key={"a": 1, "b": 1}) == described(key={"a": 1.0, "b": 1})
    different = [{"b": 1, "a": 1}, {"a": 1, "b": -1}, {"a": 1, "b": 1}]
    assert len({described(key={"a": 1, "b": 1}, unique=True), *(described(key=key) for key in different)}) == 4


def test_accounts_are_told_with_what_the_server_gave() -> None:
    assert Description((), {}, ({"user": "a"},), ()).accounts == "1 users, the server gives no credentials; 0 roles"
    assert "1 with hashed credentials" in Description((), {}, ({"user": "a", "credentials": {}},), ()).accounts
