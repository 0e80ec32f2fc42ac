"""Measure backups of PostgreSQL beside the tools that people use, on one database of about 1 GB.

``measure`` returns rows of figures; ``make bench-data`` prints them and keeps them. Everything runs on this machine,
one thing after the other, so ratios of one run are what counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402 - the path above must be there first
import psutil  # noqa: E402
import psycopg  # noqa: E402
from psycopg import sql  # noqa: E402

from dr_platform.backups.bucket import Bucket  # noqa: E402
from dr_platform.backups.keys import KeyRing  # noqa: E402
from dr_platform.backups.manifest import Manifest  # noqa: E402
from dr_platform.backups.pipeline import BackupWriter, Order  # noqa: E402
from dr_platform.backups.port import Kind, StoredBackup  # noqa: E402
from dr_platform.backups.postgresql.access import Access, tool_environment  # noqa: E402
from dr_platform.backups.postgresql.engine import PostgresBackups, postgres_backups  # noqa: E402
from dr_platform.backups.postgresql.scratch import Site  # noqa: E402
from dr_platform.backups.proof import Budget, Prover  # noqa: E402
from dr_platform.backups.reading import BackupReader  # noqa: E402
from dr_platform.catalog import Engine  # noqa: E402
from dr_platform.clock import SystemClock  # noqa: E402
from dr_platform.databases.access import read_login  # noqa: E402
from dr_platform.databases.port import DatabaseUnreachable  # noqa: E402
from dr_platform.secrets.embedded import EmbeddedSecretStore  # noqa: E402
from tests import embedded_programs  # noqa: E402
from tests.contracts.embedded_servers import running  # noqa: E402

DIMENSIONS = 384
VECTORS = 150_000
MESSAGES = 1_500_000
PEOPLE = 500_000
TOPICS = 2_000
"""Vectors of texts lie in clusters; wholly random ones are not what any index is made for."""
_WORDS = 6_000
_SEED = 20261126
_BLOCK = 5_000
# As on a server of this size; the rest is as the platform ships it.
_TUNING = ("shared_buffers=1GB", "maintenance_work_mem=1GB", "max_wal_size=8GB")


@dataclass
class Measured:
    """Seconds of each run, sizes in bytes."""

    name: str
    seconds: list[float] = field(default_factory=list)
    size_bytes: int = 0
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds) if self.seconds else float("nan")


# Rows


def fill(access: Access, share: float = 1.0, vectors: str = f"vector({DIMENSIONS})") -> None:
    """People, messages with words of a natural skew, and pieces of text with vectors in clusters. ``vectors`` is the
    type of their column; ``bytea`` takes the same bytes where there is no pgvector."""
    with access.connect({}) as connection:
        chunks = (
            f"CREATE TABLE chunks (id bigint PRIMARY KEY, document bigint, body text, embedding {vectors} NOT NULL)"
        )
        connection.execute(chunks.encode())
        connection.execute(
            "CREATE TABLE people (id bigint PRIMARY KEY, mrn text UNIQUE, name text, email text, born date, phone text,"
            " street text, city text, state text, postcode text, note text);"
            "CREATE TABLE messages (id bigint PRIMARY KEY, person bigint NOT NULL, at timestamptz NOT NULL, body text)"
        )
        random = np.random.default_rng(_SEED)
        words = np.array([_word(random) for _ in range(_WORDS)])
        _people(connection, int(PEOPLE * share))
        _messages(connection, random, words, int(MESSAGES * share), int(PEOPLE * share))
        _chunks(connection, random, words, range(int(VECTORS * share)))
        connection.execute(
            "CREATE INDEX ON messages (person, at); CREATE INDEX ON chunks (document);"
            "ALTER TABLE messages ADD FOREIGN KEY (person) REFERENCES people"
        )


def index_vectors(access: Access) -> None:
    with access.connect({}) as connection:
        connection.execute("SET maintenance_work_mem = '1GB'")
        connection.execute("SET max_parallel_maintenance_workers = 1")
        connection.execute("CREATE INDEX chunks_embedding ON chunks USING hnsw (embedding vector_cosine_ops)")
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def _word(random: np.random.Generator) -> str:
    return "".join(chr(97 + int(c)) for c in random.integers(0, 26, int(random.integers(2, 11))))


def _people(connection: psycopg.Connection[Any], count: int) -> None:
    query = sql.SQL(
        "INSERT INTO people SELECT i, 'MRN-' || lpad(i::text, 8, '0'), 'Name' || (i * 7919 % 90001) || ' Family'"
        " || (i * 104729 % 70001), 'user' || i || '@example.invalid', date '1930-01-01' + (i * 31 % 30000)::int,"
        " '555-' || lpad((i * 6007 % 10000000)::text, 7, '0'), (i % 9000) || ' Street ' || (i % 613),"
        " 'City' || (i % 997), chr(65 + (i % 26)::int) || chr(65 + (i / 26 % 26)::int),"
        " lpad((i * 13 % 99999)::text, 5, '0'), md5(i::text) FROM generate_series(1, {}::bigint) i"
    )
    connection.execute(query.format(count))


def _bodies(random: np.random.Generator, words: np.ndarray, count: int, length: int) -> list[str]:
    ranks = np.minimum(random.zipf(1.2, (count, length)) - 1, _WORDS - 1)
    return [" ".join(row) for row in words[ranks]]


def _messages(
    connection: psycopg.Connection[Any], random: np.random.Generator, words: np.ndarray, count: int, people: int
) -> None:
    with connection.cursor().copy("COPY messages (id, person, at, body) FROM STDIN") as copy:
        for first in range(0, count, _BLOCK * 4):
            size = min(_BLOCK * 4, count - first)
            persons = random.integers(1, max(2, people), size)
            lines = [
                f"{first + n}\t{person}\t2026-01-01 00:{n % 60:02d}:00+00\t{body}\n"
                for n, (person, body) in enumerate(zip(persons, _bodies(random, words, size, 28), strict=True))
            ]
            copy.write("".join(lines))


def _chunks(connection: psycopg.Connection[Any], random: np.random.Generator, words: np.ndarray, ids: range) -> None:
    centres = np.random.default_rng(_SEED + 1).standard_normal((TOPICS, DIMENSIONS)).astype(np.float32)
    with connection.cursor().copy("COPY chunks (id, document, body, embedding) FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["int8", "int8", "text", "bytea"])
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
        for first in range(ids.start, ids.stop, _BLOCK):
            size = min(_BLOCK, ids.stop - first)
            vectors = centres[random.integers(0, TOPICS, size)]
            vectors = vectors + 0.8 * random.standard_normal((size, DIMENSIONS)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            bodies = _bodies(random, words, size, 90)
            copy.write(b"".join(map(_binary_row, range(first, first + size), bodies, vectors)))
        copy.write(b"\xff\xff")


def _binary_row(number: int, body: str, vector: np.ndarray) -> bytes:
    text, values = body.encode(), vector.astype(">f4").tobytes()
    fields = (number.to_bytes(8, "big"), (number // 20).to_bytes(8, "big"), text)
    head = DIMENSIONS.to_bytes(2, "big") + bytes(2)
    parts = [b"\0\4", *(len(f).to_bytes(4, "big") + f for f in fields)]
    return b"".join((*parts, (len(head) + len(values)).to_bytes(4, "big"), head, values))


def change(access: Access, share: float) -> None:
    """Of people and messages 1.5 % are added and 0.5 % changed in one range."""
    with access.connect({}) as connection:
        connection.execute(
            "INSERT INTO messages SELECT id + 100000000, person, at, reverse(body) FROM messages WHERE id < %s",
            (int(MESSAGES * share * 0.015),),
        )
        connection.execute(
            "UPDATE messages SET body = body || ' corrected' WHERE id BETWEEN 1000 AND %s",
            (1000 + int(MESSAGES * share * 0.005),),
        )
        connection.execute(
            "INSERT INTO people SELECT id + 100000000, 'N' || mrn, name, email, born, phone, street, city, state,"
            " postcode, note FROM people WHERE id < %s",
            (int(PEOPLE * share * 0.015),),
        )
        connection.execute(
            "UPDATE people SET note = 'corrected' WHERE id BETWEEN 1000 AND %s", (1000 + int(PEOPLE * share * 0.005),)
        )


def change_vectors(access: Access, share: float) -> None:
    """The same share of the vectors. A new entry of an HNSW index is written into some twenty pages all over it."""
    random = np.random.default_rng(_SEED + 2)
    words = np.array([_word(random) for _ in range(_WORDS)])
    with access.connect({}) as connection:
        new = int(VECTORS * share * 0.015)
        _chunks(connection, random, words, range(100_000_000, 100_000_000 + new))
        connection.execute(
            "UPDATE chunks SET document = document + 1 WHERE id BETWEEN 1000 AND %s",
            (1000 + int(VECTORS * share * 0.005),),
        )


# What is measured


@dataclass
class Bench:
    """One server, a bucket beside it, and where results go."""

    engine: PostgresBackups
    folder: Path
    runs: int
    share: float
    progress: Callable[[str], None]
    results: dict[str, Measured] = field(default_factory=dict)
    later: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __post_init__(self) -> None:
        self.keys = KeyRing(EmbeddedSecretStore(self.folder / "secrets"))
        self.keys.make_escrow(self.folder / "escrow.txt")
        self.bucket = Bucket.of_folder(self.folder / "objects")
        self.reader = BackupReader(self.bucket, self.keys)
        self.writer = BackupWriter(self.bucket, self.keys, SystemClock())
        self.programs = self.engine.site.programs()

    def timed(self, name: str, act: Callable[[], int], note: str = "") -> None:
        """What ``act`` leaves in ``later`` is taken away when the clock has stopped."""
        found = self.results.setdefault(name, Measured(name, note=note))
        with contextlib.ExitStack() as self.later:
            began = time.monotonic()
            found.size_bytes = act()
            found.seconds.append(time.monotonic() - began)
        told = f"{name}: {found.seconds[-1]:.1f} s, {found.size_bytes / 1e6:.0f} MB"
        self.progress(f"{told}, load average {os.getloadavg()[0]:.1f}")

    # The tools

    def dump_through(self, compressor: str, file: str) -> int:
        target = self.folder / file
        with tool_environment(self.engine.access) as environment:
            # As in every runbook, but a failure of the first stage counts.
            command = f"set -o pipefail; '{self.programs}/pg_dump' | {compressor} > '{target}'"
            subprocess.run(["bash", "-c", command], env={**environment, "PATH": os.environ["PATH"]}, check=True)
        return target.stat().st_size

    def tuned_psql(self, decompressor: str, file: str) -> int:
        """Into a new server with fsync off and memory for the index, up to the first answer."""
        server = self.later.enter_context(self.engine.scratch()).server
        server.make(["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"])
        server.configure(4 << 30, {"maintenance_work_mem": "1GB", "max_parallel_maintenance_workers": "1"})
        server.start()
        for role in ("drp_admin", "drp_application"):
            with server.access().connect({}) as connection:
                connection.execute(f"CREATE ROLE {role} SUPERUSER".encode())
        with tool_environment(server.access()) as environment:
            psql = f"'{self.programs}/psql' -qX -v ON_ERROR_STOP=1"
            command = f"set -o pipefail; {decompressor} '{self.folder / file}' | {psql}"
            subprocess.run(
                ["bash", "-c", command],
                env={**environment, "PATH": os.environ["PATH"]},
                stdout=subprocess.DEVNULL,
                check=True,
            )
        self.first_answer(server.access())
        return 0

    def first_answer(self, access: Access) -> None:
        with access.connect({}) as connection:
            row = connection.execute(
                "SELECT count(*) FROM (SELECT FROM chunks ORDER BY embedding <=> (SELECT embedding FROM chunks LIMIT 1)"
                " LIMIT 10) AS near"
            ).fetchone()
            if row is None or row[0] != 10:
                raise RuntimeError("the restored database gave no answer")

    # Ours

    def take(self, kind: Kind, parent: StoredBackup | None = None) -> Manifest:
        return self.writer.take(Order("bench", "live", kind, "measurement", "bench"), self.engine, parent)

    def prove(self, manifest: Manifest) -> None:
        proof = Prover(self.reader, SystemClock()).prove(
            "live", manifest.backup_id, self.engine, Budget(3600, 3600), "bench"
        )
        if proof.state != "verified":
            raise RuntimeError(f"{proof.state}: {proof.reason}")
        self.progress("   " + "; ".join(f"{c.name}: {c.detail}" for c in proof.checks))

    def restore(self, chain: tuple[StoredBackup, ...]) -> int:
        place = self.later.enter_context(self.engine.scratch())
        place.restore(chain)
        self.first_answer(place.access)
        return 0

    def drop(self, manifest: Manifest) -> None:
        for info in list(self.bucket.objects.list(f"backups/live/{manifest.backup_id}")):
            self.bucket.objects.delete(info.key)


@contextlib.contextmanager
def peak_memory() -> Iterator[list[int]]:
    """The highest sum of memory of the children of this process and of theirs (PSS: what several share counts once),
    servers and their programs left out."""
    me, peak, stop = psutil.Process(), [0], threading.Event()

    def look() -> None:
        while not stop.wait(0.05):
            total = 0
            for process in me.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if "python" in process.name():
                        total += process.memory_full_info().pss
            peak[0] = max(peak[0], total)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def bench(share: float, runs: int, progress: Callable[[str], None]) -> Iterator[Bench]:
    """A filled server. ``share`` of 1 is 1 GB."""
    with running(Engine.POSTGRESQL, "live") as server, tempfile.TemporaryDirectory(prefix="drp-bench-") as folder:
        admin = read_login("live", "admin", server.secrets)
        engine = postgres_backups("live", server.endpoint, admin, Site(server.state, 2 << 30))
        with engine.access.connect({}) as connection:
            for setting in _TUNING:
                name, value = setting.split("=")
                connection.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
        server.process.stop()
        with embedded_programs.running(server.process.program, server.state):
            wait_for(engine.access)
            progress("filling")
            fill(engine.access, share)
            yield Bench(engine, Path(folder), runs, share, progress)


def wait_for(access: Access) -> None:
    while True:
        with contextlib.suppress(DatabaseUnreachable):
            access.connect({}).close()
            return
        time.sleep(0.1)


def measure(share: float = 1.0, runs: int = 3, progress: Callable[[str], None] = print) -> dict[str, Any]:
    """All rows, the tools first."""
    with bench(share, runs, progress) as it:
        index_vectors(it.engine.access)
        with it.engine.access.connect({}) as connection:
            row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
            size = int(row[0]) if row else 0
        for _ in range(runs):
            _backups(it)
        _restores(it)
        _incremental(it)
        return {"database_bytes": size, "rows": [asdict(row) | {"median": row.median} for row in it.results.values()]}


def _backups(it: Bench) -> None:
    it.timed("pg_dump | gzip", lambda: it.dump_through("gzip", "dump.gz"))
    if shutil.which("zstd"):
        it.timed("pg_dump | zstd -3 -T2", lambda: it.dump_through("zstd -3 -T2 -q", "dump.zst"))
    for kind in (Kind.LOGICAL, Kind.PHYSICAL_FULL):
        kept: list[Manifest] = []

        def take(kind: Kind = kind, kept: list[Manifest] = kept) -> int:
            kept.append(it.take(kind))
            return kept[-1].size_bytes

        it.timed(f"encrypted {kind}", take)
        it.drop(kept[0])

    def proved() -> int:
        manifest = it.take(Kind.PHYSICAL_FULL)
        it.prove(manifest)
        it.drop(manifest)
        return manifest.size_bytes

    it.timed("encrypted and proved by restore", proved)


def _restores(it: Bench) -> None:
    manifests = {kind: it.take(kind) for kind in (Kind.PHYSICAL_FULL, Kind.LOGICAL)}
    for _ in range(it.runs):
        it.timed("gunzip | psql, tuned, to first answer", lambda: it.tuned_psql("gunzip -c", "dump.gz"))
        for kind, manifest in manifests.items():
            chain = it.reader.chain("live", manifest.backup_id)
            it.timed(f"restore of {kind} to first answer", lambda chain=chain: it.restore(chain))
    for manifest in manifests.values():
        it.drop(manifest)


def _incremental(it: Bench) -> None:
    """The same changes once; each run begins from the same full backup."""
    full = it.take(Kind.PHYSICAL_FULL)
    (parent,) = it.reader.chain("live", full.backup_id)
    change(it.engine.access, it.share)
    newest: list[Manifest] = []

    def take() -> int:
        newest.append(it.take(Kind.PHYSICAL_INCREMENTAL, parent))
        return newest[-1].size_bytes

    for _ in range(it.runs):
        it.timed("incremental, 1.5 % added and 0.5 % changed", take)
    change_vectors(it.engine.access, it.share)
    it.timed("the same, of the vectors as well", take)
    it.results["full it begins from"] = Measured("full it begins from", [], full.size_bytes)
    it.timed("restore of full and incremental", lambda: it.restore(it.reader.chain("live", newest[-1].backup_id)))


def grow(access: Access, copies: range) -> None:
    """Messages and vectors again, each copy under numbers of its own. Only their texts repeat, farther apart
    than any compressor looks."""
    with access.connect({}) as connection:
        for number in copies:
            connection.execute(
                "INSERT INTO messages SELECT id + %s, person, at, body FROM messages WHERE id < 50000000",
                (number * 50_000_000,),
            )
            connection.execute(
                "INSERT INTO chunks SELECT id + %s, document, body, embedding FROM chunks WHERE id < 50000000",
                (number * 50_000_000,),
            )
        connection.execute("CHECKPOINT")


def _taken(engine: PostgresBackups, folder: Path, kind: Kind) -> Manifest:
    """In a process that has done nothing else: what filled the database has memory of its own."""
    keys = KeyRing(EmbeddedSecretStore(folder / "secrets"))
    writer = BackupWriter(Bucket.of_folder(folder / "objects"), keys, SystemClock())
    return writer.take(Order("bench", "live", kind, "measurement", "bench"), engine)


def measure_memory(shares: tuple[float, ...], progress: Callable[[str], None] = print) -> list[dict[str, float]]:
    """Peak of the backup's own processes on a database that grows from share to share; without a vector index, which
    is not read. 1 is 1 GB."""
    rows = []
    first, copies = min(shares[0], 1.0), 1
    with bench(first, 1, progress) as it:
        with it.engine.access.connect({}) as connection:
            connection.execute("DROP INDEX messages_person_at_idx, chunks_document_idx")
            connection.execute("ALTER TABLE messages DROP CONSTRAINT messages_person_fkey")
        for share in shares:
            wanted = round(share / first)
            grow(it.engine.access, range(copies, wanted))
            copies = max(copies, wanted)
            for kind in (Kind.LOGICAL, Kind.PHYSICAL_FULL):
                with peak_memory() as peak, ProcessPoolExecutor(1, get_context("spawn")) as alone:
                    manifest = alone.submit(_taken, it.engine, it.folder, kind).result()
                rows.append({"share": share, "kind": str(kind), "raw": manifest.raw_bytes, "peak": peak[0]})
                progress(f"{kind} of {manifest.raw_bytes / 1e6:.0f} MB: peak {peak[0] / 1e6:.0f} MB")
                it.drop(manifest)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--share", type=float, default=1.0, help="1 is 1 GB")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--memory", type=float, nargs="*", help="shares whose peak memory is measured instead")
    chosen = parser.parse_args()
    if chosen.memory:
        print(json.dumps(measure_memory(tuple(chosen.memory)), indent=1))
    else:
        print(json.dumps(measure(chosen.share, chosen.runs), indent=1))


if __name__ == "__main__":
    main()
