"""Work beside the controller's looks, for what may take long or hang: a look never waits for it.

Here: one piece of work at a time for each name. Not here: what is done there (``controller``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from typing import Any, TypeVar

T = TypeVar("T")

Start = Callable[[Callable[[], Any]], "Future[Any]"]
"""Begins a piece of work and tells how it ends."""


def on_a_thread(work: Callable[[], Any]) -> Future[Any]:
    """On a thread that ends with the process: what hangs there keeps nobody from stopping."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as exc:  # noqa: BLE001 - it is raised where the answer is read
            future.set_exception(exc)

    threading.Thread(target=run, name="aside", daemon=True).start()
    return future


class Aside:
    def __init__(self, start: Start = on_a_thread) -> None:
        self._start = start
        self._under_way: dict[str, Future[Any]] = {}

    def go_on(self, name: str, work: Callable[[], object]) -> None:
        """Begin the work, unless it is under way. Raises what the last one of that name ended with."""
        self.answer(name, work, 0.0)

    def answer(self, name: str, work: Callable[[], T], wait_s: float) -> T | None:
        """What the work says, or ``None`` if it has not said so after ``wait_s``: then it goes on, its
        answer is the one to a later call, and until then no call waits any more."""
        if name in self._under_way:
            wait_s = 0.0
        else:
            self._under_way[name] = self._start(work)
        try:
            self._under_way[name].exception(wait_s)
        except NotYet:
            return None
        return self._under_way.pop(name).result()
