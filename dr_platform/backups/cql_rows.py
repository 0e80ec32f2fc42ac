"""Rows of a CQL table as a stream of bytes, and back into statements.

Values are the bytes of the protocol: neither decoded nor encoded anew, so no type is lost. Beside each
value stands when it was written and when it expires. A collection counts as one value, with its youngest
write time and its latest expiry: what it loses is only that some of its elements would expire sooner.

A stream: a mark, a header (JSON) with its length, one record per row with its length, and a footer with the
number of rows and their fingerprint, without which it is cut short.

Here: that format and what a row means. Not here: asking a server.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from dr_platform.backups.chunks import Cut, Reader
from dr_platform.backups.cql_schema import Column, Table, quoted
from dr_platform.backups.tally import Tally

MARK = b"DRPCQL1\n"
_END = 2**32 - 1
_LARGEST_RECORD = 2**30
_VALUE, _TIMED, _EXPIRES = 1, 2, 4
_I32, _I64, _U32 = struct.Struct(">i"), struct.Struct(">q"), struct.Struct(">I")
_FOOTER = struct.Struct(">Q32s")
LONGEST_TTL_S = 20 * 365 * 86400
"""What the protocol allows: 20 years."""

Raw = bytes | None


@dataclass(frozen=True)
class Cell:
    value: Raw
    written_us: int | None = None
    """Microseconds since 1970; ``None`` where the server does not say."""
    expires_at_s: int | None = None
    """Seconds since 1970."""


@dataclass(frozen=True)
class Row:
    keys: tuple[Raw, ...]
    cells: tuple[Cell, ...]

    def digest_input(self) -> bytes:
        """Everything but the moment of expiry, which moves when a row is brought back; that it expires stays."""
        return b"".join((*map(_sized, self.keys), *(_head(cell) + _sized(cell.value) for cell in self.cells)))

    def encoded(self) -> bytes:
        cells = (_head(cell) + _expiry(cell) + _sized(cell.value) for cell in self.cells)
        body = b"".join((*map(_sized, self.keys), *cells))
        return _U32.pack(len(body)) + body


def _sized(value: Raw) -> bytes:
    return _I32.pack(-1) if value is None else _I32.pack(len(value)) + value


def _head(cell: Cell) -> bytes:
    flags = (
        (_VALUE if cell.value is not None else 0)
        | (_TIMED if cell.written_us is not None else 0)
        | (_EXPIRES if cell.expires_at_s is not None else 0)
    )
    return bytes([flags]) + (_I64.pack(cell.written_us) if cell.written_us is not None else b"")


def _expiry(cell: Cell) -> bytes:
    return b"" if cell.expires_at_s is None else _I64.pack(cell.expires_at_s)


# Reading from the server


@dataclass(frozen=True)
class Selection:
    """What is asked for of a table. ``collection_times``: whether this server knows them."""

    table: Table
    collection_times: bool

    def timed(self, column: Column) -> bool:
        return not self.table.counts and (self.collection_times or not column.multi_cell)

    @property
    def columns(self) -> str:
        asked = [quoted(column.name) for column in self.table.keys]
        for column in self.table.values:
            name = quoted(column.name)
            asked.append(name)
            if self.timed(column):
                asked += [f"{'MAX' if column.multi_cell else ''}WRITETIME({name})", f"TTL({name})"]
        return ", ".join(asked)

    def row(self, found: Sequence[Raw], now_s: int) -> Row:
        """Out of the protocol's bytes for one row, asked for at ``now_s``."""
        values = iter(found)
        keys = tuple(next(values) for _ in self.table.keys)
        cells = []
        for column in self.table.values:
            value = next(values)
            if not self.timed(column):
                cells.append(Cell(value))
                continue
            written, left = next(values), _left(next(values), column)
            known = value is not None and written is not None
            cells.append(
                Cell(
                    value,
                    _I64.unpack(written)[0] if known and written else None,
                    now_s + left if value is not None and left is not None else None,
                )
            )
        return Row(keys, tuple(cells))


def _left(found: Raw, column: Column) -> int | None:
    """Seconds until it expires; ``None`` for never. Of a collection: until its last element does."""
    if not found:
        return None
    if not column.multi_cell:
        return int(_I32.unpack(found)[0])
    reader = Reader((found,))
    latest = 0
    for _ in range(_I32.unpack(reader.take(4))[0]):
        if _I32.unpack(reader.take(4))[0] <= 0:
            return None
        latest = max(latest, _I32.unpack(reader.take(4))[0])
    return latest or None


# The stream


def written(selection: Selection, rows: Iterable[Row], tally: Tally) -> Iterator[bytes]:
    table = selection.table
    header = {"table": table.name, "keys": [c.name for c in table.keys], "values": [c.name for c in table.values]}
    text = json.dumps(header).encode()
    yield MARK + _U32.pack(len(text)) + text
    for row in rows:
        tally.add(row.digest_input())
        yield row.encoded()
    yield _U32.pack(_END) + _FOOTER.pack(tally.rows, bytes.fromhex(tally.fingerprint))


def read(chunks: Iterable[bytes], table: Table) -> Iterator[Row]:
    """Raises ``Cut`` where the stream is not whole, or is of another table."""
    reader = Reader(chunks)
    if reader.take(len(MARK)) != MARK:
        raise Cut("no stream of rows")
    header = json.loads(reader.take(_U32.unpack(reader.take(4))[0]))
    if header["keys"] != [c.name for c in table.keys] or header["values"] != [c.name for c in table.values]:
        raise Cut("it has other columns")
    tally = Tally()
    while (size := _U32.unpack(reader.take(4))[0]) != _END:
        if size > _LARGEST_RECORD:
            raise Cut("no record begins here")
        row = _decoded(reader.take(size), len(table.keys), len(table.values))
        tally.add(row.digest_input())
        yield row
    if _FOOTER.unpack(reader.take(_FOOTER.size)) != (tally.rows, bytes.fromhex(tally.fingerprint)):
        raise Cut("its rows are not those that were written")


def _decoded(body: bytes, keys: int, cells: int) -> Row:
    reader = Reader((body,))

    def value() -> Raw:
        size = _I32.unpack(reader.take(4))[0]
        return None if size < 0 else reader.take(size)

    def cell() -> Cell:
        flags = reader.take(1)[0]
        written_us = _I64.unpack(reader.take(8))[0] if flags & _TIMED else None
        expires = _I64.unpack(reader.take(8))[0] if flags & _EXPIRES else None
        return Cell(value(), written_us, expires)

    return Row(tuple(value() for _ in range(keys)), tuple(cell() for _ in range(cells)))


# Back into a server


@dataclass(frozen=True)
class Write:
    """One statement: a text to prepare, and its values as the protocol's bytes."""

    text: str
    values: tuple[Raw, ...]


@dataclass(frozen=True)
class Expiry:
    """What becomes of values that expire. ``least_s`` keeps them at least so long: a copy that is compared
    must not change while it is. Where it is 0, what has expired is left out."""

    now_s: int
    least_s: int = 0

    def ttl(self, cell: Cell) -> int | None:
        """Seconds to live, 0 for ever, ``None`` for a value that is gone."""
        if cell.expires_at_s is None:
            return 0
        left = max(cell.expires_at_s - self.now_s, self.least_s)
        return min(left, LONGEST_TTL_S) if left > 0 else None


def writes(keyspace: str, table: Table, row: Row, expiry: Expiry, *, begins_partition: bool) -> Iterator[Write]:
    """The statements that bring a row back. Values of one write time and expiry go together. Static values
    belong to the partition and are written with its first row alone."""
    place = f"{quoted(keyspace)}.{quoted(table.name)}"
    paired = tuple(zip(table.values, row.cells, strict=True))
    statics = [(column, cell) for column, cell in paired if column.kind == "static"]
    regulars = [(column, cell) for column, cell in paired if column.kind == "regular"]
    partition = len(table.of("partition_key"))
    if statics and begins_partition:
        yield from _of_cells(place, table, table.keys[:partition], row.keys[:partition], statics, expiry)
    if any(key is None for key in row.keys):  # a partition that has static values and no row
        return
    yield from _of_cells(place, table, table.keys, row.keys, regulars, expiry)
    if not any(cell.value is not None for _, cell in regulars):
        names = ", ".join(quoted(column.name) for column in table.keys)
        marks = ", ".join("?" * len(table.keys))
        if not table.counts:
            yield Write(f"INSERT INTO {place} ({names}) VALUES ({marks})", row.keys)  # noqa: S608 - quoted names


def _of_cells(
    place: str,
    table: Table,
    keys: Sequence[Column],
    values: tuple[Raw, ...],
    paired: Sequence[tuple[Column, Cell]],
    expiry: Expiry,
) -> Iterator[Write]:
    present = [(column, cell) for column, cell in paired if cell.value is not None]
    if table.counts:
        where = " AND ".join(f"{quoted(key.name)} = ?" for key in keys)
        for column, cell in present:
            name = quoted(column.name)
            text = f"UPDATE {place} SET {name} = {name} + ? WHERE {where}"  # noqa: S608 - quoted names
            yield Write(text, (cell.value, *values))
        return
    known = max((cell.written_us for _, cell in present if cell.written_us is not None), default=None)
    groups: dict[tuple[int | None, int], list[tuple[Column, Cell]]] = {}
    for column, cell in present:
        if (ttl := expiry.ttl(cell)) is not None:
            written_us = cell.written_us if cell.written_us is not None else known
            groups.setdefault((written_us, ttl), []).append((column, cell))
    for (written_us, ttl), group in groups.items():
        yield _insert(place, keys, values, group, written_us, ttl)


def _insert(
    place: str,
    keys: Sequence[Column],
    values: tuple[Raw, ...],
    group: Sequence[tuple[Column, Cell]],
    written_us: int | None,
    ttl: int,
) -> Write:
    names = ", ".join(quoted(column.name) for column in (*keys, *(column for column, _ in group)))
    marks = ", ".join("?" * (len(keys) + len(group)))
    # A TTL of 0 is said as well: without it the table's default would apply.
    using, extra = "TTL ?", (_I32.pack(ttl),)
    if written_us is not None:
        using, extra = "TTL ? AND TIMESTAMP ?", (_I32.pack(ttl), _I64.pack(written_us))
    text = f"INSERT INTO {place} ({names}) VALUES ({marks}) USING {using}"  # noqa: S608 - quoted names
    return Write(text, (*values, *(cell.value for _, cell in group), *extra))
