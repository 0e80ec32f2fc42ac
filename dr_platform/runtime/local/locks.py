"""One writer at a time, across processes.

Here: an exclusive lock on a file that ends with its holder. Not here: leases, which outlive processes.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from dr_platform.runtime.port import RuntimeUnreachable

_POLL_S = 0.01


@contextmanager
def exclusively(path: Path, timeout_s: float = 120.0) -> Generator[None]:
    """Hold the lock at ``path``. The kernel takes it back when the holder ends, however it ends.

    Raises ``RuntimeUnreachable`` when somebody else keeps it for longer than ``timeout_s``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    # Opened for each use: two holders in one process must exclude each other too.
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise RuntimeUnreachable("local", f"{path.name} is held by another command") from None
                time.sleep(_POLL_S)
        yield
