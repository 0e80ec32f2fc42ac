"""What one article is, and what identifies its content.

Here: values. Not here: where articles come from (``sources``) or how they are cut (``chunking``).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

INDEX_VERSION = 1
"""Part of every content hash: raise it when cutting or indexing changes, and the next seed of every
set rebuilds all of its documents."""


@dataclass(frozen=True)
class Document:
    """One article. ``slug`` identifies it within its set; ``reviewed`` is a day as ``2026-01-31``.

    ``text`` is what is searched and shown; ``place`` (file, and line where a file holds several) is
    for messages and no part of the content.
    """

    slug: str
    title: str
    text: str
    language: str = "en"
    reviewed: str | None = None
    tags: tuple[str, ...] = ()
    place: str = ""

    @property
    def content_hash(self) -> str:
        """SHA-256 over everything that is stored, as 64 hexadecimal digits."""
        content = [INDEX_VERSION, self.title, self.text, self.language, self.reviewed, self.tags]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()
