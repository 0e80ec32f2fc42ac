"""Envoy as the local router: what is stored is written for it, and seen to be in use.

Here: projection of the stored state into Envoy's files, verification, its program. Not here: the
content of the files (``documents``), what weights are right (``dr_platform.rollout``).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from dr_platform.clock import Clock
from dr_platform.runtime.local import documents, envoy
from dr_platform.runtime.local.locks import exclusively
from dr_platform.runtime.local.programs import Program
from dr_platform.runtime.local.records import Declared, LocalRecords
from dr_platform.runtime.port import RouteNotVerified, RuntimeUnreachable, Slot, UnknownService, Weights
from dr_platform.state import StateDirectory

ROUTER_PROGRAM = "router"

_PATIENCE_S = 10.0
"""A killed Envoy is back after 1.3 s; longer means that it does not come by itself."""
_VERIFY_S = 5.0
_POLL_S = 0.004
_FRESH_CONNECTIONS = 8
"""Each of Envoy's two workers changes over on its own; so many in a row meet both."""


class RouteRejected(RouteNotVerified):
    """Envoy refused the table; the one before is in use and on disk."""


class Router:
    """Of several callers, in one process or many, each sees its change in use before it returns."""

    def __init__(
        self, state: StateDirectory, records: LocalRecords, *, port_offset: int, admin_port: int, clock: Clock
    ) -> None:
        self._folder = state.router
        self._records = records
        self._offset = port_offset
        self._clock = clock
        self.admin = envoy.EnvoyAdmin(admin_port)

    def program(self) -> Program:
        """Envoy. It is the first to stop: nobody asks it for anything once replicas go."""
        found = envoy.binary()
        if found is None:
            raise RuntimeUnreachable("local", "the envoy program is not installed beside this Python")
        arguments = ("-c", str(self._folder / "bootstrap.json"), "--concurrency", "2", "--log-level", "warning")
        strict = ("--disable-hot-restart", "--reject-unknown-dynamic-fields", "--drain-time-s", "30")
        return Program(ROUTER_PROGRAM, (str(found), *arguments, *strict), start_s=1.0, stop_s=5.0, priority=900)

    def write_bootstrap(self) -> None:
        self._folder.joinpath("routes").mkdir(parents=True, exist_ok=True)
        self._write("bootstrap.json", documents.as_text(documents.bootstrap(self._folder, self.admin.port)))

    def await_live(self) -> None:
        if not self._eventually(self.admin.live, _PATIENCE_S):
            raise RuntimeUnreachable("local", "the router is not live")

    def project(self) -> None:
        """Write what is stored now, in the order that keeps every request served, and wait until
        clusters and listeners are in use. Without a running Envoy the files alone are written."""
        with exclusively(self._folder / "lock"):
            self._project(self._records.all())

    def converge(self, name: str) -> None:
        """``project``, then see the service's routes in use.

        Raises ``RouteNotVerified`` when they are not; a route table that Envoy rejects is replaced
        by the one before at once, on disk too, so that a restart finds a good one.
        """
        self.await_live()
        with exclusively(self._folder / "lock"):
            declared = self._records.all()
            if name not in declared:
                raise UnknownService(name, declared)
            good = self._read(_route_file(name))
            refused = self._refusals(name)
            self._project(declared)
            self._verify(declared[name], good, refused)

    def in_use(self, name: str) -> documents.InUse:
        """What Envoy does now; nothing is known when it cannot be asked."""
        try:
            return self.admin.in_use(name)
        except RuntimeUnreachable:
            return documents.InUse(None)

    def is_current(self, known: Declared) -> bool:
        """Whether Envoy uses exactly these routes and answers with them at the service's address."""
        version = documents.routes(known)["version_info"]
        try:
            table = self.admin.route_table(known.service.name)
        except RuntimeUnreachable:
            return False
        if table is None or table[0] != version:
            return False
        answer = envoy.get(known.service.port + self._offset, documents.VERSION_PATH, {}, 1.0, self._clock.monotonic)
        return answer.ok and answer.body.decode("utf-8", "replace") == version

    def weights(self, name: str) -> Weights | None:
        """The weights alone; ``None`` when they could not be read."""
        return self.in_use(name).weights

    def listening_ports(self) -> frozenset[int]:
        """Ports that the router was last told to listen on."""
        try:
            told = json.loads(self._read("lds.json") or "{}").get("resources", [])
        except ValueError:
            return frozenset()
        return frozenset(entry["address"]["socket_address"]["port_value"] for entry in told)

    def healthy_ports(self, name: str, slot: Slot) -> frozenset[int]:
        """Replicas of the slot that the router would send requests to."""
        hosts = self.admin.hosts().get(documents.cluster_name(name, slot), {})
        return frozenset(port for port, healthy in hosts.items() if healthy)

    def await_ports(self, name: str, slot: Slot, ports: frozenset[int]) -> None:
        """Wait until the balancer knows exactly these replicas of the slot."""
        cluster = documents.cluster_name(name, slot)
        if not self._eventually(lambda: self.admin.hosts().get(cluster, {}).keys() == ports, _VERIFY_S):
            raise RuntimeUnreachable("local", f"the router did not take the replicas of {name} {slot}")

    def _project(self, declared: Mapping[str, Declared]) -> None:
        clusters = documents.clusters(declared)
        # Routes must not name a cluster that is not there yet, or not there any more.
        self._take("cds.json", _with_former(clusters, self._read("cds.json")), "cluster_manager.cds")
        for name, known in declared.items():
            self._write(_route_file(name), documents.as_text(documents.routes(known)))
        listeners = documents.listeners(declared, self._offset, self._folder)
        # A service that moves to another port is reachable on both for the moment.
        self._take("lds.json", _with_former(listeners, self._read("lds.json")), "listener_manager.lds")
        self._take("lds.json", listeners, "listener_manager.lds")
        self._take("cds.json", clusters, "cluster_manager.cds")
        for file in self._folder.joinpath("routes").glob("*.json"):
            if file.stem not in declared:
                file.unlink(missing_ok=True)

    def _take(self, file: str, document: documents.Document, stat: str) -> None:
        """Write and wait until Envoy has taken it; what it rejects is replaced by what was there."""
        before, text, version = self._read(file), documents.as_text(document), document["version_info"]
        live = self.admin.live()
        if before == text and (not live or self._took(stat, version)):
            return
        # Written even if it is equal: Envoy may have refused it for a reason that is gone by now,
        # such as a busy port, and looks again only when the file is replaced.
        self._replace(file, text)
        if not live or self._eventually(lambda: self._took(stat, version), _VERIFY_S):
            return
        why = "; ".join(f"{name}: {error}" for name, error in self.admin.listener_errors().items()) or "see its log"
        if before is not None:
            self._replace(file, before)
        raise RuntimeUnreachable("local", f"the router did not take {file}, the former one is back ({why})")

    def _took(self, stat: str, version: str) -> bool:
        try:
            return self.admin.text_value(f"{stat}.version_text") == version and not self.admin.warming_clusters()
        except RuntimeUnreachable:
            return False

    def _verify(self, known: Declared, good: str | None, refused: int) -> None:
        name, weights = known.service.name, known.route.weights
        wanted = documents.InUse(weights, known.notice)
        version = documents.routes(known)["version_info"]
        seen = "nothing"

        def in_use() -> bool:
            nonlocal seen
            if self._refusals(name) > refused:
                seen = "rejected"
                return True
            found = self.admin.route_table(name)
            if found is None or found[0] != version or documents.in_use(found[1]) != wanted:
                seen = f"version {found[0]}" if found else "no routes"
                return False
            seen = self._answering_version(known.service.port + self._offset, version)
            return seen == version

        if self._eventually(in_use, _VERIFY_S) and seen == version:
            return
        if seen != "rejected":
            raise RouteNotVerified(name, weights, seen)
        if good is not None:
            self._write(_route_file(name), good)
        raise RouteRejected(name, weights, seen)

    def _answering_version(self, port: int, wanted: str) -> str:
        """The version that fresh connections meet: ``wanted`` only if all of them do."""
        for _ in range(_FRESH_CONNECTIONS):
            answer = envoy.get(port, documents.VERSION_PATH, {}, 1.0, self._clock.monotonic)
            told = answer.body.decode("utf-8", "replace")
            if not answer.ok or told != wanted:
                return told[:64] or answer.reason
        return wanted

    def _refusals(self, name: str) -> int:
        try:
            return sum(self.admin.counters(rf"^http\.{name}\.rds\.{name}\.update_(rejected|failure)$").values())
        except RuntimeUnreachable:
            return 0

    def _read(self, file: str) -> str | None:
        try:
            return self._folder.joinpath(file).read_text(encoding="utf-8")
        except (FileNotFoundError, UnicodeDecodeError):
            return None

    def _write(self, file: str, text: str) -> None:
        if self._read(file) != text:
            self._replace(file, text)

    def _replace(self, file: str, text: str) -> None:
        """In one step, which is the only way Envoy notices."""
        path = self._folder / file
        temporary = path.with_suffix(f".{os.getpid()}.new")
        with temporary.open("w", encoding="utf-8") as output:
            output.write(text)
            output.flush()
            os.fsync(output.fileno())  # after a power cut a good file, not an empty one
        temporary.replace(path)

    def _eventually(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        deadline = self._clock.monotonic() + timeout_s
        pause = _POLL_S
        while True:
            with contextlib.suppress(RuntimeUnreachable):
                if condition():
                    return True
            if self._clock.monotonic() >= deadline:
                return False
            self._clock.sleep(pause)
            pause = min(pause * 1.5, 0.1)


def _route_file(name: str) -> str:
    return f"routes/{name}.json"


def _with_former(document: documents.Document, former: str | None) -> documents.Document:
    """The new resources and those of the former file that are not among them."""
    try:
        earlier: list[dict[str, Any]] = json.loads(former or "{}").get("resources", [])
    except ValueError:
        earlier = []
    names = {resource["name"] for resource in document["resources"]}
    kept = [resource for resource in earlier if resource.get("name") not in names]
    return documents.versioned([*document["resources"], *kept]) if kept else document
