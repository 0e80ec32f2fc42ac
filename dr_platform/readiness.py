"""Whether a release is ready for an environment, asked of a platform.

Here: what a candidate is made of in this catalog, and where its facts are read. Not here: the gates
(``promotion``) or approvals (``approvals``), and nothing is deployed.

The records of a promotion (approvals, attestations, waivers, holds, freezes) lie in the operations
database of the platform that is asked, each with the environment it is about. What the environment
before has found comes as a signed file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta

from dr_platform.approvals import PROVEN, REHEARSAL, ApprovalDesk, PostgresApprovalStore
from dr_platform.catalog import Environment
from dr_platform.databases.schema import read_steps
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.identity import Proof
from dr_platform.objects import ObjectStore, local_objects, open_objects
from dr_platform.platform import Platform, UnknownEnvironment
from dr_platform.promotion import (
    Candidate,
    Facts,
    GateTable,
    Phase,
    PromotionEvidence,
    Recorder,
    Risk,
    Unread,
    gate,
    plan_digest,
    read_facts,
    release_digest,
)
from dr_platform.promotion.signed import SuiteResult, find, signing_key, store, trusted_key
from dr_platform.releases.bundle import ReleaseBundle, Step, digest_of
from dr_platform.releases.store import ReleaseStore
from dr_platform.releases.store import UnknownRelease as NotCreated


class UnknownRelease(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(name, known)
        self.what = f"{name}: no such release in the catalog"
        self.untouched = "every environment and everything that is recorded"
        self.next_step = f"choose one of {', '.join(known)}"


def accepted_proofs(platform: Platform) -> frozenset[Proof]:
    """Declared names count on the local runtime only, where data is synthetic."""
    return REHEARSAL if platform.binding.runtime == "local" else PROVEN


def target_of(platform: Platform, name: str | None) -> Environment:
    """The named environment, else the end of the promotion path."""
    known = platform.catalog.environments
    if name is None:
        return max(known.values(), key=lambda e: e.order)
    if name not in known:
        raise UnknownEnvironment(name, tuple(known))
    return known[name]


def source_of(platform: Platform, target: Environment) -> Environment | None:
    """The environment before on the promotion path."""
    before = [e for e in platform.catalog.environments.values() if e.order < target.order]
    return max(before, key=lambda e: e.order, default=None)


def candidate_of(platform: Platform, release: str | None, target: Environment) -> Candidate:
    """What a release is made of, and what it would change in ``target``: versions and images of all
    services, schema steps of all databases; configuration, replicas and strategies of the environment.

    The plan of a release that was created for ``target`` is of exactly that bundle, by its digest."""
    releases = platform.catalog.releases
    name = release or platform.catalog.release_of(target).name
    if (bundle := created(platform, name, target)) is not None:
        revisions = {service: member.revision for service, member in bundle.services.items()}
        steps, planned = bundle.databases, bundle.digest
    elif name in releases:
        there = _there(platform, target, name)
        revisions = {service: there.workload(service).revision for service in platform.catalog.services}
        steps, planned = _catalog_steps(platform), ""
    else:
        raise UnknownRelease(name, tuple(releases))
    images = {service: f"{revision.version} {revision.digest}" for service, revision in revisions.items()}
    schemas = {database: digest_of([s.model_dump(mode="json") for s in found]) for database, found in steps.items()}
    digest = release_digest(name, images, schemas)
    decided = {service: _decided(platform, target, service, r.config_hash) for service, r in revisions.items()}
    return Candidate(name, digest, target.name, plan_digest(planned or digest, target.name, decided))


def created(platform: Platform, name: str, target: Environment) -> ReleaseBundle | None:
    """The release as it was created for ``target`` on this platform, if it was. Raises ``DamagedRelease``."""
    if not platform.state.objects.is_dir():
        return None
    with suppress(NotCreated):
        bundle = ReleaseStore(local_objects(platform.state.objects)).get(name)
        return bundle if bundle.environment == target.name else None
    return None


def _catalog_steps(platform: Platform) -> dict[str, tuple[Step, ...]]:
    catalog = platform.catalog
    folders = {database: catalog.database_folder(database) / "migrations" for database in catalog.databases}
    return {database: tuple(map(Step.of, read_steps(folder))) for database, folder in folders.items()}


def _there(platform: Platform, target: Environment, release: str) -> Platform:
    chosen = target.model_copy(update={"release": release})
    return Platform(platform.catalog, chosen, platform.state, clock=platform.clock)


def _decided(platform: Platform, target: Environment, name: str, config_hash: str) -> str:
    override = target.services.get(name)
    strategy = (override.strategy if override else None) or target.strategies[0]
    service = platform.catalog.services.get(name)
    replicas = Platform(platform.catalog, target, platform.state).replicas_of(service) if service else 0
    return f"{config_hash} {replicas} {strategy}"


def recorder(platform: Platform) -> Recorder:
    return Recorder(platform.evidence, platform.clock)


def approval_desk(platform: Platform) -> ApprovalDesk:
    return ApprovalDesk(PostgresApprovalStore(platform.operations), platform.evidence, platform.clock)


def valid_for(target: Environment) -> timedelta:
    """How long an approval counts in an environment."""
    return timedelta(seconds=target.approvals.valid_for)


def crossing_store(platform: Platform) -> ObjectStore:
    """Where signed evidence is handed on: ``DRP_PROMOTION_STORE``, such as ``s3://bucket/prefix``, else
    a folder beside the states of this machine's environments."""
    if configured := os.environ.get("DRP_PROMOTION_STORE"):
        return open_objects(configured)
    return local_objects(platform.state.root.parent / "promotion")


def readiness(
    platform: Platform,
    release: str | None,
    target: Environment,
    *,
    phase: Phase = Phase.BEFORE,
    risk: Risk = Risk.ORDINARY,
) -> GateTable:
    """The whole gate. Records that cannot be read leave their rows unknown, and so shut."""
    candidate = candidate_of(platform, release, target)
    source = source_of(platform, target)
    try:
        facts: Facts | Unread = _facts(platform, candidate, source)
    except PlatformError as exc:
        facts = Unread(exc.what)
    now, proofs = platform.clock.now(), accepted_proofs(platform)
    return gate(candidate, target, source, facts, now, proofs=proofs, phase=phase, risk=risk)


def _facts(platform: Platform, candidate: Candidate, source: Environment | None) -> Facts:
    cases = approval_desk(platform).store.cases(environment=candidate.environment, release=candidate.release)
    found, refused = (None, ()) if source is None else _from_source(platform, candidate, source.name)
    return read_facts(platform.evidence, candidate, cases=cases, source=found, refused=refused)


def _from_source(
    platform: Platform, candidate: Candidate, source: str
) -> tuple[PromotionEvidence | None, tuple[str, ...]]:
    where: Mapping[str, str] = {
        "environment": source, "release": candidate.release, "digest": candidate.digest,
    }  # fmt: skip
    public = trusted_key(platform.secrets, source)
    if public is None:
        return None, (f"no key of {source} is accepted yet, see `drp promotion trust {source} KEY`",)
    return find(crossing_store(platform), public, **where)


def export_evidence(platform: Platform, release: str | None) -> tuple[str, PromotionEvidence]:
    """Sign what this environment has recorded about a release and hand it on; returns its key."""
    candidate = candidate_of(platform, release, platform.environment)
    facts = read_facts(platform.evidence, candidate)
    if facts.broken is not None or facts.unreadable:
        raise BrokenEvidence(platform.environment.name)
    head = platform.evidence.head()
    exactly = (candidate.environment, candidate.release, candidate.digest)
    verified = [v.at for v in facts.verified if (v.environment, v.release, v.digest) == exactly]
    runs = [run for run in facts.suites if (run.environment, run.release, run.digest) == exactly]
    newest = {run.suite: run for run in sorted(runs, key=lambda run: run.at)}
    suites = tuple(SuiteResult(r.suite, r.passed, r.checks, r.failed, r.at) for _, r in sorted(newest.items()))
    evidence = PromotionEvidence(
        *exactly, platform.clock.now(), max(verified, default=None), suites, head.sequence, head.hash
    )
    return store(crossing_store(platform), evidence, signing_key(platform.secrets)["private"]), evidence


class BrokenEvidence(PlatformError):
    """Nothing is signed that rests on a log which is not whole."""

    def __init__(self, environment: str) -> None:
        super().__init__(environment)
        self.what = f"the evidence log of {environment} is broken or holds entries that cannot be read"
        self.untouched = "the evidence that was handed on before"
        self.next_step = f"find the entry with `drp --env {environment} production-ready --to {environment}`"
