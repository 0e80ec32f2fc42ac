"""What the local runtime must not forget, in one SQLite file.

Here: declared services, slots, routes, suspensions, records, leases and ports, each change durable before it
returns. Not here: what Envoy and supervisord make of it (``router``, ``supervisor``).
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

from dr_platform.catalog import Service
from dr_platform.clock import Clock
from dr_platform.runtime.notice import Notice
from dr_platform.runtime.port import (
    CLOSED,
    Lease,
    RecordVersion,
    Revision,
    RuntimeUnreachable,
    Slot,
    SlotInUse,
    StaleEpoch,
    StaleRecord,
    StoredRecord,
    UnknownService,
    Weights,
    Workload,
)

PORTS_A_BLOCK = 10
"""A slot's ports lie side by side, so that an address can be read; more replicas get a second block."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS services (name TEXT PRIMARY KEY, definition TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS routes (
  name TEXT PRIMARY KEY, blue INTEGER NOT NULL, green INTEGER NOT NULL, epoch INTEGER NOT NULL,
  sequence INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS slots (
  name TEXT NOT NULL, slot TEXT NOT NULL, version TEXT NOT NULL, digest TEXT NOT NULL, config_hash TEXT NOT NULL,
  settings TEXT NOT NULL, ports TEXT NOT NULL, draining TEXT NOT NULL, applied_at TEXT NOT NULL,
  PRIMARY KEY (name, slot));
CREATE TABLE IF NOT EXISTS ports (port INTEGER PRIMARY KEY, name TEXT NOT NULL, slot TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS records (name TEXT PRIMARY KEY, body TEXT NOT NULL, version TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS leases (
  name TEXT PRIMARY KEY, holder TEXT NOT NULL, transitions INTEGER NOT NULL, expires_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS suspensions (
  name TEXT PRIMARY KEY, title TEXT NOT NULL, text TEXT NOT NULL, retry_after_s INTEGER NOT NULL);
"""


BusyAmong = Callable[[Collection[int]], Collection[int]]
"""Which of these ports somebody listens on."""


@dataclass(frozen=True)
class PortRange:
    """Where replicas listen: ``[first, first + size)``; the last one is the router's admin port."""

    first: int
    size: int

    @property
    def admin(self) -> int:
        return self.first + self.size - 1

    @property
    def blocks(self) -> Iterator[range]:
        for start in range(self.first, self.first + self.size - PORTS_A_BLOCK, PORTS_A_BLOCK):
            yield range(start, start + PORTS_A_BLOCK)


def ports_for(port_offset: int) -> PortRange:
    """2,000 ports for each environment, from 20000: above the documented ones, below the ones the
    kernel hands out for outgoing connections (32768)."""
    return PortRange(20000 + 2 * port_offset, 2000)


@dataclass(frozen=True)
class Route:
    """``sequence`` rises with every change of the route, so that versions can be told apart."""

    weights: Weights = CLOSED
    epoch: int = 0
    sequence: int = 0


@dataclass(frozen=True)
class FilledSlot:
    """What a slot was told to run, and on which port each replica listens."""

    revision: Revision
    settings: Mapping[str, str]
    ports: tuple[int, ...]
    applied_at: datetime
    draining: tuple[int, ...] = ()
    """Ports that get no new requests for the moment."""

    @property
    def serving(self) -> tuple[int, ...]:
        return tuple(port for port in self.ports if port not in self.draining)

    def workload(self, service: Service) -> Workload:
        return Workload(service, self.revision, len(self.ports), self.settings)


@dataclass(frozen=True)
class Declared:
    """All that is known of one service at one moment."""

    service: Service
    route: Route
    slots: Mapping[Slot, FilledSlot]
    notice: Notice | None = None
    """Told instead of an answer while the service is suspended."""


class LocalRecords:
    """Each method is one transaction; a reader sees all of a change or nothing."""

    def __init__(self, path: Path, clock: Clock, ports: PortRange) -> None:
        self._path = path
        self._clock = clock
        self._ports = ports

    @cached_property
    def _ready(self) -> Path:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with _failures(), _opened(self._path) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(_SCHEMA)
        self._path.chmod(0o600)
        return self._path

    @contextmanager
    def _transaction(self, kind: str) -> Generator[sqlite3.Connection]:
        with _failures(), _opened(self._ready) as db:
            db.execute(f"BEGIN {kind}")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def declare(self, service: Service) -> None:
        with self._transaction("IMMEDIATE") as db:
            db.execute(
                "INSERT INTO services VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET definition = excluded.definition",
                (service.name, service.model_dump_json()),
            )
            db.execute("INSERT OR IGNORE INTO routes VALUES (?, 0, 0, 0, 0)", (service.name,))

    def undeclare(self, name: str) -> None:
        with self._transaction("IMMEDIATE") as db:
            for table in ("services", "routes", "slots", "ports", "records", "suspensions"):
                db.execute(f"DELETE FROM {table} WHERE name = ?", (name,))  # noqa: S608 (names of our own tables)

    def all(self) -> dict[str, Declared]:
        """Everything declared, by name, as of one moment."""
        with self._transaction("DEFERRED") as db:
            services = db.execute("SELECT name, definition FROM services ORDER BY name").fetchall()
            routes = {row[0]: _route(row[1:]) for row in db.execute(f"SELECT name, {_ROUTE} FROM routes")}  # noqa: S608
            slots: dict[str, dict[Slot, FilledSlot]] = {}
            for name, slot, *row in db.execute(f"SELECT name, slot, {_SLOT} FROM slots"):  # noqa: S608
                slots.setdefault(name, {})[Slot(slot)] = _slot(row)
            notices = _read_notices(db)
        return {
            name: Declared(
                Service.model_validate_json(definition),
                routes.get(name, Route()),
                slots.get(name, {}),
                notices.get(name),
            )
            for name, definition in services
        }

    def one(self, name: str) -> Declared:
        with self._transaction("DEFERRED") as db:
            service = _declared(db, name)
            slots = db.execute(f"SELECT slot, {_SLOT} FROM slots WHERE name = ?", (name,)).fetchall()  # noqa: S608
            filled = {Slot(slot): _slot(row) for slot, *row in slots}
            return Declared(service, _read_route(db, name), filled, _read_notices(db).get(name))

    def names(self) -> frozenset[str]:
        with self._transaction("DEFERRED") as db:
            return frozenset(name for (name,) in db.execute("SELECT name FROM services"))

    def route(self, name: str, weights: Weights, epoch: int) -> Route:
        """Store new weights and return what they replace. Refused with ``StaleEpoch``."""
        with self._transaction("IMMEDIATE") as db:
            _declared(db, name)
            before = _read_route(db, name)
            if epoch < before.epoch:
                raise StaleEpoch(name, epoch, before.epoch)
            _write_route(db, name, Route(weights, epoch, before.sequence + 1))
            return before

    def take_back(self, name: str, told: Route, weights: Weights) -> None:
        """Put ``weights`` in again, if ``told`` is still what is stored. The epoch stays."""
        with self._transaction("IMMEDIATE") as db:
            current = _read_route(db, name)
            if current == told:
                _write_route(db, name, replace(current, weights=weights, sequence=current.sequence + 1))

    def notices(self) -> dict[str, Notice]:
        """Of all services that are suspended."""
        with self._transaction("DEFERRED") as db:
            return _read_notices(db)

    def tell(self, name: str, notice: Notice | None) -> Notice | None:
        """Store what is told instead of an answer, or nothing, and return what that replaces. The
        route's sequence stays: it counts changes of weights, which go on beside a suspension."""
        with self._transaction("IMMEDIATE") as db:
            _declared(db, name)
            before = _read_notices(db).get(name)
            _write_notice(db, name, notice)
            return before

    def untell(self, name: str, told: Notice | None, before: Notice | None) -> None:
        """Put ``before`` in again, if ``told`` is still what is stored."""
        with self._transaction("IMMEDIATE") as db:
            if _read_notices(db).get(name) == told:
                _write_notice(db, name, before)

    def fence(self, name: str, epoch: int) -> None:
        """Store an epoch that no lower one may follow. Refused with ``StaleEpoch``."""
        with self._transaction("IMMEDIATE") as db:
            _declared(db, name)
            _fence(db, name, epoch)

    def fill(self, name: str, slot: Slot, filled: FilledSlot, epoch: int | None = None) -> None:
        """Say what the slot runs. Refused (``SlotInUse``) where that would change a revision under
        traffic, and with ``StaleEpoch``; checked in the same transaction, so that no change of
        another can slip between."""
        with self._transaction("IMMEDIATE") as db:
            _declared(db, name)
            _fence(db, name, epoch)
            row = db.execute(f"SELECT {_SLOT} FROM slots WHERE name = ? AND slot = ?", (name, slot)).fetchone()  # noqa: S608
            weight = _read_route(db, name).weights.of(slot)
            if row and weight > 0 and _slot(row).revision != filled.revision:
                raise SlotInUse(name, slot, f"it carries {weight} % of the traffic")
            db.execute("INSERT OR REPLACE INTO slots VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (name, slot, *_row(filled)))

    def empty(self, name: str, slot: Slot, epoch: int | None = None) -> None:
        """Forget what the slot runs. Refused (``SlotInUse``) while it has weight, and with ``StaleEpoch``."""
        with self._transaction("IMMEDIATE") as db:
            _declared(db, name)
            _fence(db, name, epoch)
            if weight := _read_route(db, name).weights.of(slot):
                raise SlotInUse(name, slot, f"it carries {weight} % of the traffic")
            db.execute("DELETE FROM slots WHERE name = ? AND slot = ?", (name, slot))

    def ports(self, name: str, slot: Slot, count: int, busy: BusyAmong) -> tuple[int, ...]:
        """At least ``count`` ports of this slot, always the same ones, lowest first.

        Missing ones are taken block by block; ports that are ``busy`` at that moment are left out.
        """
        with self._transaction("IMMEDIATE") as db:
            _declared(db, name)
            query = "SELECT port FROM ports WHERE name = ? AND slot = ? ORDER BY port"
            held = [port for (port,) in db.execute(query, (name, slot))]
            taken = {port for (port,) in db.execute("SELECT port FROM ports")}
            free = (block for block in self._ports.blocks if taken.isdisjoint(block))
            while len(held) < count:
                block = next(free, None)
                if block is None:
                    raise RuntimeUnreachable("local", f"ports {self._ports.first} and up are all taken")
                usable = sorted(set(block) - set(busy(block)))
                db.executemany("INSERT INTO ports VALUES (?, ?, ?)", [(port, name, slot) for port in usable])
                held += usable
        return tuple(held)

    def read_record(self, name: str) -> StoredRecord | None:
        with self._transaction("DEFERRED") as db:
            _declared(db, name)
            row = db.execute("SELECT body, version FROM records WHERE name = ?", (name,)).fetchone()
        return StoredRecord(row[0], RecordVersion(row[1])) if row else None

    def write_record(self, name: str, body: str, expected: RecordVersion | None) -> RecordVersion:
        with self._transaction("IMMEDIATE") as db:
            _declared(db, name)
            row = db.execute("SELECT version FROM records WHERE name = ?", (name,)).fetchone()
            if (row[0] if row else None) != expected:
                raise StaleRecord(name)
            # Random, because a counter would start again for a service that is declared anew.
            version = RecordVersion(secrets.token_hex(8))
            db.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", (name, body, version))
        return version

    def acquire_lease(self, name: str, holder: str, ttl: timedelta) -> Lease | None:
        with self._transaction("IMMEDIATE") as db:
            now = self._clock.now()
            row = db.execute("SELECT holder, transitions, expires_at FROM leases WHERE name = ?", (name,)).fetchone()
            before, transitions, expires = row or ("", 0, now.isoformat())
            if before not in ("", holder) and datetime.fromisoformat(expires) > now:
                return None
            lease = Lease(name, holder, transitions + (before != holder), now + ttl)
            values = (name, holder, lease.transitions, lease.expires_at.isoformat())
            db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?)", values)
        return lease

    def read_lease(self, name: str) -> Lease | None:
        with self._transaction("DEFERRED") as db:
            row = db.execute("SELECT holder, transitions, expires_at FROM leases WHERE name = ?", (name,)).fetchone()
        return Lease(name, row[0], row[1], datetime.fromisoformat(row[2])) if row else None

    def release_lease(self, lease: Lease) -> None:
        with self._transaction("IMMEDIATE") as db:
            db.execute(
                "UPDATE leases SET holder = '' WHERE name = ? AND holder = ? AND transitions = ?",
                (lease.name, lease.holder, lease.transitions),
            )


_ROUTE = "blue, green, epoch, sequence"
_SLOT = "version, digest, config_hash, settings, ports, draining, applied_at"


@contextmanager
def _opened(path: Path) -> Generator[sqlite3.Connection]:
    db = sqlite3.connect(path, timeout=30.0, isolation_level=None)
    try:
        # What is stored decides what carries traffic after a power cut.
        db.execute("PRAGMA synchronous=FULL")
        yield db
    finally:
        db.close()


@contextmanager
def _failures() -> Generator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        raise RuntimeUnreachable("local", f"runtime.db: {exc}") from exc


def _declared(db: sqlite3.Connection, name: str) -> Service:
    row = db.execute("SELECT definition FROM services WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise UnknownService(name, [known for (known,) in db.execute("SELECT name FROM services")])
    return Service.model_validate_json(row[0])


def _read_route(db: sqlite3.Connection, name: str) -> Route:
    row = db.execute(f"SELECT {_ROUTE} FROM routes WHERE name = ?", (name,)).fetchone()  # noqa: S608
    return _route(row) if row else Route()


def _fence(db: sqlite3.Connection, name: str, epoch: int | None) -> None:
    """Who gives no epoch is not compared."""
    if epoch is None:
        return
    route = _read_route(db, name)
    if epoch < route.epoch:
        raise StaleEpoch(name, epoch, route.epoch)
    if epoch > route.epoch:
        _write_route(db, name, replace(route, epoch=epoch))


def _write_route(db: sqlite3.Connection, name: str, route: Route) -> None:
    values = (name, route.weights.blue, route.weights.green, route.epoch, route.sequence)
    db.execute("INSERT OR REPLACE INTO routes VALUES (?, ?, ?, ?, ?)", values)


def _read_notices(db: sqlite3.Connection) -> dict[str, Notice]:
    rows = db.execute("SELECT name, title, text, retry_after_s FROM suspensions")
    return {name: Notice(title, text, retry_after_s) for name, title, text, retry_after_s in rows}


def _write_notice(db: sqlite3.Connection, name: str, notice: Notice | None) -> None:
    if notice is None:
        db.execute("DELETE FROM suspensions WHERE name = ?", (name,))
    else:
        db.execute("INSERT OR REPLACE INTO suspensions VALUES (?, ?, ?, ?)", (name, *astuple(notice)))


def _route(row: tuple[int, int, int, int]) -> Route:
    blue, green, epoch, sequence = row
    return Route(Weights(blue, green), epoch, sequence)


def _slot(row: list[str]) -> FilledSlot:
    version, digest, config_hash, settings, ports, draining, applied_at = row
    return FilledSlot(
        Revision(version, digest, config_hash),
        json.loads(settings),
        tuple(json.loads(ports)),
        datetime.fromisoformat(applied_at),
        tuple(json.loads(draining)),
    )


def _row(filled: FilledSlot) -> tuple[str, ...]:
    settings = json.dumps(dict(filled.settings), sort_keys=True)
    ports, draining = json.dumps(filled.ports), json.dumps(filled.draining)
    return (*astuple(filled.revision), settings, ports, draining, filled.applied_at.isoformat())
