"""Supervised programs for tests: their state where any user may pass, each process started as a supervisor would."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dr_platform.catalog import Database, Engine
from dr_platform.databases.embedded.cql import UNKEPT
from dr_platform.runtime.local.programs import Program
from dr_platform.state import StateDirectory, locate_state

ROOT = Path(__file__).parents[1]
_PORTS = range(27100, 30580)
_PROCESSES = 6


@contextlib.contextmanager
def temporary_state() -> Iterator[StateDirectory]:
    """A state directory that goes away. Not pytest's own folder, which is closed to other users: as
    root PostgreSQL runs as another one."""
    base = Path(tempfile.mkdtemp(prefix="drp-test-"))
    base.chmod(0o711)
    state = locate_state("local", base).make()
    state.make_run()
    try:
        yield state
    finally:
        shutil.rmtree(base, ignore_errors=True)
        shutil.rmtree(state.run, ignore_errors=True)


def unkept(program: Program, engine: Engine) -> Program:
    """The same for a server that no test starts again: what it writes need not survive it."""
    if engine is not Engine.SCYLLADB:
        return program
    return replace(program, environment={**program.environment, **UNKEPT})


class Running:
    """One program's process, in a session of its own, with next to no environment."""

    def __init__(self, program: Program, state: StateDirectory) -> None:
        self.program = program
        self.log = state.logs / f"{program.name}.log"
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(state.root),
            "PYTHONPATH": str(ROOT),
            "DRP_STATE_ROOT": str(state.root),
            **program.environment,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                program.argv, env=environment, cwd=program.directory, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        """The stop signal, and SIGKILL after the time the program has for it."""
        if self.process.poll() is None:
            self.process.send_signal(getattr(signal, f"SIG{self.program.stop_signal}"))
        try:
            self.process.wait(self.program.stop_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL to this one process, as a supervisor's child may meet it at any moment."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(10)


@contextlib.contextmanager
def running(program: Program, state: StateDirectory) -> Iterator[Running]:
    started = Running(program, state)
    try:
        yield started
    finally:
        started.stop()


def free_port() -> int:
    """Two free ports in a row; the lower one. Above the documented ports and apart from those of other
    tests, below those that the kernel gives to outgoing connections, which may take one at any moment."""
    # Each test process has ports of its own: what is free now may be another's before its server has taken it.
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = _PORTS.start + worker % _PROCESSES * (len(_PORTS) // _PROCESSES)
    for port in (*range(first, _PORTS.stop, 10), *range(_PORTS.start, first, 10)):
        with contextlib.ExitStack() as held:
            try:
                for number in (port, port + 1):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", number))
            except OSError:
                continue
            return port
    raise OSError("no free ports")


def a_database(engine: Engine, name: str = "store", port: int = 10000) -> Database:
    return Database.model_validate(
        {
            "name": name,
            "title": "A store",
            "description": "For tests",
            "engine": engine,
            "port": port,
            "database": "therapy",
            "owner": "team:tests",
            "data_class": "synthetic",
            "resources": {"cpu": {"request": 1, "limit": 1}, "memory": {"request": "1 GiB", "limit": "1 GiB"}},
            "latency": "100 ms",
        }
    )


def open_to_others(folder: Path) -> list[str]:
    """Everything below ``folder``, itself included, that somebody but its owner may use."""
    found = [folder, *folder.rglob("*")]
    return [
        f"{stat.filemode(p.lstat().st_mode)} {p}" for p in found if not p.is_symlink() and p.lstat().st_mode & 0o077
    ]


def listening_addresses(pid: int) -> set[str]:
    """Host addresses of the TCP sockets a process listens on."""
    import psutil

    return {c.laddr.ip for c in psutil.Process(pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN}
