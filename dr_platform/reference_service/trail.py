"""The way of audit events from a replica to the audit trail.

Events are kept in order in memory for some milliseconds and handed over in batches; an event that
could not be handed over is kept and tried again. The queue is bounded: a service that cannot be
audited stops serving data instead of serving it unaudited (45 CFR 164.312(b)).
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from dr_platform.clock import Clock
from dr_platform.errors import PlatformError, TemporaryFailure

LIMIT = 1_000
_BATCH = 200
_PAUSE_S = 0.2
_RETRY_S = 1.0


@dataclass(frozen=True)
class Event:
    """``actor`` and ``resource`` are identifiers and never names or anything a patient wrote."""

    actor: str
    action: str
    outcome: str
    resource: str = ""
    request_id: str = ""
    service: str = ""

    def as_json(self) -> dict[str, str]:
        return asdict(self)


class TrailFull(TemporaryFailure):
    def __init__(self, service: str) -> None:
        super().__init__(service)
        self.what = f"{service} cannot hand its audit events over, so it serves no data"
        self.untouched = "what is stored"
        self.next_step = "see the health of the audit log service; data is served again when it answers"


Append = Callable[[Sequence[Event]], None]
"""Writes events to the audit trail; raises where that is not known to have succeeded."""


class AuditTrail:
    """``append`` is given by ``start``, because it may need the whole replica."""

    def __init__(self, service: str, clock: Clock) -> None:
        self._service = service
        self._clock = clock
        self._events: deque[Event] = deque()
        self._wake = threading.Condition()
        self._append: Append | None = None
        self._ending = False
        self._thread: threading.Thread | None = None
        self._appended_at = float("-inf")

    def start(self, append: Append) -> None:
        self._append = append
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def refuse_when_full(self) -> None:
        """Raise ``TrailFull`` where no more events can be kept."""
        if len(self._events) >= LIMIT:
            raise TrailFull(self._service)

    def record(self, event: Event) -> None:
        with self._wake:
            self._events.append(event)
            self._wake.notify()

    def waiting(self) -> int:
        return len(self._events)

    def appended_within(self, seconds: float) -> bool:
        """Whether an event reached the audit trail lately and none has been waiting for long."""
        return self._clock.monotonic() - self._appended_at <= seconds

    def flush(self) -> None:
        """Hand everything over now, in the caller's thread. Raises what ``append`` raises."""
        while batch := self._batch():
            self._hand_over(batch)

    def close(self) -> None:
        """Hand over what is left, once, and end."""
        with self._wake:
            self._ending = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout=3.0)

    def _batch(self) -> list[Event]:
        with self._wake:
            return [self._events[at] for at in range(min(_BATCH, len(self._events)))]

    def _hand_over(self, batch: list[Event]) -> None:
        if self._append is None:
            return
        self._append(batch)
        self._appended_at = self._clock.monotonic()
        with self._wake:
            for event in batch:
                # Another thread may have handed the same events over meanwhile: twice is allowed.
                if self._events and self._events[0] is event:
                    self._events.popleft()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._events or self._ending, timeout=None)
                if not self._events and self._ending:
                    return
                ending = self._ending
            if not ending:
                self._clock.sleep(_PAUSE_S)  # a moment of traffic becomes one batch
            try:
                self.flush()
            except PlatformError:
                if ending:
                    return
                self._clock.sleep(_RETRY_S)
            except Exception:  # noqa: BLE001 - the thread must outlive whatever a driver raises
                with contextlib.suppress(Exception):
                    self._clock.sleep(_RETRY_S)
                if ending:
                    return
