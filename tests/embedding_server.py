"""A real embedding server on loopback for tests: speaks both interfaces, and fails in the ways servers do.

Its vectors are computed by the platform's own word vectors, so what is found with it can be compared.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from dr_platform.embedding import WordVectors

SERVED = "acme/words-large"
"""What the server calls its model."""


@dataclass(frozen=True)
class Fault:
    """One answer in place of the right one. ``body`` is sent as it is where it is bytes. ``promised`` more bytes
    are announced than sent; with ``hangs`` nothing is sent until the server ends; with ``drips`` a
    byte now and then."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    promised: int = 0
    hangs: bool = False
    drips: bool = False


@dataclass
class EmbeddingServer:
    """After ``well_for`` right answers ``faults`` come, in order; then ``forever``, where it is set."""

    url: str = ""
    vectors: Callable[[Sequence[str]], Any] = WordVectors().embed
    key: str | None = None
    well_for: int = 0
    faults: list[Fault] = field(default_factory=list)
    forever: Fault | None = None
    asked: list[list[str]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def answer(self, path: str, question: dict[str, Any], key: str | None) -> Fault:
        texts = question.get("input", question.get("inputs"))
        assert isinstance(texts, list)
        self.asked.append(texts)
        self.keys.append(key)
        if len(self.asked) > self.well_for:
            if self.faults:
                return self.faults.pop(0)
            if self.forever is not None:
                return self.forever
        if self.key is not None and key != f"Bearer {self.key}":
            return Fault(401, {"error": "who is there?"})
        if path == "/embed":
            return Fault(body=self.vectors(texts).tolist())
        if path != "/v1/embeddings" or question["model"] != SERVED:
            return Fault(404)
        return Fault(body=openai_body(self.vectors(texts)[:, : question.get("dimensions")].tolist()))

    @property
    def texts(self) -> list[str]:
        return [text for texts in self.asked for text in texts]


def openai_body(rows: Sequence[Any], model: str | None = SERVED) -> dict[str, Any]:
    """The last row first: the order of the answer is not that of the question."""
    data = [{"object": "embedding", "index": at, "embedding": row} for at, row in enumerate(rows)]
    return {"object": "list", "data": data[::-1], "model": model}


@contextmanager
def embedding_server(**settings: Any) -> Iterator[EmbeddingServer]:
    served = EmbeddingServer(**settings)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fault = served.answer(self.path, question, self.headers["Authorization"])
            if fault.hangs:
                served.ended.wait()
                self.close_connection = True
                return
            content = fault.body if isinstance(fault.body, bytes) else json.dumps(fault.body).encode()
            self.send_response(fault.status)
            for name, value in fault.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content) + fault.promised))
            self.end_headers()
            self.wfile.write(content)
            while fault.drips and not served.ended.wait(0.02):
                self.wfile.write(b" ")
            self.close_connection = bool(fault.promised)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield served
    finally:
        served.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


def model_file(name: str, server: EmbeddingServer, dimensions: int = 256, **fields: Any) -> str:
    """The catalog's file of a model on this server, with ``fields`` of its ``server``."""
    place = {"api": "openai", "url": server.url, "model": SERVED, **fields}
    lines = "".join(f"  {key}: {value}\n" for key, value in place.items())
    head = f"name: {name}\ntitle: Acme\ndescription: A server of a test.\nowner: team:ai\nkind: http\n"
    return f"{head}dimensions: {dimensions}\nserver:\n{lines}"
