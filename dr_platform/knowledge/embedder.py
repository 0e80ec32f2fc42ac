"""The port to whatever turns texts into vectors, and its adapter to an embedding service over HTTP.

Not here: the adapter in this process (``dr_platform.embedding.WordVectors`` satisfies the port).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from dr_platform.clock import Clock, SystemClock
from dr_platform.errors import PlatformError, TemporaryFailure

if TYPE_CHECKING:
    import httpx
    import numpy as np
    from numpy.typing import NDArray


class Embedder(Protocol):
    """Texts in, one vector of length 1 per text out, in order (all zero for a text without words).

    Equal texts give equal vectors for as long as ``model_id`` is the same. Vectors of different
    models say nothing about each other: whoever stores vectors stores ``model_id`` with them and
    refuses to compare across. Raises ``EmbedderUnreachable`` where asking again may help and
    ``BadEmbedding`` where the answer cannot be used; in both cases nothing was stored anywhere.
    """

    @property
    def model_id(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


class EmbedderUnreachable(TemporaryFailure):
    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.what = f"the embedding service at {address} does not answer: {reason}"
        self.untouched = "every stored document"
        self.next_step = "see the service's health with `drp health`, then run again; what was embedded is kept"


class BadEmbedding(PlatformError):
    def __init__(self, address: str, problem: str) -> None:
        super().__init__(address, problem)
        self.what = f"the embedding service at {address} answered with something unusable: {problem}"
        self.untouched = "every stored document"
        self.next_step = "compare the service's version and model with what the stored vectors were made by"


class HttpEmbedder:
    """``POST <url>/embed`` with ``{"texts": […]}``, answered by ``{"vectors": [[…], …], "model": …}``.

    ``token`` is asked before every request, so that a rotated one is used at once. A request that
    times out or meets 429 or 5xx is repeated ``attempts - 1`` times, after 0.2 s, 0.4 s, … Answers
    of another model or size than the first one's are refused.
    """

    def __init__(
        self,
        url: str,
        *,
        model_id: str,
        dimensions: int = 256,
        token: Callable[[], str] | None = None,
        batch: int = 64,
        timeout_s: float = 10.0,
        attempts: int = 3,
        clock: Clock | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        import httpx

        self.model_id = model_id
        self.dimensions = dimensions
        self._url = url.rstrip("/") + "/embed"
        self._token = token
        self._batch = batch
        self._attempts = attempts
        self._clock: Clock = clock or SystemClock()
        self._client = httpx.Client(timeout=timeout_s, transport=transport, follow_redirects=False)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import numpy as np

        rows = [self._embed_batch(texts[at : at + self._batch]) for at in range(0, len(texts), self._batch)]
        return np.concatenate(rows) if rows else np.zeros((0, self.dimensions), dtype=np.float32)

    def close(self) -> None:
        self._client.close()

    def _embed_batch(self, texts: Sequence[str]) -> NDArray[np.float32]:
        for attempt in range(1, self._attempts + 1):
            try:
                return self._usable(self._ask(texts), len(texts))
            except EmbedderUnreachable:
                if attempt == self._attempts:
                    raise
                self._clock.sleep(0.2 * 2 ** (attempt - 1))
        raise AssertionError("attempts is at least 1")

    def _ask(self, texts: Sequence[str]) -> httpx.Response:
        import httpx

        headers = {"Authorization": f"Bearer {self._token()}"} if self._token else {}
        try:
            answer = self._client.post(self._url, json={"texts": list(texts)}, headers=headers)
        except httpx.TransportError as exc:
            raise EmbedderUnreachable(self._url, type(exc).__name__) from None  # its text may quote the request
        if answer.status_code == 429 or answer.status_code >= 500:
            raise EmbedderUnreachable(self._url, f"HTTP {answer.status_code}")
        if answer.status_code != 200:
            raise BadEmbedding(self._url, f"HTTP {answer.status_code}")
        return answer

    def _usable(self, answer: httpx.Response, wanted: int) -> NDArray[np.float32]:
        import numpy as np

        try:
            body: Any = answer.json()
            model, vectors = body["model"], np.asarray(body["vectors"], dtype=np.float32)
        except (ValueError, KeyError, TypeError):
            raise BadEmbedding(self._url, "not the documented JSON") from None
        if model != self.model_id:
            raise BadEmbedding(self._url, f"its model is {str(model)[:80]}, wanted is {self.model_id}")
        if vectors.shape != (wanted, self.dimensions) and not (wanted == 0 and vectors.size == 0):
            raise BadEmbedding(self._url, f"{vectors.shape} numbers instead of {(wanted, self.dimensions)}")
        if not np.isfinite(vectors).all():
            raise BadEmbedding(self._url, "a vector holds something that is not a number")
        return vectors
