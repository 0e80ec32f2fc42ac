"""What the formats of a source look like: Markdown, JSON lines, CSV, question-and-answer XML.

Here: one reader per format, from text to drafts and faults with their lines. Not here: files, nor
what a document must have (``sources``). A reader goes on after a fault where it can, so that one run
tells of all of them.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from xml.parsers import expat

from dr_platform.catalog.documents import Unreadable, parse_document

TITLE_FIELDS = ("title", "question")
TEXT_FIELDS = ("text", "answer", "body", "content")
SLUG_FIELDS = ("slug", "id")
MAX_DEPTH = 64
"""Of nested XML elements; question-and-answer files have about 5."""
MAX_FIELD = 1_000_000
"""Characters of one CSV field."""


@dataclass(frozen=True)
class Draft:
    """What a reader found, unchecked. ``line`` is the line it starts at, where a file holds several."""

    file: str
    line: int | None
    slug: str
    title: str
    text: str
    language: str | None = None
    reviewed: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class FormatFault:
    line: int | None
    problem: str
    remedy: str


Found = Draft | FormatFault


def slug_of(text: str) -> str:
    """``Sleeping well: 5 steps`` becomes ``sleeping-well-5-steps``; at most 120 characters."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain.replace("'", "")).strip("-")[:120].rstrip("-")


def read_markdown(file: str, text: str) -> Iterator[Found]:
    """One document a file. The slug is the path without its suffix; the title comes from the front
    matter, else from the first heading, else from the slug. Front matter fields of other tools are
    left alone."""
    fields: Mapping[str, Any] = {}
    body = text
    if (matter := re.match(r"---[^\S\n]*\n(.*?)(?:^|\n)---[^\S\n]*(?:\n|\Z)", text, re.DOTALL)) is not None:
        body = text[matter.end() :]
        try:
            parsed = parse_document(matter[1]) if matter[1].strip() else None
        except Unreadable as exc:
            yield FormatFault(_below(exc.flaw.line), f"front matter {exc.flaw.problem}", exc.flaw.remedy)
            return
        for flaw in parsed.flaws if parsed else ():
            yield FormatFault(_below(flaw.line), f"front matter field {flaw.problem}", flaw.remedy)
        fields = parsed.data if parsed else {}
    elif text.startswith("---\n"):
        yield FormatFault(1, "opens a front matter that never ends", "close it with a line of three hyphens")
        return
    slug = slug_of(PurePosixPath(file).with_suffix("").as_posix())
    yield from _draft(file, None, {"slug": slug, **fields, "text": body, "title": _title(fields, body, slug)})


def _below(line: int | None) -> int | None:
    return line + 1 if line else None  # the front matter starts below its first hyphens


def _title(fields: Mapping[str, Any], body: str, slug: str) -> object:
    if "title" in fields:
        return fields["title"]
    heading = re.search(r"^#{1,2}\s+(\S.*?)\s*#*\s*$", body, re.MULTILINE)
    return heading[1] if heading else slug.replace("-", " ").capitalize()


def read_json_lines(file: str, text: str) -> Iterator[Found]:
    """One object a line, with ``title`` (or ``question``) and ``text`` (or ``answer``, ``body``,
    ``content``), and optionally ``slug`` (or ``id``), ``language``, ``reviewed``, ``tags``."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            yield FormatFault(number, "is not JSON", "write one JSON object a line")
            continue
        if not isinstance(row, dict):
            yield FormatFault(number, "is not a JSON object", 'write one object such as {"title": …, "text": …} a line')
            continue
        yield from _draft(file, number, row)


def read_csv(file: str, text: str) -> Iterator[Found]:
    """A header line with the field names of ``read_json_lines``, then one document a row; ``tags``
    are separated by semicolons."""
    csv.field_size_limit(MAX_FIELD)
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip().lower() for name in next(rows, [])]
        if not (set(header) & set(TITLE_FIELDS) and set(header) & set(TEXT_FIELDS)):
            remedy = f"name columns {' or '.join(TITLE_FIELDS)}, and {' or '.join(TEXT_FIELDS)}"
            yield FormatFault(1, "has no header with a title and a text", remedy)
            return
        starts_at = rows.line_num + 1
        for row in rows:
            if len(row) == len(header):
                yield from _draft(file, starts_at, dict(zip(header, row, strict=True)))
            elif row:
                problem = f"has {len(row)} fields, the header has {len(header)}"
                yield FormatFault(starts_at, problem, "put quotes round fields that hold a comma")
            starts_at = rows.line_num + 1
    except csv.Error:
        yield FormatFault(rows.line_num, "is not CSV", "close every quote; a quote inside a field is written twice")


def read_xml(file: str, text: str) -> Iterator[Found]:
    """Any element with a question (or title) and an answer (or text, body, content) among its
    children is a document; ``<QAPair pid="1">`` inside ``<Document id="0000001">`` is named
    ``0000001-1``. A document type declaration is refused, and with it every entity of its own."""
    reader = _QuestionsAndAnswers(file)
    try:
        reader.feed(text)
    except _NotAllowed as exc:
        reader.found.append(exc.fault)
    except expat.ExpatError as exc:
        reason = expat.ErrorString(exc.code)
        reader.found.append(FormatFault(exc.lineno, f"is not well-formed XML ({reason})", "correct the markup"))
    if not reader.found:
        yield FormatFault(
            None, "holds no question with an answer", "use elements question and answer, or title and text"
        )
    yield from reader.found


READERS: Mapping[str, Callable[[str, str], Iterator[Found]]] = {
    ".md": read_markdown,
    ".jsonl": read_json_lines,
    ".csv": read_csv,
    ".xml": read_xml,
}
"""By suffix of the file's name."""


def _draft(file: str, line: int | None, row: Mapping[str, Any]) -> Iterator[Found]:
    values: dict[str, str | None] = {}
    for name, aliases in (("title", TITLE_FIELDS), ("text", TEXT_FIELDS), ("slug", SLUG_FIELDS)):
        values[name] = _first(row, aliases)
    for name in ("language", "reviewed"):
        values[name] = _first(row, (name,))
    tags = _tags(row.get("tags"))
    wrong = sorted(name for name in row if name in _KNOWN and not isinstance(row[name], str | int | float | None))
    if wrong := [name for name in wrong if name != "tags"] + (["tags"] if tags is None else []):
        yield FormatFault(line, f"has no plain text in {', '.join(wrong)}", "write text there")
        return
    title = values["title"] or ""
    yield Draft(
        file=file,
        line=line,
        slug=values["slug"] if values["slug"] and _is_slug(values["slug"]) else slug_of(values["slug"] or title),
        title=title,
        text=values["text"] or "",
        language=values["language"] or None,
        reviewed=values["reviewed"] or None,
        tags=tags or (),
    )


_KNOWN = {*TITLE_FIELDS, *TEXT_FIELDS, *SLUG_FIELDS, "language", "reviewed", "tags"}


def _is_slug(text: str) -> bool:
    return slug_of(text) == text


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((str(row[name]).strip() for name in names if row.get(name) not in (None, "")), None)


def _tags(value: object) -> tuple[str, ...] | None:
    if value is None:
        return ()
    if isinstance(value, str):
        value = value.split(";") if ";" in value else value.split(",")
    if not isinstance(value, list) or not all(isinstance(tag, str | int | float) for tag in value):
        return None
    return tuple(tag for tag in (str(tag).strip() for tag in value) if tag)


class _NotAllowed(Exception):
    def __init__(self, fault: FormatFault) -> None:
        super().__init__(fault)
        self.fault = fault


@dataclass
class _Element:
    name: str
    line: int
    key: str | None
    """The element's own identifier, from an attribute."""
    texts: list[str] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)
    documents: int = 0


class _QuestionsAndAnswers:
    """A pass over the elements that keeps the open ones only."""

    def __init__(self, file: str) -> None:
        self.found: list[Found] = []
        self._file = file
        self._open: list[_Element] = []
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.StartDoctypeDeclHandler = self._refuse

    def feed(self, text: str) -> None:
        # Already decoded: an encoding that the file declares must not be applied a second time.
        self._parser.Parse(re.sub(r"^<\?xml[^>]*\?>", "", text, count=1).encode(), True)

    def _refuse(self, *_declaration: object) -> None:
        line = self._parser.CurrentLineNumber
        raise _NotAllowed(
            FormatFault(line, "declares a document type", "remove the DOCTYPE; entities are not expanded")
        )

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        line = self._parser.CurrentLineNumber
        if len(self._open) >= MAX_DEPTH:
            raise _NotAllowed(FormatFault(line, f"nests more than {MAX_DEPTH} elements", "flatten the markup"))
        keys = (attributes[key] for key in ("id", "pid", "qid", "slug") if attributes.get(key))
        self._open.append(_Element(name.rpartition(":")[2].lower(), line, next(keys, None)))

    def _text(self, data: str) -> None:
        if self._open:
            self._open[-1].texts.append(data)

    def _end(self, _name: str) -> None:
        element = self._open.pop()
        parent = self._open[-1] if self._open else None
        if element.fields:
            self._close_entry(element, parent)
        if parent is None:
            return
        parent.documents += element.documents
        text = "".join(element.texts).strip()
        if not element.fields and element.name in _KNOWN:
            parent.fields.setdefault(element.name, text)
        elif not element.documents:  # markup inside a text, such as <p> or <b>
            parent.texts.append("".join(element.texts))

    def _close_entry(self, element: _Element, parent: _Element | None) -> None:
        has_title = any(name in element.fields for name in TITLE_FIELDS)
        has_text = any(name in element.fields for name in TEXT_FIELDS)
        if has_title and has_text:
            element.documents += 1
            key = element.fields.get("slug") or self._key(element)
            row = {**element.fields, "slug": key, "title": _first(element.fields, ("question", "title"))}
            self.found.extend(_draft(self._file, element.line, row))
        elif has_text and not element.documents and parent is not None and parent.name in TEXT_FIELDS:
            element.texts.append("\n".join(element.fields.values()))
        elif has_title and not element.documents:
            self.found.append(
                FormatFault(element.line, "has a question and no answer", "write the answer, or remove it")
            )

    def _key(self, element: _Element) -> str | None:
        own = element.key
        if own is None:
            return None
        outer = next((e.key for e in reversed(self._open) if e.key), None)
        return slug_of(f"{outer or PurePosixPath(self._file).stem}-{own}")
