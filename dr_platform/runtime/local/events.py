"""Reading what the keeper wrote about ends and restarts of processes."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

from dr_platform.state import StateDirectory

READ_BYTES = 1 << 20


def events_after(state: StateDirectory, offset: int) -> tuple[list[dict[str, Any]], int]:
    """Whole lines after ``offset`` (bytes), and the offset to go on from. A file that became
    shorter was begun anew and is read from its start."""
    try:
        with state.events.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(offset if offset <= size else 0)
            begin = file.tell()
            text = file.read(READ_BYTES)
    except FileNotFoundError:
        return [], 0
    complete = text[: text.rfind(b"\n") + 1]
    return [event for line in complete.splitlines() if (event := _event(line))], begin + len(complete)


def recent_events(state: StateDirectory, count: int) -> list[dict[str, Any]]:
    """The newest events, oldest first."""
    try:
        with state.events.open("rb") as file:
            lines = deque(file, maxlen=count)
    except FileNotFoundError:
        return []
    return [event for line in lines if (event := _event(line))]


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:  # a line cut short by a full disk
        return None
    return found if isinstance(found, dict) else None
