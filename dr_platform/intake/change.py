"""Events of CI as values: GitHub's ``push`` and ``pull_request``, and a plain form of our own.

Here: what an event says, and when it happened by its own word. Not here: whether that deploys anything
(``decide``), or who sent it (``signature``).

The plain form is a JSON object: ``id`` (names the event, whoever sends it again), ``event`` (``push`` or
``pull-request-merge``), ``branch`` (pushed to, or merged into), ``commit``, and where they are known
``from`` (the merged branch), ``repository`` (owner/name), ``release`` and ``at`` (ISO 8601 with a zone).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from dr_platform.errors import ExitCode, PlatformError

_BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+@-]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_REPOSITORY = re.compile(r"[A-Za-z0-9._-]{1,100}/[A-Za-z0-9._-]{1,100}")
_RELEASE = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")
_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")
_COMMIT_OF_RELEASE = 12
_HEADS = "refs/heads/"


class Malformed(PlatformError):
    """Names the field, and never what was written into it."""

    exit_code = ExitCode.REFUSED

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.what = f"the event cannot be read: {why}"
        self.untouched = "every environment; nothing was taken in"
        self.next_step = "send GitHub's push or pull_request event, or the plain form (docs/delivery.md)"


class Happening(StrEnum):
    PUSH = "push"
    PULL_REQUEST_MERGE = "pull-request-merge"


@dataclass(frozen=True)
class Change:
    """Something was merged or pushed. ``identity`` follows from what happened alone, so that an event that is
    delivered again, under whatever name, is the same. ``at`` is by the event's own word."""

    happening: Happening
    branch: str
    commit: str
    identity: str
    source: str
    came_from: str = ""
    repository: str = ""
    named_release: str = ""
    at: datetime | None = None

    @property
    def release(self) -> str:
        """The release that CI made of it: as it says itself, else by the commit (``git-<12 digits>``)."""
        return self.named_release or f"git-{self.commit[:_COMMIT_OF_RELEASE]}"


@dataclass(frozen=True)
class Nothing:
    """An event that never deploys anywhere, such as a closed pull request that was not merged."""

    why: str


def read_event(content: bytes, github_event: str | None = None) -> Change | Nothing:
    """``github_event`` is the value of ``X-GitHub-Event``; without one the content has the plain form. Raises
    ``Malformed``."""
    body = _document(content)
    match github_event:
        case None:
            return _plain(body)
        case "push":
            return _push(body)
        case "pull_request":
            return _pull_request(body)
        case _:
            return Nothing("an event of this kind deploys nothing")


def _document(content: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise Malformed("it is not JSON") from None
    if not isinstance(found, dict):
        raise Malformed("it is no JSON object")
    return found


def _plain(body: Mapping[str, Any]) -> Change:
    name, event = _text(body, "id", _ID), _text(body, "event")
    if event not in set(Happening):
        raise Malformed(f"event is none of {', '.join(Happening)}")
    at = _moment(body.get("at"), "at") if "at" in body else None
    return Change(
        Happening(event),
        _text(body, "branch", _BRANCH),
        _text(body, "commit", _COMMIT),
        identity=f"plain:{name}",
        source="plain",
        came_from=_text(body, "from", _BRANCH) if "from" in body else "",
        repository=_text(body, "repository", _REPOSITORY) if "repository" in body else "",
        named_release=_text(body, "release", _RELEASE) if "release" in body else "",
        at=at,
    )


def _push(body: Mapping[str, Any]) -> Change | Nothing:
    ref = _text(body, "ref")
    if not ref.startswith(_HEADS):
        return Nothing("no branch was pushed")
    if body.get("deleted") is True:
        return Nothing("the branch was deleted")
    branch, repository = ref.removeprefix(_HEADS), _part(body, "repository")
    if not _BRANCH.fullmatch(branch):
        raise Malformed("ref names no branch")
    before, after = _text(body, "before", _COMMIT), _text(body, "after", _COMMIT)
    name = _text(repository, "full_name", _REPOSITORY)
    return Change(
        Happening.PUSH,
        branch,
        after,
        # Back to an earlier commit is another push: what was there before belongs to its identity.
        identity=f"github:push:{name}:{branch}:{before}:{after}",
        source="github",
        repository=name,
        at=_moment(repository.get("pushed_at"), "repository.pushed_at"),
    )


def _pull_request(body: Mapping[str, Any]) -> Change | Nothing:
    pull = _part(body, "pull_request")
    if body.get("action") != "closed" or pull.get("merged") is not True:
        return Nothing("the pull request was not merged by it")
    base, head = _part(pull, "base"), _part(pull, "head")
    name = _text(_part(body, "repository"), "full_name", _REPOSITORY)
    commit = _text(pull, "merge_commit_sha", _COMMIT)
    branch, came_from = _text(base, "ref", _BRANCH), _text(head, "ref", _BRANCH)
    return Change(
        Happening.PULL_REQUEST_MERGE,
        branch,
        commit,
        identity=f"github:merge:{name}:{branch}:{commit}",
        source="github",
        came_from=came_from,
        repository=name,
        at=_moment(pull.get("merged_at"), "pull_request.merged_at"),
    )


def _part(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = body.get(name)
    if not isinstance(found, dict):
        raise Malformed(f"{name} is missing")
    return found


def _text(body: Mapping[str, Any], name: str, form: re.Pattern[str] | None = None) -> str:
    found = body.get(name)
    if not isinstance(found, str) or not found:
        raise Malformed(f"{name} is missing")
    if form is not None and not form.fullmatch(found):
        raise Malformed(f"{name} has not the form that it must have")
    return found


def _moment(value: object, name: str) -> datetime:
    """GitHub writes ISO 8601, and seconds since 1970 in the repository of a push."""
    try:
        if isinstance(value, int) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
    except (ValueError, OverflowError, OSError):
        at = None
    if at is None or at.tzinfo is None:
        raise Malformed(f"{name} is no moment with a time zone")
    return at.astimezone(UTC)
