"""Who a row belongs to, and what is known of that person: a file for the time of one run.

Here: the roster. It is filled from the table of people and from tables that link keys to people, and
asked in batches by every engine. Memory does not grow with the number of people; what identifies them
lies in the file under a key that exists in memory only. Not here: what the knowledge is used for.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import sqlite3
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dr_platform.masking.classification import Holds
from dr_platform.masking.text import NOBODY, Crowd, Known, Person
from dr_platform.masking.values import canonical

_REMEMBERED = 20_000
_WAIT_S = 600.0
"""For another process that links derived keys: seconds for a million people."""
_LENGTH = 4
"""Bytes before each person in the file of what is known."""
_READ = 1_024
"""Bytes that most people need no more than."""
_NAMES = uuid.NAMESPACE_URL.bytes
_ASKED_AT_ONCE = 500
"""SQLite takes a bounded number of parameters."""


def derived_key(kind: str, key: str) -> uuid.UUID:
    """The name-based UUID under which services store a key in the chat history."""
    return uuid.UUID(_derived(kind, key))


def _derived(kind: str, key: str) -> str:
    """By hand: making a UUID and writing it costs four times as much as the hash (RFC 9562, version 5)."""
    name = f"dr-platform/{kind}/{key}".encode()
    raw = bytearray(hashlib.sha1(_NAMES + name, usedforsecurity=False).digest()[:16])
    raw[6] = raw[6] & 0x0F | 0x50
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@dataclass(frozen=True)
class RosterFile:
    """What a process needs to open the roster."""

    path: Path
    key: bytes = field(repr=False)
    most_places: int = 200_000
    """Of more people than this a process does not hold in memory where what is known of them stands: of so many
    it takes 31 MB."""

    @classmethod
    def new(cls, folder: Path) -> RosterFile:
        return cls(folder / "people", os.urandom(32))


class Roster:
    """People by key, by the UUID derived from it, and by what is linked to them."""

    def __init__(self, file: RosterFile) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self.file = file
        self._cipher = AESGCM(file.key)
        self._connection = sqlite3.connect(file.path, timeout=_WAIT_S, isolation_level=None)
        for statement in (
            "PRAGMA journal_mode = OFF",  # a run that stopped begins anew, with another file
            "PRAGMA synchronous = OFF",
            "PRAGMA cache_size = -32768",  # kibibytes; with the default every second insert reads a page again
            "PRAGMA mmap_size = 1073741824",
            "CREATE TABLE IF NOT EXISTS people (key TEXT PRIMARY KEY, place INTEGER) WITHOUT ROWID",
            "CREATE TABLE IF NOT EXISTS crowd (telling BLOB)",
            "CREATE TABLE IF NOT EXISTS links (kind TEXT, name TEXT, key TEXT, PRIMARY KEY (kind, name)) WITHOUT ROWID",
        ):
            self._connection.execute(statement)
        self._is_derived = False
        self._recent: dict[str, dict[str, Person]] = {}
        self._met = Crowd()
        self._known_file = os.open(file.path.with_suffix(".known"), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._places: dict[str, int] | None = None
        """Where what is known of people is kept, by their keys."""
        self._version: int | None = None

    def add(self, people: Iterable[tuple[str, Sequence[tuple[Holds, str]]]]) -> None:
        """People with what identifies them, plain."""
        known = {canonical(key): Known.of(identifiers) for key, identifiers in people}
        new = self._met.add(known.values())
        self._connection.execute("BEGIN IMMEDIATE")
        # In order of the keys, so that neighbours go into one page.
        rows = sorted(zip(known, self._kept(list(known.values())), strict=True))
        self._connection.executemany("INSERT OR REPLACE INTO people VALUES (?, ?)", rows)
        if new:
            self._connection.execute("INSERT INTO crowd VALUES (?)", (self._encrypted(marshal.dumps(new)),))
        self._connection.execute("PRAGMA user_version = 0")
        self._connection.execute("COMMIT")
        self._is_derived, self._places = False, None
        self._recent.clear()

    @property
    def crowd(self) -> Crowd:
        """Everybody, whichever process told of them."""
        self._learn()
        return self._met

    def _learn(self) -> None:
        """What other processes told since the last time."""
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version == self._version:
            return
        self._version, self._places = version, None
        self._recent.clear()
        for (sealed,) in self._connection.execute("SELECT telling FROM crowd"):
            self._met.take(marshal.loads(self._decrypted(sealed)))  # noqa: S302 - this run's own

    def _derive(self) -> None:
        """Link the UUIDs that are derived from keys: when the first of them is asked for, because most runs
        meet none, and in one of the processes, which the others wait for."""
        if self._is_derived:
            return
        self._connection.execute("BEGIN IMMEDIATE")
        if self._connection.execute("PRAGMA user_version").fetchone() == (0,):
            keys = self._connection.execute("SELECT key FROM people")
            derived = ((_derived("account", key), key) for (key,) in keys)
            self._connection.executemany("INSERT OR REPLACE INTO links VALUES ('account', ?, ?)", derived)
            self._connection.execute("PRAGMA user_version = 1")
        self._connection.execute("COMMIT")
        self._is_derived = True

    def link(self, kind: str, pairs: Iterable[tuple[str, str]]) -> None:
        """Keys of other things with the key of the person they belong to."""
        self._connection.execute("BEGIN IMMEDIATE")
        rows = ((kind, canonical(name), canonical(key)) for name, key in pairs)
        self._connection.executemany("INSERT OR IGNORE INTO links VALUES (?, ?, ?)", rows)
        self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()
        os.close(self._known_file)

    def people(self, kind: str, names: Iterable[object]) -> Mapping[str, Person]:
        """By canonical name. Whom nobody knows is a person of their own, under that very name."""
        wanted = [name for name in names if name is not None]
        return dict(zip(map(canonical, wanted), self.owners(kind, wanted), strict=True))

    def owners(self, kind: str, names: Sequence[object]) -> list[Person]:
        """The same, in order of the names, and nobody for ``None``."""
        self._learn()
        wanted = [None if name is None else canonical(name) for name in names]
        recent = self._recent.setdefault(kind, {})
        missing = {name for name in wanted if name is not None and name not in recent}
        if len(recent) + len(missing) > _REMEMBERED:
            recent.clear()
            missing = {name for name in wanted if name is not None}
        recent |= self._looked_up(kind, sorted(missing))
        return [recent.get(name, NOBODY) for name in wanted]

    def _looked_up(self, kind: str, names: Sequence[str]) -> dict[str, Person]:
        found: dict[str, Person] = {}
        for start in range(0, len(names), _ASKED_AT_ONCE):
            part = names[start : start + _ASKED_AT_ONCE]
            known = {} if kind else self._known(part)
            found |= known
            if others := [name for name in part if name not in known]:
                keys = self._keys(kind, others)
                known = self._known(sorted(set(keys.values())))
                found |= {name: known.get(key) or Person(key) for name, key in keys.items()}
        return found

    def _keys(self, kind: str, names: Sequence[str]) -> dict[str, str]:
        """A key as it is, else the person it is linked to, also in two steps."""
        linked = self._linked(kind or "account", names)
        if kind:
            people = self._linked("account", sorted(set(linked.values())))
            linked = {name: people.get(key, key) for name, key in linked.items()}
        return {name: linked.get(name, name) for name in names}

    def _linked(self, kind: str, names: Sequence[str]) -> dict[str, str]:
        if kind == "account":
            self._derive()
        marks = ",".join("?" * len(names))
        query = f"SELECT name, key FROM links WHERE kind = ? AND name IN ({marks})"  # noqa: S608 - question marks
        return dict(self._connection.execute(query, (kind, *names)))

    def _known(self, keys: Sequence[str]) -> dict[str, Person]:
        if self._places is None:
            self._places = self._all_places()
        if not self._places:
            marks = ",".join("?" * len(keys))
            query = f"SELECT key, place FROM people WHERE place > 0 AND key IN ({marks})"  # noqa: S608 - question marks
            return {key: Person(key, place, self._opened) for key, place in self._connection.execute(query, keys)}
        places, opened = self._places, self._opened
        return {key: Person(key, place, opened) for key in keys if (place := places.get(key))}

    def _all_places(self) -> dict[str, int]:
        """Empty where there are too many for the memory of a process."""
        (people,) = self._connection.execute("SELECT count(*) FROM people").fetchone()
        if people > self.file.most_places:
            return {}
        return dict(self._connection.execute("SELECT key, place FROM people WHERE place > 0"))

    def _kept(self, known: Sequence[Known]) -> list[int]:
        """Where each is kept from now on, counted from one; zero where nothing is known."""
        end, places, written = os.lseek(self._known_file, 0, os.SEEK_END) + 1, [], []
        for one in known:
            if not (one.words or one.codes):
                places.append(0)
                continue
            sealed = self._encrypted(marshal.dumps(tuple(one)))
            written += (len(sealed).to_bytes(_LENGTH), sealed)
            places.append(end)
            end += _LENGTH + len(sealed)
        waiting = memoryview(b"".join(written))
        while waiting:
            waiting = waiting[os.write(self._known_file, waiting) :]
        return places

    def _opened(self, place: int) -> Known:
        found = os.pread(self._known_file, _READ, place - 1)
        end = _LENGTH + int.from_bytes(found[:_LENGTH])
        if end > len(found):
            found = os.pread(self._known_file, end, place - 1)
        return Known(*marshal.loads(self._decrypted(found[_LENGTH:end])))  # noqa: S302 - this run's own

    def _encrypted(self, plain: bytes) -> bytes:
        nonce = os.urandom(12)
        return nonce + self._cipher.encrypt(nonce, plain, None)

    def _decrypted(self, sealed: bytes) -> bytes:
        return self._cipher.decrypt(sealed[:12], sealed[12:], None)
