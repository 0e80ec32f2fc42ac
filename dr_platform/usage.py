"""What every supervised process uses of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dr_platform.clock import Clock

if TYPE_CHECKING:
    import psutil

    from dr_platform.runtime.local.supervisor import Supervisor

SAMPLE_S = 0.5


@dataclass(frozen=True)
class ProcessUsage:
    """``pss_bytes`` is the proportional set size of the process and its children: summed over all
    processes it counts shared pages once."""

    name: str
    pid: int | None
    state: str
    cpu_percent: float
    pss_bytes: int
    up_s: float


def usage(supervisor: Supervisor, clock: Clock) -> tuple[ProcessUsage, ...]:
    """One row per supervised process, with the processor use over half a second."""
    import psutil

    infos = supervisor.processes()
    trees = {info.name: _tree(info.pid) for info in infos if info.pid}
    before = {name: _cpu_seconds(tree) for name, tree in trees.items()}
    started = clock.monotonic()
    clock.sleep(SAMPLE_S)
    elapsed = clock.monotonic() - started
    rows = []
    for info in infos:
        tree = trees.get(info.name, [])
        cpu = (_cpu_seconds(tree) - before.get(info.name, 0.0)) / elapsed * 100
        try:
            up = clock.now().timestamp() - psutil.Process(info.pid).create_time() if info.pid else 0.0
        except psutil.Error:
            up = 0.0
        rows.append(ProcessUsage(info.name, info.pid or None, info.state, max(cpu, 0.0), _pss(tree), up))
    return tuple(rows)


def _tree(pid: int) -> list[psutil.Process]:
    import psutil

    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _cpu_seconds(tree: list[psutil.Process]) -> float:
    import psutil

    total = 0.0
    for process in tree:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def _pss(tree: list[psutil.Process]) -> int:
    import psutil

    total = 0
    for process in tree:
        try:
            total += process.memory_full_info().pss
        except psutil.AccessDenied:  # a server that runs as another user
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total
