"""Measure pgBackRest beside our base backups, on the same rows.

Debian's pgBackRest 2.45 knows PostgreSQL up to 15, for which Debian has no pgvector: there vectors are bytes of the
same length, and neither side has a vector index. Both encrypt, both compress by zstd level 2, both have two processes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dr_platform.backups.port import Kind  # noqa: E402 - the path above must be there first
from dr_platform.backups.postgresql.access import Access  # noqa: E402
from dr_platform.databases.embedded.files import ServerUser, private_directory  # noqa: E402
from dr_platform.databases.embedded.postgresql_files import server_user  # noqa: E402
from scripts.bench_data_backups import Measured, bench, change, fill, wait_for  # noqa: E402

PROGRAMS = Path("/usr/lib/postgresql/15/bin")
STANZA = "bench"
_CONFIGURATION = """\
[global]
repo1-path={folder}/repo
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass={key}
repo1-retention-full=9
compress-type=zst
compress-level=2
process-max=2
start-fast=y
log-path={folder}/log
lock-path={folder}/lock
log-level-console=warn
log-level-file=off
[{stanza}]
pg1-path={folder}/data
pg1-socket-path={folder}
pg1-user=drp
"""


def available() -> bool:
    return shutil.which("pgbackrest") is not None and (PROGRAMS / "postgres").exists()


@dataclass
class Debian:
    """PostgreSQL 15 with an archive of pgBackRest, as a user of its own."""

    folder: Path
    user: ServerUser

    @property
    def access(self) -> Access:
        return Access("debian", str(self.folder), 5432, "postgres", "drp", "")

    def run(self, *command: str | Path) -> None:
        subprocess.run(
            [str(word) for word in command],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            **self.identity,
        )

    @property
    def identity(self) -> dict[str, Any]:
        if self.user.is_me:
            return {}
        return {"user": self.user.uid, "group": self.user.gid, "extra_groups": []}

    def backrest(self, *words: str) -> None:
        self.run("pgbackrest", f"--config={self.folder}/pgbackrest.conf", f"--stanza={STANZA}", *words)

    def size_of_backups(self) -> int:
        return sum(path.stat().st_size for path in (self.folder / "repo" / "backup").rglob("*") if path.is_file())


@contextlib.contextmanager
def debian(share: float) -> Iterator[Debian]:
    with tempfile.TemporaryDirectory(prefix="drp-br-") as name:
        server = Debian(private_directory(Path(name), server_user()), server_user())
        configuration = _CONFIGURATION.format(folder=name, key=secrets.token_hex(32), stanza=STANZA)
        file = server.folder / "pgbackrest.conf"
        file.write_text(configuration, encoding="utf-8")
        shutil.chown(file, server.user.uid, server.user.gid)
        data = server.folder / "data"
        server.run(PROGRAMS / "initdb", "-D", data, "-U", "drp", "--auth=trust", "--data-checksums", "--no-sync")
        push = f"pgbackrest --config={file} --stanza={STANZA} archive-push %p"
        settings = {"listen_addresses": "", "unix_socket_directories": name, "archive_mode": "on"}
        settings |= {"archive_command": push, "shared_buffers": "1GB", "max_wal_size": "8GB"}
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        with (server.folder / "server.log").open("wb") as log:
            process = subprocess.Popen(
                [str(PROGRAMS / "postgres"), "-D", str(data), *options], stdout=log, stderr=log, **server.identity
            )
        try:
            wait_for(server.access)
            server.backrest("stanza-create")
            fill(server.access, share, vectors="bytea")
            with server.access.connect({}) as connection:
                connection.execute("VACUUM ANALYZE")
                connection.execute("CHECKPOINT")
            yield server
        finally:
            process.terminate()
            process.wait(60)


def measure(share: float = 1.0, runs: int = 3, progress: Callable[[str], None] = print) -> dict[str, Any]:
    """Rows of both sides; the pair to compare has the same words at its end."""
    rows: list[Measured] = []
    with bench(share, runs, progress) as ours:
        with ours.engine.access.connect({}) as connection:
            connection.execute("VACUUM ANALYZE")
            connection.execute("CHECKPOINT")
        for _ in range(runs):
            ours.timed("ours: full", lambda: ours.take(Kind.PHYSICAL_FULL).size_bytes)
        rows += ours.results.values()
    with debian(share) as server:
        full, less = Measured("pgBackRest: full"), Measured("pgBackRest: incremental, after the same changes")
        for _ in range(runs):
            _timed(server, full, "full", progress)
        change(server.access, share)
        _timed(server, less, "incr", progress)
        rows += (full, less)
    return {"rows": [asdict(row) | {"median": row.median} for row in rows]}


def _timed(server: Debian, into: Measured, kind: str, progress: Callable[[str], None]) -> None:
    before, began = server.size_of_backups(), time.monotonic()
    server.backrest("backup", f"--type={kind}")
    into.seconds.append(time.monotonic() - began)
    into.size_bytes = server.size_of_backups() - before
    progress(f"{into.name}: {into.seconds[-1]:.1f} s, {into.size_bytes / 1e6:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--share", type=float, default=1.0, help="1 is 1 GB")
    parser.add_argument("--runs", type=int, default=3)
    chosen = parser.parse_args()
    if not available():
        sys.exit("pgbackrest or PostgreSQL 15 is not on this machine")
    print(json.dumps(measure(chosen.share, chosen.runs), indent=1))


if __name__ == "__main__":
    main()
