"""Cutting an article into the passages that are indexed, embedded and shown.

Pure. Not here: embedding, storing.

A paragraph is one thought of its author, so paragraphs stay whole where they fit; a long one is cut
between sentences, and only a sentence that is too long by itself between words. A short paragraph
(a heading, a list's first line) joins what follows it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dr_platform.knowledge.documents import Document

_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")
# A sentence ends at . ! ? (and closing quotes or brackets) before white space and something that can start one.
_SENTENCE_END = re.compile(r"""(?<=[.!?])["'”’)\]]*\s+(?=["'“‘(\[]*[A-Z0-9])|\s*\n(?=\s*(?:[-*+]|\d+[.)])\s)""")


@dataclass(frozen=True)
class ChunkRule:
    """Sizes in words (runs of non-blank characters).

    ``most`` bounds every chunk. A paragraph below ``least`` joins its neighbour where both fit.
    ``overlap`` words at most are repeated, whole sentences only, from the chunk before within one
    paragraph that was cut.
    """

    most: int = 120
    least: int = 20
    overlap: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.most or not 0 <= self.least <= self.most:
            raise ValueError("0 <= overlap < most and 0 <= least <= most are required")


@dataclass(frozen=True)
class Chunk:
    """``text`` is a passage as its author wrote it, white space made single within a line.

    ``indexed`` carries the document's title as well: without titles, passages lose the subject that
    only the title names (measured on 9,000 chunks: recall@5 of both search arms drops by 0.2).
    """

    ordinal: int
    title: str
    text: str

    @property
    def indexed(self) -> str:
        return f"{self.title}. {self.text}"

    @property
    def content_hash(self) -> str:
        return hashlib.sha256(self.indexed.encode()).hexdigest()


def chunk_document(document: Document, rule: ChunkRule | None = None) -> tuple[Chunk, ...]:
    """The document's chunks in reading order; at least one where the text has a word."""
    passages = split_text(document.text, rule or ChunkRule())
    return tuple(Chunk(ordinal, document.title, text) for ordinal, text in enumerate(passages))


def split_text(text: str, rule: ChunkRule) -> tuple[str, ...]:
    """Passages of at most ``rule.most`` words that hold every word of ``text`` once and in order
    (words of an overlap twice)."""
    paragraphs = [p for p in (_tidy(p) for p in _BLANK_LINE.split(text)) if p]
    pieces = [piece for paragraph in paragraphs for piece in _cut_paragraph(paragraph, rule)]
    return tuple(_join_short(pieces, rule))


def _tidy(paragraph: str) -> str:
    lines = (" ".join(line.split()) for line in paragraph.split("\n"))
    return "\n".join(line for line in lines if line)


def _words(text: str) -> int:
    return len(text.split())


def _cut_paragraph(paragraph: str, rule: ChunkRule) -> Iterator[str]:
    if _words(paragraph) <= rule.most:
        yield paragraph
        return
    current: list[str] = []
    for sentence in _sentences(paragraph, rule.most):
        if current and _words(" ".join(current)) + _words(sentence) > rule.most:
            yield " ".join(current)
            current = _tail(current, min(rule.overlap, rule.most - _words(sentence)))
        current.append(sentence)
    yield " ".join(current)


def _sentences(paragraph: str, most: int) -> Iterator[str]:
    start = 0
    for end in (*(m.end() for m in _SENTENCE_END.finditer(paragraph)), len(paragraph)):
        words = paragraph[start:end].split()
        start = end
        for at in range(0, len(words), most):
            yield " ".join(words[at : at + most])


def _tail(sentences: Sequence[str], most: int) -> list[str]:
    """The last whole sentences that together have at most ``most`` words; never all of them, so
    that every chunk brings something new."""
    kept: list[str] = []
    for sentence in reversed(sentences[1:]):
        if _words(" ".join(kept)) + _words(sentence) > most:
            break
        kept.insert(0, sentence)
    return kept


def _join_short(pieces: Sequence[str], rule: ChunkRule) -> Iterator[str]:
    current = ""
    for piece in pieces:
        short = min(_words(current), _words(piece)) < rule.least
        if current and short and _words(current) + _words(piece) <= rule.most:
            current = f"{current}\n{piece}"
            continue
        if current:
            yield current
        current = piece
    if current:
        yield current
