"""Plans, their digests, backups before a change, drift, and the order of a rehearsal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.catalog import Engine
from dr_platform.clock import ManualClock
from dr_platform.databases.port import (
    AppliedStep,
    EditedMigration,
    MissingUndo,
    SchemaStep,
    UnfinishedUndo,
)
from dr_platform.databases.schema import MalformedMigrations, MigrationFailed, read_steps
from dr_platform.migrations.drift import MOST_SHOWN, drift
from dr_platform.migrations.files import texts_of
from dr_platform.migrations.gates import NoFreshBackup, require_backup
from dr_platform.migrations.planning import Plan, UnknownVersion, plan_back, plan_forward, plan_to
from dr_platform.migrations.rehearsal import rehearse
from tests.embedded_programs import a_database

pytestmark = pytest.mark.unit

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def steps(tmp_path: Path) -> tuple[SchemaStep, ...]:
    files = {
        "V1_0__tables.sql": "CREATE TABLE a (id int);",
        "V1_1__column.sql": "ALTER TABLE a ADD b int;",
        "U1_1__column.sql": "ALTER TABLE a DROP b;",
        "V1_2__drop.sql": "-- phase: contract\nDROP TABLE c;",
        "U1_2__drop.sql": "CREATE TABLE c (id int);",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return read_steps(tmp_path)


def records(steps: tuple[SchemaStep, ...], count: int) -> list[AppliedStep]:
    return [AppliedStep(s.version, s.description, s.checksum, "2026", 1.0) for s in steps[:count]]


def forward(steps: tuple[SchemaStep, ...], applied: list[AppliedStep], to: str | None = None) -> Plan:
    return plan_forward("db", Engine.POSTGRESQL, steps, applied, texts_of(steps), to)


def back(steps: tuple[SchemaStep, ...], applied: list[AppliedStep], count: int) -> Plan:
    return plan_back("db", Engine.POSTGRESQL, steps, applied, texts_of(steps), count)


def to(steps: tuple[SchemaStep, ...], applied: list[AppliedStep], version: str) -> Plan:
    return plan_to("db", Engine.POSTGRESQL, steps, applied, texts_of(steps), version)


class TestPlans:
    def test_a_plan_as_json_is_exactly_what_is_promised(self, steps: tuple[SchemaStep, ...]) -> None:
        assert forward(steps, records(steps, 1)).as_json() == {
            "current": "1.0",
            "target": "1.2",
            "steps": [
                {
                    "version": "1.1",
                    "description": "column",
                    "phase": "expand",
                    "locks": ["ACCESS EXCLUSIVE on a"],
                    "destructive": False,
                },
                {
                    "version": "1.2",
                    "description": "drop",
                    "phase": "contract",
                    "locks": ["ACCESS EXCLUSIVE on c"],
                    "destructive": True,
                },
            ],
        }

    def test_nothing_to_do_stays_where_it_is(self, steps: tuple[SchemaStep, ...]) -> None:
        assert forward(steps, records(steps, 3)).as_json() == {"current": "1.2", "target": "1.2", "steps": []}
        assert forward((), []).as_json() == {"current": None, "target": None, "steps": []}

    def test_back_goes_newest_first_by_the_undo_files(self, steps: tuple[SchemaStep, ...]) -> None:
        found = back(steps, records(steps, 3), 2)
        assert (found.current, found.target) == ("1.2", "1.0")
        assert [(p.step.version, p.phase, p.effects.losses) for p in found.steps] == [
            ("1.2", "undo", ()),
            ("1.1", "undo", ("column a.b",)),
        ]

    def test_one_missing_undo_file_refuses_all_of_it(self, steps: tuple[SchemaStep, ...]) -> None:
        with pytest.raises(MissingUndo, match="U1_0__tables"):
            back(steps, records(steps, 3), 3)

    def test_an_edited_step_is_not_taken_back(self, steps: tuple[SchemaStep, ...]) -> None:
        applied = [*records(steps, 2), replace(records(steps, 3)[2], checksum="another")]
        with pytest.raises(EditedMigration):
            back(steps, applied, 1)

    @pytest.mark.parametrize(
        ("applied", "version", "expected"),
        [
            (0, "1.1", ["1.0", "1.1"]),
            (1, "1.1.0", ["1.1"]),
            (2, "1.1", []),
            (3, "1.1", ["1.2"]),
            (3, "1", ["1.2", "1.1"]),
        ],
    )
    def test_a_version_is_reached_from_above_and_from_below(
        self, steps: tuple[SchemaStep, ...], applied: int, version: str, expected: list[str]
    ) -> None:
        assert [planned.step.version for planned in to(steps, records(steps, applied), version).steps] == expected

    def test_a_version_that_there_is_not_is_refused(self, steps: tuple[SchemaStep, ...]) -> None:
        with pytest.raises(UnknownVersion, match=r"1\.9"):
            to(steps, [], "1.9")

    def test_a_step_that_is_half_taken_back_stops_everything_but_going_on_back(
        self, steps: tuple[SchemaStep, ...]
    ) -> None:
        applied = [*records(steps, 1), replace(records(steps, 2)[1], undoing=True)]
        with pytest.raises(UnfinishedUndo):
            forward(steps, applied)
        assert [planned.step.version for planned in back(steps, applied, 1).steps] == ["1.1"]

    def test_the_digest_is_of_exactly_this_change(self, steps: tuple[SchemaStep, ...]) -> None:
        first = forward(steps, records(steps, 1))
        assert first.digest("staging") == forward(steps, records(steps, 1)).digest("staging")
        assert (
            len(
                {
                    first.digest("staging"),
                    first.digest("production"),
                    forward(steps, records(steps, 1), "1.1").digest("staging"),
                    forward(steps, records(steps, 0)).digest("staging"),
                    replace(first, steps=first.steps[:1]).digest("staging"),
                    back(steps, records(steps, 2), 1).digest("staging"),
                }
            )
            == 6
        )

    def test_an_undo_file_that_is_edited_makes_another_plan_of_going_back(
        self, steps: tuple[SchemaStep, ...], tmp_path: Path
    ) -> None:
        before = back(steps, records(steps, 2), 1).digest("local")
        (tmp_path / "U1_1__column.sql").write_text("ALTER TABLE a DROP COLUMN b CASCADE;")
        assert back(read_steps(tmp_path), records(steps, 2), 1).digest("local") != before

    def test_a_file_that_cannot_be_taken_apart_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "V1__a.cql").write_text("DROP TABLE a;")
        found = read_steps(tmp_path)
        with pytest.raises(MalformedMigrations, match=r"V1__a\.cql"):
            plan_forward("db", Engine.SCYLLADB, found, [], texts_of(found))


class TestFiles:
    @pytest.mark.parametrize(
        ("files", "problem"),
        [
            ({"U1__a.sql": "x"}, r"U1__a\.sql: belongs to no step"),
            ({"V1__a.sql": "x", "U1__a.cql": "x"}, r"U1__a\.cql: belongs to no step"),
            ({"V1__a.sql": "x", "U1__a.sql": "x", "U1_0__b.sql": "x"}, "has the same version as"),
            ({"V1__a.cql": "x", "T1__a.cql": "x"}, "is not SQL"),
            ({"T1__a.sql": "x"}, "belongs to no step"),
            ({"V1__a.sql": "-- transactional: maybe\nx"}, "another word than true or false"),
            ({"V1__a.sql": "x\n-- transactional: false"}, "below its first statement"),
            ({"V1__a.sql": "x", "T1__a.sql": "-- transactional: false\nx"}, "changes nothing"),
        ],
    )
    def test_files_that_would_be_missed_are_refused(self, tmp_path: Path, files: dict[str, str], problem: str) -> None:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        with pytest.raises(MalformedMigrations, match=problem):
            read_steps(tmp_path)

    def test_a_step_knows_what_takes_it_back_and_what_must_hold(self, tmp_path: Path) -> None:
        (tmp_path / "V1_0__a.sql").write_text("-- transactional: false\nx")
        (tmp_path / "U1__other_words.sql").write_text("y")
        (tmp_path / "T1_0_0__verify.sql").write_text("z")
        (step,) = read_steps(tmp_path)
        assert step.undo is not None
        assert step.verify is not None
        assert (step.transactional, step.undo.transactional) == (False, True)
        assert (step.undo.path.name, step.verify.path.name) == ("U1__other_words.sql", "T1_0_0__verify.sql")


APPLIED = (AppliedStep("1", "a", "b", "2026", 1.0),)


class TestBackups:
    @pytest.mark.parametrize("age", [None, DAY + timedelta(seconds=1), timedelta(seconds=-1)])
    def test_none_an_old_one_and_one_from_the_future_are_refused_and_the_way_out_is_named(
        self, age: timedelta | None
    ) -> None:
        with pytest.raises(NoFreshBackup) as refused:
            require_backup("postgres", APPLIED, None if age is None else NOW - age, NOW, DAY)
        assert "drp backup postgres" in refused.value.next_step

    def test_a_fresh_one_is_enough_and_an_empty_schema_needs_none(self) -> None:
        require_backup("postgres", APPLIED, NOW - DAY, NOW, DAY)
        require_backup("postgres", [], None, NOW, DAY)


class TestDrift:
    @given(st.sets(st.sampled_from("abcdefgh")), st.sets(st.sampled_from("abcdefgh")))
    def test_it_is_there_exactly_where_the_two_differ(self, left: set[str], live: set[str]) -> None:
        found = drift(sorted(left), sorted(live))
        assert bool(found) == (left != live)
        assert (left | set(found.added)) - set(found.removed) == live

    def test_it_names_what_came_and_what_went_and_stays_short(self) -> None:
        assert drift(["a"], ["b"]).describe() == "+ b; - a"
        many = drift([], [str(number) for number in range(50)]).describe()
        assert many.count("+") == MOST_SHOWN
        assert many.endswith("and 44 more")


# The order of a rehearsal


@dataclass
class MemoryCopy:
    """A copy whose schema is the set of versions; ``sticky`` versions leave something behind, ``broken`` ones are
    refused."""

    sticky: frozenset[str] = frozenset()
    broken: frozenset[str] = frozenset()
    there: set[str] = field(default_factory=set)
    how: str = "in memory"
    database: Any = field(default_factory=lambda: a_database(Engine.REDIS))

    @property
    def db(self) -> Any:
        return self

    def shape(self) -> tuple[str, ...]:
        return tuple(sorted(self.there))

    def apply(self, step: SchemaStep) -> None:
        if step.version in self.broken:
            raise MigrationFailed("store", step.version, "here", "it is broken", "everything")
        self.there.add(step.version)

    def undo(self, step: SchemaStep) -> None:
        if step.version not in self.sticky:
            self.there.remove(step.version)

    def locks_during(self, act: Callable[[], object]) -> tuple[str, ...]:
        act()
        return ("a lock",)


def source(copy: MemoryCopy, ended: list[str]) -> Any:
    @contextmanager
    def opened() -> Iterator[MemoryCopy]:
        try:
            yield copy
        finally:
            ended.append("gone")

    return opened


@pytest.mark.parametrize(
    ("copy", "first", "passed", "same", "undone"),
    [
        pytest.param(MemoryCopy(), 1, True, True, [True, True], id="all taken back"),
        pytest.param(MemoryCopy(), 0, True, None, [None, True, True], id="the oldest cannot be"),
        pytest.param(MemoryCopy(sticky=frozenset({"1.2"})), 1, False, False, [None, False], id="one leaves something"),
        pytest.param(MemoryCopy(broken=frozenset({"1.2"})), 1, False, None, [None, None], id="one is refused"),
    ],
)
def test_a_rehearsal_goes_forward_and_back_and_its_copy_is_gone(
    steps: tuple[SchemaStep, ...], copy: MemoryCopy, first: int, passed: bool, same: bool | None, undone: list[Any]
) -> None:
    ended: list[str] = []
    found = rehearse(source(copy, ended), steps[first:], ManualClock(NOW))
    assert (found.passed, found.same_after_undo, [s.undone for s in found.steps]) == (passed, same, undone)
    assert ended == ["gone"]
