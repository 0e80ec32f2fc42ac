"""What every inspector of data promises, tried on real servers with the schema of the catalog."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest

from dr_platform.catalog import Engine
from dr_platform.clock import SystemClock
from dr_platform.databases.connect import connect_database
from dr_platform.databases.schema import migrate, read_steps
from dr_platform.quality.engines import inspector_of
from dr_platform.quality.judge import counted, judge
from dr_platform.quality.model import (
    Bounds,
    Dimension,
    Expires,
    Fresh,
    HasColumns,
    Holds,
    NotNull,
    OneOf,
    Refers,
    Rule,
    Unique,
    Within,
    read_expectations,
    rules_by_dimension,
)
from dr_platform.quality.port import Inspector, NotApplicable, NotExamined
from tests.contracts.database import CATALOG
from tests.contracts.embedded_servers import Running, running

pytestmark = pytest.mark.contract

SECRET = "a-value-that-must-not-be-told"
AT = datetime(2026, 1, 1, tzinfo=UTC)


class InspectorContract:
    """The catalog's own schema is there. ``bad`` puts three rows into a table of the test, one of them whole:
    ``(id, word, number, at, other)`` where ``word`` is ``good``, the secret, or missing; ``number`` 1, 99, 5; ``other``
    names the first row, no row, or nothing."""

    engine: ClassVar[Engine]
    name: ClassVar[str]
    unique: ClassVar[bool] = True

    def bad(self, db: Any) -> None:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls) -> Iterator[Running]:
        with running(cls.engine, cls.name, ready_s=120) as server:
            with contextlib.closing(cls.connect(server)) as db:
                migrate(db, read_steps(CATALOG / cls.name / "migrations"))
                cls().bad(db)
            yield server

    @staticmethod
    def connect(server: Running) -> Any:
        return connect_database(server.database, server.endpoint, server.secrets, "admin")

    @pytest.fixture(scope="class")
    @classmethod
    def inspector(cls, server: Running) -> Iterator[Inspector]:
        with contextlib.closing(inspector_of(cls.connect(server), SystemClock())) as found:
            yield found

    def counts(self, inspector: Inspector, *rules: Rule) -> list[int]:
        return [answer.broken for answer in counted(rules, lambda _: inspector)]

    def test_the_schema_of_the_catalog_has_the_columns_of_the_catalog(self, inspector: Inspector) -> None:
        expected = rules_by_dimension(read_expectations(CATALOG.parent)[self.name])
        answers = counted(expected[Dimension.COLUMNS], lambda _: inspector)
        assert [answer.rule.table for answer in answers if answer.broken] == []
        assert len(answers) == len(expected[Dimension.COLUMNS])

    @pytest.mark.parametrize("dimension", [Dimension.NULLS, Dimension.RANGES, Dimension.REFERENCES])
    def test_a_schema_without_rows_keeps_every_promise(self, inspector: Inspector, dimension: Dimension) -> None:
        rules = rules_by_dimension(read_expectations(CATALOG.parent)[self.name]).get(dimension, ())
        assert [answer for answer in counted(rules, lambda _: inspector) if answer.broken] == []

    def test_rows_that_break_a_rule_are_counted(self, inspector: Inspector) -> None:
        rules: Sequence[Rule] = (
            NotNull("t", "word"),
            OneOf("t", "word", ("good",)),
            Within("t", "number", Bounds(at_least=2)),
            Within("t", "number", Bounds(at_most=50)),
            Within("t", "number", Bounds(at_least=1, at_most=99)),
            Holds("t", Bounds(at_least=3, at_most=3)),
            Holds("t", Bounds(at_least=4)),
            Fresh("t", "at", timedelta(days=36500).total_seconds()),
            Fresh("t", "at", 60),
            Refers("t", "other", None, "t", "id"),
        )
        assert self.counts(inspector, *rules) == [1, 1, 1, 1, 0, 0, 1, 0, 1, 1]

    def test_what_must_be_unique_is_compared(self, inspector: Inspector) -> None:
        if not self.unique:
            with pytest.raises(NotApplicable):
                self.counts(inspector, Unique("t", ("word",)))
            return
        assert self.counts(inspector, Unique("t", ("id",))) == [0]
        assert self.counts(inspector, Unique("t", ("at",)))[0] > 0
        assert self.counts(inspector, Unique("t", ("at", "id"))) == [0]

    def test_a_verdict_has_counts_and_no_values(self, inspector: Inspector) -> None:
        rules = (OneOf("t", "word", ("good",)), NotNull("t", "word"), Refers("t", "other", None, "t", "id"))
        verdict = judge(counted(rules, lambda _: inspector))
        assert verdict.passed is False
        assert verdict.measurements["unexpected_count"] == 3
        assert SECRET not in f"{verdict}"

    def test_other_columns_than_declared_are_found(self, inspector: Inspector) -> None:
        assert self.counts(inspector, HasColumns("t", ("id", "word")))[0] > 0


class TestPostgres(InspectorContract):
    engine, name = Engine.POSTGRESQL, "postgres"

    def bad(self, db: Any) -> None:
        db.connection.execute("CREATE TABLE t (id text, word text, number int, at timestamptz, other text)")
        db.connection.execute(
            "INSERT INTO t VALUES ('1', 'good', 1, %s, '1'), ('2', %s, 99, %s, 'none'), ('3', NULL, 5, %s, NULL)",
            (AT, SECRET, AT, AT),
        )

    def test_a_column_that_is_not_there_could_not_be_examined(self, inspector: Inspector) -> None:
        with pytest.raises(NotExamined):
            self.counts(inspector, NotNull("t", "nowhere"))

    def test_a_table_with_vectors_is_examined(self, inspector: Inspector) -> None:
        assert self.counts(inspector, Holds("knowledge.chunks", Bounds(at_most=0))) == [0]


class TestMongo(InspectorContract):
    engine, name = Engine.MONGODB, "mongodb"

    def bad(self, db: Any) -> None:
        whole = {"id": "1", "word": "good", "number": 1, "at": AT, "other": "1"}
        second = {**whole, "id": "2", "word": SECRET, "number": 99, "other": "none"}
        db.schema.t.insert_many([whole, second, {"id": "3", "number": 5, "at": AT}])


class TestCql(InspectorContract):
    engine, name = Engine.SCYLLADB, "scylladb"
    unique = False

    def bad(self, db: Any) -> None:
        db.session.execute(
            "CREATE TABLE t (id uuid PRIMARY KEY, word text, number int, at timestamp, other uuid)", timeout=60
        )
        first, second, third, nobody = (uuid.UUID(int=number) for number in range(4))
        insert = db.session.prepare("INSERT INTO t (id, word, number, at, other) VALUES (?, ?, ?, ?, ?)")
        rows = ((first, "good", 1, AT, first), (second, SECRET, 99, AT, nobody), (third, None, 5, AT, None))
        for row in rows:
            db.session.execute(insert, row)

    def test_a_table_that_is_not_there_could_not_be_examined(self, inspector: Inspector) -> None:
        with pytest.raises(NotExamined):
            self.counts(inspector, NotNull("nowhere", "id"))


class TestRedis:
    @pytest.fixture(scope="class")
    @classmethod
    def inspector(cls) -> Iterator[Inspector]:
        with running(Engine.REDIS, "redis") as server:
            db: Any = InspectorContract.connect(server)
            db.client.set("kept:1", "a")
            db.client.set("kept:2", "b", ex=3600)
            with contextlib.closing(inspector_of(db, SystemClock())) as found:
                yield found

    def test_keys_that_never_expire_are_counted(self, inspector: Inspector) -> None:
        rules = (Expires("kept:*"), Holds("kept:*", Bounds(at_least=2, at_most=2)), Holds("kept:*", Bounds(at_most=1)))
        assert [answer.broken for answer in inspector.count(rules)] == [1, 0, 1]

    def test_columns_are_not_asked_of_keys(self, inspector: Inspector) -> None:
        with pytest.raises(NotApplicable, match="kept"):
            inspector.count([NotNull("kept:*", "value")])
