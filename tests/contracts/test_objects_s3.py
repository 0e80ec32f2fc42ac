"""The object store's contract on a real S3 server, with what only a bucket has, and one backup from end to end.

Marked ``s3`` and asked for by hand, because the server is built first: see ``tests/s3_server.py``.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from dr_platform.backups.bucket import Bucket
from dr_platform.backups.catalogue import Catalogue, State
from dr_platform.backups.housekeeping import Housekeeper
from dr_platform.backups.pipeline import BackupWriter
from dr_platform.backups.proof import Budget, Prover
from dr_platform.backups.reading import BackupReader
from dr_platform.backups.recovery_kit import plant
from dr_platform.backups.restore import carry_out, plan_restore
from dr_platform.backups.retention import Keep
from dr_platform.clock import SystemClock
from dr_platform.identity import new_id
from dr_platform.objects import AlreadyExists, ObjectStore, ObjectsUnavailable, open_objects
from tests.backups import Room, memory_engine, order, room, some_rows
from tests.contracts.test_objects import KEY, ObjectStoreContract
from tests.s3_server import S3, S3Server, running_s3

pytestmark = pytest.mark.s3

BUCKET, LOCKED = "backups-of-tests", "locked-backups-of-tests"


@pytest.fixture(scope="module")
def program() -> Path:
    program = S3.path()
    if program is None:
        pytest.fail("no S3 server on this machine: run `python -m tests.s3_server` or set DRP_TEST_S3")
    return program


@pytest.fixture(scope="module")
def server(program: Path) -> Iterator[S3Server]:
    with running_s3(program) as server:
        server.make_bucket(BUCKET)
        server.make_locked_bucket(LOCKED)
        yield server


def sign_in(monkeypatch: pytest.MonkeyPatch, settings: Mapping[str, str]) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def signed_in(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    sign_in(monkeypatch, server.environment)
    return server


ASKED: tuple[Callable[[ObjectStore], object], ...] = (
    lambda store: store.put(KEY, b"x"),
    lambda store: store.get(KEY),
    lambda store: store.get_range(KEY, 0, 1),
    lambda store: store.head(KEY),
    lambda store: list(store.list()),
    lambda store: list(store.list("backups")),
    lambda store: store.delete(KEY),
)


def assert_that_all_are_outages(store: ObjectStore, *never_shown: str) -> None:
    """Each within seconds, and none as "no such object"."""
    clock = SystemClock()
    for ask in ASKED:
        began = clock.monotonic()
        with pytest.raises(ObjectsUnavailable) as caught:
            ask(store)
        assert clock.monotonic() - began < 25
        told = f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"
        assert not [text for text in never_shown if text in told]


class TestBucket(ObjectStoreContract):
    @pytest.fixture
    def store(self, signed_in: S3Server) -> ObjectStore:
        return open_objects(f"s3://{BUCKET}/{new_id('test')}")

    def test_the_service_gets_a_checksum_of_its_own_kind(self, signed_in: S3Server) -> None:
        """Amazon's refuses an object without one where the bucket has a default retention."""
        folder = new_id("test")
        open_objects(f"s3://{BUCKET}/{folder}").put("a", b"content")
        answer = signed_in.call("HEAD", f"/{BUCKET}/{folder}/a", headers={"x-amz-checksum-mode": "ENABLED"})
        assert answer.headers["x-amz-checksum-sha256"] == b64encode(sha256(b"content").digest()).decode()


class TestLockedBucket(ObjectStoreContract):
    """Versioned, with a default retention (COMPLIANCE)."""

    @pytest.fixture
    def store(self, signed_in: S3Server) -> ObjectStore:
        return open_objects(f"s3://{LOCKED}/{new_id('test')}")

    def test_a_deleted_object_is_gone_and_its_key_is_free(self, store: ObjectStore) -> None:
        """Gone, but on this server not free: it takes the marker of the removal for an object."""
        store.put(KEY, b"first")
        store.delete(KEY)
        assert store.head(KEY) is None
        assert list(store.list()) == []
        with pytest.raises(AlreadyExists):
            store.put(KEY, b"second")

    def test_what_was_deleted_is_still_there_as_a_version_that_nobody_can_remove(self, signed_in: S3Server) -> None:
        folder = new_id("test")
        store = open_objects(f"s3://{LOCKED}/{folder}")
        store.put("a", b"content")
        version = versions(signed_in, folder)[0]
        store.delete("a")
        assert versions(signed_in, folder) == [version]
        at = {"versionId": version}
        assert signed_in.call("DELETE", f"/{LOCKED}/{folder}/a", at).status_code == 403
        assert signed_in.call("GET", f"/{LOCKED}/{folder}/a", at).content == b"content"


def versions(server: S3Server, folder: str) -> list[str]:
    """Of all objects in a folder, without the markers of removals."""
    text = server.call("GET", f"/{LOCKED}", {"versions": "", "prefix": folder}).text
    return re.findall(r"<VersionId>([^<]+)</VersionId>", re.sub(r"<DeleteMarker>.*?</DeleteMarker>", "", text))


def test_wrong_credentials_are_an_outage_and_are_not_shown(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    sign_in(monkeypatch, server.environment)
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        monkeypatch.setenv(name, "do-not-show")
        assert_that_all_are_outages(open_objects(f"s3://{BUCKET}/x"), "do-not-show", server.access_key)


def test_a_bucket_that_is_not_there_is_an_outage_and_not_a_missing_object(signed_in: S3Server) -> None:
    assert_that_all_are_outages(open_objects("s3://no-such-bucket/x"), signed_in.secret_key, signed_in.access_key)


def test_a_server_that_is_gone_is_an_outage(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_s3(program) as server:
        server.make_bucket(BUCKET)
        sign_in(monkeypatch, server.environment)
        store = open_objects(f"s3://{BUCKET}/x")
        store.put("before", b"x")
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(timeout=20)
        assert_that_all_are_outages(store, server.secret_key, server.access_key)


def test_a_file_brings_the_credentials_where_the_environment_has_none(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in server.environment:
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "s3.env"
    file.write_text("".join(f"{name}={value}\n" for name, value in server.environment.items()))
    file.chmod(0o600)
    monkeypatch.setenv("DRP_S3_CREDENTIALS", str(file))
    store = open_objects(f"s3://{BUCKET}/{new_id('test')}")
    store.put(KEY, b"x")
    assert store.get(KEY) == b"x"


def in_bucket(folder: Path, name: str, workers: int = 0) -> Room:
    here = room(folder)
    bucket, clock = Bucket(f"s3://{name}/{new_id('test')}"), SystemClock()
    writer = BackupWriter(bucket, here.keys, clock, workers=workers, part_bytes=2000)
    return replace(here, bucket=bucket, writer=writer, reader=BackupReader(bucket, here.keys))


def downloaded(bucket: Bucket, into: Path) -> None:
    for info in bucket.objects.list():
        file = into / info.key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bucket.objects.get(info.key))


@pytest.mark.parametrize("name", [BUCKET, LOCKED])
@pytest.mark.usefixtures("signed_in")
def test_a_backup_is_taken_proved_restored_and_opened_without_the_platform(tmp_path: Path, name: str) -> None:
    here, engine = in_bucket(tmp_path, name, workers=2), memory_engine(some_rows(3000))
    plant(here.bucket, here.keys)
    taken = here.writer.take(order(), engine)
    catalogue = Catalogue(here.bucket, here.keys)
    assert catalogue.listing("live").find(taken.backup_id).state is State.UNVERIFIED
    Prover(here.reader, SystemClock()).prove("live", taken.backup_id, engine, Budget(60, 60), "somebody")
    listing = catalogue.listing("live")
    assert listing.find(taken.backup_id).state is State.VERIFIED

    plan = plan_restore("local", ["live"], listing, here.reader, taken.backup_id, "copy")
    carry_out(plan, engine.new_database("copy"), here.reader, SystemClock(), taken.backup_id)
    assert engine.server.databases["copy"] == engine.server.databases["live"]

    downloaded(here.bucket, tmp_path / "found")
    script = next((tmp_path / "found/backups/recovery").glob("*/decrypt_backup.py"))
    backup = tmp_path / "found/backups/live" / taken.backup_id
    options = ["--identity", tmp_path / "escrow/identity.txt", "--into", tmp_path / "opened"]
    subprocess.run([sys.executable, "-I", script, backup, *options], check=True, capture_output=True, timeout=60)
    tables = {file.name: json.loads(file.read_bytes())["rows"] for file in (tmp_path / "opened/tables").iterdir()}
    assert {table: rows[table] for table, rows in tables.items()} == some_rows(3000)


def test_what_is_pruned_under_a_lock_is_listed_no_more_and_keeps_its_versions(
    tmp_path: Path, signed_in: S3Server
) -> None:
    here, engine = in_bucket(tmp_path, LOCKED), memory_engine()
    expired, kept = (here.writer.take(order(), engine).backup_id for _ in range(2))
    for backup_id in (expired, kept):
        Prover(here.reader, SystemClock()).prove("live", backup_id, engine, Budget(60, 60), "somebody")
    folder = here.bucket.url.rsplit("/", 1)[1]
    before = versions(signed_in, f"{folder}/backups/live/{expired}/")
    pruned = Housekeeper(here.bucket, here.keys, SystemClock()).prune("live", Keep(1, 0, 0, 0))
    assert (pruned.removed, pruned.objects, pruned.left) == ((expired,), len(before), 1)
    assert versions(signed_in, f"{folder}/backups/live/{expired}/") == before
