"""An embedding server over HTTP: what is sent, which answers are used, when one is asked again or given up.

Here: ``HttpEmbedder`` and the two interfaces it speaks. Not here: which server a model has (``embedders``), or
what may be sent to it (the catalog's rules and ``embedders``). Messages name the address and the kind of a
failure: never a text, a key or an answer's body.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Protocol

from dr_platform.clock import Clock
from dr_platform.knowledge.embedder import BadEmbedding, EmbedderUnreachable

if TYPE_CHECKING:
    import httpx
    import numpy as np
    from numpy.typing import NDArray

REST_S = 10.0
"""A server that was given up is left alone so long; then one request tries it, for all."""
NUMBER_BYTES = 64
"""At most, of one number in an answer; a larger answer is not read to its end."""
PASSING = frozenset({408, 425, 429})
"""Besides 5xx: answers after which the same request may succeed. TEI is overloaded at 429."""
MEANINGS = {
    401: "it does not accept the key",
    403: "it does not accept the key for this",
    404: "it does not know the path or the model",
    413: "that was too much at once, make `batch` smaller",
}


class Api(Protocol):
    """What is posted where, and where the vectors stand in the answer."""

    @property
    def path(self) -> str: ...

    def question(self, texts: Sequence[str]) -> Mapping[str, Any]: ...

    def rows(self, answer: Any) -> Sequence[Any]:
        """In the order of the texts. Raises ``ValueError`` and what taking apart some other shape raises."""
        ...


@dataclass(frozen=True)
class OpenAi:
    """``model`` as the server calls it; ``dimensions`` where it is to cut its vectors."""

    model: str
    dimensions: int | None = None
    path = "/v1/embeddings"

    def question(self, texts: Sequence[str]) -> Mapping[str, Any]:
        asked = {"model": self.model, "input": list(texts), "encoding_format": "float"}
        return asked | ({"dimensions": self.dimensions} if self.dimensions else {})

    def rows(self, answer: Any) -> Sequence[Any]:
        told = answer.get("model")
        if told is not None and not str(told).startswith(self.model):  # a server may add the model's revision
            raise ValueError("its vectors are of another model")
        by_place = {row["index"]: row["embedding"] for row in answer["data"]}
        if len(by_place) != len(answer["data"]):
            raise ValueError("two vectors are for one text")
        return [by_place[at] for at in range(len(by_place))]


@dataclass(frozen=True)
class Tei:
    """A text that is longer than the model takes is cut by the server, as at OpenAI's it would be refused."""

    path = "/embed"

    def question(self, texts: Sequence[str]) -> Mapping[str, Any]:
        return {"inputs": list(texts), "normalize": True, "truncate": True}

    def rows(self, answer: Any) -> Sequence[Any]:
        return list(answer)


@dataclass(frozen=True)
class Patience:
    """``attempts`` in all; the pause between two begins with ``pause_s`` and doubles. A server that asks for a
    longer one than ``longest_pause_s`` is given up at once. No request takes longer than ``request_s``."""

    attempts: int
    pause_s: float
    longest_pause_s: float
    request_s: float


LOADING = Patience(attempts=5, pause_s=0.5, longest_pause_s=60.0, request_s=120.0)
"""For who can wait: at least 7.5 s of pauses before a server is given up."""
ANSWERING = Patience(attempts=2, pause_s=0.1, longest_pause_s=0.2, request_s=1.2)
"""For who is being waited for: given up within 2.6 s, before the search service gives up its 3 s."""


class _Passing(Exception):
    """The same request may succeed, not before ``wait_s``."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason, wait_s)
        self.reason = reason
        self.wait_s = wait_s


class HttpEmbedder:
    """A model on a server. ``key`` is asked before every request, so that a rotated one is used at once.

    Texts are sent in batches; blank ones are not sent. Vectors are brought to length 1. Redirects are not
    followed and no proxy of the environment is used: texts go to this address or nowhere. Safe to use from
    several threads.
    """

    def __init__(
        self,
        model_id: str,
        dimensions: int,
        url: str,
        api: Api,
        clock: Clock,
        *,
        key: Callable[[], str] | None = None,
        batch: int = 32,
        timeout_s: float = 10.0,
        patience: Patience = LOADING,
    ) -> None:
        import httpx

        self.model_id = model_id
        self.dimensions = dimensions
        self._url = url.rstrip("/").removesuffix("/v1") + api.path
        self._api = api
        self._clock = clock
        self._key = key
        self._batch = batch
        self._timeout_s = min(timeout_s, patience.request_s)
        self._patience = patience
        self._circuit = Circuit(clock)
        self._client = httpx.Client(
            timeout=self._timeout_s, verify=_trusted(url), follow_redirects=False, trust_env=False
        )

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import numpy as np

        rows = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        said = [at for at, text in enumerate(texts) if text.strip()]
        for start in range(0, len(said), self._batch):
            places = said[start : start + self._batch]
            rows[places] = self._embed_batch([texts[at] for at in places])
        return rows

    def close(self) -> None:
        self._client.close()

    def _embed_batch(self, texts: Sequence[str]) -> NDArray[np.float32]:
        left, pause = self._circuit.attempts(self._patience.attempts), self._patience.pause_s
        if not left:
            raise EmbedderUnreachable(self._url, f"it was given up less than {REST_S:g} s ago")
        while True:
            try:
                answer = self._ask(texts)
            except _Passing as exc:
                left, wait = left - 1, max(pause, exc.wait_s)
                if not left or wait > self._patience.longest_pause_s:
                    self._circuit.give_up()
                    asked = f", and asks for a pause of {exc.wait_s:.0f} s" if exc.wait_s else ""
                    raise EmbedderUnreachable(self._url, exc.reason + asked) from None
                self._clock.sleep(wait)
                pause *= 2
            else:
                self._circuit.close()
                return self._usable(answer, len(texts))

    def _ask(self, texts: Sequence[str]) -> bytes:
        """The body of an answer with status 200. Raises ``_Passing``, ``BadEmbedding`` and ``NoApiKey``."""
        import httpx

        headers = {"Authorization": f"Bearer {self._key()}"} if self._key else {}
        question = dict(self._api.question(texts))
        try:
            with self._client.stream("POST", self._url, json=question, headers=headers) as answer:
                self._require_good(answer)
                return self._whole(answer, len(texts))
        except httpx.TransportError as exc:
            raise _Passing(type(exc).__name__) from None  # its text may quote the request
        except httpx.DecodingError:
            raise _Passing("its answer was cut short") from None

    def _require_good(self, answer: httpx.Response) -> None:
        status = answer.status_code
        if status >= 500 or status in PASSING:
            raise _Passing(f"HTTP {status}", self._wanted_pause(answer.headers.get("retry-after", "")))
        if status != 200:
            self._circuit.close()
            raise BadEmbedding(self._url, f"HTTP {status}" + (f", {MEANINGS[status]}" if status in MEANINGS else ""))

    def _wanted_pause(self, written: str) -> float:
        """Seconds of ``Retry-After``, which may be a number or a date (RFC 9110, 10.2.3); 0 where it is neither."""
        if written.isascii() and written.isdecimal():
            return float(written[:9])
        try:
            return max(0.0, (parsedate_to_datetime(written) - self._clock.now()).total_seconds())
        except (TypeError, ValueError):  # no date, or one without a time zone
            return 0.0

    def _whole(self, answer: httpx.Response, wanted: int) -> bytes:
        content, most = bytearray(), 65_536 + wanted * self.dimensions * NUMBER_BYTES
        started = self._clock.monotonic()
        for part in answer.iter_bytes():
            content += part
            if len(content) > most:
                self._circuit.close()
                raise BadEmbedding(self._url, f"more than the {most:,} bytes that {wanted} vectors can take")
            if self._clock.monotonic() - started > self._timeout_s:  # each part comes in time, the whole does not
                raise _Passing(f"no whole answer within {self._timeout_s:g} s")
        return bytes(content)

    def _usable(self, content: bytes, wanted: int) -> NDArray[np.float32]:
        """Vectors of length 1. Raises ``BadEmbedding``."""
        import numpy as np

        try:
            rows = np.asarray(self._api.rows(json.loads(content)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise BadEmbedding(self._url, "not the documented JSON, or vectors of another model") from None
        if rows.shape != (wanted, self.dimensions):
            raise BadEmbedding(self._url, f"{rows.shape} numbers instead of {(wanted, self.dimensions)}")
        if rows.dtype.kind not in "fiu" or not np.isfinite(rows).all():
            raise BadEmbedding(self._url, "a vector holds something that is not a number")
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused below
            lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        if not np.isfinite(lengths).all():
            raise BadEmbedding(self._url, "a vector is too long to be one")
        return (rows / np.maximum(lengths, 1e-12)).astype(np.float32)


def _trusted(url: str) -> ssl.SSLContext:
    """The system's certificates, so that a company's own authority counts; reading them takes 0.2 s, which
    loopback is spared."""
    return ssl.create_default_context() if url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Circuit:
    """Keeps a server that was given up from being asked, and being waited for, by everybody. While it rests
    nobody asks; then one tries, once, and the others only after that was answered."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rests_until: float | None = None

    def attempts(self, wanted: int) -> int:
        """How often the caller may ask now."""
        with self._lock:
            if self._rests_until is None:
                return wanted
            if self._clock.monotonic() < self._rests_until:
                return 0
            self._rests_until = self._clock.monotonic() + REST_S
            return 1

    def close(self) -> None:
        """The server answered, whatever it said."""
        with self._lock:
            self._rests_until = None

    def give_up(self) -> None:
        with self._lock:
            self._rests_until = self._clock.monotonic() + REST_S
