"""Backups of Redis on real servers: the promises of the port, and what is Redis' own."""

from __future__ import annotations

import io
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from dr_platform.backups.port import Kind, LastSwitch, StoredBackup
from dr_platform.backups.proof import compared
from dr_platform.backups.redis_ import FILE, PIECE, RedisBackups, fault_of
from dr_platform.backups.redis_replica import payload
from dr_platform.backups.scratch_server import sweep, workplace
from dr_platform.backups.source import RestoreFailed, SnapshotFailed, Source, TargetRefused
from dr_platform.backups.spool import SpooledPiece
from dr_platform.backups.switch import NotSwitched
from dr_platform.catalog import Engine
from dr_platform.databases.access import Login, read_login
from dr_platform.databases.port import Endpoint
from dr_platform.databases.redis_ import HISTORY_KEY, RedisDatabase
from tests.contracts.backup_engine import BackupEngineContract
from tests.contracts.embedded_servers import Running, running

pytestmark = pytest.mark.contract

LONG_S = 3600
AT = datetime(2026, 11, 26, 14, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(Engine.REDIS, "redis") as started:
        yield started


def source_of(server: Running) -> Source:
    return Source(server.database, server.endpoint, read_login("redis", "admin", server.secrets))


@pytest.fixture
def client(server: Running) -> Iterator[Any]:
    """The live server, emptied and filled with a value of every type."""
    database = RedisDatabase(server.database, server.endpoint, source_of(server).login)
    live: Any = database.client
    live.flushall()
    live.config_set("repl-diskless-sync", "no")
    fill(live)
    yield live
    database.close()


def fill(live: Any) -> None:
    live.set("text", "ä\n")
    live.set(b"\x00\xff binary key", b"\x00\xff" * 1000)
    live.set("number", 42)
    live.set("empty", "")
    live.rpush("list", *range(500), "x" * 5000)
    live.sadd("integers", *range(100))
    live.sadd("members", *(f"m{n}" for n in range(1000)))
    live.hset("hash", mapping={f"f{n}": n for n in range(1000)})
    live.hset("small hash", mapping={"a": ""})
    live.zadd("sorted", {f"z{n}": n / 3 for n in range(500)} | {"high": float("inf"), "low": float("-inf")})
    live.xadd("stream", {"a": "1"}, id="5-1")
    live.xgroup_create("stream", "readers", id="0")
    live.xreadgroup("readers", "one", {"stream": ">"})
    live.pfadd("counted", *range(100))
    live.geoadd("places", (13.4, 52.5, "here"))
    live.setbit("bits", 1000, 1)
    live.set("mortal", "soon", ex=LONG_S)
    live.hset(HISTORY_KEY, "1.0.0", '{"version": "1.0.0", "checksum": "a"}')


@pytest.fixture
def engine(server: Running, client: Any, tmp_path: Path) -> RedisBackups:
    return RedisBackups(source_of(server), tmp_path / "work")


def stored(engine: RedisBackups, folder: Path) -> StoredBackup:
    """A backup whose piece is a plain file."""
    folder.mkdir()
    with engine.snapshot(Kind.RDB) as snapshot:
        file = folder / FILE
        file.write_bytes(b"".join(snapshot.pieces()[0].read()))
        return StoredBackup("b", Kind.RDB, snapshot.facts(), (SpooledPiece(PIECE, file),))


class TestRedisBackups(BackupEngineContract):
    @pytest.fixture
    def engine(self, server: Running, client: Any, tmp_path: Path) -> RedisBackups:
        return RedisBackups(source_of(server), tmp_path / "work")

    def add_row(self, engine: RedisBackups) -> None:
        database = RedisDatabase(engine.source.database, engine.source.endpoint, engine.source.login)
        database.client.incr("added")
        database.client.set(f"another {database.client.get('added')}", "x")
        database.close()

    def live_name(self, engine: RedisBackups) -> str:
        return "0"

    def test_the_snapshot_does_not_see_what_is_written_after_it(self, engine: Any, here: Any) -> None:
        database = RedisDatabase(engine.source.database, engine.source.endpoint, engine.source.login)
        with engine.snapshot(Kind.RDB) as snapshot:
            database.client.set("later", "x")
            assert snapshot.facts().tables[0].rows == database.client.dbsize() - 1
        database.close()

    def test_a_new_database_is_taken_away_after_a_failure_and_its_name_is_free_again(
        self, engine: Any, here: Any
    ) -> None:
        """The same promise as every engine's; a name is a number here."""
        _, chain = self.taken(here, engine, Kind.RDB)
        with pytest.raises(ZeroDivisionError):
            self._restored_and_failed_in(engine, chain)
        with engine.new_database("7") as restoration:
            restoration.restore(chain)
            facts = restoration.facts()
        assert facts.exact
        assert facts.tables == chain[-1].facts.tables
        with pytest.raises(TargetRefused), engine.new_database("7"):
            pytest.fail("a name that is taken was offered as a target")

    def _restored_and_failed_in(self, engine: RedisBackups, chain: tuple[StoredBackup, ...]) -> None:
        with engine.new_database("7") as restoration:
            restoration.restore(chain)
            raise ZeroDivisionError


def test_the_digest_of_the_file_is_that_of_the_live_server(engine: RedisBackups, client: Any) -> None:
    """On a server at rest the measure of the file and the server's own must agree."""
    with engine.snapshot(Kind.RDB) as snapshot:
        facts = snapshot.facts()
    assert facts.tables[0].fingerprint == client.execute_command("DEBUG", "DIGEST")
    assert facts.tables[0].rows == client.dbsize()
    assert facts.heartbeat == client.get("drp:heartbeat") != ""
    assert facts.migration_version == "1.0.0"
    assert facts.position["db0"] == f"{client.dbsize()} keys, 1 expire"


def test_a_file_sent_without_its_length_is_received_whole(engine: RedisBackups, client: Any) -> None:
    client.config_set("repl-diskless-sync", "yes")
    client.config_set("repl-diskless-sync-delay", "0")
    with engine.snapshot(Kind.RDB) as snapshot:
        assert snapshot.facts().tables[0].fingerprint == client.execute_command("DEBUG", "DIGEST")


def test_keys_that_expire_after_the_snapshot_are_still_compared(
    engine: RedisBackups, client: Any, tmp_path: Path
) -> None:
    client.set("gone soon", "x", px=300)
    backup = stored(engine, tmp_path / "kept")
    while client.exists("gone soon"):
        pass
    with engine.scratch() as restoration:
        restoration.restore((backup,))
        assert restoration.facts().tables == backup.facts.tables
        assert [probe.passed for probe in restoration.probes()] == [True, True]


def test_keys_keep_the_moment_at_which_they_expire(engine: RedisBackups, client: Any, tmp_path: Path) -> None:
    backup = stored(engine, tmp_path / "kept")
    with engine.new_database("3") as restoration:
        restoration.restore((backup,))
    client.execute_command("SELECT", 3)
    left = client.ttl("mortal"), client.ttl("text")
    client.execute_command("SELECT", 0)
    assert LONG_S - 60 < left[0] <= LONG_S
    assert left[1] == -1


def test_keys_that_expired_are_left_out_of_a_new_database_and_the_rest_is_compared(
    engine: RedisBackups, client: Any, tmp_path: Path
) -> None:
    client.set("gone soon", "x", px=200)
    backup = stored(engine, tmp_path / "kept")
    while client.exists("gone soon"):
        pass
    with engine.new_database("4") as restoration:
        restoration.restore((backup,))
        facts = restoration.facts()
    assert facts.exact is False
    assert facts.tables[0].rows == backup.facts.tables[0].rows - 1
    failed = [check.name for check in compared(backup.facts, facts) if check.passed is False]
    assert failed == []


def test_a_new_database_that_lacks_more_than_could_have_expired_is_found(
    engine: RedisBackups, client: Any, tmp_path: Path
) -> None:
    backup = stored(engine, tmp_path / "kept")
    with engine.new_database("4") as restoration:
        restoration.restore((backup,))
        restoration.target.delete("text", "number")
        found = {check.name: check.passed for check in compared(backup.facts, restoration.facts())}
    assert found["rows_equal"] is False


def test_several_logical_databases_are_one_backup_and_fit_no_single_number(
    engine: RedisBackups, server: Running, client: Any, tmp_path: Path
) -> None:
    client.execute_command("SELECT", 5)
    client.set("elsewhere", "x")
    client.execute_command("SELECT", 0)
    backup = stored(engine, tmp_path / "kept")
    assert backup.facts.position["db5"] == "1 keys, 0 expire"
    with pytest.raises(RestoreFailed), engine.new_database("9") as restoration:
        restoration.restore((backup,))


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_one_altered_bit_is_found_before_anything_is_loaded(engine: RedisBackups, tmp_path: Path, at: float) -> None:
    backup = stored(engine, tmp_path / "kept")
    file = tmp_path / "kept" / FILE
    content = bytearray(file.read_bytes())
    content[int(len(content) * at)] ^= 4
    file.write_bytes(content)
    with pytest.raises(RestoreFailed, match="damaged"), engine.scratch() as restoration:
        restoration.restore((backup,))


def test_a_file_that_is_cut_is_found(engine: RedisBackups, tmp_path: Path) -> None:
    stored(engine, tmp_path / "kept")
    file = tmp_path / "kept" / FILE
    assert fault_of(file) == ""
    file.write_bytes(file.read_bytes()[:-3])
    assert "damaged" in fault_of(file)


@pytest.mark.parametrize("name", ["0", "16", "therapy", "-1", "2"])
def test_only_a_free_number_is_taken_as_a_new_database(engine: RedisBackups, client: Any, name: str) -> None:
    client.execute_command("SELECT", 2)
    client.set("in use", "x")
    client.execute_command("SELECT", 0)
    with pytest.raises(TargetRefused, match="name a free one"), engine.new_database(name):
        pytest.fail("it was taken")


def test_a_wrong_password_is_told(engine: RedisBackups) -> None:
    from dr_platform.databases.port import AccessDenied

    wrong = replace(engine.source, login=Login("drp_admin", "wrong"))
    with pytest.raises(AccessDenied), replace(engine, source=wrong).snapshot(Kind.RDB):
        pytest.fail("it was let in")


def test_a_server_that_is_not_there_is_told(engine: RedisBackups, tmp_path: Path) -> None:
    from dr_platform.backups.redis_replica import fetch

    nowhere = replace(engine.source, endpoint=Endpoint("127.0.0.1", 1, "therapy"))
    with pytest.raises(SnapshotFailed):
        fetch(nowhere, tmp_path / "none")


def test_nothing_is_left_of_servers_and_folders(engine: RedisBackups, tmp_path: Path) -> None:
    backup = stored(engine, tmp_path / "kept")
    with engine.scratch() as restoration:
        restoration.restore((backup,))
        port = int(restoration.address.rpartition(":")[2])
    assert list(engine.base.iterdir()) == []
    assert port not in {c.laddr.port for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN}


@dataclass
class Stream:
    content: bytes

    def open(self) -> Any:
        return io.BufferedReader(io.BytesIO(self.content))  # type: ignore[arg-type]


MARK = b"m" * 40


@pytest.mark.parametrize(
    ("sent", "file"),
    [
        (b"\n\n$5\r\nREDIS", b"REDIS"),
        (b"$EOF:" + MARK + b"\r\n" + b"REDIS" + MARK, b"REDIS"),
        (b"$EOF:" + MARK + b"\r\n" + b"m" * 39 + b"n" + MARK, b"m" * 39 + b"n"),
    ],
)
def test_both_forms_of_a_file_are_understood(sent: bytes, file: bytes) -> None:
    assert b"".join(payload(Stream(sent).open())) == file


@pytest.mark.parametrize(
    "sent", [b"", b"\n\n", b"$5\r\nREDI", b"$EOF:" + MARK + b"\r\nREDIS" + MARK[:-1], b"-ERR no\r\n", b"$x\r\n"]
)
def test_a_stream_that_ends_early_is_no_file(sent: bytes) -> None:
    with pytest.raises(EOFError):
        b"".join(payload(Stream(sent).open()))


def test_a_folder_whose_removal_was_cut_short_is_removed_and_one_in_use_stays(tmp_path: Path) -> None:
    (tmp_path / "half" / "data").mkdir(parents=True)
    with workplace(tmp_path) as mine:
        sweep(tmp_path)
        assert list(tmp_path.iterdir()) == [mine]


def test_what_a_killed_process_left_is_removed_the_next_time(server: Running, tmp_path: Path) -> None:
    """Its scratch server included."""
    base = tmp_path / "work"
    program = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from dr_platform.backups.scratch_server import scratch_server
        from dr_platform.catalog import Engine
        from dr_platform.clock import SystemClock
        from tests.embedded_programs import a_database
        with scratch_server(a_database(Engine.REDIS), Path(sys.argv[1]), SystemClock()) as server:
            print(server.endpoint.port, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run([sys.executable, "-c", program, str(base)], capture_output=True, text=True, check=False)
    port = int(done.stdout)
    assert [c for c in psutil.net_connections("tcp") if c.laddr.port == port and c.status == psutil.CONN_LISTEN]
    assert list(base.iterdir())
    sweep(base)
    assert list(base.iterdir()) == []
    assert not [c for c in psutil.net_connections("tcp") if c.laddr.port == port and c.status == psutil.CONN_LISTEN]


# Going live


def swapped(engine: RedisBackups, to: str, at: datetime) -> None:
    switching = engine.switching()
    switching.switch(switching.standing(to), at, lambda _: None)


def test_a_restored_number_goes_live_at_once_for_open_connections_and_what_was_live_comes_back(
    engine: RedisBackups, client: Any, tmp_path: Path
) -> None:
    backup = stored(engine, tmp_path / "stored")
    with engine.new_database("7") as restoration:
        restoration.restore((backup,))
    client.set("since the backup", "x")
    keys = client.dbsize()
    swapped(engine, "7", AT)
    assert client.get("since the backup") is None
    assert client.get("number") == "42"
    before = "7_before_20261126t140500z"
    standing = engine.switching().standing("7")
    assert standing.target is None, "the number alone never names what was live"
    assert standing.last == LastSwitch("7", before, AT)
    found = engine.switching().standing(before).target
    assert found is not None
    assert found.extent == f"{keys + 1} keys"  # with the note of the switch
    swapped(engine, before, AT + timedelta(hours=1))
    assert client.get("since the backup") == "x"
    again = engine.switching().standing(before)
    assert (again.target, again.last) == (
        None,
        LastSwitch(before, "7_before_20261126t150500z", AT + timedelta(hours=1)),
    )


def test_a_plan_that_somebody_else_was_faster_with_swaps_nothing(
    engine: RedisBackups, client: Any, tmp_path: Path
) -> None:
    backup = stored(engine, tmp_path / "stored")
    with engine.new_database("7") as restoration:
        restoration.restore((backup,))
    client.set("since the backup", "x")
    switching = engine.switching()
    read = switching.standing("7")
    swapped(engine, "7", AT)
    with pytest.raises(NotSwitched):
        switching.switch(read, AT + timedelta(minutes=1), lambda _: None)
    assert client.get("since the backup") is None
    last = switching.standing("7").last
    assert last is not None
    assert last.at == AT


@pytest.mark.parametrize("name", ["0", "00", "9999", "live", "7_before_20261126t140500z", "8"])
def test_what_is_live_empty_or_never_was_is_no_target(engine: RedisBackups, name: str) -> None:
    assert engine.switching().standing(name).target is None
