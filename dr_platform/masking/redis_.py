"""Masking Redis: key by key into a logical database of its own. Most kinds of keys are dropped, because what they hold
is computed again.

Here: the engine's part of ``EngineMasking``. Not here: what a value becomes (``rows``).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import redis

from dr_platform.databases.access import CONNECT_TIMEOUT_S, QUERY_TIMEOUT_S, certificate_authorities, is_loopback
from dr_platform.databases.redis_ import RedisDatabase, free_numbers, number_of
from dr_platform.databases.schema import migrate
from dr_platform.masking.canaries import Canaries
from dr_platform.masking.classification import Holds, Table
from dr_platform.masking.engine import Engine
from dr_platform.masking.imitation import imitated
from dr_platform.masking.people import Roster
from dr_platform.masking.port import Access, Gate, Masked, Run, SameDatabase, TargetExists
from dr_platform.masking.rows import RowMasker
from dr_platform.masking.seals import place_of
from dr_platform.reference_service.cipher import Undecryptable

_SCAN = 500
_SHOWN = re.compile(r"[a-z][a-z-]{0,19}")
_VALUE = "value"
_ELEMENT = "value[]"


def open_client(access: Access) -> redis.Redis:
    """A client that answers bytes."""
    encryption: dict[str, Any] = {}
    if not is_loopback(access.endpoint.host):
        encryption = {"ssl": True, "ssl_cert_reqs": "required", "ssl_ca_certs": certificate_authorities()}
    return redis.Redis(
        host=access.endpoint.host,
        port=access.endpoint.port,
        db=number_of(access.endpoint),
        username=access.login.username,
        password=access.login.password,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_timeout=QUERY_TIMEOUT_S,
        client_name="drp-mask",
        **encryption,
    )


class KeyPattern:
    """``presence:<account>`` as an expression, and back to a key."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.names = tuple(re.findall(r"<(\w+)>", pattern))
        parts = re.split(r"(<\w+>|\*)", pattern)
        self.literal = sum(len(part) for part in parts if not part.startswith("<") and part != "*")
        self._expression = re.compile("".join(_part(part) for part in parts))

    def match(self, key: str) -> dict[str, str] | None:
        found = self._expression.fullmatch(key)
        return found.groupdict() if found else None

    def key(self, names: Mapping[str, Any]) -> str:
        return re.sub(r"<(\w+)>", lambda m: str(names[m[1]]), self.pattern)


def _part(part: str) -> str:
    if part == "*":
        return ".*"
    return f"(?P<{part[1:-1]}>[^:]+)" if part.startswith("<") else re.escape(part)


class RedisMasking(Engine):
    def _open(self) -> None:
        # The driver's types allow for text, which clients that do not decode never answer.
        self._source: Any = open_client(self._source_access)
        self._target: Any = open_client(self._target_access)
        self._made = False
        if free := free_numbers(self._target):
            self._target.close()
            endpoint = replace(self._target_access.endpoint, database=str(free[-1]))
            self._target_access = replace(self._target_access, endpoint=endpoint)
            self._target = open_client(self._target_access)

    @cached_property
    def _patterns(self) -> tuple[KeyPattern, ...]:
        """The most literal first: ``cache:canary:*`` before ``cache:<area>:<hash>``."""
        return tuple(sorted((KeyPattern(p) for p in self._known.tables), key=lambda p: -p.literal))

    def _of(self, key: str) -> tuple[KeyPattern, dict[str, str]] | None:
        return next(((p, names) for p in self._patterns if (names := p.match(key)) is not None), None)

    def _keys(self, client: Any) -> Iterator[bytes]:
        yield from client.scan_iter(count=_SCAN)

    def schema(self) -> Mapping[str, tuple[str, ...]]:
        found: dict[str, set[str]] = {}
        for raw in self._keys(self._source):
            matched = self._of(raw.decode(errors="replace"))
            if matched is None:
                found.setdefault(_shown(raw), set())
                continue
            pattern, names = matched
            if self._known.tables[pattern.pattern].is_masked:
                found.setdefault(pattern.pattern, set()).update(names, self._value_columns(raw))
        return {name: tuple(sorted(columns)) for name, columns in found.items()}

    def _value_columns(self, key: bytes) -> set[str]:
        if self._source.type(key) == b"hash":
            return {f"{_VALUE}.{field.decode(errors='replace')}" for field in self._source.hkeys(key)}
        return {_ELEMENT} if self._source.type(key) in (b"list", b"set") else {_VALUE}

    def refuse_problems(self) -> None:
        if _run_id(self._source) == _run_id(self._target):
            raise SameDatabase(self.name)
        self._require_empty()

    def _require_empty(self) -> None:
        if self._target.dbsize():
            where = f"{self._target_access.endpoint.address}, database {self.into}"
            raise TargetExists(self.name, where, "empty one of the server's logical databases, then run again")

    def plant(self, canaries: Canaries) -> int:
        planted, cipher, seen = 0, self._opened.cipher(), set()
        for raw in list(self._keys(self._source)):
            matched = self._of(raw.decode(errors="replace"))
            if matched is None or matched[0].pattern in seen:
                continue
            pattern, names = matched
            table = self._known.tables[pattern.pattern]
            if table.is_masked and table.person:
                seen.add(pattern.pattern)
                row = {**names, **self._read(raw, table)}
                for number, canary in enumerate(canaries.people):
                    made = imitated(table, row, canary, number, cipher)
                    self._write(self._source, pattern.key(made), self._source.type(raw), made, -1)
                    planted += 1
        return planted

    def fill(self, roster: Roster) -> None:
        """A cache links nothing to anybody."""

    def make_target(self) -> None:
        self._require_empty()
        self._made = True
        access = self._target_access
        with contextlib.closing(RedisDatabase(access.database, access.endpoint, access.login)) as database:
            migrate(database, self._steps)

    def mask(self, run: Run) -> tuple[Masked, ...]:
        with contextlib.closing(Roster(run.roster)) as roster:
            maskers = {
                name: RowMasker(table, run.recipe, roster, self._opened, self._sealing)
                for name, table in self._known.tables.items()
                if table.is_masked
            }
            rows = dict.fromkeys(maskers, 0)
            for raw in self._keys(self._source):
                pattern, names = self._of(raw.decode(errors="replace")) or (None, {})
                if pattern is not None and pattern.pattern in maskers:
                    self._mask_one(raw, pattern, names, maskers[pattern.pattern])
                    rows[pattern.pattern] += 1
        return tuple(
            Masked(name, n, n, maskers[name].unopened.total(), maskers[name].unowned.total())
            for name, n in rows.items()
        )

    def _mask_one(self, raw: bytes, pattern: KeyPattern, names: dict[str, str], masker: RowMasker) -> None:
        (masked,) = masker.mask([{**names, **self._read(raw, masker.table)}])
        self._write(self._target, pattern.key(masked), self._source.type(raw), masked, int(self._source.pttl(raw)))

    def _read(self, key: bytes, table: Table) -> dict[str, Any]:
        """A key's value as columns. What is sealed stays bytes; moments become dates."""
        match self._source.type(key):
            case b"hash":
                found = {f"{_VALUE}.{f.decode()}": v for f, v in self._source.hgetall(key).items()}
                return {name: _typed(table, name, value) for name, value in found.items()}
            case b"list":
                return {_VALUE: [_typed(table, _ELEMENT, one) for one in self._source.lrange(key, 0, -1)]}
            case b"set":
                return {_VALUE: [_typed(table, _ELEMENT, one) for one in self._source.smembers(key)]}
        value = self._source.get(key)
        return {_VALUE: None if value is None else _typed(table, _VALUE, value)}

    def _write(self, client: Any, key: str, kind: bytes, row: Mapping[str, Any], ttl_ms: int) -> None:
        if kind == b"hash":
            fields = {n.removeprefix(f"{_VALUE}."): v for n, v in row.items() if n.startswith(f"{_VALUE}.")}
            client.hset(key, mapping={n: _stored(v) for n, v in fields.items() if v is not None})
        elif kind in (b"list", b"set"):
            values = [_stored(one) for one in row[_VALUE]]
            client.rpush(key, *values) if kind == b"list" else client.sadd(key, *values)
        elif row.get(_VALUE) is not None:
            client.set(key, _stored(row[_VALUE]))
        if ttl_ms > 0:
            client.pexpire(key, ttl_ms)

    def stored_texts(self) -> Iterator[tuple[str, bytes]]:
        cipher = self._sealing.cipher()
        for raw in self._keys(self._target):
            pattern, names = self._of(raw.decode(errors="replace")) or (None, {})
            place = pattern.pattern if pattern else _shown(raw)
            yield f"{place} (key)", raw
            row: dict[str, Any] = dict(names)
            for name, value in self._raw_values(raw):
                row[name] = value
                yield f"{place} {name}", value
                column = self._known.tables[place].columns.get(name) if pattern else None
                if column is not None and column.sealed is not None:
                    with contextlib.suppress(Undecryptable):  # staging cannot read it either
                        yield f"{place} {name}", cipher.decrypt(value, place_of(column.sealed, row)).encode()

    def _raw_values(self, key: bytes) -> Iterator[tuple[str, bytes]]:
        match self._target.type(key):
            case b"hash":
                for name, value in self._target.hgetall(key).items():
                    yield f"{_VALUE}.{name.decode(errors='replace')}", value
            case b"list":
                yield from ((_VALUE, value) for value in self._target.lrange(key, 0, -1))
            case b"set":
                yield from ((_VALUE, value) for value in self._target.smembers(key))
            case b"zset":
                yield from ((_VALUE, value) for value in self._target.zrange(key, 0, -1))
            case b"string":
                yield _VALUE, self._target.get(key) or b""

    def gates(self, masked: tuple[Masked, ...]) -> tuple[Gate, ...]:
        there: dict[str, int] = {}
        stayed = 0
        for raw in self._keys(self._target):
            matched = self._of(raw.decode(errors="replace"))
            pattern = matched[0].pattern if matched else _shown(raw)
            there[pattern] = there.get(pattern, 0) + 1
            table = self._known.tables.get(pattern)
            if table is not None and table.is_masked and any(c.holds is Holds.KEY for c in _named(table)):
                stayed += int(self._source.exists(raw))
        differing = [one.name for one in masked if there.get(one.name, 0) != one.rows]
        total = sum(one.rows for one in masked)
        return (
            Gate(f"{self.name}: key counts", not differing, ", ".join(differing) or "as before", {"keys": total}),
            Gate(
                f"{self.name}: no key stays",
                not stayed,
                f"{stayed} keys of the source are in staging",
                {"hits": stayed},
            ),
        )

    def discard(self) -> None:
        if self._made:  # it was empty before
            self._target.flushdb()
            self._made = False

    def close(self) -> None:
        self._source.close()
        self._target.close()


def _named(table: Table) -> Iterator[Any]:
    return (column for name, column in table.columns.items() if not name.startswith(_VALUE))


def _shown(key: bytes) -> str:
    """The first segment of a key that nobody classified; the rest may identify somebody."""
    first = key.decode(errors="replace").partition(":")[0]
    return f"{first}:…" if _SHOWN.fullmatch(first) else "(key)"


def _run_id(client: Any) -> str:
    return str(client.info("server")["run_id"])


def _typed(table: Table, name: str, value: bytes) -> Any:
    column = table.columns.get(name)
    if column is not None and column.sealed is not None:
        return value
    text = value.decode(errors="replace")
    if column is not None and column.holds in (Holds.DATE, Holds.BIRTH_DATE):
        return _moment(text)
    return text


def _moment(text: str) -> datetime | None:
    """Seconds since 1970, or ISO 8601; what is neither is removed."""
    try:
        return datetime.fromtimestamp(float(text), UTC)
    except (ValueError, OverflowError, OSError):
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(text)
    return None


def _stored(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
