"""Masking MongoDB, or a server that speaks its protocol: collection by collection, in bounded batches.

Here: the engine's part of ``EngineMasking``. Not here: what a value becomes (``rows``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dr_platform.databases.mongodb import MongoDatabase
from dr_platform.databases.port import SchemaStep
from dr_platform.databases.schema import migrate
from dr_platform.masking.canaries import Canaries
from dr_platform.masking.classification import IDENTIFIERS, Classification, Holds, Table
from dr_platform.masking.imitation import imitated
from dr_platform.masking.people import Roster
from dr_platform.masking.port import Access, Gate, Masked, NotMaskable, Run, SameDatabase, TargetExists
from dr_platform.masking.postgresql import lossy_unique
from dr_platform.masking.rows import RowMasker, leaf_paths
from dr_platform.masking.seals import KeyRing, place_of
from dr_platform.reference_service.cipher import Undecryptable

_BATCH = 500
_IDENTIFYING = (IDENTIFIERS | {Holds.KEY}) - {Holds.NAME}


class MongoMasking:
    def __init__(
        self,
        source: Access,
        target: Access,
        known: Classification,
        steps: Sequence[SchemaStep],
        opened: KeyRing,
        sealing: KeyRing,
    ) -> None:
        self.name = source.name
        self._known, self._steps = known, steps
        self._opened, self._sealing = opened, sealing
        self._same = source.endpoint == target.endpoint
        self._source = MongoDatabase(source.database, source.endpoint, source.login)
        self._target = MongoDatabase(target.database, target.endpoint, target.login)
        self._made = False

    def _masked_tables(self) -> dict[str, Table]:
        there = set(self._source.schema.list_collection_names())
        return {name: table for name, table in self._known.tables.items() if table.is_masked and name in there}

    def schema(self) -> Mapping[str, tuple[str, ...]]:
        """Every path of every document: there is no other schema."""
        found: dict[str, tuple[str, ...]] = {}
        for name in self._source.schema.list_collection_names():
            table = self._known.tables.get(name)
            paths: set[str] = set()
            if table is None or table.is_masked:
                for document in self._source.schema[name].find({}).batch_size(_BATCH):
                    paths.update(leaf_paths(document))
            found[name] = tuple(sorted(paths))
        return found

    def refuse_problems(self) -> None:
        if self._same:
            raise SameDatabase(self.name)
        problems: list[str] = []
        for name, table in self._masked_tables().items():
            indexes = [("_id_", frozenset({"_id"}))]
            for index, facts in self._source.schema[name].index_information().items():
                if facts.get("unique"):
                    indexes.append((index, frozenset(key for key, _ in facts["key"])))
            problems += lossy_unique(name, indexes, table, set(table.columns))
        if problems:
            raise NotMaskable(tuple(problems))

    def plant(self, canaries: Canaries) -> int:
        planted, cipher = 0, self._opened.cipher()
        for name, table in self._masked_tables().items():
            template = self._source.schema[name].find_one({})
            if template is None or not table.person:
                continue
            rows = [imitated(table, template, canary, n, cipher) for n, canary in enumerate(canaries.people)]
            planted += len(self._source.schema[name].insert_many(rows).inserted_ids)
        return planted

    def fill(self, roster: Roster) -> None:
        for name, table in self._masked_tables().items():
            for kind, column in table.links.items():
                pairs = self._source.schema[name].find({}, {column: 1, table.person: 1}).batch_size(_BATCH)
                roster.link(
                    kind, ((str(p[column]), str(p[table.person])) for p in pairs if column in p and table.person in p)
                )

    def make_target(self) -> None:
        database = self._target.endpoint.database
        if database in self._target.client.list_database_names():
            raise TargetExists(self.name, database)
        self._made = True
        migrate(self._target, self._steps)
        for name, table in self._masked_tables().items():  # what the steps themselves put in
            if table.is_masked:
                self._target.schema[name].delete_many({})

    def mask(self, run: Run) -> tuple[Masked, ...]:
        with contextlib.closing(Roster(run.roster)) as roster:
            return tuple(self._mask_one(name, table, run, roster) for name, table in self._masked_tables().items())

    def _mask_one(self, name: str, table: Table, run: Run, roster: Roster) -> Masked:
        masker = RowMasker(table, run.recipe, roster, self._opened, self._sealing)
        rows = written = 0
        for batch in _batches(self._source.schema[name].find({}).batch_size(_BATCH)):
            rows += len(batch)
            written += len(self._target.schema[name].insert_many(masker.mask(batch), ordered=False).inserted_ids)
        run.progress(f"{self.name}: {name}: {rows} documents")
        return Masked(name, rows, written, masker.unopened.total(), masker.unowned.total())

    def stored_texts(self) -> Iterator[tuple[str, bytes]]:
        cipher = self._sealing.cipher()
        for name in self._target.schema.list_collection_names():
            table = self._known.tables.get(name)
            for document in self._target.schema[name].find({}).batch_size(_BATCH):
                yield from ((f"{name}.{path}", text) for path, text in texts_inside(document))
                for column, described in (table.columns if table else {}).items():
                    if described.sealed is not None and document.get(column) is not None:
                        with contextlib.suppress(Undecryptable):  # staging cannot read it either
                            opened = cipher.decrypt(bytes(document[column]), place_of(described.sealed, document))
                            yield f"{name}.{column}", opened.encode()

    def gates(self, masked: tuple[Masked, ...]) -> tuple[Gate, ...]:
        differing, met, hits = [], [], 0
        for one in masked:
            counts = {
                self._source.schema[one.name].count_documents({}),
                self._target.schema[one.name].count_documents({}),
            }
            differing += [one.name] if counts != {one.rows} else []
            for column, described in self._known.tables[one.name].columns.items():
                if described.holds in _IDENTIFYING and described.sealed is None:
                    found = self._still_there(one.name, column.replace("[]", ""))
                    hits += found
                    met += [f"{one.name}.{column}"] if found else []
        total = sum(one.rows for one in masked)
        return (
            Gate(
                f"{self.name}: document counts",
                not differing,
                ", ".join(differing) or "as before",
                {"documents": total},
            ),
            Gate(f"{self.name}: no value of an identifier stays", not met, ", ".join(met) or "none", {"hits": hits}),
        )

    def _still_there(self, name: str, path: str) -> int:
        """Documents of the source whose value occurs in the target."""
        found = 0
        for batch in _batches(self._target.schema[name].find({path: {"$ne": None}}, {path: 1}).batch_size(_BATCH)):
            values = [value for document in batch if (value := document.get(path)) is not None]
            found += self._source.schema[name].count_documents({path: {"$in": values}})
        return found

    def discard(self) -> None:
        if self._made:
            self._target.client.drop_database(self._target.endpoint.database)
            self._made = False

    def close(self) -> None:
        self._source.close()
        self._target.close()


def _batches(documents: Any) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for document in documents:
        batch.append(document)
        if len(batch) >= _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def texts_inside(value: Any, path: str = "") -> Iterator[tuple[str, bytes]]:
    """Everything of a document that may hold text, field names included."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield path or "(name)", str(key).encode()
            yield from texts_inside(one, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple | set | frozenset):
        for one in value:
            yield from texts_inside(one, f"{path}[]")
    elif isinstance(value, bytes | bytearray | memoryview):
        yield path, bytes(value)
    elif value is not None:
        yield path, str(value).encode()
