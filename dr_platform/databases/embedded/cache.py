"""Server files that were built or downloaded once for all environments of a user.

Here: one complete folder per content, made by one process at a time, with progress and a time limit.
Not here: how an engine is built, or which files it needs.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dr_platform.clock import Clock, SystemClock
from dr_platform.databases.embedded.port import EngineUnavailable
from dr_platform.state import cache_directory
from dr_platform.verdict import Progress

REPORT_EVERY_S = 3.0
LOOK_EVERY_S = 0.2
CACHE_REMEDY = "make room, or set DRP_CACHE to a folder that you may write to"


class StepFailed(Exception):
    """A tool ended badly or took too long. ``detail`` is the end of what it wrote."""

    def __init__(self, what: str, detail: str) -> None:
        super().__init__(what, detail)
        self.what = what
        self.detail = detail


@dataclass(frozen=True)
class Workshop:
    """Where a folder is being made: ``draft`` becomes the result, ``scratch`` survives a failed
    attempt, so that the next one goes on with what was already downloaded."""

    draft: Path
    scratch: Path
    lock: int
    progress: Progress
    clock: Clock

    def run(
        self,
        command: Sequence[str],
        label: str,
        *,
        environment: Mapping[str, str],
        directory: Path,
        limit_s: float,
        detail: Callable[[], str] = lambda: "",
    ) -> str:
        """Run a tool to its end and return what it wrote; a line of progress every few seconds."""
        log = self.scratch / "output.log"
        started = self.clock.monotonic()
        with log.open("wb") as output:
            # The tool keeps the lock: when this process is killed, nobody starts a second tool in
            # the same folder while the first still works there.
            tool = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=dict(environment),
                start_new_session=True,
                pass_fds=(self.lock,),
            )
        try:
            self._follow(tool, label, started, limit_s, detail)
        finally:
            if tool.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(tool.pid, signal.SIGKILL)
                tool.wait()
        text = log.read_text(encoding="utf-8", errors="replace")
        if tool.returncode != 0:
            raise StepFailed(f"{label} ended with code {tool.returncode}", _tail(text))
        return text

    def _follow(
        self, tool: subprocess.Popen[bytes], label: str, started: float, limit_s: float, detail: Callable[[], str]
    ) -> None:
        self.progress(label)
        report = started + REPORT_EVERY_S
        while tool.poll() is None:
            now = self.clock.monotonic()
            if now - started > limit_s:
                raise StepFailed(f"{label} took longer than {limit_s:.0f} s", "")
            if now >= report:
                report = now + REPORT_EVERY_S
                self.progress(f"{label}: {now - started:.0f} s{detail()}")
            self.clock.sleep(LOOK_EVERY_S)


def _tail(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-3:])[-400:]


Make = Callable[[Workshop], None]


@dataclass(frozen=True)
class EngineCache:
    """Folders under ``root``, each named after the content it was made from."""

    root: Path = field(default_factory=cache_directory)
    clock: Clock = field(default_factory=SystemClock)

    def folder(self, name: str, digest: str) -> Path:
        """Where the result is, or will be. It is complete as soon as it is there."""
        return self.root / "engines" / f"{name}-{digest[:16]}"

    def ensure(self, engine: str, name: str, digest: str, make: Make, progress: Progress, wait_s: float = 1200) -> Path:
        """The folder, made by ``make`` where it is missing; ``StepFailed`` comes out as it is."""
        target = self.folder(name, digest)
        if target.exists():
            return target
        try:
            with self._alone(engine, target.name, progress, wait_s) as lock:
                if not target.exists():
                    self._make(target, lock, make, progress)
        except OSError as error:
            reason = errno.errorcode.get(error.errno or 0, type(error).__name__)
            raise EngineUnavailable(engine, f"the cache {self.root} cannot be used ({reason})", CACHE_REMEDY) from error
        return target

    @contextlib.contextmanager
    def _alone(self, engine: str, name: str, progress: Progress, wait_s: float) -> Generator[int]:
        """Hold the lock of one folder. The kernel gives it up when its last holder ends."""
        locks = self.root / "locks"
        locks.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.root / "engines").mkdir(exist_ok=True)
        lock = os.open(locks / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._wait_for(lock, engine, progress, wait_s)
            yield lock
        finally:
            os.close(lock)

    def _wait_for(self, lock: int, engine: str, progress: Progress, wait_s: float) -> None:
        started = self.clock.monotonic()
        report = started
        while True:
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                now = self.clock.monotonic()
            if now - started > wait_s:
                raise EngineUnavailable(
                    engine,
                    f"another process has been getting it for over {wait_s:.0f} s",
                    "end that process (`drp doctor` shows it) and repeat",
                )
            if now >= report:
                report = now + REPORT_EVERY_S
                progress(f"{engine}: another process is getting it, waited {now - started:.0f} s")
            self.clock.sleep(LOOK_EVERY_S)

    def _make(self, target: Path, lock: int, make: Make, progress: Progress) -> None:
        scratch = self.root / "scratch" / target.name
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in target.parent.glob(f".{target.name}.*"):
            shutil.rmtree(leftover, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        try:
            make(Workshop(draft, scratch, lock, progress, self.clock))
            draft.chmod(0o755)
            draft.rename(target)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        shutil.rmtree(scratch, ignore_errors=True)
