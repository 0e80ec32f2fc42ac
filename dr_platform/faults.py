"""Misbehaviour on request: what one version of one service shall do wrong, kept in files.

Here: what a fault is, the store that people write and replicas read, and which faults are in force
for one replica at one moment. Not here: how a service then misbehaves (``reference_service``).

Every fault is one file ``<id>.json``, written once and never changed, so that the set of file names
is all a replica has to look at. Beside a fault that ends with a restart, ``<id>.met/`` holds one
file per process that met it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from dr_platform.clock import Clock, SystemClock
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.identity import new_id

COMPLIANCE_FIELDS = ("hipaa_audit_enabled", "encryption_active", "access_controls_active")
"""Fields of the health response's compliance block (second guide, "Health Check Response")."""
MAX_LATENCY_MS = 600_000.0
MAX_AFTER_S = 86_400.0
LOOK_S = 0.25
"""A replica looks at the folder again after this long; a change takes effect within a second."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}")
_SECONDS = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*(ms|s|min|h)")
_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
# 1/φ: of all steps it spreads the requests that fail most evenly, and no period of the callers'
# own can fall together with it.
_GOLDEN = (math.sqrt(5) - 1) / 2


class InvalidFault(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.what = f"the fault was refused: {problem}"
        self.untouched = "every service; no fault was added"
        self.next_step = remedy


class FaultsRefused(PlatformError):
    """Only services of the local runtime may be made to misbehave."""

    exit_code = ExitCode.REFUSED

    def __init__(self, runtime: str) -> None:
        super().__init__(runtime)
        self.what = f"faults can be injected on the local runtime only; this environment runs on {runtime}"
        self.untouched = "every service of this environment"
        self.next_step = "bind the environment to this machine with `--runtime local`, or use the environment local"


class UnreadableFault(PlatformError):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.what = f"{path} is not a fault as this version writes it"
        self.untouched = "every other fault"
        self.next_step = "remove it with `drp fault clear`, which needs not read it"


@dataclass(frozen=True)
class Fault:
    """What the replicas of one version of one service shall do wrong.

    ``error_ratio`` is a share of requests from 0 to 1, ``latency_ms`` is added to every answer;
    both spare the readiness and liveness probes and the metrics. ``after_s`` counts from the start
    of each replica's process.
    """

    id: str
    service: str
    version: str
    created_at: datetime
    error_ratio: float = 0.0
    latency_ms: float = 0.0
    unready: bool = False
    compliance_flags: Mapping[str, bool] = field(default_factory=dict)
    after_s: float = 0.0
    until_restart: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "created_at": self.created_at.isoformat(),
            "compliance_flags": dict(self.compliance_flags),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Fault:
        fields = dict(document)
        fields["created_at"] = datetime.fromisoformat(fields["created_at"])
        return cls(**fields)

    def describe(self) -> str:
        """One line for a person."""
        effects = [
            *([f"{self.error_ratio:.4g} of requests fail"] if self.error_ratio else []),
            *([f"{self.latency_ms:g} ms slower"] if self.latency_ms else []),
            *(["not ready"] if self.unready else []),
            *(f"{name}={str(value).lower()}" for name, value in sorted(self.compliance_flags.items())),
        ]
        since = f" from {self.after_s:g} s after its start" if self.after_s else ""
        end = " until its process is started anew" if self.until_restart else ""
        return f"{self.service} {self.version}: {', '.join(effects)}{since}{end}"


@dataclass(frozen=True)
class Misbehaviour:
    """All faults that are in force for one process now, put together: the worst of each."""

    error_ratio: float = 0.0
    latency_ms: float = 0.0
    unready: bool = False
    compliance_flags: Mapping[str, bool] = field(default_factory=dict)


GOOD = Misbehaviour()


def combine(faults: Sequence[Fault]) -> Misbehaviour:
    """Of two values for one compliance field false wins: it is what a fault is for."""
    flags: dict[str, bool] = {}
    for fault in faults:
        for name, value in fault.compliance_flags.items():
            flags[name] = value and flags.get(name, True)
    return Misbehaviour(
        error_ratio=max((f.error_ratio for f in faults), default=0.0),
        latency_ms=max((f.latency_ms for f in faults), default=0.0),
        unready=any(f.unready for f in faults),
        compliance_flags=flags,
    )


def fails(count: int, error_ratio: float) -> bool:
    """Whether the ``count``-th request of a process fails.

    By a counter and not by chance: of any few dozen requests the asked share fails, so that what a
    rollout measures is what was asked for, and a test that repeats sees the same again.
    """
    return (count * _GOLDEN) % 1.0 < error_ratio


# Reading what a person wrote


def parse_seconds(text: str) -> float:
    """Seconds from text such as ``10s``, ``500 ms`` or ``0s``; raises ``InvalidFault``."""
    match = _SECONDS.fullmatch(text.strip())
    if match is None:
        raise InvalidFault("the time cannot be read", "write a number and one of ms, s, min, h, for example 10s")
    return float(match[1]) * _UNITS[match[2]]


def parse_compliance_flags(texts: Sequence[str]) -> dict[str, bool]:
    """Fields of the compliance block from texts such as ``encryption_active=false``."""
    flags: dict[str, bool] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if value not in ("true", "false"):
            raise InvalidFault(
                "a compliance flag has no value true or false", f"write it as {COMPLIANCE_FIELDS[1]}=false"
            )
        flags[name] = value == "true"
    return flags


def _check(fault: Fault) -> Fault:
    flags = ", ".join(COMPLIANCE_FIELDS)
    rules = (
        (_NAME.fullmatch(fault.service), "that is not the name of a service", "name a service of `drp catalog show`"),
        (_VERSION.fullmatch(fault.version), "that is not a version", "name a version such as 1.4.0"),
        (0 <= fault.error_ratio <= 1, "the error ratio is not between 0 and 1", "write 0.2 for one request in five"),
        (0 <= fault.latency_ms <= MAX_LATENCY_MS, "the latency is out of range", "write 1 to 600000 milliseconds"),
        (0 <= fault.after_s <= MAX_AFTER_S, "the delay is out of range", "write 0s to 24h"),
        (set(fault.compliance_flags) <= set(COMPLIANCE_FIELDS), "no such compliance flag", f"use one of {flags}"),
        (
            fault.error_ratio or fault.latency_ms or fault.unready or fault.compliance_flags,
            "it would do nothing",
            "add at least one of --error-ratio, --latency-ms, --unready, --compliance-flag",
        ),
    )
    for holds, problem, remedy in rules:
        if not holds:
            raise InvalidFault(problem, remedy)
    return fault


class FaultStore:
    """The faults of one environment, in a folder that any number of processes may use at once."""

    def __init__(
        self,
        root: Path,
        *,
        runtime: str,
        clock: Clock | None = None,
        make_id: Callable[[str], str] = new_id,
    ) -> None:
        self._root = root
        self._runtime = runtime
        self._clock: Clock = clock or SystemClock()
        self._make_id = make_id

    def inject(
        self,
        service: str,
        version: str,
        *,
        error_ratio: float | None = None,
        latency_ms: float | None = None,
        unready: bool = False,
        compliance_flags: Mapping[str, bool] | None = None,
        after_s: float = 0.0,
        until_restart: bool = False,
    ) -> Fault:
        """Add a fault; it takes effect within a second, also where that version is deployed later.

        Raises ``FaultsRefused`` off the local runtime and ``InvalidFault`` for wrong input; both
        leave every service as it is.
        """
        if self._runtime != "local":
            raise FaultsRefused(self._runtime)
        fault = _check(
            Fault(
                id=self._make_id("fault"),
                service=service,
                version=version,
                created_at=self._clock.now(),
                error_ratio=error_ratio or 0.0,
                latency_ms=latency_ms or 0.0,
                unready=unready,
                compliance_flags=dict(compliance_flags or {}),
                after_s=after_s,
                until_restart=until_restart,
            )
        )
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = self._root / f".{fault.id}.part"
        part.write_text(json.dumps(fault.as_json(), indent=2), encoding="utf-8")
        part.rename(self._root / f"{fault.id}.json")
        return fault

    def list(self) -> tuple[Fault, ...]:
        """All faults, oldest first. Raises ``UnreadableFault`` for a file that is none."""
        faults = [fault for path in self._paths() if (fault := _read(path)) is not None]
        return tuple(sorted(faults, key=lambda fault: (fault.created_at, fault.id)))

    def clear(self, service: str | None = None) -> int:
        """End faults, all or one service's; returns how many there were."""
        count = 0
        for path in self._paths():
            if service is not None and (fault := _read(path)) is not None and fault.service != service:
                continue
            path.unlink(missing_ok=True)
            shutil.rmtree(path.with_suffix(".met"), ignore_errors=True)
            count += 1
        return count

    def _paths(self) -> Iterator[Path]:
        return iter(sorted(self._root.glob("*.json"))) if self._root.is_dir() else iter(())


def _read(path: Path) -> Fault | None:
    """``None`` where the fault was cleared meanwhile."""
    try:
        return Fault.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        raise UnreadableFault(path) from None


@dataclass(frozen=True)
class Replica:
    """A process that asks which faults are its own.

    ``place`` stays the same when the process is started anew (slot and port); ``process`` does not.
    ``replicas`` is how many of its kind run side by side.
    """

    service: str
    version: str
    place: str
    process: str
    replicas: int = 1


class FaultView:
    """The faults of one process, read again at most every ``LOOK_S`` seconds.

    A file that cannot be read is passed over: a broken fault must not break a service.
    """

    def __init__(self, root: Path, replica: Replica, clock: Clock) -> None:
        self._root = root
        self._replica = replica
        self._clock = clock
        self._started = clock.monotonic()
        self._looked = -math.inf
        self._names: frozenset[str] = frozenset()
        self._faults: tuple[Fault, ...] = ()

    def now(self) -> Misbehaviour:
        """What this process shall do wrong at this moment."""
        moment = self._clock.monotonic()
        if moment - self._looked >= LOOK_S:
            self._looked = moment
            self._look()
        if not self._faults:
            return GOOD
        age = moment - self._started
        return combine([fault for fault in self._faults if age >= fault.after_s])

    def _look(self) -> None:
        try:
            names = frozenset(name for name in os.listdir(self._root) if name.endswith(".json"))  # noqa: PTH208 - ten times cheaper here
        except OSError:
            names = frozenset()
        if names == self._names:
            return
        kept = {f"{fault.id}.json": fault for fault in self._faults}
        self._faults = tuple(f for name in sorted(names) if (f := kept.get(name) or self._take_up(name)) is not None)
        self._names = names

    def _take_up(self, name: str) -> Fault | None:
        try:
            fault = _read(self._root / name)
        except (UnreadableFault, OSError):
            return None
        mine = fault is not None and (fault.service, fault.version) == (self._replica.service, self._replica.version)
        if fault is None or not mine:
            return None
        return fault if not fault.until_restart or self._meets(fault) else None

    def _meets(self, fault: Fault) -> bool:
        """Whether a fault that ends with a restart is this process's own.

        As many processes meet it as the version has replicas, each at a place of its own; whoever
        comes after them was started anew, at the old place or, while the old one still served, at
        another.
        """
        met = self._root / f"{fault.id}.met"
        try:
            met.mkdir(mode=0o700, exist_ok=True)
            with _alone(met):
                before = [name.split("@") for name in os.listdir(met) if "@" in name]  # noqa: PTH208
                mine = [self._replica.place, self._replica.process]
                if mine in before:
                    return True
                places = {place for place, _process in before}
                if self._replica.place in places or len(places) >= self._replica.replicas:
                    return False
                (met / "@".join(mine)).touch(mode=0o600)
                return True
        except OSError:  # cleared meanwhile
            return False


@contextlib.contextmanager
def _alone(folder: Path) -> Generator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
