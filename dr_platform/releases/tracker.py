"""Telling others that a release entered or left an environment: the port and its two adapters.

Here: what is told, and to whom. Not here: the entry's wording (``changelog``), or what follows from a
notice that did not arrive: a deployment never waits for one and never fails by one.

The webhook's request is ``POST`` with a JSON body and these headers. A receiver computes the
signature anew, compares it in constant time, and refuses an old time or an identifier it has seen:

- ``X-Drp-Delivery``: identifies the notice; the same when it is sent again
- ``X-Drp-Timestamp``: seconds since 1970, when it was sent
- ``X-Drp-Signature``: ``sha256=`` and the HMAC-SHA-256, in hexadecimal digits, of the timestamp, a
  dot and the body
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from urllib.parse import urlsplit

from dr_platform.clock import Clock
from dr_platform.errors import PlatformError
from dr_platform.evidence import EvidenceLog
from dr_platform.releases.bundle import canonical
from dr_platform.secrets.port import SecretStore

KEY_SECRET = "webhooks/release-tracker"  # noqa: S105 - the name of a secret
KEY_FIELD = "key"
EVIDENCE_KIND = "release.notice"
TIMEOUT_S = 5.0
"""For the connection, and for each part of the answer."""


class Outcome(StrEnum):
    DEPLOYED = "deployed"
    FAILED = "failed"
    """It did not become whole; what ran before runs."""
    ROLLED_BACK = "rolled-back"


@dataclass(frozen=True)
class Notice:
    """What happened to a release. ``id`` names this one occurrence, whoever is told of it."""

    id: str
    release: str
    digest: str
    environment: str
    outcome: Outcome
    at: datetime
    by: str
    changelog: str = ""

    def as_document(self) -> dict[str, Any]:
        return {**vars(self), "outcome": self.outcome.value, "at": self.at.isoformat()}


@dataclass(frozen=True)
class Delivery:
    """Whether a notice arrived: ``None`` where that is not known, as after a timeout. ``why`` quotes
    neither address nor answer, both of which may hold secrets."""

    delivered: bool | None
    why: str = ""


class Telling(Protocol):
    """What can be told: an occurrence with an identifier of its own, and what is said of it."""

    @property
    def id(self) -> str: ...

    def as_document(self) -> dict[str, Any]: ...


class Tracker(Protocol):
    def notify(self, notice: Notice) -> Delivery:
        """Tell once and say how it went. Never raises, and waits no longer than its timeouts; a caller
        that tells the same notice again does no harm."""


class EvidenceTracker:
    """Writes notices into the evidence log. The changelog's text stays out; its hash is kept, so that
    a text that is shown later can be compared. A notice that is told again is written once."""

    def __init__(self, log: EvidenceLog) -> None:
        self._log = log

    def notify(self, notice: Notice) -> Delivery:
        document = notice.as_document()
        text = document.pop("changelog")
        body = {**document, "changelog_sha256": hashlib.sha256(text.encode()).hexdigest()}
        subject = f"releases/{notice.release}"
        try:
            written = self._log.entries(kind=EVIDENCE_KIND, subject=subject)
            if not any(entry.body.get("id") == notice.id for entry in written):
                self._log.append(EVIDENCE_KIND, subject, notice.by, body)
        except PlatformError as exc:
            return Delivery(False, exc.what)
        except Exception as exc:  # noqa: BLE001 - a deployment must not fail by its notice
            return Delivery(None, f"could not write it: {type(exc).__name__}")
        return Delivery(True)


class WebhookTracker:
    """Sends notices to one address. The key is read at each notice, so a rotated one counts at once."""

    def __init__(self, url: str, secrets: SecretStore, clock: Clock, *, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url
        self._secrets = secrets
        self._clock = clock
        self._timeout_s = timeout_s

    def notify(self, notice: Telling) -> Delivery:
        try:
            fields = self._secrets.read(KEY_SECRET)
            if not fields or not fields.get(KEY_FIELD):
                return Delivery(False, f"there is no secret {KEY_SECRET} with a field {KEY_FIELD}")
            return self._send(notice, fields[KEY_FIELD])
        except PlatformError as exc:
            return Delivery(False, exc.what)
        except Exception as exc:  # noqa: BLE001 - a deployment must not fail by its notice; the text may quote the address
            return Delivery(None, f"could not tell {self._host()}: {type(exc).__name__}")

    def _send(self, notice: Telling, key: str) -> Delivery:
        import httpx

        body = canonical(notice.as_document())
        sent_at = str(int(self._clock.now().timestamp()))
        headers = {
            "Content-Type": "application/json",
            "X-Drp-Delivery": notice.id,
            "X-Drp-Timestamp": sent_at,
            "X-Drp-Signature": signature(key, sent_at, body),
        }
        # A redirect would carry the notice to an address that nobody configured; the answer's body is not read.
        with (
            httpx.Client(timeout=self._timeout_s, follow_redirects=False, trust_env=False) as client,
            client.stream("POST", self._url, content=body, headers=headers) as answer,
        ):
            if answer.is_success:
                return Delivery(True)
            return Delivery(False, f"{self._host()} answered {answer.status_code}")

    def _host(self) -> str:
        """The part of the address without path and credentials, which often are secrets."""
        try:
            return urlsplit(self._url).hostname or "the webhook"
        except ValueError:
            return "the webhook"


def signature(key: str, sent_at: str, body: bytes) -> str:
    """The value of ``X-Drp-Signature``."""
    return "sha256=" + hmac.new(key.encode(), sent_at.encode() + b"." + body, hashlib.sha256).hexdigest()
