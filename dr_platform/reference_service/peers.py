"""Calls to other services over HTTP, each with a token that is good for that one thing.

Here: connections, tokens, one repetition. Not here: what is asked of whom (``roles``).
A service may call what its catalog entry declares, and the audit log.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from dr_platform.clock import Clock
from dr_platform.errors import PlatformError, TemporaryFailure
from dr_platform.reference_service.access import TOKEN_S, Tokens
from dr_platform.reference_service.topology import ServiceEntry, Topology, Work

LOOPBACK = "127.0.0.1"
CONNECT_S = 1.0
REQUEST_ID_HEADER = "x-request-id"
_MAX_ANSWER = 8 << 20
_KEPT = 8
"""Idle connections kept per peer."""
_IDLE_S = 30.0
"""The router closes an idle connection after an hour; ours go long before."""


class PeerUnavailable(TemporaryFailure):
    """``name`` gave no usable answer. ``status`` is its answer where there was one."""

    def __init__(self, name: str, reason: str, status: int | None = None) -> None:
        super().__init__(name, reason, status)
        self.name = name
        self.reason = reason
        self.status = status
        self.what = f"{name} does not answer as it should: {reason}"
        self.untouched = "what is stored"
        self.next_step = f"see `drp health` and `drp diagnose {name}`"


class PeerRefused(PlatformError):
    """``name`` answered 4xx: repeating the same request would be refused again."""

    def __init__(self, name: str, status: int) -> None:
        super().__init__(name, status)
        self.name = name
        self.status = status
        self.what = f"{name} refused the request with {status}"
        self.untouched = "what is stored"
        self.next_step = f"see `drp logs {name}`"


class NotDeclared(PlatformError):
    def __init__(self, caller: str, what: str) -> None:
        super().__init__(caller, what)
        self.what = f"{caller} does not declare that it needs {what}"
        self.untouched = "everything; nothing was called"
        self.next_step = f"add {what} to `needs` in the catalog entry of {caller}"


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    def document(self) -> Any:
        return json.loads(self.body)


class HttpPeer:
    """Keep-alive connections to one address. Safe to use from several threads."""

    def __init__(self, name: str, port: int, clock: Clock) -> None:
        self.name = name
        self._port = port
        self._clock = clock
        self._lock = threading.Lock()
        self._idle: list[tuple[float, http.client.HTTPConnection]] = []

    def ask(
        self, method: str, path: str, *, timeout_s: float, body: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> Answer:
        """One request. Raises ``PeerUnavailable`` where no answer came."""
        while True:
            connection, reused = self._take(timeout_s)
            try:
                return self._exchange(connection, method, path, body, headers)
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as exc:
                connection.close()
                # A kept connection may have been closed by the other side before it saw the request.
                if not reused:
                    raise PeerUnavailable(self.name, type(exc).__name__) from None
            except TimeoutError:
                connection.close()
                raise PeerUnavailable(self.name, f"no answer within {timeout_s:g} s") from None
            except (OSError, http.client.HTTPException) as exc:
                connection.close()
                refused = isinstance(exc, ConnectionRefusedError)
                raise PeerUnavailable(self.name, "connection refused" if refused else type(exc).__name__) from None

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> Answer:
        connection.request(method, path, body=body, headers=dict(headers))
        answer = connection.getresponse()
        content = answer.read(_MAX_ANSWER)
        if answer.will_close or answer.read(1):
            connection.close()
        else:
            with self._lock:
                self._idle.append((self._clock.monotonic(), connection))
                del self._idle[:-_KEPT]
        return Answer(answer.status, content)

    def _take(self, timeout_s: float) -> tuple[http.client.HTTPConnection, bool]:
        oldest = self._clock.monotonic() - _IDLE_S
        with self._lock:
            while self._idle:
                since, connection = self._idle.pop()
                if since >= oldest and connection.sock is not None:
                    connection.sock.settimeout(timeout_s)
                    return connection, True
                connection.close()
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=min(timeout_s, CONNECT_S))
        try:
            connection.connect()
        except TimeoutError:
            raise PeerUnavailable(self.name, "no connection in time") from None
        except OSError as exc:
            refused = isinstance(exc, ConnectionRefusedError)
            raise PeerUnavailable(self.name, "connection refused" if refused else type(exc).__name__) from None
        # Two small writes a request would otherwise wait for each other's acknowledgement.
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sock.settimeout(timeout_s)
        return connection, False


class Peers:
    """What one caller may call, found by the work it does.

    ``caller`` is a service that may call what it ``needs``; ``None`` stands for the platform itself
    or a client from outside, who may call every service.
    """

    def __init__(
        self, topology: Topology, tokens: Tokens, clock: Clock, *, caller: ServiceEntry | None, subject: str
    ) -> None:
        self._topology = topology
        self._tokens = tokens
        self._clock = clock
        self._caller = caller
        self._subject = subject
        self._lock = threading.Lock()
        self._peers: dict[str, HttpPeer] = {}
        self._issued: dict[str, tuple[float, str]] = {}

    def peer(self, name: str) -> HttpPeer:
        with self._lock:
            if name not in self._peers:
                self._peers[name] = HttpPeer(name, self._topology.service(name).port, self._clock)
            return self._peers[name]

    def find(self, work: Work) -> ServiceEntry | None:
        """The service that does this work, if there is one that the caller may call."""
        found = self._topology.with_work(work)
        if found is None or self._caller is None or work is Work.AUDIT_LOG:
            return found
        return found if found.name in self._caller.services else None

    def call(
        self,
        work: Work,
        path: str,
        scope: str,
        document: Mapping[str, Any],
        *,
        timeout_s: float = 10.0,
        attempts: int = 2,
        request_id: str = "",
    ) -> Any:
        """POST to whoever does the work, and its answer's JSON. Repeated once where no usable answer
        came, so only for what may be done twice, or with ``attempts=1``.

        Raises ``PeerUnavailable``, ``PeerRefused`` and ``NotDeclared``.
        """
        entry = self.find(work)
        if entry is None:
            raise NotDeclared(self._caller.name if self._caller else self._subject, f"a service of role {work}")
        body = json.dumps(document).encode()
        for attempt in range(1, attempts + 1):
            try:
                return self._once(entry.name, path, scope, body, timeout_s, request_id)
            except PeerUnavailable:
                if attempt == attempts:
                    raise
        raise AssertionError("attempts is at least 1")

    def get(self, work: Work, path: str, scope: str, *, timeout_s: float = 10.0) -> Any:
        """GET from whoever does the work; otherwise like ``call``."""
        entry = self.find(work)
        if entry is None:
            raise NotDeclared(self._caller.name if self._caller else self._subject, f"a service of role {work}")
        return self._once(entry.name, path, scope, None, timeout_s, "")

    def _once(self, name: str, path: str, scope: str, body: bytes | None, timeout_s: float, request_id: str) -> Any:
        headers = {"Authorization": f"Bearer {self.token((scope,))}", "Content-Type": "application/json"}
        if request_id:
            headers[REQUEST_ID_HEADER] = request_id
        method = "GET" if body is None else "POST"
        answer = self.peer(name).ask(method, path, timeout_s=timeout_s, body=body, headers=headers)
        if answer.status >= 500 or answer.status == 429:
            raise PeerUnavailable(name, f"HTTP {answer.status}", answer.status)
        if answer.status >= 400:
            raise PeerRefused(name, answer.status)
        try:
            return answer.document()
        except ValueError:
            raise PeerUnavailable(name, "something else than JSON", answer.status) from None

    def token(self, scopes: Collection[str]) -> str:
        """A token for these scopes, the same one for two thirds of its life."""
        wanted = " ".join(sorted(scopes))
        moment = self._clock.monotonic()
        with self._lock:
            issued, token = self._issued.get(wanted, (float("-inf"), ""))
        if moment - issued < TOKEN_S * 2 / 3:
            return token
        token = self._tokens.issue(self._subject, scopes)
        with self._lock:
            self._issued[wanted] = (moment, token)
        return token
