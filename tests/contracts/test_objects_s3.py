"""The object store's contract on a real S3 server, with what only a bucket has, and one backup from end to end.

Marked ``s3`` and asked for by hand, because the server is built first: see ``tests/s3_server.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dr_platform.identity import new_id
from dr_platform.objects import ObjectStore, open_objects
from tests.contracts.test_objects import ObjectStoreContract
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


@pytest.fixture
def signed_in(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


class TestBucket(ObjectStoreContract):
    @pytest.fixture
    def store(self, signed_in: S3Server) -> ObjectStore:
        return open_objects(f"s3://{BUCKET}/{new_id('test')}")


class TestLockedBucket(ObjectStoreContract):
    """The same promises hold; what was deleted is gone for us, and its version is still there."""

    @pytest.fixture
    def store(self, signed_in: S3Server) -> ObjectStore:
        return open_objects(f"s3://{LOCKED}/{new_id('test')}")
