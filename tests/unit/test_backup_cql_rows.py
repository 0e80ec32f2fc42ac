"""Rows of CQL as a stream and back into statements; statements for another keyspace."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.backups.chunks import CHUNK_BYTES, Cut, Reader, chunked
from dr_platform.backups.cql import token_ranges
from dr_platform.backups.cql_rows import LONGEST_TTL_S, Cell, Expiry, Row, Selection, read, writes, written
from dr_platform.backups.cql_schema import Column, Table, moved, portable
from dr_platform.backups.tally import Tally, together

pytestmark = pytest.mark.unit

NOW_S = 1_800_000_000


def column(name: str, kind: str, position: int = -1, type_: str = "text", *, multi_cell: bool = False) -> Column:
    return Column(name, type_, kind, position, "none", multi_cell)


TABLE = Table(
    "messages",
    (
        column("id", "partition_key", 0),
        column("day", "clustering", 0),
        column("owner", "static"),
        column("Body", "regular"),
        column("tags", "regular", type_="set<text>", multi_cell=True),
    ),
    0,
)
COUNTED = Table("counted", (column("id", "partition_key", 0), column("n", "regular", type_="counter")), 0)

raw = st.none() | st.binary(max_size=20)
cells = st.builds(Cell, raw, st.none() | st.integers(-(2**40), 2**60), st.none() | st.integers(0, 2**33))
rows = st.builds(Row, st.tuples(raw, raw), st.tuples(cells, cells, cells))


def stream(found: list[Row]) -> bytes:
    return b"".join(written(Selection(TABLE, True), iter(found), Tally()))


@given(st.lists(rows, max_size=20), st.integers(1, 50))
def test_rows_come_back_as_they_were_however_the_stream_is_cut_into_chunks(found: list[Row], size: int) -> None:
    content = stream(found)
    chunks = (content[at : at + size] for at in range(0, len(content), size))
    assert list(read(chunks, TABLE)) == found


@given(st.lists(rows, min_size=1, max_size=5), st.data())
def test_a_stream_that_ends_early_is_refused(found: list[Row], data: st.DataObject) -> None:
    content = stream(found)
    end = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(Cut):
        list(read((content[:end],), TABLE))


def test_a_stream_with_another_value_is_refused() -> None:
    content = stream([Row((b"a", b"b"), (Cell(b"owner"), Cell(b"body", 1), Cell(None)))])
    with pytest.raises(Cut, match="not those"):
        list(read((content.replace(b"body", b"bodi"),), TABLE))


def test_a_stream_of_a_table_with_other_columns_is_refused() -> None:
    with pytest.raises(Cut, match="other columns"):
        list(read((stream([]),), COUNTED))


@given(st.lists(rows, max_size=20), st.randoms(use_true_random=False), st.integers(0, 20))
def test_a_fingerprint_does_not_depend_on_order_or_on_where_it_is_cut(found: list[Row], random, at: int) -> None:
    whole, first, second = Tally(), Tally(), Tally()
    for row in found:
        whole.add(row.digest_input())
    shuffled = random.sample(found, len(found))
    for tally, part in ((first, shuffled[:at]), (second, shuffled[at:])):
        for row in part:
            tally.add(row.digest_input())
    assert together((first, second)).fingerprint == whole.fingerprint
    assert together((first, second)).rows == whole.rows


@given(rows, rows)
def test_two_rows_have_one_digest_only_where_they_differ_in_nothing_but_the_moment_of_expiry(a: Row, b: Row) -> None:
    def timeless(row: Row) -> object:
        return row.keys, [(c.value, c.written_us, c.expires_at_s is not None) for c in row.cells]

    assert (a.digest_input() == b.digest_input()) == (timeless(a) == timeless(b))


@pytest.mark.parametrize(
    ("expires_at_s", "least_s", "ttl"),
    [
        pytest.param(None, 0, 0, id="lives for ever"),
        pytest.param(NOW_S + 60, 0, 60, id="what is left"),
        pytest.param(NOW_S, 0, None, id="gone at this second"),
        pytest.param(NOW_S - 999, 0, None, id="gone long ago"),
        pytest.param(NOW_S - 999, 86400, 86400, id="kept while it is compared"),
        pytest.param(NOW_S + 90000, 86400, 90000, id="lives longer than the comparison"),
        pytest.param(NOW_S + 2 * LONGEST_TTL_S, 0, LONGEST_TTL_S, id="as long as the protocol allows"),
    ],
)
def test_time_to_live(expires_at_s: int | None, least_s: int, ttl: int | None) -> None:
    assert Expiry(NOW_S, least_s).ttl(Cell(b"", 1, expires_at_s)) == ttl


def planned(row: Row, *, begins: bool = True) -> list[tuple[str, tuple[bytes | None, ...]]]:
    found = writes("ks", TABLE, row, Expiry(NOW_S), begins_partition=begins)
    return [(write.text, write.values) for write in found]


def numbers(ttl: int, at: int) -> tuple[bytes, bytes]:
    return struct.pack(">i", ttl), struct.pack(">q", at)


def test_values_of_one_write_time_are_written_together_and_static_ones_with_the_partition() -> None:
    row = Row((b"i", b"d"), (Cell(b"o", 5), Cell(b"b", 7), Cell(b"t", 7)))
    static, regular = planned(row)
    assert static == (
        'INSERT INTO "ks"."messages" ("id", "owner") VALUES (?, ?) USING TTL ? AND TIMESTAMP ?',
        (b"i", b"o", *numbers(0, 5)),
    )
    assert regular == (
        'INSERT INTO "ks"."messages" ("id", "day", "Body", "tags") VALUES (?, ?, ?, ?) USING TTL ? AND TIMESTAMP ?',
        (b"i", b"d", b"b", b"t", *numbers(0, 7)),
    )
    assert planned(row, begins=False) == [regular]


def test_a_row_of_its_key_alone_is_written_and_one_whose_values_expired_is_not() -> None:
    nothing = (Cell(None), Cell(None), Cell(None))
    assert planned(Row((b"i", b"d"), nothing)) == [
        ('INSERT INTO "ks"."messages" ("id", "day") VALUES (?, ?)', (b"i", b"d"))
    ]
    assert planned(Row((b"i", b"d"), (Cell(None), Cell(b"b", 7, NOW_S - 1), Cell(None)))) == []


def test_a_partition_of_static_values_alone_gets_no_row() -> None:
    found = planned(Row((b"i", None), (Cell(b"o", 5), Cell(None), Cell(None))))
    assert [values[:2] for _, values in found] == [(b"i", b"o")]


def test_a_value_without_a_write_time_takes_the_youngest_of_its_row() -> None:
    found = planned(Row((b"i", b"d"), (Cell(None), Cell(b"b", 7), Cell(b"t"))))
    assert [values for _, values in found] == [(b"i", b"d", b"b", b"t", *numbers(0, 7))]


def test_counters_are_added_to_nothing() -> None:
    one = struct.pack(">q", 41)
    found = list(writes("ks", COUNTED, Row((b"i",), (Cell(one),)), Expiry(NOW_S), begins_partition=True))
    assert [(write.text, write.values) for write in found] == [
        ('UPDATE "ks"."counted" SET "n" = "n" + ? WHERE "id" = ?', (one, b"i"))
    ]


def elements(*left: int | None) -> bytes:
    packed = (struct.pack(">i", -1) if ttl is None else struct.pack(">ii", 4, ttl) for ttl in left)
    return struct.pack(">i", len(left)) + b"".join(packed)


@pytest.mark.parametrize(
    ("left", "expires_at_s"),
    [(elements(5, 9), NOW_S + 9), (elements(5, None), None), (elements(), None), (None, None)],
)
def test_a_collection_expires_with_its_last_element(left: bytes | None, expires_at_s: int | None) -> None:
    found = [b"i", b"d", None, None, None, b"b", struct.pack(">q", 3), struct.pack(">i", 4), b"t", None, left]
    row = Selection(TABLE, True).row(found, NOW_S)
    assert row.cells == (Cell(None), Cell(b"b", 3, NOW_S + 4), Cell(b"t", None, expires_at_s))


def test_a_server_that_does_not_know_times_of_collections_is_not_asked_for_them() -> None:
    assert Selection(TABLE, False).columns == (
        '"id", "day", "owner", WRITETIME("owner"), TTL("owner"), "Body", WRITETIME("Body"), TTL("Body"), "tags"'
    )
    assert 'MAXWRITETIME("tags"), TTL("tags")' in Selection(TABLE, True).columns
    assert Selection(COUNTED, True).columns == '"id", "n"'


@given(st.integers(1, 300))
def test_ranges_of_tokens_cover_the_ring_without_a_gap(number: int) -> None:
    found = token_ranges(number)
    assert len(found) == number
    assert (found[0][0], found[-1][1]) == (-(2**63), 2**63 - 1)
    assert all(lower < upper for lower, upper in found)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(found))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CREATE TABLE ks.a (x int)", 'CREATE TABLE "new".a (x int)'),
        ('CREATE TYPE "ks".a (x int)', 'CREATE TYPE "new".a (x int)'),
        ("CREATE TABLE other.ks (ks int)", "CREATE TABLE other.ks (ks int)"),
        ("… AND comment = 'ks.a it''s ks.b'", "… AND comment = 'ks.a it''s ks.b'"),
        ("CREATE FUNCTION ks.f() AS $$ ks.x(); $$", 'CREATE FUNCTION "new".f() AS $$ ks.x(); $$'),
        ("AS SELECT * FROM ks.t WHERE a = 'x'", "AS SELECT * FROM \"new\".t WHERE a = 'x'"),
        ("CREATE TABLE ks2.a (aks int)", "CREATE TABLE ks2.a (aks int)"),
    ],
)
def test_a_statement_moves_to_another_keyspace_and_its_texts_stay(text: str, expected: str) -> None:
    assert moved(text, "ks", "new") == expected


def test_storage_options_of_one_server_are_left_out_and_order_and_expiry_stay() -> None:
    text = """CREATE TABLE ks.t (
        a int, b int, m map<text, frozen<list<int>>>, PRIMARY KEY (a, b)
    ) WITH CLUSTERING ORDER BY (b DESC)
        AND compaction = {'class': 'IncrementalCompactionStrategy'} AND default_time_to_live = 60
        AND comment = 'x) WITH y';"""
    kept = portable(text)
    assert kept.endswith("PRIMARY KEY (a, b)\n    ) WITH CLUSTERING ORDER BY (b DESC) AND default_time_to_live = 60")
    assert portable("CREATE TYPE ks.a (x int);") == "CREATE TYPE ks.a (x int);"


@given(st.lists(st.binary(max_size=50), max_size=4))
def test_chunks_are_the_same_bytes_none_of_them_empty_or_too_large(parts: list[bytes]) -> None:
    found = list(chunked(parts))
    assert b"".join(found) == b"".join(parts)
    assert all(0 < len(chunk) <= CHUNK_BYTES for chunk in found)


def test_a_large_part_is_cut() -> None:
    assert [len(chunk) for chunk in chunked([b"x" * (2 * CHUNK_BYTES + 5)])] == [CHUNK_BYTES, CHUNK_BYTES, 5]


def test_a_reader_takes_exact_numbers_and_says_where_none_are_left() -> None:
    def chunks() -> Iterator[bytes]:
        yield b"ab"
        yield b""
        yield b"cde"

    reader = Reader(chunks())
    assert (reader.take(1), reader.take(3), reader.ended()) == (b"a", b"bcd", False)
    with pytest.raises(Cut):
        reader.take(2)
    assert reader.take(1) == b"e"
    assert reader.ended()
