"""Looks at things that may answer slowly or not at all, kept for a short while.

A caller gets the latest result at once; a look that is older than its time is repeated beside it.
So a probe of this service is quick while what it depends on hangs, and any number of askers cost
one look.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

from dr_platform.clock import Clock
from dr_platform.errors import PlatformError


@dataclass(frozen=True)
class Seen:
    """``good`` is ``None`` before the first look has ended, and where the last one is too old."""

    good: bool | None
    reason: str = ""
    latency_ms: float = 0.0


class Refresh(Protocol):
    """Seconds after which a result is looked at again, depending on what it was."""

    def __call__(self, good: bool | None) -> float: ...


def every(good_s: float, bad_s: float) -> Refresh:
    def seconds(good: bool | None) -> float:
        return good_s if good else bad_s

    return seconds


class Look:
    """One thing that is looked at. ``look`` returns when it is good and raises when it is not; the
    text of a ``Reason`` is shown, of any other exception its type alone. It may return milliseconds
    that count as its latency in place of its whole time."""

    def __init__(
        self,
        look: Callable[[], float | None],
        refresh: Refresh,
        *,
        clock: Clock,
        executor: Executor,
        stale_s: float,
    ) -> None:
        self._look = look
        self._refresh = refresh
        self._clock = clock
        self._executor = executor
        self._stale_s = stale_s
        self._lock = threading.Condition()
        self._running = False
        self._seen = Seen(None, "not looked at yet")
        self._at = float("-inf")

    def latest(self) -> Seen:
        """What was seen last; starts another look where that is due. Never waits."""
        self._start_if_due()
        with self._lock:
            if self._fresh() or self._seen.good is None:
                return self._seen
            return Seen(None, "no answer to the last look")

    def known(self) -> bool:
        """Whether ``latest`` has an answer that is not too old."""
        with self._lock:
            return self._fresh()

    def settled(self, timeout_s: float) -> Seen:
        """``latest``, but waits so long where there is no answer that is not too old."""
        self._start_if_due()
        with self._lock:
            self._lock.wait_for(self._fresh, timeout_s)
        return self.latest()

    def _fresh(self) -> bool:
        return self._clock.monotonic() - self._at <= self._stale_s

    def _start_if_due(self) -> None:
        with self._lock:
            due = self._clock.monotonic() - self._at >= self._refresh(self._seen.good)
            if self._running or not due:
                return
            self._running = True
        try:
            self._executor.submit(self._run)
        except RuntimeError:  # the process is ending
            with self._lock:
                self._running = False

    def _run(self) -> None:
        began = self._clock.monotonic()
        try:
            measured = self._look()
            whole = (self._clock.monotonic() - began) * 1000
            seen = Seen(True, latency_ms=whole if measured is None else measured)
        except Reason as exc:
            seen = Seen(False, str(exc))
        except PlatformError as exc:  # expected failures name their reason without quoting data
            seen = Seen(False, str(getattr(exc, "reason", type(exc).__name__)))
        except Exception as exc:  # noqa: BLE001 - whatever goes wrong is the answer; its text may quote data
            seen = Seen(False, type(exc).__name__)
        with self._lock:
            self._seen, self._at, self._running = seen, self._clock.monotonic(), False
            self._lock.notify_all()


class Reason(Exception):
    """Why something is not good, in words that may be shown to anybody."""
