"""The intake as CI meets it: a real server on loopback, with a real operations database behind it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dr_platform.catalog import load_catalog
from dr_platform.clock import SystemClock
from dr_platform.evidence import EvidenceLog, PostgresEvidenceLog
from dr_platform.intake.desk import ACCEPTED, IntakeDesk
from dr_platform.intake.server import EVENTS_PATH, LOOPBACK, MAX_BODY, server
from dr_platform.intake.signature import signature
from dr_platform.operations import operations_engine, upgrade
from dr_platform.platform import find_catalog
from dr_platform.secrets.port import SecretsUnavailable
from tests.postgres_server import PostgresServer, running_postgres

pytestmark = pytest.mark.contract

STAGING = load_catalog(find_catalog()).environments["staging"]
A, B = "a" * 40, "b" * 40


@dataclass
class Receiver:
    """The server, the log behind it, and the key that it asks for."""

    port: int
    evidence: EvidenceLog
    keys: list[str] = field(default_factory=lambda: ["k1"])
    away: bool = False

    def key(self) -> str:
        if self.away:
            raise SecretsUnavailable("memory", "made unavailable")
        return self.keys[-1]

    def post(self, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=20)
        try:
            connection.request("POST", EVENTS_PATH, body, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        finally:
            connection.close()

    def github(
        self, body: bytes, event: str = "push", key: str = "k1", delivery: str = "d-1"
    ) -> tuple[int, dict[str, Any]]:
        headers = {"X-GitHub-Event": event, "X-GitHub-Delivery": delivery, "X-Hub-Signature-256": signature(key, body)}
        return self.post(body, headers)

    def ours(self, body: bytes, sent_at: datetime | None = None, key: str = "k1") -> tuple[int, dict[str, Any]]:
        stamp = str(int((sent_at or datetime.now(UTC)).timestamp()))
        return self.post(body, {"X-Drp-Timestamp": stamp, "X-Drp-Signature": signature(key, body, stamp)})

    def taken(self) -> int:
        return len(list(self.evidence.entries(kind=ACCEPTED)))


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running_postgres() as running:
        yield running


@pytest.fixture
def receiver(postgres: PostgresServer) -> Iterator[Receiver]:
    url = postgres.new_database()
    upgrade(url)
    engine = operations_engine(url)
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = free.getsockname()[1]
    found = Receiver(port, PostgresEvidenceLog(engine))
    serving = server(IntakeDesk(found.evidence, STAGING), found.key, SystemClock(), port)
    thread = threading.Thread(target=serving.run, daemon=True)
    thread.start()
    _answers(port)
    yield found
    serving.should_exit = True
    thread.join(15)
    engine.dispose()


def _answers(port: int) -> None:
    until = time.monotonic() + 20
    while True:
        try:
            with socket.create_connection((LOOPBACK, port), timeout=1):
                return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def push(branch: str = "main", after: str = B, at: datetime | None = None) -> bytes:
    pushed_at = int((at or datetime.now(UTC)).timestamp())
    repository = {"full_name": "dr/assistant", "pushed_at": pushed_at}
    return json.dumps({"ref": f"refs/heads/{branch}", "before": A, "after": after, "repository": repository}).encode()


def plain(**fields: str) -> bytes:
    return json.dumps({"id": "build-1", "event": "push", "branch": "main", "commit": B} | fields).encode()


def test_a_signed_push_is_taken_in_and_one_that_comes_again_is_a_duplicate(receiver: Receiver) -> None:
    body = push()
    status, told = receiver.github(body)
    assert (status, told["outcome"], told["release"]) == (202, "accepted", f"git-{B[:12]}")
    for delivery in ("d-1", "d-2"):  # GitHub keeps the name of a delivery; who forges a repetition does not
        status, told = receiver.github(body, delivery=delivery)
        assert (status, told["outcome"]) == (200, "duplicate")
    (entry,) = receiver.evidence.entries()
    assert (entry.actor, entry.body["delivery"]) == ("program:intake-github", "d-1")


def test_of_one_event_that_comes_many_times_at_once_one_is_taken_in(receiver: Receiver) -> None:
    body = plain(release="3.1")
    with ThreadPoolExecutor(max_workers=8) as pool:
        statuses = sorted(status for status, _ in pool.map(lambda _: receiver.ours(body), range(8)))
    assert statuses == [200] * 7 + [202]
    assert receiver.taken() == 1


def test_what_is_not_signed_with_the_key_leaves_nothing_behind_and_is_told_nothing(receiver: Receiver) -> None:
    body = push()
    forged = [
        receiver.github(body, key="guessed"),
        receiver.ours(plain(), key="guessed"),
        receiver.post(body, {"X-GitHub-Event": "push"}),
        receiver.post(body, {"X-GitHub-Event": "push", "X-Hub-Signature-256": signature("k1", body + b" ")}),
    ]
    assert [status for status, _ in forged] == [401] * 4
    assert receiver.evidence.count() == 0
    assert "k1" not in json.dumps(forged)


def test_what_was_recorded_and_is_sent_later_is_refused(receiver: Receiver) -> None:
    now = datetime.now(UTC)
    assert receiver.ours(plain(), sent_at=now - timedelta(minutes=6))[0] == 401
    assert receiver.github(push(at=now - timedelta(minutes=61)))[0] == 401
    assert receiver.evidence.count() == 0
    assert receiver.ours(plain(), sent_at=now - timedelta(minutes=4))[0] == 202


def test_what_is_too_large_is_refused_before_it_is_read_whether_it_was_announced_or_not(receiver: Receiver) -> None:
    large = b" " * (MAX_BODY + 1)
    assert receiver.ours(large)[0] == 413
    connection = http.client.HTTPConnection(LOOPBACK, receiver.port, timeout=20)
    parts = (b" " * 65536 for _ in range(MAX_BODY // 65536 + 1))
    connection.request("POST", EVENTS_PATH, parts, encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
    assert connection.getresponse().status == 413
    connection.close()
    assert receiver.github(push())[0] == 202  # it goes on serving


@pytest.mark.parametrize("event", ["ping", "issues", "an_event_of_tomorrow", ""])
def test_an_event_of_another_kind_is_answered_and_deploys_nothing(receiver: Receiver, event: str) -> None:
    status, told = receiver.github(b'{"zen": "Design for failure."}', event=event)
    assert (status, told["outcome"], told["release"]) == (200, "ignored", None)
    assert receiver.evidence.count() == 0


def test_a_branch_that_deploys_nothing_here_is_ignored_with_the_reason(receiver: Receiver) -> None:
    status, told = receiver.github(push("feature/notes"))
    assert (status, told["why"]) == (200, "a push to feature/notes deploys nothing to staging")
    assert receiver.taken() == 0


@pytest.mark.parametrize("body", [b"no JSON", b"[]", b'{"id": 1}', b"[" * 50_000])
def test_what_cannot_be_read_is_refused_and_not_quoted(receiver: Receiver, body: bytes) -> None:
    status, told = receiver.ours(body)
    assert (status, told["outcome"]) == (400, "refused")
    assert receiver.evidence.count() == 0


def test_a_rotated_key_counts_at_the_next_request(receiver: Receiver) -> None:
    receiver.keys.append("k2")
    assert receiver.github(push())[0] == 401
    assert receiver.github(push(), key="k2")[0] == 202


def test_while_the_key_or_the_log_is_away_the_sender_is_asked_to_come_again(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dr_platform.operations import OperationsUnavailable

    receiver.away = True
    assert receiver.github(push())[0] == 503
    receiver.away = False

    def unavailable(*_: object, **__: object) -> object:
        raise OperationsUnavailable("made unavailable")

    with monkeypatch.context() as broken:
        broken.setattr(receiver.evidence, "append", unavailable)
        assert receiver.github(push())[0] == 503
    assert receiver.github(push())[0] == 202


def test_it_has_two_addresses_and_one_method_each(receiver: Receiver) -> None:
    connection = http.client.HTTPConnection(LOOPBACK, receiver.port, timeout=20)
    found = {}
    for method, path in (("GET", "/health/live"), ("GET", EVENTS_PATH), ("GET", "/"), ("POST", "/health/live")):
        connection.request(method, path)
        answer = connection.getresponse()
        answer.read()
        found[method, path] = answer.status
    connection.close()
    assert list(found.values()) == [200, 405, 404, 405]
