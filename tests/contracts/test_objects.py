"""One suite over the object stores that need no server: a folder and memory. ``test_objects_s3`` has one."""

from __future__ import annotations

import stat
import threading
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dr_platform.objects import (
    AlreadyExists,
    InvalidKey,
    NoSuchObject,
    ObjectStore,
    ObjectsUnavailable,
    UnsupportedStore,
    UnusableCredentials,
    local_objects,
    open_objects,
)

pytestmark = pytest.mark.contract

KEY = "backups/postgres/2026-11-24T03-20-00Z.tar.zst"


class ObjectStoreContract:
    """No ``Test`` prefix: it runs only through its adapters, which provide the fixture ``store``."""

    def test_what_does_not_exist_has_neither_content_nor_size(self, store: ObjectStore) -> None:
        with pytest.raises(NoSuchObject, match=KEY):
            store.get(KEY)
        with pytest.raises(NoSuchObject, match=KEY):
            store.get_range(KEY, 0, 1)
        assert store.head(KEY) is None
        assert list(store.list()) == []
        store.delete(KEY)

    @pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 9], ids=["empty", "one byte", "all bytes"])
    def test_content_comes_back_as_it_was(self, store: ObjectStore, content: bytes) -> None:
        store.put(KEY, content)
        assert store.get(KEY) == content
        found = store.head(KEY)
        assert found is not None
        assert (found.key, found.size_bytes) == (KEY, len(content))
        assert abs(found.modified_at - datetime.now(UTC)) < timedelta(minutes=5)

    def test_an_object_is_never_overwritten(self, store: ObjectStore) -> None:
        store.put(KEY, b"first")
        with pytest.raises(AlreadyExists, match=KEY):
            store.put(KEY, b"second")
        assert store.get(KEY) == b"first"

    def test_of_many_writers_exactly_one_wins_and_its_content_is_whole(self, store: ObjectStore) -> None:
        def put(number: int) -> int | None:
            try:
                store.put(KEY, str(number).encode() * 100_000)
            except AlreadyExists:
                return None
            return number

        with ThreadPoolExecutor(8) as pool:
            winners = [n for n in pool.map(put, range(8)) if n is not None]
        assert len(winners) == 1
        assert store.get(KEY) == str(winners[0]).encode() * 100_000

    @pytest.mark.parametrize(
        ("start", "length", "expected"),
        [(0, 3, b"012"), (4, 3, b"456"), (8, 9, b"89"), (10, 1, b""), (99, 1, b""), (3, 0, b"")],
    )
    def test_a_range_ends_where_the_object_ends(
        self, store: ObjectStore, start: int, length: int, expected: bytes
    ) -> None:
        store.put(KEY, b"0123456789")
        assert store.get_range(KEY, start, length) == expected

    def test_a_negative_range_is_refused(self, store: ObjectStore) -> None:
        with pytest.raises(ValueError, match="from the start"):
            store.get_range(KEY, -1, 1)

    def test_a_list_is_sorted_and_ends_at_a_folder(self, store: ObjectStore) -> None:
        for key in ("b/2", "b/10", "a/1", "ab/1", "top", "b/c/d"):
            store.put(key, b"x")
        assert [o.key for o in store.list()] == ["a/1", "ab/1", "b/10", "b/2", "b/c/d", "top"]
        assert [o.key for o in store.list("b")] == ["b/10", "b/2", "b/c/d"]
        assert [o.key for o in store.list("b/")] == ["b/10", "b/2", "b/c/d"]
        assert [o.key for o in store.list("a")] == ["a/1"]
        assert list(store.list("nothing")) == []

    def test_a_deleted_object_is_gone_and_its_key_is_free(self, store: ObjectStore) -> None:
        store.put(KEY, b"first")
        store.delete(KEY)
        assert store.head(KEY) is None
        store.put(KEY, b"second")
        assert store.get(KEY) == b"second"

    @pytest.mark.parametrize("key", [
        "", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a\0b", "a\nb", "a#1", "a?b", "a%2e",
        "x" * 201, "/".join(["x" * 100] * 10), "\ud800",
    ])  # fmt: skip
    def test_what_is_no_key_is_refused_everywhere(self, store: ObjectStore, key: str) -> None:
        with pytest.raises(InvalidKey):
            store.put(key, b"x")
        for look in (store.get, store.head, store.delete):
            with pytest.raises(InvalidKey):
                look(key)
        assert list(store.list()) == []


class TestFolder(ObjectStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return open_objects((tmp_path / "ob jects").as_uri())

    def test_the_folder_is_for_its_owner_alone(self, store: ObjectStore, tmp_path: Path) -> None:
        assert stat.S_IMODE((tmp_path / "ob jects").stat().st_mode) == 0o700

    def test_another_process_sees_what_was_put(self, store: ObjectStore, tmp_path: Path) -> None:
        store.put(KEY, b"content")
        assert local_objects(tmp_path / "ob jects").get(KEY) == b"content"
        assert (tmp_path / "ob jects" / KEY).read_bytes() == b"content"

    def test_a_folder_that_cannot_be_made_is_an_outage(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ObjectsUnavailable):
            local_objects(tmp_path / "file" / "objects")


class TestMemory(ObjectStoreContract):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return open_objects("memory://")

    def test_two_of_them_share_nothing(self, store: ObjectStore) -> None:
        store.put(KEY, b"x")
        assert open_objects("memory://").head(KEY) is None


@pytest.mark.parametrize("url", ["http://user:pass@host/x", "ftp://x", "", "no url", "/plain/path"])
def test_a_url_of_another_kind_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(UnsupportedStore) as caught:
        open_objects(url)
    assert "pass" not in str(caught.value)


def sign_in(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "do-not-show", "AWS_REGION": "none",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


def test_a_bucket_that_cannot_be_reached_is_an_outage_and_not_a_missing_object(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sign_in(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(ObjectsUnavailable) as caught:
        open_objects("s3://bucket/prefix").head(KEY)
    assert "do-not-show" not in f"{caught.value!r} {caught.value}"


class NothingFound(BaseHTTPRequestHandler):
    """As S3 answers for a bucket that does not exist."""

    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_HEAD(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.asked.append((self.command, self.headers.get("x-amz-checksum-sha256")))
        self.send_response(404)
        self.send_header("content-length", "0")
        self.end_headers()

    do_GET = do_PUT = do_POST = do_HEAD  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nothing on the console."""


def test_a_bucket_that_does_not_exist_is_an_outage_and_every_object_goes_with_a_checksum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    NothingFound.asked.clear()
    with HTTPServer(("127.0.0.1", 0), NothingFound) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            sign_in(monkeypatch, f"http://127.0.0.1:{server.server_port}")
            store = open_objects("s3://bucket/prefix")
            for ask in (store.get, store.head, store.delete, lambda key: store.put(key, b"")):
                with pytest.raises(ObjectsUnavailable, match="no such bucket"):
                    ask(KEY)
        finally:
            server.shutdown()
            thread.join()
    assert ("PUT", b64encode(sha256(b"").digest()).decode()) in NothingFound.asked


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        pytest.param(None, 0, "No such file", id="none"),
        pytest.param("AWS_SECRET_ACCESS_KEY=do-not-show", 0o640, "others may read", id="exposed"),
        pytest.param("AWS_SECRET_ACCESS_KEY do-not-show", 0o600, "a line is not NAME=value", id="no pair"),
        pytest.param("do-not-show=x", 0o600, "a line is not NAME=value", id="another name"),
    ],
)
def test_a_file_of_credentials_that_cannot_be_used_is_refused_and_not_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, mode: int, why: str
) -> None:
    file = tmp_path / "s3.env"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    monkeypatch.setenv("DRP_S3_CREDENTIALS", str(file))
    with pytest.raises(UnusableCredentials, match=why) as caught:
        open_objects("s3://bucket/prefix")
    assert "do-not-show" not in f"{caught.value!r} {caught.value}"
    open_objects("memory://")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(segments=st.lists(st.text(max_size=6), min_size=1, max_size=4), content=st.binary(max_size=50))
def test_a_key_is_stored_below_the_folder_or_refused(
    tmp_path_factory: pytest.TempPathFactory, segments: list[str], content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("objects")
    store = local_objects(folder / "inner")
    key = "/".join(segments)
    try:
        store.put(key, content)
    except InvalidKey:
        assert list(folder.rglob("*")) == [folder / "inner"]
        return
    assert store.get(key) == content
    assert [o.key for o in store.list()] == [key]
    assert [p for p in folder.rglob("*") if p.is_file()] == [folder / "inner" / key]
