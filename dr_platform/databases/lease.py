"""One schema runner at a time, on servers that have no lock bound to a connection.

A lease expires by itself, so that a runner that was killed blocks the next one for ``ttl_s`` at
most; a runner that lives renews it from a thread. Losing it is noticed before the next statement.
Statements are repeatable and history records are written once, so that even a runner that was
stopped for longer than its lease and goes on does no harm.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator
from typing import Protocol

from dr_platform.clock import Clock
from dr_platform.errors import TemporaryFailure
from dr_platform.identity import new_id

TTL_S = 30.0
WAIT_S = 300.0
"""A second runner waits this long for the first; the longest step seen takes seconds."""
_LOOK_S = 0.1


class LeaseStore(Protocol):
    """Where the one lease of a database lies. Each call is atomic at the server, and time is the
    server's."""

    def take(self, owner: str, ttl_s: float) -> bool:
        """Whether ``owner`` holds the lease from now on for ``ttl_s``; false where somebody holds it."""

    def renew(self, owner: str, ttl_s: float) -> bool:
        """False where the lease is no longer the owner's, and then nothing is changed."""

    def give_up(self, owner: str) -> None:
        """Nothing where it is no longer the owner's."""


class SchemaLocked(TemporaryFailure):
    def __init__(self, name: str, waited_s: float) -> None:
        super().__init__(name, waited_s)
        self.what = f"{name}: another runner has been changing the schema for {waited_s:g} s"
        self.untouched = f"the schema of {name}, as far as this run is concerned"
        self.next_step = "let the other run end and repeat; a killed one is forgotten within a minute"


class LeaseLost(TemporaryFailure):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.what = f"{name}: this run was stopped for so long that another one may change the schema"
        self.untouched = "the rest of the step; it is not recorded as applied"
        self.next_step = "repeat: the step is finished by its repetition"


class Held:
    """The lease while it is held."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.lost = threading.Event()

    def check(self) -> None:
        """Raise ``LeaseLost`` where it is not ours any more; called before every statement."""
        if self.lost.is_set():
            raise LeaseLost(self._name)


def wait_for(attempt: Callable[[], bool], name: str, clock: Clock, wait_s: float) -> None:
    """Try until it succeeds. Waiting at the server instead would hold a snapshot or a connection."""
    started = clock.monotonic()
    while not attempt():
        if clock.monotonic() - started >= wait_s:
            raise SchemaLocked(name, wait_s)
        clock.sleep(_LOOK_S)


@contextlib.contextmanager
def one_at_a_time(
    store: LeaseStore, name: str, clock: Clock, *, ttl_s: float = TTL_S, wait_s: float = WAIT_S
) -> Generator[Held]:
    """Hold the database's lease for the block, renewed every third of its time."""
    owner = new_id("runner")
    wait_for(lambda: store.take(owner, ttl_s), name, clock, wait_s)
    held = Held(name)
    done = threading.Event()
    renewer = threading.Thread(target=_renew, args=(store, owner, ttl_s, held, done, clock), daemon=True)
    renewer.start()
    try:
        yield held
    finally:
        done.set()
        renewer.join()
        with contextlib.suppress(TemporaryFailure):  # it ends by itself; the block's own error matters more
            store.give_up(owner)


def _renew(store: LeaseStore, owner: str, ttl_s: float, held: Held, done: threading.Event, clock: Clock) -> None:
    renewed = clock.monotonic()
    while not done.wait(ttl_s / 3):
        try:
            ours = store.renew(owner, ttl_s)
        except Exception:  # noqa: BLE001 - drivers raise unrelated types; an outage is bridged as long as the lease lasts
            ours = clock.monotonic() - renewed < ttl_s * 2 / 3
        else:
            renewed = clock.monotonic()
        if not ours:
            held.lost.set()
            return
