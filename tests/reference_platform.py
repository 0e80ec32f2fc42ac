"""Replicas of the reference service as real processes, alone or with real databases beside them.

Without a supervisor and a router: each replica stands on the documented port of its service, in a
copy of the shipped catalog whose ports are moved away from a developer's own platform.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dr_platform.catalog import Catalog, load_catalog
from dr_platform.clock import SystemClock
from dr_platform.databases.connect import connect_database
from dr_platform.databases.embedded import embedded_server
from dr_platform.databases.schema import migrate, read_steps
from dr_platform.embedding import WordVectors
from dr_platform.knowledge.seeding import seed
from dr_platform.reference_service.access import Tokens
from dr_platform.secrets.embedded import EmbeddedSecretStore
from dr_platform.state import StateDirectory
from tests.embedded_programs import unkept

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "catalog"
ENVIRONMENT = "local"


def until(what: str, condition: Callable[[], Any], within_s: float = 20.0) -> Any:
    """Look until something true is seen, and return it."""
    deadline = time.monotonic() + within_s
    while not (seen := condition()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.02)
    return seen


def moved_catalog(folder: Path, base: int) -> Path:
    """The shipped catalog with every port moved: services from ``base`` on, databases above them."""
    root = folder / "catalog"
    shutil.copytree(SHIPPED, root)
    files = [*sorted((root / "services").glob("*.yaml")), *sorted((root / "databases").glob("*/database.yaml"))]
    for number, file in enumerate(files):
        text = file.read_text(encoding="utf-8")
        # Some servers take the next port for themselves.
        file.write_text(re.sub(r"^port: \d+$", f"port: {base + 2 * number}", text, flags=re.MULTILINE), "utf-8")
    return root


@dataclass
class Answer:
    status: int
    body: Any
    headers: Mapping[str, str]
    text: str = ""


@dataclass
class Process:
    """One replica."""

    service: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def ask(
        self,
        path: str,
        document: Mapping[str, Any] | None = None,
        *,
        token: str | None = None,
        method: str | None = None,
        raw: bytes | None = None,
    ) -> Answer:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        body = raw if raw is not None else json.dumps(document).encode() if document is not None else None
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method or ("POST" if body is not None else "GET"), path, body, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            with contextlib.suppress(ValueError):
                return Answer(answer.status, json.loads(text), dict(answer.headers), text)
            return Answer(answer.status, None, dict(answer.headers), text)

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.ask("/health/live").status == 200
        return False

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(10)


@dataclass
class Fleet:
    """Replicas of one environment with its state. ``start`` waits until a replica is alive."""

    catalog: Catalog
    state: StateDirectory
    secrets: EmbeddedSecretStore
    replicas: list[Process] = field(default_factory=list)

    def start(
        self,
        service: str,
        *,
        version: str = "1.0.0",
        slot: str = "blue",
        port: int | None = None,
        settings: Mapping[str, str] = {},
    ) -> Process:
        started = self.spawn(service, version=version, slot=slot, port=port, settings=settings)
        until(f"{service} is alive", started.answers)
        return started

    def spawn(
        self,
        service: str,
        *,
        version: str = "1.0.0",
        slot: str = "blue",
        port: int | None = None,
        settings: Mapping[str, str] = {},
    ) -> Process:
        port = port or self.catalog.services[service].port
        log = self.state.logs / f"{service}-{slot}-{port}.log"
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("DRP_")},
            "PYTHONPATH": str(ROOT),
            "DRP_STATE_ROOT": str(self.state.root),
            "DRP_CATALOG": str(self.catalog.root),
            "DRP_ENVIRONMENT": ENVIRONMENT,
            "DRP_VERSION": version,
            **{f"DRP_SETTING_{name.upper()}": value for name, value in settings.items()},
        }
        words = ("--service", service, "--slot", slot, "--port", str(port))
        with log.open("ab") as output:
            process = subprocess.Popen(
                (sys.executable, "-m", "dr_platform.reference_service", *words),
                env=environment,
                cwd=self.state.root,
                stdout=output,
                stderr=output,
            )
        replica = Process(service, port, process, log)
        self.replicas.append(replica)
        return replica

    def start_all(self, services: Collection[str]) -> dict[str, Process]:
        started = {name: self.spawn(name) for name in services}
        for replica in started.values():
            until(f"{replica.service} is alive", replica.answers, 60)
        return started

    def token(self, *scopes: str, subject: str = "tester", life_s: float = 600.0) -> str:
        return Tokens(self.secrets, f"drp-{ENVIRONMENT}", SystemClock()).issue(subject, scopes, life_s=life_s)

    def stop(self) -> None:
        for replica in self.replicas:
            if replica.process.poll() is None:
                replica.process.send_signal(signal.SIGTERM)
        for replica in self.replicas:
            replica.stop()


def _free_ports(count: int = 64) -> int:
    """The first of so many free ports in a row, where neither a documented port nor one that the
    kernel gives to outgoing connections lies at any environment's offset."""
    starts = [16_000 + (os.getpid() + step) % 60 * count for step in range(60)]
    for start in starts:
        with contextlib.ExitStack() as held:
            try:
                for port in range(start, start + count):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return start
    raise OSError("no free ports")


@contextlib.contextmanager
def fleet() -> Iterator[Fleet]:
    """A fleet without databases, on free ports."""
    folder = Path(tempfile.mkdtemp(prefix="drp-fleet-"))
    folder.chmod(0o711)  # a database server may run as another user
    state = StateDirectory(root=folder / ENVIRONMENT, run=folder / "run").make()
    made = Fleet(load_catalog(moved_catalog(folder, _free_ports())), state, EmbeddedSecretStore(state.secrets))
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def databases(made: Fleet, names: Collection[str], knowledge: Collection[str] = ()) -> Iterator[None]:
    """Real servers for these databases of the catalog, with their schema, and knowledge sets in them."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: _start_server(made, name, started), names))
        for name in knowledge:
            _seed(made, name)
        yield
    finally:
        made.stop()
        # Nothing of it is kept, so that a server that takes its time is killed.
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start_server(made: Fleet, name: str, started: list[subprocess.Popen[bytes]]) -> None:
    entry = made.catalog.databases[name]
    server = embedded_server(entry, made.state, made.secrets)
    server.acquire(print)
    server.prepare()
    program = unkept(server.program(), entry.engine)
    with (made.state.logs / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            program.argv,
            env={**os.environ, **program.environment, "DRP_STATE_ROOT": str(made.state.root)},
            cwd=program.directory,
            stdout=log,
            stderr=log,
        )
    started.append(process)
    server.initialise(90)
    _apply_schema(made, name)


def _apply_schema(made: Fleet, name: str) -> None:
    server = embedded_server(made.catalog.databases[name], made.state, made.secrets)
    database = connect_database(made.catalog.databases[name], server.endpoint(), made.secrets, "admin")
    try:
        migrate(database, read_steps(made.catalog.database_folder(name) / "migrations"), lambda _line: None)
        database.admit_application()
    finally:
        database.close()


def _seed(made: Fleet, name: str) -> None:
    entry = next(d for d in made.catalog.databases.values() if d.engine == "postgresql")
    server = embedded_server(entry, made.state, made.secrets)
    database: Any = connect_database(entry, server.endpoint(), made.secrets, "admin")
    try:
        connection = database.connection() if callable(database.connection) else database.connection
        chosen = made.catalog.knowledge[name]
        seed(connection, chosen, made.catalog.knowledge_folder(name) / chosen.source, WordVectors())
    finally:
        database.close()
