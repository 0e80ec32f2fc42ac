"""Judging migrations: what blocks, what is advice, and what a waiver needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from dr_platform.catalog import Engine
from dr_platform.databases.schema import read_steps
from dr_platform.migrations import squawk
from dr_platform.migrations.files import migration_faults, texts_of
from dr_platform.migrations.lint import Fault, Judged, lint
from dr_platform.migrations.squawk import SquawkProgram, SquawkUnavailable

pytestmark = pytest.mark.unit

CATALOG = Path(__file__).parents[2] / "catalog" / "databases"
ENGINES = {
    "postgres": Engine.POSTGRESQL,
    "mongodb": Engine.MONGODB,
    "redis": Engine.REDIS,
    "scylladb": Engine.SCYLLADB,
}
FORMATS = {".sql": Engine.POSTGRESQL, ".json": Engine.MONGODB, ".redis": Engine.REDIS, ".cql": Engine.SCYLLADB}


def silent(_paths: Sequence[Path], *, transactional: bool) -> Sequence[Fault]:
    del transactional
    return ()


def judged(folder: Path, name: str, text: str, asked: squawk.SquawkProgram | None = None, **beside: str) -> Judged:
    (folder / name).write_text(text)
    for file, content in beside.items():
        (folder / file.replace("DOT", ".")).write_text(content)
    steps = read_steps(folder)
    return lint(FORMATS[Path(name).suffix], steps, texts_of(steps), asked or silent)


def rules(found: Judged) -> set[str]:
    return {fault.rule for fault in found.faults}


class TestBySquawk:
    def judged(self, folder: Path, text: str) -> Judged:
        return judged(folder, "V1__a.sql", text, SquawkProgram())

    @pytest.mark.parametrize(
        ("text", "rule"),
        [
            ("CREATE INDEX i ON a (b);", "require-concurrent-index-creation"),
            ("ALTER TABLE a ADD CONSTRAINT k CHECK (b > 0);", "constraint-missing-not-valid"),
            ("ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES c (id);", "adding-foreign-key-constraint"),
            ("ALTER TABLE a ALTER COLUMN b SET NOT NULL;", "adding-not-nullable-field"),
            ("ALTER TABLE a RENAME COLUMN b TO c;", "renaming-column"),
            ("-- phase: contract\nALTER TABLE a ALTER COLUMN b TYPE bigint;", "changing-column-type"),
            ("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON a (b);", "misplaced-transaction"),
            ("-- transactional: false\nALTER TABLE a ADD b int;", "misplaced-transaction"),
            ("VACUUM a;", "misplaced-transaction"),
            ("ALTER TABEL a;", "syntax-error"),
        ],
    )
    def test_what_harms_others_while_it_runs_blocks(self, tmp_path: Path, text: str, rule: str) -> None:
        assert rule in rules(self.judged(tmp_path, text))

    @pytest.mark.parametrize(
        "text",
        [
            "ALTER TABLE a ADD COLUMN b integer;",
            "CREATE TABLE a (b smallint, c char(3)); CREATE INDEX ON a (b);",
            "-- transactional: false\nCREATE INDEX CONCURRENTLY IF NOT EXISTS i ON a (b);",
            "-- phase: contract\nALTER TABLE a DROP COLUMN b;",
            "-- phase: contract\nDROP TABLE a;",
        ],
    )
    def test_what_harms_nobody_passes_and_style_is_only_told(self, tmp_path: Path, text: str) -> None:
        assert self.judged(tmp_path, text).faults == ()

    def test_a_finding_names_file_and_line(self, tmp_path: Path) -> None:
        (fault,) = self.judged(tmp_path, "-- why\n\nCREATE INDEX i ON a (b);").faults
        assert (fault.file, fault.line) == ("V1__a.sql", 3)

    def test_a_waiver_with_a_reason_lets_one_rule_pass(self, tmp_path: Path) -> None:
        waiver = "-- waive require-concurrent-index-creation: the table has forty rows\n"
        found = self.judged(tmp_path, f"{waiver}CREATE INDEX i ON a (b);")
        assert found.faults == ()
        assert [reason for _, reason in found.waived] == ["the table has forty rows"]
        both = self.judged(tmp_path, f"{waiver}CREATE INDEX i ON a (b); ALTER TABLE a RENAME COLUMN b TO c;")
        assert rules(both) == {"renaming-column"}

    @pytest.mark.parametrize("waiver", ["-- waive require-concurrent-index-creation", "-- squawk-ignore"])
    def test_silence_without_a_reason_blocks(self, tmp_path: Path, waiver: str) -> None:
        assert "waiver" in rules(self.judged(tmp_path, f"{waiver}\nCREATE INDEX i ON a (b);"))

    def test_a_configuration_in_the_folder_decides_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / ".squawk.toml").write_text('excluded_rules = ["require-concurrent-index-creation"]\n')
        steps = tmp_path / "steps"
        steps.mkdir()
        monkeypatch.chdir(tmp_path)
        assert "require-concurrent-index-creation" in rules(self.judged(steps, "CREATE INDEX i ON a (b);"))

    @pytest.mark.parametrize("report", ["not json", "{}", '[{"file": "a"}]', ""])
    def test_a_report_that_is_not_understood_is_no_permission(self, report: str) -> None:
        with pytest.raises(SquawkUnavailable):
            squawk._read(report, 1)
        with pytest.raises(SquawkUnavailable):
            squawk._read("[]", 2)

    def test_a_file_that_is_gone_is_no_permission(self, tmp_path: Path) -> None:
        with pytest.raises(SquawkUnavailable):
            SquawkProgram()([tmp_path / "nowhere.sql"], transactional=True)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("V1__a.sql", "DROP TABLE a;"),
        ("V1__a.sql", "-- phase: data\nDELETE FROM a;"),
        ("V1__a.cql", "DROP TABLE IF EXISTS a;"),
        ("V1__a.redis", "DEL a"),
        ("V1__a.json", '[{"drop": "a"}]'),
    ],
)
def test_what_destroys_data_belongs_into_the_phase_contract_on_every_engine(
    tmp_path: Path, name: str, text: str
) -> None:
    assert rules(judged(tmp_path, name, text)) == {"destroys-outside-contract"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("V1__a.sql", "-- phase: contract\nDROP TABLE a;"),
        (
            "V1__a.cql",
            "// waive destroys-outside-contract: a table nobody used\nDROP TABLE IF EXISTS a;",
        ),
        ("V1__a.redis", "# phase: contract\nDEL a"),
        ("V1__a.json", '[{"drop": "a", "comment": "phase: contract"}]'),
        (
            "V1__a.json",
            json.dumps([{"drop": "a", "comment": "waive destroys-outside-contract: made by mistake in 1.2"}]),
        ),
    ],
)
def test_there_or_with_a_reason_it_passes(tmp_path: Path, name: str, text: str) -> None:
    assert judged(tmp_path, name, text).faults == ()


def test_a_waiver_for_what_is_not_found_blocks_because_it_would_hide_the_next(tmp_path: Path) -> None:
    text = "-- waive renaming-column: there was one once upon a time\nSELECT 1;"
    assert rules(judged(tmp_path, "V1__a.sql", text)) == {"waiver"}


@pytest.mark.parametrize(
    ("name", "text"), [("V1__a.json", "{"), ("V1__a.cql", "DROP TABLE a"), ("V1__a.redis", "FLUSHALL")]
)
def test_a_file_that_its_adapter_would_refuse_blocks(tmp_path: Path, name: str, text: str) -> None:
    assert rules(judged(tmp_path, name, text)) == {"unreadable"}


def test_so_does_an_undo_file_that_nobody_could_use_in_an_emergency(tmp_path: Path) -> None:
    found = judged(tmp_path, "V1__a.redis", "SET a 1", U1__aDOTredis="FLUSHALL")
    assert [fault.file for fault in found.faults] == ["U1__a.redis"]


@pytest.mark.parametrize("database", list(ENGINES))
def test_the_catalogs_steps_pass(database: str) -> None:
    steps = read_steps(CATALOG / database / "migrations")
    assert lint(ENGINES[database], steps, texts_of(steps), SquawkProgram()).faults == ()


class TestOfACatalog:
    def test_the_shipped_one_has_no_faults(self) -> None:
        assert migration_faults(CATALOG.parent) == ()

    def test_faults_of_all_databases_are_named_at_once_by_file(self, tmp_path: Path) -> None:
        for name, text in {
            "a/migrations/V1__a.sql": "VACUUM x;",
            "b/migrations/notes.txt": "x",
            "c/migrations/V1__a.redis": "FLUSHALL",
            "d/migrations/V1__a.cql": "DROP TABLE IF EXISTS a;",
            "e/migrations/V1__a.json": "[]",
        }.items():
            (tmp_path / "databases" / name).parent.mkdir(parents=True)
            (tmp_path / "databases" / name).write_text(text)
        assert [(fault.file, fault.line) for fault in migration_faults(tmp_path)] == [
            ("databases/a/migrations/V1__a.sql", 1),
            ("databases/b/migrations/notes.txt", None),
            ("databases/c/migrations/V1__a.redis", None),
            ("databases/d/migrations/V1__a.cql", None),
        ]
