"""From an HTTP request to a handler and back: tokens, scopes, JSON, audit, errors.

Here: what all data endpoints share. Not here: what any of them does (``roles``).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dr_platform.errors import PlatformError, TemporaryFailure
from dr_platform.identity import new_id
from dr_platform.reference_service.access import Principal, TokenRefused, bearer
from dr_platform.reference_service.peers import REQUEST_ID_HEADER, PeerRefused
from dr_platform.reference_service.replica import Replica
from dr_platform.reference_service.trail import Event

MAX_BODY = 1 << 20
MAX_TEXT = 20_000
"""Characters of one text that a caller sends."""
_PASSED_ON = (404, 409, 413, 429)
"""Refusals of a peer that are the caller's own matter; others are a mistake between services."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


class Refusal(Exception):
    """An answer of 4xx. ``reason`` is sent back and quotes nothing the caller sent."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True)
class Call:
    """A request that was let in."""

    principal: Principal
    request_id: str
    body: Mapping[str, Any] = field(default_factory=dict)
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)

    def text(self, name: str, *, limit: int = MAX_TEXT, default: str | None = None) -> str:
        """A text of the body that is not empty. Raises ``Refusal``."""
        value = self.body.get(name, default)
        if not isinstance(value, str) or (not value.strip() and value != default):
            raise Refusal(400, f"{name} must be a text")
        if len(value) > limit:
            raise Refusal(413, f"{name} has more than {limit} characters")
        return value

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number of the body or the query. Raises ``Refusal``."""
        value = self.body.get(name, self.query.get(name, default))
        try:
            number = int(value)
        except (TypeError, ValueError):
            raise Refusal(400, f"{name} must be a whole number") from None
        if not low <= number <= high:
            raise Refusal(400, f"{name} must be from {low} to {high}")
        return number


Handler = Callable[[Call], Mapping[str, Any]]
"""Runs in a thread of its own. Returns what is sent as JSON; raises ``Refusal`` or expected failures."""


def endpoint(
    replica: Replica,
    path: str,
    handler: Handler,
    *,
    scope: str | None,
    methods: tuple[str, ...] = ("POST",),
    action: str = "",
) -> Route:
    """A route of the service. ``scope`` must be in the caller's token (``None``: open to everybody);
    calls with an ``action`` are audited under that name."""

    async def answer(request: Request) -> Response:
        request_id = _request_id(request)
        headers = {REQUEST_ID_HEADER: request_id}
        try:
            principal = _admit(replica, request, scope)
        except Refusal as exc:
            if action:
                replica.trail.record(Event("unknown", action, "denied", request_id=request_id))
            challenge = {"www-authenticate": "Bearer"} if exc.status == 401 else {}
            return JSONResponse({"error": exc.reason}, exc.status, headers | challenge)
        call, outcome = Call(principal, request_id), "failed"
        try:
            if action:
                replica.trail.refuse_when_full()
            call = await _read(request, principal, request_id)
            loop = asyncio.get_running_loop()
            body = await loop.run_in_executor(replica.work, handler, call)
            outcome = "allowed"
            return JSONResponse(body, headers=headers)
        except Refusal as exc:
            return JSONResponse({"error": exc.reason}, exc.status, headers)
        except PeerRefused as exc:
            return JSONResponse({"error": exc.what}, exc.status if exc.status in _PASSED_ON else 502, headers)
        except TemporaryFailure as exc:
            return JSONResponse({"error": exc.what}, 503, headers)
        except PlatformError as exc:
            return JSONResponse({"error": exc.what}, 500, headers)
        except Exception as exc:  # noqa: BLE001 - its text may quote patient data; the type alone is told
            return JSONResponse({"error": type(exc).__name__}, 500, headers)
        finally:
            if action:
                resource = _resource(call.path)
                replica.trail.record(Event(principal.subject, action, outcome, resource, request_id))

    return Route(path, answer, methods=list(methods))


def _admit(replica: Replica, request: Request, scope: str | None) -> Principal:
    if scope is None:
        return Principal("anyone", frozenset())
    try:
        principal = replica.tokens.check(bearer(request.headers.get("authorization")))
    except TokenRefused as exc:
        raise Refusal(401, exc.reason) from None
    except PlatformError:
        raise Refusal(401, "tokens cannot be checked at the moment") from None
    if not principal.may(scope):
        raise Refusal(403, f"the token lacks the scope {scope}")
    return principal


async def _read(request: Request, principal: Principal, request_id: str) -> Call:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY:
            raise Refusal(413, f"the body is larger than {MAX_BODY} bytes")
        chunks.append(chunk)
    try:
        body = json.loads(b"".join(chunks) or b"{}")
    except (ValueError, RecursionError):
        raise Refusal(400, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise Refusal(400, "the body is not a JSON object")
    return Call(principal, request_id, body, request.path_params, dict(request.query_params))


def _request_id(request: Request) -> str:
    sent = request.headers.get(REQUEST_ID_HEADER, "")
    return sent if _REQUEST_ID.fullmatch(sent) else new_id("req")


def _resource(path: Mapping[str, str]) -> str:
    """Identifiers of the path, cut to what may be stored; texts of a body never become a resource."""
    return "/".join(value[:64] for value in path.values() if _REQUEST_ID.fullmatch(value))[:200]
