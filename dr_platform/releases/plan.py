"""In which order a release is deployed, which services go back together, and when none may.

Here: pure decisions over releases and over what runs. Not here: carrying out a step (``rollout``,
``databases``), or judging whether one is wanted. Each service of a plan is deployed or rolled back
on its own: with its own capacity, traffic and verification, never in one transaction.

Schema steps surround the services: ``expand`` before the first, then ``data``, then ``contract`` after
the last. What a contract step took away, the version before cannot do without, so that afterwards
nothing that uses this database goes back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

from dr_platform.catalog import Catalog
from dr_platform.catalog.contracts import admits, unmet
from dr_platform.catalog.models import Contract
from dr_platform.databases.port import AppliedStep, EditedMigration, OutOfOrderMigration, Phase
from dr_platform.databases.schema import version_key
from dr_platform.errors import ExitCode, PlatformError, TemporaryFailure
from dr_platform.releases.bundle import Member, ReleaseBundle, Step, excluding
from dr_platform.runtime.port import Revision

_PHASES = (Phase.EXPAND, Phase.DATA, Phase.CONTRACT)


@dataclass(frozen=True)
class Running:
    """What an environment runs, which may be half of a release. ``applied`` holds the schema history
    by database, and ``None`` where it could not be read; a database that is left out has none."""

    services: Mapping[str, Member] = field(default_factory=dict)
    applied: Mapping[str, tuple[Step, ...] | None] = field(default_factory=dict)

    @classmethod
    def wholly(cls, bundle: ReleaseBundle) -> Running:
        """Where a release was deployed to its end."""
        return cls(bundle.services, bundle.databases)

    @property
    def contracts(self) -> dict[str, Contract]:
        return {name: member.contract for name, member in self.services.items()}


def known_steps(applied: Iterable[AppliedStep], database: str, *releases: ReleaseBundle) -> tuple[Step, ...]:
    """A schema history with the phases that releases state. A step that none of them has counts as
    ``contract``: it must not let something go back that may have lost its columns."""
    phases = {(s.version, s.checksum): s.phase for r in releases for s in r.databases.get(database, ())}
    return tuple(
        Step(version=s.version, checksum=s.checksum, phase=phases.get((s.version, s.checksum), Phase.CONTRACT))
        for s in applied
    )


# What a plan consists of


@dataclass(frozen=True)
class ApplySchema:
    """Steps of one phase on one database, in order."""

    database: str
    phase: Phase
    versions: tuple[str, ...]


@dataclass(frozen=True)
class DeployService:
    """Bring a service to a revision. ``strands`` are running services that cannot work with it until
    their own turn comes: with any in it, the step belongs into a maintenance window."""

    service: str
    revision: Revision
    strands: tuple[str, ...] = ()


@dataclass(frozen=True)
class RetireService:
    """Scale a service to nothing: the release that is deployed does not have it."""

    service: str


PlanStep = ApplySchema | DeployService | RetireService


# Errors


class UnplannableRelease(PlatformError):
    """The release contradicts itself or the catalog."""

    exit_code = ExitCode.REFUSED

    def __init__(self, why: str, next_step: str) -> None:
        super().__init__(why, next_step)
        self.what = why
        self.untouched = "every service and database; nothing was planned"
        self.next_step = next_step


class UnreadableHistory(TemporaryFailure):
    def __init__(self, databases: tuple[str, ...]) -> None:
        super().__init__(databases)
        self.what = f"which schema steps ran could not be read: {', '.join(databases)}"
        self.untouched = "every service and database; nothing was planned"
        self.next_step = "see `drp doctor`, and plan again when the databases answer"


class Remedy(StrEnum):
    """What remains where nothing can go back."""

    LOOK_AGAIN = "look again when the databases answer"
    ROLL_FORWARD = "roll forward: release a version that mends it and runs on the new schema"
    MAINTENANCE = "maintenance mode: close the routes of these services until that version is there"


@dataclass(frozen=True)
class RollbackRefusal:
    """Why a rollback may not begin. ``contracted`` are databases with the contract steps that ran,
    ``unread`` those that could not be asked, ``unmended`` pairs of services that would not fit
    together afterwards either."""

    service: str
    members: tuple[str, ...]
    contracted: tuple[tuple[str, str], ...] = ()
    unread: tuple[str, ...] = ()
    unmended: tuple[tuple[str, str], ...] = ()

    @property
    def remains(self) -> tuple[Remedy, ...]:
        only_blind = self.unread and not self.contracted and not self.unmended
        return ((Remedy.LOOK_AGAIN,) if only_blind else ()) + (Remedy.ROLL_FORWARD, Remedy.MAINTENANCE)

    @property
    def why(self) -> str:
        reasons = [f"{database} has run the contract step {version}" for database, version in self.contracted]
        reasons += [f"the schema history of {database} could not be read" for database in self.unread]
        reasons += [f"{service} would still not work with {needed}" for service, needed in self.unmended]
        return "; ".join(reasons)


class RollbackRefused(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, refusal: RollbackRefusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal
        self.what = f"{refusal.service} cannot go back: {refusal.why}"
        self.untouched = f"the revisions and routes of {', '.join(refusal.members)}"
        self.next_step = "; or ".join(refusal.remains)


@dataclass(frozen=True)
class RollbackPlan:
    """What goes back, in this order. Schema steps stay: the version before runs on the wider schema."""

    service: str
    steps: tuple[DeployService | RetireService, ...]

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(step.service for step in self.steps)


# Forward


def deployment_order(bundle: ReleaseBundle, running: Running, catalog: Catalog) -> tuple[PlanStep, ...]:
    """The steps from what runs to a release: only what differs, providers before those that need them.

    Repeated after a stop half-way it gives the rest. Raises ``UnplannableRelease`` where there is no
    order, ``EditedMigration`` and ``OutOfOrderMigration`` as applying the steps would, ``RollbackRefused``
    where the release is older than a contract step that ran, and ``UnreadableHistory``.
    """
    if unread := tuple(sorted(name for name, steps in running.applied.items() if steps is None)):
        raise UnreadableHistory(unread)
    _require_known(bundle, catalog)
    _require_not_contracted(bundle, running, catalog)
    new = {name: _missing(name, steps, running.applied.get(name) or ()) for name, steps in bundle.databases.items()}
    schema = [step for name in sorted(new) for step in _by_phase(name, new[name])]
    before = [step for step in schema if step.phase is Phase.EXPAND]
    after = [step for phase in _PHASES[1:] for step in schema if step.phase is phase]
    return (*before, *_deployments(bundle, running, catalog), *_retirements(bundle, running, catalog), *after)


def _require_known(bundle: ReleaseBundle, catalog: Catalog) -> None:
    if missing := sorted(bundle.services.keys() - catalog.services.keys()):
        why = f"release {bundle.name} has services that the catalog does not have: {', '.join(missing)}"
        raise UnplannableRelease(why, "use the catalog of that release, or create a new release")


def _require_not_contracted(bundle: ReleaseBundle, running: Running, catalog: Catalog) -> None:
    changing = {name for name, member in bundle.services.items() if _differs(running.services.get(name), member)}
    contracted = _contracted(running, bundle, _databases_of(changing, catalog))
    if contracted:
        raise RollbackRefused(RollbackRefusal(bundle.name, tuple(sorted(changing)), contracted))


def _differs(one: Member | None, other: Member) -> bool:
    return one is None or one.revision != other.revision


def _missing(database: str, wanted: Sequence[Step], applied: Sequence[Step]) -> tuple[Step, ...]:
    """Steps that did not run, in order. The same rules as at applying, before anything is touched."""
    done = {version_key(step.version): step.checksum for step in applied}
    newest = max(done, default=None)
    missing = []
    for step in wanted:
        key = version_key(step.version)
        if key in done:
            if done[key] != step.checksum:
                raise EditedMigration(database, step.version)
        elif newest is not None and key < newest:
            raise OutOfOrderMigration(database, step.version, ".".join(map(str, newest)))
        else:
            missing.append(step)
    return tuple(missing)


def _by_phase(database: str, steps: Sequence[Step]) -> Iterator[ApplySchema]:
    """A database applies its steps by version, so their phases must come in order too."""
    for one, two in pairwise(steps):
        if _PHASES.index(two.phase) < _PHASES.index(one.phase):
            why = f"{database}: {two.phase} step {two.version} comes after {one.phase} step {one.version}"
            raise UnplannableRelease(why, f"leave {one.version} to a later release, under a higher version")
    for phase in _PHASES:
        if versions := tuple(step.version for step in steps if step.phase is phase):
            yield ApplySchema(database, phase, versions)


def _deployments(bundle: ReleaseBundle, running: Running, catalog: Catalog) -> Iterator[DeployService]:
    needs = {name: catalog.services[name].needs.services for name in bundle.services}
    now = dict(running.services)
    for name in in_dependency_order(bundle.services, bundle.contracts, needs):
        member = bundle.services[name]
        if _differs(now.get(name), member):
            yield DeployService(name, member.revision, excluding(now, name, member) if name in now else ())
        now[name] = member


def _retirements(bundle: ReleaseBundle, running: Running, catalog: Catalog) -> Iterator[RetireService]:
    gone = running.services.keys() - bundle.services.keys()
    needs = {name: service.needs.services for name, service in catalog.services.items()}
    for name in reversed(in_dependency_order(gone, running.contracts, needs)):
        yield RetireService(name)


def in_dependency_order(
    names: Collection[str], contracts: Mapping[str, Contract], needs: Mapping[str, Collection[str]]
) -> tuple[str, ...]:
    """Names with providers first, by what they need and what their contracts require, also where the
    way from one to another leads through services that are not among them. Equal input gives equal
    order. Raises ``UnplannableRelease`` for a cycle."""
    everyone = {*names, *contracts, *needs}
    graph = {name: {*needs.get(name, ()), *_requires(contracts, name)} & everyone for name in sorted(everyone)}
    sorter = TopologicalSorter(graph)
    try:
        sorter.prepare()
    except CycleError as exc:
        why = f"these services need each other in a circle: {' -> '.join(reversed(exc.args[1]))}"
        raise UnplannableRelease(why, "remove one of the needs or requirements, and create a new release") from None
    ordered: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        ordered += [name for name in ready if name in names]
        sorter.done(*ready)
    return tuple(ordered)


def _requires(contracts: Mapping[str, Contract], name: str) -> Collection[str]:
    return contracts[name].requires if name in contracts else ()


@dataclass(frozen=True)
class Wave:
    """Services that have nothing to do with each other, to be deployed side by side."""

    services: tuple[DeployService, ...]


def in_waves(
    plan: Sequence[PlanStep], bundle: ReleaseBundle, before: Mapping[str, Member], catalog: Catalog
) -> tuple[ApplySchema | Wave | RetireService, ...]:
    """The same steps, services gathered in waves: each after everything that it needs or whose contract
    it requires, by the release or by what ran before it, also where the way leads through services
    that stay as they are.

    ``before`` is what ran when the release began, not what runs now: planned again after a stop, what
    is left falls into the same waves. One that cannot work with another's new version until its own
    turn comes is never in the same wave with it.
    """
    wave_of = _waves(plan, bundle, before, catalog)
    deployed = [step for step in plan if isinstance(step, DeployService)]
    waves = {number: Wave(tuple(s for s in deployed if wave_of[s.service] == number)) for number in wave_of.values()}
    numbers = sorted({wave_of[step.service] for step in deployed})
    found: list[ApplySchema | Wave | RetireService] = []
    for step in plan:
        if not isinstance(step, DeployService):
            found.append(step)
        elif numbers:
            found += [waves[number] for number in numbers]
            numbers = []
    return tuple(found)


def _waves(
    plan: Sequence[PlanStep], bundle: ReleaseBundle, before: Mapping[str, Member], catalog: Catalog
) -> dict[str, int]:
    needs = {name: known.needs.services for name, known in catalog.services.items()}
    then = {name: member.contract for name, member in before.items()}
    behind = _reached({n: {*needs.get(n, ()), *_requires(bundle.contracts, n), *_requires(then, n)} for n in needs})
    changing = {step.service for step in plan if isinstance(step, DeployService)}
    changing |= {name for name, member in bundle.services.items() if _differs(before.get(name), member)}
    waves: dict[str, int] = {}
    for name in in_dependency_order(changing, bundle.contracts, needs):
        related = [w for other, w in waves.items() if other in behind[name] or name in behind[other]]
        waves[name] = max(related, default=-1) + 1
    return waves


def _reached(graph: Mapping[str, Collection[str]]) -> dict[str, set[str]]:
    """All that each leads to; what runs and what shall run may together lead in a circle."""
    reached: dict[str, set[str]] = {}
    for name in graph:
        waiting, found = [name], set[str]()
        while waiting:
            new = set(graph.get(waiting.pop(), ())) - found
            found |= new
            waiting += new
        reached[name] = found
    return reached


# Back


def rollback_set(
    service: str,
    current: Mapping[str, Contract],
    previous: Mapping[str, Contract],
    needs: Mapping[str, Collection[str]],
) -> tuple[str, ...]:
    """The services that go back with one, itself included, dependents first.

    A running service goes back where it requires a contract that a service which goes back will no
    longer provide. A service also goes back where one that goes back required its earlier contract.
    No smaller set with ``service`` in it leaves every requirement met, and this one does if both
    releases fit together. ``needs`` orders services beyond what their contracts say.
    """
    going = {service}
    waiting = [service]
    while waiting:
        pulled = set(_pulled_along(waiting.pop(), current, previous)) - going
        going |= pulled
        waiting += sorted(pulled)
    # One that only the release before had is ordered by what it required there.
    return tuple(reversed(in_dependency_order(going, {**previous, **current}, needs)))


def _pulled_along(gone: str, current: Mapping[str, Contract], previous: Mapping[str, Contract]) -> Iterator[str]:
    restored = previous.get(gone)
    provided = restored.provides if restored else None
    for name, contract in current.items():
        if gone in contract.requires and not admits(contract.requires[gone], provided):
            yield name
    for needed, requirement in (restored.requires if restored else {}).items():
        kept = current.get(needed)
        if not admits(requirement, kept.provides if kept else None):
            yield needed


def plan_rollback(
    service: str, running: Running, previous: ReleaseBundle, catalog: Catalog
) -> RollbackPlan | RollbackRefusal:
    """How a service goes back to the release before, with what must go with it; or why it may not.

    A refusal is the answer as soon as a contract step ran that the release before does not have, on
    a database of any service that would go back: that service's old version may miss what it reads.
    Whether one ran where the history could not be read is unknown, which does not permit a rollback.
    Raises ``UnplannableRelease`` where the service is as in the release before.
    """
    _require_change(service, running, previous)
    members = rollback_set(service, running.contracts, previous.contracts, _needs(catalog))
    return _judged(service, members, running, previous, catalog)


def plan_withdrawal(
    services: Sequence[str], running: Running, previous: ReleaseBundle, catalog: Catalog
) -> RollbackPlan | RollbackRefusal:
    """The same for several at once, also where only half of a release was deployed: a service whose
    turn had not come takes back what it cannot work with. ``services``: at least one, the first names
    the plan; each differs from the release before. What nobody's contract needs stays."""
    current, before, needs = running.contracts, previous.contracts, _needs(catalog)
    going: set[str] = set()
    waiting = list(services)
    while waiting:
        for service in waiting:
            going.update(rollback_set(service, current, before, needs))
        stranded = unmet(_afterwards(going, current, before))
        waiting = sorted({needed for _, needed in stranded if needed in running.services} - going)
    members = tuple(reversed(in_dependency_order(going, {**before, **current}, needs)))
    return _judged(services[0], members, running, previous, catalog)


def _needs(catalog: Catalog) -> dict[str, Collection[str]]:
    return {name: known.needs.services for name, known in catalog.services.items()}


def _judged(
    service: str, members: tuple[str, ...], running: Running, previous: ReleaseBundle, catalog: Catalog
) -> RollbackPlan | RollbackRefusal:
    databases = _databases_of(members, catalog)
    contracted = _contracted(running, previous, databases)
    unread = tuple(name for name in databases if running.applied.get(name, ()) is None)
    unmended = tuple(unmet(_afterwards(members, running.contracts, previous.contracts)))
    if contracted or unread or unmended:
        return RollbackRefusal(service, members, contracted, unread, unmended)
    return RollbackPlan(service, tuple(_back(name, previous) for name in members))


def _require_change(service: str, running: Running, previous: ReleaseBundle) -> None:
    then = previous.services.get(service)
    now = running.services.get(service)
    if now is None or (then is not None and not _differs(now, then)):
        why = f"{service} does not run in another revision than in release {previous.name}"
        raise UnplannableRelease(why, "see what runs with `drp status`, and name an earlier release")


def _afterwards(
    members: Collection[str], current: Mapping[str, Contract], previous: Mapping[str, Contract]
) -> dict[str, Contract]:
    stay = {name: contract for name, contract in current.items() if name not in members}
    return stay | {name: previous[name] for name in members if name in previous}


def _databases_of(services: Iterable[str], catalog: Catalog) -> tuple[str, ...]:
    """Databases that any of them uses; all of them for a service that the catalog no longer has."""
    used: set[str] = set()
    for name in services:
        known = catalog.services.get(name)
        used.update(known.needs.databases if known else catalog.databases)
    return tuple(sorted(used))


def _contracted(running: Running, target: ReleaseBundle, databases: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Contract steps that ran and that the target was not made for."""
    return tuple(
        (name, step.version)
        for name in databases
        for step in running.applied.get(name) or ()
        if step.phase is Phase.CONTRACT and step not in target.databases.get(name, ())
    )


def _back(name: str, previous: ReleaseBundle) -> DeployService | RetireService:
    member = previous.services.get(name)
    return DeployService(name, member.revision) if member else RetireService(name)
