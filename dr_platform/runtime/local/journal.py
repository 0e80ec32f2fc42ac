"""What supervisord's log says about starts and ends of processes.

Here: taking lines apart and reading on from where one stopped. Not here: what follows from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_LINE = re.compile(r"(?P<at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) \w+ (?P<text>.*)")
_KINDS = (
    ("started", re.compile(r"spawned: '(?P<name>[^']+)' with pid (?P<pid>\d+)()")),
    ("running", re.compile(r"success: (?P<name>\S+) ()(?P<detail>entered RUNNING state.*)")),
    ("ended", re.compile(r"exited: (?P<name>\S+) ()\((?P<detail>.*)\)")),
    ("stopped", re.compile(r"stopped: (?P<name>\S+) ()\((?P<detail>.*)\)")),
    ("gave-up", re.compile(r"gave up: (?P<name>\S+) ()(?P<detail>.*)")),
)


@dataclass(frozen=True)
class ProcessEvent:
    """``kind`` is ``started``, ``running`` (it stayed up), ``ended`` (nobody asked for it),
    ``stopped`` (somebody did) or ``gave-up``."""

    at: datetime
    kind: str
    name: str
    pid: int | None = None
    detail: str = ""


def parse(line: str) -> ProcessEvent | None:
    """The event a line of supervisord's log reports, if it does."""
    found = _LINE.match(line)
    if found is None:
        return None
    for kind, pattern in _KINDS:
        if event := pattern.fullmatch(found["text"].strip()):
            at = datetime.strptime(found["at"], "%Y-%m-%d %H:%M:%S,%f").astimezone(UTC)
            parts = event.groupdict()
            return ProcessEvent(at, kind, parts["name"], int(parts.get("pid") or 0) or None, parts.get("detail") or "")
    return None


class Journal:
    """Reads a growing log onwards; starts over where it was rotated or cut."""

    def __init__(self, path: Path, *, offset: int = 0, inode: int = 0) -> None:
        self._path = path
        self.offset = offset
        self.inode = inode

    def new_events(self) -> Iterator[ProcessEvent]:
        """Events since the last call, oldest first."""
        try:
            found = self._path.stat()
            with self._path.open("rb") as file:
                if found.st_ino != self.inode or found.st_size < self.offset:
                    self.inode, self.offset = found.st_ino, 0
                file.seek(self.offset)
                text = file.read()
        except OSError:
            return
        complete = text.rfind(b"\n") + 1  # a line that is being written is read next time
        self.offset += complete
        for line in text[:complete].decode("utf-8", "replace").splitlines():
            if event := parse(line):
                yield event
