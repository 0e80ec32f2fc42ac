"""What every embedder promises, asked of the one in this process and of both interfaces of a real server; and what
an embedder does with a server that is slow, overloaded, broken or lies."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import numpy as np
import pytest

from dr_platform.clock import ManualClock, SystemClock
from dr_platform.embedding import WordVectors
from dr_platform.knowledge.embedder import BadEmbedding, Embedder, EmbedderUnreachable, NoApiKey, Remembering
from dr_platform.knowledge.embedders import EmbedderEntry, Embedders
from dr_platform.knowledge.http_embedder import LOADING, REST_S, HttpEmbedder, OpenAi, Patience, Tei
from tests.embedding_server import SERVED, EmbeddingServer, Fault, embedding_server, openai_body

pytestmark = pytest.mark.contract

VECTORS = WordVectors()
ONE = [[1.0] * 256]
TEXT = "a text of a patient"


@pytest.fixture(scope="module")
def started() -> Iterator[EmbeddingServer]:
    with embedding_server() as server:
        yield server


@pytest.fixture
def server(started: EmbeddingServer) -> EmbeddingServer:
    for kept in (started.faults, started.asked, started.keys):
        kept.clear()
    started.forever, started.key = None, None
    return started


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def openai(server: EmbeddingServer, clock: ManualClock, **settings: Any) -> HttpEmbedder:
    return HttpEmbedder("words-1", 256, server.url, OpenAi(SERVED), clock, **{"batch": 3, **settings})


@pytest.fixture
def remote(server: EmbeddingServer, clock: ManualClock) -> Iterator[HttpEmbedder]:
    embedder = openai(server, clock)
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
        rows = embedder.embed(["sleep", "", "sleep"])
        assert not rows[1].any()
        assert (rows[0] == rows[2]).all()

    def test_no_texts_give_no_vectors(self, embedder: Embedder) -> None:
        assert embedder.embed([]).shape == (0, embedder.dimensions)


class TestWordVectors(EmbedderContract):
    @pytest.fixture(params=[64, 128, 256])
    def embedder(self, request: pytest.FixtureRequest) -> Embedder:
        return WordVectors("words", request.param)


class TestOpenAi(EmbedderContract):
    @pytest.fixture
    def embedder(self, remote: HttpEmbedder) -> Embedder:
        return remote

    def test_a_server_is_asked_to_cut_its_vectors_where_the_catalog_says_so(
        self, server: EmbeddingServer, clock: ManualClock
    ) -> None:
        embedder = HttpEmbedder("words-1", 128, server.url + "/v1", OpenAi(SERVED, 128), clock)
        assert embedder.embed(["sleep"]) == pytest.approx(WordVectors("short", 128).embed(["sleep"]), abs=1e-6)

    @pytest.mark.parametrize("told", [SERVED, SERVED + "-2026", None])
    def test_a_server_may_tell_its_models_revision_or_nothing(
        self, remote: HttpEmbedder, server: EmbeddingServer, told: str | None
    ) -> None:
        server.faults = [Fault(body=openai_body(ONE, told))]
        assert remote.embed(["a"]).any()


class TestTei(EmbedderContract):
    @pytest.fixture
    def embedder(self, server: EmbeddingServer, clock: ManualClock) -> Iterator[Embedder]:
        embedder = HttpEmbedder("words-1", 256, server.url, Tei(), clock, batch=3)
        yield embedder
        embedder.close()


class TestRemembering(EmbedderContract):
    @pytest.fixture
    def embedder(self, remote: HttpEmbedder) -> Embedder:
        return Remembering(remote)

    def test_no_text_is_asked_twice(self, embedder: Embedder, server: EmbeddingServer) -> None:
        embedder.embed(["a", "b", "a"])
        assert embedder.embed(["b", "c"]).any(axis=1).all()
        assert server.texts == ["a", "b", "c"]


def test_texts_are_sent_in_batches_and_blank_ones_are_not(remote: HttpEmbedder, server: EmbeddingServer) -> None:
    remote.embed(["a", " ", "b", "c", "\n", "d", "e", "f", "g"])
    assert server.asked == [["a", "b", "c"], ["d", "e", "f"], ["g"]]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_passing_failure_is_tried_again_after_a_pause(
    remote: HttpEmbedder, server: EmbeddingServer, clock: ManualClock, status: int
) -> None:
    server.faults = [Fault(status), Fault(status)]
    assert remote.embed(["a"]).any()
    assert clock.monotonic() == pytest.approx(0.5 + 1.0)


def test_a_pause_that_the_server_asks_for_is_kept(
    remote: HttpEmbedder, server: EmbeddingServer, clock: ManualClock
) -> None:
    on = format_datetime(clock.now() + timedelta(seconds=7 + 40), usegmt=True)
    server.faults = [Fault(429, headers={"Retry-After": "7"}), Fault(503, headers={"Retry-After": on})]
    assert remote.embed(["a"]).any()
    assert clock.monotonic() == pytest.approx(47)


@pytest.mark.parametrize("written", ["soon", "-5", "", "Wed, 99 Nov 2026", "٣"])
def test_a_pause_that_cannot_be_read_is_none(
    remote: HttpEmbedder, server: EmbeddingServer, clock: ManualClock, written: str
) -> None:
    server.faults = [Fault(429, headers={"Retry-After": written.encode().decode("latin-1")})]
    assert remote.embed(["a"]).any()
    assert clock.monotonic() == pytest.approx(0.5)


def test_a_server_that_asks_for_too_long_a_pause_is_given_up_at_once(
    remote: HttpEmbedder, server: EmbeddingServer, clock: ManualClock
) -> None:
    server.faults = [Fault(429, headers={"Retry-After": "3600"})]
    with pytest.raises(EmbedderUnreachable, match="asks for a pause of 3600 s"):
        remote.embed(["a"])
    assert clock.monotonic() == 0


def test_a_lasting_failure_is_given_up_and_nobody_asks_while_the_server_rests(
    remote: HttpEmbedder, server: EmbeddingServer, clock: ManualClock
) -> None:
    server.forever = Fault(503)
    with pytest.raises(EmbedderUnreachable, match="HTTP 503"):
        remote.embed(["a"])
    assert len(server.asked) == LOADING.attempts
    with pytest.raises(EmbedderUnreachable, match="given up"):
        remote.embed(["a"])
    assert len(server.asked) == LOADING.attempts
    clock.sleep(REST_S)
    with pytest.raises(EmbedderUnreachable, match="HTTP 503"):
        remote.embed(["a"])
    assert len(server.asked) == LOADING.attempts + 1, "one tries, once"
    server.forever = None
    clock.sleep(REST_S)
    assert remote.embed(["a", "b", "c", "d"]).any(axis=1).all()


def test_while_one_tries_whether_a_server_is_back_the_others_do_not(clock: ManualClock) -> None:
    from dr_platform.knowledge.http_embedder import Circuit

    circuit = Circuit(clock)
    circuit.give_up()
    clock.sleep(REST_S)
    assert [circuit.attempts(5), circuit.attempts(5)] == [1, 0]
    circuit.close()
    assert circuit.attempts(5) == 5


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(400), id="refused"),
        pytest.param(Fault(401), id="key refused"),
        pytest.param(Fault(302, headers={"Location": "http://127.0.0.1:1/"}), id="sent elsewhere"),
        pytest.param(Fault(413), id="too much at once"),
        pytest.param(Fault(body=b"<html>"), id="not JSON"),
        pytest.param(Fault(body=json.dumps(openai_body(ONE)).encode()[:-40]), id="cut short"),
        pytest.param(Fault(body=b"\xff\xfe"), id="not text"),
        pytest.param(Fault(body=b"[" * 100_000), id="nested without end"),
        pytest.param(Fault(body=[]), id="not an object"),
        pytest.param(Fault(body={"model": SERVED}), id="no vectors"),
        pytest.param(Fault(body=openai_body(ONE, "acme/other")), id="another model"),
        pytest.param(Fault(body=openai_body([[1.0] * 3])), id="another size"),
        pytest.param(Fault(body=openai_body([])), id="too few"),
        pytest.param(Fault(body=openai_body(ONE * 2)), id="too many"),
        pytest.param(Fault(body={"data": [{"index": 7, "embedding": ONE[0]}]}), id="of a text that was not sent"),
        pytest.param(Fault(body=openai_body([[1.0], [1.0, 2.0]])), id="ragged"),
        pytest.param(Fault(body=openai_body([["1"] * 256])), id="text"),
        pytest.param(Fault(body=openai_body([[True] * 256])), id="true"),
        pytest.param(Fault(body=openai_body([[None] * 256])), id="null"),
        pytest.param(Fault(body=openai_body([[float("nan")] * 256])), id="NaN"),
        pytest.param(Fault(body=openai_body([[float("inf")] * 256])), id="infinite"),
        pytest.param(Fault(body=openai_body([[1e308] * 256])), id="too long"),
        pytest.param(Fault(body=openai_body([[10**400] * 256])), id="numbers without end"),
        pytest.param(Fault(body=b" " * 200_000), id="larger than any answer"),
        pytest.param(Fault(body=gzip.compress(b" " * 10**7), headers={"Content-Encoding": "gzip"}), id="packed bomb"),
    ],
)
def test_an_answer_that_cannot_be_used_is_refused_at_once_and_nothing_of_it_is_quoted(
    remote: HttpEmbedder, server: EmbeddingServer, fault: Fault
) -> None:
    server.faults = [fault]
    with pytest.raises(BadEmbedding) as refused:
        remote.embed([TEXT])
    assert "patient" not in str(refused.value)
    assert len(server.asked) == 1
    assert remote.embed(["a"]).any(), "a server that answers is not given up"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(body=b'{"data": [', promised=900), id="the connection ends within the answer"),
        pytest.param(Fault(body=b"not gzip", headers={"Content-Encoding": "gzip"}), id="packed wrongly"),
    ],
)
def test_an_answer_that_was_cut_short_is_asked_for_again(
    remote: HttpEmbedder, server: EmbeddingServer, fault: Fault
) -> None:
    server.faults = [fault]
    assert remote.embed(["a"]) == pytest.approx(VECTORS.embed(["a"]), abs=1e-6)
    assert len(server.asked) == 2


def test_a_server_that_hangs_is_given_up_in_time(server: EmbeddingServer, clock: ManualClock) -> None:
    server.forever = Fault(hangs=True)
    brief = Patience(attempts=2, pause_s=0.1, longest_pause_s=1, request_s=0.05)
    with pytest.raises(EmbedderUnreachable, match="ReadTimeout") as refused:
        openai(server, clock, patience=brief).embed([TEXT])
    assert len(server.asked) == 2
    assert "patient" not in str(refused.value)


def test_an_answer_that_never_ends_is_given_up_in_time_although_each_part_comes_soon(server: EmbeddingServer) -> None:
    server.forever = Fault(drips=True, promised=10_000)
    brief = Patience(attempts=1, pause_s=0.1, longest_pause_s=1, request_s=0.2)
    with pytest.raises(EmbedderUnreachable, match="no whole answer within"):
        HttpEmbedder("m", 256, server.url, Tei(), SystemClock(), patience=brief).embed(["a"])


def test_nobody_listening_is_unreachable(clock: ManualClock) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listening: every connection is refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(EmbedderUnreachable, match="ConnectError") as refused:
            HttpEmbedder("m", 256, url, Tei(), clock).embed([TEXT])
    assert "patient" not in str(refused.value)


# Keys


def kept(server: EmbeddingServer, clock: ManualClock, secrets: dict[str, dict[str, str]]) -> Embedder:
    entry = EmbedderEntry("words-1", 256, url=server.url, api="tei", secret="embedders/words")
    return Embedders({"words-1": entry}, secrets.get, clock).named("words-1")


def test_the_key_is_read_at_every_request(server: EmbeddingServer, clock: ManualClock) -> None:
    secrets = {"embedders/words": {"key": "old"}}
    embedder = kept(server, clock, secrets)
    embedder.embed(["a"])
    secrets["embedders/words"] = {"key": "new"}
    embedder.embed(["a"])
    assert server.keys == ["Bearer old", "Bearer new"]


@pytest.mark.parametrize("fields", [None, {}, {"password": "x"}, {"key": ""}, {"key": "two\r\nlines"}, {"key": "ключ"}])
def test_without_a_key_that_can_be_sent_nothing_is(
    server: EmbeddingServer, clock: ManualClock, fields: dict[str, str] | None
) -> None:
    secrets = {"embedders/words": fields} if fields is not None else {}
    with pytest.raises(NoApiKey) as refused:
        kept(server, clock, secrets).embed(["a"])
    assert "lines" not in str(refused.value)
    assert server.asked == []


def test_a_refused_key_is_told_without_it(server: EmbeddingServer, clock: ManualClock) -> None:
    server.key = "right"
    with pytest.raises(BadEmbedding, match="it does not accept the key") as refused:
        kept(server, clock, {"embedders/words": {"key": "wr0ng"}}).embed(["a"])
    assert "wr0ng" not in str(refused.value)
