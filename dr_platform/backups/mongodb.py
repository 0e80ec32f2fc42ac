"""Backups of MongoDB, and of servers that speak its protocol: BSON, with indexes and options beside it.

A replica set is read at one cluster time, by any number of processes. Another server has no snapshot: each
collection is read once, one after the other, into a private folder, and measured as it is read. Its
documents are whole, and nothing is seen that was written after the snapshot was opened; between two
collections there may lie a moment, and the facts say so.

A scratch server is FerretDB. What it has no word for (validators, expiring and partial indexes) is left
out of it and named by a probe that says "could not be tried"; where it refuses data of a real MongoDB, the
backup is neither proved nor condemned. A new database gets all of it. Users and roles belong to a server,
not to a database: the backup tells who they were, and access is made anew from the secret store.

Here: the adapter of ``BackupEngine``. Not here: reading (``mongodb_reading``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from pymongo import errors

from dr_platform.backups.bucket import segment_of
from dr_platform.backups.chunks import Cut, Reader, chunked
from dr_platform.backups.mongodb_reading import (
    Description,
    Document,
    Range,
    boundaries,
    cluster_time,
    describe,
    documents,
    ranges,
    reading,
)
from dr_platform.backups.piecewise import PiecewiseRestoration, measured
from dr_platform.backups.port import (
    Facts,
    Json,
    Kind,
    Piece,
    Probe,
    Restoration,
    Snapshot,
    StoredBackup,
    StoredPiece,
    Switching,
)
from dr_platform.backups.scratch_server import scratch_server, workplace
from dr_platform.backups.source import (
    HEARTBEAT,
    RestoreFailed,
    SnapshotFailed,
    Source,
    TargetRefused,
    new_name,
)
from dr_platform.backups.spool import SpooledSnapshot, spool
from dr_platform.backups.switch import NoSwitch, by_hand
from dr_platform.backups.tally import Tally, together
from dr_platform.clock import Clock, SystemClock
from dr_platform.databases.mongodb import MongoDatabase
from dr_platform.databases.port import Endpoint
from dr_platform.identity import new_id

ALGORITHM = "sum of SHA-256 over BSON documents"
DESCRIPTION = "description"
_ID = "backup"
_RANGE_BYTES = 64 << 20
_BATCH_BYTES = 4 << 20
_LARGEST_DOCUMENT = 17 << 20
_DUPLICATE_KEY = 11000
_REFUSES_DOCUMENT = 121
_EXISTS = 48


@dataclass(frozen=True)
class MongoBackups:
    """A ``BackupEngine``. ``base`` is where working folders are made; collections larger than
    ``range_bytes`` are cut."""

    source: Source
    base: Path
    clock: Clock = field(default_factory=SystemClock)
    make_id: Callable[[str], str] = new_id
    range_bytes: int = _RANGE_BYTES

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return (Kind.BSON,)

    def snapshot(self, kind: Kind, parent: StoredBackup | None = None) -> AbstractContextManager[Snapshot]:
        if kind is not Kind.BSON or parent is not None:
            raise SnapshotFailed(self.source.name, f"MongoDB has no {kind} backups, and none with a parent")
        return self._snapshot()

    @contextlib.contextmanager
    def _snapshot(self) -> Generator[Snapshot]:
        with reading(self.source) as live, workplace(self.base) as folder:
            nonce = self.make_id("hb")
            live.schema[HEARTBEAT].replace_one({"_id": _ID}, {"_id": _ID, "nonce": nonce}, upsert=True)
            at = cluster_time(live)
            description = describe(live)
            cut = {name: self._ranges(live, name, at) for name in description.stores}
            if at is not None:
                yield ClusterSnapshot(self.source, live, description, cut, at)
            else:
                yield _spooled(live, description, cut, folder)

    def _ranges(self, live: MongoDatabase, collection: str, at: Timestamp | None) -> tuple[Range, ...]:
        size, count = _size(live, collection)
        if size <= self.range_bytes or not count:
            return (Range(),)
        every = max(1, count * self.range_bytes // size)
        return ranges(tuple(boundaries(live, collection, every, at)))

    @contextlib.contextmanager
    def scratch(self) -> Generator[Restoration]:
        with contextlib.ExitStack() as held:
            yield MongoRestoration("a scratch server", lambda: self._scratch(held))

    def _scratch(self, held: contextlib.ExitStack) -> MongoDatabase:
        server = held.enter_context(scratch_server(self.source.database, self.base, self.clock))
        return held.enter_context(reading(Source(self.source.database, server.endpoint, server.login)))

    @contextlib.contextmanager
    def new_database(self, name: str) -> Generator[Restoration]:
        source = self.source
        target = Endpoint(source.endpoint.host, source.endpoint.port, new_name(source, name))
        with reading(Source(source.database, target, source.login)) as beside:
            if name in beside.client.list_database_names():
                raise TargetRefused(source.name, name, "there is such a database", "name one that does not exist")
            try:
                yield MongoRestoration(f"{target.address}/{name}", lambda: beside)
            except BaseException:
                beside.client.drop_database(name)
                raise

    def switching(self) -> Switching:
        why = "because MongoDB cannot rename a database, and moving its collections one by one is no single instant"
        raise NoSwitch(self.source.name, why, by_hand(self.source.name))


def _size(live: MongoDatabase, collection: str) -> tuple[int, int]:
    """Bytes and documents; nothing where the server does not say."""
    try:
        said = live.schema.command({"collStats": collection})
    except errors.OperationFailure:
        return 0, 0
    return int(said.get("size", 0)), int(said.get("count", 0))


# Snapshots


def _piece_name(collection: str, number: int) -> str:
    return f"collections/{segment_of(collection)}/{number:04d}"


def _piece_facts(collection: str, number: int, count: int) -> Mapping[str, Json]:
    return {"collection": collection, "range": f"{number + 1} of {count}"}


def _measured(
    live: MongoDatabase, description: Description, tallies: Mapping[str, Tally], position: Mapping[str, str]
) -> Facts:
    beat = live.schema[HEARTBEAT].find_one({"_id": _ID}) or {}
    position = {**position, "accounts": description.accounts}
    return measured(live, ALGORITHM, str(beat.get("nonce", "")), description.fingerprint, tallies, position)


def _spooled(
    live: MongoDatabase, description: Description, cut: Mapping[str, Sequence[Range]], folder: Path
) -> SpooledSnapshot:
    pieces = [spool(DESCRIPTION, {}, (description.written(),), folder / "0")]
    tallies: dict[str, Tally] = {}
    for name, parts in cut.items():
        read = [Tally() for _ in parts]
        for number, (part, tally) in enumerate(zip(parts, read, strict=True)):
            stream = documents(live, name, part, tally=tally)
            file = folder / str(len(pieces))
            pieces.append(spool(_piece_name(name, number), _piece_facts(name, number, len(parts)), stream, file))
        tallies[name] = together(read)
    consistency = {"consistency": "each collection at a moment of its own: the server has no snapshots"}
    # The description tells of collections without documents; a piece without a byte would look like a fault.
    kept = tuple(piece for piece in pieces if piece.size_hint)
    return SpooledSnapshot(kept, _measured(live, description, tallies, consistency))


@dataclass(frozen=True)
class ClusterPiece:
    """Documents of one range at a cluster time, read with a connection of its own."""

    source: Source
    name: str
    collection: str
    part: Range
    at: Timestamp
    facts: Mapping[str, Json]
    size_hint: int = 0

    def read(self) -> Iterator[bytes]:
        with reading(self.source) as live:
            yield from chunked(documents(live, self.collection, self.part, self.at))


@dataclass(frozen=True)
class DescriptionPiece:
    content: bytes
    name: str = DESCRIPTION

    @property
    def facts(self) -> Mapping[str, Json]:
        return {}

    @property
    def size_hint(self) -> int:
        return len(self.content)

    def read(self) -> Iterator[bytes]:
        yield from chunked((self.content,))


@dataclass(frozen=True)
class ClusterSnapshot:
    """A replica set at one cluster time. The server keeps it for ``minSnapshotHistoryWindowInSeconds``;
    what is asked for later is refused by it, and the backup fails."""

    source: Source
    live: MongoDatabase
    description: Description
    cut: Mapping[str, Sequence[Range]]
    at: Timestamp

    def pieces(self) -> Sequence[Piece]:
        return (DescriptionPiece(self.description.written()), *self._documents())

    def _documents(self) -> Iterator[Piece]:
        for name, parts in self.cut.items():
            size = _size(self.live, name)[0] // len(parts)
            for number, part in enumerate(parts):
                if next(documents(self.live, name, part, self.at), None) is not None:
                    facts = _piece_facts(name, number, len(parts))
                    yield ClusterPiece(self.source, _piece_name(name, number), name, part, self.at, facts, size)

    def facts(self) -> Facts:
        tallies = {name: count(self.live, name, self.at) for name in self.cut}
        position = {"cluster_time": f"{self.at.time}.{self.at.inc}", "consistency": "one instant of the replica set"}
        return _measured(self.live, self.description, tallies, position)


def count(live: MongoDatabase, collection: str, at: Timestamp | None = None) -> Tally:
    tally = Tally()
    for _ in documents(live, collection, Range(), at, tally):
        pass
    return tally


# Restoring


@dataclass
class MongoRestoration(PiecewiseRestoration[MongoDatabase]):
    kind = Kind.BSON
    described_by = DESCRIPTION
    cut = "a piece ends in the middle of a document"
    failures = (errors.PyMongoError,)

    _wanted: Description | None = None

    def _require_all(self, backup: StoredBackup) -> None:
        """Every collection that had documents has pieces."""
        present = {piece.facts.get("collection") for piece in backup.pieces}
        if missing := [table.name for table in backup.facts.tables if table.rows and table.name not in present]:
            raise RestoreFailed(self.place, f"{len(missing)} collections have no piece, {missing[0]} among them")

    def _bring_back(self, backup: StoredBackup, description: bytes, pieces: Collection[StoredPiece]) -> None:
        del backup  # the description says it all
        wanted = self._wanted = Description.read(description)
        _create(self.target, wanted)
        for piece in pieces:
            self._load(piece)
        _create_indexes(self.target, wanted)
        _create_views(self.target, wanted)

    def _load(self, piece: StoredPiece) -> None:
        name = str(piece.facts["collection"])
        for batch in _batches(parted(piece.read())):
            # Documents may be older than the validator that is asked of new ones.
            able = "validators" in self.target.server().capabilities
            self.target.schema[name].insert_many(batch, ordered=False, bypass_document_validation=able or None)

    def facts(self) -> Facts:
        description = describe(self.target)
        tallies = {name: count(self.target, name) for name in description.stores}
        found = _measured(self.target, description, tallies, {})
        return replace(found, exact=not self._expires())

    def _expires(self) -> bool:
        """Whether the server removes documents by itself as soon as they are there."""
        indexes = self._wanted.indexes.values() if self._wanted else ()
        expiring = any("expireAfterSeconds" in index for found in indexes for index in found)
        return expiring and "ttl_indexes" in self.target.server().capabilities

    def probes(self) -> Sequence[Probe]:
        if self._wanted is None:
            return ()
        return (
            _unique_indexes(self.target, self._wanted),
            _expiring_indexes(self.target, self._wanted),
            _validators(self.target, self._wanted),
        )


def parted(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Documents out of a stream of them. Raises ``Cut`` where it ends inside of one."""
    reader = Reader(chunks)
    while not reader.ended():
        head = reader.take(4)
        size = int.from_bytes(head, "little")
        if not 5 <= size <= _LARGEST_DOCUMENT:
            raise Cut("no document begins here")
        yield head + reader.take(size - 4)


def _batches(found: Iterator[bytes]) -> Iterator[list[RawBSONDocument]]:
    batch: list[RawBSONDocument] = []
    size = 0
    for document in found:
        batch.append(RawBSONDocument(document))
        size += len(document)
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _create(target: MongoDatabase, wanted: Description) -> None:
    able = target.server().capabilities
    for found in wanted.collections:
        if found["name"] not in wanted.stores:
            continue
        options = dict(found.get("options", {}))
        if "validators" not in able:
            options = {key: value for key, value in options.items() if not key.startswith("validat")}
        try:
            target.schema.command({"create": found["name"], **options})
        except errors.OperationFailure as exc:
            if exc.code != _EXISTS:
                raise


def _create_views(target: MongoDatabase, wanted: Description) -> None:
    for found in wanted.collections:
        if found["name"] not in wanted.stores:
            target.schema.command({"create": found["name"], **found["options"]})


def possible_indexes(indexes: Sequence[Document], able: frozenset[str]) -> list[Document]:
    """Without what the server has no word for."""
    kept = []
    for index in indexes:
        if "partialFilterExpression" in index and "partial_indexes" not in able:
            continue
        expiring = "expireAfterSeconds" in index and "ttl_indexes" not in able
        kept.append({key: value for key, value in index.items() if not (expiring and key == "expireAfterSeconds")})
    return kept


def _create_indexes(target: MongoDatabase, wanted: Description) -> None:
    for name, indexes in wanted.indexes.items():
        if possible := possible_indexes(indexes, target.server().capabilities):
            target.schema.command({"createIndexes": name, "indexes": possible})


# Probes


def _unique_indexes(target: MongoDatabase, wanted: Description) -> Probe:
    """Each unique index is offered a document that is there already, under another ``_id``."""
    able = target.server().capabilities
    tried = open_ = 0
    for name, indexes in wanted.indexes.items():
        for index in possible_indexes(indexes, able):
            present = index.get("unique") and target.schema[name].find_one(
                {key: {"$exists": True} for key in index["key"]}
            )
            if present:
                tried += 1
                open_ += _accepts_again(target, name, present)
    detail = f"{open_} of {tried} unique indexes took a second document with the same key"
    return Probe("unique_indexes", open_ == 0, detail)


def _accepts_again(target: MongoDatabase, name: str, document: Document) -> bool:
    again = {**document, "_id": "drp-probe"}
    try:
        target.schema[name].insert_one(again)
    except errors.DuplicateKeyError:
        return False
    except errors.WriteError as exc:
        return exc.code not in {_DUPLICATE_KEY, _REFUSES_DOCUMENT}
    target.schema[name].delete_one({"_id": "drp-probe"})
    return True


def _expiring_indexes(target: MongoDatabase, wanted: Description) -> Probe:
    names = [(c, i["name"]) for c, found in wanted.indexes.items() for i in found if "expireAfterSeconds" in i]
    if names and "ttl_indexes" not in target.server().capabilities:
        return Probe("expiring_indexes", None, f"{len(names)} could not be tried: this server has none")
    found = describe(target).indexes
    there = sum(any(i["name"] == n and "expireAfterSeconds" in i for i in found.get(c, ())) for c, n in names)
    return Probe("expiring_indexes", there == len(names), f"{there} of {len(names)} are there")


def _validators(target: MongoDatabase, wanted: Description) -> Probe:
    """Each validator that requires fields is offered a document without them."""
    rules = {
        str(c["name"]): c["options"]["validator"] for c in wanted.collections if c.get("options", {}).get("validator")
    }
    if rules and "validators" not in target.server().capabilities:
        return Probe("validators", None, f"{len(rules)} could not be tried: this server has none")
    strict = [name for name, rule in rules.items() if rule.get("$jsonSchema", {}).get("required")]
    refused = sum(not _takes_empty(target, name) for name in strict)
    kept = _rules(describe(target))
    passed = refused == len(strict) and kept == rules
    return Probe("validators", passed, f"{len(kept)} of {len(rules)} are there, {refused} of {len(strict)} refuse")


def _rules(description: Description) -> Mapping[str, Any]:
    options = {str(found["name"]): found.get("options", {}) for found in description.collections}
    return {name: found["validator"] for name, found in options.items() if found.get("validator")}


def _takes_empty(target: MongoDatabase, name: str) -> bool:
    try:
        target.schema[name].insert_one({"_id": "drp-probe"})
    except errors.WriteError as exc:
        return exc.code != _REFUSES_DOCUMENT
    target.schema[name].delete_one({"_id": "drp-probe"})
    return True
