"""The connection to the operations database."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING

from dr_platform.errors import TemporaryFailure

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

CONNECT_S = 5
STATEMENT_MS = 30_000
"""Bounds one statement, waiting for a lock included."""


class OperationsUnavailable(TemporaryFailure):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.what = f"the operations database did not do what it was asked: {reason}"
        self.untouched = "everything stored in it; the change was not made, or made as a whole"
        self.next_step = (
            "see `drp logs operations-db` and `drp doctor`; `drp up` starts it and brings its tables up to date"
        )


def psycopg_url(url: str | URL) -> URL:
    """The same address for psycopg 3, whichever driver it names."""
    from sqlalchemy import make_url

    return make_url(url).set(drivername="postgresql+psycopg")


def operations_engine(url: str | URL) -> Engine:
    """An engine of few connections; nothing is connected yet.

    Connections are checked before use, so that a restarted server costs no failed call.
    """
    from sqlalchemy import create_engine

    return create_engine(
        psycopg_url(url),
        pool_size=2,
        max_overflow=6,
        pool_timeout=CONNECT_S,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": CONNECT_S,
            "application_name": "drp-operations",
            "options": f"-c statement_timeout={STATEMENT_MS} -c timezone=UTC",
        },
    )


@contextlib.contextmanager
def unavailable_when_down() -> Generator[None]:
    """Turn a server that is down, refuses, lacks tables or takes too long into ``OperationsUnavailable``.

    The reason is the error's class alone: its text may quote the values of the statement.
    """
    from sqlalchemy.exc import InterfaceError, OperationalError, ProgrammingError
    from sqlalchemy.exc import TimeoutError as PoolTimeout

    try:
        yield
    except (OperationalError, InterfaceError, ProgrammingError) as exc:
        raise OperationsUnavailable(type(exc.orig).__name__) from None
    except PoolTimeout:
        raise OperationsUnavailable("no free connection") from None
