"""Measure how fast rows are loaded into PostgreSQL, and made and loaded together.

One million rows, a tenth of them with vectors of 384 dimensions, by two processes, into tables with
primary keys, on the embedded server as it is shipped (checksums and fsync on): once from memory, once
made while they are loaded. Then synthetic patients with all their tables, keys, checks, triggers and
encryption, at two sizes. Every run is made by fresh processes, whose peak memory is compared.
``measure()`` is for other scripts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any
from uuid import UUID

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dr_platform.catalog import DataClass, Engine  # noqa: E402 - the path above must be there first
from dr_platform.clock import SystemClock  # noqa: E402
from dr_platform.databases.connect import connect_database  # noqa: E402
from dr_platform.databases.schema import migrate, read_steps  # noqa: E402
from dr_platform.synthetic.load import load  # noqa: E402
from dr_platform.synthetic.plan import Plan  # noqa: E402
from dr_platform.synthetic.worker import Server, Servers  # noqa: E402
from tests.contracts.embedded_servers import running  # noqa: E402

ROWS = 1_000_000
PROCESSES = 2
DIMENSIONS = 384
BATCH = 10_000
"""Rows that are made at a time, of which a tenth has a vector."""
SCALES = (1.0, 4.0)
WANTED_PER_S = 100_000

_MESSAGES = ("id", "conversation_id", "author", "body", "at"), ("uuid", "uuid", "text", "text", "timestamptz")
_CHUNKS = ("id", "document_id", "text", "embedding"), ("int8", "int8", "text", "vector")
_SCHEMA = f"""
CREATE EXTENSION IF NOT EXISTS vector;
DROP SCHEMA IF EXISTS bench CASCADE;
CREATE SCHEMA bench;
CREATE TABLE bench.messages (id uuid PRIMARY KEY, conversation_id uuid NOT NULL, author text NOT NULL,
    body text NOT NULL, at timestamptz NOT NULL);
CREATE TABLE bench.chunks (id bigint PRIMARY KEY, document_id bigint NOT NULL, text text NOT NULL,
    embedding vector({DIMENSIONS}) NOT NULL);
"""


@dataclass(frozen=True)
class Figures:
    """Of one run. ``peak_bytes`` is the largest resident size of any process that made or loaded."""

    rows: int
    seconds: float
    peak_bytes: int
    load_average: float

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.seconds


@dataclass(frozen=True)
class Measured:
    """``pregenerated`` is loading alone; the pairs are a small and a large run of making and loading."""

    pregenerated: Figures
    streamed: tuple[Figures, Figures]
    synthetic: tuple[Figures, Figures]

    @property
    def passed(self) -> bool:
        flat = all(large.peak_bytes <= 1.15 * small.peak_bytes for small, large in (self.streamed, self.synthetic))
        return flat and self.pregenerated.rows_per_s >= WANTED_PER_S


def peak_bytes(who: int = resource.RUSAGE_SELF) -> int:
    return resource.getrusage(who).ru_maxrss * 1024


Rows = tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]


def batch(first: int, count: int) -> Rows:
    """Messages and chunks with numbers from ``first`` on; a tenth are chunks."""
    import numpy as np

    from dr_platform.synthetic.draws import Draws
    from dr_platform.synthetic.loading.postgresql import moment
    from dr_platform.synthetic.texts import lengths, sentences

    draws, rows = Draws(1), np.arange(first, first + count, dtype=np.uint64)
    answers = draws.chances("answer", rows, 500_000)
    texts = sentences(draws, "text", rows, lengths(draws, "text", rows, answers), answers.tolist())
    ids, talks = draws.uuids("id", rows), draws.uuids("talk", rows // np.uint64(8))
    chunks = count // 10
    spread = draws.bits(
        "vector", np.arange(first, first + chunks * DIMENSIONS, dtype=np.uint64) + rows[0] * np.uint64(64)
    )
    vectors = ((spread >> np.uint64(40)).astype(np.float32) / 2**23 - 1).reshape(chunks, DIMENSIONS)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    made = [
        (
            UUID(ids[at]),
            UUID(talks[at]),
            "assistant" if answers[at] else "patient",
            texts[at],
            moment((first + at) * 1000),
        )
        for at in range(chunks, count)
    ]
    return made, [(first + at, first + at // 8, texts[at], vectors[at]) for at in range(chunks)]


def copy_in(connection: Any, messages: Iterator[tuple[Any, ...]], chunks: Iterator[tuple[Any, ...]]) -> None:
    from dr_platform.synthetic.loading.postgresql import copy_rows

    copy_rows(connection, "bench.messages", *_MESSAGES, messages)
    copy_rows(connection, "bench.chunks", *_CHUNKS, chunks)


@contextlib.contextmanager
def connected(servers: Servers) -> Iterator[Any]:
    from pgvector.psycopg import register_vector

    adapter: Any = connect_database(servers.postgresql.database, servers.postgresql.endpoint, servers.secrets, "admin")
    with contextlib.closing(adapter):
        register_vector(adapter.connection)
        adapter.connection.limit_s = 600
        yield adapter.connection


def from_memory(servers: Servers, share: range, ready: Barrier, report: Any) -> None:
    """All rows are there before the clock runs."""
    parts = [batch(first, BATCH) for first in share]
    with connected(servers) as connection:
        ready.wait()
        with connection.transaction():
            copy_in(connection, chain.from_iterable(p[0] for p in parts), chain.from_iterable(p[1] for p in parts))
    report.put(peak_bytes())


def as_they_are_made(servers: Servers, share: range, ready: Barrier, report: Any) -> None:
    """One batch at a time, each in a transaction."""
    batch(0, 100)  # modules and tables are there before the clock runs
    with connected(servers) as connection:
        ready.wait()
        for first in share:
            messages, chunks = batch(first, BATCH)
            with connection.transaction():
                copy_in(connection, iter(messages), iter(chunks))
    report.put(peak_bytes())


Work = Callable[[Servers, range, Barrier, Any], None]


def timed_rows(servers: Servers, rows: int, work: Work) -> Figures:
    """So many rows into empty tables, by processes that begin at once; until the last has committed."""
    with connected(servers) as connection:
        connection.execute(_SCHEMA)
        connection.execute("CHECKPOINT")  # what was written before is not paid for here
    context = multiprocessing.get_context("spawn")
    ready, report = context.Barrier(PROCESSES + 1), context.Queue()
    shares = [range(number * BATCH, rows, PROCESSES * BATCH) for number in range(PROCESSES)]
    started = [context.Process(target=work, args=(servers, share, ready, report)) for share in shares]
    for process in started:
        process.start()
    ready.wait()
    began = time.perf_counter()
    peaks = [report.get() for _ in started]
    seconds = time.perf_counter() - began
    for process in started:
        process.join()
    with connected(servers) as connection:
        counts = connection.execute("SELECT (SELECT count(*) FROM bench.messages), (SELECT count(*) FROM bench.chunks)")
        found = counts.fetchone()
    if found != (rows - rows // 10, rows // 10):
        raise RuntimeError(f"{found} rows are there instead of {rows}")
    return Figures(rows, seconds, max(peaks), os.getloadavg()[0])


def timed_synthetic(servers: Servers, scale: float) -> Figures:
    """Synthetic patients into all tables of the catalog's PostgreSQL database."""
    with connected(servers) as connection:
        connection.execute("CHECKPOINT")
    context = multiprocessing.get_context("spawn")
    report = context.Queue()
    process = context.Process(target=synthesized, args=(servers, scale, report))
    process.start()
    figures = report.get()
    process.join()
    return figures


def synthesized(servers: Servers, scale: float, report: Any) -> None:
    from dr_platform.synthetic.plan import Existing

    done = load(
        Plan(1, scale),
        servers,
        "local",
        DataClass.SYNTHETIC,
        SystemClock(),
        existing=Existing.REPLACED,
        processes=PROCESSES,
    )
    # Removing what the run before has left is not part of it.
    seconds = max(done.duration_s - done.removed_s, 1e-9)
    # The pool's processes have ended, so they are counted among the children.
    peak = max(peak_bytes(), peak_bytes(resource.RUSAGE_CHILDREN))
    report.put(Figures(done.rows, seconds, peak, os.getloadavg()[0]))


def measure(rows: int = ROWS, scales: Sequence[float] = SCALES) -> Measured:
    """Everything, on a server of its own that goes away."""
    with running(Engine.POSTGRESQL, "postgres") as server:
        servers = Servers(Server(server.database, server.endpoint), (), server.secrets)
        pregenerated = timed_rows(servers, rows, from_memory)
        streamed = (timed_rows(servers, rows // 4, as_they_are_made), timed_rows(servers, rows, as_they_are_made))
        database = connect_database(server.database, server.endpoint, server.secrets, "admin")
        with contextlib.closing(database):
            migrate(database, read_steps(ROOT / "catalog" / "databases" / "postgres" / "migrations"))
        small, large = (timed_synthetic(servers, scale) for scale in scales)
    return Measured(pregenerated, streamed, (small, large))


def table(measured: Measured) -> list[str]:
    rows = (
        ("1,000,000 rows from memory, a tenth with vectors of 384 dimensions", measured.pregenerated),
        ("a quarter of them, made while loaded", measured.streamed[0]),
        ("all of them, made while loaded", measured.streamed[1]),
        ("synthetic patients, all PostgreSQL tables, small", measured.synthetic[0]),
        ("synthetic patients, all PostgreSQL tables, large", measured.synthetic[1]),
    )
    head = "| What, by two processes | Rows | s | Rows/s | Peak memory of a process, MB | Load average |"
    return [head, "| --- | --- | --- | --- | --- | --- |", *(_line(what, figures) for what, figures in rows)]


def _line(what: str, figures: Figures) -> str:
    measured = f"{figures.rows:,} | {figures.seconds:.1f} | {figures.rows_per_s:,.0f}"
    return f"| {what} | {measured} | {figures.peak_bytes / 1e6:.0f} | {figures.load_average:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS, help=f"a multiple of {4 * PROCESSES * BATCH}")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    asked = parser.parse_args()
    if asked.rows < 4 * PROCESSES * BATCH or asked.rows % (4 * BATCH):
        parser.error(f"--rows must be a multiple of {4 * BATCH}, at least {4 * PROCESSES * BATCH}")
    measured = measure(asked.rows)
    print(json.dumps(asdict(measured), indent=2) if asked.json else "\n".join(table(measured)))
    raise SystemExit(0 if measured.passed else 1)


if __name__ == "__main__":
    main()
