"""Waiting for a server that was just started."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from dr_platform.clock import Clock
from dr_platform.databases.embedded.port import ServerNotReady

T = TypeVar("T")
PAUSE_S = 0.1


def until_it_answers(
    name: str, attempt: Callable[[], T], expected: tuple[type[Exception], ...], within_s: float, clock: Clock
) -> T:
    """The first result of ``attempt``; errors of the types ``expected`` mean "not yet"."""
    give_up = clock.monotonic() + within_s
    while True:
        try:
            return attempt()
        except expected as error:
            if clock.monotonic() >= give_up:
                # The type alone: drivers quote addresses and accounts, some of them whole statements.
                raise ServerNotReady(name, within_s, type(error).__name__) from error
        clock.sleep(PAUSE_S)
