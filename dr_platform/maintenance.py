"""Taking the platform out of its callers' reach, and giving it back: the first step of an emergency.

Here: which services are meant, and the order of evidence and change. Not here: how a runtime answers
for a suspended service (``runtime.port``), what people are shown (``runtime.notice``).

What was ordered is written before it is done, as everywhere. But an evidence store that does not
answer stops nothing: it may be part of the emergency. The person is told what is missing there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from dr_platform.catalog import Catalog, Role
from dr_platform.errors import ExitCode, PlatformError, TemporaryFailure
from dr_platform.evidence import EvidenceLog
from dr_platform.reference_service.crisis import ELSEWHERE, EMERGENCY, LIFELINE
from dr_platform.runtime.notice import Notice, document
from dr_platform.runtime.port import Runtime, UnknownService

MAX_REASON = 300
TITLE = "We will be back soon"
TEXT = (
    "We are working on this service; nothing you have entered before is lost.\n"
    # Some who meet this page came for help with a crisis: what helps then comes before our return.
    f"If you are in crisis, call or text {LIFELINE} (in the United States, at any hour); in an emergency call"
    f" {EMERGENCY}. {ELSEWHERE}"
)


class NoEntry(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, wanted: str) -> None:
        super().__init__(wanted)
        self.what = f"the catalog has no {wanted}"
        self.untouched = "every service"
        self.next_step = "give a service of the catalog the role gateway, or make one public"


@dataclass(frozen=True)
class Order:
    """Who wants it, and why. For evidence only, never shown to callers."""

    actor: str
    reason: str

    def __post_init__(self) -> None:
        if not self.reason.strip() or len(self.reason) > MAX_REASON:
            raise ValueError(f"a reason has 1 to {MAX_REASON} characters")


@dataclass(frozen=True)
class Change:
    """What became of one service. ``problems`` is empty, and ``exit_code`` is 0, when it was done
    and is in the evidence log."""

    service: str
    done: bool
    exit_code: ExitCode = ExitCode.OK
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suspension:
    """``in_use`` tells whether the router was just seen to do what it was told last: not so where it
    shows another notice, none, or one that was ended. ``None``: could not look."""

    service: str
    notice: Notice
    in_use: bool | None


def entry(catalog: Catalog) -> tuple[str, ...]:
    """Through which callers come: the service with the role of the gateway."""
    gateway = catalog.with_role(Role.GATEWAY)
    if gateway is None:
        raise NoEntry("service with the role gateway")
    return (gateway.name,)


def every_public(catalog: Catalog) -> tuple[str, ...]:
    """All services that can be reached from outside, the entry among them whatever it says of itself."""
    gateway = catalog.with_role(Role.GATEWAY)
    found = {name for name, service in catalog.services.items() if service.public}
    found |= {gateway.name} if gateway else set()
    if not found:
        raise NoEntry("public service")
    return tuple(sorted(found))


def begin(
    runtime: Runtime, evidence: EvidenceLog, services: Iterable[str], notice: Notice, order: Order
) -> tuple[Change, ...]:
    """Suspend all these services; one that cannot be suspended does not stop the others.

    Raises ``UnknownService`` and ``RefusedEvidence`` (a reason with PHI in it) before anything is
    changed. Again: writes the order again and shows the new notice.
    """
    wanted = tuple(services)
    _refuse_unknown(runtime, wanted)
    # Of the notice a digest: a telephone number is right on the page, and refused as evidence.
    digest = hashlib.sha256(document("", notice).encode()).hexdigest()
    body = {"reason": order.reason, "retry_after_s": notice.retry_after_s, "notice_digest": digest}
    unrecorded = {name: _record(evidence, "maintenance-on", name, order.actor, body) for name in wanted}
    return tuple(_change(name, partial(runtime.suspend, name, notice), unrecorded[name]) for name in wanted)


def end(
    runtime: Runtime, evidence: EvidenceLog, order: Order, only: Collection[str] | None = None
) -> tuple[Change, ...]:
    """Resume every service that is told or seen to be suspended, or those of ``only`` that are; none:
    changes nothing. Raises and reports as ``begin`` does."""
    wanted = tuple(found.service for found in show(runtime) if only is None or found.service in only)
    body = {"reason": order.reason}
    unrecorded = {name: _record(evidence, "maintenance-off", name, order.actor, body) for name in wanted}
    return tuple(_change(name, partial(runtime.resume, name), unrecorded[name]) for name in wanted)


def show(runtime: Runtime) -> tuple[Suspension, ...]:
    """Every service that is told to be suspended, or that the router treats so."""
    told = runtime.suspensions()
    found = (_look(runtime, name, told.get(name)) for name in sorted(runtime.declared()))
    return tuple(suspension for suspension in found if suspension is not None)


def _look(runtime: Runtime, name: str, told: Notice | None) -> Suspension | None:
    try:
        observed = runtime.observe(name)
    except PlatformError:
        return Suspension(name, told, None) if told else None
    notice = told or observed.notice
    if notice is None:
        return None
    return Suspension(name, notice, None if observed.weights is None else observed.notice == told)


def _refuse_unknown(runtime: Runtime, wanted: Collection[str]) -> None:
    declared = runtime.declared()
    for name in wanted:
        if name not in declared:
            raise UnknownService(name, declared)


def _record(evidence: EvidenceLog, kind: str, service: str, actor: str, body: Mapping[str, object]) -> tuple[str, ...]:
    """Why there is no entry; nothing where there is one."""
    try:
        evidence.append(kind, service, actor, body)
    except TemporaryFailure as exc:
        return (f"{kind} by {actor} is missing in the evidence log, keep a note of it: {exc.what}",)
    return ()


def _change(service: str, act: Callable[[], None], unrecorded: tuple[str, ...]) -> Change:
    try:
        act()
    except PlatformError as exc:
        return Change(service, False, exc.exit_code, (*unrecorded, f"{exc.what}; {exc.next_step}"))
    return Change(service, True, ExitCode.UNAVAILABLE if unrecorded else ExitCode.OK, unrecorded)
