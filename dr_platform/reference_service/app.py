"""The ASGI application of one replica: health endpoints for everybody, data endpoints by role.

Here: routes and the two layers around all of them, counting and misbehaving on request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dr_platform.faults import fails
from dr_platform.reference_service.compliance import PROTECTED_PATH, PROTECTED_SCOPE, Compliance
from dr_platform.reference_service.health import Health
from dr_platform.reference_service.replica import Replica
from dr_platform.reference_service.roles import duties_of
from dr_platform.reference_service.topology import Work
from dr_platform.reference_service.web import endpoint

SPARED = frozenset({"/health/ready", "/health/live", "/metrics"})
"""Errors and latency on request leave these alone: they are how a runtime sees the replica."""
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Application:
    """``asgi`` is what the server calls. ``readiness_asked_at`` tells when somebody last asked for
    readiness, in the clock's monotonic seconds: while somebody does, a router sends traffic here."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.readiness_asked_at = float("-inf")
        duties = duties_of(replica)
        self._compliance = Compliance(replica)
        self._health = Health(replica, duties.tables, self._compliance)
        self.duties = duties
        routes: list[BaseRoute] = [
            Route("/health", self._answer_health),
            Route("/health/ready", self._answer_ready),
            Route("/health/live", self._answer_live),
            Route("/metrics", self._answer_metrics),
            endpoint(replica, PROTECTED_PATH, self._protected, scope=PROTECTED_SCOPE, methods=("GET",)),
            *duties.routes,
        ]
        if replica.entry.works_as(Work.GATEWAY):
            routes.append(Route("/health/database", self._answer_databases))
        inner = Starlette(routes=routes)
        self.asgi: ASGIApp = Counted(Misbehaving(inner, replica), replica)

    def start(self) -> None:
        """Begin to audit, to look at dependencies, and to do what the role does in the background."""
        self._replica.trail.start(self.duties.append)
        self._health.start()
        for start in self.duties.background:
            start()

    async def _in_thread(self, look: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._replica.work, look)

    async def _answer_health(self, _request: Request) -> Response:
        body = await self._in_thread(self._health.response)
        return JSONResponse(body, 503 if body["status"] == "unhealthy" else 200)

    async def _answer_databases(self, _request: Request) -> Response:
        body = await self._in_thread(self._health.databases)
        return JSONResponse(body, 200 if body["status"] == "healthy" else 503)

    async def _answer_ready(self, _request: Request) -> Response:
        self.readiness_asked_at = self._replica.clock.monotonic()
        if not self._health.settled():
            await self._in_thread(self._health.settle)
        ready, reasons = self._health.ready()
        body = {"status": "ready"} if ready else {"status": "unready", "reasons": reasons}
        return JSONResponse(body, 200 if ready else 503)

    async def _answer_live(self, _request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def _answer_metrics(self, _request: Request) -> Response:
        return PlainTextResponse(self._replica.telemetry.text(), media_type=METRICS_TYPE)

    @staticmethod
    def _protected(_call: object) -> dict[str, bool]:
        return {"admitted": True}


class Misbehaving:
    """Fails and delays requests as the faults in force say."""

    def __init__(self, app: ASGIApp, replica: Replica) -> None:
        self._app = app
        self._replica = replica
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in SPARED:
            await self._app(scope, receive, send)
            return
        faults = self._replica.faults.now()
        if faults.latency_ms:
            await asyncio.sleep(faults.latency_ms / 1000)
        if faults.error_ratio:
            self._count += 1
            if fails(self._count, faults.error_ratio):
                await JSONResponse({"error": "injected fault"}, 500)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Counted:
    """Counts every request with its route, status and time, and how many are under way."""

    def __init__(self, app: ASGIApp, replica: Replica) -> None:
        self._app = app
        self._telemetry = replica.telemetry
        self._under_way = 0
        self._telemetry.gauge("drp_requests_under_way", lambda: self._under_way)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500
        self._under_way += 1

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            self._under_way -= 1
            self._telemetry.request(_pattern(scope), scope["method"], status, time.perf_counter() - began)


def _pattern(scope: Scope) -> str:
    """The route's pattern, never the path itself: paths hold identifiers, and anybody may send any."""
    if scope["path"] in SPARED:
        return scope["path"]
    route = scope.get("route")
    return getattr(route, "path", None) or "unmatched"
