"""A server written in Go, built once from its module for tests that ask for it by hand, and kept in the cache.

Not here: how one is started (``vault_server``, ``s3_server``).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dr_platform.clock import SystemClock
from dr_platform.databases.embedded.cache import EngineCache, Workshop
from dr_platform.databases.embedded.ferretdb_build import find_go

BUILD_LIMIT_S = 3600.0
START_S = 30.0


@dataclass(frozen=True)
class GoProgram:
    """``variable`` names a program that is used instead; ``go_mod`` pins the version and names the result."""

    title: str
    name: str
    package: str
    go_mod: str
    variable: str
    options: tuple[str, ...] = ()

    @property
    def _digest(self) -> str:
        return hashlib.sha256(self.go_mod.encode()).hexdigest()

    def path(self) -> Path | None:
        """The program, or ``None`` where this machine has none and none was built."""
        if configured := os.environ.get(self.variable):
            return Path(configured)
        built = EngineCache().folder(self.name, self._digest) / self.name
        if built.exists():
            return built
        found = shutil.which(self.name)
        return Path(found) if found else None

    def built(self) -> Path:
        folder = EngineCache().ensure(self.title, self.name, self._digest, self._build, print, wait_s=BUILD_LIMIT_S)
        return folder / self.name

    def _build(self, workshop: Workshop) -> None:
        go = find_go(workshop.scratch)
        environment = {**go.environment(workshop.scratch), "GOFLAGS": "-modcacherw -buildvcs=false -mod=mod"}
        sources = workshop.scratch / "sources"
        sources.mkdir(exist_ok=True)
        (sources / "go.mod").write_text(self.go_mod)
        command = [str(go.program), "build", "-v", "-trimpath", *self.options, "-ldflags=-s -w"]
        output = workshop.scratch / "output.log"
        workshop.run(
            [*command, "-o", str(workshop.draft / self.name), self.package],
            f"{self.title}: building",
            environment=environment,
            directory=sources,
            limit_s=BUILD_LIMIT_S,
            detail=lambda: f", {len(output.read_bytes().splitlines())} steps",
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(answers: Callable[[], bool], process: subprocess.Popen[bytes], title: str) -> None:
    clock = SystemClock()
    deadline = clock.monotonic() + START_S
    while clock.monotonic() < deadline and process.poll() is None:
        if answers():
            return
        clock.sleep(0.1)
    raise RuntimeError(f"{title} did not start, exit code {process.poll()}")
