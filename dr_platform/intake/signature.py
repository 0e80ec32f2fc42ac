"""Who sent an event: HMAC-SHA-256 over what was received, and a window in which it counts.

Here: pure checks. Not here: where the key is kept, or whether an event was seen before (``desk``), which holds
for ever and makes the window a second line.

- Ours: ``X-Drp-Timestamp`` (seconds since 1970) and ``X-Drp-Signature``, ``sha256=`` and the digest of the
  timestamp, a dot and the body. Within five minutes of now.
- GitHub's: ``X-Hub-Signature-256``, ``sha256=`` and the digest of the body. Its headers say neither when nor
  what, so that only the body's own words count: merged or pushed within an hour.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from dr_platform.intake.change import Change

OURS = "x-drp-signature"
SENT_AT = "x-drp-timestamp"
GITHUB = "x-hub-signature-256"
WINDOW = timedelta(minutes=5)
GITHUB_WINDOW = timedelta(hours=1)
"""GitHub repeats nothing by itself; a person who redelivers later uses ``drp intake``."""


def signature(key: str, body: bytes, sent_at: str | None = None) -> str:
    """The value of either header; without a time the one that GitHub sends."""
    signed = body if sent_at is None else sent_at.encode() + b"." + body
    return "sha256=" + hmac.new(key.encode(), signed, hashlib.sha256).hexdigest()


def refused(headers: Mapping[str, str], body: bytes, key: str, now: datetime) -> str | None:
    """Why a request is not let in, ``None`` where it is. Header names are in lower case. To be asked before
    the body is read as anything."""
    ours, github = headers.get(OURS), headers.get(GITHUB)
    if (ours is None) == (github is None):
        return "it needs one signature"
    if github is not None:
        return None if _equal(github, signature(key, body)) else "the signature is wrong"
    sent_at = headers.get(SENT_AT, "")
    if ours is None or not _equal(ours, signature(key, body, sent_at)):
        return "the signature is wrong"
    return None if _within(_moment(sent_at), now, WINDOW) else "it was not sent just now"


def too_old(change: Change, now: datetime) -> bool:
    """Whether the event happened too long ago by its own word, which was signed; only GitHub's must say when."""
    return change.source == "github" and not _within(change.at, now, GITHUB_WINDOW)


def _equal(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _moment(sent_at: str) -> datetime | None:
    return datetime.fromtimestamp(int(sent_at), UTC) if sent_at.isdecimal() and len(sent_at) <= 11 else None


def _within(at: datetime | None, now: datetime, before: timedelta) -> bool:
    return at is not None and now - before <= at <= now + WINDOW
