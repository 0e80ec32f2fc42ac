"""A backup opens with its folder and the escrow identity alone, in a process that has nothing of the platform."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dr_platform.backups.recovery_kit import plant
from tests.backups import Room, memory_engine, order, room, some_rows

pytestmark = pytest.mark.unit


def machine(tmp_path: Path) -> tuple[Path, Path, Room, str]:
    """The bucket's folder and the identity, copied to where nothing else is; the rest is gone."""
    here = room(tmp_path / "lost")
    engine = memory_engine(some_rows(3000))
    backup_id = here.writer.take(order(), engine).backup_id
    plant(here.bucket, here.keys)
    shutil.copytree(tmp_path / "lost/objects/backups", tmp_path / "found/backups")
    shutil.copy(tmp_path / "lost/escrow/identity.txt", tmp_path / "found/identity.txt")
    public = here.keys.public_key()
    shutil.rmtree(tmp_path / "lost")
    return tmp_path / "found", tmp_path / "found/backups/live" / backup_id, here, public


def run(found: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    script = next((found / "backups/recovery").glob("*/decrypt_backup.py"))
    command = [sys.executable, "-I", script, *arguments]
    return subprocess.run(list(map(str, command)), cwd=found, capture_output=True, text=True, check=False)


def test_the_identity_alone_opens_every_piece(tmp_path: Path) -> None:
    found, backup, _, public = machine(tmp_path)
    done = run(found, backup, "--identity", "identity.txt", "--into", "opened", "--signer", public)
    assert (done.returncode, done.stderr) == (0, "")
    assert "every one verified" in done.stdout
    tables = {file.name: json.loads(file.read_bytes())["rows"] for file in (found / "opened/tables").iterdir()}
    assert {name: rows[name] for name, rows in tables.items()} == some_rows(3000)
    described = json.loads((found / "opened/backup.json").read_bytes())
    assert described["facts"]["tables"][0]["rows"] == 6000


def test_without_a_named_signer_the_key_in_the_bucket_is_used_and_said_to_be_that(tmp_path: Path) -> None:
    found, backup, _, _ = machine(tmp_path)
    done = run(found, backup, "--identity", "identity.txt", "--into", "opened")
    assert done.returncode == 0
    assert "from the bucket itself" in done.stderr


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param("flip", "is not what was written", id="flipped bit"),
        pytest.param("cut", "is not what was written", id="cut part"),
        pytest.param("missing", "is missing", id="missing part"),
        pytest.param("manifest", "signature of manifest.json does not fit", id="edited manifest"),
        pytest.param("identity", "does not open this backup", id="another identity"),
        pytest.param("signer", "no known key signed", id="another signer"),
    ],
)
def test_what_was_altered_is_refused_with_its_reason(tmp_path: Path, damage: str, reason: str) -> None:
    found, backup, _, public = machine(tmp_path)
    part = sorted(backup.glob("parts/tables/*/*"))[-1]
    content = part.read_bytes()
    match damage:
        case "flip":
            part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "cut":
            part.write_bytes(content[:-40])
        case "missing":
            part.unlink()
        case "manifest":
            manifest = backup / "manifest.json"
            manifest.write_bytes(
                manifest.read_bytes().replace(b'"migration_version":"1.2.0"', b'"migration_version":"9"')
            )
        case "identity":
            (found / "identity.txt").unlink()
            assert room(tmp_path / "other").keys.recipients()
            shutil.copy(tmp_path / "other/escrow/identity.txt", found / "identity.txt")
        case "signer":
            public = "00" * 32
    done = run(found, backup, "--identity", "identity.txt", "--into", "opened", "--signer", public)
    assert done.returncode == 1
    assert reason in done.stderr
    assert "must not be used" in done.stderr


def test_the_lanes_of_a_physical_backup_become_one_tar_again(tmp_path: Path) -> None:
    import random

    from dr_platform.backups.port import Kind
    from dr_platform.backups.postgresql.lanes import FRAME
    from tests.backups import MemoryPiece

    blocks = [random.Random(number).randbytes(1000 * (number + 1)) for number in range(5)]
    lanes = [b"", b""]
    for number, block in enumerate(blocks):
        lanes[number % 3 == 0] += FRAME.pack(number, len(block)) + block
    here, engine = room(tmp_path / "lost"), memory_engine()
    ended = FRAME.pack(len(blocks), 0)
    engine.spoil = tuple(MemoryPiece(f"base/{at}", lane + ended) for at, lane in enumerate(lanes))
    backup_id = here.writer.take(order(kind=Kind.PHYSICAL_FULL), engine).backup_id
    plant(here.bucket, here.keys)
    lost = tmp_path / "lost"
    backup = lost / "objects/backups/live" / backup_id
    done = run(lost / "objects", backup, "--identity", lost / "escrow/identity.txt", "--into", tmp_path / "opened")
    assert (done.returncode, "pieces" in done.stdout) == (0, True)
    assert (tmp_path / "opened/base.tar").read_bytes() == b"".join(blocks)
    assert not (tmp_path / "opened/base").exists()


def test_it_says_the_same_as_the_platform_writes() -> None:
    """The format is written down twice; this file is what keeps them from growing apart."""
    from dr_platform.backups import stream
    from dr_platform.backups.stand_alone import decrypt_backup

    assert decrypt_backup.FORMAT == stream.FORMAT
    assert decrypt_backup.CHUNK == stream.CHUNK_BYTES + stream.TAG_BYTES
    assert decrypt_backup.PREFIX == stream.PREFIX_BYTES
