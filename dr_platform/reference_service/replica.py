"""One replica with everything it works with, put together once at its start.

Here: the parts and their wiring. Not here: what the service does (``roles``) or how it is served
(``app``, ``server``).
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from dr_platform.clock import Clock
from dr_platform.errors import PlatformError
from dr_platform.faults import FaultView
from dr_platform.faults import Replica as FaultyReplica
from dr_platform.reference_service.access import Tokens
from dr_platform.reference_service.cipher import FieldCipher
from dr_platform.reference_service.peers import Peers
from dr_platform.reference_service.settings import Identity, Paths, Settings
from dr_platform.reference_service.stores import Store, open_store
from dr_platform.reference_service.telemetry import Telemetry
from dr_platform.reference_service.topology import ServiceEntry, Topology
from dr_platform.reference_service.trail import AuditTrail
from dr_platform.secrets.port import SecretStore

THREADS = 12
"""Requests that are worked on at once; more wait. Work is mostly waiting for a database."""

S = TypeVar("S")


class NoSuchStore(PlatformError):
    def __init__(self, service: str, kind: str) -> None:
        super().__init__(service, kind)
        self.what = f"{service} has no database of the kind {kind}"
        self.untouched = "every database"
        self.next_step = f"add one to `needs.databases` in the catalog entry of {service}"


@dataclass
class Replica:
    """``draining`` is set once, when the process was told to end."""

    identity: Identity
    entry: ServiceEntry
    topology: Topology
    settings: Settings
    paths: Paths
    secrets: SecretStore
    clock: Clock
    tokens: Tokens
    cipher: FieldCipher
    peers: Peers
    telemetry: Telemetry
    faults: FaultView
    trail: AuditTrail
    stores: dict[str, Store]
    work: ThreadPoolExecutor
    looks: ThreadPoolExecutor
    draining: bool = False
    stores_beside: list[Store] = field(default_factory=list)
    """Databases that are only looked at, for the report of the gateway."""

    @classmethod
    def assemble(
        cls,
        identity: Identity,
        topology: Topology,
        settings: Settings,
        paths: Paths,
        secrets: SecretStore,
        clock: Clock,
    ) -> Replica:
        entry = topology.service(identity.service)
        tokens = Tokens(secrets, f"drp-{identity.environment}", clock)
        telemetry = Telemetry({"service": identity.service, "version": identity.version, "slot": identity.slot})
        own = FaultyReplica(
            identity.service, identity.version, identity.place, identity.process, max(1, entry.replicas)
        )
        peers = Peers(topology, tokens, clock, caller=entry, subject=identity.service)
        return cls(
            identity=identity,
            entry=entry,
            topology=topology,
            settings=settings,
            paths=paths,
            secrets=secrets,
            clock=clock,
            tokens=tokens,
            cipher=FieldCipher(secrets, clock),
            peers=peers,
            telemetry=telemetry,
            faults=FaultView(paths.faults, own, clock),
            trail=AuditTrail(identity.service, clock),
            stores={
                name: open_store(topology.databases[name], secrets, settings.max_connections)
                for name in entry.databases
            },
            work=ThreadPoolExecutor(THREADS, thread_name_prefix="work"),
            looks=ThreadPoolExecutor(6, thread_name_prefix="look"),
        )

    def store(self, kind: type[S]) -> S:
        """The service's database of this engine. Raises ``NoSuchStore``."""
        for store in self.stores.values():
            if isinstance(store, kind):
                return store
        raise NoSuchStore(self.identity.service, kind.__name__)

    def first_store(self, kinds: Iterable[type[S]]) -> S | None:
        """The service's database of the first of these engines that it has."""
        return next((s for kind in kinds for s in self.stores.values() if isinstance(s, kind)), None)

    def close(self) -> None:
        self.trail.close()
        for pool in (self.work, self.looks):
            pool.shutdown(wait=False, cancel_futures=True)
        for store in (*self.stores.values(), *self.stores_beside):
            store.close()
