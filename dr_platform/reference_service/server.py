"""Serving until told to end, and ending without losing a request.

On SIGTERM readiness fails at once while requests are served on, so that the router sends no more;
then requests under way are finished, and the process exits with 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Generator

import uvicorn

from dr_platform.reference_service.app import Application
from dr_platform.reference_service.peers import LOOPBACK
from dr_platform.reference_service.replica import Replica

DRAIN_WINDOW_S = 2.5
"""The router looks every second and gives up after two failures; half a second for its looks to end."""
QUIET_S = 3.0
"""Nobody has asked for readiness for this long: no router knows this replica, so none must be told."""
FINISH_S = 25
"""Requests under way get this long; the supervisor's own limit is the service's drain time and more."""
KEEP_ALIVE_S = 75
"""Longer than any router keeps an idle connection: a request must not meet one that is being closed."""


class DrainingServer(uvicorn.Server):
    """Uvicorn, with a drain before its own shutdown and without raising the signal again after it."""

    def __init__(self, config: uvicorn.Config, application: Application, replica: Replica) -> None:
        super().__init__(config)
        self._application = application
        self._replica = replica
        self._draining: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_end)
        yield

    def _told_to_end(self) -> None:
        if self._draining is not None:  # told twice: do not wait any longer
            self.should_exit = True
            return
        self._replica.draining = True
        self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        if self._replica.clock.monotonic() - self._application.readiness_asked_at < QUIET_S:
            await asyncio.sleep(DRAIN_WINDOW_S)
        self.should_exit = True


def serve(replica: Replica) -> None:
    """Serve on the replica's port until told to end."""
    application = Application(replica)
    config = uvicorn.Config(
        application.asgi,
        host=LOOPBACK,
        port=replica.identity.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=FINISH_S,
        limit_concurrency=512,
        backlog=512,
    )
    server = DrainingServer(config, application, replica)
    application.start()
    try:
        server.run()
    finally:
        replica.close()
