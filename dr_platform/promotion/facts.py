"""What has been recorded about a release, as values for the gates.

Here: the kinds of entries that gates rest on, and reading them back. Not here: writing them
(``record``), or what follows from them (``gates``).

Kinds, with the fields of their bodies. All but ``freeze`` carry ``environment``, ``release`` and
``digest`` and are entries about ``releases/<release>``.

- ``suite-run``: ``suite``, ``passed`` (true, false, or null for "could not look"), ``checks``, ``failed``
- ``release-verified``: it runs in the environment, watched to the end of its rollout
- ``attestation``: ``line``, ``expires``, ``identity``, ``reason``; the entry's actor is the signer
- ``waiver``: ``row``, ``expires``, ``identity``, ``reason``; it counts when two people have written it
- ``hold``: ``on``, ``reason``; the newest one counts
- ``freeze``: ``on``, ``reason``; about ``environments/<environment>``; the newest one counts
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from dr_platform.approvals import Case
from dr_platform.evidence import BrokenEntry, Entry, EvidenceLog
from dr_platform.identity import Person, Proof
from dr_platform.promotion.candidate import Candidate
from dr_platform.promotion.signed import PromotionEvidence

SUITE_RUN = "suite-run"
VERIFIED = "release-verified"
ATTESTATION = "attestation"
WAIVER = "waiver"
HOLD = "hold"
FREEZE = "freeze"

T = TypeVar("T")


@dataclass(frozen=True)
class SuiteRun:
    """``passed`` is ``None`` where the suite could not look; that never passes."""

    suite: str
    environment: str
    release: str
    digest: str
    passed: bool | None
    checks: int
    failed: int
    at: datetime


@dataclass(frozen=True)
class VerifiedRelease:
    environment: str
    release: str
    digest: str
    at: datetime


@dataclass(frozen=True)
class Attestation:
    line: str
    environment: str
    release: str
    digest: str
    signer: Person
    at: datetime
    expires_at: datetime


@dataclass(frozen=True)
class Waiver:
    """One person's word that a row of the gate may stay unmet for a while."""

    row: str
    environment: str
    release: str
    digest: str
    by: Person
    at: datetime
    expires_at: datetime
    reason: str


@dataclass(frozen=True)
class Order:
    """The newest hold of a digest or freeze of an environment."""

    on: bool
    by: str
    at: datetime
    reason: str


@dataclass(frozen=True)
class Unread:
    """The records could not be looked at; every gate that rests on them stays shut."""

    why: str


@dataclass(frozen=True)
class Facts:
    """Everything recorded that concerns one candidate. ``source`` is the newest evidence from the
    environment before, ``refused`` what was found of it and not accepted."""

    suites: tuple[SuiteRun, ...] = ()
    verified: tuple[VerifiedRelease, ...] = ()
    attestations: tuple[Attestation, ...] = ()
    waivers: tuple[Waiver, ...] = ()
    hold: Order | None = None
    freeze: Order | None = None
    cases: tuple[Case, ...] = ()
    source: PromotionEvidence | None = None
    refused: tuple[str, ...] = ()
    broken: BrokenEntry | None = None
    unreadable: tuple[int, ...] = ()


def release_subject(release: str) -> str:
    return f"releases/{release}"


def environment_subject(environment: str) -> str:
    return f"environments/{environment}"


def read_facts(
    evidence: EvidenceLog,
    candidate: Candidate,
    *,
    cases: tuple[Case, ...] = (),
    source: PromotionEvidence | None = None,
    refused: tuple[str, ...] = (),
) -> Facts:
    """Read all that was recorded about a candidate, in the order it was recorded. An entry that
    cannot be read is named, so that none is passed over. Raises ``OperationsUnavailable``."""
    unreadable: list[int] = []

    def read(kind: str, subject: str, make: Callable[[Entry], T]) -> Iterator[T]:
        for entry in evidence.entries(kind=kind, subject=subject):
            try:
                yield make(entry)
            except (KeyError, ValueError, TypeError, AttributeError):
                unreadable.append(entry.sequence)

    about = release_subject(candidate.release)
    holds = [order for digest, order in read(HOLD, about, _hold) if digest == _held_as(candidate)]
    freezes = list(read(FREEZE, environment_subject(candidate.environment), _order))
    return Facts(
        suites=tuple(read(SUITE_RUN, about, _suite_run)),
        verified=tuple(read(VERIFIED, about, _verified)),
        attestations=tuple(read(ATTESTATION, about, _attestation)),
        waivers=tuple(read(WAIVER, about, _waiver)),
        hold=holds[-1] if holds else None,
        freeze=freezes[-1] if freezes else None,
        cases=cases,
        source=source,
        refused=refused,
        broken=evidence.verify(),
        unreadable=tuple(sorted(set(unreadable))),
    )


def _held_as(candidate: Candidate) -> tuple[str, str]:
    return candidate.environment, candidate.digest


def _which(entry: Entry) -> dict[str, str]:
    return {name: _text(entry, name) for name in ("environment", "release", "digest")}


def _text(entry: Entry, name: str) -> str:
    value = entry.body[name]
    if not isinstance(value, str):
        raise TypeError(name)
    return value


def _typed(entry: Entry, name: str, *kinds: type) -> Any:
    """Exactly one of the types: in Python ``True`` is an ``int`` as well."""
    value = entry.body[name]
    if type(value) not in kinds:
        raise TypeError(name)
    return value


def _moment(entry: Entry, name: str) -> datetime:
    moment = datetime.fromisoformat(_text(entry, name))
    if moment.tzinfo is None:
        raise ValueError(name)
    return moment


def _person(entry: Entry) -> Person:
    return Person(entry.actor, Proof(entry.body["identity"]))


def _suite_run(entry: Entry) -> SuiteRun:
    return SuiteRun(
        suite=_text(entry, "suite"),
        passed=_typed(entry, "passed", bool, type(None)),
        checks=_typed(entry, "checks", int),
        failed=_typed(entry, "failed", int),
        at=entry.at,
        **_which(entry),
    )


def _verified(entry: Entry) -> VerifiedRelease:
    return VerifiedRelease(at=entry.at, **_which(entry))


def _attestation(entry: Entry) -> Attestation:
    expires = _moment(entry, "expires")
    return Attestation(_text(entry, "line"), signer=_person(entry), at=entry.at, expires_at=expires, **_which(entry))


def _waiver(entry: Entry) -> Waiver:
    return Waiver(
        _text(entry, "row"),
        by=_person(entry),
        at=entry.at,
        expires_at=_moment(entry, "expires"),
        reason=_text(entry, "reason"),
        **_which(entry),
    )


def _hold(entry: Entry) -> tuple[tuple[str, str], Order]:
    which = _which(entry)
    return (which["environment"], which["digest"]), _order(entry)


def _order(entry: Entry) -> Order:
    return Order(_typed(entry, "on", bool), entry.actor, entry.at, _text(entry, "reason"))
