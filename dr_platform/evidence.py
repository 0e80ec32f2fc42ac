"""The evidence log: what was done and found, by whom, kept for auditors and never changed.

Here: the port, its two adapters, the chain of hashes and what may not enter. Not here: what is worth
an entry, or how long entries are kept.

Each entry's hash is the SHA-256 of its canonical JSON, which contains the hash of the entry before
(64 zeros before the first). Canonical: the keys ``sequence at kind subject actor body previous``, all
keys sorted, separators ``,`` and ``:``, ASCII with escapes, ``at`` as ISO 8601 in UTC with
microseconds. So an exported file is verified with any SHA-256 tool.

A chain by itself shows neither a cut-off end nor a chain that was computed anew as a whole: keep a
``Checkpoint`` where the database's administrator cannot write, and verify against it.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from dr_platform.clock import Clock, SystemClock
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.phi import PhiDetector, PhiKind

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Row

Body = Mapping[str, Any]
"""A JSON object: text, numbers, true, false, null, lists and objects. No NaN or infinity."""

GENESIS = "0" * 64
MAX_BODY_BYTES = 65_536
MAX_DEPTH = 16
_MAX_LABEL = 300
_KIND = re.compile(r"[a-z][a-z0-9]*(?:[._-][a-z0-9]+)*")
_APPEND_LOCK = 0x6472705F65  # "drp_e": one writer at a time per database
_BATCH = 1000

IDENTIFYING = frozenset({
    PhiKind.NAME, PhiKind.ADDRESS, PhiKind.BIRTH_DATE, PhiKind.PHONE, PhiKind.FAX, PhiKind.EMAIL, PhiKind.SSN,
    PhiKind.MRN, PhiKind.HEALTH_PLAN, PhiKind.ACCOUNT, PhiKind.CARD,
})  # fmt: skip
"""Kinds that no entry may hold. The others describe the platform itself as well: its addresses,
devices, dates, ages in seconds, serial numbers of certificates, identifiers of runs."""
_SURE_ENOUGH = 0.6
"""Below it are bare numbers of fitting length, which counters and timestamps are as well."""


@dataclass(frozen=True)
class Entry:
    """One line of evidence. ``sequence`` counts from 1 without gaps."""

    sequence: int
    at: datetime
    kind: str
    subject: str
    actor: str
    body: Body
    previous: str
    hash: str

    def as_line(self) -> str:
        """Canonical JSON with the hash added; one line, without its end."""
        return _canonical({**_content(self), "hash": self.hash})


@dataclass(frozen=True)
class Checkpoint:
    """How far a log had come. Kept elsewhere, it makes a cut or rewritten log provable."""

    sequence: int
    hash: str


@dataclass(frozen=True)
class BrokenEntry:
    """The first entry that is not what was appended, and in which way."""

    sequence: int
    why: str

    def __str__(self) -> str:
        return f"{self.sequence} ({self.why})"


class EvidenceLog(Protocol):
    """Append-only. Concurrent appends, also of several processes, are serialised: sequence numbers
    have no gaps and every entry names the one before. Durable when ``append`` returns; refused or
    failed appends leave nothing behind, but a caller whose connection broke cannot know and repeats."""

    def append(self, kind: str, subject: str, actor: str, body: Body, *, read_to: int | None = None) -> Entry:
        """Raises ``RefusedEvidence`` for PHI, secrets and what is not JSON, ``OperationsUnavailable``
        when the store does not answer. ``actor`` names a person or a program at work and is the one
        text in which an e-mail address may stand.

        ``read_to`` is for a caller whose entry follows from the subject's earlier ones: the sequence
        number up to which it has read them. Raises ``StaleSubject`` where the subject has later ones.
        """

    def entries(self, *, kind: str | None = None, subject: str | None = None, after: int = 0) -> Iterator[Entry]:
        """In order, those after sequence number ``after``."""

    def count(self) -> int: ...

    def head(self) -> Checkpoint:
        """The end of the log; sequence 0 and 64 zeros when it is empty."""

    def verify(self, since: Checkpoint | None = None) -> BrokenEntry | None:
        """Walk the chain, from the start or from a checkpoint that must still be in it. ``None``
        where it is whole. Costs a read of all it walks."""


class RefusedEvidence(PlatformError):
    """``places`` are paths within the entry and what stands there, never the text itself."""

    exit_code = ExitCode.REFUSED

    def __init__(self, kind: str, places: tuple[str, ...]) -> None:
        super().__init__(kind, places)
        self.what = f"evidence of kind {kind[:80]!r} was refused: {'; '.join(places)}"
        self.untouched = "the evidence log; nothing was appended"
        self.next_step = "record names, counts and hashes in place of values, then append again"


class StaleSubject(PlatformError):
    """Somebody appended about the subject after it was read: read again, then decide anew."""

    def __init__(self, subject: str) -> None:
        super().__init__(subject)
        self.what = f"{subject}: evidence was appended after it was read"
        self.untouched = "the evidence log; nothing was appended"
        self.next_step = "read the subject's entries again, then decide anew"


def export(entries: Iterable[Entry], file: TextIO) -> int:
    """Write one entry a line and return how many; ``verify_lines`` checks the file without a database."""
    written = 0
    for entry in entries:
        file.write(entry.as_line() + "\n")
        written += 1
    return written


def verify_lines(lines: Iterable[str]) -> BrokenEntry | None:
    """Walk an exported log. Lines are counted, so a line that cannot be read is named by its number."""
    number = 0

    def entries() -> Iterator[Entry]:
        nonlocal number
        for number, line in enumerate(lines, 1):
            entry = _entry(json.loads(line))
            # Readers take several spellings of one value, a time's above all; what was exported has one.
            if entry.as_line() != line.rstrip("\n"):
                raise ValueError(number)
            yield entry

    try:
        return _first_broken(entries(), Checkpoint(0, GENESIS))
    except (ValueError, TypeError, KeyError, RecursionError):
        return BrokenEntry(number, "cannot be read as an entry")


class MemoryEvidenceLog:
    """For tests of what writes evidence; it ends with its process."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._entries: list[Entry] = []
        self._lock = threading.Lock()

    def append(self, kind: str, subject: str, actor: str, body: Body, *, read_to: int | None = None) -> Entry:
        text = _admitted(kind, subject, actor, body)
        with self._lock:
            if read_to is not None and any(self.entries(subject=subject, after=read_to)):
                raise StaleSubject(subject)
            entry = _next(self.head(), self._clock.now(), kind, subject, actor, text)
            self._entries.append(entry)
        return entry

    def entries(self, *, kind: str | None = None, subject: str | None = None, after: int = 0) -> Iterator[Entry]:
        for entry in tuple(self._entries):
            if entry.sequence > after and kind in (None, entry.kind) and subject in (None, entry.subject):
                yield entry

    def count(self) -> int:
        return len(self._entries)

    def head(self) -> Checkpoint:
        return _checkpoint(self._entries[-1]) if self._entries else Checkpoint(0, GENESIS)

    def verify(self, since: Checkpoint | None = None) -> BrokenEntry | None:
        return _verified_since(since, self.entries)


class PostgresEvidenceLog:
    """In the operations database, whose triggers refuse every change but an append at the end."""

    def __init__(self, engine: Engine, clock: Clock | None = None) -> None:
        self._engine = engine
        self._clock = clock or SystemClock()

    def append(self, kind: str, subject: str, actor: str, body: Body, *, read_to: int | None = None) -> Entry:
        from sqlalchemy import func, insert, select

        from dr_platform.operations.engine import unavailable_when_down
        from dr_platform.operations.tables import evidence_log

        text = _admitted(kind, subject, actor, body)
        with unavailable_when_down(), self._engine.begin() as connection:
            # Held until the commit. The last entry is read in a statement of its own, after it.
            connection.execute(select(func.pg_advisory_xact_lock(_APPEND_LOCK)))
            if read_to is not None and _has_later(connection, subject, read_to):
                raise StaleSubject(subject)
            entry = _next(_stored_head(connection), self._clock.now(), kind, subject, actor, text)
            connection.execute(
                insert(evidence_log).values({**_content(entry), "at": entry.at, "body": text, "hash": entry.hash})
            )
        return entry

    def entries(self, *, kind: str | None = None, subject: str | None = None, after: int = 0) -> Iterator[Entry]:
        return map(_loaded, self._rows(kind, subject, after))

    def _rows(self, kind: str | None = None, subject: str | None = None, after: int = 0) -> Iterator[Row[Any]]:
        """By pages and not by one cursor, so that a reader that stops half-way holds no connection."""
        from sqlalchemy import select

        from dr_platform.operations.engine import unavailable_when_down
        from dr_platform.operations.tables import evidence_log as log

        query = select(log).order_by(log.c.sequence).limit(_BATCH)
        if kind is not None:
            query = query.where(log.c.kind == kind)
        if subject is not None:
            query = query.where(log.c.subject == subject)
        while True:
            with unavailable_when_down(), self._engine.connect() as connection:
                page = connection.execute(query.where(log.c.sequence > after)).all()
            yield from page
            if len(page) < _BATCH:
                return
            after = page[-1].sequence

    def count(self) -> int:
        from sqlalchemy import func, select

        from dr_platform.operations.engine import unavailable_when_down
        from dr_platform.operations.tables import evidence_log

        with unavailable_when_down(), self._engine.connect() as connection:
            return connection.execute(select(func.count()).select_from(evidence_log)).scalar_one()

    def head(self) -> Checkpoint:
        from dr_platform.operations.engine import unavailable_when_down

        with unavailable_when_down(), self._engine.connect() as connection:
            return _stored_head(connection)

    def verify(self, since: Checkpoint | None = None) -> BrokenEntry | None:
        return _verified_since(since, self._examined)

    def _examined(self, *, after: int = 0) -> Iterator[Entry]:
        """Stored entries; a body that is not the text that was hashed breaks the chain."""
        for row in self._rows(after=after):
            entry = _loaded(row)
            yield entry if _canonical(entry.body) == row.body else replace(entry, hash="")


def _stored_head(connection: Connection) -> Checkpoint:
    from sqlalchemy import select

    from dr_platform.operations.tables import evidence_log as log

    last = connection.execute(select(log.c.sequence, log.c.hash).order_by(log.c.sequence.desc()).limit(1)).first()
    return Checkpoint(last.sequence, last.hash) if last else Checkpoint(0, GENESIS)


def _has_later(connection: Connection, subject: str, read_to: int) -> bool:
    from sqlalchemy import select

    from dr_platform.operations.tables import evidence_log as log

    later = select(log.c.sequence).where((log.c.subject == subject) & (log.c.sequence > read_to)).limit(1)
    return connection.execute(later).first() is not None


def _loaded(row: Row[Any]) -> Entry:
    return _entry({**row._mapping, "at": row.at.isoformat(), "body": json.loads(row.body)})  # noqa: SLF001 - public name


def _entry(fields: Mapping[str, Any]) -> Entry:
    at = datetime.fromisoformat(fields["at"]).astimezone(UTC)
    return Entry(at=at, **{name: value for name, value in fields.items() if name != "at"})


# The chain


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _content(entry: Entry) -> dict[str, object]:
    """What is hashed."""
    fields = {name: value for name, value in vars(entry).items() if name != "hash"}
    return {**fields, "at": entry.at.isoformat(timespec="microseconds")}


def _hash_of(entry: Entry) -> str:
    return hashlib.sha256(_canonical(_content(entry)).encode()).hexdigest()


def _checkpoint(entry: Entry) -> Checkpoint:
    return Checkpoint(entry.sequence, entry.hash)


def _next(head: Checkpoint, at: datetime, kind: str, subject: str, actor: str, body: str) -> Entry:
    # The body is read back from its text, so that the caller's own objects cannot change an entry.
    fields = (head.sequence + 1, at.astimezone(UTC), kind, subject, actor, json.loads(body), head.hash)
    return Entry(*fields, hash=_hash_of(Entry(*fields, hash="")))


def _verified_since(since: Checkpoint | None, entries: Any) -> BrokenEntry | None:
    """``entries(after=n)`` gives the stored ones after ``n``."""
    if since is None or since.sequence == 0:
        return _first_broken(entries(after=0), Checkpoint(0, GENESIS))
    kept = next(iter(entries(after=since.sequence - 1)), None)
    if kept is None or kept.sequence != since.sequence:
        return BrokenEntry(since.sequence, "the checkpoint names it and it is missing")
    if kept.hash != since.hash:
        return BrokenEntry(since.sequence, "it is not the entry that the checkpoint names")
    return _first_broken(entries(after=since.sequence - 1), Checkpoint(since.sequence - 1, kept.previous))


def _first_broken(entries: Iterable[Entry], start: Checkpoint) -> BrokenEntry | None:
    before = start
    for entry in entries:
        if entry.sequence != before.sequence + 1:
            return BrokenEntry(before.sequence + 1, "it is missing")
        if entry.previous != before.hash:
            return BrokenEntry(entry.sequence, "it does not continue the entry before it")
        if entry.hash != _hash_of(entry):
            return BrokenEntry(entry.sequence, "its content is not what was hashed")
        before = _checkpoint(entry)
    return None


# What may not enter


def _admitted(kind: str, subject: str, actor: str, body: Body) -> str:
    """The body as canonical JSON. Raises ``RefusedEvidence`` with every fault at once."""
    faults = [*_label_faults(kind, subject, actor)]
    try:
        text = _canonical(body)
    except (TypeError, ValueError, RecursionError):
        raise RefusedEvidence(kind, (*faults, "body: not JSON")) from None
    if not isinstance(body, Mapping) or len(text) > MAX_BODY_BYTES:
        raise RefusedEvidence(kind, (*faults, f"body: must be an object of at most {MAX_BODY_BYTES} bytes"))
    faults += _value_faults("subject", subject)
    faults += _faults_in("body", json.loads(text), 0)
    if faults:
        raise RefusedEvidence(kind, tuple(faults))
    return text


def _label_faults(kind: str, subject: str, actor: str) -> Iterator[str]:
    if len(kind) > _MAX_LABEL or not _KIND.fullmatch(kind):
        yield "kind: must be lower-case words joined by . _ or -"
    for name, label in (("subject", subject), ("actor", actor)):
        if not label.strip() or len(label) > _MAX_LABEL or not label.isprintable():
            yield f"{name}: must be 1 to {_MAX_LABEL} printable characters"


def _faults_in(path: str, value: Any, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        yield f"{path}: nested deeper than {MAX_DEPTH}"
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _field_faults(path, key, inner, depth)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _faults_in(f"{path}[{index}]", inner, depth + 1)
    elif isinstance(value, str):
        yield from _value_faults(path, value)


def _field_faults(path: str, key: str, inner: Any, depth: int) -> Iterator[str]:
    if in_key := [*_value_faults(f"{path}: a key", key)]:
        yield from in_key
    elif _names_a_secret(key) and not isinstance(inner, bool | None):
        yield f"{path}.{key[:80]}: named like a secret"
    else:
        # A number is examined as the text "key value", in which the key is its cue word.
        spelled = f"{key.replace('_', ' ')} {inner}" if _identifier_like(inner) else inner
        yield from _faults_in(f"{path}.{key[:80]}", spelled, depth + 1)


def _identifier_like(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and len(str(value)) <= 40


def _value_faults(path: str, text: str) -> Iterator[str]:
    if any(pattern.search(text) for pattern in _SECRET_VALUES):
        yield f"{path}: looks like a secret"
    found = {s.kind for s in PhiDetector().detect(text) if s.kind in IDENTIFYING and s.confidence >= _SURE_ENOUGH}
    for kind in sorted(found):
        yield f"{path}: looks like PHI ({kind})"


_SECRET_VALUES = (
    re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----"),
    re.compile(r"://[^\s/:@]{0,100}:[^\s/@]{1,200}@"),  # a password in an address
    re.compile(r"(?i)\bbearer\s{1,5}[a-z0-9._~+/-]{16}"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,2000}\.eyJ[A-Za-z0-9_-]{8}"),  # JSON web token
    re.compile(r"\b(?:hvs|hvb|hvr|ghp|gho|ghs|glpat|xox[abp]|AKIA|sk)[._-]?[A-Za-z0-9_-]{16}"),
    re.compile(r"(?i)\b(?:password|passwd|pwd|secret|token|api[_-]?key)\s{0,3}[=:]\s{0,3}\S{4}"),
)
_SECRET_NAMES = frozenset(
    {"password", "passwd", "pwd", "passphrase", "passcode", "secret", "secrets", "token", "tokens", "credential",
     "credentials", "authorization", "cookie", "cookies", "dsn", "pin", "otp", "apikey", "privatekey", "secretkey"}
)  # fmt: skip
_SECRET_PAIRS = frozenset(
    (first, "key")
    for first in ("api", "private", "secret", "access", "encryption", "master", "signing", "session", "unseal")
) | {("connection", "string"), ("private", "pem")}
_WORDS = re.compile(r"[A-Z]?[a-z]{1,60}|[A-Z]{1,60}(?![a-z])|[0-9]{1,60}")


def _names_a_secret(key: str) -> bool:
    """By its last words: ``db_password`` and ``apiKey`` are, ``password_rotated`` and ``token_count``
    are not."""
    words = [word.lower() for word in _WORDS.findall(key)]
    return bool(words) and (words[-1] in _SECRET_NAMES or tuple(words[-2:]) in _SECRET_PAIRS)
