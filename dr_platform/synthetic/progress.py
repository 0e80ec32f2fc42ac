"""How far a load has come: kept as records beside the data, in ``work.records`` of PostgreSQL.

One record says which plan the databases hold, or that it is being removed; while a load is not
finished, one more per block and database says that the block is there. The record of a block in
PostgreSQL is committed with its rows; those of the other databases follow the server's answer, and
what was loaded without a record is loaded again, which changes nothing there.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, LiteralString

from psycopg import Connection

from dr_platform.clock import Clock
from dr_platform.errors import ExitCode, PlatformError, TemporaryFailure
from dr_platform.reference_service.cipher import FieldCipher, Place
from dr_platform.synthetic.loading.port import Counts
from dr_platform.synthetic.plan import Existing, Plan
from dr_platform.synthetic.sealing import Sealer

SERVICE = "synthetic-data"
_PLAN, _BLOCK = "plan", "block"
_PLAN_ID = uuid.uuid5(uuid.NAMESPACE_URL, "dr-platform/synthetic/plan")
_LOCK = 0x6472705F73796E74
"""Key of the advisory lock that a loader holds; the server frees it when the loader is gone."""
PATIENCE_S = 3.0
"""The server may need a moment to see that a loader was killed."""
_LOOK_S = 0.1


class State(StrEnum):
    LOADING = "loading"
    LOADED = "loaded"
    REMOVING = "removing"


@dataclass(frozen=True)
class Held:
    """What the databases hold. ``counts`` are rows per database and table, of a finished load."""

    plan: Plan
    state: State
    counts: dict[str, dict[str, int]]


class OtherData(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, held: str, wanted: str) -> None:
        super().__init__(held, wanted)
        self.what = f"the databases hold synthetic data of another kind ({held}) than asked for ({wanted})"
        self.untouched = "everything stored"
        self.next_step = "repeat with `--replace` to remove it first, or ask for what is there"


class RemovalUnfinished(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, held: str) -> None:
        super().__init__(held)
        self.what = f"the synthetic data in the databases ({held}) was being removed, and that was stopped half-way"
        self.untouched = "what is left of it"
        self.next_step = "repeat with `--replace`, which removes the rest and then loads"


class LoadInProgress(TemporaryFailure):
    def __init__(self) -> None:
        super().__init__()
        self.what = "another process is loading or removing synthetic data"
        self.untouched = "everything, as far as this run is concerned"
        self.next_step = "let it end and repeat; one that was killed holds nothing"


class Step(StrEnum):
    NOTHING = "nothing"
    LOAD = "load"
    REMOVE_THEN_LOAD = "remove, then load"


def decide(held: Held | None, wanted: Plan, existing: Existing) -> Step:
    """What is to be done about what is there. Raises ``OtherData`` or ``RemovalUnfinished``."""
    if held is None:
        return Step.LOAD
    if existing is Existing.REPLACED:
        return Step.REMOVE_THEN_LOAD
    if held.state is State.REMOVING:
        raise RemovalUnfinished(str(held.plan))
    if held.plan != wanted:
        raise OtherData(str(held.plan), str(wanted))
    return Step.NOTHING if held.state is State.LOADED else Step.LOAD


class Progress:
    """The records, through one connection to PostgreSQL in autocommit."""

    def __init__(self, connection: Connection[Any], cipher: FieldCipher) -> None:
        self._connection = connection
        self._cipher = cipher  # opens what was written before a key was rotated, too

    @contextlib.contextmanager
    def alone(self, clock: Clock) -> Generator[None]:
        """Hold the lock for the block; it ends with the connection at the latest. Raises
        ``LoadInProgress``."""
        give_up = clock.monotonic() + PATIENCE_S
        while not self._locked("pg_try_advisory_lock"):
            if clock.monotonic() >= give_up:
                raise LoadInProgress
            clock.sleep(_LOOK_S)
        try:
            yield
        finally:
            if not self._connection.closed:
                self._locked("pg_advisory_unlock")

    def _locked(self, function: LiteralString) -> bool:
        row = self._connection.execute(f"SELECT {function}(%s)", (_LOCK,)).fetchone()
        return bool(row and row[0])

    def held(self) -> Held | None:
        row = self._connection.execute(
            "SELECT body_ciphertext FROM work.records WHERE service = %s AND id = %s", (SERVICE, _PLAN_ID)
        ).fetchone()
        if row is None:
            return None
        found = self._opened(_PLAN_ID, bytes(row[0]))
        return Held(Plan.parse(found["plan"]), State(found["state"]), found["counts"])

    def begin(self, plan: Plan) -> None:
        self._put(plan, State.LOADING, {})

    def finish(self, plan: Plan) -> Held:
        """Put the sums of all blocks in place of their records."""
        counts = self.counts()
        with self._connection.transaction():
            self._put(plan, State.LOADED, counts)
            self._forget_blocks()
        return Held(plan, State.LOADED, counts)

    def begin_removal(self, plan: Plan) -> None:
        with self._connection.transaction():
            self._put(plan, State.REMOVING, {})
            self._forget_blocks()

    def finish_removal(self) -> None:
        self._connection.execute("DELETE FROM work.records WHERE service = %s", (SERVICE,))

    def recorded(self, identifiers: Sequence[uuid.UUID]) -> frozenset[uuid.UUID]:
        """Which of these (see ``block_id``) are recorded."""
        rows = self._connection.execute(
            "SELECT id FROM work.records WHERE service = %s AND id = ANY(%s)", (SERVICE, list(identifiers))
        ).fetchall()
        return frozenset(row[0] for row in rows)

    def counts(self) -> dict[str, dict[str, int]]:
        """Rows per database and table of all recorded blocks."""
        sums: dict[str, Counter[str]] = {}
        with self._connection.cursor() as cursor:
            statement = "SELECT id, body_ciphertext FROM work.records WHERE service = %s AND kind = %s"
            for identifier, sealed in cursor.stream(statement, (SERVICE, _BLOCK)):
                found = self._opened(identifier, bytes(sealed))
                sums.setdefault(found["database"], Counter()).update(found["counts"])
        return {database: dict(sorted(tables.items())) for database, tables in sorted(sums.items())}

    def _put(self, plan: Plan, state: State, counts: dict[str, dict[str, int]]) -> None:
        body = {"plan": plan.text, "state": state.value, "counts": counts}
        self._connection.execute(
            "INSERT INTO work.records (service, id, kind, body_ciphertext) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT (service, id) DO UPDATE SET body_ciphertext = excluded.body_ciphertext,"
            " revision = work.records.revision + 1, updated_at = now()",
            (SERVICE, _PLAN_ID, _PLAN, self._cipher.encrypt(json.dumps(body, sort_keys=True), _place(_PLAN_ID))),
        )

    def _forget_blocks(self) -> None:
        self._connection.execute("DELETE FROM work.records WHERE service = %s AND kind = %s", (SERVICE, _BLOCK))

    def _opened(self, identifier: uuid.UUID, sealed: bytes) -> dict[str, Any]:
        return json.loads(self._cipher.decrypt(sealed, _place(identifier)))


def block_id(plan: Plan, database: str, part: str, block: int) -> uuid.UUID:
    """Names a block's record. ``part`` is ``clinicians`` or ``patients``."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"dr-platform/synthetic/{plan.text}/{database}/{part}/{block}")


def record_block(
    connection: Connection[Any], sealer: Sealer, identifier: uuid.UUID, database: str, counts: Counts
) -> bool:
    """Record that a block is in a database; false where that is recorded already. Of two processes
    that record one block at once, the second waits for the first."""
    text, place = json.dumps({"database": database, "counts": dict(counts)}, sort_keys=True), _place(identifier)
    body = sealer.seal(text, place.table, place.field, place.row)
    written = connection.execute(
        "INSERT INTO work.records (service, id, kind, body_ciphertext) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (SERVICE, identifier, _BLOCK, body),
    )
    return written.rowcount == 1


def _place(identifier: uuid.UUID) -> Place:
    return Place(f"{SERVICE}.records", "body", str(identifier))
