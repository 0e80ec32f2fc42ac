"""Masking MongoDB, or a server that speaks its protocol: collection by collection, in bounded batches.

Here: the engine's part of ``EngineMasking``. Not here: what a value becomes (``rows``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from dr_platform.databases.mongodb import MongoDatabase
from dr_platform.databases.schema import migrate
from dr_platform.masking.by_table import PAGE, Row, TableMasking, pages, texts_inside
from dr_platform.masking.classification import IDENTIFIERS, Holds
from dr_platform.masking.port import NotMaskable, TargetExists
from dr_platform.masking.postgresql import lossy_unique
from dr_platform.masking.rows import leaf_paths

_IDENTIFYING = (IDENTIFIERS | {Holds.KEY}) - {Holds.NAME}


class MongoMasking(TableMasking[MongoDatabase]):
    unit = "document"
    what_stays = "no value of an identifier stays"

    def _open(self) -> None:
        source, target = self._source_access, self._target_access
        self._source = MongoDatabase(source.database, source.endpoint, source.login)
        self._target = MongoDatabase(target.database, target.endpoint, target.login)
        self._made = False

    @property
    def _made_target(self) -> MongoDatabase:
        return self._target

    def _names(self, database: MongoDatabase) -> Collection[str]:
        return database.schema.list_collection_names()

    def _rows(self, database: MongoDatabase, name: str, columns: Sequence[str] = ()) -> Iterable[Row]:
        return database.schema[name].find({}, dict.fromkeys(columns, 1) or None).batch_size(PAGE)

    def _first(self, name: str) -> Row | None:
        return self._source.schema[name].find_one({})

    def _write(self, database: MongoDatabase, name: str, rows: Sequence[Row]) -> int:
        return len(database.schema[name].insert_many(rows, ordered=False).inserted_ids)

    def _texts(self, row: Row) -> Iterable[tuple[str, bytes]]:
        return texts_inside(row)

    def schema(self) -> Mapping[str, tuple[str, ...]]:
        """Every path of every document: there is no other schema."""
        found: dict[str, tuple[str, ...]] = {}
        for name in self._names(self._source):
            table = self._known.tables.get(name)
            paths: set[str] = set()
            if table is None or table.is_masked:
                for document in self._rows(self._source, name):
                    paths.update(leaf_paths(document))
            found[name] = tuple(sorted(paths))
        return found

    def refuse_problems(self) -> None:
        self._refuse_same()
        problems: list[str] = []
        for name, table in self._masked_tables().items():
            indexes = [("_id_", frozenset({"_id"}))]
            for index, facts in self._source.schema[name].index_information().items():
                if facts.get("unique"):
                    indexes.append((index, frozenset(key for key, _ in facts["key"])))
            problems += lossy_unique(name, indexes, table, set(table.columns))
        if problems:
            raise NotMaskable(tuple(problems))

    def make_target(self) -> None:
        database = self._target.endpoint.database
        if database in self._target.client.list_database_names():
            raise TargetExists(self.name, database)
        self._made = True
        migrate(self._target, self._steps)
        for name, table in self._masked_tables().items():  # what the steps themselves put in
            if table.is_masked:
                self._target.schema[name].delete_many({})

    def _arrived(self, name: str) -> int:
        return self._target.schema[name].count_documents({})

    def _extent(self, name: str) -> int:
        return self._source.schema[name].count_documents({})

    def _staying(self, name: str) -> Iterator[tuple[str, int]]:
        for column, described in self._known.tables[name].columns.items():
            if described.holds in _IDENTIFYING and described.sealed is None:
                yield f"{name}.{column}", self._still_there(name, column.replace("[]", ""))

    def _still_there(self, name: str, path: str) -> int:
        """Documents of the source whose value occurs in the target."""
        found = 0
        for batch in pages(self._target.schema[name].find({path: {"$ne": None}}, {path: 1}).batch_size(PAGE)):
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
