"""supervisord's XML-RPC over its unix socket. Here: the transport and its errors only."""

from __future__ import annotations

import http.client
import socket
import xmlrpc.client
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dr_platform.runtime.port import RuntimeUnreachable

QUERY_S = 10.0
"""supervisord answers questions in milliseconds; longer means that it is stuck."""

NOT_RUNNING = 70
ALREADY_STARTED = 60
STILL_RUNNING = 91
ALREADY_ADDED = 90
BAD_NAME = 10
SHUTDOWN_STATE = 6


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__()
        self._path = path
        self._timeout_s = timeout_s

    def make_connection(self, host: Any) -> http.client.HTTPConnection:  # noqa: ARG002 (the base class names it)
        return _UnixConnection(self._path, self._timeout_s)


@contextmanager
def supervisord(path: Path, timeout_s: float = QUERY_S) -> Generator[Any]:
    """A proxy for one thread. ``xmlrpc.client.Fault`` passes through: supervisord did answer."""
    proxy = xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=_UnixTransport(path, timeout_s))
    try:
        yield proxy
    except (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError) as exc:
        raise RuntimeUnreachable("local", f"supervisord: {type(exc).__name__}") from exc
    finally:
        proxy("close")()
