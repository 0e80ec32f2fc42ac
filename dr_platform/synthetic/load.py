"""Loading a plan into the databases: what is missing, by several processes, until all of it is there.

Memory does not grow with the plan: each process holds one block, and few errands wait. A run that was
stopped anywhere is finished by the next one; a run on finished data changes nothing.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any
from uuid import UUID

from dr_platform.catalog import DataClass, Engine
from dr_platform.clock import Clock
from dr_platform.databases.connect import connect_database
from dr_platform.reference_service.cipher import FieldCipher
from dr_platform.synthetic.block import clinician_blocks
from dr_platform.synthetic.draws import LOWEST
from dr_platform.synthetic.plan import Existing, Plan, require_synthetic
from dr_platform.synthetic.progress import Held, Progress, Step, block_id, decide
from dr_platform.synthetic.sealing import Keys, read_keys
from dr_platform.synthetic.worker import CLINICIANS, PATIENTS, Done, Errand, Server, Servers, Worker, carry_out, start
from dr_platform.verdict import Progress as Tell
from dr_platform.verdict import silent

if TYPE_CHECKING:
    from psycopg import Connection

_WAITING = 2
"""Errands per process, so that none waits for the next and none piles up."""
_TOLD_EVERY_S = 5.0
_ACCOUNTS_AT_ONCE = 500
_ASKED_AT_ONCE = 250


@dataclass(frozen=True)
class LoadReport:
    """``loaded`` are rows per database and table of this run, ``held`` those that are there now (of a
    finished load; else of what is recorded). Seconds per database are summed over processes."""

    plan: Plan
    loaded: Mapping[str, Mapping[str, int]]
    held: Mapping[str, Mapping[str, int]]
    seconds: Mapping[str, float]
    generated_s: float
    removed: int
    removed_s: float
    finished: bool
    duration_s: float

    @property
    def rows(self) -> int:
        return sum(sum(tables.values()) for tables in self.loaded.values())


def load(
    plan: Plan,
    servers: Servers,
    environment: str,
    data_class: DataClass,
    clock: Clock,
    *,
    wanted: tuple[str, ...] | None = None,
    existing: Existing = Existing.KEPT,
    processes: int = 2,
    progress: Tell = silent,
) -> LoadReport:
    """Bring the databases to hold the plan's rows. ``wanted`` names those that can be had; while one
    is missing the load stays unfinished.

    Raises ``NotSynthetic`` before anything is connected to; ``OtherData``, ``RemovalUnfinished`` and
    ``LoadInProgress`` before anything is written; ``LoadFailed``, ``LoadRefused`` and what connecting raises.
    """
    require_synthetic(environment, data_class)
    started = clock.monotonic()
    names = tuple(name for name in servers.names if wanted is None or name in wanted)
    with _connected(servers, servers.postgresql) as database:
        records = Progress(database.connection, FieldCipher(servers.secrets, clock))
        with records.alone(clock):
            step = decide(held := records.held(), plan, existing)
            if step is Step.NOTHING and held is not None:
                return LoadReport(plan, {}, held.counts, {}, 0.0, 0, 0.0, True, clock.monotonic() - started)
            removed = 0
            if step is Step.REMOVE_THEN_LOAD and held is not None:
                removed = _remove(held, servers, database.connection, records, progress)
            removed_s = clock.monotonic() - started
            tally = _Tally(plan, clock, progress)
            records.begin(plan)
            _load(plan, servers, names, records, processes, tally, clock)
            complete = names == servers.names
            if complete:
                database.connection.execute("ANALYZE")
            counts = records.finish(plan).counts if complete else records.counts()
    times = (tally.seconds, tally.generated_s, removed, removed_s)
    return LoadReport(plan, tally.loaded(), counts, *times, complete, clock.monotonic() - started)


@contextlib.contextmanager
def _connected(servers: Servers, server: Server) -> Generator[Any]:
    adapter: Any = connect_database(server.database, server.endpoint, servers.secrets, "admin")
    try:
        yield adapter
    finally:
        adapter.close()


class _Tally:
    """What was done so far, told every few seconds."""

    def __init__(self, plan: Plan, clock: Clock, progress: Tell) -> None:
        self._clock, self._progress = clock, progress
        self._most = plan.blocks + clinician_blocks(plan)
        self._counts: dict[str, Counter[str]] = {}
        self._blocks, self._told = 0, clock.monotonic()
        self.seconds: Counter[str] = Counter()
        self.generated_s = 0.0

    def add(self, done: Done) -> None:
        self._blocks += 1
        self.generated_s += done.generated_s
        for database, counts in done.counts.items():
            self._counts.setdefault(database, Counter()).update(counts)
        for database, seconds in done.seconds.items():
            self.seconds[database] += seconds  # type: ignore[assignment]  # ty: ignore[invalid-assignment]
        now = self._clock.monotonic()
        if now - self._told >= _TOLD_EVERY_S:
            self._told = now
            rows = sum(sum(counts.values()) for counts in self._counts.values())
            self._progress(f"synthetic data: {self._blocks} blocks of at most {self._most} done, {rows:,} rows")

    def loaded(self) -> dict[str, dict[str, int]]:
        return {name: dict(sorted(counts.items())) for name, counts in sorted(self._counts.items())}


Recorded = Callable[[Sequence[UUID]], frozenset[UUID]]
"""Which of these blocks are recorded."""


def missing(plan: Plan, part: str, databases: tuple[str, ...], recorded: Recorded) -> Iterator[Errand]:
    """What is left to do of one part, in order of the blocks; asks about a few hundred blocks at a time."""
    blocks = clinician_blocks(plan) if part == CLINICIANS else plan.blocks
    for first in range(0, blocks, _ASKED_AT_ONCE):
        window = range(first, min(first + _ASKED_AT_ONCE, blocks))
        ids = {(name, block): block_id(plan, name, part, block) for block in window for name in databases}
        done = recorded(list(ids.values()))
        for block in window:
            left = tuple(name for name in databases if ids[name, block] not in done)
            if left:
                yield Errand(plan, part, block, left)


def _load(
    plan: Plan,
    servers: Servers,
    names: tuple[str, ...],
    records: Progress,
    processes: int,
    tally: _Tally,
    clock: Clock,
) -> None:
    # Patients refer to clinicians, so those are there before the first patient is.
    parts = ((CLINICIANS, servers.names[:1]), (PATIENTS, names))
    with _workers(servers, read_keys(servers.secrets, clock), processes, clock) as work:
        for part, databases in parts:
            for finished in work(missing(plan, part, databases, records.recorded)):
                tally.add(finished)


@contextlib.contextmanager
def _workers(servers: Servers, keys: Keys, processes: int, clock: Clock) -> Generator[Any]:
    """A function that carries errands out, by this process alone or by so many others."""
    if processes <= 1:
        worker = Worker(servers, keys, clock)
        with contextlib.closing(worker):
            yield lambda errands: map(worker.carry_out, errands)
        return
    # Spawned, not forked: drivers have threads and locks that a fork would copy in any state. What a
    # process is given goes through a pipe, so no key stands in an argument or a file.
    with ProcessPoolExecutor(processes, get_context("spawn"), start, (servers, keys)) as pool:
        try:
            yield lambda errands: _spread(pool, errands, processes * _WAITING)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _spread(pool: ProcessPoolExecutor, errands: Iterator[Errand], most: int) -> Iterator[Done]:
    """Results as they come, with at most so many errands handed out."""
    waiting: set[Future[Done]] = set()
    for errand in errands:
        waiting.add(pool.submit(carry_out, errand))
        if len(waiting) >= most:
            ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in ended)
    for future in waiting:
        yield future.result()


def _remove(held: Held, servers: Servers, connection: Connection[Any], records: Progress, progress: Tell) -> int:
    """Take everything synthetic away; how many rows, keys, documents and conversations that were.
    Accounts go last, because by them a repetition finds the rest."""
    from dr_platform.synthetic.loading import postgresql

    progress(f"removing synthetic data of {held.plan}")
    records.begin_removal(held.plan)
    removed = sum(_remove_from(servers, server, connection) for server in servers.others)
    removed += postgresql.remove(servers.postgresql.database.name, connection)
    records.finish_removal()
    return removed


def _remove_from(servers: Servers, server: Server, accounts: Connection[Any]) -> int:
    name = server.database.name
    with _connected(servers, server) as adapter:
        match server.database.engine:
            case Engine.MONGODB:
                from dr_platform.synthetic.loading import mongodb

                return mongodb.remove(name, adapter.schema)
            case Engine.REDIS:
                from dr_platform.synthetic.loading import redis_

                return redis_.remove(name, adapter.client)
            case _:
                return _remove_conversations(name, adapter.session, accounts)


def _remove_conversations(name: str, session: Any, accounts: Connection[Any]) -> int:
    from dr_platform.synthetic.loading import cql, postgresql

    removed, last = cql.remove_flags(name, session), LOWEST
    while own := postgresql.accounts(accounts, last, _ACCOUNTS_AT_ONCE):
        removed += cql.remove(name, session, own)
        last = own[-1]
    return removed
