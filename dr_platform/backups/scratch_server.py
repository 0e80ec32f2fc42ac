"""Embedded servers that live as long as one restore, in folders that nobody else reads.

Here: a private working folder, its removal also after a process that was killed, and a server of an
engine of ours in it. Not here: what is restored into the server.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from dr_platform.backups.source import RestoreFailed
from dr_platform.catalog import Database
from dr_platform.clock import Clock
from dr_platform.databases.access import Login, read_login
from dr_platform.databases.embedded import embedded_server
from dr_platform.databases.embedded.port import EmbeddedServer, ServerNotReady
from dr_platform.databases.port import Endpoint
from dr_platform.runtime.local import leftovers
from dr_platform.runtime.local.programs import Program
from dr_platform.secrets.embedded import EmbeddedSecretStore
from dr_platform.state import StateDirectory, locate_state
from dr_platform.verdict import silent

READY_S = 120.0
"""Cassandra takes 5 to 25 s on two busy cores; Redis reads its whole file first."""
_LOOK_S = 2.0
_PORTS = range(30700, 32700, 2)
"""Above the catalog's ports and below those that the kernel gives to outgoing connections."""
_DRAFT_S = 3600.0
_SOURCE_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class ScratchServer:
    endpoint: Endpoint
    login: Login
    data: Path


@contextlib.contextmanager
def workplace(base: Path) -> Generator[Path]:
    """A new folder below ``base`` for this user alone, removed with all that is in it at the end. What
    killed processes left there is removed first."""
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    sweep(base)
    draft = Path(tempfile.mkdtemp(dir=base, suffix=".new"))
    lock = os.open(draft / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    folder = draft.with_suffix("")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        draft.rename(folder)
        yield folder
    finally:
        _remove(folder)
        shutil.rmtree(draft, ignore_errors=True)
        os.close(lock)


def sweep(base: Path) -> None:
    """Remove folders whose owner is gone, and end the servers that still run in them."""
    for folder in base.iterdir() if base.is_dir() else ():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if folder.suffix == ".new":
                _forget_draft(folder)
            elif _is_abandoned(folder):
                _remove(folder)


def _forget_draft(folder: Path) -> None:
    """A folder gets its name a moment after it was made; what is still a draft much later stays one."""
    newest_now = folder.parent.stat().st_mtime
    if newest_now - folder.stat().st_mtime > _DRAFT_S:
        shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    try:
        lock = os.open(folder / "lock", os.O_RDWR)
    except FileNotFoundError:  # whoever removed it was killed in between
        return folder.is_dir()
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def _state(folder: Path) -> StateDirectory:
    return locate_state("scratch", folder)


def _remove(folder: Path) -> None:
    state = _state(folder)
    # Some servers overwrite the environment by which they could be known, so they are recorded too.
    known = leftovers.read_record(state).values()
    leftovers.end(leftovers.find_leftovers(state, known, folder / "no-supervisor"), {}, grace_s=0.0)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(state.run, ignore_errors=True)


@contextlib.contextmanager
def scratch_server(
    database: Database,
    base: Path,
    clock: Clock,
    *,
    fill: Callable[[Path], None] = lambda _: None,
    options: Sequence[str] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Generator[ScratchServer]:
    """A server of the database's engine on loopback, with credentials of its own. ``fill`` puts files into
    its data folder before it starts, ``options`` are further words of its command, ``environment`` further
    variables.

    Raises ``RestoreFailed`` where it ends at once, ``EngineUnavailable``, ``ServerNotReady``.
    """
    with workplace(base) as folder:
        state = _state(folder).make()
        secrets = EmbeddedSecretStore(state.secrets)
        server = embedded_server(database, state, secrets, _free_ports() - database.port)
        server.acquire(silent)
        server.prepare()
        data = state.data / database.name
        fill(data)
        program = server.program()
        variables = {**program.environment, **environment}
        words = (*program.argv, *options)
        with _running(replace(program, argv=words, environment=variables), state) as process:
            _await_start(server, process, clock)
            yield ScratchServer(server.endpoint(), read_login(database.name, "admin", secrets), data)


def _free_ports() -> int:
    """The lower of two free ports in a row. Started at another place by each process, so that two do not
    choose the same ones."""
    start = os.getpid() % len(_PORTS)
    for port in (*_PORTS[start:], *_PORTS[:start]):
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for number in (port, port + 1):
                held.enter_context(socket.socket()).bind(("127.0.0.1", number))
            return port
    raise RestoreFailed("this machine", f"no free port between {_PORTS.start} and {_PORTS.stop}")


@contextlib.contextmanager
def _running(program: Program, state: StateDirectory) -> Generator[subprocess.Popen[bytes]]:
    environment = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": str(state.root),
        "PYTHONPATH": str(_SOURCE_ROOT),
        leftovers.STATE_MARK: str(state.root),
        leftovers.JOB_MARK: "scratch",
        **program.environment,
    }
    with (state.logs / f"{program.name}.log").open("ab") as log:
        process = subprocess.Popen(
            program.argv, env=environment, cwd=program.directory, stdout=log, stderr=log, start_new_session=True
        )
    try:
        if (known := leftovers.identify(process.pid)) is not None:
            leftovers.write_record(state, {program.name: known})
        yield process
    finally:
        # Nothing in it is kept, so it need not end in good order.
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.wait(10)


def _await_start(server: EmbeddedServer, process: subprocess.Popen[bytes], clock: Clock) -> None:
    give_up = clock.monotonic() + READY_S
    while True:
        try:
            server.initialise(_LOOK_S)
        except ServerNotReady:
            if (code := process.poll()) is not None:
                raise RestoreFailed(server.endpoint().address, f"its scratch server ended with code {code}") from None
            if clock.monotonic() >= give_up:
                raise
        else:
            return
