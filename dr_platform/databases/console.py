"""One statement typed by a person, in the language of the engine, and the table it answers with.

SQL for PostgreSQL, CQL for ScyllaDB, a command line for Redis, and for MongoDB a command as a JSON
document such as ``{"find": "care_plans", "limit": 3}``.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dr_platform.databases.port import ManagedDatabase
from dr_platform.errors import ExitCode, PlatformError

ROWS = 1000
"""More rows are not fetched: nobody reads them in a terminal."""


@dataclass(frozen=True)
class Table:
    columns: tuple[str, ...] = ()
    rows: tuple[Sequence[Any], ...] = ()


class StatementFailed(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.what = f"{name}: {reason}"
        self.untouched = "whatever the statement did not reach"
        self.next_step = "correct the statement"


def execute(database: ManagedDatabase, statement: str) -> Table:
    """Run one statement with the rights of the connection's role. Raises ``StatementFailed`` with the
    server's own words: they go to the person who typed the statement and nowhere else."""
    runners = {
        "postgresql": _postgresql,
        "scylladb": _cql,
        "redis": _redis,
        "mongodb": _mongodb,
    }
    try:
        return runners[database.database.engine.value](database, statement)
    except PlatformError:
        raise
    except Exception as exc:  # noqa: BLE001 - each driver has errors of its own, all mean that this statement failed
        raise StatementFailed(database.database.name, str(exc).strip().splitlines()[0][:300]) from None


def _postgresql(database: Any, statement: str) -> Table:
    cursor = database.connection.execute(statement)
    if cursor.description is None:
        return Table()
    return Table(tuple(column.name for column in cursor.description), tuple(cursor.fetchmany(ROWS)))


def _cql(database: Any, statement: str) -> Table:
    result = database.session.execute(statement)
    rows = tuple(tuple(row) for row, _ in zip(result, range(ROWS), strict=False))
    return Table(tuple(result.column_names or ()), rows)


def _redis(database: Any, statement: str) -> Table:
    answer = database.client.execute_command(*shlex.split(statement))
    if isinstance(answer, dict):
        return Table(("key", "value"), tuple((_text(k), _text(v)) for k, v in answer.items()))
    values = answer if isinstance(answer, list | tuple | set) else [answer]
    return Table(("value",), tuple((_text(value),) for value in list(values)[:ROWS]))


def _mongodb(database: Any, statement: str) -> Table:
    command = json.loads(statement)
    if not isinstance(command, dict) or not command:
        raise StatementFailed(database.database.name, 'write a command such as {"find": "care_plans", "limit": 3}')
    answer = database.schema.command(command)
    documents = answer.get("cursor", {}).get("firstBatch", [answer])
    return Table(("document",), tuple((json.dumps(d, default=str),) for d in documents[:ROWS]))


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
