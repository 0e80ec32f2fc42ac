"""Guards the first command of the README on the machines that newcomers have.

Four ways: as root and as an ordinary user, with Go, Java and Maven on the PATH and with none of them.
Each way begins with a clone, no virtual environment and an empty engine cache.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [pytest.mark.install, pytest.mark.timeout(1500)]

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("go", "gofmt", "java", "javac", "mvn", "gradle")
ORDINARY_USER = "games"
"""A user that every Debian machine has, with no privilege and no home of its own."""


@dataclass
class Machine:
    """A clone, a user and a PATH."""

    folder: Path
    user: str
    path: str

    @property
    def clone(self) -> Path:
        return self.folder / "clone"

    def make(self, *words: str, timeout_s: float = 900.0) -> subprocess.CompletedProcess[str]:
        return self.run(["make", *words], timeout_s)

    def drp(self, *words: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        return self.run([str(self.clone / ".venv/bin/drp"), *words], timeout_s)

    def run(self, argv: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        entry = pwd.getpwnam(self.user)
        drop = (
            []
            if entry.pw_uid == os.getuid()
            else ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
        )
        return subprocess.run(
            [*drop, *argv],
            cwd=self.clone,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def _environment(self) -> dict[str, str]:
        """Nothing of the caller's but where packages come from."""
        registries = {
            k: v
            for k, v in os.environ.items()
            if k.startswith(
                (
                    "PIP_",
                    "UV_",
                    "GOPROXY",
                    "GOSUMDB",
                    "GONOSUMDB",
                    "SSL_",
                    "REQUESTS_",
                    "NO_PROXY",
                    "HTTP",
                    "no_proxy",
                    "http",
                )
            )
        }
        home = str(self.folder / "home")
        return {
            **registries,
            "PATH": self.path,
            "HOME": home,
            "USER": self.user,
            "LOGNAME": self.user,
            "LANG": "C.UTF-8",
        }


def path_without_tools(folder: Path) -> str:
    """A PATH with links to everything that is there, but for Go, Java and Maven."""
    folder.mkdir()
    for directory in reversed(os.environ["PATH"].split(":")):
        for program in Path(directory).glob("*"):
            link = folder / program.name
            if program.name not in TOOLS and os.access(program, os.X_OK):
                link.unlink(missing_ok=True)
                link.symlink_to(program)
    return str(folder)


@pytest.fixture(params=["with tools", "without tools"])
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "with tools":
        yield os.environ["PATH"]
        return
    folder = Path(tempfile.mkdtemp(prefix="drp-path-"))
    folder.chmod(0o755)
    yield path_without_tools(folder / "bin")
    shutil.rmtree(folder)


@pytest.fixture(params=["root", ORDINARY_USER])
def machine(request: pytest.FixtureRequest, path: str) -> Iterator[Machine]:
    if os.getuid() != 0 and request.param != pwd.getpwuid(os.getuid()).pw_name:
        pytest.skip("becoming another user needs root; the ways of this user are covered")
    folder = Path(tempfile.mkdtemp(prefix="drp-fresh-"))
    folder.chmod(0o755)
    machine = Machine(folder, request.param, path)
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(machine.clone)], check=True)
    (folder / "home").mkdir()
    entry = pwd.getpwnam(request.param)
    subprocess.run(["chown", "-R", f"{entry.pw_uid}:{entry.pw_gid}", str(folder)], check=True)
    try:
        yield machine
    finally:
        if (machine.clone / ".venv/bin/drp").exists():
            machine.drp("down")
        subprocess.run(["chmod", "-R", "u+w", str(folder)], check=False)  # Go's module cache is read-only
        shutil.rmtree(folder, ignore_errors=True)


def test_make_up_on_a_fresh_machine_ends_all_green(machine: Machine) -> None:
    began = time.monotonic()
    up = machine.make("up", f"PYTHON={python_of(machine)}")
    first_s = time.monotonic() - began
    assert up.returncode == 0, f"{up.stdout[-3000:]}\n{up.stderr[-6000:]}"
    status = json.loads(machine.drp("status", "--json").stdout)
    unhealthy = [s["name"] for s in status["services"] + status["databases"] if not s["healthy"]]
    assert unhealthy == []
    assert status["assets"]["failed"] == 0
    assert status["assets"]["failing"] == []
    began = time.monotonic()
    assert machine.make("down").returncode == 0
    again = machine.make("up")
    assert again.returncode == 0, again.stderr[-3000:]
    sys.stderr.write(f"\nfirst {first_s:.0f} s, down and up again {time.monotonic() - began:.0f} s\n")
    assert machine.drp("down").returncode == 0
    assert left_running(machine) == []


def python_of(machine: Machine) -> str:
    """The test's own Python where the machine's user can run it, else the system's."""
    own = str(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
    # By a shell: what setpriv itself starts is still looked up with root's rights.
    runs = machine.run(["/bin/sh", "-c", f"{own} -c pass"], 30).returncode == 0
    return own if runs else "/usr/bin/python3"


def left_running(machine: Machine) -> list[str]:
    """Processes that still carry the marker of the machine's state."""
    marker = f"DRP_STATE_ROOT={machine.clone}/.drp".encode()
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker in environ.read_bytes():
                found.append(environ.parent.name)
        except OSError:
            continue
    return found
