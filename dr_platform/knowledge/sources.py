"""From a file or a folder to documents, or to the list of everything that is wrong with it.

Here: which files a source has, their sizes, encoding and the rules between documents. Not here: the
formats themselves (``formats``), nor storing. Everything is read before anything is stored: a source
with one fault changes nothing.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dr_platform.errors import ExitCode, PlatformError
from dr_platform.knowledge.documents import Document
from dr_platform.knowledge.formats import READERS, Draft, FormatFault

MAX_FILES = 20_000
MAX_DOCUMENTS = 100_000
MAX_FILE_BYTES = 64 * 1024 * 1024
"""A source is read whole into memory before anything is stored."""
MAX_TITLE = 300
MAX_TEXT = 200_000
"""Characters of one document; a handbook of this size should be cut into articles by its author."""
MAX_SHOWN = 50
"""Faults shown of a source; ``SourceError.faults`` has all of them."""

_SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_DAY = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")


@dataclass(frozen=True)
class SourceFault:
    """One thing that is wrong. ``line`` counts from 1, where it is known. Texts quote names of files,
    fields and slugs and never a document's text, which may hold anything."""

    file: str
    line: int | None
    problem: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.problem}; {self.remedy}"


class SourceError(PlatformError):
    """The source cannot be used. ``faults`` are all that were found, in reading order."""

    exit_code = ExitCode.REFUSED

    def __init__(self, source: str, faults: tuple[SourceFault, ...]) -> None:
        super().__init__(source, faults)
        self.faults = faults
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        shown = [f"  {fault}" for fault in faults[:MAX_SHOWN]]
        if len(faults) > MAX_SHOWN:
            shown.append(f"  … and {len(faults) - MAX_SHOWN} more")
        self.what = f"{source} has {count}:\n" + "\n".join(shown)
        self.untouched = "every stored document; the whole source is read before anything is written"
        self.next_step = "correct the places above and seed again"


@dataclass
class _Reading:
    documents: list[Document] = field(default_factory=list)
    faults: list[SourceFault] = field(default_factory=list)


def read_source(path: Path, *, language: str = "en") -> tuple[Document, ...]:
    """All documents of a file or folder, ordered by slug; ``language`` is for those that name none.

    A folder is read with its sub-folders: ``.md``, ``.jsonl``, ``.csv`` and ``.xml``; other and
    hidden files are left alone, links out of it are refused. Raises ``SourceError``.
    """
    reading = _Reading()
    files = _files(path, reading.faults)
    for file in files:
        for draft in _read_file(file, path, reading.faults):
            _accept(draft, language, reading)
            if len(reading.documents) > MAX_DOCUMENTS:
                _fail(
                    reading.faults, path.name, None, f"holds more than {MAX_DOCUMENTS:,} documents", "seed it in parts"
                )
                raise SourceError(str(path), tuple(reading.faults))
    _refuse_duplicates(reading)
    if not reading.documents and not reading.faults:
        _fail(reading.faults, path.name, None, "holds no document", f"name a folder or file with {_suffixes()}")
    if reading.faults:
        raise SourceError(str(path), tuple(reading.faults))
    return tuple(sorted(reading.documents, key=lambda d: d.slug))


def _suffixes() -> str:
    return ", ".join(READERS)


def _fail(faults: list[SourceFault], file: str, line: int | None, problem: str, remedy: str) -> None:
    faults.append(SourceFault(file, line, problem, remedy))


def _files(path: Path, faults: list[SourceFault]) -> Sequence[Path]:
    if path.is_file():
        if path.suffix.lower() in READERS:
            return [path]
        _fail(faults, path.name, None, "is of no known format", f"name a folder, or a file with {_suffixes()}")
        return []
    if not path.is_dir():
        _fail(faults, str(path), None, "does not exist, or is neither a file nor a folder", "correct the path")
        return []
    found = sorted(_walk(path, faults))
    if len(found) > MAX_FILES:
        _fail(faults, path.name, None, f"holds more than {MAX_FILES:,} files", "seed it in parts")
        return []
    return found


def _walk(root: Path, faults: list[SourceFault]) -> Iterator[Path]:
    inside = root.resolve()
    for folder, folders, names in os.walk(root, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            file = Path(folder, name)
            if name.startswith(".") or file.suffix.lower() not in READERS:
                continue
            if file.is_symlink() and not file.resolve().is_relative_to(inside):
                where = file.relative_to(root).as_posix()
                _fail(faults, where, None, "is a link that leads out of the source", "copy the file into the source")
                continue
            yield file


def _read_file(file: Path, root: Path, faults: list[SourceFault]) -> Iterator[Draft]:
    where = file.relative_to(root).as_posix() if file != root else file.name
    try:
        text = _decode(_read_bytes(file))
        for found in READERS[file.suffix.lower()](where, text):
            if isinstance(found, FormatFault):
                _fail(faults, where, found.line, found.problem, found.remedy)
            else:
                yield found
    except _Unreadable as exc:
        _fail(faults, where, exc.line, exc.problem, exc.remedy)


class _Unreadable(Exception):
    def __init__(self, line: int | None, problem: str, remedy: str) -> None:
        super().__init__(line, problem, remedy)
        self.line, self.problem, self.remedy = line, problem, remedy


def _read_bytes(file: Path) -> bytes:
    try:
        # Not blocking: opening a named pipe would wait for its other end for ever.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _Unreadable(None, "is not a regular file", "put a file in its place")
            raw = stream.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        reason = os.strerror(exc.errno or 0).lower()
        raise _Unreadable(None, f"cannot be read ({reason})", "correct its permissions, or the link it is") from None
    if len(raw) > MAX_FILE_BYTES:
        raise _Unreadable(None, f"is larger than {MAX_FILE_BYTES:,} bytes", "cut it into several files")
    return raw


def _decode(raw: bytes) -> str:
    if (at := raw.find(b"\0")) >= 0:
        raise _Unreadable(raw.count(b"\n", 0, at) + 1, "holds a NUL byte", "save it as plain UTF-8 text")
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise _Unreadable(line, "is not UTF-8 text", "save it in the encoding UTF-8") from None


def _accept(draft: Draft, language: str, reading: _Reading) -> None:
    """Turn a draft into a document, or say everything that is wrong with it."""
    before = len(reading.faults)
    for holds, problem, remedy in _rules(draft):
        if not holds:
            _fail(reading.faults, draft.file, draft.line, problem, remedy)
    if len(reading.faults) == before:
        reading.documents.append(
            Document(
                slug=draft.slug,
                title=" ".join(draft.title.split()),
                text=draft.text.strip(),
                language=draft.language or language,
                reviewed=draft.reviewed,
                tags=draft.tags,
                place=f"{draft.file}:{draft.line}" if draft.line else draft.file,
            )
        )


def _rules(draft: Draft) -> Iterator[tuple[bool, str, str]]:
    slug, title, text = draft.slug, draft.title.strip(), draft.text.strip()
    fits = len(slug) <= 120 and _SLUG.fullmatch(slug) is not None
    yield fits, "has no usable slug", "use up to 120 lower-case letters, digits and single hyphens"
    yield bool(title), "has no title", "write a title (or question)"
    yield len(title) <= MAX_TITLE, f"has a title of more than {MAX_TITLE} characters", "shorten it"
    yield bool(text), "has no text", "write its text (or answer), or remove it"
    yield len(text) <= MAX_TEXT, f"has more than {MAX_TEXT:,} characters", "cut it into several documents"
    yield (
        draft.language is None or _LANGUAGE.fullmatch(draft.language) is not None,
        "has a language that cannot be read",
        "write a code such as en or pt-BR",
    )
    yield (
        draft.reviewed is None or _is_day(draft.reviewed),
        "has a review day that cannot be read",
        "write a day that exists as 2026-01-31",
    )


def _is_day(text: str) -> bool:
    from datetime import date

    try:
        return _DAY.fullmatch(text) is not None and bool(date.fromisoformat(text))
    except ValueError:
        return False


def _refuse_duplicates(reading: _Reading) -> None:
    first: dict[str, Document] = {}
    for document in reading.documents:
        if (earlier := first.setdefault(document.slug, document)) is not document:
            file, _, line = document.place.partition(":")
            problem = f"has the slug {document.slug} of {earlier.place}"
            _fail(reading.faults, file, int(line) if line.isdigit() else None, problem, "give it a slug of its own")


PhiLook = Callable[[str], Sequence[str]]
"""Names of the kinds of identifiers a text seems to hold (``SSN``, ``EMAIL``); empty where none."""


def phi_warnings(documents: Sequence[Document], look: PhiLook) -> tuple[str, ...]:
    """One line per document that seems to hold what identifies a patient: its place and the kinds,
    never the text. Knowledge is for everybody who may ask, so a person should look at each."""
    found = ((document, sorted(set(look(f"{document.title}\n{document.text}")))) for document in documents)
    return tuple(
        f"{document.place}: may hold identifiers of a patient ({', '.join(kinds)})"
        for document, kinds in found
        if kinds
    )
