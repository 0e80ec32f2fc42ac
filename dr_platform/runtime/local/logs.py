"""Reading programs' logs: the newest lines, those of the life before, and what is being written.

Here: files only. A program's log holds several lives, parted by a line at each start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from dr_platform.runtime.local.configuration import START_LINE

_POLL_S = 0.2
_READ_BYTES = 1 << 20


def newest(log: Path, lines: int) -> list[str]:
    """The last lines since the last start, oldest first."""
    return list(_lives(log, lines)[1])


def before_last_start(log: Path, lines: int) -> list[str]:
    """The last lines that were written before the last start."""
    return list(_lives(log, lines)[0])


def follow(logs: dict[str, Path], sleep: Callable[[float], None]) -> Iterator[tuple[str, str]]:
    """Name and line of everything written from now on; goes on over rotations until it is closed."""
    places = {name: _Place.at_end(path) for name, path in logs.items()}
    while True:
        quiet = True
        for name, place in places.items():
            for line in place.read_on():
                quiet = False
                yield name, line
        if quiet:
            sleep(_POLL_S)


class _Place:
    """Where one reader is in one log."""

    def __init__(self, path: Path, inode: int, offset: int) -> None:
        self._path, self._inode, self._offset = path, inode, offset
        self._rest = b""

    @classmethod
    def at_end(cls, path: Path) -> _Place:
        try:
            found = path.stat()
        except OSError:
            return cls(path, 0, 0)
        return cls(path, found.st_ino, found.st_size)

    def read_on(self) -> list[str]:
        try:
            found = self._path.stat()
            if found.st_ino != self._inode or found.st_size < self._offset:
                self._inode, self._offset = found.st_ino, 0
            with self._path.open("rb") as file:
                file.seek(self._offset)
                text = file.read(_READ_BYTES)
        except OSError:
            return []
        self._offset += len(text)
        *complete, self._rest = (self._rest + text).split(b"\n")
        return [line.decode("utf-8", "replace") for line in complete if _is_output(line.decode("utf-8", "replace"))]


def _lives(log: Path, lines: int) -> tuple[deque[str], deque[str]]:
    """The ends of the life before and of the present one."""
    before: deque[str] = deque(maxlen=lines)
    present: deque[str] = deque(maxlen=lines)
    for file in (log.with_name(f"{log.name}.2"), log.with_name(f"{log.name}.1"), log):
        try:
            with file.open(encoding="utf-8", errors="replace") as text:
                for line in text:
                    if line.startswith(START_LINE):
                        before, present = present, deque(maxlen=lines)
                    elif _is_output(line):
                        present.append(line.rstrip("\n"))
        except OSError:
            continue
    return before, present


def _is_output(line: str) -> bool:
    return bool(line.strip()) and not line.startswith(START_LINE)
