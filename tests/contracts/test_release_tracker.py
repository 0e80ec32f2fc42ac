"""What every tracker promises, and that the webhook's receiver can verify what it gets."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dr_platform.clock import ManualClock
from dr_platform.evidence import MemoryEvidenceLog
from dr_platform.releases.tracker import (
    EVIDENCE_KIND,
    KEY_FIELD,
    KEY_SECRET,
    EvidenceTracker,
    Notice,
    Outcome,
    Tracker,
    WebhookTracker,
)
from dr_platform.secrets.embedded import EmbeddedSecretStore
from tests.release_values import MADE_AT

pytestmark = pytest.mark.contract

KEY = "first-signing-key-of-this-test"
NOTICE = Notice(
    id="ntc-7k3m9q2w",
    release="4.0",
    digest="sha256:" + "ab" * 32,
    environment="staging",
    outcome=Outcome.DEPLOYED,
    at=MADE_AT,
    by="ana",
    changelog="## 4.0 in staging\n",
)


@dataclass
class Receiver:
    """A tracker's server; ``status`` is what it answers, and 0 that it never does."""

    url: str = ""
    status: int = 204
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.got.append((dict(self.headers), body))
            if not receiver.status:
                receiver.done.wait(10)
                return
            self.send_response(receiver.status)
            if receiver.status == 302:
                self.send_header("Location", receiver.url)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}/hooks/s3cret-path"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.done.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def secrets(tmp_path: Path) -> EmbeddedSecretStore:
    store = EmbeddedSecretStore(tmp_path / "secrets")
    store.write(KEY_SECRET, {KEY_FIELD: KEY}, category="webhooks", expected=None)
    return store


@pytest.fixture
def webhook(receiver: Receiver, secrets: EmbeddedSecretStore, clock: ManualClock) -> WebhookTracker:
    return WebhookTracker(receiver.url, secrets, clock, timeout_s=0.3)


class TrackerContract:
    """No ``Test`` prefix: it runs only through its adapters, which provide ``tracker`` and ``broken``."""

    @pytest.mark.parametrize("outcome", Outcome)
    def test_a_notice_arrives(self, tracker: Tracker, outcome: Outcome) -> None:
        assert tracker.notify(replace(NOTICE, outcome=outcome)).delivered is True

    def test_told_again_it_does_no_harm(self, tracker: Tracker) -> None:
        assert tracker.notify(NOTICE).delivered is True
        assert tracker.notify(NOTICE).delivered is True

    def test_what_does_not_work_is_an_answer_and_not_an_error(self, broken: Tracker) -> None:
        delivery = broken.notify(NOTICE)
        assert not delivery.delivered
        assert delivery.why


class TestEvidenceTracker(TrackerContract):
    @pytest.fixture
    def log(self, clock: ManualClock) -> MemoryEvidenceLog:
        return MemoryEvidenceLog(clock)

    @pytest.fixture
    def tracker(self, log: MemoryEvidenceLog) -> Tracker:
        return EvidenceTracker(log)

    @pytest.fixture
    def broken(self) -> Tracker:
        class Down(MemoryEvidenceLog):
            def append(self, *_: object) -> None:  # type: ignore[override]
                raise ConnectionError("postgresql://user:pw@db")

        return EvidenceTracker(Down())

    def test_it_is_one_entry_with_the_digest_and_the_hash_of_the_text(
        self, tracker: Tracker, log: MemoryEvidenceLog
    ) -> None:
        tracker.notify(NOTICE)
        tracker.notify(NOTICE)
        (entry,) = log.entries(kind=EVIDENCE_KIND)
        assert (entry.subject, entry.actor) == ("releases/4.0", "ana")
        assert entry.body["digest"] == NOTICE.digest
        assert entry.body["outcome"] == "deployed"
        assert entry.body["changelog_sha256"] == hashlib.sha256(NOTICE.changelog.encode()).hexdigest()
        assert NOTICE.changelog not in json.dumps(entry.body)

    def test_the_cause_is_told_without_its_text(self, broken: Tracker) -> None:
        assert broken.notify(NOTICE).why == "could not write it: ConnectionError"

    def test_what_the_log_refuses_is_not_delivered(self, tracker: Tracker, log: MemoryEvidenceLog) -> None:
        delivery = tracker.notify(replace(NOTICE, environment="password=hunter2hunter2"))
        assert delivery.delivered is False
        assert "hunter2" not in delivery.why
        assert log.count() == 0


class TestWebhookTracker(TrackerContract):
    @pytest.fixture
    def tracker(self, webhook: WebhookTracker) -> Tracker:
        return webhook

    @pytest.fixture
    def broken(self, secrets: EmbeddedSecretStore, clock: ManualClock) -> Iterator[Tracker]:
        with socket.socket() as closed:  # bound and not listening: nobody else gets this port meanwhile
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
            yield WebhookTracker(f"http://127.0.0.1:{port}/s3cret-path", secrets, clock, timeout_s=0.3)

    def test_the_receiver_can_verify_body_and_time(self, webhook: WebhookTracker, receiver: Receiver) -> None:
        webhook.notify(NOTICE)
        ((headers, body),) = receiver.got
        signed = headers["X-Drp-Timestamp"].encode() + b"." + body
        assert headers["X-Drp-Signature"] == "sha256=" + hmac.new(KEY.encode(), signed, hashlib.sha256).hexdigest()
        assert headers["X-Drp-Timestamp"] == str(int(ManualClock().now().timestamp()))
        assert headers["X-Drp-Delivery"] == NOTICE.id
        assert headers["Content-Type"] == "application/json"
        document = json.loads(body)
        assert (document["release"], document["outcome"], document["changelog"]) == (
            "4.0",
            "deployed",
            NOTICE.changelog,
        )
        assert document["at"] == "2026-03-02T09:30:00+00:00"

    def test_a_later_notice_is_signed_with_its_own_time_and_the_key_of_that_time(
        self, webhook: WebhookTracker, receiver: Receiver, secrets: EmbeddedSecretStore, clock: ManualClock
    ) -> None:
        webhook.notify(NOTICE)
        clock.jump(timedelta(hours=1).total_seconds())
        secrets.write(KEY_SECRET, {KEY_FIELD: "rotated"}, category="webhooks", expected=1)
        webhook.notify(NOTICE)
        (first, body), (second, _) = receiver.got
        assert int(second["X-Drp-Timestamp"]) - int(first["X-Drp-Timestamp"]) == 3600
        signed = second["X-Drp-Timestamp"].encode() + b"." + body
        assert second["X-Drp-Signature"] == "sha256=" + hmac.new(b"rotated", signed, hashlib.sha256).hexdigest()
        assert second["X-Drp-Delivery"] == first["X-Drp-Delivery"]

    @pytest.mark.parametrize("status", [302, 400, 401, 500, 503])
    def test_an_answer_that_is_no_success_is_told_by_its_number(
        self, webhook: WebhookTracker, receiver: Receiver, status: int
    ) -> None:
        receiver.status = status
        delivery = webhook.notify(NOTICE)
        assert (delivery.delivered, delivery.why) == (False, f"127.0.0.1 answered {status}")
        assert len(receiver.got) == 1, "a redirect was followed"

    def test_without_an_answer_in_time_it_is_not_known_whether_it_arrived(
        self, webhook: WebhookTracker, receiver: Receiver
    ) -> None:
        receiver.status = 0
        delivery = webhook.notify(NOTICE)
        assert (delivery.delivered, delivery.why) == (None, "could not tell 127.0.0.1: ReadTimeout")

    def test_neither_path_nor_key_is_told(self, broken: Tracker) -> None:
        why = broken.notify(NOTICE).why
        assert "127.0.0.1" in why
        assert "s3cret-path" not in why
        assert KEY not in why

    @pytest.mark.parametrize("url", ["", "no address", "http://[", "ftp://example.org/x"])
    def test_what_is_no_address_of_a_webhook_is_an_answer(
        self, url: str, secrets: EmbeddedSecretStore, clock: ManualClock
    ) -> None:
        assert WebhookTracker(url, secrets, clock).notify(NOTICE).delivered is None

    def test_without_a_key_nothing_is_sent(
        self, webhook: WebhookTracker, receiver: Receiver, secrets: EmbeddedSecretStore
    ) -> None:
        secrets.delete(KEY_SECRET)
        delivery = webhook.notify(NOTICE)
        assert delivery.delivered is False
        assert KEY_SECRET in delivery.why
        assert receiver.got == []
