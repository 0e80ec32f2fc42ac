"""Reading and planning schema steps: names, order, checksums, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.databases.port import AppliedStep, EditedMigration, OutOfOrderMigration, Phase, SchemaStep
from dr_platform.databases.schema import (
    MalformedMigrations,
    StepBefore,
    chosen,
    find_applied,
    plan,
    read_steps,
    text_of,
    version_key,
)
from dr_platform.errors import ExitCode

pytestmark = pytest.mark.unit

CATALOG = Path(__file__).parents[2] / "catalog" / "databases"
VERSIONS = st.lists(st.integers(0, 300), min_size=1, max_size=4).map(lambda numbers: ".".join(map(str, numbers)))


def write(folder: Path, **files: str | bytes) -> Path:
    """Files by name, with ``DOT`` for the dot."""
    for name, content in files.items():
        path = folder / name.replace("DOT", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def a_step(version: str, checksum: str = "") -> SchemaStep:
    return SchemaStep(version, "a step", Path(f"V{version}__a_step.sql"), checksum or f"sum of {version}")


def recorded(version: str, checksum: str = "") -> AppliedStep:
    return AppliedStep(version, "a step", checksum or f"sum of {version}", "2026-01-01T00:00:00+00:00", 1.0)


class TestReading:
    def test_a_name_says_version_and_description(self, tmp_path: Path) -> None:
        (step,) = read_steps(write(tmp_path, V1_2_0__add_new_columnDOTsql="SELECT 1;"))
        assert (step.version, step.description) == ("1.2.0", "add new column")
        assert step.path == tmp_path / "V1_2_0__add_new_column.sql"

    def test_steps_are_ordered_by_number_and_not_by_text(self, tmp_path: Path) -> None:
        write(tmp_path, V1_10__cDOTsql="c", V1_9__bDOTsql="b", V1__aDOTsql="a", V02__dDOTsql="d")
        assert [step.description for step in read_steps(tmp_path)] == ["a", "b", "c", "d"]

    def test_undo_files_read_me_and_hidden_files_are_no_steps(self, tmp_path: Path) -> None:
        write(tmp_path, V1__aDOTsql="a", U1__aDOTsql="b", READMEDOTmd="# c", DOTgitkeep="")
        assert [step.version for step in read_steps(tmp_path)] == ["1"]

    def test_a_folder_that_does_not_exist_has_no_steps(self, tmp_path: Path) -> None:
        assert read_steps(tmp_path / "nowhere") == ()

    @pytest.mark.parametrize(
        "name",
        [
            "1_0_0__first.sql",
            "V1_0_0_first.sql",
            "v1__first.sql",
            "V1__First.sql",
            "V__first.sql",
            "V1__.sql",
            "V1_a__first.sql",
            "V1__first",
            "V1__first.sql~",
            "V1__first.py",
            "V1.0__first.sql",
            "V1__a__b.sql",
            "notes.txt",
        ],
    )
    def test_other_names_are_refused_by_name(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("SELECT 1;")
        with pytest.raises(MalformedMigrations) as refusal:
            read_steps(tmp_path)
        assert name in refusal.value.what
        assert refusal.value.exit_code is ExitCode.REFUSED

    def test_two_files_of_one_version_are_refused_also_with_trailing_zeros(self, tmp_path: Path) -> None:
        write(tmp_path, V1_2__oneDOTsql="a", V1_2_0__twoDOTsql="b")
        with pytest.raises(MalformedMigrations, match=r"V1_2\w+\.sql: has the same version as V1_2\w+\.sql"):
            read_steps(tmp_path)

    @pytest.mark.parametrize(
        ("content", "problem"),
        [(b"", "empty"), (b" \n\t\n", "empty"), (b"\xff\xfe", "UTF-8"), (b"SELECT 1;\0", "NUL")],
    )
    def test_content_that_is_no_text_is_refused(self, tmp_path: Path, content: bytes, problem: str) -> None:
        write(tmp_path, V1__badDOTsql=content)
        with pytest.raises(MalformedMigrations, match=problem):
            read_steps(tmp_path)

    def test_a_folder_among_the_steps_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "V1__folder.sql").mkdir()
        with pytest.raises(MalformedMigrations, match="not a file"):
            read_steps(tmp_path)

    def test_all_faults_are_named_at_once(self, tmp_path: Path) -> None:
        write(tmp_path, V1__emptyDOTsql="", notesDOTtxt="x", V2__aDOTsql="a", V2_0__bDOTsql="b")
        with pytest.raises(MalformedMigrations) as refusal:
            read_steps(tmp_path)
        assert all(name in refusal.value.what for name in ("V1__empty.sql", "notes.txt", "V2_0__b.sql"))

    def test_line_ends_and_byte_order_mark_are_no_edit_but_a_letter_is(self, tmp_path: Path) -> None:
        def checksum(content: bytes) -> str:
            return read_steps(write(tmp_path, V1__aDOTsql=content))[0].checksum

        assert checksum(b"SELECT 1;\nSELECT 2;\n") == checksum(b"\xef\xbb\xbfSELECT 1;\r\nSELECT 2;\r\n")
        assert checksum(b"SELECT 1;\n") != checksum(b"SELECT 2;\n")

    def test_a_file_that_changed_since_it_was_read_is_refused(self, tmp_path: Path) -> None:
        (step,) = read_steps(write(tmp_path, V1__aDOTsql="SELECT 1;"))
        assert text_of("db", step, ".sql") == "SELECT 1;"
        write(tmp_path, V1__aDOTsql="SELECT 2;")
        with pytest.raises(EditedMigration):
            text_of("db", step, ".sql")

    def test_an_error_survives_pickling(self) -> None:
        import pickle

        error = MalformedMigrations("migrations", (("V1.sql", "is odd"),))
        assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 - our own bytes

    @pytest.mark.parametrize("database", ["postgres", "mongodb", "redis", "scylladb"])
    def test_the_catalogs_steps_are_well_formed(self, database: str) -> None:
        steps = read_steps(CATALOG / database / "migrations")
        assert steps
        assert len({step.path.suffix for step in steps}) == 1


class TestPhases:
    @pytest.mark.parametrize(
        ("extension", "text", "phase"),
        [
            (".sql", "ALTER TABLE a ADD b int;", Phase.EXPAND),
            (".sql", "-- phase: contract\nALTER TABLE a DROP b;", Phase.CONTRACT),
            (".sql", "-- Why this is safe.\n\n--phase:data\nUPDATE a SET b = 1;", Phase.DATA),
            (".sql", "-- Phase: expand\nSELECT 1;", Phase.EXPAND),
            (".sql", "-- This phase: contract is what we avoid.\nSELECT 1;", Phase.EXPAND),
            (".cql", "// phase: contract\nDROP TABLE a;", Phase.CONTRACT),
            (".redis", "# phase: data\nHSET a b c", Phase.DATA),
            (".json", '[{"drop": "notes", "comment": "phase: contract"}]', Phase.CONTRACT),
            (".json", '[{"drop": "notes", "comment": "no one reads it"}]', Phase.EXPAND),
            (".json", "[]", Phase.EXPAND),
        ],
    )
    def test_a_step_states_its_phase_above_its_first_statement(
        self, tmp_path: Path, extension: str, text: str, phase: Phase
    ) -> None:
        (tmp_path / f"V1__a{extension}").write_text(text)
        assert [step.phase for step in read_steps(tmp_path)] == [phase]

    @pytest.mark.parametrize(
        ("extension", "text", "problem"),
        [
            (".sql", "-- phase: remove\nSELECT 1;", "choose one of expand, data, contract"),
            (".sql", "-- phase:\nSELECT 1;", "choose one of expand, data, contract"),
            (".sql", "-- phase: Contract\nSELECT 1;", "choose one of expand, data, contract"),
            (".sql", "-- phase: data\n-- phase: contract\nSELECT 1;", "twice"),
            (".sql", "SELECT 1;\n-- phase: contract\n", "below its first statement"),
            (".json", '[{"drop": "notes", "comment": "phase: gone"}]', "choose one of expand, data, contract"),
        ],
    )
    def test_a_phase_that_would_be_missed_is_refused(
        self, tmp_path: Path, extension: str, text: str, problem: str
    ) -> None:
        (tmp_path / f"V1__a{extension}").write_text(text)
        with pytest.raises(MalformedMigrations, match=problem):
            read_steps(tmp_path)


class TestPlanning:
    STEPS = (a_step("1.0.0"), a_step("1.0.1"), a_step("1.1"))

    @pytest.mark.parametrize("count", range(4))
    def test_what_is_not_recorded_is_still_to_do_in_order(self, count: int) -> None:
        applied = [recorded(step.version) for step in self.STEPS[:count]]
        assert plan("db", self.STEPS, applied) == self.STEPS[count:]

    def test_an_edited_step_is_refused_also_when_a_later_one_is_missing(self) -> None:
        with pytest.raises(EditedMigration, match=r"1\.0\.0"):
            plan("db", self.STEPS, [recorded("1.0.0", "another sum")])

    def test_a_step_below_the_newest_record_is_refused(self) -> None:
        with pytest.raises(OutOfOrderMigration, match=r"1\.0\.1 .* newer 1\.1 "):
            plan("db", self.STEPS, [recorded("1.0.0"), recorded("1.1")])

    def test_order_goes_by_number(self) -> None:
        assert plan("db", (a_step("1.9"), a_step("1.10")), [recorded("1.9")]) == (a_step("1.10"),)

    def test_records_without_a_file_are_no_fault(self) -> None:
        assert plan("db", self.STEPS[:1], [recorded("1.0.0"), recorded("7")]) == ()

    def test_the_same_version_written_otherwise_is_the_same_step(self) -> None:
        assert find_applied("db", a_step("1.0", "s"), [recorded("1", "s")]) == recorded("1", "s")

    @given(st.lists(VERSIONS, unique_by=version_key, max_size=8), st.integers(0, 8))
    def test_planning_after_any_prefix_leaves_the_rest(self, versions: list[str], count: int) -> None:
        steps = tuple(a_step(version) for version in sorted(versions, key=version_key))
        applied = [recorded(step.version) for step in steps[:count]]
        assert plan("db", steps, applied) == steps[count:]

    def test_steps_that_wait_are_left_out_and_none_overtakes_one_that_is_missing(self) -> None:
        first, *later = self.STEPS
        assert chosen("db", self.STEPS, None) == self.STEPS
        assert chosen("db", self.STEPS, {first.version}) == (first,)
        assert chosen("db", later, {first.version}) == ()
        with pytest.raises(StepBefore) as refused:
            chosen("db", self.STEPS, {later[0].version})
        assert first.version in str(refused.value)

    @given(VERSIONS, VERSIONS)
    def test_versions_compare_like_their_numbers(self, left: str, right: str) -> None:
        numbers = [[*map(int, version.split(".")), *[0] * 4][:4] for version in (left, right)]
        assert (version_key(left) < version_key(right)) == (numbers[0] < numbers[1])
        assert (version_key(left) == version_key(right)) == (numbers[0] == numbers[1])
