"""The port through which workloads run: what a runtime must be able to do.

Here: the values that cross the port, its promises and its errors. Not here: how any runtime keeps
them (``memory``, ``local``), nor what should run when (``dr_platform.rollout``).

Every promise is one test of the contract suite ``tests/contracts/runtime.py``, which every adapter
inherits. Each docstring names the Kubernetes object that carries the same promise, so that the
port never asks for what a cluster cannot give.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, NewType, Protocol
from urllib.parse import urlsplit

from dr_platform.errors import ExitCode, PlatformError, TemporaryFailure
from dr_platform.runtime.notice import Notice

if TYPE_CHECKING:  # the keeper reads this module for its errors, and should stay small
    from dr_platform.catalog import Service

REVISION_HEADER = "x-drp-revision"
"""A request that carries this header with a slot's name reaches that slot whatever the weights."""

HEALTH_PATH = "/health"
"""It and what lies below it answers also while a service is suspended: whoever probes a service that
an operator works on shall see how it is, and nobody shall be sent to mend it."""


def is_health_path(path: str) -> bool:
    """Whether a request's path, with or without a query, is ``HEALTH_PATH`` or below it."""
    return f"{urlsplit(path).path}/".startswith(f"{HEALTH_PATH}/")


class Slot(StrEnum):
    """The two permanent places of a service. Which one is stable is recorded, never implied."""

    BLUE = "blue"
    GREEN = "green"

    @property
    def other(self) -> Slot:
        return Slot.GREEN if self is Slot.BLUE else Slot.BLUE


@dataclass(frozen=True)
class Revision:
    """What runs: equal revisions behave equally.

    ``version`` is the release's name for it, ``digest`` identifies the image (on the local runtime
    the reference service's code), ``config_hash`` everything that is handed to the process.
    """

    version: str
    digest: str
    config_hash: str


@dataclass(frozen=True)
class Workload:
    """A revision with all a runtime needs to run it. ``settings`` are plain text, never secrets."""

    service: Service
    revision: Revision
    replicas: int
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Weights:
    """Percent of requests to each slot: 100 in sum, or nothing at all (``CLOSED``)."""

    blue: int
    green: int

    def __post_init__(self) -> None:
        if min(self.blue, self.green) < 0 or self.blue + self.green not in (0, 100):
            raise ValueError(f"weights {self.blue}/{self.green}: each at least 0, in sum 100 or 0")

    @classmethod
    def all_to(cls, slot: Slot) -> Weights:
        return cls(100, 0) if slot is Slot.BLUE else cls(0, 100)

    def of(self, slot: Slot) -> int:
        return self.blue if slot is Slot.BLUE else self.green


CLOSED = Weights(0, 0)
"""No slot gets traffic: requests are answered 503 by the router. Before a first deployment."""


class ReplicaState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"
    """Runs, but its readiness probe fails."""
    FAILED = "failed"
    """Ended and is not being started again, or crashes at every start."""


@dataclass(frozen=True)
class Replica:
    """One process or pod. ``restarts`` counts ends the runtime did not ask for since ``apply``."""

    name: str
    state: ReplicaState
    address: str
    restarts: int = 0
    started_at: datetime | None = None
    reason: str = ""


@dataclass(frozen=True)
class SlotStatus:
    """What a slot was told to run and what really runs in it."""

    revision: Revision | None = None
    desired: int = 0
    replicas: tuple[Replica, ...] = ()

    @property
    def ready(self) -> int:
        return sum(r.state is ReplicaState.READY for r in self.replicas)


@dataclass(frozen=True)
class Observed:
    """A service as it is now, read and not remembered.

    ``weights`` is what the router does, not what it was told; ``None`` means it could not be read,
    which is neither good nor a reason to destroy something. ``notice`` is read together with them:
    what the router answers while the service is suspended, ``None`` while it is not. Where
    ``weights`` could not be read, ``notice`` says nothing.
    """

    service: str
    slots: Mapping[Slot, SlotStatus]
    weights: Weights | None
    epoch: int = 0
    notice: Notice | None = None


@dataclass(frozen=True)
class ProbeResult:
    """An HTTP answer, or why there was none (``status`` is then ``None``). ``retry_after_s`` is the
    answer's ``Retry-After`` where it has one in seconds."""

    status: int | None
    body: bytes = b""
    latency_ms: float = 0.0
    reason: str = ""
    retry_after_s: int | None = None

    @property
    def ok(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


RecordVersion = NewType("RecordVersion", str)


@dataclass(frozen=True)
class StoredRecord:
    body: str
    version: RecordVersion


@dataclass(frozen=True)
class Lease:
    """A right to act, good until ``expires_at``. ``transitions`` rises with every new holder."""

    name: str
    holder: str
    transitions: int
    expires_at: datetime


@dataclass(frozen=True)
class Job:
    """A program that runs to its end once. ``arguments`` follow the image's entry point."""

    name: str
    arguments: tuple[str, ...]
    timeout_s: float
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class JobResult:
    """``exit_code`` is ``None`` when the job was ended because its time was over."""

    exit_code: int | None
    output: str
    duration_s: float


@dataclass(frozen=True)
class LogLine:
    replica: str
    text: str


class Runtime(Protocol):
    """Where workloads run.

    Methods are idempotent: repeating a call whose outcome is unknown is harmless. Every method
    raises ``RuntimeUnreachable`` when the runtime itself cannot be asked, and then nothing is known
    about what changed. ``UnknownService`` is raised for services that were not declared.
    """

    def declare(self, service: Service) -> None:
        """Make the permanent parts of a service: its address and both (empty) slots.

        Traffic of a declared service without a deployment is answered 503. A second declaration
        with another port, timeout or probe changes them without losing a request.
        Kubernetes: the Services ``<name>-blue`` and ``<name>-green`` and the HTTPRoute.
        """

    def undeclare(self, name: str) -> None:
        """Take the permanent parts and the record away again, and a suspension with them. Refused
        (``SlotInUse``) while a slot runs anything. Kubernetes: deletes the two Services, the
        HTTPRoute and the ConfigMaps."""

    def declared(self) -> frozenset[str]:
        """Names of all declared services. Kubernetes: HTTPRoutes by our label."""

    def apply(self, slot: Slot, workload: Workload, epoch: int | None = None) -> None:
        """Make the slot run this workload; returns once told, not once ready.

        Refused with ``StaleEpoch`` when a higher epoch has written before: a controller that was
        stopped after its decision would scale what its successor has under traffic. Whoever acts
        without an epoch, as nobody does while a rollout is open, is not compared.

        Refused (``SlotInUse``) when the slot runs another revision and its weight is above 0: a
        revision under traffic is never changed in place. The same revision with other ``replicas``
        scales without restarting the others; replicas taken away first finish their requests.
        Kubernetes: server-side apply of the Deployment ``<name>-<slot>``, with ``test`` on its epoch
        annotation.
        """

    def replace(self, name: str, slot: Slot, replicas: Collection[str]) -> None:
        """Start these replicas anew, each after its requests have ended (bounded by the service's
        drain time). Names that do not exist any more are ignored. Kubernetes: deletes the pods."""

    def retire(self, name: str, slot: Slot, epoch: int | None = None) -> None:
        """Empty the slot. Refused (``SlotInUse``) while its weight is above 0, and with ``StaleEpoch``
        as in ``apply``. Requests under way end first, bounded by the service's drain time.
        Kubernetes: Deployment to 0 replicas."""

    def fence(self, name: str, epoch: int) -> None:
        """From now on nothing of a lower epoch changes the service's slots or weights, nor does it
        write ``epoch`` itself where a higher one stands (``StaleEpoch``). Slots and weights stay as
        they are. Kubernetes: the epoch annotations, each with ``test``."""

    def observe(self, name: str) -> Observed:
        """Read everything about a service. Kubernetes: Deployments, pods and the HTTPRoute."""

    def probe(self, name: str, path: str, slot: Slot | None = None, timeout_s: float = 5.0) -> ProbeResult:
        """GET ``path`` through the router, at ``slot`` by header or by weight. Never raises for an
        answer that does not come. Kubernetes: through the Gateway or the API server's proxy."""

    def route(self, name: str, weights: Weights, epoch: int) -> None:
        """Set weights and return only when the router was seen to use them.

        Refused with ``StaleEpoch`` when a higher epoch has written before, and with ``NoCapacity``
        when a slot that would get traffic has no ready replica; a refusal changes nothing.
        ``RouteNotVerified`` means told, but not seen in time: repeat it, or put the old weights back.
        Kubernetes: one JSON patch of the HTTPRoute with ``test`` on its epoch annotation, then
        ``observedGeneration``.
        """

    def suspend(self, name: str, notice: Notice) -> None:
        """Answer the service's requests 503 with ``Retry-After`` and the notice, as a page or, to
        who accepts JSON and no HTML, as JSON; returns only when the router was seen to do so.

        Two kinds of requests are still served: those with ``REVISION_HEADER``, for operators, and
        those of ``HEALTH_PATH``, for probes. Requests under way come to their end. Slots, weights,
        epoch and record stay as they are and can be changed meanwhile; ``route`` does not end a
        suspension, nor does a restart of anything. Again with another notice: changes the notice.
        ``SuspensionNotVerified`` means told, but not seen in time: repeat it.
        Kubernetes: in the HTTPRoute the rule of the weights is narrowed to ``/health`` (with the
        header's rules repeated there, since a longer path comes before a header), and one more rule
        sends the rest to the Service ``maintenance``, which answers 503 with the notice of the
        ConfigMap ``notice-<name>``; a ResponseHeaderModifier of that rule sets ``Retry-After``.
        """

    def resume(self, name: str) -> None:
        """End the suspension; traffic goes by the weights again, as verified as in ``suspend``. A
        service that is not suspended stays as it is. Kubernetes: takes that rule back out."""

    def suspensions(self) -> Mapping[str, Notice]:
        """What was told last, by service; ``observe`` says what the router does. Kubernetes: the
        ConfigMaps ``notice-<name>`` by our label."""

    def run_job(self, job: Job) -> JobResult:
        """Run a program to its end and return its last 64 KiB of output. A job of that name that
        still runs is waited for instead of started twice. Kubernetes: a Job with
        ``activeDeadlineSeconds``."""

    def logs(
        self, name: str, slot: Slot | None = None, *, previous: bool = False, lines: int = 100, follow: bool = False
    ) -> Iterator[LogLine]:
        """The newest ``lines`` of each replica, oldest first; ``previous`` gives what was written
        before the last start; ``follow`` goes on until the caller closes it. Kubernetes: pod logs."""

    def read_record(self, name: str) -> StoredRecord | None:
        """The service's rollout record. Kubernetes: the ConfigMap ``rollout-<name>``."""

    def write_record(self, name: str, body: str, expected: RecordVersion | None) -> RecordVersion:
        """Compare and swap; ``expected=None`` creates. Of several writers that read the same
        version one wins; the others get ``StaleRecord`` and have changed nothing. Durable when it
        returns. Kubernetes: update with ``resourceVersion``."""

    def acquire_lease(self, name: str, holder: str, ttl: timedelta) -> Lease | None:
        """Take or renew the lease; ``None`` when somebody else holds it and it has not run out.
        Kubernetes: Lease, ``leaseTransitions``."""

    def read_lease(self, name: str) -> Lease | None:
        """The lease as it is, also after it has run out; ``None`` when nobody ever took it. ``holder`` is
        empty once it was given back. Kubernetes: the Lease object."""

    def release_lease(self, lease: Lease) -> None:
        """Give it back early. Somebody else's lease is left alone."""


class RuntimeUnreachable(TemporaryFailure):
    def __init__(self, runtime: str, reason: str) -> None:
        super().__init__(runtime, reason)
        self.what = f"the {runtime} runtime does not answer: {reason}"
        self.untouched = "nothing is known about the last change; repeating it is safe"
        self.next_step = "look with `drp doctor`, start what is missing with `drp up`"


class UnknownService(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, known: Collection[str] = ()) -> None:
        super().__init__(name, tuple(sorted(known)))
        self.what = f"{name}: no such service here"
        self.untouched = "every service"
        self.next_step = f"choose one of: {', '.join(sorted(known))}" if known else "run `drp up` first"


class SlotInUse(PlatformError):
    def __init__(self, name: str, slot: Slot, reason: str) -> None:
        super().__init__(name, slot, reason)
        self.what = f"{name}: the {slot} slot is in use ({reason})"
        self.untouched = f"both slots and the routes of {name}"
        self.next_step = f"move its traffic first, or use the {slot.other} slot"


class StaleEpoch(PlatformError):
    """A newer controller has taken over. Never retried: its decision stands."""

    def __init__(self, name: str, offered: int, current: int) -> None:
        super().__init__(name, offered, current)
        self.what = f"{name}: a change of epoch {offered} was refused, epoch {current} acts now"
        self.untouched = f"the slots and routes of {name}"
        self.next_step = "stop; the holder of the newer epoch carries the rollout on"


class NoCapacity(PlatformError):
    def __init__(self, name: str, slot: Slot) -> None:
        super().__init__(name, slot)
        self.what = f"{name}: no ready replica in the {slot} slot to take traffic"
        self.untouched = f"the routes of {name}"
        self.next_step = f"look at `drp diagnose {name}`; try again when a replica is ready"


class RouteNotVerified(TemporaryFailure):
    def __init__(self, name: str, weights: Weights, seen: str) -> None:
        super().__init__(name, weights, seen)
        self.seen = seen
        self.what = f"{name}: weights {weights.blue}/{weights.green} were written but not seen in use ({seen})"
        self.untouched = f"the slots of {name}"
        self.next_step = "repeat the change; if it stays, `drp doctor` looks at the router"


class SuspensionNotVerified(TemporaryFailure):
    def __init__(self, name: str, seen: str) -> None:
        super().__init__(name, seen)
        self.what = f"{name}: what it answers during maintenance was written but not seen in use ({seen})"
        self.untouched = f"the slots, the weights and the record of {name}"
        self.next_step = "repeat the command; if it stays, `drp doctor` looks at the router"


class StaleRecord(PlatformError):
    """Someone else moved the record after we read it. Never retried blindly: read, decide again."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.what = f"{name}: a change was refused because its record was changed after it was read"
        self.untouched = f"the record, the routes and the replicas of {name}"
        self.next_step = f"read `drp status` again; repeat the command if nobody else works on {name}"
