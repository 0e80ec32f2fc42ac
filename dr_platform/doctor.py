"""What stands in the way of a healthy platform on this machine, each with its remedy.

Here: looking at the machine and at what runs. Not here: changing anything. Every check answers; one
that cannot look says so and does not pass.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dr_platform.bring_up import check_ports
from dr_platform.dagster_client import DagsterClient
from dr_platform.errors import PlatformError
from dr_platform.health import operations_verdict, router_verdict, runtime_verdict
from dr_platform.platform import Platform
from dr_platform.runtime.local.ports import PortsBusy
from dr_platform.status import urls
from dr_platform.verdict import Verdict

MEMORY_BYTES = 5 << 30
"""4 GiB for the platform (measured below that) and one for the rest of the machine."""
DISK_BYTES = 6 << 30
"""Installed packages 1.4 GB, built engines with their caches 2 GB, data and logs."""


@dataclass(frozen=True)
class Diagnosis:
    check: str
    ok: bool
    found: str
    remedy: str = ""


def diagnose(platform: Platform) -> Iterator[Diagnosis]:
    """All checks, cheapest first; those of running parts only where something runs."""
    yield _python()
    yield _machine()
    yield _memory()
    yield _disk(platform)
    yield _file_descriptors()
    yield _ports(platform)
    for name in platform.catalog.databases:
        yield _engine(platform, name)
    if not platform.supervisor.running():
        yield Diagnosis("supervisor", False, "not running", "start the platform with `drp up`")
        return
    yield _of_verdict("supervisor", runtime_verdict(platform), "look at `drp logs keeper`; `drp up` repairs")
    yield _of_verdict("router", router_verdict(platform), "`drp materialize infrastructure/router`")
    yield _of_verdict("evidence log", operations_verdict(platform), "look at `drp logs operations-db`")
    yield from _dagster(platform)


def _of_verdict(check: str, verdict: Verdict, remedy: str) -> Diagnosis:
    return Diagnosis(check, verdict.passed is True, verdict.why, "" if verdict.passed else remedy)


def _python() -> Diagnosis:
    found = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Diagnosis("python", good, found, "" if good else "use Python 3.11, 3.12 or 3.13")


def _machine() -> Diagnosis:
    uname = os.uname()
    good = uname.sysname == "Linux" and uname.machine in ("x86_64", "aarch64")
    remedy = "" if good else "the embedded router is built for Linux; on macOS or Windows use a Linux VM or WSL2"
    return Diagnosis("machine", good, f"{uname.sysname} {uname.machine}, {os.cpu_count()} cores", remedy)


def _memory() -> Diagnosis:
    import psutil

    available = psutil.virtual_memory().available
    good = available >= MEMORY_BYTES
    remedy = "" if good else "end other programs; the platform needs about 4 GiB"
    return Diagnosis("memory", good, f"{available / 2**30:.1f} GiB available", remedy)


def _disk(platform: Platform) -> Diagnosis:
    folder = next(p for p in (platform.state.root, *platform.state.root.parents) if p.exists())
    free = shutil.disk_usage(folder).free
    good = free >= DISK_BYTES
    remedy = "" if good else f"free space below {folder}, or set DRP_STATE and DRP_CACHE to a larger disk"
    return Diagnosis("disk", good, f"{free / 2**30:.0f} GiB free", remedy)


def _file_descriptors() -> Diagnosis:
    import resource

    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    good = soft >= 1024
    return Diagnosis("open files", good, f"limit {soft}", "" if good else "raise it: `ulimit -n 4096`")


def _ports(platform: Platform) -> Diagnosis:
    try:
        outcome = check_ports(platform)
    except PortsBusy as exc:
        return Diagnosis("ports", False, exc.what, exc.next_step)
    return Diagnosis("ports", True, outcome.describe())


def _engine(platform: Platform, name: str) -> Diagnosis:
    """Whether the engine is here or can be made here; nothing is built for the answer."""
    check = f"engine {name}"
    if platform.binding.databases != "embedded":
        return Diagnosis(check, True, "an endpoint of the environment")
    server = platform.embedded_server(name)
    return _guarded(check, lambda: Diagnosis(check, True, server.missing() or "on this machine"))


def _guarded(check: str, look: Callable[[], Diagnosis]) -> Diagnosis:
    try:
        return look()
    except PlatformError as exc:
        return Diagnosis(check, False, exc.what, exc.next_step)


def _dagster(platform: Platform) -> Iterator[Diagnosis]:
    client = DagsterClient(urls(platform)["dagster"])
    remedy = "look at `drp logs dagster-webserver`, `drp logs dagster-code` and `drp logs dagster-daemon`"

    def ui() -> Diagnosis:
        summary = client.summary()
        found = f"{summary.materialized} assets materialised, {len(summary.failing)} checks failed"
        good = summary.failed == 0 and not summary.failing
        return Diagnosis("dagster", good, found, "" if good else "`drp status` names them")

    def automation() -> Diagnosis:
        stopped = client.stopped_automation()
        found = "all sensors and schedules run" if not stopped else f"stopped: {', '.join(stopped)}"
        return Diagnosis(
            "automation", not stopped, found, "" if not stopped else "switch them on in the UI, Automation"
        )

    for check, look in (("dagster", ui), ("automation", automation)):
        diagnosis = _guarded(check, look)
        yield diagnosis if diagnosis.ok or diagnosis.remedy else Diagnosis(check, False, diagnosis.found, remedy)
