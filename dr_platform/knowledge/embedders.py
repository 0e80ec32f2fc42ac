"""The embedding models of a catalog: what is known of each, and the embedder that it has.

Here: entries, and making an embedder from one. Not here: the catalog's file (``catalog.models``), which model
the store is searched with (``store``), or how a server is asked (``http_embedder``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dr_platform.clock import Clock
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.knowledge.embedder import Embedder, NoApiKey
from dr_platform.knowledge.http_embedder import LOADING, HttpEmbedder, OpenAi, Patience, Tei

if TYPE_CHECKING:
    from dr_platform.catalog import Catalog
    from dr_platform.secrets.port import Fields

KEY_FIELD = "key"
KEY_CATEGORY = "api-keys"


@dataclass(frozen=True)
class EmbedderEntry:
    """A model of the catalog in plain values, so that a running service need not read the catalog. Without
    ``url`` it is computed in this process. ``questions`` says whether users' questions, which may hold PHI,
    may be sent to it."""

    name: str
    dimensions: int
    first: bool = False
    questions: bool = True
    url: str = ""
    api: str = ""
    served_as: str = ""
    shortened: bool = False
    batch: int = 32
    timeout_s: float = 10.0
    secret: str = ""


def entries_of(catalog: Catalog) -> Mapping[str, EmbedderEntry]:
    """By name."""
    found = {}
    for name, model in catalog.embedders.items():
        entry = EmbedderEntry(name, model.dimensions, model.first)
        if (server := model.server) is not None:
            entry = EmbedderEntry(
                name,
                model.dimensions,
                model.first,
                questions=server.questions == "allowed",
                url=server.url,
                api=server.api,
                served_as=server.model or "",
                shortened=server.shortened,
                batch=server.batch,
                timeout_s=server.timeout,
                secret=server.secret or "",
            )
        found[name] = entry
    return found


class UnknownModel(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, model: str, known: tuple[str, ...]) -> None:
        super().__init__(model, known)
        self.what = f"{model}: the catalog has no embedding model of that name"
        self.untouched = "everything stored"
        self.next_step = f"add catalog/embedders/{model}.yaml, or choose one of {', '.join(known)}"


class QuestionsRefused(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.what = f"{model}: users' questions may hold PHI, and the catalog does not allow to send them to its server"
        self.untouched = "everything stored; nothing was sent"
        self.next_step = f"where it may have them, write `questions: allowed` in catalog/embedders/{model}.yaml"


class Embedders:
    """Each model's embedder, made at its first use. Safe to use from several threads."""

    def __init__(
        self,
        entries: Mapping[str, EmbedderEntry],
        secret: Callable[[str], Fields | None],
        clock: Clock,
        patience: Patience = LOADING,
    ) -> None:
        self.entries = entries
        self._secret = secret
        self._clock = clock
        self._patience = patience
        self._lock = threading.Lock()
        self._made: dict[str, Embedder] = {}

    @property
    def first(self) -> str:
        """What an empty store is loaded with."""
        return next(name for name, entry in self.entries.items() if entry.first)

    def named(self, model: str) -> Embedder:
        """What makes a model's vectors. Raises ``UnknownModel``."""
        if model not in self.entries:
            raise UnknownModel(model, tuple(self.entries))
        with self._lock:
            if model not in self._made:
                self._made[model] = self._make(self.entries[model])
            return self._made[model]

    def for_questions(self, model: str) -> Embedder:
        """The same, for what users ask. Raises ``QuestionsRefused``, too."""
        found = self.named(model)
        if not self.entries[model].questions:
            raise QuestionsRefused(model)
        return found

    def _make(self, entry: EmbedderEntry) -> Embedder:
        from dr_platform.embedding import WordVectors

        if not entry.url:
            return WordVectors(entry.name, entry.dimensions)
        openai = OpenAi(entry.served_as, entry.dimensions if entry.shortened else None)
        return HttpEmbedder(
            entry.name,
            entry.dimensions,
            entry.url,
            openai if entry.api == "openai" else Tei(),
            self._clock,
            key=(lambda: self._key(entry)) if entry.secret else None,
            batch=entry.batch,
            timeout_s=entry.timeout_s,
            patience=self._patience,
        )

    def _key(self, entry: EmbedderEntry) -> str:
        fields = self._secret(entry.secret)
        key = (fields or {}).get(KEY_FIELD, "")
        if not key:
            raise NoApiKey(entry.name, entry.secret, f"has no field {KEY_FIELD}" if fields else "does not exist")
        if not fit_for_header(key):
            raise NoApiKey(entry.name, entry.secret, "holds characters that no key has")
        return key


def fit_for_header(key: str) -> bool:
    """Whether a key can stand in a header: printable ASCII without blanks."""
    return bool(key) and key.isascii() and key.isprintable() and " " not in key
