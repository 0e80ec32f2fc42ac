"""The port to whatever turns texts into vectors, and how it says that it cannot.

Not here: the adapters (``dr_platform.embedding`` in this process, ``http_embedder`` over HTTP), or which of them
a model of the catalog has (``embedders``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from dr_platform.errors import ExitCode, PlatformError, TemporaryFailure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Embedder(Protocol):
    """Texts in, one vector of length 1 per text out, in order (all zero for a text without words).

    Equal texts give equal vectors for as long as ``model_id`` is the same. Vectors of different
    models say nothing about each other: whoever stores vectors stores ``model_id`` with them and
    refuses to compare across. Raises ``EmbedderUnreachable`` where asking again may help,
    ``BadEmbedding`` where the answer cannot be used and ``NoApiKey`` before anything was asked; in
    each case nothing was stored anywhere.
    """

    @property
    def model_id(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


class EmbedderUnreachable(TemporaryFailure):
    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.what = f"the embedding server at {address} does not answer: {reason}"
        self.untouched = "every stored document, and the vectors that were made already"
        self.next_step = "see whether it runs and is reached from here, then run again: only what is missing is asked"


class BadEmbedding(PlatformError):
    def __init__(self, address: str, problem: str) -> None:
        super().__init__(address, problem)
        self.what = f"the embedding server at {address} answered with something unusable: {problem}"
        self.untouched = "every stored document, and the vectors that were made already"
        self.next_step = "compare it with what `server` says in the model's file in catalog/embedders"


class NoApiKey(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, model: str, secret: str, problem: str) -> None:
        super().__init__(model, secret, problem)
        self.what = f"{model}: the secret {secret} {problem}"
        self.untouched = "every stored document; nothing was asked"
        self.next_step = f"put its key into the secret store: `drp knowledge key {model}`"


class Remembering:
    """An embedder that is asked for each text once. It keeps all of them: for one piece of work."""

    def __init__(self, embedder: Embedder) -> None:
        self.model_id = embedder.model_id
        self.dimensions = embedder.dimensions
        self._embedder = embedder
        self._known: dict[str, NDArray[np.float32]] = {}

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import numpy as np

        if new := [text for text in dict.fromkeys(texts) if text not in self._known]:
            self._known.update(zip(new, self._embedder.embed(new), strict=True))
        return np.array([self._known[text] for text in texts], dtype=np.float32).reshape(-1, self.dimensions)


NO_VECTORS = (EmbedderUnreachable, BadEmbedding, NoApiKey)
"""What an embedder raises; anything else is not its doing."""
