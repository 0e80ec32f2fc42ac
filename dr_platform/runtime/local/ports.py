"""Who listens on a TCP port, and how many connections a listener has.

Here: reading the kernel's tables. Not here: which port belongs to whom (``records``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dr_platform.errors import ExitCode, PlatformError

_LISTENING = "0A"
_ESTABLISHED = "01"
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


@dataclass(frozen=True)
class BusyPort:
    """``pid`` is ``None`` where the kernel does not tell, which is so for other users' processes."""

    port: int
    pid: int | None
    process: str

    def describe(self) -> str:
        return self.process + (f" (pid {self.pid})" if self.pid else "")


class PortsBusy(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, busy: tuple[BusyPort, ...], needed_by: Mapping[int, str] | None = None) -> None:
        super().__init__(busy, needed_by)
        names = needed_by or {}
        held = "".join(f"\n  {names.get(b.port, 'the platform')} needs {b.port}, held by {b.describe()}" for b in busy)
        self.what = f"ports that are needed are in use:{held}"
        self.untouched = "those processes, and everything of the platform; nothing was started"
        shifted = "`drp --env NAME --runtime local up`"
        self.next_step = f"stop what holds them, or use another environment, whose ports are shifted ({shifted})"


def listening(ports: Collection[int]) -> frozenset[int]:
    """Those of ``ports`` that somebody listens on, on any address."""
    wanted = frozenset(ports)
    return frozenset(row.port for row in _rows() if row.state == _LISTENING and row.port in wanted)


def busy_ports(ports: Collection[int]) -> list[BusyPort]:
    """Who holds which of these ports, lowest port first; free ports are left out."""
    inodes = {row.inode: row.port for row in _rows() if row.state == _LISTENING and row.port in frozenset(ports)}
    if not inodes:
        return []
    holders = _holders(frozenset(inodes))
    found: dict[int, BusyPort] = {}
    for inode, port in inodes.items():
        pid = holders.get(inode)
        if port not in found or found[port].pid is None:
            found[port] = BusyPort(port, pid, _process_name(pid) if pid else "another user's process")
    return [found[port] for port in sorted(found)]


def connections(port: int) -> int:
    """Established connections to the listener on ``port`` of this machine."""
    return sum(row.state == _ESTABLISHED and row.port == port for row in _rows())


@dataclass(frozen=True)
class _Row:
    port: int
    state: str
    inode: str


def _rows() -> Iterator[_Row]:
    for table in _TABLES:
        try:
            lines = table.read_text(encoding="ascii").splitlines()[1:]
        except OSError:  # no IPv6 here
            continue
        for line in lines:
            fields = line.split()
            yield _Row(int(fields[1].rpartition(":")[2], 16), fields[3], fields[9])


def _holders(inodes: frozenset[str]) -> dict[str, int]:
    """Socket inode to the process that has it open, as far as this user may look."""
    found: dict[str, int] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            for inode in inodes.intersection(_open_sockets(process)):
                found.setdefault(inode, int(process.name))
    return found


def _open_sockets(process: Path) -> Iterator[str]:
    """Inodes; nothing of other users' processes. Descriptors and processes may go meanwhile."""
    try:
        descriptors = list(process.joinpath("fd").iterdir())
    except OSError:
        return
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            target = descriptor.readlink().name
            if target.startswith("socket:["):
                yield target[8:-1]


def _process_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip() or "a process"
    except OSError:
        return "a process that has ended meanwhile"
