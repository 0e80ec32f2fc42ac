"""What a server sends in answer to a copy, as fast as libpq hands it out.

Here: messages of a copy that is under way, and the results around it. Not here: what is in them. psycopg's own reader
waits anew for each message, and takes no results after a copy.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import psycopg
from psycopg import generators, pq
from psycopg.waiting import Ready, Wait

from dr_platform.backups.postgresql.access import PatientConnection
from dr_platform.backups.postgresql.errors import ToolFailed


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
