"""A PostgreSQL server of our own for a while: in a folder that nobody else may enter, on a socket in it.

Here: making, starting, stopping and removing one, also one whose owner was killed. Not here: what is restored into it.

Nobody gets in by a password, because nobody but this user gets to the socket, and the kernel tells the server who
called. A lock on the folder lives as long as the process that made it: a folder without one is a leftover.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dr_platform.backups.postgresql.access import Access
from dr_platform.backups.postgresql.errors import RestoreFailed
from dr_platform.clock import Clock, SystemClock
from dr_platform.databases.embedded import postgresql_files
from dr_platform.databases.embedded.files import ServerUser, invoking_user, private_directory, private_file
from dr_platform.databases.port import DatabaseUnreachable
from dr_platform.state import StateDirectory

SUPERUSER = "drp_scratch"
_PREFIX = "scratch-"
_START_S = 30.0
RECOVERY_S = 4 * 3600.0
"""Recovery may have days of log before it. A restore that takes longer has missed every objective."""
_STOP_S = 60.0
_PAUSE_S = 0.05

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "port": "5432",
    "max_connections": "40",
    "superuser_reserved_connections": "3",
    # It is thrown away, or its contents are carried on: a crash of the machine loses nothing.
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "1h",
    "max_parallel_workers_per_gather": "2",
    # A copy must never act for its original: not archive in its place, not send, not follow.
    "archive_mode": "off",
    "archive_command": "",
    "restore_command": "",
    "primary_conninfo": "",
    "primary_slot_name": "",
    "synchronous_standby_names": "",
    "shared_preload_libraries": "",
    "max_wal_senders": "0",
    "summarize_wal": "off",
    "hot_standby": "off",
    "max_logical_replication_workers": "0",
    "event_triggers": "on",
    "logging_collector": "off",
    "log_destination": "stderr",
    "ssl": "off",
    "log_connections": "",
    # With the SQLSTATE, by which a refused caller is told from the reason of an end.
    "log_line_prefix": "%m [%p %e] ",
}
_CANNOT_CONNECT_NOW = "57P03"
_COMPLAINTS = ("FATAL: ", "PANIC: ", "ERROR: ")
_NO_REASON = "it ended without a reason in its log"


@dataclass(frozen=True)
class Site:
    """Where scratch servers may live on this machine, with which programs, as whom."""

    state: StateDirectory
    memory_bytes: int = 0
    """What one may use for building indexes; 0 for half of what is free."""

    @property
    def user(self) -> ServerUser:
        return postgresql_files.server_user()

    @property
    def folder(self) -> Path:
        return self.state.root / "scratch"

    def programs(self) -> Path:
        postgresql_files.place_binaries(self.state, self.user)
        return postgresql_files.binaries(self.state, self.user)

    @property
    def memory(self) -> int:
        return self.memory_bytes or psutil.virtual_memory().available // 2


@dataclass
class ScratchServer:
    """One server. ``folder`` has ``data`` and what the restore needs; the path of ``sockets`` is short, as a socket's
    must be."""

    folder: Path
    sockets: Path
    programs: Path
    user: ServerUser
    clock: Clock = field(default_factory=SystemClock)
    superuser: str = SUPERUSER
    _process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def address(self) -> str:
        return str(self.sockets)

    def access(self, database: str = "postgres") -> Access:
        return Access("scratch", str(self.sockets), 5432, database, self.superuser, "")

    def make(self, locale: Sequence[str]) -> None:
        """An empty cluster; ``locale`` are words for ``initdb``."""
        command = [self.programs / "initdb", "-D", self.data, "-U", self.superuser, "--auth=peer", "--no-instructions"]
        postgresql_files.run([*command, "--data-checksums", "--no-sync", "--encoding=UTF8", *locale], self.user)

    def configure(self, memory_bytes: int, settings: Mapping[str, str] | None = None) -> None:
        """Nothing of the configuration that came with the data is left: it belongs to the original."""
        own = {
            **SETTINGS,
            "unix_socket_directories": str(self.sockets),
            "unix_socket_permissions": "0700",
            "shared_buffers": f"{max(64, min(memory_bytes // 4, 1 << 30) >> 20)}MB",
            **_shared_memory(memory_bytes),
            **(settings or {}),
        }
        private_file(self.data / "postgresql.auto.conf", "", self.user)
        for name in ("standby.signal", "recovery.signal"):
            (self.data / name).unlink(missing_ok=True)
        me = invoking_user().name
        access = ["local all all peer map=scratch"]
        postgresql_files.configure(self.data, self.user, own, access, [f'scratch "{me}" all'])

    def start(self, within_s: float = _START_S) -> None:
        """Returns when it answers, after any recovery. Raises ``RestoreFailed``."""
        me = None if self.user.is_me else self.user
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self.programs / "postgres"), "-D", str(self.data)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                umask=0o077,
                env={"LC_ALL": "C", "PATH": "/usr/bin:/bin", "TZ": "UTC"},
                user=me.uid if me else None,
                group=me.gid if me else None,
                extra_groups=[] if me else None,
                start_new_session=True,
            )
        self._await(within_s)

    def _await(self, within_s: float) -> None:
        give_up = self.clock.monotonic() + within_s
        while True:
            if self._process is None or self._process.poll() is not None:
                raise RestoreFailed(self.address, "start of the server", self.last_words())
            with contextlib.suppress(DatabaseUnreachable):
                self.access("template1").connect().close()
                return
            if self.clock.monotonic() >= give_up:
                raise RestoreFailed(self.address, "start of the server", f"it does not answer after {within_s:.0f} s")
            self.clock.sleep(_PAUSE_S)

    def last_words(self) -> str:
        """The newest line of the log that says why; the server is configured never to quote rows in it."""
        with contextlib.suppress(OSError):
            return why_it_ended(self.log.read_text(encoding="utf-8", errors="replace"))
        return _NO_REASON

    def stop(self) -> None:
        """Everything is written before it ends."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        self._end(signal.SIGQUIT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(how)
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(_STOP_S)
        self._process = None


def why_it_ended(log: str) -> str:
    """The newest complaint in a server's log, past the refusals of callers who came while it started or ended: those
    say nothing of its own trouble (SQLSTATE 57P03, PostgreSQL's documentation, appendix A)."""
    for line in reversed(log.splitlines()):
        prefix, _, said = line.partition("] ")
        if said.startswith(_COMPLAINTS) and not prefix.endswith(f" {_CANNOT_CONNECT_NOW}"):
            return said.strip()
    return _NO_REASON


def _shared_memory(memory_bytes: int) -> dict[str, str]:
    """Where parallel workers share what they build. Memory is faster than files, if there is enough of it."""
    shm = Path("/dev/shm")  # noqa: S108 - the kernel's own, asked for its size alone
    with contextlib.suppress(OSError):
        if shutil.disk_usage(shm).free > memory_bytes:
            return {"dynamic_shared_memory_type": "posix"}
    return {"dynamic_shared_memory_type": "mmap"}


@contextlib.contextmanager
def scratch_server(site: Site, clock: Clock | None = None) -> Generator[ScratchServer]:
    """A server's empty place. Gone with everything in it when the context ends; what a killed process left is
    removed before."""
    programs = site.programs()
    sweep(site)
    site.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    site.folder.chmod(0o711)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=site.folder))
    sockets = _sockets(site, folder)
    with _locked(folder):
        server = ScratchServer(folder, sockets, programs, site.user, clock or SystemClock())
        try:
            private_directory(folder, site.user)
            site.state.make_run()
            private_directory(sockets, site.user)
            yield server
        finally:
            server.kill()
            _remove(folder, sockets)


def _sockets(site: Site, folder: Path) -> Path:
    return site.state.run / folder.name


@contextlib.contextmanager
def _locked(folder: Path) -> Generator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sweep(site: Site) -> tuple[str, ...]:
    """Remove servers whose process was killed, and say which; those in use are left alone."""
    found = sorted(site.folder.glob(f"{_PREFIX}*")) if site.folder.is_dir() else []
    return tuple(folder.name for folder in found if _sweep_one(site, folder))


def _sweep_one(site: Site, folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _end_orphan(folder / "data")
        _remove(folder, _sockets(site, folder))
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _end_orphan(data: Path) -> None:
    """End the server of this data folder and of no other: its number may belong to somebody else by now."""
    try:
        process = psutil.Process(int((data / "postmaster.pid").read_text(encoding="ascii").split()[0]))
        if str(data) not in process.cmdline():
            return
        process.send_signal(signal.SIGQUIT)
        process.wait(_STOP_S)
    except psutil.TimeoutExpired as late:
        with contextlib.suppress(psutil.Error):
            psutil.Process(late.pid).kill()
    except (OSError, ValueError, IndexError, psutil.Error):
        return


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
