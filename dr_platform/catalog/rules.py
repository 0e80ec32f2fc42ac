"""The rules between files: a catalog whose files are fine one by one may still contradict itself.

Here: pure functions from a catalog to faults. Not here: reading, and rules that one file alone can
break (``models``). Each rule says what a runtime would otherwise meet half-way through a start.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from ipaddress import ip_address
from urllib.parse import urlsplit

from dr_platform.catalog.catalog import Catalog
from dr_platform.catalog.contracts import unmet
from dr_platform.catalog.faults import Fault, choose_among
from dr_platform.catalog.models import (
    INTAKE_PORT,
    UI_PORT,
    ComplianceLevel,
    DataClass,
    EmbeddingModel,
    EmbeddingServer,
    Environment,
    Release,
    Role,
    Service,
)

_OURS = {UI_PORT: "the Dagster UI", INTAKE_PORT: "the intake"}
MAX_CYCLES = 20
"""Cycles told at once; correcting one often ends others."""


@dataclass(frozen=True)
class Declared:
    """Names that have a file, also where that file could not be read: only what has no file at all
    is unknown."""

    services: frozenset[str]
    databases: frozenset[str]
    embedders: frozenset[str]


def faults_between_files(catalog: Catalog, declared: Declared) -> Iterator[Fault]:
    """All contradictions of one catalog."""
    yield from _needs(catalog, declared)
    yield from _cycles(catalog)
    yield from _roles(catalog)
    yield from _same_name(catalog)
    yield from _ports(catalog)
    yield from _port_offsets(catalog)
    yield from _orders(catalog)
    yield from _production_replicas(catalog)
    yield from _autoscaling(catalog)
    for environment in catalog.environments.values():
        yield from _environment(environment)
        yield from _references_of_environment(environment, catalog, declared)
    yield from _embedders(catalog, declared)
    yield from _releases(catalog, declared)
    for release in catalog.releases.values():
        yield from _contracts(release, declared)
        yield from _contract_cycles(release, catalog)


def _service_file(name: str) -> str:
    return f"services/{name}.yaml"


def _database_file(name: str) -> str:
    return f"databases/{name}/database.yaml"


def _environment_file(name: str) -> str:
    return f"environments/{name}.yaml"


def _needs(catalog: Catalog, declared: Declared) -> Iterator[Fault]:
    for service in catalog.services.values():
        file = _service_file(service.name)
        for at, needed in enumerate(service.needs.services):
            if needed == service.name:
                yield Fault(file, f"needs.services.{at}", "names the service itself", "remove it")
            elif needed not in declared.services:
                remedy = choose_among(needed, declared.services - {service.name})
                yield Fault(file, f"needs.services.{at}", "names no service of the catalog", remedy)
        for at, needed in enumerate(service.needs.databases):
            if needed not in declared.databases:
                remedy = choose_among(needed, declared.databases)
                yield Fault(file, f"needs.databases.{at}", "names no database of the catalog", remedy)


def _cycles(catalog: Catalog) -> Iterator[Fault]:
    for ring in _rings(_graph(catalog)):
        problem = f"closes the cycle {' -> '.join([*ring, ring[0]])}"
        yield Fault(_service_file(ring[0]), "needs.services", problem, "remove one of these needs")


def _graph(catalog: Catalog) -> dict[str, set[str]]:
    """Service to the services it needs, without names that are faults of their own."""
    return {
        name: {needed for needed in service.needs.services if needed in catalog.services and needed != name}
        for name, service in catalog.services.items()
    }


def _rings(graph: MutableMapping[str, set[str]]) -> Iterator[list[str]]:
    """Each cycle once, its first name in the alphabet in front; after each, its links are taken away
    to find the next."""
    for _ in range(MAX_CYCLES):
        if not (cycle := _cycle(graph)):
            return
        first = min(range(len(cycle)), key=cycle.__getitem__)
        ring = [*cycle[first:], *cycle[:first]]
        yield ring
        for service, needed in zip(ring, [*ring[1:], ring[0]], strict=True):
            graph[service].discard(needed)


def _cycle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Names of one cycle, each of which needs the next; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        return list(reversed(exc.args[1][1:]))
    return []


def _roles(catalog: Catalog) -> Iterator[Fault]:
    holders: dict[Role, str] = {}
    for service in catalog.services.values():
        for at, role in enumerate(service.roles):
            first = holders.setdefault(role, service.name)
            if first != service.name or role in service.roles[:at]:
                problem = f"is a role that {first} has already ({role})"
                yield Fault(_service_file(service.name), f"roles.{at}", problem, "leave it with one service, once")


def _same_name(catalog: Catalog) -> Iterator[Fault]:
    """Names of services and databases are keys of one ``/health`` answer."""
    for name in sorted(catalog.services.keys() & catalog.databases.keys()):
        yield Fault(_service_file(name), "name", "is also the name of a database", "rename one of the two")


def _documented(catalog: Catalog) -> list[tuple[int, str, str]]:
    """Port, name and file of everything that listens."""
    services = [(service.port, name, _service_file(name)) for name, service in catalog.services.items()]
    databases = [(database.port, name, _database_file(name)) for name, database in catalog.databases.items()]
    return [*databases, *services]


def _ports(catalog: Catalog) -> Iterator[Fault]:
    taken = dict(_OURS)
    for port, name, file in _documented(catalog):
        if port in taken:
            yield Fault(file, "port", f"{port} is also the port of {taken[port]}", f"choose {_free(port, catalog)}")
        else:
            taken[port] = name


def _free(port: int, catalog: Catalog) -> str:
    """The next port that clashes with nothing at any offset."""
    offsets = {0} | {environment.port_offset for environment in catalog.environments.values()}
    used = {taken for taken, _, _ in _documented(catalog)} | set(_OURS)
    blocked = {taken + up - down for taken in used for up in offsets for down in offsets}
    free = next((p for p in (*range(port + 1, 20000), *range(1024, port)) if p not in blocked), None)
    return f"another for one of them, such as {free}" if free else "another"


def _port_offsets(catalog: Catalog) -> Iterator[Fault]:
    """Environments run beside each other on one machine, so no two may meet on a port."""
    ports = {port: name for port, name, _ in _documented(catalog)} | _OURS
    earlier: list[Environment] = []
    for environment in sorted(catalog.environments.values(), key=lambda e: (e.port_offset, e.order)):
        file = _environment_file(environment.name)
        for other in earlier:
            shift = environment.port_offset - other.port_offset
            if shift == 0:
                problem = f"is also the offset of {other.name}"
                yield Fault(file, "port_offset", problem, "give each environment its own, 1000 apart")
                break
            yield from _clash(file, ports, shift, other.name)
        else:
            earlier.append(environment)


def _clash(file: str, ports: Mapping[int, str], shift: int, other: str) -> Iterator[Fault]:
    meeting = sorted(port for port in ports if port + shift in ports)
    if meeting:
        port = meeting[0]
        more = f" (and {len(meeting) - 1} more)" if len(meeting) > 1 else ""
        problem = f"puts {ports[port]} on the port of {ports[port + shift]} in {other}{more}"
        yield Fault(file, "port_offset", problem, f"change the offset, or the port of {ports[port]}")


def _orders(catalog: Catalog) -> Iterator[Fault]:
    places: dict[int, str] = {}
    for environment in catalog.environments.values():
        other = places.setdefault(environment.order, environment.name)
        if other != environment.name:
            problem = f"is also the place of {other}"
            yield Fault(_environment_file(environment.name), "order", problem, "give each environment its own place")


def _production_replicas(catalog: Catalog) -> Iterator[Fault]:
    """An override of the environment file wins, so its zero is the environment file's fault."""
    production = catalog.environments.get("production")
    remedy = "write 1 or more: production serves every service"
    for name, service in catalog.services.items():
        override = production.services.get(name) if production else None
        if override is not None and override.replicas is not None:
            if override.replicas == 0:
                yield Fault(_environment_file("production"), f"services.{name}.replicas", "is 0 in production", remedy)
        elif service.replicas_in("production") == 0:
            yield Fault(_service_file(name), "replicas.production", "is 0", remedy)


def _autoscaling(catalog: Catalog) -> Iterator[Fault]:
    production = catalog.environments.get("production")
    for name, service in catalog.services.items():
        if service.autoscaling is None:
            continue
        replicas = _replicas(service, production)
        bounds = service.autoscaling
        if replicas and not bounds.min <= replicas <= bounds.max:
            problem = f"does not include the {replicas} replicas of production"
            yield Fault(_service_file(name), "autoscaling", problem, f"let min to max include {replicas}")


def _replicas(service: Service, production: Environment | None) -> int:
    override = production.services.get(service.name) if production else None
    if override is not None and override.replicas is not None:
        return override.replicas
    return service.replicas_in("production")


def _environment(environment: Environment) -> Iterator[Fault]:
    """Rules of one environment that bind its own fields to each other."""
    file = _environment_file(environment.name)
    if environment.name == "local" and environment.data_class.rank > DataClass.SYNTHETIC.rank:
        problem = "is more than a developer's machine may hold"
        yield Fault(file, "data_class", problem, "write synthetic, or none")
    if environment.data_class is DataClass.PHI and environment.compliance is not ComplianceLevel.HIPAA:
        yield Fault(file, "compliance", "is too little where data_class is phi", "write hipaa, or lower data_class")
    if environment.name == "production" and environment.approvals.required < 1:
        yield Fault(file, "approvals.required", "is 0 in production", "write 1 or more: a person must agree")
    if environment.databases == "embedded" and environment.endpoints:
        yield Fault(file, "endpoints", "is given although databases is embedded", "remove it, or write endpoints")
    if environment.runtime == "local" and environment.databases != "embedded":
        yield Fault(file, "databases", "must be embedded where runtime is local", "write embedded")
    override_strategies = ((name, o.strategy) for name, o in environment.services.items() if o.strategy)
    for name, strategy in override_strategies:
        if strategy not in environment.strategies:
            remedy = f"choose one of: {', '.join(environment.strategies)}"
            yield Fault(file, f"services.{name}.strategy", "is not allowed in this environment", remedy)


def _references_of_environment(environment: Environment, catalog: Catalog, declared: Declared) -> Iterator[Fault]:
    file = _environment_file(environment.name)
    for name in environment.services:
        if name not in declared.services:
            yield Fault(
                file, f"services.{name}", "names no service of the catalog", choose_among(name, declared.services)
            )
    for name in environment.endpoints:
        if name not in declared.databases:
            yield Fault(
                file, f"endpoints.{name}", "names no database of the catalog", choose_among(name, declared.databases)
            )
    if environment.databases == "endpoints" and environment.runtime != "local":
        for name in sorted(declared.databases - environment.endpoints.keys()):
            yield Fault(file, f"endpoints.{name}", "is missing", "add host:port of that database")
    yield from _remedied(environment, declared)
    if environment.release is not None and environment.release not in catalog.releases:
        yield Fault(
            file, "release", "names no release of the catalog", choose_among(environment.release, catalog.releases)
        )


def _remedied(environment: Environment, declared: Declared) -> Iterator[Fault]:
    known = {"services": declared.services, "databases": declared.databases}
    for at, rule in enumerate(environment.remediation.rules):
        names = known.get(rule.layer)
        if names is not None and rule.part is not None and rule.part not in names:
            where, problem = f"remediation.rules.{at}.part", f"names nothing among the {rule.layer}"
            yield Fault(_environment_file(environment.name), where, problem, choose_among(rule.part, names))


WORD_VECTOR_SIZES = (64, 128, 256)
"""Lengths that the platform's own word vectors were trained to be cut to."""


def _embedders(catalog: Catalog, declared: Declared) -> Iterator[Fault]:
    first = [model for model in catalog.embedders.values() if model.first]
    if not first and catalog.embedders.keys() == declared.embedders and declared.embedders:
        file = f"embedders/{next(iter(catalog.embedders))}.yaml"
        remedy = "write first: true in the one that an empty store is loaded with"
        yield Fault(file, "first", "is true in no file", remedy)
    for other in first[1:]:
        problem = f"is also true in embedders/{first[0].name}.yaml"
        yield Fault(f"embedders/{other.name}.yaml", "first", problem, "leave it true in one of them")
    for model in catalog.embedders.values():
        for field, problem, remedy in _of_embedder(model, declared):
            yield Fault(f"embedders/{model.name}.yaml", field, problem, remedy)


def _of_embedder(model: EmbeddingModel, declared: Declared) -> Iterator[tuple[str, str, str]]:
    """Field, problem and remedy."""
    if model.kind == "words":
        if model.dimensions not in WORD_VECTOR_SIZES:
            sizes = ", ".join(map(str, WORD_VECTOR_SIZES))
            yield "dimensions", "is no size that the word vectors can be cut to", f"write one of {sizes}"
        if model.server is not None:
            yield "server", "is given although kind is words", "remove it, or write kind: http"
    elif model.server is None:
        yield "server", "is missing where kind is http", "add it, with api and url"
    else:
        yield from _of_server(model.server, declared)
        if model.first and model.server.questions == "refused":
            yield "first", "is true although questions may not be sent to it", "choose another, or allow questions"


def _of_server(server: EmbeddingServer, declared: Declared) -> Iterator[tuple[str, str, str]]:
    if server.api == "openai" and server.model is None:
        yield "server.model", "is missing where api is openai", "add what the server calls it"
    if server.api == "tei" and server.shortened:
        yield "server.shortened", "is true although api is tei", "remove it, and write the model's own dimensions"
    if within_platform(server.url, declared.services):
        return
    if not server.url.startswith("https://"):
        problem = "leads out of the platform without TLS"
        yield "server.url", problem, "write https://, or a host on loopback or of a service of the catalog"
    if server.questions == "allowed" and server.agreement is None:
        problem = "is missing although questions of users, which may hold PHI, leave the platform"
        yield "server.agreement", problem, "add the business associate agreement's reference, or refuse questions"


def within_platform(url: str, services: Collection[str]) -> bool:
    """Whether an address is on loopback, or of a service of the catalog by its host name in a cluster. Whatever
    else it may be, such as a private address, says nothing of who reads what is sent there."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        name, _, rest = host.partition(".")
        in_cluster = not rest or rest.endswith((".svc", ".svc.cluster.local"))
        return host == "localhost" or (name in services and in_cluster)


def _releases(catalog: Catalog, declared: Declared) -> Iterator[Fault]:
    for release in catalog.releases.values():
        file = f"releases/{release.name}.yaml"
        for name in release.services:
            if name not in declared.services:
                remedy = choose_among(name, declared.services)
                yield Fault(file, f"services.{name}", "names no service of the catalog", remedy)
        if release.next_release is not None and release.next_release <= release.released:
            yield Fault(file, "next_release", "is not after released", "write a later day, or remove it")


def _contracts(release: Release, declared: Declared) -> Iterator[Fault]:
    file = f"releases/{release.name}.yaml"
    for name, contract in release.contracts.items():
        if name not in declared.services:
            remedy = choose_among(name, declared.services)
            yield Fault(file, f"contracts.{name}", "names no service of the catalog", remedy)
        for needed in contract.requires:
            where = f"contracts.{name}.requires.{needed}"
            if needed == name:
                yield Fault(file, where, "names the service itself", "remove it")
            elif needed not in declared.services:
                remedy = choose_among(needed, declared.services - {name})
                yield Fault(file, where, "names no service of the catalog", remedy)
    stated = {name: release.contract_of(name) for name in (*release.contracts, *declared.services)}
    for name, needed in unmet(stated):
        if needed in declared.services and needed != name:
            problem = f"is not met: {needed} provides {stated[needed].provides} in this release"
            remedy = f"change the range, or what contracts.{needed} provides"
            yield Fault(file, f"contracts.{name}.requires.{needed}", problem, remedy)


def _contract_cycles(release: Release, catalog: Catalog) -> Iterator[Fault]:
    """Requirements order a deployment as needs do, so that both together must have an order."""
    graph = _graph(catalog)
    if _cycle(graph):  # told of the services' own files, which come first
        return
    required = {
        (name, needed)
        for name, contract in release.contracts.items()
        for needed in contract.requires
        if name in graph and needed in graph and needed != name
    }
    for name, needed in required:
        graph[name].add(needed)
    for ring in _rings(graph):
        links = zip(ring, [*ring[1:], ring[0]], strict=True)
        name, needed = next(link for link in links if link in required)
        problem = f"closes the cycle {' -> '.join([*ring, ring[0]])}"
        where = f"contracts.{name}.requires.{needed}"
        yield Fault(f"releases/{release.name}.yaml", where, problem, "remove one of these requirements")
