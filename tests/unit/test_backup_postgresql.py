"""Decisions and formats of PostgreSQL's backups that need no server."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.backups.errors import Damage, DamagedBackup
from dr_platform.backups.postgresql.archive import WalArchive
from dr_platform.backups.postgresql.errors import ArchiveConflict, ToolFailed
from dr_platform.backups.postgresql.lanes import FRAME, BrokenLanes, Dealer, in_blocks, merged, read_lane, read_last
from dr_platform.backups.postgresql.load import ahead
from dr_platform.backups.postgresql.manifest import BackupManifest, BadManifest, ListedFile, differences, read_manifest
from dr_platform.backups.postgresql.postdata import take_apart
from dr_platform.backups.postgresql.scratch import why_it_ended
from dr_platform.backups.postgresql.unpack import NotAsListed, unpack
from dr_platform.databases.embedded.files import invoking_user
from dr_platform.databases.embedded.postgresql_archive import archive_settings
from tests.backups import START, room

pytestmark = pytest.mark.unit


# The server's list of files


def listed(files: Mapping[str, bytes]) -> bytes:
    """As the server writes it: the last line holds the checksum of everything before."""
    entries = [
        {
            "Path": path,
            "Size": len(content),
            "Last-Modified": "2026-11-26 00:00:00 GMT",
            "Checksum-Algorithm": "SHA256",
            "Checksum": hashlib.sha256(content).hexdigest(),
        }
        for path, content in files.items()
    ]
    body = ",\n".join(map(json.dumps, entries))
    ranges = '{ "Timeline": 1, "Start-LSN": "0/28", "End-LSN": "0/120" }'
    head = f'{{ "PostgreSQL-Backup-Manifest-Version": 2,\n"System-Identifier": 7,\n"Files": [\n{body}\n],\n'
    head += f'"WAL-Ranges": [\n{ranges}\n],\n'
    return (head + f'"Manifest-Checksum": "{hashlib.sha256(head.encode()).hexdigest()}"}}\n').encode()


def archive_of(files: Mapping[str, bytes]) -> Iterator[bytes]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, content in files.items():
            for folder in reversed(Path(path).parents[:-1]):
                info = tarfile.TarInfo(str(folder))
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            info = tarfile.TarInfo(path)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    for at in range(0, len(buffer.getvalue()), 700):
        yield buffer.getvalue()[at : at + 700]


FILES = {"PG_VERSION": b"18\n", "base/1/1259": bytes(range(256)) * 64, "global/pg_control": b"control"}


def test_a_manifest_is_read_as_the_server_wrote_it() -> None:
    manifest = read_manifest(listed(FILES))
    assert manifest.system_identifier == "7"
    assert manifest.files["PG_VERSION"] == ListedFile(3, hashlib.sha256(b"18\n").hexdigest())
    assert manifest.wal[0].end_lsn == "0/120"


@given(at=st.integers(0, len(listed(FILES)) - 1), bit=st.integers(0, 7))
def test_no_bit_of_a_manifest_changes_unseen(at: int, bit: int) -> None:
    content = bytearray(listed(FILES))
    content[at] ^= 1 << bit
    try:
        manifest = read_manifest(bytes(content))
    except BadManifest:
        return
    assert manifest == read_manifest(listed(FILES))  # only what is written around the checksum


def test_a_manifest_that_ends_early_is_refused() -> None:
    whole = listed(FILES)
    for end in range(0, len(whole) - 70, 97):
        with pytest.raises(BadManifest):
            read_manifest(whole[:end])


def test_every_file_is_compared_while_it_is_written(tmp_path: Path) -> None:
    more = {**FILES, "pg_wal/000000010000000000000001": b"log"}
    unpack(archive_of(more), tmp_path / "data", read_manifest(listed(FILES)), invoking_user())
    found = {
        str(p.relative_to(tmp_path / "data")): p.read_bytes() for p in (tmp_path / "data").rglob("*") if p.is_file()
    }
    assert found == more
    assert (tmp_path / "data" / "PG_VERSION").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        pytest.param({**FILES, "PG_VERSION": b"17\n"}, "PG_VERSION is not as listed", id="altered"),
        pytest.param({k: v for k, v in FILES.items() if k != "base/1/1259"}, "base/1/1259 is missing", id="missing"),
        pytest.param({**FILES, "base/1/9": b""}, "base/1/9 is not listed", id="added"),
        pytest.param({**FILES, "../outside": b""}, "outside of the folder", id="outside"),
        pytest.param({**FILES, "/etc/passwd": b""}, "outside of the folder", id="absolute"),
    ],
)
def test_an_archive_that_is_not_as_listed_is_refused(tmp_path: Path, files: Mapping[str, bytes], reason: str) -> None:
    with pytest.raises(NotAsListed, match=reason):
        unpack(archive_of(files), tmp_path / "data", read_manifest(listed(FILES)), invoking_user())
    assert not (tmp_path / "outside").exists()


def test_an_archive_that_ends_early_is_refused(tmp_path: Path) -> None:
    whole = b"".join(archive_of(FILES))
    with pytest.raises(NotAsListed):
        unpack(iter([whole[:9000]]), tmp_path / "data", read_manifest(listed(FILES)), invoking_user())


def test_the_log_needs_not_be_listed() -> None:
    manifest = BackupManifest("7", {}, ())
    assert differences(manifest, {"pg_wal/1": ListedFile(1, "a"), "backup_manifest": ListedFile(1, "a")}) == ()


# Lanes


def lanes_of(blocks: list[bytes], choices: list[int], count: int) -> list[list[bytes]]:
    """Blocks dealt to lanes as ``choices`` say, in frames that are cut anywhere."""
    dealt: list[bytes] = [b""] * count
    for number, block in enumerate(blocks):
        dealt[choices[number % len(choices)] % count] += FRAME.pack(number, len(block)) + block
    ended = [lane + FRAME.pack(len(blocks), 0) for lane in dealt]
    return [[lane[at : at + 5] for at in range(0, len(lane), 5)] for lane in ended]


BLOCKS = st.lists(st.binary(min_size=1, max_size=40), max_size=12)


@given(BLOCKS, st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, 4))
def test_lanes_give_the_stream_back_however_it_was_dealt(blocks: list[bytes], choices: list[int], count: int) -> None:
    lanes = lanes_of(blocks, choices, count)
    assert b"".join(merged([iter(lane) for lane in lanes])) == b"".join(blocks)


@given(BLOCKS, st.integers(0, 1))
def test_a_lane_that_is_missing_or_cut_is_never_taken_for_the_end(blocks: list[bytes], lost: int) -> None:
    lanes = lanes_of([*blocks, b"last", b"of all"], [0, 1], 2)
    for broken in (lanes[:lost] + lanes[lost + 1 :], [lanes[lost][:-1], lanes[1 - lost]]):
        with pytest.raises(BrokenLanes):
            list(merged([iter(lane) for lane in broken]))


def test_a_dealer_gives_each_block_once_and_the_last_word_after_all(tmp_path: Path) -> None:
    path = tmp_path / "s"
    dealer = Dealer(path, lambda: iter([b"a" * 10, b"b" * 3_000_000, b"c"]), lambda: b"manifest")
    try:
        first, second = list(read_lane(path, 0)), list(read_lane(path, 1))
        assert b"".join(read_last(path)) == b"manifest"
        assert b"".join(merged([iter(first), iter(second)])) == b"a" * 10 + b"b" * 3_000_000 + b"c"
        assert max(map(len, first)) <= 4 << 20
        with pytest.raises(ToolFailed, match="broke off"):
            list(read_lane(path, 0))
    finally:
        dealer.close()


def test_whoever_reads_a_stream_that_failed_hears_why_and_never_an_end(tmp_path: Path) -> None:
    def blocks() -> Iterator[bytes]:
        yield b"the first"
        raise ToolFailed("BASE_BACKUP", "the server was stopped")

    path = tmp_path / "s"
    dealer = Dealer(path, blocks, lambda: b"manifest")
    try:
        for read in (lambda: read_lane(path, 0), lambda: read_lane(path, 1), lambda: read_last(path)):
            with pytest.raises(ToolFailed, match="the server was stopped"):
                list(read())
        assert isinstance(dealer.failure, ToolFailed)
    finally:
        dealer.close()


def test_the_text_of_an_unknown_failure_stays_where_it_is(tmp_path: Path) -> None:
    def blocks() -> Iterator[bytes]:
        raise LookupError("row of Ada Lovelace")
        yield b""

    dealer = Dealer(tmp_path / "s", blocks, lambda: b"")
    try:
        with pytest.raises(ToolFailed, match="LookupError") as failure:
            list(read_lane(tmp_path / "s", 0))
        assert "Ada" not in str(failure.value)
    finally:
        dealer.close()


def test_blocks_hold_what_the_parts_held() -> None:
    parts = [b"x" * 1_500_000] * 7
    blocks = list(in_blocks(iter(parts)))
    assert b"".join(blocks) == b"".join(parts)
    assert len(blocks) == len(parts)


@given(st.lists(st.binary(max_size=9)))
def test_reading_ahead_changes_nothing(chunks: list[bytes]) -> None:
    assert list(ahead(iter(chunks))) == chunks


def test_reading_ahead_raises_what_the_reader_raised() -> None:
    def failing() -> Iterator[bytes]:
        yield b"one"
        raise DamagedBackup("b", Damage.PART_ALTERED, "part 7")

    with pytest.raises(DamagedBackup, match="part 7"):
        list(ahead(failing()))


# What ends a logical restore

POST_DATA = r"""--
-- PostgreSQL database dump
--

\restrict drp

SET statement_timeout = 0;

--
-- Name: a a_pkey; Type: CONSTRAINT; Schema: public; Owner: drp_admin
--

ALTER TABLE ONLY "public"."a" ADD CONSTRAINT "a_pkey" PRIMARY KEY ("id");


--
-- Name: a_near; Type: INDEX; Schema: public; Owner: drp_admin
--

CREATE INDEX "a_near" ON "public"."a" USING "hnsw" ("v" "public"."vector_cosine_ops");


--
-- Name: a_by; Type: INDEX; Schema: public; Owner: drp_admin
--

CREATE INDEX "a_by" ON "public"."a" USING "btree" ("b");


--
-- Name: a told; Type: TRIGGER; Schema: public; Owner: drp_admin
--

CREATE TRIGGER "told" BEFORE INSERT ON "public"."a" EXECUTE FUNCTION "public"."tell"();


--
-- Name: a a_b_fkey; Type: FK CONSTRAINT; Schema: public; Owner: drp_admin
--

ALTER TABLE ONLY "public"."a" ADD CONSTRAINT "a_b_fkey" FOREIGN KEY ("b") REFERENCES "public"."b"("id");


--
-- PostgreSQL database dump complete
--

\unrestrict drp
"""


def test_what_only_needs_rows_is_built_first_and_the_rest_keeps_its_order() -> None:
    post = take_apart(POST_DATA)
    assert [entry.name for entry in post.vectors] == ["a_near"]
    assert [entry.name for entry in post.indexes] == ["a a_pkey", "a_by"]
    assert [(entry.type, entry.name) for entry in post.rest] == [("TRIGGER", "a told"), ("FK CONSTRAINT", "a a_b_fkey")]
    assert "SET statement_timeout = 0;" in post.settings


def test_no_statement_is_lost_when_a_script_is_taken_apart() -> None:
    post = take_apart(POST_DATA)
    texts = [post.settings, *(e.text for e in (*post.vectors, *post.indexes, *post.rest))]
    statements = {line for line in POST_DATA.splitlines() if line and not line.startswith(("--", "\\"))}
    assert statements == {line for text in texts for line in text.splitlines() if line and not line.startswith("--")}
    assert not any("restrict" in text for text in texts)


def test_a_script_without_entries_is_all_settings() -> None:
    assert take_apart("SET a = 1;\n").settings == "SET a = 1;\n"


# The log


def archive(folder: Path) -> WalArchive:
    here = room(folder)
    return WalArchive(here.bucket, here.keys, "store", "7")


SEGMENT = "000000010000000000000001"


def test_a_segment_comes_back_and_storing_it_again_changes_nothing(tmp_path: Path) -> None:
    it = archive(tmp_path)
    content = bytes(range(256)) * 4096 + bytes(15 << 20)
    it.store(SEGMENT, content, START)
    it.store(SEGMENT, content, START)
    assert b"".join(it.read(SEGMENT) or ()) == content
    assert it.read("000000010000000000000002") is None
    (stored,) = it.segments()
    assert stored.segment == SEGMENT
    assert stored.size_bytes < len(content) / 10
    with pytest.raises(ArchiveConflict):
        it.store(SEGMENT, content[1:], START)


def test_a_segment_opens_under_its_own_name_and_whole_alone(tmp_path: Path) -> None:
    it = archive(tmp_path)
    other = "000000010000000000000002"
    it.store(SEGMENT, b"first", START)
    it.store(other, b"other", START)
    folder = tmp_path / "objects" / it.folder
    kept = (folder / SEGMENT).read_bytes()
    (folder / SEGMENT).write_bytes((folder / other).read_bytes())
    with pytest.raises(DamagedBackup):
        it.read(SEGMENT)
    for damaged in (kept[:-1], kept[:-1] + bytes([kept[-1] ^ 1]), kept.partition(b"\n")[0], b""):
        (folder / SEGMENT).write_bytes(damaged)
        with pytest.raises(DamagedBackup):
            it.read(SEGMENT)
    assert b"first" not in kept


@pytest.mark.parametrize("name", ["spool", "a spool with ' and % and $HOME"])
def test_the_server_hands_a_segment_over_whole_once_and_never_over_another(tmp_path: Path, name: str) -> None:
    spool, data = tmp_path / name, tmp_path / "data"
    spool.mkdir()
    data.mkdir()
    source = data / SEGMENT
    source.write_bytes(b"content" + bytes(1 << 20))
    command = archive_settings(spool)["archive_command"]
    for sign, value in (("%p", SEGMENT), ("%f", SEGMENT), ("%%", "%")):  # as the server replaces them
        command = command.replace(sign, value)

    def run() -> int:
        return subprocess.run(["sh", "-c", command], cwd=data, check=False).returncode

    (spool / f"{SEGMENT}.new").write_bytes(b"left by one that was killed, and longer than nothing" * 99999)
    assert run() == 0
    assert (spool / SEGMENT).read_bytes() == source.read_bytes()
    assert run() == 0
    assert [path.name for path in spool.iterdir()] == [SEGMENT]
    source.write_bytes(b"of another server")
    assert run() != 0
    assert (spool / SEGMENT).read_bytes() != source.read_bytes()
    (spool / SEGMENT).unlink()
    spool.rmdir()
    assert run() != 0


# Why a server ended


def logged(said: str, state: str = "00000") -> str:
    return f"2026-11-26 13:07:11.042 UTC [4711 {state}] {said}\n"


EARLY = logged("FATAL:  recovery ended before configured recovery target was reached", "F0000")
REFUSED = logged("FATAL:  the database system is not accepting connections", "57P03") + logged(
    "DETAIL:  Hot standby mode is disabled.", "57P03"
)


@pytest.mark.parametrize("log", [EARLY, EARLY + REFUSED, REFUSED + EARLY, REFUSED + EARLY + REFUSED])
def test_a_caller_that_was_refused_meanwhile_does_not_hide_why_the_server_ended(log: str) -> None:
    ended = logged("LOG:  startup process (PID 4712) exited with exit code 1") + logged("LOG:  shutting down")
    reason = "recovery ended before configured recovery target was reached"
    assert why_it_ended(log + ended) == f"FATAL:  {reason}"


def test_the_newest_complaint_is_the_reason() -> None:
    log = logged("ERROR:  first", "42P01") + logged("PANIC:  then [and more] at last", "XX000")
    assert why_it_ended(log) == "PANIC:  then [and more] at last"


@pytest.mark.parametrize("log", ["", "LOG:  nothing", REFUSED, logged("LOG:  it said FATAL:  in its own words")])
def test_a_log_without_a_complaint_of_its_own_has_no_reason(log: str) -> None:
    assert why_it_ended(log) == "it ended without a reason in its log"


def test_a_complaint_before_the_configuration_was_read_is_told() -> None:
    assert why_it_ended("2026-11-26 13:07:11.042 UTC [4711] FATAL:  could not open file\n") == (
        "FATAL:  could not open file"
    )
