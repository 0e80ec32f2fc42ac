"""The disaster drill with databases in memory: what it needs, in which order, and what its answer is."""

from __future__ import annotations

import fcntl
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dr_platform.backup_desk import TAKEN
from dr_platform.backup_store import bucket_of
from dr_platform.backups.drill import Attempt, Drill, Returned, State
from dr_platform.backups.keys import KeyRing, NoIdentity, NothingToSignWith
from dr_platform.backups.pipeline import BackupWriter, Order
from dr_platform.backups.policy import BackupPolicy
from dr_platform.backups.port import Kind
from dr_platform.backups.proof import Budget, Prover
from dr_platform.backups.reading import BackupReader
from dr_platform.backups.recovery_kit import plant, signers
from dr_platform.backups.switch import subject_of
from dr_platform.catalog import Database, DataClass
from dr_platform.clock import Clock, ManualClock
from dr_platform.drill import DRILLED, IDENTITY, DisasterDrill, DrillRuns, EscrowKeys, identity_of
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.evidence import MemoryEvidenceLog
from dr_platform.platform import Platform, find_catalog
from dr_platform.recovery import drill_verdict, judge_drill
from dr_platform.schema_changes import UnknownDatabase
from dr_platform.state import StateDirectory
from tests.backups import START, MemoryEngine, memory_engine, some_rows

pytestmark = pytest.mark.unit

NAMES = ("redis", "postgres")


class NothingLeft:
    """In the place of the secret store, which the disaster took."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the drill asked the secret store for {name}")


@dataclass
class Place:
    """A platform after the disaster: its bucket, and the identity that a person has."""

    platform: Platform
    identity: Path
    clock: ManualClock
    engines: dict[str, MemoryEngine]
    told: list[str]
    machines: list[StateDirectory]

    def engine(self, database: Database, machine: StateDirectory, _clock: Clock) -> MemoryEngine:
        assert machine.root.is_dir()
        self.machines.append(machine)
        return self.engines[database.name]

    def drill(self, **changes: Any) -> DisasterDrill:
        given: dict[str, Any] = {"progress": self.told.append, "engine_of": self.engine, **changes}
        return DisasterDrill(self.platform, given.pop("identity", self.identity), **given)

    def parts(self, database: str) -> list[Path]:
        return sorted((self.platform.state.objects / "backups" / database).glob("*/parts/**/00000"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    clock = ManualClock(START)
    platform = Platform.open("local", catalog=find_catalog(), state=tmp_path / "state", clock=clock)
    platform.state.make()
    keys, bucket = KeyRing(platform.secrets), bucket_of(platform)
    identity = tmp_path / "held by a person.txt"
    keys.make_escrow(identity)
    plant(bucket, keys)
    writer, reader = BackupWriter(bucket, keys, clock, workers=0), BackupReader(bucket, keys)
    engines = {name: memory_engine(some_rows(20)) for name in NAMES}
    for name, engine in engines.items():
        manifest = writer.take(Order("local", name, Kind.LOGICAL, "a test", "somebody"), engine)
        assert (
            Prover(reader, clock).prove(name, manifest.backup_id, engine, Budget(60, 60), "somebody").state
            == "verified"
        )
    vars(platform)["secrets"] = NothingLeft()
    vars(platform)["evidence"] = MemoryEvidenceLog(clock)
    clock.sleep(600)
    return Place(platform, identity, clock, engines, [], [])


def test_everything_comes_back_from_the_bucket_and_the_identity_alone_in_the_order_of_tiers(place: Place) -> None:
    found = place.drill().run("somebody", NAMES)
    assert [(each.database, each.attempt.state) for each in found.returned] == [
        ("postgres", State.EQUAL),
        ("redis", State.EQUAL),
    ]
    assert (found.passed, found.returned[0].attempt.rows, found.rpo_s) == (True, 60, 600.0)
    assert all(database in found.markdown() for database in NAMES)
    assert all(any(line.startswith(f"{database}: ") for line in place.told) for database in NAMES)


def test_nothing_of_it_is_left(place: Place) -> None:
    place.drill().run("somebody", NAMES)
    assert {machine.root.parent for machine in place.machines} == {place.platform.state.root / "drill"}
    assert not any(machine.root.exists() or machine.run.exists() for machine in place.machines)
    assert [path.name for path in (place.platform.state.root / "drill").iterdir()] == ["lock"]


def test_what_a_killed_drill_left_is_removed_by_the_next(place: Place) -> None:
    left = place.platform.state.root / "drill" / "machine" / "data" / "copy of patients"
    left.parent.mkdir(parents=True)
    left.write_text("left behind")
    place.drill().run("somebody", NAMES)
    assert not left.exists()


def test_it_is_evidence_and_the_check_of_each_database_reads_it(place: Place) -> None:
    place.drill().run("somebody", NAMES)
    (entry,) = place.platform.evidence.entries(kind=DRILLED)
    assert (entry.actor, entry.body["passed"]) == ("somebody", True)
    assert all(drill_verdict(place.platform, name).passed for name in NAMES)
    assert place.platform.clock is place.clock
    place.clock.sleep(36 * 86400)
    assert [drill_verdict(place.platform, name).passed for name in NAMES] == [False, False]


def test_a_damaged_backup_fails_its_own_database_and_no_other(place: Place) -> None:
    part = place.parts("postgres")[0]
    part.chmod(0o600)
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    found = place.drill().run("somebody", NAMES)
    assert [each.attempt.state for each in found.returned] == [State.FAILED, State.EQUAL]
    assert "part altered" in found.returned[0].attempt.reason
    assert found.passed is False
    assert [drill_verdict(place.platform, name).passed for name in ("postgres", "redis")] == [False, True]


def test_a_copy_that_is_something_else_is_no_success(place: Place) -> None:
    engine = place.engines["redis"]

    class Forgetful(MemoryEngine):
        """Its servers lose a row of whatever they are given."""

        def scratch(self) -> Any:
            inner = super().scratch()

            class Losing:
                def __enter__(self) -> Any:
                    place_of_copy = inner.__enter__()
                    own = place_of_copy.restore

                    def restore(chain: Any) -> None:
                        own(chain)
                        place_of_copy.server.databases[place_of_copy.name]["patients"].pop()

                    place_of_copy.restore = restore
                    return place_of_copy

                def __exit__(self, *what: Any) -> Any:
                    return inner.__exit__(*what)

            return Losing()

    place.engines["redis"] = Forgetful(engine.server)
    found = place.drill().run("somebody", ["redis"])
    assert (found.passed, found.returned[0].attempt.state) == (False, State.FAILED)
    assert "rows_equal" in found.returned[0].attempt.reason


def test_a_database_without_a_verified_backup_fails_and_one_that_cannot_be_tried_is_unknown(place: Place) -> None:
    class NoServer(PlatformError):
        exit_code = ExitCode.UNAVAILABLE
        what = "there is no server of this kind"

    class Absent(MemoryEngine):
        def scratch(self) -> Any:
            raise NoServer

    place.engines["redis"] = Absent(place.engines["redis"].server)
    place.engines["mongodb"] = memory_engine()
    found = {each.database: each for each in place.drill().run("somebody", ["redis", "mongodb"]).returned}
    assert found["redis"].passed is None
    assert found["mongodb"].passed is False
    assert "no backup" in found["mongodb"].attempt.reason


def test_the_identity_of_somebody_else_opens_nothing(place: Place, tmp_path: Path) -> None:
    from dr_platform.secrets.embedded import EmbeddedSecretStore

    other = tmp_path / "another.txt"
    KeyRing(EmbeddedSecretStore(tmp_path / "others")).make_escrow(other)
    found = place.drill(identity=other).run("somebody", ["redis"])
    assert "key lost" in found.returned[0].attempt.reason


@pytest.mark.parametrize("content", [None, "no identity", "AGE-SECRET-KEY-1NONSENSE"])
def test_without_an_identity_nothing_is_begun(place: Place, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "identity.txt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(NoIdentity) as refused:
        place.drill(identity=file).run("somebody", NAMES)
    assert "NONSENSE" not in str(refused.value)
    assert place.machines == []


def test_a_signer_that_a_person_wrote_down_is_the_only_one_that_counts(place: Place) -> None:
    found = place.drill(signer="ab" * 32).run("somebody", ["redis"])
    assert found.passed is False
    assert "signature is not ours" in found.returned[0].attempt.reason


def test_only_keys_that_are_named_after_themselves_are_taken_for_signers(place: Place) -> None:
    bucket = bucket_of(place.platform)
    (ours,) = signers(bucket)
    bucket.objects.put("backups/recovery/keys/another.hex", f"{'ab' * 32}\n".encode())
    bucket.objects.put("backups/recovery/keys/nonsense.hex", b"\xffno key")
    assert signers(bucket) == (ours,)


def test_an_interrupted_drill_goes_on_with_what_it_had_not_brought_back(place: Place) -> None:
    engines = dict(place.engines)

    class Interrupting(MemoryEngine):
        def scratch(self) -> Any:
            raise KeyboardInterrupt

    place.engines["redis"] = Interrupting(engines["redis"].server)
    with pytest.raises(KeyboardInterrupt):
        place.drill().run("somebody", NAMES)
    assert not any(machine.root.exists() for machine in place.machines)
    place.engines.update(engines)
    place.machines.clear()
    found = place.drill().run("somebody", NAMES)
    assert (found.passed, len(found.returned), len(place.machines)) == (True, 2, 1)
    assert sum("before the drill was interrupted" in line for line in place.told) == 1
    assert engines["postgres"].ended.count("scratch") == 2, "once for its proof and once for the drill"


def test_what_was_brought_back_long_ago_is_brought_back_again(place: Place) -> None:
    journal = place.platform.state.root / "drill" / "journal.json"
    place.drill().run("somebody", ["redis"])
    assert not journal.exists()
    backup = place.parts("redis")[0].relative_to(place.platform.state.objects / "backups" / "redis").parts[0]
    old = Returned("redis", 3, Attempt(State.EQUAL, ""), START - timedelta(hours=25), 60, 60, backup)
    journal.write_text(_lines(old))
    before = place.engines["redis"].ended.count("scratch")
    place.drill().run("somebody", ["redis"])
    assert place.engines["redis"].ended.count("scratch") == before + 1


def _lines(*returned: Returned) -> str:
    import json

    return json.dumps([each.as_json() for each in returned])


def test_two_drills_at_once_are_not_possible(place: Place) -> None:
    folder = place.platform.state.root / "drill"
    folder.mkdir()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DrillRuns):
            place.drill().run("somebody", NAMES)
    assert place.machines == []


def test_a_database_that_there_is_not_is_refused(place: Place) -> None:
    with pytest.raises(UnknownDatabase, match="oracle"):
        place.drill().run("somebody", ["oracle"])


def test_the_escrow_identity_signs_nothing(place: Place) -> None:
    with pytest.raises(NothingToSignWith):
        EscrowKeys.of_file(place.identity, ()).sign(b"")


def test_whose_identity_it_is(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(IDENTITY, raising=False)
    platform = place.platform
    assert identity_of(platform, None) == platform.state.root / "escrow" / "identity.txt"
    assert identity_of(platform, tmp_path) == tmp_path
    platform.binding = replace(platform.binding, data_class=DataClass.PHI)
    with pytest.raises(NoIdentity):
        identity_of(platform, None)
    monkeypatch.setenv(IDENTITY, "/run/identity")
    assert identity_of(platform, None) == Path("/run/identity")


def test_the_first_drill_is_due_as_long_after_the_first_backup_as_a_drill_counts(place: Place) -> None:
    for _ in range(2):
        place.platform.evidence.append(TAKEN, subject_of("redis"), "somebody", {})
        place.clock.sleep(86400)
    place.clock.sleep(33 * 86400)
    assert drill_verdict(place.platform, "redis").passed is True
    place.clock.sleep(1)
    assert drill_verdict(place.platform, "redis").passed is False


def test_without_a_backup_nothing_speaks_for_coming_back(place: Place) -> None:
    assert drill_verdict(place.platform, "redis").passed is False


def returned(**changes: Any) -> Returned:
    plain = Returned("redis", 3, Attempt(State.EQUAL, "9 checks", 12.0), START, 60.0, 3600.0, "b", backup_age_s=600.0)
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("changes", "passed", "broken"),
    [
        pytest.param({}, True, (), id="equal and in time"),
        pytest.param({"rto_s": 11.9}, False, ("rto",), id="too slow"),
        pytest.param({"rpo_s": 599.0}, False, ("rpo",), id="too much would have been lost"),
        pytest.param({"rpo_s": 599.0, "log_age_s": 60.0}, True, (), id="the archived log has what is newer"),
        pytest.param({"attempt": Attempt(State.UNKNOWN, "")}, None, (), id="not tried is not passed"),
        pytest.param({"attempt": Attempt(State.FAILED, "")}, False, (), id="failed"),
    ],
)
def test_a_database_is_back_when_it_is_equal_and_its_promises_are_kept(
    changes: dict[str, Any], passed: bool | None, broken: tuple[str, ...]
) -> None:
    found = returned(**changes)
    assert (found.passed, found.broken) == (passed, broken)


@pytest.mark.parametrize(
    ("states", "passed"),
    [((), False), (("equal",), True), (("equal", "unknown"), None), (("unknown", "failed"), False)],
)
def test_a_drill_is_as_good_as_the_worst_of_its_databases(states: tuple[str, ...], passed: bool | None) -> None:
    each = tuple(returned(attempt=Attempt(State(state), "")) for state in states)
    assert Drill("local", START, 1.0, each).passed is passed


@pytest.mark.parametrize(("age", "passed"), [(timedelta(days=35), True), (timedelta(days=35, seconds=1), False)])
def test_a_drill_counts_as_long_as_the_policy_says(age: timedelta, passed: bool) -> None:
    told = {"restore_s": 12.0, "lost_s": None, "passed": True, "state": "equal", "reason": ""}
    assert judge_drill(told, START, BackupPolicy(), START + age).passed is passed
