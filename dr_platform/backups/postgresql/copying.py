"""What a server sends in answer to a copy, as fast as libpq hands it out.

Here: messages of a copy that is under way, and the results around it. Not here: what is in them. psycopg's own reader
waits anew for each row, which costs more than the row itself, and takes no results after a copy.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import psycopg
from psycopg import generators, pq
from psycopg.waiting import Ready, Wait

from dr_platform.backups.postgresql.access import CHUNK_BYTES, PatientConnection
from dr_platform.backups.postgresql.errors import ToolFailed

_MOST_BYTES = 4 << 20
"""What the port allows at once."""


def messages(connection: PatientConnection) -> Iterator[memoryview]:
    """Every message up to the end of the copy; the result after it says whether it ended well."""
    take = connection.pgconn.get_copy_data
    while True:
        size, message = take(1)
        if size > 0:
            yield message
        elif size < 0:
            return
        else:
            connection.wait(_arrival(connection.pgconn))


def rows(connection: PatientConnection, statement: bytes) -> Iterator[bytes]:
    """What ``COPY … TO STDOUT`` gives, joined to chunks. Raises what the server answered."""
    connection.pgconn.send_query(statement)
    result_of(connection, pq.ExecStatus.COPY_OUT)
    held: list[memoryview] = []
    size = 0
    for message in messages(connection):
        held.append(message)
        size += len(message)
        if size >= CHUNK_BYTES:
            yield from _cut(b"".join(held))
            held, size = [], 0
    result_of(connection, pq.ExecStatus.COMMAND_OK)
    end_of_answer(connection)
    if held:
        yield from _cut(b"".join(held))


def _cut(joined: bytes) -> Iterator[bytes]:
    """A row may be larger than a chunk."""
    for at in range(0, len(joined), _MOST_BYTES):
        yield joined[at : at + _MOST_BYTES]


def _arrival(pgconn: pq.abc.PGconn) -> Generator[Wait, Ready, None]:
    while not (yield Wait.R):
        continue
    pgconn.consume_input()


def result_of(connection: PatientConnection, expected: pq.ExecStatus) -> Any:
    """The next result of a command. Raises what the server answered instead."""
    result = connection.wait(generators.fetch(connection.pgconn))
    if result is None:
        raise ToolFailed("the server", "it ended a command early")
    if result.status == pq.ExecStatus.FATAL_ERROR:
        raise psycopg.errors.error_from_result(result)
    if result.status != expected:
        raise ToolFailed("the server", f"it answered {pq.ExecStatus(result.status).name}")
    return result


def end_of_answer(connection: PatientConnection) -> None:
    while connection.wait(generators.fetch(connection.pgconn)) is not None:
        continue
