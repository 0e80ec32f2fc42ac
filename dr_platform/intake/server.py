"""The small server that CI tells of merges and pushes: ``POST /v1/events``, on loopback, signed, bounded.

Here: what a request may be and what it is answered. Not here: any decision. Whoever reaches it from outside of
this machine comes through a tunnel or proxy of the operator's own; what counts is the signature.

| Answer | Means |
| --- | --- |
| 202 | taken in; the job ``promote`` asks the gate as soon as the release exists |
| 200 | taken in before, or nothing that deploys here |
| 400 | no event that can be read |
| 401 | not signed with the key, or not just now |
| 408, 413 | too slow, too large |
| 503 | not taken in for the moment; send it again |
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dr_platform.catalog.models import INTAKE_PORT
from dr_platform.clock import Clock
from dr_platform.errors import PlatformError, TemporaryFailure
from dr_platform.intake.change import Change, Malformed, read_event
from dr_platform.intake.desk import IntakeDesk, Outcome, Taken
from dr_platform.intake.signature import GITHUB, refused, too_old
from dr_platform.platform import Platform
from dr_platform.secrets.port import Fields, SecretStore

KEY_SECRET = "webhooks/intake"  # noqa: S105 - the name of a secret
KEY_FIELD = "key"
EVENTS_PATH = "/v1/events"
MAX_BODY = 1 << 20
"""GitHub's largest push events are larger; a push of so many commits is told by ``drp intake``."""
BODY_S = 10.0
LOOPBACK = "127.0.0.1"
_DELIVERY = re.compile(r"[A-Za-z0-9-]{1,64}")
_STATUS = {Outcome.ACCEPTED: 202, Outcome.IGNORED: 200, Outcome.DUPLICATE: 200}


class TooLarge(Exception):
    pass


def intake_key(store: SecretStore) -> str:
    """The key that senders sign with; made at first use. Raises ``SecretsUnavailable``."""
    return store.ensure(KEY_SECRET, _new_key, category="api-keys")[KEY_FIELD]


def _new_key() -> Fields:
    return {KEY_FIELD: secrets.token_hex(32)}


def application(desk: IntakeDesk, key: Callable[[], str], clock: Clock) -> Starlette:
    """``key`` is asked at each request, so that a rotated one counts at once."""

    async def events(request: Request) -> Response:
        try:
            body = await asyncio.wait_for(_body(request), BODY_S)
        except TooLarge:
            return _answer(413, f"an event has at most {MAX_BODY} bytes")
        except TimeoutError:
            return _answer(408, "the event did not come in time")
        except ClientDisconnect:
            return _answer(400, "the sender has gone")
        headers = {name.lower(): value for name, value in request.headers.items()}
        return await run_in_threadpool(_received, desk, key, clock, headers, body)

    async def live(_request: Request) -> Response:
        return JSONResponse({"status": "healthy"})

    return Starlette(routes=[Route(EVENTS_PATH, events, methods=["POST"]), Route("/health/live", live)])


async def _body(request: Request) -> bytes:
    """Stops reading as soon as it is too much, whatever the sender had announced."""
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced[:12]) > MAX_BODY:
        raise TooLarge
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise TooLarge
        parts.append(part)
    return b"".join(parts)


def _received(desk: IntakeDesk, key: Callable[[], str], clock: Clock, headers: dict[str, str], body: bytes) -> Response:
    """Signature first: what nobody has signed is not read as anything."""
    try:
        if (why := refused(headers, body, key(), clock.now())) is not None:
            return _answer(401, why)
        github = headers.get("x-github-event", "") if GITHUB in headers else None
        found = read_event(body, github)
        if isinstance(found, Change) and too_old(found, clock.now()):
            return _answer(401, "it happened too long ago")
        source = "plain" if github is None else "github"
        taken = desk.take(found, f"program:intake-{source}", _delivery(headers))
    except Malformed as exc:
        return _answer(400, exc.what)
    except TemporaryFailure as exc:
        return _answer(503, exc.what)
    except PlatformError as exc:
        return _answer(400, exc.what)
    return _told(taken)


def _delivery(headers: dict[str, str]) -> str:
    """For comparing logs; it is not signed, so that nothing is decided by it."""
    named = headers.get("x-github-delivery") or headers.get("x-drp-delivery") or ""
    return named if _DELIVERY.fullmatch(named) else ""


def _answer(status: int, why: str) -> Response:
    return JSONResponse({"outcome": "refused", "release": None, "why": why}, status)


def _told(taken: Taken) -> Response:
    return JSONResponse(taken.as_json(), _STATUS[taken.outcome])


def server(desk: IntakeDesk, key: Callable[[], str], clock: Clock, port: int) -> uvicorn.Server:
    config = uvicorn.Config(
        application(desk, key, clock),
        host=LOOPBACK,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=5,
        timeout_graceful_shutdown=10,
        limit_concurrency=32,
        h11_max_incomplete_event_size=16384,
    )
    return uvicorn.Server(config)


def serve(platform: Platform) -> None:
    """Serve until told to end."""
    desk = IntakeDesk(platform.evidence, platform.environment)
    port = INTAKE_PORT + platform.port_offset
    server(desk, lambda: intake_key(platform.secrets), platform.clock, port).run()
