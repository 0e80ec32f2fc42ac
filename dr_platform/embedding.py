"""Texts as vectors, computed in this process from word vectors that come with a wheel.

Here: ``WordVectors``. Not here: which models a company has (``catalog/embedders/``), who asks for vectors,
where they are kept, or servers that make them.
No network is used: wordllama's own loader would try a download, so its two files are read directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dr_platform.errors import PlatformError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

_WEIGHTS = "weights/l2_supercat_256.safetensors"
_TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"
_BATCH = 256
"""Texts tokenised at a time; bounds memory, not meaning."""


class NoWordVectors(PlatformError):
    def __init__(self, missing: str) -> None:
        super().__init__(missing)
        self.what = f"the word vectors cannot be read: {missing} is missing"
        self.untouched = "everything stored"
        self.next_step = "install the pinned requirements again (`make setup`), the package wordllama carries the file"


class WordVectors:
    """A text's vector is the mean of its tokens' vectors, of length 1 (all zero for a text without tokens).
    Of fewer than 256 ``dimensions`` it has the first ones, which they were trained to allow.

    Equal texts give equal vectors on every machine, alone or in a batch, so stored vectors stay
    comparable for as long as ``model_id`` is the same. Loading takes about 0.2 s and 32 MB, at the
    first use in a process. Safe to use from several threads.
    """

    def __init__(self, model_id: str = "wordllama-l2-supercat-256", dimensions: int = 256) -> None:
        self.model_id = model_id
        self.dimensions = dimensions

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row per text, in order."""
        import numpy as np

        tokenizer, vectors = _tokenizer(), _vectors()
        rows = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for start in range(0, len(texts), _BATCH):
            batch = list(texts[start : start + _BATCH])
            for at, encoded in enumerate(tokenizer.encode_batch(batch, add_special_tokens=False), start):
                if encoded.ids:
                    mean = vectors[encoded.ids, : self.dimensions].mean(axis=0, dtype=np.float32)
                    rows[at] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return rows


@cache
def _vectors() -> NDArray[np.float32]:
    import numpy as np
    from safetensors.numpy import load_file

    return np.ascontiguousarray(load_file(_shipped(_WEIGHTS))["embedding.weight"], dtype=np.float32)


@cache
def _tokenizer() -> Tokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(_shipped(_TOKENIZER)))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _shipped(name: str) -> Path:
    # The package itself is not imported: that would pull in its trainers' dependencies.
    found = find_spec("wordllama")
    folder = Path(found.origin).parent if found and found.origin else None
    if folder is None or not (folder / name).is_file():
        raise NoWordVectors(f"wordllama/{name}")
    return folder / name
