"""Every way in which a backup can go wrong is found, with its reason, and costs no earlier backup."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dr_platform.backups.catalogue import Catalogue, State
from dr_platform.backups.errors import BackupFailed, Cause, DamagedBackup
from dr_platform.backups.keys import ESCROW, SIGNING, KeyRing
from dr_platform.backups.manifest import Manifest, canonical
from dr_platform.backups.port import Kind, TableFacts
from dr_platform.backups.proof import Budget, Prover, compared, judged
from dr_platform.secrets.embedded import EmbeddedSecretStore
from tests.backups import (
    MemoryEngine,
    MemoryPiece,
    MemoryServer,
    Room,
    facts_of,
    memory_engine,
    order,
    room,
    some_rows,
)

pytestmark = pytest.mark.unit

BUDGET = Budget(restore_s=60, limit_s=60)


def prove(here: Room, engine: MemoryEngine, backup_id: str, budget: Budget = BUDGET) -> None:
    Prover(here.reader, here.clock).prove("live", backup_id, engine, budget, "somebody")


def state(here: Room, backup_id: str) -> tuple[State, str]:
    record = Catalogue(here.bucket, here.keys).listing("live").find(backup_id)
    return record.state, record.reason


def two(tmp_path: Path) -> tuple[Room, MemoryEngine, Manifest, Manifest]:
    """An earlier backup that is verified, and a newer one that nobody has looked at."""
    here, engine = room(tmp_path), memory_engine(some_rows(3000))
    first = here.writer.take(order(), engine)
    prove(here, engine, first.backup_id)
    here.clock.sleep(3600)
    second = here.writer.take(order(), engine)
    return here, engine, first, second


def manifest_of(here: Room, manifest: Manifest) -> Path:
    return here.folder / "objects/backups/live" / manifest.backup_id / "manifest.json"


def test_a_backup_that_was_restored_and_is_equal_is_verified(tmp_path: Path) -> None:
    here, engine, first, second = two(tmp_path)
    assert state(here, first.backup_id)[0] is State.VERIFIED
    assert state(here, second.backup_id) == (State.UNVERIFIED, "not restored yet")
    assert engine.ended == ["scratch"]


def test_a_flipped_bit_in_any_part_is_found(tmp_path: Path) -> None:
    here, engine, first, second = two(tmp_path)
    files = here.object_files(second.backup_id)
    assert len(files) > 3
    for file in files:
        sound = file.read_bytes()
        damaged = bytearray(sound)
        damaged[len(sound) // 2] ^= 1
        file.write_bytes(damaged)
        here.clock.sleep(1)
        prove(here, engine, second.backup_id)
        found, reason = state(here, second.backup_id)
        assert found is State.FAILED
        assert reason.startswith(f"parts_intact: part altered: parts/{file.parts[-3]}/{file.parts[-2]}/{file.name}")
        file.write_bytes(sound)
    assert state(here, first.backup_id)[0] is State.VERIFIED


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(lambda files: files[-1].write_bytes(files[-1].read_bytes()[:-30]), "part truncated", id="cut"),
        pytest.param(lambda files: files[-1].write_bytes(b""), "part truncated", id="emptied"),
        pytest.param(lambda files: files[0].unlink(), "part missing", id="missing"),
        pytest.param(
            lambda files: (
                files[0].rename(files[0].with_name("away")),
                files[1].rename(files[0]),
                files[0].with_name("away").rename(files[1]),
            ),
            "parts swapped",
            id="swapped",
        ),
    ],
)
def test_a_part_that_is_not_what_was_written_is_told_by_its_damage(
    tmp_path: Path, damage: Callable[[list[Path]], object], reason: str
) -> None:
    here, engine, first, second = two(tmp_path)
    damage(here.object_files(second.backup_id))
    prove(here, engine, second.backup_id)
    found, told = state(here, second.backup_id)
    assert found is State.FAILED
    assert told.startswith(f"parts_intact: {reason}")
    assert state(here, first.backup_id)[0] is State.VERIFIED


def test_another_key_than_the_one_that_was_used_opens_nothing(tmp_path: Path) -> None:
    here, engine, _first, second = two(tmp_path)
    secrets = here.keys.secrets
    signing, escrow = secrets.read(SIGNING), secrets.read(ESCROW)
    other = EmbeddedSecretStore(tmp_path / "other")
    other.write(SIGNING, signing or {}, category="encryption-keys", expected=None)
    other.write(ESCROW, escrow or {}, category="encryption-keys", expected=None)
    keys = KeyRing(other)
    stranger = replace(here, keys=keys, reader=replace(here.reader, keys=keys))
    with pytest.raises(DamagedBackup, match="key lost"):
        stranger.reader.chain("live", second.backup_id)
    keys.rotate()
    prove(stranger, engine, second.backup_id)
    found, reason = state(here, second.backup_id)
    assert found is State.FAILED
    assert "wrong key" in reason


def test_backups_from_before_a_rotation_still_open(tmp_path: Path) -> None:
    here, engine, _first, second = two(tmp_path)
    assert here.keys.rotate() == 2
    signing = here.keys.secrets.metadata(SIGNING)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    fields = {"private": key.private_bytes_raw().hex(), "public": key.public_key().public_bytes_raw().hex()}
    here.keys.secrets.write(SIGNING, fields, category="encryption-keys", expected=signing.version if signing else None)
    third = here.writer.take(order(), engine)
    for manifest, version in ((second, 1), (third, 2)):
        prove(here, engine, manifest.backup_id)
        assert state(here, manifest.backup_id)[0] is State.VERIFIED
        assert manifest.data_key.version == version


def test_an_edited_manifest_is_refused(tmp_path: Path) -> None:
    here, engine, first, second = two(tmp_path)
    file = manifest_of(here, second)
    document = json.loads(file.read_bytes())
    document["facts"]["migration_version"] = "9.9.9"
    file.write_bytes(canonical(document))
    found, reason = state(here, second.backup_id)
    assert found is State.FAILED
    assert reason.startswith("manifest altered")
    with pytest.raises(DamagedBackup, match="manifest altered"):
        prove(here, engine, second.backup_id)
    assert state(here, first.backup_id)[0] is State.VERIFIED


def test_an_old_manifest_in_the_place_of_a_new_one_is_refused(tmp_path: Path) -> None:
    here, _engine, first, second = two(tmp_path)
    shutil.copy(manifest_of(here, first), manifest_of(here, second))
    found, reason = state(here, second.backup_id)
    assert found is State.FAILED
    assert reason.startswith("manifest replayed")


def test_the_proof_of_another_backup_proves_nothing(tmp_path: Path) -> None:
    here, _engine, first, second = two(tmp_path)
    folder = here.folder / "objects/backups/live"
    (folder / second.backup_id / "proofs").mkdir()
    proof = next((folder / first.backup_id / "proofs").iterdir())
    shutil.copy(proof, folder / second.backup_id / "proofs" / proof.name)
    assert state(here, second.backup_id)[0] is State.FAILED


def test_a_proved_backup_whose_manifest_is_gone_is_not_forgotten(tmp_path: Path) -> None:
    here, _engine, first, _second = two(tmp_path)
    manifest_of(here, first).unlink()
    found, reason = state(here, first.backup_id)
    assert found is State.FAILED
    assert reason.startswith("manifest missing")


def test_a_target_without_the_extension_fails_the_proof(tmp_path: Path) -> None:
    here, engine, _first, second = two(tmp_path)
    engine.scratch_server = MemoryServer()
    prove(here, engine, second.backup_id)
    assert state(here, second.backup_id) == (State.FAILED, "restores: the target has no extension vector")
    assert engine.ended == ["scratch", "scratch"]


def test_a_copy_that_is_not_equal_fails_the_proof(tmp_path: Path) -> None:
    here, engine = room(tmp_path), memory_engine()
    engine.spoil = (MemoryPiece("tables/zz", json.dumps({"rows": {"patients": ["nobody"]}}).encode()),)
    manifest = here.writer.take(order(), engine)
    prove(here, engine, manifest.backup_id)
    assert state(here, manifest.backup_id) == (State.FAILED, "rows_equal: 1 tables differ: patients: 1 of 200")


def test_a_restore_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    here, engine, _first, second = two(tmp_path)
    released = threading.Event()

    entered = replace(engine.server, databases=_Waiting({"scratch": {}}, released))
    engine.scratch_server = entered
    try:
        prove(here, engine, second.backup_id, Budget(restore_s=1, limit_s=0.2))
    finally:
        released.set()
    found, reason = state(here, second.backup_id)
    assert found is State.FAILED
    assert "was ended after" in reason


class _Waiting(dict):  # type: ignore[type-arg]
    """Databases whose first use waits."""

    def __init__(self, content: dict[str, object], released: threading.Event) -> None:
        super().__init__(content)
        self._released = released

    def __getitem__(self, name: str) -> object:
        assert self._released.wait(30)
        return super().__getitem__(name)


def test_a_store_without_room_fails_with_that_reason_and_gets_its_room_back(tmp_path: Path) -> None:
    program = """
import subprocess, sys, pathlib
folder = pathlib.Path(sys.argv[1])
(folder / "objects").mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder / "objects"], check=True)
sys.path.insert(0, sys.argv[2])
from tests.unit.test_backup_faults import take_without_room
take_without_room(folder)
"""
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", program]
    if subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], check=False).returncode:
        pytest.skip("this kernel lets nobody mount a small file system")
    root = Path(__file__).parents[2]
    done = subprocess.run([*command, tmp_path, root], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()) == (0, [Cause.STORE_FULL, "failed.json"]), done.stderr


def take_without_room(folder: Path) -> None:
    """In a process whose store is a file system of 200 KiB."""
    import random

    here = room(folder).with_writer(part_bytes=50_000)
    noise = random.Random(1).randbytes(400_000).hex()
    engine = memory_engine({"patients": [noise[at : at + 1000] for at in range(0, len(noise), 1000)]})
    try:
        here.writer.take(order(), engine)
    except BackupFailed as exc:
        print(exc.cause)
    print(*(p.name for p in (folder / "objects/backups").rglob("*") if p.is_file()))


def test_an_incremental_backup_is_worth_what_its_parent_is(tmp_path: Path) -> None:
    here, engine, first, _second = two(tmp_path)
    parent = here.reader.chain("live", first.backup_id)[-1]
    child = here.writer.take(order(kind=Kind.PHYSICAL_INCREMENTAL), engine, parent)
    prove(here, engine, child.backup_id)
    assert state(here, child.backup_id)[0] is State.VERIFIED
    shutil.rmtree(manifest_of(here, first).parent)
    assert state(here, child.backup_id) == (State.FAILED, f"parent missing: {first.backup_id}")


def test_counts_of_a_source_that_went_on_changing_are_lower_bounds() -> None:
    source = replace(facts_of({"a": ["1", "2"]}, {}, ""), exact=False)
    more, fewer = facts_of({"a": ["1", "2", "3"]}, {}, ""), facts_of({"a": ["1"]}, {}, "")
    assert {c.name: c.passed for c in compared(source, more)}["rows_equal"] is True
    assert {c.name: c.passed for c in compared(source, more)}["fingerprints_equal"] is None
    assert {c.name: c.passed for c in compared(source, fewer)}["rows_equal"] is False


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        pytest.param({"migration_version": "1.1.0"}, "migration_equal", id="migration"),
        pytest.param({"schema_fingerprint": "x"}, "schema_equal", id="schema"),
        pytest.param({"heartbeat": "yesterday"}, "heartbeat", id="heartbeat"),
        pytest.param({"extensions": {}}, "extensions", id="extension"),
        pytest.param({"algorithm": "md5"}, "fingerprints_equal", id="algorithm"),
        pytest.param({"tables": (TableFacts("a", 1, "another"),)}, "fingerprints_equal", id="content"),
        pytest.param({"tables": ()}, "rows_equal", id="table gone"),
    ],
)
def test_each_difference_has_a_check_of_its_own(change: dict[str, object], failing: str) -> None:
    source = facts_of({"a": ["1"]}, {"vector": "1"}, "now")
    checks = tuple(compared(source, replace(source, **change)))
    assert failing in {check.name for check in checks if check.passed is False}
    assert {check.passed for check in compared(source, source)} == {True}


def test_what_was_not_tried_proves_nothing() -> None:
    assert judged(())[0] == "unknown"
