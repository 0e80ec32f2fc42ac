"""What every embedder promises, asked of the one in this process and of one behind HTTP."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from dr_platform.clock import ManualClock
from dr_platform.embedding import WordVectors
from dr_platform.knowledge.embedder import BadEmbedding, Embedder, EmbedderUnreachable, HttpEmbedder

pytestmark = pytest.mark.contract

VECTORS = WordVectors()


@dataclass
class Service:
    """A server that embeds as the embedding service does; ``answers`` come first, in order."""

    url: str = ""
    answers: list[tuple[int, Any]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)

    def answer(self, texts: list[str], token: str | None) -> tuple[int, Any]:
        self.batches.append(len(texts))
        self.tokens.append(token)
        if self.answers:
            return self.answers.pop(0)
        return 200, {"vectors": VECTORS.embed(texts).tolist(), "model": VECTORS.model_id}


@contextmanager
def serving() -> Iterator[Service]:
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = service.answer(body["texts"], self.headers["Authorization"])
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status if self.path == "/embed" else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as found:
        yield found


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def remote(service: Service, clock: ManualClock) -> Iterator[HttpEmbedder]:
    embedder = HttpEmbedder(service.url, model_id=VECTORS.model_id, batch=3, clock=clock)
    yield embedder
    embedder.close()


class EmbedderContract:
    """No ``Test`` prefix: it runs only through its adapters, which provide the fixture ``embedder``."""

    def test_one_vector_of_length_one_comes_per_text_in_order(self, embedder: Embedder) -> None:
        texts = ["I cannot sleep", "a car engine", "insomnia help", "my record", "a pill"]
        rows = embedder.embed(texts)
        assert rows.shape == (5, embedder.dimensions)
        assert rows.dtype == np.float32
        assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
        assert rows[0] @ rows[2] > rows[0] @ rows[1] + 0.1

    def test_a_text_has_the_same_vector_alone_and_in_any_company(self, embedder: Embedder) -> None:
        together = embedder.embed(["one", "a much longer text " * 50, "two"])
        assert (embedder.embed(["two"])[0] == together[2]).all()

    def test_a_text_without_words_has_no_direction(self, embedder: Embedder) -> None:
        assert not embedder.embed([""]).any()

    def test_no_texts_give_no_vectors(self, embedder: Embedder) -> None:
        assert embedder.embed([]).shape == (0, embedder.dimensions)


class TestWordVectors(EmbedderContract):
    @pytest.fixture
    def embedder(self) -> Embedder:
        return VECTORS


class TestHttpEmbedder(EmbedderContract):
    @pytest.fixture
    def embedder(self, remote: HttpEmbedder) -> Embedder:
        return remote

    def test_texts_are_sent_in_batches(self, remote: HttpEmbedder, service: Service) -> None:
        remote.embed(["a"] * 7)
        assert service.batches == [3, 3, 1]

    def test_the_token_is_asked_for_every_request(self, service: Service) -> None:
        tokens = iter(["old", "new"])
        embedder = HttpEmbedder(service.url, model_id=VECTORS.model_id, token=lambda: next(tokens))
        embedder.embed(["a"])
        embedder.embed(["a"])
        assert service.tokens == ["Bearer old", "Bearer new"]

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_a_passing_failure_is_tried_again_after_a_pause(
        self, remote: HttpEmbedder, service: Service, clock: ManualClock, status: int
    ) -> None:
        service.answers = [(status, {}), (status, {})]
        assert remote.embed(["a"]).any()
        assert clock.monotonic() == pytest.approx(0.2 + 0.4)

    def test_a_lasting_failure_is_given_up_after_three_tries(self, remote: HttpEmbedder, service: Service) -> None:
        service.answers = [(503, {})] * 9
        with pytest.raises(EmbedderUnreachable, match="HTTP 503"):
            remote.embed(["a"])
        assert len(service.batches) == 3

    @pytest.mark.parametrize(
        ("status", "answer"),
        [
            pytest.param(401, {}, id="refused"),
            pytest.param(302, {}, id="sent elsewhere"),
            pytest.param(200, b"<html>", id="not JSON"),
            pytest.param(200, [], id="not an object"),
            pytest.param(200, {"vectors": [[1.0] * 256]}, id="no model"),
            pytest.param(200, {"vectors": [[1.0] * 256], "model": "another"}, id="another model"),
            pytest.param(200, {"vectors": [[1.0] * 3], "model": VECTORS.model_id}, id="another size"),
            pytest.param(200, {"vectors": [], "model": VECTORS.model_id}, id="too few"),
            pytest.param(200, {"vectors": [[1.0], [1.0, 2.0]], "model": VECTORS.model_id}, id="ragged"),
            pytest.param(200, {"vectors": [["x"] * 256], "model": VECTORS.model_id}, id="not numbers"),
            pytest.param(200, {"vectors": [[float("nan")] * 256], "model": VECTORS.model_id}, id="NaN"),
        ],
    )
    def test_an_answer_that_cannot_be_used_is_refused_at_once(
        self, remote: HttpEmbedder, service: Service, status: int, answer: Any
    ) -> None:
        service.answers = [(status, answer)]
        with pytest.raises(BadEmbedding):
            remote.embed(["a text of a patient"])
        assert len(service.batches) == 1

    def test_nobody_listening_is_unreachable_and_the_text_is_not_quoted(self, clock: ManualClock) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # bound, and not listening: every connection is refused
            url = f"http://127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(EmbedderUnreachable) as refused:
                HttpEmbedder(url, model_id="m", clock=clock).embed(["a text of a patient"])
        assert "patient" not in str(refused.value)

    def test_a_service_that_says_nothing_is_given_up_in_time(self, clock: ManualClock) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            with pytest.raises(EmbedderUnreachable, match="Timeout"):
                HttpEmbedder(url, model_id="m", timeout_s=0.05, clock=clock).embed(["a"])
