"""From the bytes of one file to plain data, with the line of every field.

Here: what a catalog file may look like before anybody asks what it means: size, encoding, and the
part of YAML that is allowed: one document of mappings, lists and scalars. Not here: models.

Aliases, anchors, tags and merge keys are refused, because a file of 1 KB can grow to gigabytes by
them. Scalars follow the YAML 1.2 core schema: ``no`` and ``2025-09-01`` are text, and a number with a
leading zero is text too, so that no port is ever read as octal.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

MAX_BYTES = 256 * 1024
"""A catalog file is about 1 KiB; anything near this is not one."""
MAX_DEPTH = 16
"""The deepest field of any model is at 5."""
Place = tuple[str | int, ...]
"""Keys and positions that lead to a field."""

_LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]{0,14})\.[0-9]{1,15}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None, "true": True, "True": True, "TRUE": True}
_WORDS |= {"false": False, "False": False, "FALSE": False}


@dataclass(frozen=True)
class Flaw:
    """Something wrong at a line (or with the whole file), told without quoting it."""

    line: int | None
    problem: str
    remedy: str
    place: Place = ()


@dataclass(frozen=True)
class Document:
    """``data`` is the top mapping; ``lines`` gives the line of each field by its path."""

    data: dict[str, Any]
    lines: dict[Place, int]
    flaws: tuple[Flaw, ...] = ()


class Unreadable(Exception):
    """The file cannot be taken as fields at all."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw)
        self.flaw = flaw


def read_document(file: Path) -> Document:
    """Read and parse one file; raises ``Unreadable`` when nothing of it can be used."""
    return parse_document(_decode(_read_bytes(file)))


def _read_bytes(file: Path) -> bytes:
    try:
        # Not blocking: opening a named pipe would wait for its other end for ever.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise Unreadable(Flaw(None, "is not a regular file", "put a YAML file in its place"))
            if found.st_size > MAX_BYTES:
                raise Unreadable(_too_large(found.st_size))
            raw = stream.read(MAX_BYTES + 1)
    except OSError as exc:
        problem = f"cannot be read ({os.strerror(exc.errno or 0).lower()})"
        raise Unreadable(Flaw(None, problem, "correct its permissions, or the link it is")) from None
    if len(raw) > MAX_BYTES:
        raise Unreadable(_too_large(len(raw)))
    return raw


def _too_large(size: int) -> Flaw:
    problem = f"has {size:,} bytes, a catalog file has at most {MAX_BYTES:,}"
    return Flaw(None, problem, "move what does not describe the platform elsewhere")


def _decode(raw: bytes) -> str:
    if (at := raw.find(b"\0")) >= 0 and not raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Unreadable(Flaw(raw.count(b"\n", 0, at) + 1, "holds a NUL byte", "save the file as plain UTF-8 text"))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise Unreadable(Flaw(line, "is not UTF-8 text", "save the file in the encoding UTF-8")) from None


def parse_document(text: str) -> Document:
    """Parse one YAML document; raises ``Unreadable`` when it has no usable top mapping."""
    reader = _Reader()
    try:
        events = iter(yaml.parse(text, Loader=_LOADER))
        data = reader.whole(events)
    except ReaderError as exc:
        line = text.count("\n", 0, exc.position if isinstance(exc.position, int) else 0) + 1
        flaw = Flaw(line, "holds a control character", "remove it, or save the file as plain UTF-8 text")
        raise Unreadable(flaw) from None  # the cause quotes the character
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        raise Unreadable(_not_yaml(str(exc.problem), mark.line + 1 if mark else None)) from None  # may quote the line
    except yaml.YAMLError:
        raise Unreadable(_not_yaml("", None)) from None
    if data is None:
        raise Unreadable(Flaw(None, "is empty", "write its fields, `drp catalog schema` lists them"))
    if not isinstance(data, dict):
        raise Unreadable(Flaw(1, "is not a mapping of fields", "write one `field: value` a line"))
    return Document(data, reader.lines, tuple(reader.flaws))


def _not_yaml(problem: str, line: int | None) -> Flaw:
    if "\\t" in problem or "character that cannot start" in problem:
        remedy = "indent with spaces, not tabs, and put quotes round values that start with a special character"
    elif "mapping values" in problem:
        remedy = "put quotes round a value that holds a colon followed by a space"
    elif "expected" in problem:
        remedy = "close what is open (quote, bracket, brace) and indent all fields of one level alike"
    else:
        remedy = "write `field: value`, with values of special characters in quotes"
    return Flaw(line, "is not valid YAML", remedy)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


@dataclass
class _Reader:
    """Builds data from parser events: nothing is built that was not written."""

    lines: dict[Place, int] = field(default_factory=dict)
    flaws: list[Flaw] = field(default_factory=list)

    def whole(self, events: Iterator[yaml.Event]) -> object:
        data: object = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    line = _line(event)
                    raise Unreadable(
                        Flaw(line, "holds a second document", "move what follows `---` to a file of its own")
                    )
            elif isinstance(event, yaml.NodeEvent):
                data = self._node(event, events, ())
        return data

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], place: Place) -> object:
        line = _line(event)
        self._refuse_references(event, line)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, place, line)
        if len(place) >= MAX_DEPTH:
            raise Unreadable(Flaw(line, f"is nested more than {MAX_DEPTH} levels deep", "remove the inner levels"))
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(events, place)
        return self._sequence(events, place)

    def _refuse_references(self, event: yaml.Event, line: int) -> None:
        if isinstance(event, yaml.AliasEvent):
            raise Unreadable(Flaw(line, "uses an alias (*)", "write the value out"))
        if getattr(event, "anchor", None) is not None:
            raise Unreadable(Flaw(line, "uses an anchor (&)", "remove it and write the value out where it is used"))
        if getattr(event, "tag", None) is not None:
            raise Unreadable(Flaw(line, "uses a tag (!)", "remove the tag, or put the value in quotes"))

    def _mapping(self, events: Iterator[yaml.Event], place: Place) -> dict[str, object]:
        found: dict[str, object] = {}
        for key in events:
            if isinstance(key, yaml.MappingEndEvent):
                break
            line = _line(key)
            self._refuse_references(key, line)
            if not isinstance(key, yaml.ScalarEvent):
                raise Unreadable(Flaw(line, "uses a list or mapping as a key", "write a plain name before the colon"))
            here = (*place, key.value)
            value = self._node(next(events), events, here)
            if key.value in found:
                self.flaws.append(
                    Flaw(line, "is written twice", f"keep one, the first is on line {self.lines[here]}", here)
                )
                continue
            self.lines[here] = line
            found[key.value] = value
        return found

    def _sequence(self, events: Iterator[yaml.Event], place: Place) -> list[object]:
        found: list[object] = []
        for event in events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            here = (*place, len(found))
            self.lines[here] = _line(event)
            found.append(self._node(event, events, here))
        return found

    def _scalar(self, event: yaml.ScalarEvent, place: Place, line: int) -> object:
        text = event.value
        if _CONTROL.search(text):
            self.flaws.append(Flaw(line, "holds a control character", "remove it", place))
        if not event.implicit[0]:  # quoted, or a block: text whatever it looks like
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            return int(text)
        return float(text) if _NUMBER.fullmatch(text) else text
