"""Where one environment keeps its files on this machine.

Here: paths and their permissions. Not here: what the files contain.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dr_platform.errors import ExitCode, PlatformError

SYSTEM_STATE = Path("/var/lib/drp")
"""For root where the checkout lies below folders that an unprivileged server cannot enter."""


class UnsafeDirectory(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.what = f"{path} exists, but belongs to another user or is a link"
        self.untouched = "the folder and everything in it"
        self.next_step = f"remove {path}, or set TMPDIR to a folder of your own"


@dataclass(frozen=True)
class StateDirectory:
    """All paths of one environment. ``run`` is for sockets, and there only while something runs; it is
    short: unix socket paths end at 107 bytes."""

    root: Path
    run: Path

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def data(self) -> Path:
        """Database servers keep their files below ``data/<database>``."""
        return self.root / "data"

    @property
    def wal(self) -> Path:
        """Segments of a database's log wait below ``wal/<database>`` until they are archived."""
        return self.root / "wal"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def supervisor(self) -> Path:
        """``supervisord.conf`` and one file per program under ``programs/``."""
        return self.root / "supervisor"

    @property
    def router(self) -> Path:
        """Envoy's bootstrap, listeners, clusters and routes."""
        return self.root / "router"

    @property
    def runtime_database(self) -> Path:
        """SQLite: records, leases, routes, slots and ports of the local runtime."""
        return self.root / "runtime.db"

    @property
    def faults(self) -> Path:
        return self.root / "faults"

    @property
    def dagster_home(self) -> Path:
        return self.root / "dagster"

    @property
    def objects(self) -> Path:
        return self.root / "objects"

    @property
    def events(self) -> Path:
        """One JSON object a line: ends and restarts of processes, written by the keeper."""
        return self.logs / "events.jsonl"

    def make(self) -> StateDirectory:
        """Create what is missing. Data is for the owner alone; the root may be passed through, so
        that a database server of another user id can reach its own folder."""
        self.root.mkdir(parents=True, exist_ok=True)
        for folder in (self.data, self.wal, self.logs, self.supervisor, self.router, self.dagster_home):
            folder.mkdir(exist_ok=True)
        for private in (self.secrets, self.faults, self.objects):
            private.mkdir(mode=0o700, exist_ok=True)
            private.chmod(0o700)
        for passable in (self.root, self.data, self.wal):
            passable.chmod(0o711)
        return self

    def make_run(self) -> None:
        """Called by whoever is about to start something with a socket. Raises ``UnsafeDirectory``."""
        _own_private_directory(self.run)


def _own_private_directory(path: Path) -> None:
    """Make a folder under the shared temporary folder; somebody else's folder is refused."""
    try:
        path.mkdir(mode=0o711)
    except FileExistsError:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise UnsafeDirectory(path) from None
    path.chmod(0o711)


def _passable_to_others(path: Path) -> bool:
    existing = next(p for p in (path, *path.parents) if p.exists())
    return all(p.stat().st_mode & stat.S_IXOTH for p in (existing, *existing.parents))


def state_base(working_directory: Path) -> Path:
    """``DRP_STATE``, else ``.drp`` under the working directory, else ``/var/lib/drp`` for root
    where other users cannot pass through to the working directory."""
    if configured := os.environ.get("DRP_STATE"):
        return Path(configured).absolute()
    base = working_directory.absolute() / ".drp"
    if os.getuid() == 0 and not _passable_to_others(base):
        return SYSTEM_STATE
    return base


def locate_state(environment: str, base: Path | None = None) -> StateDirectory:
    """The environment's paths below ``base``; nothing is created."""
    root = (base or state_base(Path.cwd())) / environment
    digest = hashlib.sha256(str(root).encode()).hexdigest()[:10]
    return StateDirectory(root=root, run=Path(tempfile.gettempdir()) / f"drp-{os.getuid()}-{digest}")


def cache_directory() -> Path:
    """Engines that were built or downloaded once for all environments of this user."""
    if configured := os.environ.get("DRP_CACHE"):
        return Path(configured).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "dr-platform"
