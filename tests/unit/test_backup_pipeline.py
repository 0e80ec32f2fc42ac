"""Backups are written whole or not at all, and come back byte by byte."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.backups.bucket import segment_of
from dr_platform.backups.errors import BackupFailed, Cause
from dr_platform.objects import open_objects
from tests.backups import BrokenPiece, EndingPiece, MemoryPiece, ToolPiece, memory_engine, order, room

pytestmark = pytest.mark.unit


def test_what_was_written_comes_back_byte_by_byte(tmp_path: Path) -> None:
    here, engine = room(tmp_path), memory_engine()
    manifest = here.writer.take(order(), engine)
    (backup,) = here.reader.chain("live", manifest.backup_id)
    with engine.snapshot(manifest.kind) as snapshot:
        written = {piece.name: piece.content for piece in snapshot.pieces()}
    assert {piece.name: b"".join(piece.read()) for piece in backup.pieces} == written
    assert backup.facts == manifest.facts
    assert backup.facts.tables[1].rows == 200


def test_pieces_are_read_by_other_processes_and_travel_back_to_them(tmp_path: Path) -> None:
    here, engine = room(tmp_path).with_writer(workers=2), memory_engine()
    manifest = here.writer.take(order(), engine)
    (backup,) = pickle.loads(pickle.dumps(here.reader.chain("live", manifest.backup_id)))  # noqa: S301
    assert sum(len(b"".join(piece.read())) for piece in backup.pieces) == manifest.raw_bytes


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("piece", "cause"),
    [
        pytest.param(MemoryPiece("tables/empty", b""), Cause.NOTHING_READ, id="0-byte output"),
        pytest.param(BrokenPiece("tables/broken", b"x" * 9000), Cause.TOOL_FAILED, id="connection that breaks"),
        pytest.param(
            ToolPiece("dump", b"", program="import os; os.write(1, b'x' * 99999); os.kill(os.getpid(), 9)"),
            Cause.TOOL_FAILED,
            id="tool killed in the middle",
        ),
        pytest.param(
            ToolPiece("dump", b"", program="raise SystemExit(3)"), Cause.TOOL_FAILED, id="failing first stage"
        ),
    ],
)
def test_a_piece_that_was_not_read_whole_fails_the_backup_and_leaves_no_part(
    tmp_path: Path, piece: MemoryPiece, cause: Cause, workers: int
) -> None:
    here, engine = room(tmp_path).with_writer(workers=workers), memory_engine()
    engine.spoil = (piece,)
    with pytest.raises(BackupFailed) as failed:
        here.writer.take(order(), engine)
    assert failed.value.cause is cause
    assert "Lovelace" not in str(failed.value)
    assert [p.name for p in (tmp_path / "objects/backups/live").rglob("*") if p.is_file()] == ["failed.json"]


@given(st.lists(st.text(min_size=1, max_size=255), min_size=1, max_size=5, unique=True))
def test_every_name_of_a_table_can_be_part_of_the_name_of_an_object_and_stays_its_own(names: list[str]) -> None:
    objects = open_objects("memory://")
    for name in names:
        objects.put(f"collections/{segment_of(name)}/0000", name.encode(errors="surrogatepass"))
    assert len(list(objects.list("collections"))) == len(names)


@pytest.mark.parametrize("name", [".", "..", "a b/c", "%", "=25", "x" * 255, "." * 200, "messages"])
def test_odd_names_too(name: str) -> None:
    open_objects("memory://").put(f"collections/{segment_of(name)}/0000", b"")


def test_a_process_of_ours_that_is_killed_fails_the_backup_with_that_reason(tmp_path: Path) -> None:
    here, engine = room(tmp_path).with_writer(workers=2), memory_engine()
    engine.spoil = (EndingPiece("tables/large", b"x" * 9000),)
    with pytest.raises(BackupFailed) as failed:
        here.writer.take(order(), engine)
    assert failed.value.cause is Cause.WORKER_ENDED
    assert [p.name for p in (tmp_path / "objects/backups/live").rglob("*") if p.is_file()] == ["failed.json"]
