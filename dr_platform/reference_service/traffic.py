"""A little honest load: ``python -m dr_platform.reference_service.traffic --rate 5``.

Open loop: requests start at times drawn beforehand, however slow the answers are, and a latency
counts from the time at which its request should have started. So a service that stands still shows
as slow, and not as a pause in the load. Arrivals are a Poisson process from a seed.

Everything that is sent is made up: questions of the knowledge sets, and notes of no content.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any

from dr_platform.clock import Clock, SystemClock
from dr_platform.errors import PlatformError
from dr_platform.reference_service.access import Tokens
from dr_platform.reference_service.compliance import PROTECTED_PATH, PROTECTED_SCOPE
from dr_platform.reference_service.peers import Answer, Peers
from dr_platform.reference_service.settings import Paths
from dr_platform.reference_service.topology import ServiceEntry, Topology, Work, read_topology
from dr_platform.secrets.embedded import EmbeddedSecretStore

MOST_UNDER_WAY = 32
"""A request whose time comes while so many wait for answers is dropped and counted."""
TIMEOUT_S = 10.0
SUMMARY_S = 5.0
WINDOW_S = 60.0
RELOAD_S = 30.0
"""A service that was added to the catalog gets its share after this long."""
MESSAGES = 6
"""Of one conversation; then another one begins."""
FALLBACK_QUESTIONS = (
    "How can I fall asleep more easily?",
    "What should I bring to my first appointment?",
    "I forgot a dose, what now?",
    "Who may see my health record?",
    "How do I calm down when I panic?",
)


# What is sent


@dataclass(frozen=True)
class Request:
    """One request. ``service`` is whom it is sent to and counted for."""

    service: str
    method: str
    path: str
    scopes: tuple[str, ...]
    body: dict[str, Any] | None = None


Maker = Callable[[random.Random], Request]


def mix(topology: Topology, questions: Sequence[str]) -> list[tuple[float, Maker]]:
    """What a service gets, with weights. Half is spread evenly over all services, so that each of
    them has something to be judged by."""
    makers: list[tuple[float, Maker]] = [(50.0, _protected(list(topology.services.values())))]
    by_work: tuple[tuple[float, Work, Callable[[ServiceEntry, Sequence[str]], Maker]], ...] = (
        (15.0, Work.GATEWAY, _conversation),
        (12.0, Work.SEARCH, _search),
        (8.0, Work.EMBEDDING, _embed),
        (5.0, Work.CONTENT_SAFETY, _check),
        (2.0, Work.BACKGROUND_TASKS, _task),
    )
    for weight, work, make in by_work:
        if (entry := topology.with_work(work)) is not None:
            makers.append((weight, make(entry, questions)))
    if keepers := [s for s in topology.services.values() if s.databases and not s.roles]:
        makers.append((8.0, _records(keepers)))
    return makers


def _protected(services: Sequence[ServiceEntry]) -> Maker:
    return lambda chance: Request(chance.choice(services).name, "GET", PROTECTED_PATH, (PROTECTED_SCOPE,))


def _records(keepers: Sequence[ServiceEntry]) -> Maker:
    path = "/v1/records?kind=note&limit=5"
    return lambda chance: Request(chance.choice(keepers).name, "GET", path, ("records:read",))


def _conversation(entry: ServiceEntry, questions: Sequence[str]) -> Maker:
    number = 0

    def make(chance: random.Random) -> Request:
        nonlocal number
        number += 1
        conversation = f"traffic-{number // MESSAGES:08}"
        body = {"message": chance.choice(questions), "conversation": conversation}
        return Request(entry.name, "POST", "/v1/conversation", ("conversation:write",), body)

    return make


def _search(entry: ServiceEntry, questions: Sequence[str]) -> Maker:
    def make(chance: random.Random) -> Request:
        return Request(entry.name, "POST", "/search", ("search:use",), {"question": chance.choice(questions)})

    return make


def _embed(entry: ServiceEntry, questions: Sequence[str]) -> Maker:
    def make(chance: random.Random) -> Request:
        texts = [chance.choice(questions) for _ in range(chance.randint(1, 3))]
        return Request(entry.name, "POST", "/embed", ("embed:use",), {"texts": texts})

    return make


def _check(entry: ServiceEntry, questions: Sequence[str]) -> Maker:
    def make(chance: random.Random) -> Request:
        return Request(entry.name, "POST", "/check", ("safety:use",), {"text": chance.choice(questions)})

    return make


def _task(entry: ServiceEntry, questions: Sequence[str]) -> Maker:
    def make(chance: random.Random) -> Request:
        body = {"kind": "count-words", "texts": [chance.choice(questions)]}
        return Request(entry.name, "POST", "/v1/tasks", ("tasks:write",), body)

    return make


def read_questions(catalog: Path) -> tuple[str, ...]:
    """The labelled questions of all knowledge sets; a few of our own where there are none."""
    found: list[str] = []
    for file in sorted(catalog.glob("knowledge/*/*.jsonl")):
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
            found += [json.loads(line)["question"] for line in lines if line.strip()]
        except (OSError, ValueError, KeyError, TypeError):  # somebody may be editing it
            continue
    return tuple(found) or FALLBACK_QUESTIONS


def arrivals(rate: float, chance: random.Random) -> Iterator[float]:
    """Seconds from the start at which requests are due: a Poisson process of ``rate`` a second."""
    at = 0.0
    while True:
        at += chance.expovariate(rate)
        yield at


# What comes back


@dataclass(frozen=True)
class Outcome:
    """``status`` is ``None`` where no answer came. ``due`` is monotonic, ``latency_ms`` from it."""

    service: str
    status: int | None
    due: float
    latency_ms: float

    @property
    def failed(self) -> bool:
        return self.status is None or self.status >= 500


@dataclass
class Tally:
    """Totals since the start and every outcome of the last ``WINDOW_S`` seconds. Thread-safe."""

    totals: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("due", "answered", "failed", "dropped"), 0))
    _window: deque[Outcome] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def due(self) -> None:
        with self._lock:
            self.totals["due"] += 1

    def dropped(self) -> None:
        with self._lock:
            self.totals["dropped"] += 1

    def add(self, outcome: Outcome) -> None:
        with self._lock:
            self.totals["failed" if outcome.failed else "answered"] += 1
            self._window.append(outcome)

    def summary(self, moment: float) -> dict[str, Any]:
        with self._lock:
            while self._window and self._window[0].due < moment - WINDOW_S:
                self._window.popleft()
            window, totals = list(self._window), dict(self.totals)
        by_service: defaultdict[str, list[Outcome]] = defaultdict(list)
        for outcome in window:
            by_service[outcome.service].append(outcome)
        return {
            "totals": totals,
            "window_s": WINDOW_S,
            **measure(window),
            "services": {name: measure(found) for name, found in sorted(by_service.items())},
        }


def measure(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Requests, share of failed ones and latencies. Refusals (4xx) are answers."""
    latencies = sorted(o.latency_ms for o in outcomes)
    failed = sum(o.failed for o in outcomes)
    return {
        "requests": len(outcomes),
        "error_ratio": round(failed / len(outcomes), 6) if outcomes else 0.0,
        "p50_ms": _quantile(latencies, 0.50),
        "p95_ms": _quantile(latencies, 0.95),
    }


def _quantile(ordered: Sequence[float], share: float) -> float:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else 0.0


# The generator


class Sender:
    """Sends requests at their times without waiting for answers, and counts what comes back."""

    def __init__(self, peers: Peers, clock: Clock) -> None:
        self.peers = peers
        self.tally = Tally()
        self._clock = clock
        self._under_way = threading.BoundedSemaphore(MOST_UNDER_WAY)
        self._pool = ThreadPoolExecutor(MOST_UNDER_WAY, thread_name_prefix="request")

    def launch(self, request: Request, due: float) -> None:
        """``due`` is monotonic, and now or past."""
        self.tally.due()
        if not self._under_way.acquire(blocking=False):
            self.tally.dropped()
            return
        self._pool.submit(self._send, request, due)

    def _send(self, request: Request, due: float) -> None:
        status: int | None = None
        try:
            status = ask(self.peers, request).status
        except PlatformError:  # no answer: counted as one
            status = None
        finally:
            self._under_way.release()
            latency_ms = (self._clock.monotonic() - due) * 1000
            self.tally.add(Outcome(request.service, status, due, latency_ms))

    def finish(self, within_s: float) -> None:
        """Wait so long at most for answers that are under way; those that come later count nowhere."""
        ended = self._clock.monotonic()
        while self.tally.totals["due"] > self._answered() and self._clock.monotonic() - ended < within_s:
            self._clock.sleep(0.02)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _answered(self) -> int:
        totals = self.tally.totals
        return totals["answered"] + totals["failed"] + totals["dropped"]


def ask(peers: Peers, request: Request) -> Answer:
    """Raises ``PeerUnavailable`` where no answer came."""
    headers = {"Authorization": f"Bearer {peers.token(request.scopes)}", "Content-Type": "application/json"}
    body = json.dumps(request.body).encode() if request.body is not None else None
    peer = peers.peer(request.service)
    return peer.ask(request.method, request.path, timeout_s=TIMEOUT_S, body=body, headers=headers)


def plan(topology: Topology, questions: Sequence[str], each: int, chance: random.Random) -> list[Request]:
    """A load of known size in random order: ``each`` requests to every service, and as many in sum of
    the work that the services do."""
    (_weight, _evenly), *work = mix(topology, questions)
    requests = [
        Request(name, "GET", PROTECTED_PATH, (PROTECTED_SCOPE,)) for name in topology.services for _ in range(each)
    ]
    if work:
        weights = [weight for weight, _make in work]
        requests += [make(chance) for _weight, make in chance.choices(work, weights, k=len(requests))]
    chance.shuffle(requests)
    return requests


def send_all(sender: Sender, requests: Sequence[Request], rate: float, chance: random.Random, clock: Clock) -> None:
    """Send these requests, ``rate`` a second in the mean, and wait for the answers."""
    began = clock.monotonic()
    for request, at in zip(requests, arrivals(rate, chance), strict=False):
        clock.sleep(max(0.0, began + at - clock.monotonic()))
        sender.launch(request, began + at)
    sender.finish(TIMEOUT_S)


class Traffic:
    """Sends until told to stop."""

    def __init__(self, paths: Paths, catalog: Path, environment: str, rate: float, seed: int, clock: Clock) -> None:
        self._paths = paths
        self._catalog = catalog
        self._environment = environment
        self._rate = rate
        self._chance = random.Random(seed)  # noqa: S311 - load, not secrets
        self._clock = clock
        self._stop = threading.Event()
        self._tokens = Tokens(EmbeddedSecretStore(paths.secrets, clock), f"drp-{environment}", clock)
        self._topology = read_topology(catalog, environment, paths.own)
        self._sender = Sender(self._peers(), clock)
        self._draw_from(self._topology)

    @property
    def tally(self) -> Tally:
        return self._sender.tally

    def _peers(self) -> Peers:
        return Peers(self._topology, self._tokens, self._clock, caller=None, subject="traffic")

    def _draw_from(self, topology: Topology) -> None:
        weighted = mix(topology, read_questions(self._catalog))
        self._weights = [weight for weight, _make in weighted]
        self._makers = [make for _weight, make in weighted]

    def _reload(self) -> None:
        topology = read_topology(self._catalog, self._environment, self._paths.own)
        if topology == self._topology:
            return
        self._topology = topology
        self._sender.peers = self._peers()
        self._draw_from(topology)

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> None:
        """Send until ``stop``; then wait for answers for two seconds at most."""
        began = self._clock.monotonic()
        reporter = threading.Thread(target=self._report, name="report", daemon=True)
        reporter.start()
        for at in arrivals(self._rate, self._chance):
            if self._stop.wait(max(0.0, began + at - self._clock.monotonic())):
                break
            (make,) = self._chance.choices(self._makers, self._weights)
            self._sender.launch(make(self._chance), began + at)
        self._sender.finish(2.0)
        reporter.join(timeout=2.0)
        self._write()

    def _report(self) -> None:
        reloaded = self._clock.monotonic()
        while not self._stop.wait(SUMMARY_S):
            self._write()
            if self._clock.monotonic() - reloaded >= RELOAD_S:
                reloaded = self._clock.monotonic()
                try:
                    self._reload()
                except PlatformError:  # the catalog is being edited: go on with what was known
                    continue

    def _write(self) -> None:
        at = self._clock.now().astimezone(UTC).isoformat(timespec="seconds")
        document = {"at": at, "rate": self._rate, **self.tally.summary(self._clock.monotonic())}
        file = self._paths.root / "traffic.json"
        part = file.with_suffix(".part")
        part.write_text(json.dumps(document, indent=2), encoding="utf-8")
        part.replace(file)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dr_platform.reference_service.traffic", description=__doc__)
    parser.add_argument("--rate", type=float, default=5.0, help="requests a second in the mean")
    parser.add_argument("--seed", type=int, default=1, help="equal seeds send the same requests at the same times")
    given = parser.parse_args(arguments)
    if not 0 < given.rate <= 1000:
        parser.error("--rate must be above 0 and at most 1000")
    paths = Paths(Path(os.environ.get("DRP_STATE_ROOT", ".drp/local")).absolute())
    catalog = Path(os.environ.get("DRP_CATALOG", "catalog"))
    environment = os.environ.get("DRP_ENVIRONMENT", "local")
    try:
        traffic = Traffic(paths, catalog, environment, given.rate, given.seed, SystemClock())
    except PlatformError as exc:
        print(exc, file=sys.stderr)
        return exc.exit_code
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: traffic.stop())
    traffic.run()
    # Threads that still wait for an answer must not hold the process.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
