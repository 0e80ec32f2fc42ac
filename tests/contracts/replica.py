"""The smallest service that can be deployed: it says who it is, waits on request, and ends gracefully.

Started by the runtime contract as a real process: ``python replica.py PORT``. Its behaviour comes
from ``VERSION`` and from a folder of switches in ``SWITCHES``: a file ``unready-<version>`` there
makes its readiness probe fail, ``crash-<version>`` makes it end at its start, and what stands in
``errors-<version>`` is the share of requests, other than those about its health, that it answers with
500. Such an answer says of itself that it was made to fail.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

VERSION = os.environ["VERSION"]
SWITCHES = Path(os.environ["SWITCHES"])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        status = 200
        if url.path == "/health/ready" and (SWITCHES / f"unready-{VERSION}").exists():
            status = 503
        failing = not url.path.startswith("/health") and random.random() < error_share()
        if url.path == "/fail" or failing:
            status = 500
        if url.path == "/log":
            print(unquote(url.query), flush=True)
        time.sleep(float(parse_qs(url.query).get("wait", ["0"])[0]))
        told = {"version": VERSION, "pid": os.getpid(), "compliance": {"encryption_active": True}}
        body = json.dumps(told | ({"made_to_fail": True} if failing else {})).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: the log is for the lines that a test asks for."""


def error_share() -> float:
    try:
        return float((SWITCHES / f"errors-{VERSION}").read_text())
    except FileNotFoundError:
        return 0.0


class Server(ThreadingHTTPServer):
    daemon_threads = False  # closing waits for the requests under way
    request_queue_size = 128


def main() -> None:
    if (SWITCHES / f"crash-{VERSION}").exists():
        print("crashing as told", flush=True)
        sys.exit(3)
    server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"serving {VERSION}", flush=True)
    server.serve_forever(poll_interval=0.05)


main()
