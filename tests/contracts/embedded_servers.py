"""Starts one embedded database server for tests, without a supervisor, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from dr_platform.catalog import Database, Engine
from dr_platform.databases.embedded import embedded_server
from dr_platform.databases.port import Endpoint
from dr_platform.secrets.embedded import EmbeddedSecretStore
from dr_platform.state import StateDirectory


def a_database(engine: Engine, name: str, port: int = 19999) -> Database:
    return Database.model_validate(
        {
            "name": name,
            "title": name,
            "description": "a database of a test",
            "engine": engine,
            "port": port,
            "database": "therapeutic_ai",
            "owner": "team:test",
            "data_class": "synthetic",
            "resources": {"cpu": {"request": 1, "limit": 1}, "memory": {"request": "1 GiB", "limit": "1 GiB"}},
            "latency": "100 ms",
        }
    )


def free_port() -> int:
    """A port that is free together with the next one, which some servers take for themselves."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + 1))
                return port


def until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    """Wait for an event that nothing reports."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"did not happen within {within_s:g} s"
        time.sleep(0.01)


@dataclass(frozen=True)
class Running:
    """A server that answers, with the secrets that open it."""

    database: Database
    endpoint: Endpoint
    state: StateDirectory
    secrets: EmbeddedSecretStore
    process: subprocess.Popen[bytes]

    @contextlib.contextmanager
    def stopped(self) -> Generator[None]:
        """Every process of the server stands still: its sockets accept, nobody answers."""
        family = [psutil.Process(self.process.pid)]
        family += family[0].children(recursive=True)
        for process in family:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def running(engine: Engine, name: str, ready_s: float = 60.0) -> Iterator[Running]:
    folder = Path(tempfile.mkdtemp(prefix="drp-db-"))
    try:
        folder.chmod(0o711)  # the server may run as another user
        state = StateDirectory(root=folder / "state", run=folder / "run").make()
        secrets = EmbeddedSecretStore(state.secrets)
        # Catalog ports end below 20000; the offset carries the rest of the way to a free one.
        database = a_database(engine, name)
        server = embedded_server(database, state, secrets, port_offset=free_port() - database.port)
        server.acquire(print)
        server.prepare()
        program = server.program()
        with (state.logs / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                program.argv,
                env={**os.environ, **program.environment, "DRP_STATE_ROOT": str(state.root)},
                cwd=program.directory,
                stdout=log,
                stderr=log,
            )
        try:
            server.initialise(ready_s)
            yield Running(database, server.endpoint(), state, secrets, process)
        finally:
            process.send_signal(getattr(signal, f"SIG{program.stop_signal}"))
            try:
                process.wait(program.stop_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
